//! Tells the control plane of the traffic that this process carries, for the mesh page.
//!
//! Each report is what was carried since the one before it, told once: what nobody has taken is not told later, so that a
//! control plane that comes back is not told of hours as if they were seconds, and nothing is kept for one that is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::topology::{Edge, Party, PolicyId, PolicyKind, Protection, Protocol, Side, Tally, Verdicts};
use mesh_proto::codec::{MAX_TOLD_EDGES, MAX_TOLD_PODS, MAX_TOLD_POLICIES, MAX_TOLD_REASON};
use mesh_proto::topology::topology_client::TopologyClient;
use mesh_proto::topology::topology_edge as wire;
use mesh_proto::topology::{
    PolicyVerdicts, TopologyEdge, TopologyReport, TroubledPod, Workload, policy_verdicts,
};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::{Code, Status};

use super::credential::{Link, LinkError, Opened};
use super::subscriber::Subscriber;
use crate::report::Reporter;

/// Tells for ever.
pub struct Teller {
    link: Arc<Link>,
    subscriber: Subscriber,
    reporter: Arc<Reporter>,
    captures: Captures,
    opened: Option<Opened>,
}

/// Looks how far the pods of this process are.
pub type Captures = Box<dyn Fn() -> Captured + Send + Sync>;

/// How far pods are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// Pods whose traffic is captured.
    pub captured: u32,
    /// Pods that wait for it.
    pub pending: u32,
    /// Those that something is wrong with; of more than [`MAX_TOLD_PODS`] the first are told.
    pub troubles: Vec<Trouble>,
}

/// Why a pod is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// Why its traffic is not captured, if it is not.
    pub capture: Option<String>,
    /// Why it has no new certificate, if it should have one.
    pub certificate: Option<Arc<str>>,
}

/// What has been counted since the start.
#[derive(Debug, Default)]
struct Counted {
    edges: BTreeMap<Edge, Tally>,
    policies: BTreeMap<PolicyId, Verdicts>,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
enum TellError {
    /// It is another control plane than ours, or an older one.
    #[error("the control plane has no page")]
    NoPage,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("no answer in time")]
    Deadline,
}

impl Teller {
    /// Tells over `link` what `reporter` has counted.
    pub fn new(link: Arc<Link>, subscriber: Subscriber, reporter: Arc<Reporter>, captures: Captures) -> Self {
        Self { link, subscriber, reporter, captures, opened: None }
    }

    /// Tells every few seconds.
    pub async fn run(mut self) {
        let mut told = Counted::default();
        let mut ticks = interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complained = false;
        loop {
            ticks.tick().await;
            let now = self.counted();
            let report = self.report(&told, &now);
            told = now;
            match self.send(report).await {
                Ok(0) => complained = false,
                Ok(refused) => {
                    tracing::debug!(refused, "The control plane does not believe all of a report.");
                }
                Err(error) => {
                    self.opened = None;
                    if !complained {
                        tracing::info!(%error, "The mesh page is not told of traffic for now.");
                    }
                    complained = true;
                    let is_final = matches!(error, TellError::NoPage);
                    sleep(if is_final { LONG_PAUSE } else { PAUSE }).await;
                    told = self.counted();
                }
            }
        }
    }

    async fn send(&mut self, report: TopologyReport) -> Result<u32, TellError> {
        let attempt = async {
            let opened = match &self.opened {
                Some(opened) => opened.clone(),
                None => self.opened.insert(self.link.open().await?).clone(),
            };
            let mut client = TopologyClient::new(opened.channel.clone());
            let answer = client.report(opened.request(report)).await?;
            Ok(answer.into_inner().refused)
        };
        timeout(PATIENCE, attempt).await.map_err(|_| TellError::Deadline)?
    }

    fn counted(&self) -> Counted {
        Counted { edges: self.reporter.edges(), policies: self.reporter.policies() }
    }

