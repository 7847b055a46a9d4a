//! How a bed comes to be.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::Bed;
use super::agent::{Agent, AgentSpec};
use super::cgroup;
use super::control::ControlPlane;
use super::controller::{BedNode, Controller, Event, Setting, Shared};
use super::error::{BedError, Doing, Result};
use super::forward::Forward;
use super::layout::{BPF, BedName, Layout, netns_path};
use super::manifests::separate;
use super::network::{self, Network, NodeNet};
use super::place::Tools;
use super::probe::Prober;
use super::status::Status;
use super::teardown::{self, Lock, Reaper};
use crate::sys;

/// How `mesh-node` steers connections that arrive for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// A program at the socket lookup of the pod's namespace.
    SkLookup,
    /// A program at the traffic control hook of the pod's interface.
    Tc,
}

impl Inbound {
    fn as_str(self) -> &'static str {
        match self {
            Self::SkLookup => "sk_lookup",
            Self::Tc => "tc",
        }
    }
}

impl FromStr for Inbound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::SkLookup, Self::Tc].into_iter().find(|inbound| inbound.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is neither \"sk_lookup\" nor \"tc\""))
    }
}

/// Settings of a mesh that logs requests: those of beds made of texts, whose tests read them.
const ACCESS_LOG: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, \
                          data: {mesh: 'accessLogFile: /dev/stdout'}}";

/// Where the manifests of a bed come from.
#[derive(Debug, Clone)]
pub enum Manifests {
    /// Text of any number of documents.
    Text(String),
    /// The files of a directory, copied: [`Bed::apply`] does not change them.
    Copy(PathBuf),
    /// A directory that is used in place and watched.
    Watch(PathBuf),
}

impl From<&str> for Manifests {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Manifests {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&Path> for Manifests {
    fn from(directory: &Path) -> Self {
        Self::Copy(directory.to_owned())
    }
}

/// The description of a bed.
#[derive(Debug, Clone)]
pub struct Builder {
    name: Option<BedName>,
    nodes: u8,
    network: Network,
    manifests: Manifests,
    mesh: bool,
    embedded: bool,
    mesh_node: Option<PathBuf>,
    control_args: Vec<String>,
    mesh_args: Vec<String>,
    mesh_env: Vec<(String, String)>,
    patience: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            name: None,
            nodes: 1,
            network: Network::default(),
            manifests: Manifests::Text(String::new()),
            mesh: true,
            embedded: false,
            mesh_node: None,
            control_args: Vec::new(),
            mesh_args: Vec::new(),
            mesh_env: Vec::new(),
            patience: Duration::from_secs(60),
        }
    }
}

impl Builder {
    /// A name of the caller's choice instead of a random one.
    #[must_use]
    pub fn name(mut self, name: BedName) -> Self {
        self.name = Some(name);
        self
    }

    /// How many nodes, 1 to 200.
    #[must_use]
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// How pods are connected to their node.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// How `mesh-node` steers inbound connections, instead of its default.
    #[must_use]
    pub fn inbound(self, inbound: Inbound) -> Self {
        self.mesh_arg("--inbound").mesh_arg(inbound.as_str())
    }

    /// What the bed shall be.
    #[must_use]
    pub fn manifests(mut self, manifests: impl Into<Manifests>) -> Self {
        self.manifests = manifests.into();
        self
    }

    /// No `mesh-node` on the nodes: what the machine alone can do.
    #[must_use]
    pub fn without_mesh(mut self) -> Self {
        self.mesh = false;
        self
    }

    /// A control plane inside of every `mesh-node` in place of `mesh-control`.
    #[must_use]
    pub fn embedded(mut self) -> Self {
        self.embedded = true;
        self
    }

    /// One more argument for `mesh-control`.
    #[must_use]
    pub fn control_arg(mut self, arg: impl Into<String>) -> Self {
        self.control_args.push(arg.into());
        self
    }

