//! Takes in what proxies tell of the traffic that they carry, for the mesh page.
//!
//! Invariants: a proxy is believed only about traffic that one end of is its own: a node about workloads that run on it,
//! a gateway about its own pods, a waypoint about what is bound to it; and about policies that are for those. Names are those of the model, whatever a report
//! says. What is kept is bounded: of traffic by [`Store`], of proxies by a limit here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_ca::authorize::{Binding, Caller, Rules};
use mesh_core::id::SpiffeId;
use mesh_core::topology::Store;
use mesh_proto::codec::{MAX_TOLD_PODS, MAX_TOLD_REASON};
use mesh_proto::topology::topology_server::Topology as Service;
use mesh_proto::topology::{TopologyReceived, TopologyReport, TroubledPod};
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use self::directory::{Directory, Own};
use crate::authn::Authenticator;
use crate::gate::Gate;
use crate::hub::Hub;
use crate::peer::{Connection, Proven};

mod directory;

/// What was told, and by whom.
#[derive(Debug, Default)]
pub struct Traffic {
    store: Mutex<Store>,
    proxies: Mutex<BTreeMap<Arc<str>, Proxy>>,
    /// Totals.
    pub counters: Counters,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reports that were taken in.
    pub reports: AtomicU64,
    /// Reports that were refused as a whole.
    pub refused: AtomicU64,
    /// Edges and policies that were not believed.
    pub disbelieved: AtomicU64,
    /// Edges and policies for which there was no room, here or in a report.
    pub left_out: AtomicU64,
}

/// A proxy, as it has told of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Of this build.
    pub version: Arc<str>,
    /// Pods whose traffic is captured.
    pub captured: u32,
    /// Pods that wait for it.
    pub pending: u32,
    /// Connections open.
    pub connections: u64,
    /// Pods of its node that it says something is wrong with.
    pub troubles: Arc<[Trouble]>,
    /// Whether it was another replica that it has told.
    pub is_relayed: bool,
    /// When it has told last, in seconds since 1970.
    pub at: u64,
}

/// Why a pod is not as it should be, as its node says. It may name any pod: whoever shows it looks whether the pod is on that
/// node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The pod's namespace.
    pub namespace: Box<str>,
    /// The pod's name.
    pub name: Box<str>,
    /// Why its traffic is not captured, if it is not.
    pub capture: Option<Box<str>>,
    /// Why it has no new certificate, if it should have one.
    pub certificate: Option<Box<str>>,
}

/// The service that takes reports.
#[derive(Debug, Clone)]
pub struct Topology {
    traffic: Arc<Traffic>,
    hub: Arc<Hub>,
    authenticator: Arc<Authenticator>,
    rules: Arc<Rules>,
    directory: Arc<Mutex<Directory>>,
    complaints: Arc<Gate>,
    relay: Option<Relay>,
}

/// The way to the other replicas of this control plane.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Who they are, and this process as well.
    pub own: SpiffeId,
    /// What they are to be told. What has no room is not told.
    pub reports: mpsc::Sender<TopologyReport>,
}

impl Traffic {
    /// What was told, for whoever shows it.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All proxies that have told something within the hour: nodes by their name, the processes of a gateway as
    /// `NAMESPACE/NAME@ADDRESS`.
    pub fn proxies(&self) -> BTreeMap<Arc<str>, Proxy> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that a proxy has told something; an error if it does so too often, or there are too many.
    fn meet(&self, name: &str, proxy: Proxy) -> Result<(), Status> {
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let now = proxy.at;
        match proxies.get_mut(name) {
            Some(known) if known.at == now => {
                return Err(Status::resource_exhausted("one report a second is enough"));
            }
            Some(known) => *known = proxy,
            None => {
                if proxies.len() >= MAX_PROXIES {
                    proxies.retain(|_, known| now.saturating_sub(known.at) < FORGOTTEN);
                }
                if proxies.len() >= MAX_PROXIES {
                    return Err(Status::resource_exhausted("there are too many proxies"));
                }
                proxies.insert(name.into(), proxy);
            }
        }
        Ok(())
    }
}