    fn report(&self, told: &Counted, now: &Counted) -> TopologyReport {
        let Captured { captured, pending, troubles } = (self.captures)();
        let (edges, left_out) = news(&told.edges, &now.edges);
        let (node, gateway) = match &self.subscriber {
            Subscriber::Node(name) => (name.clone(), String::new()),
            Subscriber::Gateway(name) => (String::new(), name.to_string()),
            // As of everybody who has proven a namespace and no node.
            Subscriber::Machine(machine) => (String::new(), machine.entry.to_string()),
        };
        TopologyReport {
            node,
            gateway,
            version: self.reporter.version().to_owned(),
            captured,
            pending,
            connections: self.reporter.open_connections(),
            edges,
            left_out,
            troubles: troubles.iter().take(MAX_TOLD_PODS).map(troubled).collect(),
            policies: rulings(&told.policies, &now.policies),
            ..TopologyReport::default()
        }
    }
}

impl From<Status> for TellError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::NoPage,
            _ => Self::Link(status.into()),
        }
    }
}

fn troubled(trouble: &Trouble) -> TroubledPod {
    let said = |text: Option<&str>| text.unwrap_or_default().chars().take(MAX_TOLD_REASON).collect();
    TroubledPod {
        namespace: trouble.namespace.to_string(),
        name: trouble.name.to_string(),
        capture: said(trouble.capture.as_deref()),
        certificate: said(trouble.certificate.as_deref()),
    }
}

/// What was carried in between, and how many edges are left out: those that have carried least.
fn news(told: &BTreeMap<Edge, Tally>, now: &BTreeMap<Edge, Tally>) -> (Vec<TopologyEdge>, u64) {
    let nothing = Tally::default();
    let since = now.iter().map(|(edge, tally)| (edge, tally.since(told.get(edge).unwrap_or(&nothing))));
    let mut news: Vec<_> = since.filter(|(_, tally)| !tally.is_empty()).collect();
    let left_out = news.len().saturating_sub(MAX_TOLD_EDGES);
    if left_out > 0 {
        news.sort_by_key(|(_, tally)| {
            std::cmp::Reverse((tally.attempts(), tally.sent.saturating_add(tally.received)))
        });
        news.truncate(MAX_TOLD_EDGES);
    }
    let edges = news.into_iter().map(|(edge, tally)| message(edge, &tally)).collect();
    (edges, u64::try_from(left_out).unwrap_or(u64::MAX))
}

/// What policies have come to in between; of too many those that have come to least are left out.
fn rulings(told: &BTreeMap<PolicyId, Verdicts>, now: &BTreeMap<PolicyId, Verdicts>) -> Vec<PolicyVerdicts> {
    let since = now.iter().map(|(id, sum)| (id, sum.since(&told.get(id).copied().unwrap_or_default())));
    let mut news: Vec<_> = since.filter(|(_, sum)| !sum.is_empty()).collect();
    if news.len() > MAX_TOLD_POLICIES {
        news.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.total()));
        news.truncate(MAX_TOLD_POLICIES);
    }
    let told = news.into_iter().map(|(id, sum)| {
        let kind = match id.kind {
            PolicyKind::AuthorizationPolicy => policy_verdicts::Kind::AuthorizationPolicy,
            PolicyKind::PeerAuthentication => policy_verdicts::Kind::PeerAuthentication,
        };
        PolicyVerdicts {
            kind: kind.into(),
            namespace: id.namespace.to_string(),
            name: id.name.to_string(),
            allowed: sum.allowed,
            denied: sum.denied,
            would_deny: sum.would_deny,
            audited: sum.audited,
        }
    });
    told.collect()
}