    /// A `mesh-node` other than the one beside `testbed`.
    #[must_use]
    pub fn mesh_node(mut self, program: impl Into<PathBuf>) -> Self {
        self.mesh_node = Some(program.into());
        self
    }

    /// One more argument for every `mesh-node`.
    #[must_use]
    pub fn mesh_arg(mut self, arg: impl Into<String>) -> Self {
        self.mesh_args.push(arg.into());
        self
    }

    /// A variable in the environment of every `mesh-node`.
    #[must_use]
    pub fn mesh_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.mesh_env.push((name.into(), value.into()));
        self
    }

    /// How long [`Builder::start`] waits for readiness; 60 s unless told otherwise.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Makes the bed and waits until its pods and nodes are ready.
    pub fn start(self) -> Result<Bed> {
        let patience = self.patience;
        let bed = self.begin()?;
        bed.wait_ready(patience, |_| ())?;
        Ok(bed)
    }

    /// Makes the bed without waiting for its pods.
    pub fn begin(self) -> Result<Bed> {
        check_machine()?;
        if !(1..=200).contains(&self.nodes) {
            return Err(BedError::Environment(format!("a bed has 1 to 200 nodes, not {}", self.nodes)));
        }
        let tools = Tools::find()?;
        let mesh_node = match (&self.mesh_node, self.mesh) {
            (_, false) => None,
            (Some(program), true) => Some(program.clone()),
            (None, true) => Some(tools.sibling("mesh-node")?),
        };
        let name = self.name.clone().map_or_else(BedName::random, Ok)?;
        let foundation = Foundation::lay(Layout::new(name)?, &tools)?;
        if mesh_node.is_some() {
            mount_bpf()?;
        }
        self.build(foundation, tools, mesh_node.as_deref())
    }

    fn build(self, foundation: Foundation, tools: Tools, mesh_node: Option<&Path>) -> Result<Bed> {
        let layout = foundation.layout.clone();
        let source = self.place_manifests(&layout)?;
        let (wire, nets) = network::make_nodes(&layout, self.nodes, self.network)?;
        let (events, inbox) = mpsc::channel();
        let mut nodes = Vec::new();
        let mut forwards = Vec::new();
        for net in &nets {
            // The programs of a node attach here; it has to be there before the first pod.
            cgroup::make(&layout.node_cgroup(&net.name).join("kubepods"))?;
        }
        let control = match nets.first() {
            Some(host) if mesh_node.is_some() && !self.embedded => {
                let program = tools.sibling("mesh-control")?;
                Some(ControlPlane::start(
                    program,
                    (&self.control_args, &self.mesh_env),
                    (&layout, host),
                    &events,
                )?)
            }
            _ => None,
        };
        for net in nets {
            let programs = (&tools, mesh_node);
            let (node, forward) = self.node(net, programs, control.as_ref(), (&layout, &events))?;
            forwards.extend(forward);
            nodes.push(node);
        }
        let mut status = empty_status(&layout, &wire, self.network);
        forwards.extend(forward_page(control.as_ref(), &mut status)?);
        let control = control.map(|control| control.agent);
        let setting = Setting {
            shared: Arc::new(Shared::new(status)),
            nodes: Arc::new(nodes),
            network: self.network,
            tools: tools.clone(),
            layout: layout.clone(),
            wire: wire.clone(),
            source: source.clone(),
            events: events.clone(),
        };
        let (shared, nodes) = (Arc::clone(&setting.shared), Arc::clone(&setting.nodes));
        let controller = Controller::new(setting)?;
        let controller = thread::spawn(move || controller.run(&inbox));
        let (controller, forwards) = (Some(controller), Mutex::new(forwards));
        Ok(Bed {
            layout,
            tools,
            shared,
            nodes,
            control,
            wire,
            source,
            events,
            controller,
            forwards,
            foundation,
        })
    }

    /// A node, and the way to its admin port if it has one.
    fn node(
        &self,
        net: NodeNet,
        (tools, mesh_node): (&Tools, Option<&Path>),
        control: Option<&ControlPlane>,
        (layout, events): (&Layout, &Sender<Event>),
    ) -> Result<(BedNode, Option<Forward>)> {
        let host = layout.node_cgroup(&net.name).join("host");
        let prober = Arc::new(Prober::new(tools.testbed.clone(), netns_path(&net.netns), host));
        let mut node = BedNode { net, prober, agent: None, admin: None };
        let Some(program) = mesh_node else { return Ok((node, None)) };
        let forward = admin_forward(&node.net)?;
        node.admin = Some(forward.addr().to_string());
        let source = match control {
            Some(control) => control.node_args(layout, &node.net.name)?,
            None => embedded_args(layout),
        };
        node.agent = Some(self.agent((program, source), &node.net, (layout, events)));
        Ok((node, Some(forward)))
    }

    /// The directory that the controller watches.
    fn place_manifests(&self, layout: &Layout) -> Result<PathBuf> {
        if let Manifests::Watch(directory) = &self.manifests {
            return fs::canonicalize(directory).at("use the directory", directory);
        }
        let source = layout.state.join("manifests");
        fs::create_dir_all(&source).at("make", &source)?;
        let mut texts = Vec::new();
        match &self.manifests {
            Manifests::Text(text) => texts.push(text.clone()),
            Manifests::Copy(directory) | Manifests::Watch(directory) => {
                texts.extend(super::manifests::read_directory(directory)?.into_values());
            }
        }
        // Who brings settings of the mesh along has those instead.
        let all = separate(ACCESS_LOG).into_iter().chain(texts.iter().flat_map(|text| separate(text)));
        for (name, text) in all {
            let path = source.join(name);
            fs::write(&path, text).at("write", &path)?;
        }
        Ok(source)
    }

    fn agent(
        &self,
        (program, source): (&Path, Vec<String>),
        net: &NodeNet,
        (layout, events): (&Layout, &Sender<Event>),
    ) -> Arc<Agent> {
        let node_cgroup = layout.node_cgroup(&net.name);
        let path = |path: PathBuf| path.display().to_string();
        let mut args = vec!["node".to_owned()];
        for (option, value) in [
            ("--node", net.name.clone()),
            ("--cgroup", path(node_cgroup.clone())),
            ("--pin-root", path(layout.pins.clone())),
        ] {
            args.extend([option.to_owned(), value]);
        }
        args.extend(source);
        args.extend(self.mesh_args.iter().cloned());
        let spec = AgentSpec {
            node: format!("mesh-node of {}", net.name),
            program: program.to_owned(),
            args,
            env: self.mesh_env.clone(),
            netns: netns_path(&net.netns),
            cgroup: node_cgroup.join("agent"),
            log: layout.logs().join(format!("{}.mesh-node.log", net.name)),
            ready_port: READY_PORT,
        };
        let events = events.clone();
        // Nobody listens once the bed ends.
        Agent::start(spec, Arc::new(move || drop(events.send(Event::Changed))))
    }
}

