//! The control thread's part: follows the configuration and the files that it names, and keeps the listeners in step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::id::TrustDomain;
use mesh_core::model::{Config, Snapshot};
use mesh_core::own::Own;
use mesh_core::route::ListenerProtocol;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use super::Doors;
use super::compile::{Inputs, Outcome};
use super::identity::Identity;
use super::listener::Serving;
use super::sockets::{Place, Sockets};
use crate::run::drain::Drain;
use crate::run::state::Findings;
use crate::tls::files::Files;

/// Follows the configuration.
pub(super) struct Edge {
    doors: Doors,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    own: watch::Receiver<Arc<Own>>,
    sockets: Sockets,
    files: Files,
    /// What was compiled last, with which credentials, and in which trust domain.
    configs: (Vec<Arc<Config>>, u64, TrustDomain),
    /// For whom.
    known: Option<Arc<Own>>,
    /// What the last compilation had to say.
    findings: BTreeSet<String>,
    status: watch::Sender<Arc<Status>>,
}

/// How it stands with the listeners.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    /// Whether they have been brought in step with a configuration.
    pub(super) settled: bool,
    pub(super) listeners: Vec<ListenerStatus>,
    /// What there is to say about them, one line each.
    pub(super) findings: Findings,
    /// Certificates that servers show: SHA-256 in hexadecimal, and when it ends.
    pub(super) certificates: BTreeMap<String, i64>,
}

/// How it stands with one of them.
#[derive(Debug, Clone)]
pub(super) struct ListenerStatus {
    pub(super) place: Place,
    /// Why it does not listen.
    pub(super) error: Option<Arc<str>>,
    pub(super) serving: Arc<Serving>,
}

impl Edge {
    pub(super) fn new(
        doors: Doors,
        identity: &Identity,
        (snapshots, sockets): (watch::Receiver<Arc<Snapshot>>, Sockets),
    ) -> Self {
        Self {
            doors,
            snapshots,
            own: identity.subscribe(),
            sockets,
            files: Files::default(),
            configs: (Vec::new(), 0, TrustDomain::default()),
            known: None,
            findings: BTreeSet::new(),
            status: watch::Sender::default(),
        }
    }

