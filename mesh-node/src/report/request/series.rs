//! The counters of the request metrics, one [`Series`] for each label set.
//!
//! A request finds its counters through a cache of its thread, keyed by the addresses of the objects its labels come
//! from; the map behind it, keyed by the labels themselves, is asked only when a thread sees a combination for the
//! first time, or again after a while. Each thread counts in a [`Shard`] of its own, which nobody else writes: adding to
//! it is a load and a store. A scrape adds the shards up.

mod cache;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mesh_core::resource::telemetry::Metric;
use mesh_core::telemetry::Families;
use mesh_core::topology::{Edge, Latency, Tally};
use tokio::time::Instant;

use super::labels;
use super::shape::Shape;
use super::{Perspective, RequestFacts};
use crate::report::edges::{self, Outcome};
use crate::report::known::{self, Counts, Known, Owner, locked};

/// Every series there is, at most [`RequestMap::cap`] of them and one more per perspective for what came later.
#[derive(Debug)]
pub(in crate::report) struct RequestMap {
    /// Tells the caches of the threads which map they cache.
    id: u64,
    cap: usize,
    /// Moves when cached entries should be looked up anew, so that they do not keep old configuration alive.
    epoch: AtomicU64,
    overflow: [Arc<Series>; 3],
    known: Mutex<Known<str, Shards>>,
}

/// A request, and what of it is counted.
type Counted<'a, 'f> = (&'a RequestFacts<'f>, Kind<'a>);

/// What of a request is counted.
#[derive(Clone, Copy)]
enum Kind<'a> {
    /// All metrics, with the labels that they have everywhere.
    Usual,
    /// Some, as a Telemetry has them.
    Shaped(&'a Shape<'a>),
    /// What the mesh page tells, whatever metrics there are.
    Edge,
}

/// The counters of a thread by its number, and whether they hold what is counted as usual.
type Owned = ((usize, bool), Arc<Shard>);

/// The counters of one label set. Labels are as between the braces of a sample, with a comma at the end.
pub(super) type Series = known::Series<str, Shards>;

/// By the number of the thread that writes them, and whether it writes what is counted as usual.
#[derive(Debug, Default)]
pub(super) struct Shards(Mutex<Vec<Owned>>);

/// What one thread has counted of one label set. Has cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    requests: AtomicU64,
    /// The last one that was traced.
    exemplar: Mutex<Option<Exemplar>>,
    /// Microseconds.
    duration: Histogram,
    received: Histogram,
    sent: Histogram,
    request_messages: AtomicU64,
    response_messages: AtomicU64,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// A request that was traced, to look at beside the counters that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Exemplar {
    /// When it ended.
    pub(super) at: SystemTime,
    /// Its trace.
    pub(super) trace: u128,
    /// How long it took, in microseconds.
    pub(super) micros: u64,
}

/// The sum of what all threads have counted of one label set.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) exemplar: Option<Exemplar>,
    pub(super) requests: u64,
    /// Microseconds.
    pub(super) duration: Distribution,
    pub(super) received: Distribution,
    pub(super) sent: Distribution,
    pub(super) request_messages: u64,
    pub(super) response_messages: u64,
}

/// A histogram as it was at one time; buckets do not include those below them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Distribution {
    pub(super) buckets: [u64; BUCKETS],
    pub(super) sum: u64,
}

