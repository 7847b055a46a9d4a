//! A bed: nodes, pods and services on one machine, without Kubernetes.
//!
//! ```no_run
//! use mesh_tests::bed::Bed;
//!
//! # fn main() -> Result<(), mesh_tests::bed::BedError> {
//! let bed = Bed::builder().nodes(2).manifests("apiVersion: v1\nkind: Pod\n# …").start()?;
//! let output = bed.pod("default/client")?.exec(&["curl", "-s", "http://web:8080/"])?;
//! # Ok(())
//! # }
//! ```
//!
//! Each node is a network namespace and a cgroup, each pod a network, mount and UTS namespace and a cgroup below its
//! node's; containers are local processes. A bed ends with its [`Bed`], and if the process dies, a reaper ends it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use self::builder::{Builder, Inbound, Manifests, check_machine};
pub use self::capture::Capture;
pub use self::control::ControlHandle;
pub use self::error::{BedError, Result};
pub use self::handle::{NodeHandle, PodHandle, Process};
pub use self::layout::{BedName, Layout};
pub use self::network::Network;
pub use self::place::Place;
pub use self::probe::answer_questions;
pub use self::status::{NodeStatus, PodStatus, ServiceStatus, Status};
pub use self::teardown::{down, reap, supervisor_log};

use self::agent::Agent;
use self::builder::Foundation;
use self::controller::{BedNode, Event, Shared};
use self::error::Doing;
use self::forward::{Forward, Resolve};
use self::layout::netns_path;
use self::manifests::{CLUSTER_SCOPED, file_name, separate};
use self::place::Tools;
use self::stop::lock;
use crate::sys;

mod addr;
mod agent;
mod builder;
mod capture;
mod cgroup;
mod control;
mod controller;
mod desired;
mod error;
mod forward;
mod handle;
mod hosts;
mod ip;
mod layout;
mod manifests;
mod network;
mod objects;
mod place;
mod pod;
mod probe;
mod proxy;
mod publish;
mod services;
mod status;
mod stop;
mod teardown;

/// A running bed. Dropping it ends everything it made.
#[derive(Debug)]
pub struct Bed {
    layout: Layout,
    tools: Tools,
    shared: Arc<Shared>,
    nodes: Arc<Vec<BedNode>>,
    control: Option<Arc<Agent>>,
    wire: String,
    /// The directory of manifests.
    source: PathBuf,
    events: Sender<Event>,
    controller: Option<JoinHandle<()>>,
    forwards: Mutex<Vec<Forward>>,
    /// Last, so that everything above is gone before the ground.
    #[expect(dead_code, reason = "held for its Drop, which ends the bed")]
    foundation: Foundation,
}

/// What a forwarded port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A port on the loopback interface of a node.
    Node(String, u16),
    /// A port on the loopback interface of the pod `NAMESPACE/POD`.
    Pod(String, u16),
    /// A port of the service `NAMESPACE/SERVICE`, called from the first node.
    Service(String, u16),
}

impl Bed {
    /// A bed with one node, routed, with the mesh, under a random name, unless told otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The bed's name.
    pub fn name(&self) -> &BedName {
        &self.layout.name
    }

    /// Where the bed keeps what.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How the bed is now.
    pub fn status(&self) -> Status {
        self.shared.read()
    }

    /// The pod `NAMESPACE/NAME`, which must run; the name may be a unique prefix, as with replicas of a deployment.
    pub fn pod(&self, name: &str) -> Result<PodHandle> {
        let status = self.status();
        PodHandle::new(status.pod(name)?.clone(), self.tools.search_path())
    }

    /// The control plane; there is none where it is inside of the nodes.
    pub fn control(&self) -> Result<ControlHandle> {
        let agent = self.control.clone();
        agent.map(ControlHandle::new).ok_or_else(|| BedError::Unknown {
            what: "control plane",
            name: self.layout.name.to_string(),
            reason: "is inside of its nodes, or there is no mesh".to_owned(),
        })
    }

