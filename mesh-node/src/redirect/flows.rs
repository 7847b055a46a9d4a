//! What is told of express flows: the kernel says when one ends or is refused, and how those stand that are open.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use mesh_common::{Endpoint, ExpressEvent, ExpressFlow, Flow, Mark};
use mesh_core::{
    model::{Service, Snapshot, Target},
    policy::Connection,
    telemetry::Side,
};
use tokio::sync::{mpsc, watch};

use super::{
    Overruled,
    express::CutFlows,
    maps::{ExpressMaps, socket_addr},
};
use crate::{
    l7::shared::Shared,
    report::{ConnInfo, ConnReport, Direction, Event, Mail, Party, Post, Reporter, Stage},
    sys::{bpf, conntrack},
};

/// Where flows are reported, and by which configuration: what it says is told, and the way to services that are told.
pub type Reported = (Arc<Reporter>, watch::Receiver<Arc<Snapshot>>, (Arc<Shared>, mpsc::Sender<Mail>));

/// Reports express flows as if the proxy had carried them.
pub struct Flows {
    maps: ExpressMaps,
    reporter: Arc<Reporter>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Knows what Telemetries say.
    shared: Arc<Shared>,
    /// To a data thread, which tells services of access logs in a pod's name.
    mail: mpsc::Sender<Mail>,
    cut: CutFlows,
    overruled: Overruled,
    /// Those that are open long enough to be shown.
    open: HashMap<Flow, Pair>,
    /// Those of them, and of those that were cut, that the last look did not find.
    gone: HashSet<Flow>,
    /// Those that connection tracking was made to forget, since it does not see them any more.
    forgotten: HashSet<Flow>,
    /// Those whose client's pod is not of this node any more, and since when.
    orphans: HashMap<Flow, Instant>,
}

/// The two ends of a flow. Both are pods of this node, and each is reported.
struct Pair {
    outbound: ConnReport,
    inbound: ConnReport,
}

impl Flows {
    /// A reader of the maps.
    pub fn new(
        maps: ExpressMaps,
        (reporter, snapshots, (shared, mail)): Reported,
        (cut, overruled): (CutFlows, Overruled),
    ) -> Self {
        let (open, gone, forgotten) = (HashMap::new(), HashSet::new(), HashSet::new());
        let orphans = HashMap::new();
        Self { maps, reporter, snapshots, shared, mail, cut, overruled, open, gone, forgotten, orphans }
    }

