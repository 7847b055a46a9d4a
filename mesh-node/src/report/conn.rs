//! The report of one connection.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use mesh_core::model::{Named, Service};
use mesh_core::policy::Denied;
use mesh_core::resource::telemetry::Metric;
use mesh_core::telemetry::{Attributes, Families, Value};
use tokio::time::Instant;

use super::access::Line;
use super::carried::{Carried, Passage};
use super::protocol::Speaking;
use super::request::attributes::View;
use super::series::{Series, Uncounted};
use super::table::Slot;
use crate::tls::Agreed;

use super::{ConnInfo, Direction, Event, Failure, Flag, Party, Post, PseudoService, Reporter, Stage, Told};

/// Bytes of application data a connection has carried, from the *local pod's* side, as the access log shows them.
///
/// The metrics look from the server's side whoever reports: `istio_tcp_received_bytes_total` is what the server
/// received (the request's direction) and `istio_tcp_sent_bytes_total` what it sent, so that both proxies of a
/// connection report the same figures under the same names. Hence for an inbound connection `sent` here is `sent`
/// there, and for an outbound one it is `received`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes the local pod has sent: read from its socket and passed on.
    pub sent: AtomicU64,
    /// Bytes the local pod has received: written to its socket.
    pub received: AtomicU64,
}

impl Counters {
    /// As a relay counts whose application is the local pod.
    pub fn relayed(&self) -> crate::l4::relay::Counters<'_> {
        crate::l4::relay::Counters { from_app: &self.sent, to_app: &self.received, watch: None }
    }
}

/// A connection under way. Dropping it ends the story: metrics are brought up to date and the access-log line is
/// written, exactly once.
///
/// Labels settle when the connection is established ([`ConnReport::opened`]), or when its first bytes are seen, or
/// at the end, whichever comes first; what is set later still shows in the log and on the admin page.
#[derive(Debug)]
pub struct ConnReport {
    reporter: Arc<Reporter>,
    live: Arc<Live>,
    slot: Slot,
}

impl ConnReport {
    pub(super) fn new(reporter: Arc<Reporter>, live: Arc<Live>, slot: Slot) -> Self {
        Self { reporter, live, slot }
    }

    /// The byte counters, for whoever moves the bytes. They only grow; what is added after the report is dropped is
    /// lost.
    pub fn counters(&self) -> Arc<Counters> {
        self.live.counters.clone()
    }

    /// States that this connection and `other` are the two ends of one, both of pods of this node, and that the bytes
    /// are counted in the other's counters: what its pod has sent, this one's has received. May be stated once.
    pub fn mirror(&self, other: &Self) {
        self.live.mirrored.get_or_init(|| other.counters());
    }

    /// States that the connection is one of a protocol that is counted by its name, to a port of the service that was asked
    /// for; the answer is to look at its bytes, and ends with it.
    pub fn speaks(&self, named: Named) -> Speaking {
        self.reporter.protocols.begin(&self.live.lock().info, named)
    }

    /// A number that is this connection's alone in this process.
    pub fn id(&self) -> u64 {
        self.live.id
    }

    /// States that what the connection carries is reported request by request: unless it fails, it counts for nothing
    /// itself.
    pub fn carries_requests(&self) {
        self.live.requests.store(true, Ordering::Relaxed);
    }

    /// States that the kernel carries the connection, past the proxy.
    pub fn takes_express_path(&self) {
        self.live.express.store(true, Ordering::Relaxed);
    }

    /// States that the connection is established on both sides and bytes may flow.
    pub fn opened(&self) {
        self.live.bind(&self.reporter);
    }

    /// States what a Telemetry says is told about the connection, before it is established.
    pub fn tell(&self, told: Option<Arc<Told>>) {
        if let Some(told) = told {
            // Stated twice, the first counts.
            let _ = self.live.told.set(told);
        }
    }

    /// States the way for what services of access logs are told about the connection.
    pub fn post(&self, post: Post) {
        // Stated twice, the first counts.
        let _ = self.live.post.set(post);
    }

    /// States that a gateway or a waypoint carries the connection, and what it knows of it. Its line has the form of requests'.
    pub fn passes(&self, passage: Passage) {
        self.live.lock().passage = Some(Box::new(passage));
    }

    /// States the cluster that it goes to, where a gateway or a waypoint carries it.
    pub fn set_cluster(&self, name: &Arc<str>) {
        self.live.with_passage(|it| it.set_cluster(Arc::clone(name)));
    }

