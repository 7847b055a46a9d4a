//! What flows between the workloads of the mesh, for the mesh page: proxies tell what they have carried, and here it is
//! kept for an hour and added up to a graph, to lists and to series over time.
//!
//! Invariants: memory is bounded whatever is told ([`Store`] says by what); traffic that both of its ends have told of
//! counts once; nothing here knows what time it is, every call is told.

use std::sync::Arc;

use serde::Serialize;

pub use self::graph::{Graph, Kind, Level, Link, Node, Rates, Secured};
pub use self::latency::{BUCKETS, Latency};
pub use self::store::{Point, Store, Summary};
pub use self::verdicts::{PolicyId, PolicyKind, VerdictPoint, Verdicts};

mod graph;
mod latency;
mod store;
mod timeline;
mod verdicts;

/// Traffic that is told apart from other traffic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// Who asks; `None` is somebody that the mesh does not know.
    pub source: Option<Arc<Party>>,
    /// Who answers; `None` if nobody did, or somebody that the mesh does not know.
    pub destination: Option<Arc<Party>>,
    /// What was asked for.
    pub service: Option<Arc<Served>>,
    /// Who tells.
    pub side: Side,
    /// How they speak.
    pub protocol: Protocol,
    /// How the bytes are protected on their way.
    pub protection: Protection,
}

/// All pods of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    /// Their namespace.
    pub namespace: Arc<str>,
    /// What owns the pods, normally a Deployment.
    pub workload: Arc<str>,
    /// The canonical name, which the versions of one application share.
    pub app: Arc<str>,
    /// The canonical revision.
    pub version: Arc<str>,
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Served {
    /// Its namespace; empty for what is no service of the mesh.
    pub namespace: Arc<str>,
    /// Its name; of what is no service, what Istio calls it, for example `PassthroughCluster`.
    pub name: Arc<str>,
}

/// Who tells of traffic. Ordered by whom to believe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// The client's proxy.
    Source,
    /// The server's proxy.
    Destination,
    /// A waypoint between the two.
    Waypoint,
}

/// How two ends speak, as far as the proxy looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// Requests.
    Http,
    /// Calls.
    Grpc,
    /// Connections.
    Tcp,
    /// Sessions of datagrams.
    Udp,
}

/// How bytes are protected on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Protection {
    /// Encrypted, and both ends have proven who they are.
    MutualTls,
    /// They never left the node, and its kernel knows both ends.
    SameNode,
    /// Neither, or nobody knows.
    Plain,
}

/// What was carried in some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that are over.
    pub requests: u64,
    /// Of those, the ones that the client is to blame for: HTTP's 4xx, and calls whose status says so.
    pub client_errors: u64,
    /// Of those, the ones that failed otherwise: HTTP's 5xx, no answer at all, and calls whose status says so.
    pub server_errors: u64,
    /// How long they took.
    pub latency: Latency,
    /// Bytes of answers.
    pub sent: u64,
    /// Bytes of requests.
    pub received: u64,
    /// Connections that were begun, of those that carry no requests.
    pub opened: u64,
    /// Of those, the ones that were never established.
    pub failed: u64,
}

impl Protocol {
    /// Whether it is counted by requests; else by connections.
    pub fn has_requests(self) -> bool {
        matches!(self, Self::Http | Self::Grpc)
    }
}

impl Tally {
    /// Whether nothing was carried.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `other` has carried.
    pub fn add(&mut self, other: &Self) {
        let Self { requests, client_errors, server_errors, latency, sent, received, opened, failed } = self;
        let add = |total: &mut u64, more: u64| *total = total.saturating_add(more);
        add(requests, other.requests);
        add(client_errors, other.client_errors);
        add(server_errors, other.server_errors);
        latency.add(&other.latency);
        add(sent, other.sent);
        add(received, other.received);
        add(opened, other.opened);
        add(failed, other.failed);
    }

    /// What was carried since it stood at `earlier`; counters that have begun anew count from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let since = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now);
        Self {
            requests: since(self.requests, earlier.requests),
            client_errors: since(self.client_errors, earlier.client_errors),
            server_errors: since(self.server_errors, earlier.server_errors),
            latency: self.latency.since(&earlier.latency),
            sent: since(self.sent, earlier.sent),
            received: since(self.received, earlier.received),
            opened: since(self.opened, earlier.opened),
            failed: since(self.failed, earlier.failed),
        }
    }

    /// Of requests those that went wrong, whoever is to blame; of connections those that were never established.
    pub fn errors(&self) -> u64 {
        let requests = self.client_errors.saturating_add(self.server_errors).min(self.requests);
        requests.saturating_add(self.failed.min(self.opened))
    }

    /// Requests and connections.
    pub fn attempts(&self) -> u64 {
        self.requests.saturating_add(self.opened)
    }
}

/// For figures that people look at.
#[expect(clippy::cast_precision_loss, reason = "counts of less than an hour stay below 2^52")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests;