    /// Reports for ever.
    ///
    /// The ring is looked at many times a second: its descriptor cannot be registered with the runtime without `unsafe`.
    pub async fn run(mut self, mut events: RingBuf<MapData>) {
        let mut listens = tokio::time::interval(LISTEN);
        listens.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = listens.tick() => {
                    while self.listen(&mut events) {
                        tokio::task::yield_now().await;
                    }
                    self.overruled.look();
                }
                _ = looks.tick() => self.look(),
            }
        }
    }

    /// Takes some events; true if there may be more. Bounded, so that a storm of connections leaves room for everything else
    /// on this thread.
    fn listen(&mut self, events: &mut RingBuf<MapData>) -> bool {
        for _ in 0..AT_ONCE {
            let Some(event) = events.next() else { return false };
            if let Some(event) = bpf::read::<ExpressEvent>(&event) {
                self.told(&event);
            }
        }
        true
    }

    fn told(&mut self, event: &ExpressEvent) {
        let pair = self.open.remove(&event.flow);
        match event.kind {
            ExpressEvent::REFUSED => self.refused(event),
            ExpressEvent::FAILED => {
                let pair = self.pair(&event.flow, &event.mark, lasted(&event.mark, event.at_ns));
                pair.fail(Stage::Dial, "nobody accepts connections there");
            }
            _ => {
                let lasted = lasted(&event.mark, event.at_ns);
                let pair = pair.unwrap_or_else(|| self.pair(&event.flow, &event.mark, lasted));
                pair.opened();
                pair.carried(event.sent, event.received);
                if self.cut.borrow_mut().remove(&event.flow) {
                    self.reporter.count(Event::DeniedLater);
                    pair.fail(Stage::Policy, "cut after a change of policy or of rules");
                }
            }
        }
    }

    /// The kernel knows that, and the policy engine why.
    fn refused(&self, event: &ExpressEvent) {
        let pair = self.pair(&event.flow, &event.mark, Duration::ZERO);
        let ConnInfo { source, destination, .. } = pair.inbound.info();
        let snapshot = self.snapshots.borrow().clone();
        let connection = Connection {
            peer: source.identity.as_ref(),
            source_ip: source.addr.ip(),
            destination: destination.addr,
            encrypted: true,
        };
        let asked = destination.workload.as_ref().map(|it| snapshot.policies().authorize(it, &connection));
        match asked {
            Some(Err(denied)) => {
                self.reporter.count(Event::denied(&denied.by));
                pair.inbound.fail(Stage::Policy, denied);
            }
            _ => pair.inbound.fail(Stage::Policy, "refused by a policy that has changed since"),
        }
        pair.outbound.fail(Stage::Policy, "refused by policy at the destination");
    }

    /// Brings what is shown up to date.
    fn look(&mut self) {
        let flows = self.maps.flows();
        let now = bpf::now_ns();
        for (flow, entry) in &flows {
            if entry.state & ExpressFlow::SHORTCUT != 0 && self.forgotten.insert(*flow) {
                forget(flow);
            }
            // What the node carries it reports itself.
            if entry.mark.side == Mark::CARRIED {
                continue;
            }
            let lasted = lasted(&entry.mark, now);
            if entry.state & ExpressFlow::ESTABLISHED == 0 || lasted < LOOK {
                continue;
            }
            if !self.open.contains_key(flow) {
                let pair = self.pair(flow, &entry.mark, lasted);
                pair.opened();
                self.open.insert(*flow, pair);
            }
            if let Some(pair) = self.open.get(flow) {
                pair.carried(entry.sent, entry.received);
            }
        }
        self.bury(&flows);
        let carried = flows.iter().filter(|(_, entry)| entry.mark.side == Mark::CARRIED).count();
        self.recount(flows.len() - carried);
        // Of those that were gone at the last look as well nothing will be told: there was no room for the event. What has
        // ended since may still be waiting in the ring, and is to be counted once.
        let there: HashSet<Flow> = flows.into_iter().map(|(flow, _)| flow).collect();
        let (mut cut, before) = (self.cut.borrow_mut(), std::mem::take(&mut self.gone));
        self.open.retain(|flow, _| there.contains(flow) || !before.contains(flow));
        cut.retain(|flow| there.contains(flow) || !before.contains(flow));
        self.gone =
            self.open.keys().chain(cut.iter()).filter(|flow| !there.contains(*flow)).copied().collect();
        self.forgotten.retain(|flow| there.contains(flow));
    }

    /// Forgets flows whose client has gone with its pod and without a word. Not at once: one that is to be cut must be found.
    fn bury(&mut self, flows: &[(Flow, ExpressFlow)]) {
        let before = std::mem::take(&mut self.orphans);
        let orphans: Vec<&Flow> = flows
            .iter()
            .filter(|(_, entry)| !self.maps.knows(entry.mark.netns))
            .map(|(flow, _)| flow)
            .collect();
        for flow in orphans {
            let since = before.get(flow).copied().unwrap_or_else(Instant::now);
            if since.elapsed() < BURIED_AFTER {
                self.orphans.insert(*flow, since);
            } else if let Err(error) = self.maps.remove_flow(flow) {
                tracing::warn!(%error, "An express flow that is over cannot be forgotten.");
            }
        }
    }

    /// Corrects the kernel's count of open flows, if it is far from what there is: an end may be missed while programs are
    /// replaced.
    fn recount(&mut self, there: usize) {
        let there = there as u64;
        let is_near = |counted: u64| counted.abs_diff(there) <= DRIFT;
        let counted = self.maps.open_flows();
        let corrected = counted.and_then(|it| if is_near(it) { Ok(()) } else { self.maps.recount(there) });
        if let Err(error) = corrected {
            tracing::warn!(%error, "Open express flows cannot be counted.");
        }
    }

    fn pair(&self, flow: &Flow, mark: &Mark, lasted: Duration) -> Pair {
        let snapshot = self.snapshots.borrow().clone();
        let client = self.client(&snapshot, flow, mark);
        let server = socket_addr(&Endpoint::new(flow.destination, flow.destination_port));
        let workload = snapshot.workload_by_ip(server.ip()).cloned();
        let destination =
            Party { addr: server, identity: workload.as_ref().map(|it| it.identity.clone()), workload };
        let asked = (mark.wanted.port != 0).then(|| socket_addr(&mark.wanted));
        let service = asked.and_then(|at| match snapshot.resolve(at) {
            Target::Service { service, .. } => Some(service),
            _ => None,
        });
        let served = destination.workload.as_ref().and_then(|it| it.services.first());
        let served = served.and_then(|one| snapshot.service(&one.service)).cloned();
        let telemetry = self.shared.telemetry(&snapshot);
        let begin = |direction, service: Option<Arc<Service>>| {
            let report = self.reporter.begin_since(
                ConnInfo {
                    direction,
                    source: client.clone(),
                    destination: destination.clone(),
                    hbone_addr: None,
                    service,
                    pseudo_service: None,
                    encrypted: true,
                    datagrams: false,
                },
                lasted,
            );
            report.takes_express_path();
            let (own, side) = match direction {
                Direction::Outbound => (&client.workload, Side::Client),
                _ => (&destination.workload, Side::Server),
            };
            let told = telemetry.of_connection(own.as_deref(), side);
            if let (Some(own), Some(told)) = (own, &told)
                && told.tells_of_connections()
            {
                report.post(Post::new(&own.uid, self.mail.clone()));
            }
            report.tell(told);
            report
        };
        Pair { outbound: begin(Direction::Outbound, service), inbound: begin(Direction::Inbound, served) }
    }

    /// Of a refused connection only the pod is known that tried it.
    fn client(&self, snapshot: &Snapshot, flow: &Flow, mark: &Mark) -> Party {
        let at = socket_addr(&Endpoint::new(flow.source, flow.source_port));
        let own = self.maps.pod_address(mark.netns, flow.destination).unwrap_or(at.ip());
        let workload = snapshot.workload_by_ip(own);
        let addr = if flow.source == [0; 16] { SocketAddr::new(own, 0) } else { at };
        Party { addr, identity: workload.map(|it| it.identity.clone()), workload: workload.cloned() }
    }
}