fn message(edge: &Edge, tally: &Tally) -> TopologyEdge {
    let workload = |party: &Arc<Party>| Workload {
        namespace: party.namespace.to_string(),
        name: party.workload.to_string(),
    };
    let service = edge.service.as_deref();
    let side = match edge.side {
        Side::Source => wire::Side::Source,
        Side::Destination => wire::Side::Destination,
        Side::Waypoint => wire::Side::Waypoint,
    };
    let protocol = match edge.protocol {
        Protocol::Tcp => wire::Protocol::Tcp,
        Protocol::Udp => wire::Protocol::Udp,
        Protocol::Http => wire::Protocol::Http,
        Protocol::Grpc => wire::Protocol::Grpc,
    };
    let protection = match edge.protection {
        Protection::Plain => wire::Protection::Plain,
        Protection::SameNode => wire::Protection::SameNode,
        Protection::MutualTls => wire::Protection::MutualTls,
    };
    let mut latency: Vec<_> =
        tally.latency.counts().iter().map(|count| u32::try_from(*count).unwrap_or(u32::MAX)).collect();
    latency.truncate(latency.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
    TopologyEdge {
        source: edge.source.as_ref().map(workload),
        destination: edge.destination.as_ref().map(workload),
        service_namespace: service.map(|service| service.namespace.to_string()).unwrap_or_default(),
        service_host: service.map(|service| service.name.to_string()).unwrap_or_default(),
        side: side.into(),
        protocol: protocol.into(),
        protection: protection.into(),
        requests: tally.requests,
        client_errors: tally.client_errors,
        server_errors: tally.server_errors,
        latency,
        sent: tally.sent,
        received: tally.received,
        opened: tally.opened,
        failed: tally.failed,
    }
}

/// Between two reports: half of the page's shortest bucket, so that steady traffic looks steady there.
const PAUSE: Duration = Duration::from_secs(5);
/// Before a control plane that knows nothing of this is asked again: it may have been replaced by a newer one.
const LONG_PAUSE: Duration = Duration::from_secs(120);
/// What a report has to arrive and be answered.
const PATIENCE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use mesh_core::topology::Latency;

    use super::*;

    fn edge(name: usize) -> Edge {
        let party = |workload: &str| {
            let workload: Arc<str> = workload.into();
            let app = Arc::clone(&workload);
            Some(Arc::new(Party { namespace: "n".into(), workload, app, version: "v1".into() }))
        };
        Edge {
            source: party("client"),
            destination: party(&name.to_string()),
            service: None,
            side: Side::Source,
            protocol: Protocol::Http,
            protection: Protection::MutualTls,
        }
    }

    fn requests(count: u64) -> Tally {
        Tally { requests: count, latency: Latency::from_counts([0, count, 0]), ..Tally::default() }
    }

    #[test]
    fn reasons_are_cut() {
        let (namespace, name) = (Arc::from("n"), Arc::from("p"));
        let told = troubled(&Trouble { namespace, name, capture: Some("é".repeat(999)), certificate: None });
        assert_eq!((told.capture.chars().count(), &*told.certificate), (MAX_TOLD_REASON, ""));
    }

    #[test]
    fn only_what_is_new_is_told() {
        let told: BTreeMap<_, _> = [(edge(1), requests(5)), (edge(2), requests(5))].into();
        let now: BTreeMap<_, _> =
            [(edge(1), requests(5)), (edge(2), requests(9)), (edge(3), requests(1))].into();
        let (edges, left_out) = news(&told, &now);
        let counts: Vec<_> = edges.iter().map(|edge| (edge.requests, edge.latency.clone())).collect();
        assert_eq!((counts, left_out), (vec![(4, vec![0, 4]), (1, vec![0, 1])], 0));
    }

    #[test]
    fn of_policies_the_busiest_are_told_and_only_what_is_new() {
        let id = |name: usize| {
            let (namespace, name) = ("n".into(), name.to_string().into());
            PolicyId { kind: PolicyKind::PeerAuthentication, namespace, name }
        };
        let denied = |count| Verdicts { denied: count, ..Verdicts::default() };
        let told: BTreeMap<_, _> = [(id(1), denied(5)), (id(2), denied(5))].into();
        let now: BTreeMap<_, _> = [(id(1), denied(5)), (id(2), denied(7))].into();
        let news = rulings(&told, &now);
        assert_eq!(news.iter().map(|it| (&*it.name, it.denied)).collect::<Vec<_>>(), [("2", 2)]);
        let now = (0..MAX_TOLD_POLICIES + 7).map(|name| (id(name), denied(1 + name as u64))).collect();
        let news = rulings(&BTreeMap::new(), &now);
        let least = news.iter().map(|it| it.denied).min();
        assert_eq!((news.len(), least), (MAX_TOLD_POLICIES, Some(8)));
    }

    #[test]
    fn the_busiest_are_told_if_there_are_too_many() {
        let now: BTreeMap<_, _> =
            (0..MAX_TOLD_EDGES + 7).map(|name| (edge(name), requests(1 + name as u64))).collect();
        let (edges, left_out) = news(&BTreeMap::new(), &now);
        assert_eq!((edges.len(), left_out), (MAX_TOLD_EDGES, 7));
        assert_eq!(edges.iter().map(|edge| edge.requests).min(), Some(8));
    }
}