    /// The node of that name, `node-1` and so on.
    pub fn node(&self, name: &str) -> Result<NodeHandle<'_>> {
        self.status().node(name)?;
        let node = self.nodes.iter().find(|node| node.net.name == name);
        let node = node.ok_or_else(|| BedError::NotUp(self.layout.name.to_string()))?;
        Ok(NodeHandle::new(node, &self.layout, &self.tools))
    }

    /// Adds manifests, or replaces those of the same kind, namespace and name. Returns once the bed acts on it; nodes
    /// follow on their own.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        for (name, text) in separate(manifests) {
            self.write(&name, &text)?;
        }
        self.sync()
    }

    /// Removes what was applied with this kind, namespace and name; `namespace` does not matter for kinds without.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let namespace = if CLUSTER_SCOPED.contains(&kind) { "" } else { namespace };
        let path = self.source.join(file_name(kind, namespace, name));
        fs::remove_file(&path).at("remove", &path)?;
        self.sync()
    }

    /// Writes a file of the manifests' directory as it is, whatever is in it.
    pub fn write_file(&self, name: &str, text: &str) -> Result<()> {
        self.write(name, text)?;
        self.sync()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (prepared, path) = (self.source.join(format!(".{name}.new")), self.source.join(name));
        fs::write(&prepared, text).at("write", &prepared)?;
        fs::rename(&prepared, &path).at("write", &path)
    }

    /// Waits until the bed has read its manifests again and acted on them.
    fn sync(&self) -> Result<()> {
        let (sender, done) = mpsc::channel();
        let asked = self.events.send(Event::Sync(sender)).is_ok();
        let patience = Duration::from_secs(20);
        if asked && done.recv_timeout(patience).is_ok() {
            return Ok(());
        }
        Err(BedError::Timeout {
            what: "following the manifests".to_owned(),
            within: patience,
            state: self.status().problems.join("; "),
        })
    }

    /// Waits until `condition` holds; looks again every 20 ms. `what` is for the error's text.
    pub fn wait(
        &self,
        what: &str,
        patience: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        if agent::wait_until(Instant::now() + patience, || condition(self)) {
            return Ok(());
        }
        let status = self.status();
        let state = status.unready().into_iter().chain(status.problems).collect::<Vec<_>>().join("; ");
        Err(BedError::Timeout { what: what.to_owned(), within: patience, state })
    }

    /// Waits until all pods are ready and so is every node. `progress` sees each status on the way. Fails early where
    /// a node's `mesh-node` keeps dying.
    pub fn wait_ready(&self, patience: Duration, mut progress: impl FnMut(&Status)) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status();
            progress(&status);
            if status.ready {
                return Ok(());
            }
            if let Some((node, reason)) = status.nodes.iter().find_map(|n| n.failed.clone().map(|r| (n, r))) {
                let what = format!("mesh-node of {}", node.name);
                return Err(BedError::Failed { what, reason, log: node.log.clone().unwrap_or_default() });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let lines = status.unready().into_iter().chain(status.problems);
                let state = lines.flat_map(|line| ["\n  ".to_owned(), line]).collect();
                return Err(BedError::Timeout { what: "readiness".to_owned(), within: patience, state });
            }
            self.shared.wait(left.min(Duration::from_millis(200)));
        }
    }

    /// Opens a port on the machine's own loopback interface that leads into the bed; any free one.
    pub fn forward(&self, target: &Target) -> Result<SocketAddr> {
        self.forward_from(0, target)
    }

    /// As [`Bed::forward`], on a port of the caller's choice.
    pub fn forward_from(&self, port: u16, target: &Target) -> Result<SocketAddr> {
        let forward = Forward::listen(port, false, self.resolver(target.clone()))?;
        let addr = forward.addr();
        lock(&self.forwards).push(forward);
        Ok(addr)
    }

    fn resolver(&self, target: Target) -> Resolve {
        let shared = Arc::clone(&self.shared);
        Arc::new(move || {
            let status = shared.read();
            let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
            match &target {
                Target::Node(node, port) => Ok((status.node(node)?.netns.clone(), loopback(*port))),
                Target::Pod(pod, port) => Ok((status.pod(pod)?.place()?.netns.clone(), loopback(*port))),
                Target::Service(service, port) => {
                    let addr = (status.service_ip(service)?, *port).into();
                    Ok((status.node("node-1")?.netns.clone(), addr))
                }
            }
        })
    }

    /// Records all packets at a place: `wire` (everything between nodes), a node (`node-1`: its wire and its pods'
    /// links) or a pod (`default/client`: its `eth0`). Loopback is never recorded.
    pub fn capture(&self, place: &str) -> Result<Capture> {
        let netns = match place {
            "wire" => netns_path(&self.wire),
            pod if pod.contains('/') => self.status().pod(pod)?.place()?.netns.clone(),
            node => self.status().node(node)?.netns.clone(),
        };
        Capture::start(&netns)
    }

    /// Copies the logs of a bed whose test has failed to where they outlive it.
    pub(crate) fn keep_logs(&self) {
        let kept = std::env::temp_dir().join(format!("mesh-testbed-{}", self.layout.name));
        if copy_files(&self.layout.logs(), &kept).is_ok() {
            use std::io::Write;
            // Nobody may be there to read it.
            let _ = writeln!(std::io::stderr(), "The bed's logs are in {}.", kept.display());
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_logs();
        }
        // The controller may have ended already, by a panic of its own.
        let _ = self.events.send(Event::Quit);
        let _ = self.controller.take().map(JoinHandle::join);
        for agent in self.nodes.iter().filter_map(|node| node.agent.as_ref()).chain(&self.control) {
            agent.abandon();
        }
        lock(&self.forwards).clear();
    }
}

/// Makes the process that `command` will start independent of the terminal: a session of its own.
pub fn detach(command: &mut Command) {
    sys::enter(command, sys::Enter { session: true, ..sys::Enter::default() });
}

/// Runs `hold` and then waits until somebody wants this process to end (SIGTERM, SIGINT, SIGHUP); what `hold` has made
/// is dropped then. To be called before the first thread starts.
pub fn hold_until_told_to_end<T>(hold: impl FnOnce() -> Option<T>) -> Result<()> {
    sys::hold_end_signals().doing(|| "block signals".to_owned())?;
    if let Some(held) = hold() {
        sys::wait_for_end();
        drop(held);
    }
    Ok(())
}

/// The status of a bed that another process runs.
pub fn status_of(name: &BedName) -> Result<Status> {
    let layout = Layout::new(name.clone())?;
    let not_up = || BedError::NotUp(name.to_string());
    teardown::Owner::read(&layout).filter(teardown::Owner::lives).ok_or_else(not_up)?;
    let path = layout.state.join(publish::STATUS_FILE);
    let text = fs::read(&path).map_err(|_| not_up())?;
    serde_json::from_slice(&text).map_err(std::io::Error::from).at("read", &path)
}

/// The pod `NAMESPACE/NAME` of a bed that another process runs.
pub fn pod_of(name: &BedName, pod: &str) -> Result<PodHandle> {
    PodHandle::new(status_of(name)?.pod(pod)?.clone(), Tools::find()?.search_path())
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
