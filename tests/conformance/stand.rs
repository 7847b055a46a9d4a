//! The gateway under test and what is around it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_core::resource::{Level, SourceFile, parse};
use mesh_tests::http::{Request, fetch};
use mesh_tests::origin::Origin;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::client::{Stream, Tls};
use crate::row::{Row, slug};
use crate::tls::{self, Authority};

/// The gateway that serves the rows, and the origin behind it.
pub(crate) struct Stand {
    pub(crate) gateway: Gateway,
    pub(crate) origin: Origin,
    pub(crate) authority: Authority,
    /// Port of plain HTTP, where the Service says 80.
    pub(crate) http: u16,
    /// Port of TLS, where the Service says 443.
    pub(crate) https: u16,
    /// Port of plain HTTP that sends clients to TLS, where the Service says 8080.
    pub(crate) redirect: u16,
    /// Another port of plain HTTP, which no Service knows.
    pub(crate) bare: u16,
    /// The pods' port.
    pub(crate) pods: Pods,
    /// What is wrong with the configuration of a row.
    broken: BTreeMap<String, String>,
}

/// Stands in documents of rows for [`Stand::http`].
pub(crate) const HTTP_PORT: &str = "HTTP_PORT";

/// The pods behind the gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pods {
    network: [u8; 2],
    port: u16,
}

/// A process.
pub(crate) struct Gateway {
    child: Child,
    /// Where its YAML is.
    pub(crate) config: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
    metrics: u16,
    #[expect(dead_code, reason = "held for its Drop, which removes the files")]
    files: tempfile::TempDir,
}

impl Stand {
    /// Starts everything, and waits until it is ready.
    pub(crate) async fn start(rows: &[Row]) -> Result<Self> {
        let pods = Pods::new()?;
        let origin = Origin::serve(&pods.addresses()).context("the origin")?;
        let [http, https, redirect, bare] = free_ports()?;
        let authority = Authority::new()?;
        let mut yaml = vec![base(pods, [http, https, redirect, bare])];
        // Nobody believes in a certificate for all of a top-level domain.
        let hosts = rows
            .iter()
            .filter(|row| row.id.starts_with("gateway/"))
            .map(|row| format!("{}.test", slug(&row.id)));
        let hosts: Vec<_> = hosts.chain(["any.row.test".to_owned()]).collect();
        let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
        yaml.push(tls::secret("edge", &authority.issue(&hosts)?, None));
        let shared = errors(&yaml.join("\n---\n"));
        ensure!(shared.is_none(), "the configuration that rows share is refused: {shared:?}");
        let mut files = vec![("base.yaml".to_owned(), yaml.join("\n---\n"))];
        let mut broken = BTreeMap::new();
        for row in rows.iter().filter(|row| !row.config.is_empty()) {
            let text = row.config.join("\n---\n").replace(HTTP_PORT, &http.to_string());
            if let Some(error) = errors(&text) {
                broken.insert(row.id.clone(), error);
            }
            files.push((format!("{}.yaml", slug(&row.id)), text));
        }
        let gateway = Gateway::start(&files, &["--threads", "1"]).await?;
        Ok(Self { gateway, origin, authority, http, https, redirect, bare, pods, broken })
    }

    /// Whether the configuration of a row is one.
    pub(crate) fn loaded(&self, id: &str) -> Result<()> {
        match self.broken.get(id) {
            Some(error) => bail!("its configuration is refused: {error}"),
            None => Ok(()),
        }
    }

    /// A connection to the gateway; for HTTP/2 if TLS is to agree on it.
    pub(crate) async fn connect(&self, port: u16, tls: Option<&Tls>, h2: bool) -> Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("the gateway's port")?;
        tcp.set_nodelay(true)?;
        Ok(match tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(tls::open(tcp, self.authority.pem(), tls, h2).await?),
        })
    }

    /// The line of the access log about the request with this mark.
    pub(crate) async fn log(&self, token: &str) -> Result<Value> {
        self.gateway.log(token).await
    }

    /// What rows share, for another gateway on these ports.
    pub(crate) fn shared(&self, ports: [u16; 4]) -> String {
        base(self.pods, ports)
    }
}

impl Pods {
    /// In the network of this process.
    fn new() -> Result<Self> {
        let [_, a, b, _] = own_ip(0).octets();
        let network = [a, b];
        let probe = TcpListener::bind((Ipv4Addr::new(127, network[0], network[1], 1), 0))?;
        Ok(Self { network, port: probe.local_addr()?.port() })
    }

    fn ip(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.network[0], self.network[1], last)
    }

    fn addresses(self) -> Vec<(String, SocketAddr)> {
        let alive = PODS.iter().filter(|(.., alive)| *alive);
        alive.map(|(name, _, _, last, _)| ((*name).to_owned(), (self.ip(*last), self.port).into())).collect()
    }

    fn yaml(self) -> String {
        let pod = |(name, app, version, last, _): &(&str, &str, &str, u8, bool)| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: conf, labels: {{app: {app}, version: {version}}}}}, \
                 spec: {{containers: [{{name: a, image: a, ports: [{{name: http, containerPort: {}}}]}}]}}, \
                 status: {{podIP: {}, phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}}}",
                self.port,
                self.ip(*last)
            )
        };
        PODS.iter().map(pod).collect::<Vec<_>>().join("\n---\n")
    }
}

