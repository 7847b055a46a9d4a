//! What the proxy tells about the connections and HTTP requests it carries: metrics, one access-log line each, and the
//! table of the connections open now. Of requests see [`RequestFacts`].
//!
//! A connection's story is told by a [`ConnReport`], made when the connection is accepted and dropped when it is over;
//! the drop writes the one line and closes the books, whichever way the code left. Bytes are counted by whoever moves
//! them in [`Counters`], two plain atomics; [`Reporter::sweep`] carries what has been moved since its last visit
//! into the metrics, so that those of a connection that lives for days do not jump at its end.
//!
//! Invariant: every byte counted before the report is dropped reaches the metrics exactly once, and over all labels
//! `opened - closed` is the number of connections that were opened and are still alive.

mod access;
mod age;
mod carried;
mod conn;
mod edges;
mod entries;
mod event;
mod health;
mod known;
mod labels;
mod metrics;
mod process;
mod protocol;
mod reason;
mod request;
mod series;
mod table;
mod text;
mod thread;
mod time;
mod told;
mod verdicts;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use mesh_core::id::SpiffeId;
use mesh_core::model::{Service, Workload};
use prometheus_client::collector::Collector;
use tokio::time::Instant;

pub use access::AccessLogFormat;
pub use carried::Passage;
pub use conn::{ConnReport, ConnView, Counters};
pub use entries::{Mail, Post};
pub use event::{Event, Family};
pub use health::{Checked, CheckedEndpoint};
pub use metrics::{CertificateFigure, NodeFigures, classic_text};
pub use protocol::{Operation, Speaking};
pub use reason::{Failure, Flag, Stage};
pub use request::{
    AccessFormat, Flags, FormatError, HeaderLookup, Perspective, RequestFacts, RequestHeaderFacts, TlsFacts,
};
pub use time::Rfc3339;
pub use told::{Telemetry, Told};

pub(crate) use told::name_unknown;
pub use verdicts::{Refusal, Verdict};

use conn::Live;
use series::SeriesMap;
use table::Table;

/// Which end of a connection the local pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards a local pod: the metrics' reporter is the destination.
    Inbound,
    /// From a local pod: the metrics' reporter is the source.
    Outbound,
    /// Neither: at a waypoint, which is the metrics' reporter.
    Through,
}

impl Direction {
    /// Each of them.
    pub(crate) const ALL: [Self; 3] = [Self::Inbound, Self::Outbound, Self::Through];

    /// The value of the label `reporter`.
    pub const fn reporter(self) -> &'static str {
        match self {
            Self::Inbound => "destination",
            Self::Outbound => "source",
            Self::Through => "waypoint",
        }
    }

    /// As access logs and the admin page name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Through => "through",
        }
    }
}

/// What stands for the service where the destination is not one of the mesh's; the names are Istio's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PseudoService {
    /// An address outside of the mesh that was let through.
    Passthrough,
    /// An address outside of the mesh that was refused.
    BlackHole,
    /// An address of a local pod that was reached without a service.
    InboundPassthrough,
}

impl PseudoService {
    /// The value of the labels `destination_service` and `destination_service_name`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "PassthroughCluster",
            Self::BlackHole => "BlackHoleCluster",
            Self::InboundPassthrough => "InboundPassthroughCluster",
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Party {
    /// The TCP address of that end, as seen here.
    pub addr: SocketAddr,
    /// The workload that the configuration has at that address.
    pub workload: Option<Arc<Workload>>,
    /// The identity of that end, if and only if it is *proven*: by its certificate, or because it is a local pod whose
    /// namespace the connection came from or goes to. Never deduced from an address.
    pub identity: Option<SpiffeId>,
}

impl Party {
    /// An end of which only the address is known.
    pub const fn unknown(addr: SocketAddr) -> Self {
        Self { addr, workload: None, identity: None }
    }
}

/// What is known of a connection. Its parts may become known one after the other: see [`ConnReport`].
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Which end is local.
    pub direction: Direction,
    /// Who opened the connection.
    pub source: Party,
    /// Whom it reached: the address of the application, inside of a tunnel or not.
    pub destination: Party,
    /// Where the tunnel ends (the destination's port 15008), if the connection is tunnelled.
    pub hbone_addr: Option<SocketAddr>,
    /// The service the source asked for.
    pub service: Option<Arc<Service>>,
    /// What to say instead if there is no service.
    pub pseudo_service: Option<PseudoService>,
    /// Whether the bytes travel under mutual TLS between the proxies.
    pub encrypted: bool,
    /// Whether it is a session of datagrams, which is no connection of TCP.
    pub datagrams: bool,
}

