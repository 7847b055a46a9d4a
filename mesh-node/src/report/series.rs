//! The counters of the connection metrics, one [`Series`] for each label set.
//!
//! A connection finds its series once, through a cache of its thread keyed by the addresses of the objects its labels
//! come from; the map behind it, keyed by the labels themselves, is asked only when a thread sees a combination for
//! the first time. From then on a connection touches atomics only.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use mesh_core::id::SpiffeId;
use mesh_core::topology::{Edge, Tally};
use tokio::time::Instant;

use super::edges;
use super::known::{self, Counts, Known, Owner, locked};
use super::labels::{Changes, Labels};
use super::{ConnInfo, Direction, Flag, PseudoService};

/// All counters of one label set.
pub(super) type Series = known::Series<Labels, Counted>;

/// Bytes are counted from the server's side; see [`super::Counters`].
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) opened: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// What the mesh page tells of the edge, and these metrics do not have: a Telemetry has it under other labels, or not at all.
    pub(super) uncounted: Uncounted,
    /// By [`Flag::index`].
    closed: [AtomicU64; Flag::ALL.len()],
    /// By [`Flag::index`].
    failed: [AtomicU64; Flag::ALL.len()],
}

/// See [`Counted::uncounted`].
#[derive(Debug, Default)]
pub(super) struct Uncounted {
    pub(super) opened: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

impl Counted {
    /// The closed connections of a flag.
    pub(super) fn closed(&self, flag: Flag) -> &AtomicU64 {
        self.closed.get(flag.index()).expect("as many counters as flags")
    }

    /// The connections of a flag that were never established.
    pub(super) fn failed(&self, flag: Flag) -> &AtomicU64 {
        self.failed.get(flag.index()).expect("as many counters as flags")
    }
}

impl Counts for Counted {
    type Key = ();

    /// All of it, as it stands now.
    fn tally(&self, (): ()) -> Tally {
        let sum = |one: &AtomicU64, other: &AtomicU64| {
            one.load(Ordering::Relaxed).wrapping_add(other.load(Ordering::Relaxed))
        };
        Tally {
            sent: sum(&self.sent, &self.uncounted.sent),
            received: sum(&self.received, &self.uncounted.received),
            opened: sum(&self.opened, &self.uncounted.opened),
            failed: self.failed.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
            ..Tally::default()
        }
    }

    fn activity(&self) -> u64 {
        let tally = self.tally(());
        let closed = self.closed.iter().map(|count| count.load(Ordering::Relaxed));
        [tally.sent, tally.received, tally.opened]
            .into_iter()
            .chain(closed)
            .fold(tally.failed, u64::wrapping_add)
    }
}

/// Every series there is, at most [`SeriesMap::cap`] of them and one more per direction for what came later.
#[derive(Debug)]
pub(super) struct SeriesMap {
    /// Tells the caches of the threads which map they cache.
    id: u64,
    cap: usize,
    /// Moves when cached entries should be looked up anew, so that they do not keep old configuration alive.
    epoch: AtomicU64,
    overflow: [Arc<Series>; Direction::ALL.len()],
    known: Mutex<Known<Labels, Counted>>,
}

impl SeriesMap {
    /// A map of at most `cap` label sets.
    pub(super) fn new(cap: usize) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let overflow = Direction::ALL
            .map(|direction| Arc::new(Series::new(Arc::new(Labels::unknown(direction)), None, None)));
        let known = Mutex::default();
        Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), cap, epoch: AtomicU64::new(0), overflow, known }
    }

    /// As [`Self::find`], for a connection of which a Telemetry changes labels. Nothing remembers it: their values may be
    /// different for each connection.
    pub(super) fn find_changed(&self, info: &ConnInfo, changes: Changes) -> (Arc<Series>, bool) {
        if changes.is_empty() {
            return self.find(info);
        }
        match self.intern(info, changes) {
            Some(series) => (series, false),
            None => (self.overflow_of(info.direction).clone(), true),
        }
    }

    /// The series of a connection; the flag tells whether the cap left only the one for unknown labels.
    pub(super) fn find(&self, info: &ConnInfo) -> (Arc<Series>, bool) {
        CACHE.with_borrow_mut(|cache| {
            cache.refresh(self.id, self.epoch.load(Ordering::Relaxed));
            let key = CacheKey::of(info);
            if let Some(hit) = cache.entries.get(&key).and_then(|it| it.series.upgrade()) {
                return (hit, false);
            }
            let Some(series) = self.intern(info, Changes::new()) else {
                // Not cached: room may appear, and each such connection is to be counted as overflow.
                return (self.overflow_of(info.direction).clone(), true);
            };
            cache.insert(key, info, &series);
            (series, false)
        })
    }

    /// Makes every thread forget the addresses it has cached, at its next lookup.
    pub(super) fn forget_cached(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// What the mesh page tells of a connection for whose labels there is no room; beyond the cap that of all of them.
    pub(super) fn of_edge(&self, info: &ConnInfo) -> Arc<Series> {
        let edge = edges::of_connection(info);
        let labels = Arc::clone(&self.overflow_of(info.direction).labels);
        locked(&self.known).of_edge((edge, ()), (labels, self.cap))
    }

    /// What was carried, by edge.
    pub(super) fn tallies(&self) -> Vec<(Edge, Tally)> {
        known::tallies(&self.known)
    }

    /// Forgets what was not counted for long. What a connection holds that is open stays. To be called once an epoch.
    pub(super) fn forget_idle(&self, now: Instant) {
        locked(&self.known).forget_idle(self.cap, now);
    }

    /// Every series, oldest first, overflow last.
    pub(super) fn all(&self) -> Vec<Arc<Series>> {
        let mut all = locked(&self.known).ordered();
        all.extend(self.overflow.iter().cloned());
        all
    }

    /// Finds or makes the series of the connection's labels; `None` beyond the cap.
    fn intern(&self, info: &ConnInfo, changes: Changes) -> Option<Arc<Series>> {
        let is_usual = changes.is_empty();
        let labels = Labels::of(info, changes);
        let mut known = locked(&self.known);
        if let Some(series) = known.get(&labels) {
            return Some(series.clone());
        }
        let owner = if is_usual { None } else { owner(info) };
        // Of changed labels only some metrics are made, and what a label set has in common need not be an edge.
        let edge = is_usual.then(|| (edges::of_connection(info), ()));
        known.add(Series::new(Arc::new(labels), edge, owner), self.cap)
    }

    fn overflow_of(&self, direction: Direction) -> &Arc<Series> {
        let [inbound, outbound, through] = &self.overflow;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
            Direction::Through => through,
        }
    }
}