impl Topology {
    /// Takes in what is told to `traffic`, as far as `hub` knows of it.
    pub fn new(
        traffic: Arc<Traffic>,
        hub: Arc<Hub>,
        authenticator: Arc<Authenticator>,
        rules: Arc<Rules>,
        relay: Option<Relay>,
    ) -> Self {
        let (directory, complaints) = (Arc::default(), Arc::default());
        Self { traffic, hub, authenticator, rules, directory, complaints, relay }
    }

    async fn take(&self, request: Request<TopologyReport>) -> Result<TopologyReceived, Status> {
        let proven = self.authenticator.authenticate(&request).await?;
        let peer = request.extensions().get::<Connection>().map(|connection| connection.address.ip());
        let report = request.into_inner();
        let is_relayed = !report.relayed_name.is_empty();
        let (name, own) = match (is_relayed, peer) {
            (true, _) => relayed(&proven, &report, self.relay.as_ref())?,
            (false, peer) => match (who(&proven, &report, &self.rules)?, peer) {
                ((name, own @ Own::Gateway { .. }), Some(peer)) => (process_of(&name, peer), own),
                (who, _) => who,
            },
        };
        let now = now();
        let proxy = Proxy {
            version: short(&report.version),
            captured: report.captured,
            pending: report.pending,
            connections: report.connections,
            troubles: match &own {
                Own::Node(_) => report.troubles.iter().take(MAX_TOLD_PODS).map(trouble).collect(),
                Own::Gateway { .. } => Arc::default(),
            },
            is_relayed,
            at: now,
        };
        self.traffic.meet(&name, proxy)?;
        if let Some(relay) = self.relay.as_ref().filter(|_| !is_relayed) {
            relay.pass_on(&name, &own, &report);
        }
        let refused = self.take_counts(&own, report, now);
        let counters = &self.traffic.counters;
        counters.reports.fetch_add(1, Ordering::Relaxed);
        counters.disbelieved.fetch_add(refused.into(), Ordering::Relaxed);
        if refused > 0
            && let Some(muted) = self.complaints.pass()
        {
            tracing::debug!(proxy = name, refused, muted, "Parts of a report are not believed.");
        }
        Ok(TopologyReceived { refused })
    }

    /// How many edges and policies were not believed.
    fn take_counts(&self, own: &Own, report: TopologyReport, now: u64) -> u32 {
        let (mut refused, mut left_out) = (0, report.left_out);
        let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = self.hub.shelf();
        directory.follow(&shelf, now);
        let believed: Vec<_> = report
            .edges
            .into_iter()
            .filter_map(|told| {
                let edge = directory.edge(own, &told, &shelf);
                refused += u32::from(edge.is_none());
                Some((edge?, directory::tally(&told)))
            })
            .collect();
        let held = if report.policies.is_empty() { None } else { Some(directory.held(own, &shelf)) };
        let rulings: Vec<_> = report
            .policies
            .iter()
            .filter_map(|told| {
                let policy = held.as_ref().and_then(|held| held.policy(told, &shelf));
                refused += u32::from(policy.is_none());
                Some((policy?, directory::verdicts(told)))
            })
            .collect();
        drop((shelf, directory));
        let mut store = self.traffic.store();
        store.roll(now);
        for (edge, tally) in believed {
            left_out += u64::from(!store.record(now, edge, &tally));
        }
        for (policy, verdicts) in rulings {
            left_out += u64::from(!store.record_verdicts(now, policy, &verdicts));
        }
        self.traffic.counters.left_out.fetch_add(left_out, Ordering::Relaxed);
        refused
    }
}

#[tonic::async_trait]
impl Service for Topology {
    async fn report(&self, request: Request<TopologyReport>) -> Result<Response<TopologyReceived>, Status> {
        let taken = self.take(request).await;
        if let Err(status) = &taken {
            self.traffic.counters.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(muted) = self.complaints.pass() {
                tracing::warn!(reason = status.message(), muted, "A report of traffic was refused.");
            }
        }
        taken.map(Response::new)
    }
}