/// What a process of the mesh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The proxy of a node.
    Node,
    /// A gateway or a waypoint.
    Edge,
}

impl Component {
    /// As `istio_build` calls it. Dashboards and Kiali look for nodes by the name of ambient Istio's node proxy.
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Node => &["node", "ztunnel"],
            Self::Edge => &["proxy"],
        }
    }
}

/// How to make a [`Reporter`].
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// Version of this build, for `istio_build`.
    pub version: String,
    /// What this process is, for the same.
    pub component: Component,
    /// Whether and how connections and requests are logged at first; [`Reporter::set_access_log`] changes it.
    pub access_log: AccessLogFormat,
    /// Most label sets a family of connection metrics may have for each flag; more are counted as `unknown`.
    pub max_label_sets: usize,
    /// Most label sets a family of request metrics may have; more are counted as `unknown`.
    pub max_request_sets: usize,
}

impl ReportOptions {
    /// As usual, and logs as the command line says; as text until the mesh's settings are known, if it says nothing.
    pub fn logging(given: Option<AccessLogFormat>) -> Self {
        Self { access_log: given.unwrap_or(AccessLogFormat::Text), ..Self::default() }
    }
}

impl Default for ReportOptions {
    fn default() -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            version,
            component: Component::Node,
            access_log: AccessLogFormat::Off,
            max_label_sets: MAX_LABEL_SETS,
            max_request_sets: MAX_REQUEST_SETS,
        }
    }
}

/// The one place where all threads report. Cheap to share; nothing in it waits.
#[derive(Debug)]
pub struct Reporter {
    version: String,
    component: Component,
    series: SeriesMap,
    requests: request::RequestMap,
    protocols: protocol::Protocols,
    live: Table<Live>,
    open: [AtomicU64; Direction::ALL.len()],
    next_id: AtomicU64,
    sweeps: AtomicU64,
    events: event::Events,
    access: access::AccessLog,
    health: health::HealthChecks,
    verdicts: verdicts::Verdicts,
    extra: std::sync::Mutex<Vec<Arc<dyn Collector>>>,
}

