//! The control plane of a bed: `mesh-control` on the first node, and the tokens with which the nodes join.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::agent::{Agent, AgentSpec, fetch_inside, wait_until};
use super::controller::Event;
use super::error::{BedError, Doing, Result};
use super::forward::Forward;
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

    /// What it answers to a path such as `/debug/subscribers`.
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

/// The control plane as nodes are to find it.
pub(super) struct ControlPlane {
    program: PathBuf,
    /// Where it runs.
    host: IpAddr,
    pub(super) agent: Arc<Agent>,
}

impl ControlPlane {
    /// Starts the control plane on `host` and waits until it serves.
    pub(super) fn start(
        program: PathBuf,
        (args, env): (&[String], &[(String, String)]),
        (layout, host): (&Layout, &NodeNet),
        events: &Sender<Event>,
    ) -> Result<Self> {
        let address = IpAddr::from(host.address.v4);
        let text = |path: PathBuf| path.display().to_string();
        let options = [
            ("--config", text(layout.objects())),
            ("--state", text(state(layout))),
            ("--serve-as", address.to_string()),
        ];
        let options = options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        let spec = AgentSpec {
            node: "the control plane".to_owned(),
            program: program.clone(),
            args: options.chain(args.iter().cloned()).collect(),
            env: env.to_vec(),
            netns: netns_path(&host.netns),
            cgroup: layout.node_cgroup(&host.name).join("control"),
            log: layout.logs().join("mesh-control.log"),
            ready_port: READY_PORT,
        };
        let events = events.clone();
        // Nobody listens once the bed ends.
        let agent = Agent::start(spec, Arc::new(move || drop(events.send(Event::Changed))));
        let up = || agent.health().ready || agent.health().failed.is_some();
        wait_until(Instant::now() + PATIENCE, up);
        let health = agent.health();
        if health.ready {
            return Ok(Self { program, host: address, agent });
        }
        let reason =
            health.failed.unwrap_or_else(|| format!("it is not ready after {} s", PATIENCE.as_secs()));
        Err(BedError::Failed { what: "mesh-control".to_owned(), reason, log: agent.log().to_owned() })
    }

    /// The way to the mesh page, for browsers on this machine: at its usual port if nobody has it.
    pub(super) fn forward_page(&self) -> Result<Forward> {
        let netns = self.agent.netns().to_owned();
        let target = ([127, 0, 0, 1], READY_PORT).into();
        Forward::listen(READY_PORT, true, Arc::new(move || Ok((netns.clone(), target))))
    }

    /// What `mesh-node` on `node` needs to follow it.
    pub(super) fn node_args(&self, layout: &Layout, node: &str) -> Result<Vec<String>> {
        let own = layout.state.join("nodes").join(node);
        fs::create_dir_all(&own).at("make", &own)?;
        let token = own.join("token");
        fs::write(&token, self.join_token(layout, node)?).at("write", &token)?;
        let text = |path: PathBuf| path.display().to_string();
        let options = [
            ("--control", format!("https://{}:15012", self.host)),
            ("--control-ca", text(state(layout).join("ca/root-cert.pem"))),
            ("--token", text(token)),
            ("--state", text(own)),
            ("--svid-cache", text(layout.memory().join(node))),
        ];
        Ok(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect())
    }

    fn join_token(&self, layout: &Layout, node: &str) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(["join", "create", "--uses", "1000", "--lifetime", "24h", "--node", node]);
        let output = command.arg("--state").arg(state(layout)).output().at("run", &self.program)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(BedError::Failed {
            what: format!("mesh-control join create --node {node}"),
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            log: layout.logs(),
        })
    }
}

/// Where the control plane keeps its CA.
fn state(layout: &Layout) -> PathBuf {
    layout.state.join("mesh")
}

/// Where `mesh-control` says whether it is ready.
const READY_PORT: u16 = 15014;
const PATIENCE: Duration = Duration::from_secs(20);
