//! Traffic as a graph, at the level of detail that somebody wants to see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::{Edge, Party, Protection, Protocol, Served, Tally, float};

/// What a node of a graph stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// The workloads of one canonical name together, whatever their version.
    #[default]
    App,
    /// One workload.
    Workload,
    /// One namespace.
    Namespace,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Something of the mesh that runs.
    Workload,
    /// A service of which nobody has answered, or whose endpoints are not known.
    Service,
    /// Clients that the mesh does not know.
    Unknown,
    /// Servers that the mesh does not know.
    Outside,
}

/// Traffic of some time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Graph {
    /// What a node stands for.
    pub level: Level,
    /// In how many seconds all this was carried.
    pub seconds: u64,
    /// Everybody who has carried something, by id.
    pub nodes: Vec<Node>,
    /// Who has asked whom, by the two ids.
    pub edges: Vec<Link>,
}

/// Somebody who has carried something.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Unique in the graph, and the same from one graph to the next.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Its namespace; empty for what has none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The versions seen, sorted.
    pub versions: BTreeSet<Arc<str>>,
    /// The workloads seen, sorted.
    pub workloads: BTreeSet<Arc<str>>,
    /// What it was asked for.
    pub inbound: Rates,
    /// What it has asked for.
    pub outbound: Rates,
}

/// Traffic from one node to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Id of the node that asks.
    pub from: String,
    /// Id of the node that answers.
    pub to: String,
    /// How they speak, sorted.
    pub protocols: BTreeSet<Protocol>,
    /// How bytes are protected.
    pub secured: Secured,
    /// The part of it that is protected, from 0 to 1; `None` where nothing was sent.
    pub secured_share: Option<f64>,
    /// How much.
    #[serde(flatten)]
    pub rates: Rates,
}

/// How the traffic of a [`Link`] is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Secured {
    /// All of it: some encrypted, the rest without leaving its node.
    MutualTls,
    /// All of it, without leaving its node.
    SameNode,
    /// Some of it.
    Mixed,
    /// Nothing of it.
    Plain,
    /// Nothing was sent.
    Nothing,
}

/// Figures for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// Requests a second.
    pub requests_per_second: f64,
    /// Of those, the ones that the client is to blame for.
    pub client_errors_per_second: f64,
    /// Of those, the ones that failed otherwise.
    pub server_errors_per_second: f64,
    /// The part of requests, or of connections where there are no requests, that went wrong, from 0 to 1; `None` where
    /// there are neither.
    pub error_share: Option<f64>,
    /// Milliseconds that half of the requests took at most; `None` where there are none.
    pub p50_ms: Option<f64>,
    /// The same of 95 %.
    pub p95_ms: Option<f64>,
    /// The same of 99 %.
    pub p99_ms: Option<f64>,
    /// Connections begun a second, of those that carry no requests.
    pub connections_per_second: f64,
    /// Of those, the ones that were never established.
    pub failed_connections_per_second: f64,
    /// Bytes of answers a second.
    pub sent_bytes_per_second: f64,
    /// Bytes of requests a second.
    pub received_bytes_per_second: f64,
}

impl Rates {
    pub(super) fn of(tally: &Tally, seconds: u64) -> Self {
        let per_second = |count: u64| float(count) / float(seconds.max(1));
        let share = |part: u64, all: u64| (all > 0).then(|| float(part.min(all)) / float(all));
        let requests = share(tally.client_errors.saturating_add(tally.server_errors), tally.requests);
        Self {
            requests_per_second: per_second(tally.requests),
            client_errors_per_second: per_second(tally.client_errors),
            server_errors_per_second: per_second(tally.server_errors),
            error_share: requests.or_else(|| share(tally.failed, tally.opened)),
            p50_ms: tally.latency.quantile(0.5),
            p95_ms: tally.latency.quantile(0.95),
            p99_ms: tally.latency.quantile(0.99),
            connections_per_second: per_second(tally.opened),
            failed_connections_per_second: per_second(tally.failed),
            sent_bytes_per_second: per_second(tally.sent),
            received_bytes_per_second: per_second(tally.received),
        }
    }
}

/// Adds edges up.
pub(super) fn build<'a>(level: Level, seconds: u64, sums: impl Iterator<Item = (&'a Edge, Tally)>) -> Graph {
    let mut nodes: BTreeMap<Place, Sum> = BTreeMap::new();
    let mut links: BTreeMap<(Place, Place), Traffic> = BTreeMap::new();
    for (edge, tally) in sums {
        let (from, to) = (source(level, edge), destination(level, edge));
        let node = nodes.entry(from.clone()).or_default();
        node.meet(edge.source.as_deref());
        node.outbound.add(&tally);
        let node = nodes.entry(to.clone()).or_default();
        node.meet(edge.destination.as_deref());
        node.inbound.add(&tally);
        links.entry((from, to)).or_default().add(edge, &tally);
    }
    let nodes = nodes.into_iter().map(|(place, sum)| sum.finish(place, seconds)).collect();
    let edges = links.into_iter().map(|((from, to), traffic)| traffic.finish(&from, &to, seconds)).collect();
    Graph { level, seconds, nodes, edges }
}

