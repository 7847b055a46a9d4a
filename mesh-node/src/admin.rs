//! The node's HTTP ports for people and tools: 15000 (state and log levels, loopback only), 15020 (metrics) and
//! 15021 (readiness).
//!
//! Everything here only reads, save the log levels. Invariant: nothing that a pod, a peer or a web page in somebody's
//! browser can send changes the node or learns its configuration, and no client can keep another from being served for
//! long.

mod dump;
mod guard;
mod kernel;
mod logging;
mod policies;
mod profile;
mod routes;
mod server;
mod table;
mod view;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_core::id::SpiffeId;
use mesh_core::model::Snapshot;
use tokio::time::Instant;

use crate::identity::CertificateStatus;
use crate::redirect::inspect::Inventory;
use crate::report::{CertificateFigure, NodeFigures, Reporter};

pub use logging::{LevelLayer, LevelsError, LogControl};
pub use server::{AdminError, Endpoint, Ports, Servers};

/// What the admin ports ask the rest of the node. Called on the control thread; must not block.
pub trait AdminState: Send + Sync {
    /// The node's name.
    fn node(&self) -> &str;

    /// Which pod the process is of, where it was told and several may have the same ports one after the other.
    fn instance(&self) -> Option<&str> {
        None
    }

    /// The process's own settings, for `/config_dump`. Must not hold secrets.
    fn config(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// What controls the log levels.
    fn log(&self) -> &LogControl;

    /// The configuration in force.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// What is wrong with the configuration, one line each.
    fn findings(&self) -> Vec<String> {
        Vec::new()
    }

    /// What a gateway listens to, for `/config_dump`. Must not hold secrets.
    fn listeners(&self) -> Option<serde_json::Value> {
        None
    }

    /// The local pods that are enrolled, or were until a moment ago.
    fn pods(&self) -> Vec<PodStatus>;

    /// The certificates the node holds or wants.
    fn certificates(&self) -> Vec<CertificateStatus>;

    /// What of this process is in the kernel, and its counters; `None` where nothing ever is.
    fn kernel(&self) -> Option<(Inventory, Vec<(&'static str, u64)>)> {
        None
    }

    /// Has the process drain and end, as SIGTERM does.
    ///
    /// # Errors
    /// A sentence for people.
    fn stop(&self) -> Result<(), String> {
        crate::sys::signal::terminate().map_err(|error| format!("Not stopped: {error}."))
    }

    /// Sets how much the kernel programs say.
    ///
    /// # Errors
    /// A sentence for people, if the level cannot be set.
    fn set_bpf_log(&self, level: BpfLog) -> Result<(), String>;

    /// Whether the node is ready to serve.
    ///
    /// # Errors
    /// What it waits for, a sentence for people.
    fn ready(&self) -> Result<(), String>;
}

/// How much the kernel programs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BpfLog {
    /// Nothing.
    Off,
    /// What is rare.
    Info,
    /// Every decision.
    Debug,
}

/// One local pod, as capture sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// The workload's uid.
    pub uid: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Who it is.
    pub identity: SpiffeId,
    /// How far its capture has come.
    pub state: PodState,
    /// Since when it is in that state.
    pub since: SystemTime,
    /// Whether its express flows take the shortcut, or why not; `None` without express path.
    pub shortcut: Option<Result<(), String>>,
}

/// How far the capture of a pod has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Not yet, and why.
    Pending(String),
    /// All its traffic goes through the node.
    Captured,
    /// Tried without success, and why; is tried again.
    Failed(String),
    /// No longer.
    Released,
}

impl PodState {
    /// One word for tables and JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pending(_) => "pending",
            Self::Captured => "captured",
            Self::Failed(_) => "failed",
            Self::Released => "released",
        }
    }

    /// Why it is not captured, where there is a reason.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Pending(reason) | Self::Failed(reason) => Some(reason),
            Self::Captured | Self::Released => None,
        }
    }
}

/// All that answers of the admin ports are made from.
pub struct Admin {
    state: Arc<dyn AdminState>,
    reporter: Arc<Reporter>,
    started: Instant,
}

/// Opens the admin ports at their usual numbers. They are served, and open, as long as what it returns.
///
/// # Errors
/// If a port is taken.
pub async fn serve(
    state: Arc<dyn AdminState>,
    reporter: Arc<Reporter>,
) -> Result<impl Future<Output = ()>, AdminError> {
    let servers = Servers::bind(Ports::default()).await?;
    Ok(servers.run(Admin::new(state, reporter)))
}

impl Admin {
    /// Puts together what the servers need; see [`Servers::run`].
    pub fn new(state: Arc<dyn AdminState>, reporter: Arc<Reporter>) -> Arc<Self> {
        Arc::new(Self { state, reporter, started: Instant::now() })
    }

    /// The metrics' text.
    fn scrape(&self) -> String {
        let pods = self.state.pods();
        let count = |wanted: fn(&PodState) -> bool| {
            let count = pods.iter().filter(|pod| wanted(&pod.state)).count();
            u64::try_from(count).unwrap_or(u64::MAX)
        };
        let certificates = self.state.certificates().into_iter().map(|status| {
            let view = view::certificate(&status);
            CertificateFigure { identity: view.identity, not_after: view.not_after }
        });
        self.reporter.scrape(NodeFigures {
            active_pods: count(|state| *state == PodState::Captured),
            pending_pods: count(|state| state.reason().is_some()),
            ready: self.state.ready().is_ok(),
            certificates: certificates.collect(),
        })
    }
}

#[cfg(test)]
mod tests;
