//! The image in a runtime of nodes: containerd takes it in, by the name that manifests have, and runs what is in it.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::image;
use tempfile::TempDir;

/// A containerd of the test's own, of which nothing is left when it ends.
struct Containerd {
    directory: TempDir,
    process: Child,
}

impl Containerd {
    fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = directory.path().display();
        // Pods are nobody's business here, and the plugin for them wants a network.
        let config = format!(
            "version = 2\nroot = '{at}/root'\nstate = '{at}/state'\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n\
             [grpc]\naddress = '{at}/socket'\n"
        );
        let file = directory.path().join("config.toml");
        fs::write(&file, config)?;
        let log = File::create(directory.path().join("log"))?;
        let process = Command::new("containerd")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("containerd does not start: `cargo xtask setup` installs it")?;
        let started = Self { directory, process };
        let until = Instant::now() + PATIENCE;
        while started.ctr(&["version"]).is_err() {
            ensure!(Instant::now() < until, "containerd does not answer: {}", started.log());
            thread::sleep(Duration::from_millis(100));
        }
        Ok(started)
    }

    /// What `ctr` prints.
    fn ctr(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.directory.path().join("socket"))
            .args(["--namespace", "k8s.io"])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context("ctr does not start")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ctr {}: {said}\n{}", words.join(" "), self.log());
        Ok(String::from_utf8(output.stdout)?)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        // Asked to, it lets go of what it has mounted.
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.process.wait();
    }
}

#[test]
fn containerd_takes_the_image_and_runs_its_programs() -> Result<()> {
    let containerd = Containerd::start()?;
    let directory = containerd.directory.path().join("image");
    image::build(&directory)?;
    let image = directory.join("mesh.tar").display().to_string();
    containerd.ctr(&["images", "import", "--snapshotter", SNAPSHOTTER, &image])?;
    let name = concat!("docker.io/library/mesh:", env!("CARGO_PKG_VERSION"));
    let known = containerd.ctr(&["images", "list", "--quiet"])?;
    ensure!(known.lines().any(|it| it == name), "{known}");
    for (program, word) in [("mesh-node", "--version"), ("mesh-control", "--version"), ("meshctl", "version")]
    {
        let said =
            containerd.ctr(&["run", "--rm", "--snapshotter", SNAPSHOTTER, name, program, program, word])?;
        ensure!(said.contains(env!("CARGO_PKG_VERSION")), "{program}: {said}");
    }
    Ok(())
}

/// Not everywhere can overlays be mounted.
const SNAPSHOTTER: &str = "native";

/// For its start.
const PATIENCE: Duration = Duration::from_secs(30);