    /// States that a connection to the endpoint stands: the proxy's own address there, and what was agreed on in TLS.
    pub fn reached(&self, link: (Option<SocketAddr>, Agreed)) {
        self.live.with_passage(|it| it.set_link(link));
    }

    /// States who the source is, once known.
    pub fn set_source(&self, source: Party) {
        self.live.lock().info.source = source;
    }

    /// States whom the connection reaches, or tries to, once known.
    pub fn set_destination(&self, destination: Party) {
        let mut state = self.live.lock();
        if let Some(passage) = &mut state.passage {
            passage.set_upstream(destination.addr);
        }
        state.info.destination = destination;
    }

    /// States where the connection's tunnel ends.
    pub fn set_hbone_addr(&self, addr: SocketAddr) {
        self.live.lock().info.hbone_addr = Some(addr);
    }

    /// States the service that was asked for.
    pub fn set_service(&self, service: Arc<Service>) {
        self.live.lock().info.service = Some(service);
    }

    /// States what stands for the service.
    pub fn set_pseudo_service(&self, pseudo: PseudoService) {
        self.live.lock().info.pseudo_service = Some(pseudo);
    }

    /// States whether the bytes travel under mutual TLS.
    pub fn set_encrypted(&self, encrypted: bool) {
        self.live.lock().info.encrypted = encrypted;
    }

    /// States that the connection has failed, with the usual flag of the stage. The first failure stated is the one
    /// that counts: what follows it is usually its consequence.
    pub fn fail(&self, stage: Stage, reason: impl Display) {
        self.fail_as(stage, stage.flag(), reason);
    }

    /// Like [`ConnReport::fail`] with another flag than the stage's usual one.
    pub fn fail_as(&self, stage: Stage, flag: Flag, reason: impl Display) {
        let mut known = self.live.lock();
        if known.failure.is_none() {
            known.failure = Some(Failure { stage, flag, reason: reason.to_string() });
        }
    }

    /// States that policy has refused the connection, and how that came. The log says which policy, the client does not hear it.
    pub fn denied(&self, denied: &Denied, reason: impl Display) {
        self.live.with_passage(|it| it.set_refused_by(denied.by.details()));
        self.fail(Stage::Policy, reason);
    }

    /// What has been stated about the connection so far.
    pub fn info(&self) -> ConnInfo {
        self.live.lock().info.clone()
    }
}

impl Drop for ConnReport {
    fn drop(&mut self) {
        let Self { reporter, live, slot } = self;
        reporter.live.remove(*slot);
        reporter.open_of(live.direction).fetch_sub(1, Ordering::Relaxed);
        if live.requests.load(Ordering::Relaxed) && live.lock().failure.is_none() {
            return;
        }
        live.end(reporter);
        live.post(reporter);
        let state = live.lock();
        if state.passage.is_some() {
            return live.carried(&state).as_facts(|facts| reporter.log(facts));
        }
        if let Some(format) = reporter.access.format_of_connection(live.told.get()) {
            if live.told.get().is_some_and(|told| !told.logs_connection(&*state)) {
                return;
            }
            let line = Line {
                time: SystemTime::now(),
                info: &state.info,
                sent: live.sent(),
                received: live.received(),
                duration: live.started.elapsed(),
                failure: state.failure.as_ref(),
            };
            reporter.access.connection(&line, format);
        }
    }
}

/// A connection as the admin page and dumps show it.
#[derive(Clone, Debug)]
pub struct ConnView {
    /// Number of the connection in this process; later connections have higher ones.
    pub id: u64,
    /// Who, whom, which way.
    pub info: ConnInfo,
    /// Bytes the local pod has sent.
    pub sent: u64,
    /// Bytes the local pod has received.
    pub received: u64,
    /// Time since the connection was accepted.
    pub age: Duration,
    /// When it was accepted.
    pub since: SystemTime,
    /// Whether it is established.
    pub established: bool,
    /// Whether the kernel carries it, past the proxy.
    pub express: bool,
}

/// What the report and the table share.
#[derive(Debug)]
pub(super) struct Live {
    id: u64,
    direction: Direction,
    started: Instant,
    since: SystemTime,
    counters: Arc<Counters>,
    /// The counters of the other end, if that is where bytes are counted.
    mirrored: OnceLock<Arc<Counters>>,
    /// How much of the counters is in the metrics already; only grows.
    flushed: Counters,
    /// Settled once; with it the connection counts as opened.
    series: OnceLock<Bound>,
    state: Mutex<State>,
    /// What it carries is reported elsewhere.
    requests: AtomicBool,
    /// The kernel carries it.
    express: AtomicBool,
    /// What a Telemetry says is told about it.
    told: OnceLock<Arc<Told>>,
    /// The way to services of access logs.
    post: OnceLock<Post>,
}

