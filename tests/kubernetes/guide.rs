//! `deploy/README.md`: its commands are run, but for those that it marks as taking a cluster with nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::Cluster;
use crate::manifests::program;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Lines of its blocks of commands.
fn commands() -> Vec<String> {
    let text = fs::read_to_string(top().join("deploy/README.md")).expect("the guide");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next().map(str::to_owned));
    blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn commands_of_the_guide_work() {
    let cluster = Cluster::alive();
    let mut count = 0;
    for line in commands().iter().filter(|line| !line.contains("#!")) {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.split_first().expect("a command") {
            (&"meshctl", rest) => {
                let mut command = Command::new(program("meshctl"));
                command.args(rest).env("KUBECONFIG", &cluster.kubeconfig).stdin(Stdio::null());
                let output = command.output().expect("it starts");
                assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
                count += 1;
            }
            // What is applied is looked at where it is, by the same eyes as those of the webhook.
            (&"kubectl", ["apply", "-f", file]) => {
                let mut command = Command::new(program("meshctl"));
                let output = command.arg("analyze").arg(top().join(file)).output().expect("it starts");
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(!text.contains(" error "), "{line}: {text}");
                count += 1;
            }
            _ => panic!("{line}: it is neither run nor marked"),
        }
    }
    assert_eq!(count, 7);
}

/// Flags of commands that cannot be run here are known at least, and files that they name are there.
#[test]
fn marked_commands_name_what_there_is() {
    for line in commands().iter().filter(|line| line.contains("#!")) {
        let words: Vec<_> = line.split("#!").next().expect("a command").split_whitespace().collect();
        for word in words.iter().filter(|word| word.starts_with("deploy/")) {
            assert!(top().join(word).exists(), "{line}");
        }
        if let ["meshctl", rest @ ..] = &words[..] {
            let flags = rest.iter().take_while(|word| **word != "|").filter(|word| word.starts_with("--"));
            let names: Vec<_> = rest.iter().take_while(|word| !word.starts_with('-')).collect();
            let help =
                Command::new(program("meshctl")).args(names).arg("--help").output().expect("it starts");
            let help = String::from_utf8_lossy(&help.stdout).into_owned();
            flags.for_each(|flag| assert!(help.contains(flag), "{line}: {flag}"));
        }
    }
}