/// What a proxy is called, and what is its own, as far as it has proven that. On a port that asks for nothing it is
/// believed.
fn who(proven: &Proven, report: &TopologyReport, rules: &Rules) -> Result<(String, Own), Status> {
    let denied = |what: &str| {
        let what: String = what.chars().take(MAX_NAME).collect();
        Status::permission_denied(format!("you are {}, not the proxy of {what}", proven.describe()))
    };
    let is_nobody = matches!(proven, Proven::Nobody);
    if report.gateway.is_empty() {
        let node = proven.node(rules).or_else(|| is_nobody.then(|| report.node.as_str().into()));
        let node = node.filter(|node| **node == *report.node && !node.is_empty());
        let node = node.ok_or_else(|| denied(&format!("node {}", report.node)))?;
        return Ok((node.to_string(), Own::Node(node)));
    }
    let (namespace, name) = report.gateway.split_once('/').ok_or_else(|| denied(&report.gateway))?;
    let is_proven = proven.namespace(rules).is_some_and(|proven| *proven == *namespace);
    if !(is_proven || is_nobody) || report.gateway.len() > MAX_NAME {
        return Err(denied(&report.gateway));
    }
    let own = Own::Gateway { namespace: namespace.into(), name: name.into(), account: account(proven) };
    Ok((report.gateway.clone(), own))
}

/// The same of a proxy that another replica speaks for.
fn relayed(proven: &Proven, report: &TopologyReport, relay: Option<&Relay>) -> Result<(String, Own), Status> {
    let own = relay.map(|relay| &relay.own);
    let is_replica =
        matches!(proven, Proven::Caller(caller) if matches!(&**caller, Caller::Svid(id) if Some(id) == own));
    if !is_replica || report.relayed_name.len() > MAX_NAME || report.gateway.len() > MAX_NAME {
        return Err(Status::permission_denied(format!("you are {}, no replica", proven.describe())));
    }
    let own = match report.gateway.split_once('/') {
        None => Own::Node(report.node.as_str().into()),
        Some((namespace, name)) => {
            let account = Some(&report.relayed_account).filter(|it| !it.is_empty());
            let account = account.map(|it| it.as_str().into());
            Own::Gateway { namespace: namespace.into(), name: name.into(), account }
        }
    };
    Ok((report.relayed_name.clone(), own))
}

impl Relay {
    fn pass_on(&self, name: &str, own: &Own, report: &TopologyReport) {
        // Nobody waits for it: there is one replica alone, or too much to tell.
        let Ok(place) = self.reports.try_reserve() else { return };
        let account = match own {
            Own::Gateway { account: Some(account), .. } => account.to_string(),
            _ => String::new(),
        };
        place.send(TopologyReport {
            relayed_name: name.to_owned(),
            relayed_account: account,
            ..report.clone()
        });
    }
}

/// The service account that the caller has proven to run as.
fn account(proven: &Proven) -> Option<Arc<str>> {
    let Proven::Caller(caller) = proven else { return None };
    match &**caller {
        Caller::ServiceAccountToken { service_account, .. } => Some(service_account.as_str().into()),
        Caller::Svid(id) | Caller::JoinToken(Binding::Identity(id)) => Some(id.service_account().into()),
        Caller::JoinToken(Binding::Node(_)) => None,
    }
}

fn trouble(told: &TroubledPod) -> Trouble {
    let cut = |text: &str, most: usize| text.chars().take(most).collect::<String>().into_boxed_str();
    let reason = |text: &str| Some(cut(text, MAX_TOLD_REASON)).filter(|text| !text.is_empty());
    Trouble {
        namespace: cut(&told.namespace, MAX_NAME),
        name: cut(&told.name, MAX_NAME),
        capture: reason(&told.capture),
        certificate: reason(&told.certificate),
    }
}

/// What one of the processes of a gateway is called.
pub fn process_of(gateway: &str, address: IpAddr) -> String {
    format!("{gateway}@{}", address.to_canonical())
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn short(text: &str) -> Arc<str> {
    text.chars().take(MAX_VERSION).collect::<String>().into()
}

/// Bytes of a report: all edges that one may have, with names of usual length.
pub const MAX_REPORT: usize = 512 << 10;
/// Proxies that are remembered.
const MAX_PROXIES: usize = 20_000;
/// Seconds after which a proxy that tells nothing makes room for another.
const FORGOTTEN: u64 = 3_600;
/// Characters of a name.
const MAX_NAME: usize = 512;
/// Characters of a version.
const MAX_VERSION: usize = 64;

#[cfg(test)]
mod tests;
