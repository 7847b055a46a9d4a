//! `meshctl`, as a user of a cluster runs it.

use std::fs;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::api::Cluster;
use crate::control::program_at;

/// `meshctl` with the kubeconfig of somebody.
pub(crate) struct Meshctl {
    directory: TempDir,
}

impl Meshctl {
    /// Of the administrator of a cluster, or of whoever owns a token.
    pub(crate) fn of(cluster: &Cluster, token: Option<&str>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("kubeconfig"), cluster.kubeconfig(token).to_string())
            .expect("written");
        Self { directory }
    }

    /// A command that is yet to start.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program_at("meshctl"));
        command.args(words).arg("--kubeconfig").arg(self.directory.path().join("kubeconfig"));
        command.stdin(Stdio::null());
        command
    }

    /// What comes of a command.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("meshctl starts")
    }

    /// What a command prints that must succeed.
    pub(crate) fn prints(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// What a command says that must fail.
    pub(crate) fn fails(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}