/// An address of loopback for this process alone: others test here, too.
pub(crate) fn own_ip(last: u8) -> Ipv4Addr {
    let id = std::process::id();
    let part = |number: u32| u8::try_from(number % 256).unwrap_or(0);
    Ipv4Addr::new(127, part(100 + id % 100), part(id / 100), last)
}

impl Gateway {
    /// Starts a process on these files, which logs in JSON.
    pub(crate) async fn start(config: &[(String, String)], options: &[&str]) -> Result<Self> {
        Self::start_as(config, &[&["--access-log", "json"], options].concat()).await
    }

    /// Starts a process on these files.
    pub(crate) async fn start_as(config: &[(String, String)], options: &[&str]) -> Result<Self> {
        Self::start_named("istio-system/istio-ingressgateway", config, options).await
    }

    /// Starts a process on these files that is told this name.
    pub(crate) async fn start_named(
        name: &str,
        config: &[(String, String)],
        options: &[&str],
    ) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let directory = files.path().join("config");
        fs::create_dir(&directory)?;
        for (name, text) in config {
            fs::write(directory.join(name), text)?;
        }
        let [admin, metrics, ready] = free_ports()?;
        let mut command = Command::new(beside("mesh-node"));
        command.args(["gateway", "--name", name, "--bind", "127.0.0.1"]);
        command.args(["--log", "info", "--drain", "1s"]).args(options);
        command.arg("--config").arg(&directory);
        for (option, port) in [("--admin-port", admin), ("--metrics-port", metrics), ("--ready-port", ready)]
        {
            command.args([option, &port.to_string()]);
        }
        let said = fs::File::create(files.path().join("stderr"))?;
        let mut child = command.stdout(Stdio::piped()).stderr(said).spawn().context("mesh-node")?;
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (output, heard) = (child.stdout.take().context("no output")?, Arc::clone(&lines));
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let mut gateway = Self { child, config: directory, lines, metrics, files };
        gateway.ready(ready).await.with_context(|| gateway.said())?;
        Ok(gateway)
    }

    /// What it has said on standard error.
    pub(crate) fn said(&self) -> String {
        let path = self.config.with_file_name("stderr");
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Writes a file of the configuration as editors do: all at once.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let new = self.config.with_file_name("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.config.join(name))?)
    }

    async fn ready(&mut self, port: u16) -> Result<()> {
        let until = Instant::now() + START;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("it has ended: {status}");
            }
            let answer = blocking(port, "/healthz/ready").await;
            if answer.is_ok_and(|answer| answer.0 == 200) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "it is not ready after {START:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// The line of the access log about the request with this mark.
    pub(crate) async fn log(&self, token: &str) -> Result<Value> {
        let until = Instant::now() + LOG;
        loop {
            let found = self.all_logs(token);
            if let Some(line) = found.into_iter().next() {
                return Ok(line);
            }
            ensure!(Instant::now() < until, "no line in the access log about {token}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// All lines of the access log about requests with this mark.
    pub(crate) fn all_logs(&self, token: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let about = lines.iter().filter(|line| line.contains(token));
        let parsed = about.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|line| line["user_agent"] == token || line["path"].as_str() == Some(token)).collect()
    }

    /// How many lines have this value in this field.
    pub(crate) fn all_logs_with(&self, field: &str, value: &str) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|line| line[field] == value).count()
    }

    /// The line about a connection of bytes from this address. Requests may have come from there, too: ports are used again.
    pub(crate) fn line_of_stream(&self, client: &str) -> Option<Value> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.rfind(|line| line["downstream_remote_address"] == client && line["protocol"].is_null())
    }

    /// Tells it to stop.
    pub(crate) fn terminate(&self) -> Result<()> {
        let status = Command::new("kill").arg("-TERM").arg(self.id().to_string()).status()?;
        ensure!(status.success(), "kill: {status}");
        Ok(())
    }

    /// The sum of all series of a metric that have these labels.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let (_, text) = blocking(self.metrics, "/metrics").await?;
        let of = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        };
        Ok(text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// The same, once it is as much as this or a wait is over: what has ended is counted a moment after its client knows.
    pub(crate) async fn counted(&self, name: &str, labels: &[(&str, &str)], least: f64) -> Result<f64> {
        let until = Instant::now() + LOG;
        loop {
            let found = self.metric(name, labels).await?;
            if found >= least || Instant::now() > until {
                return Ok(found);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for a line of the access log that begins like this.
    pub(crate) async fn said_line(&self, start: &str) -> Result<()> {
        let until = Instant::now() + LOG;
        loop {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if lines.iter().any(|line| line.starts_with(start)) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "no line begins with {start:?}: {lines:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It is gone already, or it goes now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn blocking(port: u16, path: &str) -> Result<(u16, String)> {
    let request = Request::get(path);
    let fetched = tokio::task::spawn_blocking(move || {
        fetch((Ipv4Addr::LOCALHOST, port).into(), &request, Duration::from_secs(2))
    });
    let response = fetched.await??;
    Ok((response.status, response.text()))
}

/// Ports that nobody has at the moment, and that nobody is given by chance: they are below those that the kernel gives
/// to clients, and each is handed out once.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(101);
    let mut ports = [0; N];
    for port in &mut ports {
        *port = loop {
            let turn = NEXT.fetch_add(1, Ordering::Relaxed);
            ensure!(turn < PORTS.end - PORTS.start, "no port is free");
            let port = PORTS.start + start.wrapping_add(turn) % (PORTS.end - PORTS.start);
            let port = u16::try_from(port)?;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                break port;
            }
        };
    }
    Ok(ports)
}

/// Beside the test's own directory.
pub(crate) fn beside(program: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let directory = own.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    directory.join(program)
}

fn errors(text: &str) -> Option<String> {
    let parsed = parse(&SourceFile { name: "row.yaml", text });
    let errors: Vec<_> = parsed.findings.iter().filter(|it| it.level == Level::Error).collect();
    (!errors.is_empty() || !parsed.rejected.is_empty()).then(|| format!("{errors:?} {:?}", parsed.rejected))
}

/// What all rows share: namespaces, the gateway's own Service, pods, services.
pub(crate) fn base(pods: Pods, [http, https, redirect, bare]: [u16; 4]) -> String {
    let service = |name: &str, app: &str, port: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: conf}}, \
             spec: {{selector: {{app: {app}}}, ports: [{{name: {port}, port: 80, targetPort: http}}]}}}}"
        )
    };
    [
        "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}".to_owned(),
        "{apiVersion: v1, kind: Namespace, metadata: {name: conf}}".to_owned(),
        "{apiVersion: v1, kind: Namespace, metadata: {name: other}}".to_owned(),
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: \"accessLogFile: /dev/stdout\\nPROVIDERS\\n\"}}"
            .replace("PROVIDERS", crate::external::PROVIDERS),
        "{apiVersion: v1, kind: Pod, metadata: {name: istio-ingressgateway, namespace: istio-system, labels: {istio: ingressgateway, app: istio-ingressgateway}}, spec: {containers: [{name: istio-proxy, image: local}]}}".to_owned(),
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: istio-ingressgateway, namespace: istio-system}}, \
             spec: {{selector: {{istio: ingressgateway}}, ports: [{{name: http, port: 80, targetPort: {http}}}, \
             {{name: https, port: 443, targetPort: {https}}}, {{name: redirect, port: 8080, targetPort: {redirect}}}]}}}}"
        ),
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: edge, namespace: istio-system}}, \
             spec: {{selector: {{istio: ingressgateway}}, servers: [\
             {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}, \
             {{port: {{number: {bare}, name: bare, protocol: HTTP2}}, hosts: ['*']}}, \
             {{port: {{number: 8080, name: redirect, protocol: HTTP}}, hosts: ['*'], tls: {{httpsRedirect: true}}}}, \
             {{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['*.test'], tls: {{mode: SIMPLE, credentialName: edge}}}}]}}}}"
        ),
        pods.yaml(),
        service("echo", "echo", "http"),
        service("grpc", "echo", "grpc"),
        service("auto", "echo", "any"),
        service("many", "many", "http"),
        service("ghost", "ghost", "http"),
        service("dead", "dead", "http"),
        alias("echo-alias", "echo-hop.conf.svc.cluster.local"),
        alias("echo-hop", "echo.conf.svc.cluster.local."),
        alias("nobodys", "nobody.example"),
        alias("round", "round.conf.svc.cluster.local"),
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: echo, namespace: conf}, \
         spec: {host: echo, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v9, labels: {version: v9}}]}}"
            .to_owned(),
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: grpc, namespace: conf}, \
         spec: {host: grpc, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}"
            .to_owned(),
    ]
    .join("\n---\n")
}

/// A service that is another name, with a port that says nothing.
fn alias(name: &str, real: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: conf}}, \
         spec: {{type: ExternalName, externalName: {real}, ports: [{{name: http, port: 8099}}]}}}}"
    )
}

/// Name, app, version, last part of the address, and whether anybody listens there.
const PODS: &[(&str, &str, &str, u8, bool)] = &[
    ("echo-1", "echo", "v1", 1, true),
    ("echo-2", "echo", "v2", 2, true),
    ("many-1", "many", "v1", 11, true),
    ("many-2", "many", "v1", 12, true),
    ("many-3", "many", "v2", 13, true),
    ("many-4", "many", "v2", 14, true),
    ("half-1", "half", "v1", 21, true),
    ("half-2", "half", "v1", 22, false),
    ("single-1", "single", "v1", 41, true),
    ("dead-1", "dead", "v1", 31, false),
];

/// How long a gateway may take to be ready.
const START: Duration = Duration::from_secs(20);
/// How long a line of the access log may take.
const LOG: Duration = Duration::from_secs(5);
const PORTS: std::ops::Range<u32> = 18_000..32_000;
const POLL: Duration = Duration::from_millis(20);
