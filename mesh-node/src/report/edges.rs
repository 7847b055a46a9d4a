//! What has flowed between whom, as the mesh page shows it: the same counters that the metrics have, by the two ends and
//! the service instead of by labels, so that what is asked of the metrics' labels does not change what the page shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::model::{Service, Workload};
use mesh_core::topology::{Edge, Party, Protection, Protocol, Served, Side, Tally};

use super::{ConnInfo, Direction, Perspective, PseudoService, Reporter, RequestFacts};

/// What became of a request, as far as the page tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Good,
    /// The client is to blame.
    ClientError,
    /// Anything else.
    ServerError,
}

impl Reporter {
    /// What was carried since the start, by edge. [`Edge::service`] has host names, and for what is no service of the mesh
    /// the name of [`PseudoService`]. Takes time in proportion to the label sets there are.
    pub fn edges(&self) -> BTreeMap<Edge, Tally> {
        let mut edges: BTreeMap<Edge, Tally> = BTreeMap::new();
        for (edge, tally) in self.series.tallies().into_iter().chain(self.requests.tallies()) {
            if !tally.is_empty() {
                edges.entry(edge).or_default().add(&tally);
            }
        }
        edges
    }
}

/// The edge of a connection.
pub(super) fn of_connection(info: &ConnInfo) -> Edge {
    let both = info.source.identity.is_some() && info.destination.identity.is_some();
    Edge {
        source: info.source.workload.as_deref().map(party),
        destination: info.destination.workload.as_deref().map(party),
        service: served(info.service.as_deref(), info.pseudo_service),
        side: match info.direction {
            Direction::Inbound => Side::Destination,
            Direction::Outbound => Side::Source,
            Direction::Through => Side::Waypoint,
        },
        protocol: if info.datagrams { Protocol::Udp } else { Protocol::Tcp },
        protection: protection(info.encrypted, both),
    }
}

/// The edge of a request.
pub(super) fn of_request(facts: &RequestFacts<'_>) -> Edge {
    let both = facts.source_identity.is_some() && facts.destination_identity.is_some();
    Edge {
        source: facts.source.map(|it| party(it)),
        destination: facts.destination.map(|it| party(it)),
        service: served(facts.service.map(AsRef::as_ref), facts.pseudo_service),
        side: match facts.reporter {
            Perspective::Source => Side::Source,
            Perspective::Destination => Side::Destination,
            Perspective::Waypoint => Side::Waypoint,
        },
        protocol: if facts.grpc { Protocol::Grpc } else { Protocol::Http },
        protection: protection(facts.encrypted, both),
    }
}

/// What became of a request. Of gRPC the status counts where there is one: calls that fail have 200 in HTTP.
pub(super) fn outcome(facts: &RequestFacts<'_>) -> Outcome {
    match (facts.grpc_status.filter(|_| facts.grpc), facts.code) {
        (Some(0), _) | (None, 100..=399) => Outcome::Good,
        (Some(status), _) if GRPC_SERVER_ERRORS.contains(&status) => Outcome::ServerError,
        (Some(_), _) | (None, 400..=499) => Outcome::ClientError,
        (None, _) => Outcome::ServerError,
    }
}

fn party(workload: &Workload) -> Arc<Party> {
    Arc::new(Party {
        namespace: Arc::clone(&workload.namespace),
        workload: Arc::clone(&workload.workload_name),
        app: Arc::clone(&workload.canonical_name),
        version: Arc::clone(&workload.canonical_revision),
    })
}

fn served(service: Option<&Service>, pseudo: Option<PseudoService>) -> Option<Arc<Served>> {
    let served = match (service, pseudo) {
        (Some(service), _) => {
            Served { namespace: Arc::clone(&service.namespace), name: Arc::clone(&service.hostname) }
        }
        (None, Some(pseudo)) => Served { namespace: "".into(), name: pseudo.name().into() },
        (None, None) => return None,
    };
    Some(Arc::new(served))
}

/// That both ends have proven who they are without encryption is the kernel's word: their bytes stay on this node.
fn protection(encrypted: bool, both_proven: bool) -> Protection {
    match (encrypted, both_proven) {
        (true, _) => Protection::MutualTls,
        (false, true) => Protection::SameNode,
        (false, false) => Protection::Plain,
    }
}

/// `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS`.
const GRPC_SERVER_ERRORS: [u32; 6] = [2, 4, 12, 13, 14, 15];

#[cfg(test)]
mod tests;
