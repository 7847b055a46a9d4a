//! Who is who: the ends of an edge by the names that a report has for them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::model::{Record, RecordKey, Service, ServiceKey, Waypoint};
use mesh_core::policy::{MUTUAL_TLS_PREFIX, PolicyName, Scope};
use mesh_core::resource::ObjectKey;
use mesh_core::topology::{
    Edge, Latency, Party, PolicyId, PolicyKind, Protection, Protocol, Served, Side, Tally, Verdicts,
};
use mesh_proto::names::{self, ResourceType};
use mesh_proto::topology::topology_edge as wire;
use mesh_proto::topology::{PolicyVerdicts, TopologyEdge, Workload as Named, policy_verdicts};

use crate::shelf::Shelf;

/// What a proxy may tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Own {
    /// Of what runs on this node.
    Node(Arc<str>),
    /// Of its own pods, and of what is bound to it.
    Gateway {
        namespace: Arc<str>,
        name: Arc<str>,
        /// As which its pods run; any, if it need not prove anything.
        account: Option<Arc<str>>,
    },
}

/// The workloads of the model by name. Made anew when the model has changed, but not for every change.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Of the shelf, and when, as of the last time.
    seen: Option<(u64, u64)>,
    workloads: HashMap<(Arc<str>, Arc<str>), Entry>,
}

/// What is known of a workload's pods.
#[derive(Debug)]
struct Entry {
    party: Arc<Party>,
    nodes: BTreeSet<Arc<str>>,
    accounts: BTreeSet<Arc<str>>,
    waypoints: Vec<Arc<Waypoint>>,
    /// Keys of those that select it.
    policies: BTreeSet<Arc<PolicyName>>,
}

/// What a proxy may tell of policies: those of its own.
#[derive(Debug, Default)]
pub(super) struct Held {
    namespaces: BTreeSet<Arc<str>>,
    policies: BTreeSet<Arc<PolicyName>>,
}

impl Directory {
    /// Takes over what has changed.
    pub(super) fn follow(&mut self, shelf: &Shelf, now: u64) {
        let sequence = shelf.sequence();
        let is_fresh = |(of, at): (u64, u64)| of == sequence || now.saturating_sub(at) < AGAIN;
        if self.seen.is_some_and(is_fresh) {
            return;
        }
        self.seen = Some((sequence, now));
        self.workloads.clear();
        for entry in shelf.store(ResourceType::Address).iter() {
            let Record::Workload(workload) = &entry.record else { continue };
            let key = (Arc::clone(&workload.namespace), Arc::clone(&workload.workload_name));
            let entry = self.workloads.entry(key).or_insert_with(|| Entry {
                party: Arc::new(Party {
                    namespace: Arc::clone(&workload.namespace),
                    workload: Arc::clone(&workload.workload_name),
                    app: Arc::clone(&workload.canonical_name),
                    version: Arc::clone(&workload.canonical_revision),
                }),
                nodes: BTreeSet::new(),
                accounts: BTreeSet::new(),
                waypoints: Vec::new(),
                policies: BTreeSet::new(),
            });
            entry.policies.extend(workload.policies.iter().cloned());
            entry.nodes.extend(workload.node.clone());
            entry.accounts.insert(Arc::clone(&workload.service_account));
            if let Some(waypoint) = &workload.waypoint
                && !entry.waypoints.contains(waypoint)
            {
                entry.waypoints.push(Arc::clone(waypoint));
            }
        }
    }

    /// What an edge is about, if whoever tells of it may do so.
    pub(super) fn edge(&self, own: &Own, told: &TopologyEdge, shelf: &Shelf) -> Option<Edge> {
        let (source, destination) = (self.find(told.source.as_ref()), self.find(told.destination.as_ref()));
        let service = service(told, shelf);
        let side = side(told.side());
        let may = match side {
            Side::Source => source.is_some_and(|end| own.has(end)),
            Side::Destination => destination.is_some_and(|end| own.has(end)),
            Side::Waypoint => {
                let bound = service.as_ref().and_then(|service| service.waypoint.as_ref());
                let bound = bound.into_iter().chain(destination.into_iter().flat_map(|end| &end.waypoints));
                bound.into_iter().any(|waypoint| own.is(waypoint))
            }
        };
        may.then(|| Edge {
            source: source.map(|end| Arc::clone(&end.party)),
            destination: destination.map(|end| Arc::clone(&end.party)),
            service: served(told, service.as_deref()),
            side,
            protocol: protocol(told.protocol()),
            protection: protection(told.protection()),
        })
    }

    /// What a proxy may tell of policies. Takes time in proportion to the workloads there are.
    pub(super) fn held(&self, own: &Own, shelf: &Shelf) -> Held {
        let mut held = Held::default();
        for entry in self.workloads.values() {
            if own.has(entry) {
                held.namespaces.insert(Arc::clone(&entry.party.namespace));
                held.policies.extend(entry.policies.iter().cloned());
            } else if entry.waypoints.iter().any(|waypoint| own.is(waypoint)) {
                held.namespaces.insert(Arc::clone(&entry.party.namespace));
            }
        }
        if let Own::Gateway { namespace, .. } = own {
            held.namespaces.insert(Arc::clone(namespace));
            for entry in shelf.store(ResourceType::Address).iter() {
                let Record::Service(service) = &entry.record else { continue };
                if service.waypoint.as_ref().is_some_and(|waypoint| own.is(waypoint)) {
                    held.namespaces.insert(Arc::clone(&service.namespace));
                }
            }
        }
        held
    }