/// What `mesh-node` needs to be its own control plane.
fn embedded_args(layout: &Layout) -> Vec<String> {
    let options = [("--config", layout.objects()), ("--state", layout.state.join("mesh"))];
    options.into_iter().flat_map(|(option, value)| [option.to_owned(), value.display().to_string()]).collect()
}

/// Where `mesh-node` says whether it is ready.
const READY_PORT: u16 = 15021;

/// What a bed stands on: its name, its directories and someone to end it. Dropping it ends the bed.
#[derive(Debug)]
pub(super) struct Foundation {
    layout: Layout,
    lock: Lock,
    reaper: Option<Reaper>,
}

impl Foundation {
    /// Claims the name, clears what a predecessor without reaper may have left, and starts the reaper.
    fn lay(layout: Layout, tools: &Tools) -> Result<Self> {
        let lock = Lock::claim(&layout)?;
        if layout.state.exists() || layout.cgroup.exists() {
            teardown::tear_down(&layout);
        }
        fs::create_dir_all(&layout.state).at("make", &layout.state)?;
        teardown::own(&layout)?;
        let mut foundation = Self { layout, lock, reaper: None };
        foundation.reaper = Some(Reaper::start(tools, &foundation.layout)?);
        let layout = &foundation.layout;
        for directory in [layout.logs(), layout.objects(), layout.state.join("mesh")] {
            fs::create_dir_all(&directory).at("make", &directory)?;
        }
        cgroup::make(&layout.cgroup)?;
        Ok(foundation)
    }
}

