//! One `mesh-node gateway` of a test: on an address of its own, over a directory of its own.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{Request, fetch};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// A gateway, `istio-system/istio-ingressgateway`; it ends with the value.
pub struct Gateway {
    child: Child,
    address: Ipv4Addr,
    admin: u16,
    directory: TempDir,
}

/// Where a gateway has its configuration from.
pub enum Source {
    /// Files by name and content. In them `{dir}` is a directory for whatever else the test needs, see [`Gateway::put`].
    Directory(Vec<(String, String)>),
    /// The same, with an authority of its own.
    Certified(Vec<(String, String)>),
    /// A control plane, its roots, and a token to join with.
    Control {
        /// Where it is.
        url: String,
        /// PEM.
        roots: String,
        /// Which it proves itself by.
        token: String,
    },
}

impl Source {
    /// Puts what it needs into `place`, and returns the options that say so.
    fn prepare(&self, place: &Path) -> Result<Vec<String>> {
        let at = |name: &str| place.join(name).display().to_string();
        match self {
            Self::Directory(files) | Self::Certified(files) => {
                // A directory without anything is one that is not filled yet.
                let any = "apiVersion: v1\nkind: Namespace\nmetadata: { name: istio-system }\n";
                fs::write(at("config/namespace.yaml"), any)?;
                for (name, text) in files {
                    fs::write(place.join("config").join(name), text.replace("{dir}", &at("files")))?;
                }
                let mut options = vec!["--config".to_owned(), at("config")];
                if matches!(self, Self::Certified(_)) {
                    options.extend(["--state".to_owned(), at("state")]);
                }
                Ok(options)
            }
            Self::Control { url, roots, token } => {
                fs::write(at("roots.pem"), roots)?;
                fs::write(at("token"), token)?;
                let options = [
                    ("--control", url.clone()),
                    ("--control-ca", at("roots.pem")),
                    ("--token", at("token")),
                    ("--state", at("state")),
                    ("--svid-cache", at("cache")),
                ];
                Ok(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect())
            }
        }
    }
}

/// How a call of curl ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status; 0 without an answer.
    pub status: u16,
    /// curl's own verdict: 35 is a handshake that failed, 56 a connection that broke, 60 a certificate that is wrong.
    pub exit: i32,
    /// `2` or `1.1`.
    pub version: String,
}

impl Gateway {
    /// Starts one over `files` (name and content) and waits until it is ready. In them `{dir}` is a directory for
    /// whatever else the test needs, see [`Self::put`].
    pub fn start(files: &[(&str, &str)]) -> Result<Self> {
        Self::start_as(files, &[])
    }

    /// As [`Self::start`], with an authority of its own, and so an identity in the mesh.
    pub fn certified(files: &[(&str, &str)]) -> Result<Self> {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Self::begin(&Source::Certified(files), &[])?.until_ready()
    }

    /// What it keeps over a restart.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// As [`Self::start`], by way of another program: `setpriv` and its options.
    pub fn start_as(files: &[(&str, &str)], by: &[&str]) -> Result<Self> {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Self::begin(&Source::Directory(files), by)?.until_ready()
    }

    /// One under a control plane, which waits until it is ready.
    pub fn under(source: &Source) -> Result<Self> {
        Self::begin_under(source)?.until_ready()
    }

    /// The same, by way of another program, as [`Self::start_as`].
    pub fn under_by(source: &Source, by: &[&str]) -> Result<Self> {
        Self::begin_by(source, by)?.until_ready()
    }

    /// One under a control plane.
    pub fn begin_under(source: &Source) -> Result<Self> {
        Self::begin_by(source, &[])
    }

    /// The same, by way of another program.
    pub fn begin_by(source: &Source, by: &[&str]) -> Result<Self> {
        Self::begin(source, by)
    }

    fn begin(source: &Source, by: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        for place in ["config", "files", "state"] {
            fs::create_dir(directory.path().join(place))?;
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let address = own_address();
        let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut program = beside("mesh-node")?;
        if !by.is_empty() {
            // Where the tests are built may be nobody else's business.
            let copy = directory.path().join("mesh-node");
            fs::copy(program, &copy)?;
            program = copy;
        }
        let words = by.iter().map(ToString::to_string).chain([program.display().to_string()]);
        let words: Vec<_> = words.collect();
        let (first, rest) = words.split_first().context("a program")?;
        let log = File::create(directory.path().join("log"))?;
        let mut command = Command::new(first);
        command.args(rest).args(["gateway", "--name", "istio-system/istio-ingressgateway"]);
        command.args(["--bind", &address.to_string(), "--admin-port", &admin.to_string()]);
        command.args(source.prepare(directory.path())?);
        let access = File::create(directory.path().join("access"))?;
        command.stdin(Stdio::null()).stdout(access).stderr(log);
        Ok(Self { child: spawn(&mut command)?, address, admin, directory })
    }

    fn until_ready(self) -> Result<Self> {
        wait(Duration::from_secs(10), || self.is_ready())
            .with_context(|| format!("it is not ready:\n{}", self.log()))?;
        Ok(self)
    }

    /// Files that it keeps over a restart.
    pub fn state_files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut places = vec![self.directory.path().join("state")];
        while let Some(place) = places.pop() {
            for entry in fs::read_dir(place)? {
                let path = entry?.path();
                if path.is_dir() { places.push(path) } else { found.push(path) }
            }
        }
        ensure!(!found.is_empty(), "it keeps nothing");
        Ok(found)
    }