impl RequestMap {
    /// A map of at most `cap` label sets.
    pub(in crate::report) fn new(cap: usize) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let overflow = Perspective::ALL
            .map(|reporter| Arc::new(Series::new(labels::render_unknown(reporter).into(), None, None)));
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { id, cap, epoch: AtomicU64::new(0), overflow, known: Mutex::default() }
    }

    /// Counts a request; the answer is whether the cap left only the series for unknown labels.
    pub(super) fn record(&self, facts: &RequestFacts<'_>) -> bool {
        let Some(told) = facts.told.filter(|told| told.reshapes()) else {
            let overflow = self.count((facts, Kind::Usual));
            if overflow {
                self.count((facts, Kind::Edge));
            }
            return overflow;
        };
        let all = Shape::all(told, facts).map(|shape| self.count((facts, Kind::Shaped(&shape))));
        let overflow = all.fold(false, |any, overflow| any | overflow);
        self.count((facts, Kind::Edge));
        overflow
    }

    fn count(&self, counted: Counted<'_, '_>) -> bool {
        cache::with(self.id, self.epoch.load(Ordering::Relaxed), |cache| {
            let cached = cache.find_or_insert(counted, |thread| {
                let (series, overflow) = self.intern(counted);
                (series.shard((thread, !matches!(counted.1, Kind::Shaped(_)))), overflow)
            });
            let families = counted.1.shape().map_or(Families::ALL, Shape::families);
            cached.shard.record(counted.0, families);
            cached.overflow
        })
    }

    /// Makes every thread forget the addresses it has cached, at its next request.
    pub(in crate::report) fn forget_cached(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Every series that has counted something, oldest first, overflow last.
    pub(super) fn totals(&self) -> Vec<(Arc<str>, Totals)> {
        let mut all = locked(&self.known).ordered();
        all.extend(self.overflow.iter().cloned());
        let totals = all.into_iter().map(|series| (series.labels.clone(), series.totals()));
        totals.filter(|(_, totals)| *totals != Totals::default()).collect()
    }

    /// The edge of every series, and what it has carried.
    pub(in crate::report) fn tallies(&self) -> Vec<(Edge, Tally)> {
        known::tallies(&self.known)
    }

    /// Forgets what was not counted for long. To be called once an epoch: threads forget what they have cached with each, at their
    /// next request, so a series that was idle for several epochs is in no cache of a thread that goes on counting.
    pub(in crate::report) fn forget_idle(&self, now: Instant) {
        locked(&self.known).forget_idle(self.cap, now);
    }

    /// Finds or makes the series of a request's labels, or the one for unknown ones beyond the cap.
    fn intern(&self, (facts, kind): Counted<'_, '_>) -> (Arc<Series>, bool) {
        let edge = || (edges::of_request(facts), edges::outcome(facts));
        let mut known = locked(&self.known);
        if matches!(kind, Kind::Edge) {
            let (edge, outcome) = edge();
            return (known.of_edge((edge, outcome), ("".into(), self.cap)), false);
        }
        let labels = labels::render(facts, kind.shape());
        let edge = matches!(kind, Kind::Usual).then(edge);
        if let Some(series) = known.get(&labels) {
            if let Some(edge) = edge {
                series.edge.get_or_init(|| edge);
            }
            return (series.clone(), false);
        }
        let owner = kind.shape().and_then(|_| owner(facts));
        match known.add(Series::new(labels.into(), edge, owner), self.cap) {
            Some(series) => (series, false),
            None => (self.overflow_of(facts.reporter).clone(), true),
        }
    }

    fn overflow_of(&self, reporter: Perspective) -> &Arc<Series> {
        let [source, destination, waypoint] = &self.overflow;
        match reporter {
            Perspective::Source => source,
            Perspective::Destination => destination,
            Perspective::Waypoint => waypoint,
        }
    }
}

impl<'a> Kind<'a> {
    fn shape(self) -> Option<&'a Shape<'a>> {
        match self {
            Self::Shaped(shape) => Some(shape),
            Self::Usual | Self::Edge => None,
        }
    }
}

/// Whose Telemetry a request is told about by: the workload's at the end that tells.
fn owner(facts: &RequestFacts<'_>) -> Option<Owner> {
    let workload = match facts.reporter {
        Perspective::Source => facts.source,
        Perspective::Destination | Perspective::Waypoint => facts.destination,
    };
    workload.map(|it| (Arc::clone(&it.namespace), Arc::clone(&it.workload_name)))
}

impl Shards {
    /// The counters of the thread that has this number now.
    fn shard(&self, thread: (usize, bool)) -> Arc<Shard> {
        let mut shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, shard)) = shards.iter().find(|(owner, _)| *owner == thread) {
            return shard.clone();
        }
        let shard = Arc::<Shard>::default();
        shards.push((thread, shard.clone()));
        shard
    }

    fn totals(&self) -> Totals {
        self.sum(|_| true)
    }

    /// Of those counters that hold what is counted as usual, or of those that do not.
    fn sum(&self, wanted: impl Fn(bool) -> bool) -> Totals {
        let mut totals = Totals::default();
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, shard) in shards.iter().filter(|((_, usual), _)| wanted(*usual)) {
            totals.requests += shard.requests.load(Ordering::Relaxed);
            let exemplar = *shard.exemplar.lock().unwrap_or_else(PoisonError::into_inner);
            totals.exemplar = totals.exemplar.max(exemplar);
            totals.duration.add(&shard.duration);
            totals.received.add(&shard.received);
            totals.sent.add(&shard.sent);
            totals.request_messages += shard.request_messages.load(Ordering::Relaxed);
            totals.response_messages += shard.response_messages.load(Ordering::Relaxed);
        }
        totals
    }
}