/// Where a connection is counted.
#[derive(Debug)]
struct Bound {
    usual: Arc<Series>,
    /// What the mesh page tells: the same, if there was room for it.
    edge: Arc<Series>,
    /// Metrics of which a Telemetry changes labels.
    changed: Box<[(Families, Arc<Series>)]>,
}

impl Bound {
    fn of(&self, metric: Metric) -> &Arc<Series> {
        let changed = self.changed.iter().find(|(families, _)| families.has(metric));
        changed.map_or(&self.usual, |(_, series)| series)
    }

    /// Adds to a metric if it is `made`, and once to what the mesh page tells.
    fn add(&self, figure: &Figure, by: u64, made: bool) {
        let series = self.of(figure.metric);
        if made {
            (figure.counted)(series).fetch_add(by, Ordering::Relaxed);
        }
        if !made || !Arc::ptr_eq(series, &self.edge) {
            (figure.uncounted)(&self.edge.uncounted).fetch_add(by, Ordering::Relaxed);
        }
    }
}

/// A metric that the mesh page tells as well.
struct Figure {
    metric: Metric,
    counted: fn(&Series) -> &AtomicU64,
    uncounted: fn(&Uncounted) -> &AtomicU64,
}

const OPENED: Figure = Figure {
    metric: Metric::TcpOpenedConnections,
    counted: |series| &series.opened,
    uncounted: |it| &it.opened,
};
const SENT: Figure =
    Figure { metric: Metric::TcpSentBytes, counted: |series| &series.sent, uncounted: |it| &it.sent };
const RECEIVED: Figure = Figure {
    metric: Metric::TcpReceivedBytes,
    counted: |series| &series.received,
    uncounted: |it| &it.received,
};

#[derive(Debug)]
struct State {
    info: ConnInfo,
    failure: Option<Failure>,
    /// If a gateway or a waypoint carries it.
    passage: Option<Box<Passage>>,
}

impl Live {
    pub(super) fn new(id: u64, info: ConnInfo, ago: Duration) -> Self {
        let (now, time) = super::now();
        let started = now.checked_sub(ago).unwrap_or(now);
        let since = time.checked_sub(ago).unwrap_or(time);
        Self {
            id,
            direction: info.direction,
            started,
            since,
            counters: Arc::default(),
            mirrored: OnceLock::new(),
            flushed: Counters::default(),
            series: OnceLock::new(),
            state: Mutex::new(State { info, failure: None, passage: None }),
            requests: AtomicBool::new(false),
            express: AtomicBool::new(false),
            told: OnceLock::new(),
            post: OnceLock::new(),
        }
    }

    /// Carries what has been moved since the last flush into the metrics. Any number of threads may do so at once.
    pub(super) fn flush(&self, reporter: &Reporter) {
        let (sent, received) = (self.sent(), self.received());
        if sent == 0 && received == 0 {
            return;
        }
        let series = self.bind(reporter);
        let inbound = self.direction == Direction::Inbound;
        let (of_sent, of_received) = if inbound { (SENT, RECEIVED) } else { (RECEIVED, SENT) };
        for (figure, now, flushed) in
            [(of_sent, sent, &self.flushed.sent), (of_received, received, &self.flushed.received)]
        {
            if let Some(moved) = moved(now, flushed) {
                series.add(&figure, moved, self.counts(figure.metric));
            }
        }
    }