/// What makes a node of a graph unique. What runs as `reviews` and the service `reviews` of its namespace are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    class: Class,
    namespace: Arc<str>,
    name: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Unknown,
    Inside,
    /// A service beside workloads, where those have names of their own.
    Service,
    Outside,
}

impl Place {
    fn id(&self) -> String {
        let Self { class, namespace, name } = self;
        match class {
            Class::Unknown => "unknown".to_owned(),
            Class::Outside => format!("outside:{name}"),
            Class::Service => format!("service:{namespace}/{name}"),
            Class::Inside if name.is_empty() => namespace.to_string(),
            Class::Inside => format!("{namespace}/{name}"),
        }
    }
}

fn source(level: Level, edge: &Edge) -> Place {
    match &edge.source {
        Some(party) => inside(level, party),
        None => Place { class: Class::Unknown, namespace: "".into(), name: "unknown".into() },
    }
}

fn destination(level: Level, edge: &Edge) -> Place {
    match (&edge.destination, edge.service.as_deref()) {
        (Some(party), _) => inside(level, party),
        (None, Some(Served { namespace, name })) if !namespace.is_empty() => {
            let (class, name) = match level {
                Level::App => (Class::Inside, Arc::clone(name)),
                Level::Workload => (Class::Service, Arc::clone(name)),
                Level::Namespace => (Class::Inside, "".into()),
            };
            Place { class, namespace: Arc::clone(namespace), name }
        }
        (None, service) => {
            let name = service.map_or_else(|| "unknown".into(), |service| Arc::clone(&service.name));
            Place { class: Class::Outside, namespace: "".into(), name }
        }
    }
}

fn inside(level: Level, party: &Party) -> Place {
    let name = match level {
        Level::App => Arc::clone(&party.app),
        Level::Workload => Arc::clone(&party.workload),
        Level::Namespace => "".into(),
    };
    Place { class: Class::Inside, namespace: Arc::clone(&party.namespace), name }
}

#[derive(Default)]
struct Sum {
    versions: BTreeSet<Arc<str>>,
    workloads: BTreeSet<Arc<str>>,
    inbound: Tally,
    outbound: Tally,
}

impl Sum {
    fn meet(&mut self, party: Option<&Party>) {
        if let Some(party) = party {
            self.versions.insert(Arc::clone(&party.version));
            self.workloads.insert(Arc::clone(&party.workload));
        }
    }

    fn finish(self, place: Place, seconds: u64) -> Node {
        let Self { versions, workloads, inbound, outbound } = self;
        let kind = match place.class {
            Class::Unknown => Kind::Unknown,
            Class::Outside => Kind::Outside,
            Class::Inside if !workloads.is_empty() => Kind::Workload,
            Class::Inside | Class::Service => Kind::Service,
        };
        let id = place.id();
        let name = if place.name.is_empty() { Arc::clone(&place.namespace) } else { place.name };
        Node {
            id,
            kind,
            namespace: place.namespace,
            name,
            versions,
            workloads,
            inbound: Rates::of(&inbound, seconds),
            outbound: Rates::of(&outbound, seconds),
        }
    }
}

#[derive(Default)]
struct Traffic {
    total: Tally,
    protocols: BTreeSet<Protocol>,
    /// Requests and connections by [`Protection`], of those that were sent somewhere.
    encrypted: u64,
    local: u64,
    plain: u64,
}

impl Traffic {
    fn add(&mut self, edge: &Edge, tally: &Tally) {
        self.total.add(tally);
        self.protocols.insert(edge.protocol);
        // What nobody has answered was not sent: an abort on purpose, or a service without endpoints.
        let was_sent = edge.destination.is_some()
            || edge.service.as_deref().is_none_or(|service| service.namespace.is_empty());
        if was_sent {
            let weight = tally.attempts().max(1);
            match edge.protection {
                Protection::MutualTls => self.encrypted += weight,
                Protection::SameNode => self.local += weight,
                Protection::Plain => self.plain += weight,
            }
        }
    }

    fn finish(self, from: &Place, to: &Place, seconds: u64) -> Link {
        let secure = self.encrypted + self.local;
        let all = secure + self.plain;
        let secured = match (self.encrypted, self.local, self.plain) {
            (0, 0, 0) => Secured::Nothing,
            (0, _, 0) => Secured::SameNode,
            (_, _, 0) => Secured::MutualTls,
            (0, 0, _) => Secured::Plain,
            _ => Secured::Mixed,
        };
        Link {
            from: from.id(),
            to: to.id(),
            protocols: self.protocols,
            secured,
            secured_share: (all > 0).then(|| float(secure) / float(all)),
            rates: Rates::of(&self.total, seconds),
        }
    }
}