impl Reporter {
    /// A reporter whose access log goes to `sink`, written by a thread of its own that ends with the reporter.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn new(options: ReportOptions, sink: Box<dyn Write + Send>) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            version: options.version,
            component: options.component,
            series: SeriesMap::new(options.max_label_sets),
            requests: request::RequestMap::new(options.max_request_sets),
            protocols: protocol::Protocols::default(),
            live: Table::default(),
            open: Direction::ALL.map(|_| AtomicU64::new(0)),
            next_id: AtomicU64::new(1),
            sweeps: AtomicU64::new(0),
            events: event::Events::default(),
            access: access::AccessLog::start(options.access_log, sink)?,
            health: health::HealthChecks::default(),
            verdicts: verdicts::Verdicts::default(),
            extra: std::sync::Mutex::default(),
        }))
    }

    /// Begins the report of a connection that has just been accepted.
    pub fn begin(self: &Arc<Self>, info: ConnInfo) -> ConnReport {
        self.begin_since(info, Duration::ZERO)
    }

    /// Begins the report of a connection that was accepted some time `ago`.
    pub fn begin_since(self: &Arc<Self>, info: ConnInfo, ago: Duration) -> ConnReport {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.open_of(info.direction).fetch_add(1, Ordering::Relaxed);
        let live = Arc::new(Live::new(id, info, ago));
        let slot = self.live.insert(live.clone());
        ConnReport::new(self.clone(), live, slot)
    }

    /// Version of this build.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Counts an event.
    pub fn count(&self, event: Event) {
        self.events.count(event);
    }

    /// Counts an event that has happened so often.
    pub fn count_several(&self, event: Event, times: u64) {
        self.events.add(event, times);
    }

    /// How often an event has happened since the start.
    pub fn counted(&self, event: Event) -> u64 {
        match event {
            Event::Panic => self.events.value(event) + crate::run::tasks::panics(),
            Event::AccessLogDropped => self.events.value(event) + self.access.dropped(),
            _ => self.events.value(event),
        }
    }

    /// Switches the access log of connections, and that of requests as long as they have no format of their own.
    pub fn set_access_log(&self, format: AccessLogFormat) {
        self.access.set_format(format);
    }

    /// Whether `accessLogFile` of the mesh's settings asks for an access log. Without, there are no lines of requests but those that a
    /// Telemetry asks for, as in Istio; a node's of connections are there anyway, as ztunnel's are.
    pub fn set_access_log_file(&self, is_set: bool) {
        self.access.set_all(is_set || self.component == Component::Node, is_set);
    }

    /// Adds metrics of another part of the process to every scrape.
    pub fn register(&self, collector: Arc<dyn Collector>) {
        self.extra.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(collector);
    }

    /// Brings the metrics up to date with what live connections have carried. One sweep at a time is enough; more do no
    /// harm.
    pub fn sweep(&self) {
        self.sweep_at(Instant::now());
    }

    fn sweep_at(&self, now: Instant) {
        self.live.for_each(|live| live.flush(self));
        let sweeps = self.sweeps.fetch_add(1, Ordering::Relaxed);
        if sweeps % SWEEPS_PER_EPOCH == SWEEPS_PER_EPOCH - 1 {
            self.series.forget_cached();
            self.requests.forget_cached();
            self.requests.forget_idle(now);
            self.series.forget_idle(now);
        }
    }

    /// Sweeps every 5 s, for ever. To be run on the control thread.
    pub async fn run_sweeps(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep();
        }
    }

    /// Waits until the access-log lines written so far are out, at most `limit`; blocks. For the end of the process.
    pub fn flush_access_log(&self, limit: Duration) {
        self.access.flush(limit);
    }

    /// The connections open now, oldest first.
    pub fn connections(&self) -> Vec<ConnView> {
        let mut all = Vec::new();
        self.live.for_each(|live| all.push(live.view()));
        all.sort_unstable_by_key(|view| view.id);
        all
    }

    /// How many connections are open now, of all directions together.
    pub fn open_connections(&self) -> u64 {
        self.open.iter().map(|open| open.load(Ordering::Relaxed)).sum()
    }

    fn open_of(&self, direction: Direction) -> &AtomicU64 {
        let [inbound, outbound, through] = &self.open;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
            Direction::Through => through,
        }
    }
}

/// Present time on both clocks.
fn now() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

/// How often live connections' bytes reach the metrics: below the usual scrape interval of 15 s.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Sweeps between two occasions at which threads let go of cached configuration: one minute.
const SWEEPS_PER_EPOCH: u64 = 12;
/// Far above the pairs of workloads that one node's pods talk to; some 40 MB of text at a scrape.
const MAX_LABEL_SETS: usize = 10_000;
/// Requests take more samples for each label set, some 60 KB of text: at most some 200 MB at a scrape.
const MAX_REQUEST_SETS: usize = 3_000;

#[cfg(test)]
pub(crate) mod tests;