/// Whose Telemetry a connection is told about by: the local workload's.
fn owner(info: &ConnInfo) -> Option<Owner> {
    let party = if info.direction == Direction::Outbound { &info.source } else { &info.destination };
    let workload = party.workload.as_ref()?;
    Some((Arc::clone(&workload.namespace), Arc::clone(&workload.workload_name)))
}

/// What a thread remembers. Addresses stay valid because an entry holds the objects they point to.
#[derive(Default)]
struct Cache {
    map: u64,
    epoch: u64,
    entries: HashMap<CacheKey, Cached>,
}

/// A remembered series, unless it is forgotten, with a hold on whatever its key names by address.
struct Cached {
    series: Weak<Series>,
    _held: Held,
}

type Held = (
    Option<Arc<mesh_core::model::Workload>>,
    Option<Arc<mesh_core::model::Workload>>,
    Option<Arc<mesh_core::model::Service>>,
);

impl Cache {
    /// Empties a cache that is another map's or of an earlier epoch.
    fn refresh(&mut self, map: u64, epoch: u64) {
        if (self.map, self.epoch) != (map, epoch) {
            self.entries.clear();
            (self.map, self.epoch) = (map, epoch);
        }
    }

    fn insert(&mut self, key: CacheKey, info: &ConnInfo, series: &Arc<Series>) {
        if self.entries.len() >= CACHE_CAPACITY {
            self.entries.clear();
        }
        let held = (info.source.workload.clone(), info.destination.workload.clone(), info.service.clone());
        self.entries.insert(key, Cached { series: Arc::downgrade(series), _held: held });
    }
}

/// What the labels of a connection depend on, objects by address.
#[derive(PartialEq, Eq, Hash)]
struct CacheKey {
    direction: Direction,
    encrypted: bool,
    datagrams: bool,
    pseudo_service: Option<PseudoService>,
    objects: [usize; 3],
    identities: [Option<SpiffeId>; 2],
}

impl CacheKey {
    fn of(info: &ConnInfo) -> Self {
        Self {
            direction: info.direction,
            encrypted: info.encrypted,
            datagrams: info.datagrams,
            pseudo_service: info.pseudo_service,
            objects: [
                address(info.source.workload.as_ref()),
                address(info.destination.workload.as_ref()),
                address(info.service.as_ref()),
            ],
            identities: [info.source.identity.clone(), info.destination.identity.clone()],
        }
    }
}

/// Where an object is, or 0.
pub(super) fn address<T>(object: Option<&Arc<T>>) -> usize {
    object.map_or(0, |object| Arc::as_ptr(object).addr())
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Entries of one thread's cache. A node has a few hundred pairs of workloads in use at a time.
const CACHE_CAPACITY: usize = 1_024;