    /// Writes a file of the configuration, in one piece.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let text = text.replace("{dir}", &self.directory.path().join("files").display().to_string());
        self.replace(&self.directory.path().join("config").join(name), &text)
    }

    /// Writes a file beside the configuration, in one piece.
    pub fn put(&self, name: &str, text: &str) -> Result<()> {
        self.replace(&self.file(name), text)
    }

    fn replace(&self, path: &Path, text: &str) -> Result<()> {
        let fresh = self.directory.path().join("fresh");
        fs::write(&fresh, text)?;
        fs::rename(fresh, path).with_context(|| format!("writing {}", path.display()))
    }

    /// A file beside the configuration.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("files").join(name)
    }

    /// Where it serves.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// Where it tells of itself, on this machine alone.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.admin))
    }

    /// Asks for `https://HOST:PORT/` with curl; `options` come on top.
    pub fn curl(&self, host: &str, port: u16, options: &[&str]) -> Result<Answer> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--output", "/dev/null", "--max-time", "10"]);
        command.args(["--write-out", "%{http_code} %{http_version}"]);
        command.args(["--resolve", &format!("{host}:{port}:{}", self.address)]).args(options);
        command.arg(format!("https://{host}:{port}/"));
        let output = command.output().context("curl")?;
        let text = String::from_utf8(output.stdout)?;
        let (status, version) = text.split_once(' ').with_context(|| format!("curl wrote {text:?}"))?;
        let exit = output.status.code().context("curl was killed")?;
        Ok(Answer { status: status.parse()?, exit, version: version.to_owned() })
    }

    /// What it says of itself.
    pub fn dump(&self) -> Result<Value> {
        let admin = SocketAddr::from(([127, 0, 0, 1], self.admin));
        let response = fetch(admin, &Request::get("/config_dump"), Duration::from_secs(5))?;
        ensure!(response.status == 200, "/config_dump: {}", response.status);
        Ok(serde_json::from_str(&response.text())?)
    }

    /// The value of a metric with its labels.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let response = fetch(self.at(15020), &Request::get("/metrics"), Duration::from_secs(5))?;
        let text = response.text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {name} in:\n{text}"))?.parse()?)
    }

    /// The sum of a metric over the label sets that have all of these, as they are written.
    pub fn sum(&self, name: &str, labels: &[&str]) -> Result<u64> {
        let response = fetch(self.at(15020), &Request::get("/metrics"), Duration::from_secs(5))?;
        let text = response.text();
        let of = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        let values = of
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(values.sum())
    }

    /// Its number among the processes of the machine.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// What it has written to its standard output: the access log, where one is asked for.
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.directory.path().join("access")).unwrap_or_default()
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        let pid = self.child.id().to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status()?.success(), "it is not there");
        let mut status = None;
        wait(patience, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })?;
        status.context("it runs")
    }

    /// Whether it says that it is ready.
    pub fn is_ready(&self) -> bool {
        let answer = fetch(self.at(15021), &Request::get("/healthz/ready"), Duration::from_secs(5));
        answer.is_ok_and(|answer| answer.status == 200)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Waits until something holds.
pub fn wait(patience: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + patience;
    while !holds() {
        if Instant::now() > end {
            bail!("not within {patience:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A program beside the tests.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|place| place.join(name));
    let mut found = found.filter(|path| path.is_file());
    found
        .next()
        .with_context(|| format!("there is no {name} beside the tests: `cargo build -p {name}` makes it"))
}

fn spawn(command: &mut Command) -> Result<Child> {
    let mut child = command.spawn();
    // A file that was just written is busy as long as a process has it open that another test is about to start.
    while child.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ExecutableFileBusy) {
        thread::sleep(Duration::from_millis(10));
        child = command.spawn();
    }
    child.context("mesh-node")
}

/// All of 127/8 is this machine, so every gateway can have the usual ports.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    let [.., number] = number.to_be_bytes();
    Ipv4Addr::new(127, 200 + number % 50, high, low.clamp(1, 254))
}

/// A Gateway that selects the one under test, with these servers.
pub fn manifest(servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: edge, namespace: shop }}\n\
         spec:\n  selector: {{ istio: ingressgateway }}\n  servers:\n{servers}"
    )
}

/// A server for HTTPS.
pub fn https(name: &str, host: &str, tls: &str) -> String {
    let port = format!("{{ number: 443, name: {name}, protocol: HTTPS }}");
    format!("  - {{ port: {port}, hosts: ['{host}'], tls: {{ {tls} }} }}\n")
        .replace("443", &HTTPS.to_string())
}

/// A server for HTTP.
pub fn http(port: u16) -> String {
    format!("  - {{ port: {{ number: {port}, name: http-{port}, protocol: HTTP }}, hosts: ['*'] }}\n")
}

/// Where HTTPS is served: a port that everybody may have.
pub const HTTPS: u16 = 8443;
