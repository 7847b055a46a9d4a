//! What the admin ports may ask of the node.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use mesh_common::{LOG_DEBUG, LOG_INFO, LOG_OFF, NodeConfig};
use mesh_core::model::Snapshot;
use tokio::sync::watch;

use crate::{
    admin::{AdminState, BpfLog, LogControl, PodState, PodStatus},
    identity::{CertificateStatus, IdentityStore},
    redirect::{
        inspect::{self, Inventory},
        maps::ControlMaps,
        pins::Pins,
    },
    run::watchdog::Watchdog,
};

/// All there is to say about the configuration, one line each.
pub type Findings = Arc<BTreeSet<String>>;

/// The node's state, read by the admin ports.
pub struct NodeState {
    /// Name of the node.
    pub node: String,
    /// The pod that this process is of.
    pub instance: Option<String>,
    /// Whether this is the node of a machine in place of pods.
    pub is_machine: bool,
    /// The process's settings, for the configuration dump.
    pub settings: serde_json::Value,
    /// Log levels.
    pub log: LogControl,
    /// The configuration as it changes.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is wrong with the configuration.
    pub findings: watch::Receiver<Findings>,
    /// Local pods and how far their capture has come; `None` before the first look.
    pub pods: watch::Receiver<Option<Arc<Vec<PodStatus>>>>,
    /// Certificates.
    pub identities: Arc<IdentityStore>,
    /// Who sees whether threads turn.
    pub watchdog: Arc<Watchdog>,
    /// The kernel programs' settings and counters.
    pub maps: Mutex<ControlMaps>,
    /// Where all of the node's is pinned.
    pub pins: Pins,
}

impl NodeState {
    /// Has the kernel's programs know the process in the cgroup `agent` as the one that serves, after another was to and has ended.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn reclaim(&self, agent: u64) -> anyhow::Result<()> {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let node = maps.node().context("reading what holds for the node")?;
        maps.set_node(NodeConfig { agent_cgroups: [agent, 0], ..node })
            .context("writing what holds for the node")
    }
}

impl AdminState for NodeState {
    fn node(&self) -> &str {
        &self.node
    }

    fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    fn config(&self) -> serde_json::Value {
        self.settings.clone()
    }

    fn log(&self) -> &LogControl {
        &self.log
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    fn findings(&self) -> Vec<String> {
        self.findings.borrow().iter().cloned().collect()
    }

    fn pods(&self) -> Vec<PodStatus> {
        self.pods.borrow().as_deref().cloned().unwrap_or_default()
    }

    fn certificates(&self) -> Vec<CertificateStatus> {
        self.identities.statuses()
    }

    fn kernel(&self) -> Option<(Inventory, Vec<(&'static str, u64)>)> {
        let counters = self.maps.lock().unwrap_or_else(PoisonError::into_inner).stats();
        Some((inspect::inspect(&self.pins), counters))
    }

    fn set_bpf_log(&self, level: BpfLog) -> Result<(), String> {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut node = maps.node().map_err(|error| error.to_string())?;
        node.log_level = match level {
            BpfLog::Off => LOG_OFF,
            BpfLog::Info => LOG_INFO,
            BpfLog::Debug => LOG_DEBUG,
        };
        maps.set_node(node).map_err(|error| error.to_string())
    }

    fn ready(&self) -> Result<(), String> {
        if !self.snapshots.borrow().is_loaded() {
            return Err("no configuration is loaded yet".to_owned());
        }
        let Some(pods) = self.pods.borrow().clone() else {
            return Err("local pods have not been looked at yet".to_owned());
        };
        let captured = || pods.iter().filter(|pod| pod.state == PodState::Captured);
        if self.is_machine && captured().next().is_none() {
            let reason = pods.iter().find_map(|pod| pod.state.reason()).map(|reason| format!(": {reason}"));
            return Err(format!("nothing of this machine is captured yet{}", reason.unwrap_or_default()));
        }
        let captured = captured();
        for pod in captured {
            if self.identities.current(&pod.identity).is_none() {
                return Err(format!("no certificate for {} yet", pod.identity));
            }
        }
        self.watchdog.stalled().map_or(Ok(()), |thread| Err(format!("the thread {thread} stands still")))
    }
}