    fn find(&self, named: Option<&Named>) -> Option<&Entry> {
        let Named { namespace, name } = named?;
        self.workloads.get(&(namespace.as_str().into(), name.as_str().into()))
    }
}

impl Held {
    /// Which policy somebody tells of, if it is one of the model and its own.
    pub(super) fn policy(&self, told: &PolicyVerdicts, shelf: &Shelf) -> Option<PolicyId> {
        let (namespace, name): (Arc<str>, Arc<str>) =
            (told.namespace.as_str().into(), told.name.as_str().into());
        let kind = match told.kind() {
            policy_verdicts::Kind::AuthorizationPolicy => PolicyKind::AuthorizationPolicy,
            policy_verdicts::Kind::PeerAuthentication => PolicyKind::PeerAuthentication,
        };
        let key = PolicyName {
            namespace: Arc::clone(&namespace),
            name: match kind {
                PolicyKind::AuthorizationPolicy => Arc::clone(&name),
                PolicyKind::PeerAuthentication => format!("{MUTUAL_TLS_PREFIX}{name}").into(),
            },
        };
        let selects = self.policies.contains(&key);
        let record = names::name(&RecordKey::Policy(Arc::new(key)));
        let is_here = self.namespaces.contains(&namespace);
        let applies = match shelf.store(ResourceType::Authorization).get(&record).map(|entry| &entry.record) {
            Some(Record::Policy(policy)) => match policy.scope {
                Scope::Mesh => true,
                Scope::Namespace => is_here,
                Scope::Listed => selects || is_here,
            },
            // One that is for waypoints or gateways.
            _ => is_here && is_attached(kind, &namespace, &name, shelf),
        };
        applies.then_some(PolicyId { kind, namespace, name })
    }
}

impl Own {
    fn has(&self, end: &Entry) -> bool {
        match self {
            Self::Node(node) => end.nodes.contains(node),
            Self::Gateway { namespace, account, .. } => {
                let runs_as = account.as_ref().is_none_or(|account| end.accounts.contains(account));
                end.party.namespace == *namespace && runs_as
            }
        }
    }

    fn is(&self, waypoint: &Waypoint) -> bool {
        match self {
            Self::Node(_) => false,
            Self::Gateway { namespace, name, .. } => waypoint.is(&ServiceKey::of_waypoint(namespace, name)),
        }
    }
}

/// Whether a policy of that name goes by what it is attached to.
fn is_attached(kind: PolicyKind, namespace: &Arc<str>, name: &Arc<str>, shelf: &Shelf) -> bool {
    let key = ObjectKey { kind: kind.name(), namespace: Arc::clone(namespace), name: Arc::clone(name) };
    shelf.store(ResourceType::Config).get(&names::name(&RecordKey::Config(Arc::new(key)))).is_some()
}

/// What a policy has come to.
pub(super) fn verdicts(told: &PolicyVerdicts) -> Verdicts {
    let PolicyVerdicts { allowed, denied, would_deny, audited, .. } = *told;
    Verdicts { allowed, denied, would_deny, audited }
}

/// What an edge has carried.
pub(super) fn tally(told: &TopologyEdge) -> Tally {
    Tally {
        requests: told.requests,
        client_errors: told.client_errors,
        server_errors: told.server_errors,
        latency: Latency::from_counts(told.latency.iter().map(|count| u64::from(*count))),
        sent: told.sent,
        received: told.received,
        opened: told.opened,
        failed: told.failed,
    }
}

fn service(told: &TopologyEdge, shelf: &Shelf) -> Option<Arc<Service>> {
    if told.service_namespace.is_empty() {
        return None;
    }
    let (namespace, hostname) = (told.service_namespace.as_str().into(), told.service_host.as_str().into());
    let name = names::name(&RecordKey::Service(Arc::new(ServiceKey { namespace, hostname })));
    match &shelf.store(ResourceType::Address).get(&name)?.record {
        Record::Service(service) => Some(Arc::clone(service)),
        _ => None,
    }
}

fn served(told: &TopologyEdge, service: Option<&Service>) -> Option<Arc<Served>> {
    let served = if let Some(service) = service {
        Served { namespace: Arc::clone(&service.namespace), name: Arc::clone(&service.name) }
    } else {
        let name = PSEUDO.into_iter().find(|name| *name == told.service_host)?;
        Served { namespace: "".into(), name: name.into() }
    };
    Some(Arc::new(served))
}

fn side(side: wire::Side) -> Side {
    match side {
        wire::Side::Source => Side::Source,
        wire::Side::Destination => Side::Destination,
        wire::Side::Waypoint => Side::Waypoint,
    }
}

fn protocol(protocol: wire::Protocol) -> Protocol {
    match protocol {
        wire::Protocol::Tcp => Protocol::Tcp,
        wire::Protocol::Udp => Protocol::Udp,
        wire::Protocol::Http => Protocol::Http,
        wire::Protocol::Grpc => Protocol::Grpc,
    }
}

fn protection(protection: wire::Protection) -> Protection {
    match protection {
        wire::Protection::Plain => Protection::Plain,
        wire::Protection::SameNode => Protection::SameNode,
        wire::Protection::MutualTls => Protection::MutualTls,
    }
}

/// What stands for a service where there is none; the names are Istio's.
const PSEUDO: [&str; 3] = ["PassthroughCluster", "BlackHoleCluster", "InboundPassthroughCluster"];
/// Seconds before the directory is made anew for another change.
const AGAIN: u64 = 2;