impl Pair {
    fn opened(&self) {
        self.outbound.opened();
        self.inbound.opened();
    }

    /// Totals from the client's side.
    fn carried(&self, sent: u64, received: u64) {
        let (client, server) = (self.outbound.counters(), self.inbound.counters());
        client.sent.fetch_max(sent, Ordering::Relaxed);
        client.received.fetch_max(received, Ordering::Relaxed);
        server.sent.fetch_max(received, Ordering::Relaxed);
        server.received.fetch_max(sent, Ordering::Relaxed);
    }

    fn fail(&self, stage: Stage, reason: &str) {
        self.outbound.fail(stage, reason);
        self.inbound.fail(stage, reason);
    }
}

/// What it remembers of a flow that has taken the shortcut is out of date; where the flow loses it again, packets far ahead of
/// that would be invalid. Without an entry they make one.
fn forget(flow: &Flow) {
    let client = socket_addr(&Endpoint::new(flow.source, flow.source_port));
    let server = socket_addr(&Endpoint::new(flow.destination, flow.destination_port));
    if let Err(error) = conntrack::forget(client, server) {
        tracing::debug!(%client, %server, %error, "Connection tracking cannot be told of an express flow.");
    }
}

fn lasted(mark: &Mark, now_ns: u64) -> Duration {
    Duration::from_nanos(now_ns.saturating_sub(mark.started_ns))
}

/// How often events are taken; the ring has room for what a node does in a hundred times that.
const LISTEN: Duration = Duration::from_millis(50);
/// How often open flows are looked at; shorter ones are reported when they end.
const LOOK: Duration = Duration::from_secs(1);
/// After this long without its pod, a flow is over.
const BURIED_AFTER: Duration = Duration::from_secs(30);
/// Flows that come and go while they are counted.
const DRIFT: u64 = 512;
/// Events that are taken before anybody else has a turn.
const AT_ONCE: usize = 256;
