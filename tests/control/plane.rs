//! One `mesh-control` of a test: on an address of its own, over directories of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::http::{Request, fetch};
use serde_json::Value;
use tempfile::TempDir;

/// A control plane; it ends with the value.
pub(crate) struct Plane {
    child: Option<Child>,
    address: Ipv4Addr,
    args: Vec<String>,
    directory: TempDir,
}

impl Plane {
    /// Starts one over `files` (name and content) and waits until it is ready. `args` come after the usual ones.
    pub(crate) fn start(files: &[(&str, &str)], args: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("config"))?;
        let args = args.iter().map(ToString::to_string).collect();
        let mut plane = Self { child: None, address: own_address(), args, directory };
        for (name, text) in files {
            plane.write(name, text)?;
        }
        plane.revive()?;
        Ok(plane)
    }

    /// Starts it after [`Self::kill`], over what it has left, and waits until it is ready.
    pub(crate) fn revive(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = Command::new(program()?);
        command.arg("--config").arg(self.directory.path().join("config"));
        command.arg("--state").arg(self.state());
        for (option, port) in [("--grpc", TLS), ("--plain", PLAIN), ("--monitoring", MONITORING)] {
            command.args([option, &self.at(port).to_string()]);
        }
        command.args(["--serve-as", &self.address.to_string()]).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().context("mesh-control")?);
        let ready = || self.get("/healthz/ready").is_ok();
        wait(Duration::from_secs(10), ready).with_context(|| format!("it is not ready:\n{}", self.log()))
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Writes a file of the configuration, in one piece.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let place = self.directory.path().join("config");
        let fresh = self.directory.path().join("fresh");
        fs::write(&fresh, text)?;
        fs::rename(fresh, place.join(name)).context("writing the configuration")
    }

    /// Removes a file of the configuration.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.directory.path().join("config").join(name)).context("the configuration")
    }

    /// Where it serves.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// What it has to say at a path of its monitoring port.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let response = fetch(self.at(MONITORING), &Request::get(path), Duration::from_secs(5))?;
        ensure!(response.status == 200, "{path}: {} {}", response.status, response.text());
        Ok(response.text())
    }

    /// `/debug/subscribers`.
    pub(crate) fn subscribers(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get("/debug/subscribers")?)?)
    }

    /// The value of a metric, all of its labels together.
    pub(crate) fn metric(&self, name: &str) -> Result<u64> {
        let text = self.get("/metrics")?;
        let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.split_once(' '));
        let samples = samples.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
        let values: Vec<u64> = samples.map(|(_, value)| value.parse()).collect::<Result<_, _>>()?;
        ensure!(!values.is_empty(), "no {name} in:\n{text}");
        Ok(values.iter().sum())
    }

    /// Bytes of memory that it has now, and has had at most.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let pid = self.child.as_ref().context("it does not run")?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
            let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
            Ok(kilobytes * 1024)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// Everything it has written.
    pub(crate) fn log(&self) -> String {
        fs::read(self.log_file()).map(|text| plain(&text)).unwrap_or_default()
    }

    /// The lines of its audit log.
    pub(crate) fn audit(&self) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(" audit: ")).map(str::to_owned).collect()
    }

    /// Runs `mesh-control` for something else than to serve, over the same state.
    pub(crate) fn command(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(program()?);
        Ok(command.args(words).arg("--state").arg(self.state()).output()?)
    }

    /// A join token for a node; `terms` are options of `join create`.
    pub(crate) fn token(&self, node: &str, terms: &[&str]) -> Result<String> {
        let output = self.command(&[&["join", "create", "--node", node], terms].concat())?;
        ensure!(output.status.success(), "join create: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The roots that it serves under, in PEM.
    pub(crate) fn roots(&self) -> Result<Vec<u8>> {
        fs::read(self.state().join("ca/root-cert.pem")).context("the roots")
    }

    /// Where it keeps its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A directory for whatever else the test needs.
    pub(crate) fn scratch(&self) -> &Path {
        self.directory.path()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.kill();
    }
}

/// Waits until something holds.
pub(crate) fn wait(patience: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + patience;
    while !holds() {
        if Instant::now() > end {
            bail!("not within {patience:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// [`wait`] for tests that have connections to look after meanwhile.
pub(crate) async fn until(patience: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + patience;
    while !holds() {
        if Instant::now() > end {
            bail!("not within {patience:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Without the escape sequences that colour it.
fn plain(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut rest = text.split('\u{1b}');
    let mut out = rest.next().unwrap_or_default().to_owned();
    for part in rest {
        out.push_str(part.split_once('m').map_or("", |(_, text)| text));
    }
    out
}

/// The program beside those of the test bed.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|place| place.join("mesh-control"));
    let mut found = found.filter(|path| path.is_file());
    found.next().context("there is no mesh-control beside the tests: `cargo build -p mesh-control` makes it")
}

/// All of 127/8 is this machine, so every control plane can have the usual ports.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    let [.., number] = number.to_be_bytes();
    Ipv4Addr::new(127, 100 + number % 100, high, low.clamp(1, 254))
}

/// Discovery and certificates over TLS.
pub(crate) const TLS: u16 = 15012;
/// Discovery without protection.
pub(crate) const PLAIN: u16 = 15010;
/// Metrics, and what subscribers know.
pub(crate) const MONITORING: u16 = 15014;
