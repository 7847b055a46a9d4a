//! The control plane of a bed: `mesh-control` on the first node, and the tokens with which the nodes join.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::agent::{Agent, AgentSpec, fetch_inside, wait_until};
use super::controller::Event;
use super::error::{BedError, Doing, Result};
use super::layout::{Layout, netns_path};
use super::network::NodeNet;

/// A bed's control plane, to be asked and to be ill-treated.
#[derive(Debug, Clone)]
pub struct ControlHandle {
    agent: Arc<Agent>,
}

impl ControlHandle {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    /// Kills it with `SIGKILL` and leaves it dead; returns when it is.
    pub fn kill9(&self) -> Result<()> {
        self.agent.kill()
    }

    /// Starts it if it does not run; does not wait.
    pub fn start(&self) -> Result<()> {
        self.agent.revive();
        Ok(())
    }

    /// Stops it where it stands: its connections stay, and nothing comes from it.
    pub fn freeze(&self) -> Result<()> {
        self.agent.freeze(true)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.agent.freeze(false)
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.agent.health().pid
    }

    /// Whether it serves.
    pub fn is_ready(&self) -> bool {
        self.agent.health().ready
    }

    /// What it answers to a path such as `/debug/syncz`.
    pub fn debug(&self, path: &str) -> Result<String> {
        let response = fetch_inside(self.agent.netns(), READY_PORT, path, Duration::from_secs(5))?;
        if response.status == 200 {
            return Ok(response.text());
        }
        let output = format!("{} {}", response.status, response.text());
        Err(BedError::Tool { command: format!("GET :{READY_PORT}{path} of the control plane"), output })
    }

    /// What it has printed so far.
    pub fn log(&self) -> Result<String> {
        let path = self.agent.log();
        let text = fs::read(path).at("read", path)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// How the control plane is started.
pub(super) struct ControlSpec<'a> {
    pub(super) program: &'a Path,
    pub(super) args: &'a [String],
    pub(super) env: &'a [(String, String)],
    pub(super) layout: &'a Layout,
}

/// Starts the control plane on `host` and waits until it serves.
pub(super) fn start(spec: &ControlSpec<'_>, host: &NodeNet, events: &Sender<Event>) -> Result<Arc<Agent>> {
    let ControlSpec { program, args, env, layout } = spec;
    let text = |path: PathBuf| path.display().to_string();
    let mut all = Vec::new();
    for (option, value) in [
        ("--config", text(layout.objects())),
        ("--state", text(state(layout))),
        ("--serve-as", host.address.v4.to_string()),
    ] {
        all.extend([option.to_owned(), value]);
    }
    all.extend(args.iter().cloned());
    let events = events.clone();
    let control = AgentSpec {
        node: "the control plane".to_owned(),
        program: program.to_path_buf(),
        args: all,
        env: env.to_vec(),
        netns: netns_path(&host.netns),
        cgroup: layout.node_cgroup(&host.name).join("control"),
        log: layout.logs().join("mesh-control.log"),
        ready_port: READY_PORT,
    };
    // Nobody listens once the bed ends.
    let agent = Agent::start(control, Arc::new(move || drop(events.send(Event::Changed))));
    let up = || agent.health().ready || agent.health().failed.is_some();
    wait_until(Instant::now() + PATIENCE, up);
    let health = agent.health();
    if health.ready {
        return Ok(agent);
    }
    let reason = health.failed.unwrap_or_else(|| format!("it is not ready after {} s", PATIENCE.as_secs()));
    Err(BedError::Failed { what: "mesh-control".to_owned(), reason, log: agent.log().to_owned() })
}

/// What `mesh-node` on `node` needs to follow the control plane on `host`.
pub(super) fn node_args(spec: &ControlSpec<'_>, host: &NodeNet, node: &str) -> Result<Vec<String>> {
    let ControlSpec { program, layout, .. } = spec;
    let state = layout.state.join("nodes").join(node);
    fs::create_dir_all(&state).at("make", &state)?;
    let token = state.join("token");
    fs::write(&token, join_token(program, layout, node)?).at("write", &token)?;
    let text = |path: PathBuf| path.display().to_string();
    let options = [
        ("--control", format!("https://{}:15012", host.address.v4)),
        ("--control-ca", text(self::state(layout).join("ca/root-cert.pem"))),
        ("--token", text(token)),
        ("--state", text(state)),
    ];
    Ok(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect())
}

/// Where the control plane keeps its CA.
fn state(layout: &Layout) -> PathBuf {
    layout.state.join("mesh")
}

fn join_token(program: &Path, layout: &Layout, node: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(["join", "create", "--uses", "1000", "--lifetime", "24h", "--node", node]);
    let output = command.arg("--state").arg(state(layout)).output().at("run", program)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(BedError::Failed {
        what: format!("mesh-control join create --node {node}"),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        log: layout.logs(),
    })
}

/// Where `mesh-control` says whether it is ready.
const READY_PORT: u16 = 15014;
const PATIENCE: Duration = Duration::from_secs(20);