impl Counts for Shards {
    type Key = Outcome;

    fn tally(&self, outcome: Outcome) -> Tally {
        self.sum(|usual| usual).tally(outcome)
    }

    fn activity(&self) -> u64 {
        self.totals().activity()
    }
}

impl Totals {
    /// Moves with everything that is counted.
    fn activity(&self) -> u64 {
        [self.duration.count(), self.received.count(), self.sent.count(), self.request_messages]
            .into_iter()
            .fold(self.requests.wrapping_add(self.response_messages), u64::wrapping_add)
    }

    fn tally(&self, outcome: Outcome) -> Tally {
        let requests = self.duration.count();
        let of = |wanted| if outcome == wanted { requests } else { 0 };
        Tally {
            requests,
            client_errors: of(Outcome::ClientError),
            server_errors: of(Outcome::ServerError),
            latency: Latency::from_counts(self.duration.buckets),
            sent: self.sent.sum,
            received: self.received.sum,
            ..Tally::default()
        }
    }
}

impl Shard {
    fn record(&self, facts: &RequestFacts<'_>, families: Families) {
        if families.has(Metric::RequestCount) {
            bump(&self.requests, 1);
        }
        if families.has(Metric::RequestDuration) {
            self.duration.record(micros(facts.duration), &DURATION_LIMITS);
            if let Some(trace) = facts.trace {
                let (at, micros) = (facts.start + facts.duration, micros(facts.duration));
                let exemplar = Exemplar { at, trace, micros };
                *self.exemplar.lock().unwrap_or_else(PoisonError::into_inner) = Some(exemplar);
            }
        }
        if families.has(Metric::RequestSize) {
            self.received.record(facts.bytes_received, &SIZE_LIMITS);
        }
        if families.has(Metric::ResponseSize) {
            self.sent.record(facts.bytes_sent, &SIZE_LIMITS);
        }
        if facts.request_messages != 0 && families.has(Metric::GrpcRequestMessages) {
            bump(&self.request_messages, facts.request_messages);
        }
        if facts.response_messages != 0 && families.has(Metric::GrpcResponseMessages) {
            bump(&self.response_messages, facts.response_messages);
        }
    }
}

impl Histogram {
    fn record(&self, value: u64, limits: &[u64; BUCKETS - 1]) {
        let place = limits.partition_point(|limit| *limit < value);
        bump(self.buckets.get(place).expect("one bucket more than limits"), 1);
        bump(&self.sum, value);
    }
}

impl Exemplar {
    /// The bucket that it is in.
    pub(super) fn bucket(&self) -> usize {
        DURATION_LIMITS.partition_point(|limit| *limit < self.micros)
    }
}

impl Distribution {
    /// How many values there were.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    fn add(&mut self, histogram: &Histogram) {
        for (total, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total += bucket.load(Ordering::Relaxed);
        }
        self.sum = self.sum.wrapping_add(histogram.sum.load(Ordering::Relaxed));
    }
}

/// Adds to a counter that this thread alone writes.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

fn micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into())
}

/// Buckets of a histogram, the last one without a limit.
pub(super) const BUCKETS: usize = 20;

/// Envoy's default limits as labels, which has them without a fraction where there is none.
pub(super) const LIMITS: [&str; BUCKETS] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000",
    "60000", "300000", "600000", "1800000", "3600000", "+Inf",
];

/// [`LIMITS`] of milliseconds, in microseconds.
const DURATION_LIMITS: [u64; BUCKETS - 1] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// [`LIMITS`] of bytes: of whole ones, 0 is the most that half a byte takes.
const SIZE_LIMITS: [u64; BUCKETS - 1] = [
    0, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000,
    1_800_000, 3_600_000,
];