impl Drop for Foundation {
    fn drop(&mut self) {
        match self.reaper.take() {
            Some(reaper) => reaper.reap(&self.layout, &self.lock),
            None => teardown::tear_down_and_release(&self.layout, &self.lock),
        }
    }
}

fn admin_forward(net: &NodeNet) -> Result<Forward> {
    let netns = netns_path(&net.netns);
    let target = ([127, 0, 0, 1], ADMIN_PORT).into();
    let port = FIRST_ADMIN_FORWARD + u16::from(net.number);
    Forward::listen(port, true, Arc::new(move || Ok((netns.clone(), target))))
}

/// The way to the mesh page, if there is one, which the status tells of.
fn forward_page(control: Option<&ControlPlane>, status: &mut Status) -> Result<Option<Forward>> {
    let forward = control.map(ControlPlane::forward_page).transpose()?;
    status.dashboard = forward.as_ref().map(|forward| forward.addr().to_string());
    Ok(forward)
}

fn empty_status(layout: &Layout, wire: &str, network: Network) -> Status {
    Status {
        name: layout.name.to_string(),
        state_directory: layout.state.clone(),
        wire: netns_path(wire),
        network,
        ready: false,
        nodes: Vec::new(),
        pods: Vec::new(),
        services: Vec::new(),
        problems: Vec::new(),
        dashboard: None,
    }
}

/// Says at once what a bed would fail on later: missing rights, tools or kernel features.
pub fn check_machine() -> Result<()> {
    if !sys::is_root() {
        return Err(BedError::Environment(
            "it must be run as root, because it makes network namespaces and cgroups (try `sudo`)".to_owned(),
        ));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let present = |tool: &&str| env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    let missing: Vec<&str> = TOOLS.iter().map(|(tool, _)| *tool).filter(|tool| !present(tool)).collect();
    if !missing.is_empty() {
        let packages: Vec<&str> =
            TOOLS.iter().filter(|(tool, _)| missing.contains(tool)).map(|(_, package)| *package).collect();
        let tools = missing.join(", ");
        return Err(BedError::Environment(format!("{tools} not found (packages: {})", packages.join(", "))));
    }
    for (path, reason) in [
        ("/proc/self/ns/net", "the kernel has no network namespaces"),
        ("/proc/net/if_inet6", "IPv6 is disabled on this machine, and every pod has an IPv6 address"),
    ] {
        if !Path::new(path).exists() {
            return Err(BedError::Environment(reason.to_owned()));
        }
    }
    Ok(())
}

/// Nodes pin their programs in the BPF file system, which systemd mounts where it runs.
fn mount_bpf() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").at("read", Path::new("/proc/mounts"))?;
    let mounted = mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        (fields.nth(1), fields.next()) == (Some(BPF), Some("bpf"))
    });
    if mounted {
        Ok(())
    } else {
        sys::mount_bpf(Path::new(BPF)).at("mount the BPF file system on", Path::new(BPF))
    }
}

const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("iptables-restore", "iptables"),
    ("ip6tables-restore", "iptables"),
    ("sleep", "coreutils"),
];

/// Where `mesh-node` serves its admin page, on the loopback interface of its node.
const ADMIN_PORT: u16 = 15000;

/// Admin pages are reached at this port of the machine plus the node's number.
const FIRST_ADMIN_FORWARD: u16 = 15100;