    /// How it stands with the listeners, now and later.
    pub(super) fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Follows until the process stops; then tells all connections to end, and when their time is over ends them.
    pub(super) async fn run(mut self, stopping: Drain) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let retry = self.sockets.next_attempt();
            let due = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = self.snapshots.changed() => self.follow(false).await,
                Ok(()) = self.own.changed() => self.follow(true).await,
                () = due => {
                    self.sockets.retry().await;
                    self.tell();
                }
                _ = looks.tick() => self.look().await,
                () = stopping.graceful() => break,
            }
        }
        self.sockets.drain(false);
        stopping.forced().await;
        self.sockets.drain(true);
    }

    /// Looks at a new configuration; nothing is done if it is the same as far as listeners go.
    async fn follow(&mut self, anyway: bool) {
        let snapshot = self.snapshots.borrow_and_update().clone();
        if !snapshot.is_loaded() {
            return;
        }
        let domain = snapshot.trust_domain().clone();
        let configs = (Inputs::configs(self.doors, &snapshot), snapshot.credential_generation(), domain);
        let (new, old) = (&configs, &self.configs);
        let same = (new.1, &new.2) == (old.1, &old.2)
            && new.0.len() == old.0.len()
            && new.0.iter().zip(&old.0).all(|(new, old)| Arc::ptr_eq(new, old));
        if !same || anyway || !self.status.borrow().settled {
            self.configs = configs;
            self.update(snapshot).await;
        }
    }

    /// Looks at the files of certificates.
    async fn look(&mut self) {
        let mut files = std::mem::take(&mut self.files);
        let looked = tokio::task::spawn_blocking(move || {
            let changed = files.have_changed();
            (files, changed)
        });
        let (files, changed) = looked.await.unwrap_or_default();
        self.files = files;
        let snapshot = self.snapshots.borrow().clone();
        if changed && snapshot.is_loaded() {
            self.update(snapshot).await;
        }
    }

    async fn update(&mut self, snapshot: Arc<Snapshot>) {
        let started = Instant::now();
        let own = self.own.borrow_and_update().clone();
        if self.known.as_ref() != Some(&own) {
            let (labels, ports) = (&own.labels, &own.ports);
            info!(known_by = %own.known_by, ?labels, ?ports, "What this gateway is known by.");
            self.known = Some(Arc::clone(&own));
        }
        let known = self.sockets.statuses().into_iter();
        let before = known.map(|(place, serving, _)| (place, serving)).collect();
        let doors = self.doors;
        let inputs = Inputs { doors, snapshot, own, addresses: self.sockets.addresses().to_vec(), before };
        let mut files = std::mem::take(&mut self.files);
        let compiled = tokio::task::spawn_blocking(move || {
            let outcome = inputs.compile(&mut files);
            (outcome, files)
        });
        let Outcome { wanted, findings } = match compiled.await {
            Ok((outcome, files)) => {
                self.files = files;
                outcome
            }
            Err(error) => {
                return error!(%error, "The listeners of this configuration could not be worked out.");
            }
        };
        self.sockets.reconcile(&wanted).await;
        self.findings = findings;
        self.tell();
        let took_ms = started.elapsed().as_millis();
        info!(listeners = wanted.len(), took_ms, "Listeners are in step with the configuration.");
    }

    /// Makes known how it stands, and logs what is new to say.
    fn tell(&self) {
        let mut findings = self.findings.clone();
        let (mut listeners, mut certificates) = (Vec::new(), BTreeMap::new());
        for (place, serving, error) in self.sockets.statuses() {
            if let Some(error) = &error {
                findings.insert(format!("{}{place} cannot be listened on: {error}", whose(&serving)));
            }
            let shown = serving.servers().filter_map(|(_, served)| served.tls.as_ref());
            for certificate in shown.flat_map(|tls| tls.certificates()) {
                certificates.insert(certificate.fingerprint.clone(), certificate.not_after);
            }
            listeners.push(ListenerStatus { place, error, serving });
        }
        let findings = Arc::new(findings);
        let before = Arc::clone(&self.status.borrow().findings);
        findings.difference(&before).for_each(|finding| warn!(target: "config", "{finding}"));
        before.difference(&findings).for_each(|finding| info!(target: "config", "Mended: {finding}"));
        self.status.send_replace(Arc::new(Status { settled: true, listeners, findings, certificates }));
    }
}

impl ListenerStatus {
    /// For the configuration dump; what of certificates may be shown is their hash and their end.
    pub(super) fn dump(&self) -> Value {
        let servers = self.serving.servers().map(|(server, served)| {
            let tls = served.tls.as_ref();
            let shown = tls.map(|tls| tls.certificates()).unwrap_or_default().iter();
            let certificates =
                shown.map(|one| json!({ "sha256": one.fingerprint, "notAfterSeconds": one.not_after }));
            json!({
                "gateway": server.gateway.to_string(),
                "port": server.port,
                "portName": &*server.port_name,
                "hosts": server.hosts.iter().map(|host| host.host.to_string()).collect::<Vec<_>>(),
                "tls": server.tls.as_ref().map(|tls| format!("{:?}", tls.mode)),
                "httpsRedirect": server.https_redirect,
                "problem": tls.and_then(|tls| tls.problem()),
                "certificates": certificates.collect::<Vec<_>>(),
            })
        });
        let protocol = match self.serving.protocol() {
            ListenerProtocol::Http => "HTTP",
            ListenerProtocol::Tls => "TLS",
            ListenerProtocol::Tcp => "TCP",
            ListenerProtocol::Udp => "UDP",
            ListenerProtocol::Tunnel => "HBONE",
        };
        json!({
            "address": self.place.address.to_string(),
            "protocol": protocol,
            "state": if self.error.is_some() { "failed" } else { "open" },
            "error": self.error.as_deref(),
            "servers": servers.collect::<Vec<_>>(),
        })
    }
}

fn whose(serving: &Serving) -> String {
    let names: BTreeSet<_> = serving.servers().map(|(server, _)| server.gateway.to_string()).collect();
    match names.len() {
        0 => String::new(),
        1 => format!("Gateway {}: ", names.into_iter().collect::<String>()),
        _ => format!("Gateways {}: ", names.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// How often files are looked at: a change takes effect within a second, also where there is much to compile.
const LOOK: Duration = Duration::from_millis(250);
