//! `testbed`: nodes and pods on one machine, from Kubernetes manifests, without Kubernetes.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use mesh_tests::apiserver;
use mesh_tests::bed::{self, Bed, BedName, Inbound, Layout, Manifests, Network, Status, Target};
use mesh_tests::collector;
use mesh_tests::http::{self, Response};
use mesh_tests::istiod;
use mesh_tests::tool::{self, ClientPlan, Mode};
use serde::{Deserialize, Serialize};

/// A small kubelet for one machine: every node and every pod of a directory of Kubernetes manifests becomes a network
/// namespace with real addresses; containers run as local processes. Needs root.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a bed and wait until its pods and nodes are ready. Edits of the directory take effect while it is up.
    #[command(after_help = "Example: testbed up deploy/samples/bookinfo --nodes 2")]
    Up(Up),
    /// End a bed and everything it made.
    #[command(after_help = "Example: testbed down")]
    Down(Which),
    /// Print one line for each pod: namespace, name, node, address, network namespace.
    #[command(after_help = "Example: testbed status -o json")]
    Status {
        #[command(flatten)]
        which: Which,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Run a command inside a pod, which may be named by a unique prefix. The exit code is the command's.
    #[command(
        after_help = "Example: testbed exec default/sleep -- curl -s http://productpage:9080/productpage"
    )]
    Exec {
        #[command(flatten)]
        which: Which,
        /// NAMESPACE/POD
        pod: String,
        /// The command with its arguments.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Helpers for tests inside pods: TCP and UDP with every step chosen.
    #[command(after_help = "Example: testbed tool client 10.244.1.2:7000 --send hello --half-close")]
    Tool {
        #[command(subcommand)]
        tool: Tool,
    },
    #[command(hide = true)]
    Internal {
        #[command(subcommand)]
        job: Internal,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The bed's name.
    #[arg(long, default_value = "bed")]
    name: String,
}

impl Which {
    fn parse(&self) -> Result<BedName> {
        Ok(BedName::parse(&self.name)?)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args, Serialize, Deserialize)]
struct Up {
    /// A directory of Kubernetes manifests (*.yaml, *.yml, *.json).
    dir: PathBuf,
    /// How many nodes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=200))]
    nodes: u8,
    /// The bed's name: several beds can be up at once.
    #[arg(long, default_value = "bed")]
    name: String,
    /// How pods are connected to their node: routed or bridged.
    #[arg(long, default_value = "routed")]
    network: String,
    /// Run a control plane inside of every mesh-node in place of mesh-control.
    #[arg(long)]
    embedded: bool,
    /// How mesh-node takes inbound connections: `sk_lookup` or tc; its own default if not given.
    #[arg(long)]
    inbound: Option<String>,
    /// No mesh-node on the nodes: plain networking.
    #[arg(long)]
    no_mesh: bool,
    /// The mesh-node to run, instead of the one beside this program.
    #[arg(long, value_name = "PATH")]
    mesh_node: Option<PathBuf>,
    /// One more argument for every mesh-node; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    mesh_arg: Vec<String>,
    /// Open a port of this machine that leads to a service; may be repeated.
    #[arg(long, value_name = "[PORT:]NS/SERVICE:PORT")]
    forward: Vec<String>,
    /// How long to wait for readiness, in seconds.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Serve TCP connections and report them on standard output.
    Server {
        /// Where to listen, such as [::]:7000.
        addr: SocketAddr,
        /// echo, peer, count, hold, greet or reset.
        #[arg(long, default_value = "echo")]
        mode: Mode,
    },
    /// Make one TCP connection and report it as one line of JSON; exit code 1 if it cannot be made.
    Client(Client),
    /// Take spans: Zipkin's format and OTLP over HTTP at one port, OTLP over gRPC at another; `/taken` shows them.
    Collector {
        /// Where HTTP is taken.
        http: SocketAddr,
        /// Where gRPC is taken.
        grpc: SocketAddr,
    },
    /// Be a control plane of Istio's: what a mesh-control knows, in Istio's types alone.
    Istiod {
        /// Where to listen, with TLS.
        listen: SocketAddr,
        /// The plain port of the mesh-control.
        #[arg(long, default_value = "127.0.0.1:15010")]
        upstream: SocketAddr,
        /// The directory of its state, with the CA.
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// What callers show instead of a token that an API server would vouch for.
        #[arg(long)]
        token: String,
    },
    /// Answer UDP datagrams with themselves.
    Udp {
        /// Where to listen.
        addr: SocketAddr,
    },
    /// Be a Kubernetes API server without a cluster, over TLS, until standard input ends.
    #[command(after_help = "Example: testbed tool apiserver kubeconfig")]
    Apiserver {
        /// Where to write the administrator's kubeconfig.
        kubeconfig: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Client {
    /// Where to connect to.
    addr: SocketAddr,
    /// Local address to connect from.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Text to send.
    #[arg(long, default_value = "")]
    send: String,
    /// Bytes to send after the text.
    #[arg(long, default_value_t = 0)]
    bytes: u64,
    /// End the sending direction before reading to the end.
    #[arg(long)]
    half_close: bool,
    /// Milliseconds to wait between sending and reading.
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// Read this many bytes at most.
    #[arg(long)]
    read: Option<u64>,
    /// Milliseconds for connecting and for each read.
    #[arg(long, default_value_t = 5000)]
    timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Internal {
    Prober,
    Ready,
    Reap { name: String, owner: String },
    Supervise { plan: String },
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Up(up) => self::up(&up),
        Verb::Down(which) => down(&which),
        Verb::Status { which, output } => status(&which, output),
        Verb::Exec { which, pod, command } => exec(&which, &pod, &command),
        Verb::Tool { tool } => return run_tool(tool),
        Verb::Internal { job: Internal::Prober } => bed::answer_questions().map_err(Into::into),
        Verb::Internal { job: Internal::Ready } => ready(),
        Verb::Internal { job: Internal::Reap { name, owner } } => {
            bed::reap(&name, &owner).map_err(Into::into)
        }
        Verb::Internal { job: Internal::Supervise { plan } } => return supervise(&plan),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&mut io::stderr(), &format!("Error: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What the supervisor tells the command that started it.
#[derive(Debug, Serialize, Deserialize)]
enum Progress {
    /// `ready of all` pods are ready; the rest is a remark for the terminal.
    Waiting {
        ready: usize,
        all: usize,
        remark: String,
    },
    Forwarded {
        what: String,
        addr: SocketAddr,
    },
    Ready,
    /// The bed is up but not as wanted.
    Unready(String),
    /// There is no bed.
    Failed(String),
}

fn up(up: &Up) -> Result<()> {
    let name = BedName::parse(&up.name)?;
    if !up.dir.is_dir() {
        bail!("{} is not a directory", up.dir.display());
    }
    bed::check_machine()?;
    let layout = Layout::new(name.clone())?;
    let log = bed::supervisor_log(&layout);
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let errors = OpenOptions::new().create(true).append(true).open(&log);
    let errors = errors.with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["internal", "supervise", &serde_json::to_string(up)?]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    bed::detach(&mut command);
    let mut child = command.spawn().context("cannot start the supervisor")?;
    let output = child.stdout.take().ok_or_else(|| anyhow!("the supervisor has no output"))?;
    let mut meter = Meter::default();
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line?)? {
            Progress::Waiting { ready, all, remark } => {
                meter.show(&format!("{ready} of {all} pods ready{remark}"));
            }
            Progress::Forwarded { what, addr } => meter.line(&format!("{what} is at http://{addr}/")),
            Progress::Ready => {
                meter.clear();
                say(&mut io::stdout(), bed::status_of(&name)?.table().trim_end());
                return Ok(());
            }
            Progress::Unready(reason) => {
                meter.clear();
                bail!("{reason}\nThe bed is left up to be looked at; `testbed down --name {name}` ends it.");
            }
            Progress::Failed(reason) => {
                meter.clear();
                if !layout.state.exists() {
                    // Where a bed of that name is up, the file is that bed's.
                    let _ = fs::remove_file(&log);
                }
                bail!("{reason}");
            }
        }
    }
    let words = fs::read_to_string(&log).unwrap_or_default();
    bail!("the supervisor ended: {}", words.trim())
}

/// One line at the bottom of a terminal; nothing where there is no terminal.
#[derive(Debug, Default)]
struct Meter {
    shown: String,
}

impl Meter {
    fn show(&mut self, text: &str) {
        if io::stderr().is_terminal() && self.shown != text {
            put(&mut io::stderr(), &format!("\r\x1b[K{text}"));
            text.clone_into(&mut self.shown);
        }
    }

    fn clear(&mut self) {
        if !std::mem::take(&mut self.shown).is_empty() {
            put(&mut io::stderr(), "\r\x1b[K");
        }
    }

    fn line(&mut self, text: &str) {
        self.clear();
        say(&mut io::stderr(), text);
    }
}

/// The process behind a bed that `up` has started: holds it until it is told to end, which is what ends the bed.
fn supervise(plan: &str) -> ExitCode {
    let held = bed::hold_until_told_to_end(|| match begin_and_report(plan) {
        Ok(bed) => Some(bed),
        Err(e) => {
            tell(&Progress::Failed(format!("{e:#}")));
            None
        }
    });
    if held.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn begin_and_report(plan: &str) -> Result<Bed> {
    let up: Up = serde_json::from_str(plan)?;
    let bed = begin(&up)?;
    let ready = bed.wait_ready(Duration::from_secs(up.timeout), |status| tell(&waiting(status)));
    tell(&match ready {
        Ok(()) => Progress::Ready,
        Err(e) => Progress::Unready(e.to_string()),
    });
    Ok(bed)
}

fn begin(up: &Up) -> Result<Bed> {
    let network: Network = up.network.parse().map_err(|e: String| anyhow!("--network: {e}"))?;
    let forwards: Vec<(u16, Target)> = up.forward.iter().map(|text| forward(text)).collect::<Result<_>>()?;
    let mut builder = Bed::builder().name(BedName::parse(&up.name)?).nodes(up.nodes).network(network);
    builder = builder.manifests(Manifests::Watch(up.dir.clone()));
    if up.embedded {
        builder = builder.embedded();
    }
    if let Some(inbound) = &up.inbound {
        builder = builder.inbound(inbound.parse::<Inbound>().map_err(|e| anyhow!("--inbound: {e}"))?);
    }
    if up.no_mesh {
        builder = builder.without_mesh();
    }
    if let Some(program) = &up.mesh_node {
        builder = builder.mesh_node(program);
    }
    for arg in &up.mesh_arg {
        builder = builder.mesh_arg(arg);
    }
    let bed = builder.begin()?;
    if let Some(addr) = bed.status().dashboard.and_then(|addr| addr.parse().ok()) {
        tell(&Progress::Forwarded { what: "the mesh page".to_owned(), addr });
    }
    for ((port, target), text) in forwards.into_iter().zip(&up.forward) {
        let addr = bed.forward_from(port, &target)?;
        let what = text.rsplit_once('/').map_or(text.as_str(), |(_, service)| service).to_owned();
        tell(&Progress::Forwarded { what, addr });
    }
    Ok(bed)
}

fn waiting(status: &Status) -> Progress {
    let ready = status.pods.iter().filter(|pod| pod.ready).count();
    let nodes = status.nodes.iter().filter(|node| !node.ready).map(|node| node.name.as_str());
    let nodes: Vec<&str> = nodes.collect();
    let remark = if nodes.is_empty() { String::new() } else { format!(", waiting for {}", nodes.join(", ")) };
    Progress::Waiting { ready, all: status.pods.len(), remark }
}

/// Tells the parent; once that is gone before the bed is ready, nobody wants the bed.
fn tell(progress: &Progress) {
    let mut line = serde_json::to_vec(progress).unwrap_or_default();
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let told = out.write_all(&line).and_then(|()| out.flush());
    if told.is_err() && matches!(progress, Progress::Waiting { .. }) {
        std::process::exit(1);
    }
}

/// `[PORT:]NAMESPACE/SERVICE:PORT`
fn forward(text: &str) -> Result<(u16, Target)> {
    let wrong = || anyhow!("--forward {text:?} is not of the form [PORT:]NAMESPACE/SERVICE:PORT");
    let (rest, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (local, service) = rest.split_once(':').unwrap_or(("0", rest));
    if !service.contains('/') {
        return Err(wrong());
    }
    let local = local.parse().map_err(|_| wrong())?;
    Ok((local, Target::Service(service.to_owned(), port.parse().map_err(|_| wrong())?)))
}

fn down(which: &Which) -> Result<()> {
    let name = which.parse()?;
    if !bed::down(&name)? {
        say(&mut io::stderr(), &format!("No test bed {:?} was up.", name.as_str()));
    }
    Ok(())
}

fn status(which: &Which, format: Format) -> Result<()> {
    let status = bed::status_of(&which.parse()?)?;
    if format == Format::Json {
        say(&mut io::stdout(), &serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    say(&mut io::stdout(), status.table().trim_end());
    for line in status.unready().into_iter().chain(status.problems) {
        say(&mut io::stderr(), &line);
    }
    Ok(())
}

/// Becomes the command, so that its exit code and signals are its own.
fn exec(which: &Which, pod: &str, words: &[String]) -> Result<()> {
    let pod = bed::pod_of(&which.parse()?, pod)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let error = pod.command(&words)?.exec();
    Err(error).with_context(|| format!("cannot run {} in {}", words.join(" "), pod.name()))
}

/// Stands in for a `mesh-node` that is ready, for tests of the bed alone.
fn ready() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:15021")?;
    http::serve(&listener, |_| Response::new(200, "text/plain", "ready\n"));
    Ok(())
}

fn run_tool(tool: Tool) -> ExitCode {
    let served = match tool {
        Tool::Server { addr, mode } => tool::serve(addr, mode).map_err(anyhow::Error::from),
        Tool::Udp { addr } => tool::serve_udp(addr).map_err(anyhow::Error::from),
        Tool::Collector { http, grpc } => collector::serve(http, grpc),
        Tool::Istiod { listen, upstream, state, token } => {
            istiod::serve(istiod::Place { listen, upstream, state, token })
        }
        Tool::Apiserver { kubeconfig } => match apiserver::serve_alone(&kubeconfig) {
            Ok(()) => return ExitCode::SUCCESS,
            failed => failed,
        },
        Tool::Client(client) => {
            let report = tool::connect(&ClientPlan {
                addr: client.addr,
                bind: client.bind,
                send: client.send,
                bytes: client.bytes,
                half_close: client.half_close,
                hold: Duration::from_millis(client.hold),
                read: client.read,
                timeout: Duration::from_millis(client.timeout),
            });
            say(&mut io::stdout(), &serde_json::to_string(&report).unwrap_or_default());
            return if report.connected { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    if let Err(e) = served {
        say(&mut io::stderr(), &format!("Error: {e:#}"));
    }
    ExitCode::FAILURE
}

fn say(out: &mut dyn Write, text: &str) {
    put(out, &format!("{text}\n"));
}

/// A closed pipe (`testbed status | head`) is no reason to fail.
fn put(out: &mut dyn Write, text: &str) {
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
