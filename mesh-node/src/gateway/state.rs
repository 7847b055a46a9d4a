//! What the admin ports may ask of a gateway.

use std::sync::Arc;

use mesh_core::model::Snapshot;
use mesh_core::own::Own;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Doors;
use super::edge::{ListenerStatus, Status};
use super::identity::identity_of;
use crate::admin::{AdminState, BpfLog, LogControl, PodStatus};
use crate::identity::{CertificateStatus, IdentityStore};
use crate::run::drain::Drain;
use crate::run::state::Findings;
use crate::run::watchdog::Watchdog;

/// A gateway's state, read by the admin ports.
pub(super) struct GatewayState {
    /// Its namespace and name.
    pub(super) name: String,
    pub(super) doors: Doors,
    /// The process's settings.
    pub(super) settings: Value,
    pub(super) log: LogControl,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is wrong with the configuration as such.
    pub(super) told: watch::Receiver<Findings>,
    /// How it stands with the listeners.
    pub(super) edge: watch::Receiver<Arc<Status>>,
    pub(super) own: watch::Receiver<Arc<Own>>,
    pub(super) identities: Arc<IdentityStore>,
    /// Who sees whether threads turn.
    pub(super) watchdog: Arc<Watchdog>,
    /// Whether the process is about to stop.
    pub(super) stopping: Drain,
}

impl AdminState for GatewayState {
    fn node(&self) -> &str {
        &self.name
    }

    fn config(&self) -> Value {
        let own = self.own.borrow().clone();
        let ports = own.ports.iter().map(|(from, to)| (from.to_string(), Value::from(*to)));
        let known = json!({
            "knownBy": own.known_by.to_string(),
            "labels": own.labels,
            "serviceAccount": &*own.service_account,
            "ports": Value::Object(ports.collect()),
        });
        let mut settings = self.settings.clone();
        if let Some(fields) = settings.as_object_mut() {
            fields.insert("gateway".to_owned(), known);
        }
        settings
    }

    fn log(&self) -> &LogControl {
        &self.log
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    fn findings(&self) -> Vec<String> {
        let told = self.told.borrow().clone();
        let edge = self.edge.borrow().findings.clone();
        told.iter().chain(edge.iter()).cloned().collect()
    }

    fn listeners(&self) -> Option<Value> {
        Some(self.edge.borrow().listeners.iter().map(ListenerStatus::dump).collect())
    }

    fn pods(&self) -> Vec<PodStatus> {
        Vec::new()
    }

    fn certificates(&self) -> Vec<CertificateStatus> {
        self.identities.statuses()
    }

    fn set_bpf_log(&self, _: BpfLog) -> Result<(), String> {
        Err("A gateway has nothing in the kernel.".to_owned())
    }

    /// A port that cannot be had keeps nobody from the others, so it keeps the gateway from nothing either.
    fn ready(&self) -> Result<(), String> {
        if self.stopping.is_draining() {
            return Err("stopping".to_owned());
        }
        if !self.snapshots.borrow().is_loaded() {
            return Err("no configuration is loaded yet".to_owned());
        }
        if !self.edge.borrow().settled {
            return Err("the listeners are not open yet".to_owned());
        }
        if let Some(thread) = self.watchdog.stalled() {
            return Err(format!("the thread {thread} stands still"));
        }
        // A gateway may have strangers only, who ask for none.
        if self.doors == Doors::Tunnels {
            let id = identity_of(&self.own.borrow(), &self.snapshots.borrow());
            if id.is_none_or(|id| self.identities.current(&id).is_none()) {
                return Err("there is no certificate yet".to_owned());
            }
            if let Some(error) = self.edge.borrow().listeners.iter().find_map(|one| one.error.clone()) {
                return Err(format!("tunnels cannot be taken: {error}"));
            }
        }
        Ok(())
    }
}