    /// Closes the books.
    fn end(&self, reporter: &Reporter) {
        self.flush(reporter);
        // Stated, or shown by bytes that came through.
        let established = self.series.get().is_some();
        let series = self.bind(reporter);
        let state = self.lock();
        let flag = state.failure.as_ref().map_or(Flag::None, |failure| failure.flag);
        if self.counts(Metric::TcpClosedConnections) {
            series.of(Metric::TcpClosedConnections).closed(flag).fetch_add(1, Ordering::Relaxed);
        }
        let failed = state.failure.as_ref().is_some_and(|failure| failure.stage.is_before_established());
        if failed && !established {
            series.usual.failed(flag).fetch_add(1, Ordering::Relaxed);
            if !Arc::ptr_eq(&series.usual, &series.edge) {
                series.edge.failed(flag).fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Tells services of access logs.
    fn post(&self, reporter: &Reporter) {
        let (Some(told), Some(post)) = (self.told.get(), self.post.get()) else { return };
        let state = self.lock();
        self.carried(&state).as_facts(|facts| {
            let view = View(facts);
            let about: &dyn Attributes = if state.passage.is_some() { &view } else { &*state };
            for (service, entry) in told.entries_of_connection(facts, about) {
                if !post.send(service, entry) {
                    reporter.count(Event::LogNoRoom);
                }
            }
        });
    }

    /// What there is to tell once it is over.
    fn carried<'a>(&'a self, state: &'a State) -> Carried<'a> {
        Carried {
            info: &state.info,
            passage: state.passage.as_deref(),
            bytes: (self.sent(), self.received()),
            since: self.since,
            duration: self.started.elapsed(),
            failure: state.failure.as_ref(),
            told: self.told.get(),
        }
    }

    fn with_passage(&self, state: impl FnOnce(&mut Passage)) {
        if let Some(passage) = &mut self.lock().passage {
            state(passage);
        }
    }

    /// The series of the connection; the first caller settles it and counts the connection as opened.
    fn bind(&self, reporter: &Reporter) -> &Bound {
        self.series.get_or_init(|| {
            let state = self.lock();
            let (usual, mut is_over) = reporter.series.find(&state.info);
            let edge = if is_over { reporter.series.of_edge(&state.info) } else { Arc::clone(&usual) };
            let changes = self.told.get().map(|told| told.changes(&*state)).unwrap_or_default();
            let changed = changes.into_iter().map(|(families, changes)| {
                let (series, overflow) = reporter.series.find_changed(&state.info, changes);
                is_over |= overflow;
                (families, series)
            });
            let bound = Bound { changed: changed.collect(), usual, edge };
            if is_over {
                reporter.count(Event::LabelOverflow);
            }
            bound.add(&OPENED, 1, self.counts(OPENED.metric));
            bound
        })
    }

    /// Whether a metric is made of it.
    fn counts(&self, metric: Metric) -> bool {
        self.told.get().is_none_or(|told| told.counts(metric))
    }

    pub(super) fn view(&self) -> ConnView {
        ConnView {
            id: self.id,
            info: self.lock().info.clone(),
            sent: self.sent(),
            received: self.received(),
            age: self.started.elapsed(),
            since: self.since,
            established: self.series.get().is_some(),
            express: self.express.load(Ordering::Relaxed),
        }
    }

    fn sent(&self) -> u64 {
        let mirrored = self.mirrored.get().map_or(0, |other| other.received.load(Ordering::Relaxed));
        self.counters.sent.load(Ordering::Relaxed) + mirrored
    }

    fn received(&self) -> u64 {
        let mirrored = self.mirrored.get().map_or(0, |other| other.sent.load(Ordering::Relaxed));
        self.counters.received.load(Ordering::Relaxed) + mirrored
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What expressions of Telemetries see of a connection.
impl Attributes for State {
    fn get(&self, path: &[Box<str>]) -> Option<Value<'_>> {
        let part = |at: usize| path.get(at).map_or("", |part| &**part);
        let address = |addr: SocketAddr| Some(Value::Text(addr.to_string().into()));
        match (part(0), part(1)) {
            ("connection", "mtls") => Some(Value::Bool(self.info.encrypted)),
            ("source", "address") => address(self.info.source.addr),
            ("source", "port") => Some(Value::Number(self.info.source.addr.port().into())),
            ("destination", "address") => address(self.info.destination.addr),
            ("destination", "port") => Some(Value::Number(self.info.destination.addr.port().into())),
            ("connection", "uri_san_peer_certificate") => {
                Some(Value::Text(self.info.source.identity.as_ref()?.uri().into()))
            }
            ("response", "flags") => {
                let flag = self.failure.as_ref().map_or(Flag::None, |failure| failure.flag);
                Some(Value::Text(flag.label().into()))
            }
            _ => None,
        }
    }
}

/// What lies between `flushed` and `now`, if anything does; moves `flushed` there.
///
/// `fetch_max` makes each interval somebody's alone: of two threads that race, the one that moves `flushed` further
/// gets the rest, the other nothing.
fn moved(now: u64, flushed: &AtomicU64) -> Option<u64> {
    let before = flushed.fetch_max(now, Ordering::Relaxed);
    now.checked_sub(before).filter(|moved| *moved > 0)
}
