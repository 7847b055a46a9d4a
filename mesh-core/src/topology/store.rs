//! An hour of traffic: the last minutes in short buckets, the rest in longer ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use super::graph::{Graph, Level, Rates, build};
use super::{Edge, Party, Side, Tally};

/// What was told in the last hour.
///
/// Memory: a cell is what one [`Edge`] carried in one bucket, some 170 bytes; there are at most [`Store::MAX_CELLS`] (some
/// 85 MB), and when there are more the oldest bucket is forgotten. There are at most [`Store::MAX_EDGES`] edges at a time;
/// what is told of others is not kept.
#[derive(Debug, Default)]
pub struct Store {
    /// Of [`FINE`] seconds, the oldest first.
    fine: VecDeque<Bucket>,
    /// Of [`COARSE`] seconds, the oldest first.
    coarse: VecDeque<Bucket>,
    edges: BTreeSet<Arc<Edge>>,
    cells: usize,
    /// When the first was told.
    begun: Option<u64>,
    /// The latest time that was told: a clock that goes back stands still here.
    latest: u64,
}

#[derive(Debug)]
struct Bucket {
    start: u64,
    cells: BTreeMap<Arc<Edge>, Tally>,
}

/// What was carried in one stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// When it begins, in seconds since 1970.
    pub at: u64,
    /// How long it is.
    pub seconds: u64,
    /// What was carried.
    #[serde(flatten)]
    pub rates: Rates,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Edges that have carried something within the hour.
    pub edges: usize,
    /// Cells.
    pub cells: usize,
}

impl Store {
    /// Most edges at a time.
    pub const MAX_EDGES: usize = 50_000;
    /// Most cells.
    pub const MAX_CELLS: usize = 500_000;

    /// Takes in what an edge has carried in the last seconds. False if there is no room for another edge. `now` is in
    /// seconds since 1970.
    pub fn record(&mut self, now: u64, edge: Edge, tally: &Tally) -> bool {
        if tally.is_empty() {
            return true;
        }
        self.roll(now);
        let now = self.latest;
        self.begun.get_or_insert(now);
        let edge = match self.edges.get(&edge) {
            Some(known) => Arc::clone(known),
            None if self.edges.len() >= Self::MAX_EDGES => return false,
            None => {
                let edge = Arc::new(edge);
                self.edges.insert(Arc::clone(&edge));
                edge
            }
        };
        let start = now / FINE * FINE;
        if self.fine.back().is_none_or(|bucket| bucket.start != start) {
            self.fine.push_back(Bucket::new(start));
        }
        let bucket = self.fine.back_mut().expect("there is one now");
        self.cells += bucket.add(edge, tally);
        if self.cells > Self::MAX_CELLS {
            self.forget_oldest();
        }
        true
    }

    /// Lets go of what is older than an hour, as of `now`.
    pub fn roll(&mut self, now: u64) {
        self.latest = self.latest.max(now);
        let now = self.latest;
        while self.fine.front().is_some_and(|bucket| bucket.start + KEPT_FINE < now) {
            let Some(old) = self.fine.pop_front() else { break };
            self.fold(old);
        }
        while self.coarse.front().is_some_and(|bucket| bucket.start + KEPT < now) {
            self.forget_oldest();
        }
    }

    /// The graph of what was carried in the last `window` seconds between edges that `wanted` is true for.
    pub fn graph(&self, now: u64, window: u64, level: Level, wanted: impl Fn(&Edge) -> bool) -> Graph {
        let from = now.max(self.latest).saturating_sub(window);
        let (sums, seconds) = self.sums(now, from);
        build(level, seconds, sums.into_iter().filter(|(edge, _)| wanted(edge)))
    }

    /// What each service was asked for in the last `window` seconds, by namespace and name.
    pub fn by_service(&self, now: u64, window: u64) -> BTreeMap<(Arc<str>, Arc<str>), Rates> {
        let (sums, seconds) = self.sums(now, now.max(self.latest).saturating_sub(window));
        let mut totals: BTreeMap<(Arc<str>, Arc<str>), Tally> = BTreeMap::new();
        for (edge, tally) in sums {
            if let Some(service) = &edge.service {
                let key = (Arc::clone(&service.namespace), Arc::clone(&service.name));
                totals.entry(key).or_default().add(&tally);
            }
        }
        totals.into_iter().map(|(key, tally)| (key, Rates::of(&tally, seconds))).collect()
    }

    /// What edges that `wanted` is true for have carried, over the hour.
    pub fn series(&self, now: u64, wanted: impl Fn(&Edge) -> bool) -> Vec<Point> {
        let now = now.max(self.latest);
        let from = now.saturating_sub(KEPT);
        let heard = Heard::of(
            self.buckets_since(from).flat_map(|(_, _, bucket)| bucket.cells.keys().map(AsRef::as_ref)),
        );
        let mut points = Vec::new();
        for (start, seconds, bucket) in self.buckets_since(from) {
            // What is not over yet would look like a drop.
            if start + seconds > now {
                continue;
            }
            let mut total = Tally::default();
            let cells = bucket.cells.iter().filter(|(edge, _)| wanted(edge) && heard.counts(edge));
            cells.for_each(|(_, tally)| total.add(tally));
            points.push(Point { at: start, seconds, rates: Rates::of(&total, seconds) });
        }
        points
    }

    /// How much is kept.
    pub fn summary(&self) -> Summary {
        Summary { edges: self.edges.len(), cells: self.cells }
    }

    /// What each edge has carried since `from`, where each connection or request counts once; and in how many seconds.
    fn sums(&self, now: u64, from: u64) -> (BTreeMap<&Edge, Tally>, u64) {
        let mut sums: BTreeMap<&Edge, Tally> = BTreeMap::new();
        let mut earliest = None;
        for (start, _, bucket) in self.buckets_since(from) {
            earliest.get_or_insert(start);
            for (edge, tally) in &bucket.cells {
                sums.entry(edge).or_default().add(tally);
            }
        }
        let heard = Heard::of(sums.keys().copied());
        sums.retain(|edge, _| heard.counts(edge));
        let now = now.max(self.latest);
        let begins = from.min(earliest.unwrap_or(from)).max(self.begun.unwrap_or(from));
        (sums, now.saturating_sub(begins).max(FINE))
    }

    /// Start, length and content of what ends after `from`, the oldest first.
    fn buckets_since(&self, from: u64) -> impl Iterator<Item = (u64, u64, &Bucket)> {
        // The last long bucket ends where the short ones begin: the rest of its minute is still among those.
        let ends = self.fine.front().map_or(u64::MAX, |bucket| bucket.start);
        let length = move |start: u64| COARSE.min(ends.saturating_sub(start)).max(1);
        let coarse = self.coarse.iter().map(move |bucket| (bucket.start, length(bucket.start), bucket));
        let fine = self.fine.iter().map(|bucket| (bucket.start, FINE, bucket));
        coarse.chain(fine).filter(move |(start, seconds, _)| start + seconds > from)
    }

    /// Adds a bucket that is over to the longer one of its time.
    fn fold(&mut self, old: Bucket) {
        let start = old.start / COARSE * COARSE;
        if self.coarse.back().is_none_or(|bucket| bucket.start != start) {
            self.coarse.push_back(Bucket::new(start));
        }
        let bucket = self.coarse.back_mut().expect("there is one now");
        self.cells -= old.cells.len();
        for (edge, tally) in old.cells {
            self.cells += bucket.add(edge, &tally);
        }
    }

    fn forget_oldest(&mut self) {
        let Some(old) = self.coarse.pop_front().or_else(|| self.fine.pop_front()) else { return };
        self.cells -= old.cells.len();
        drop(old);
        // One reference is that of the set itself.
        self.edges.retain(|edge| Arc::strong_count(edge) > 1);
    }
}

impl Bucket {
    fn new(start: u64) -> Self {
        Self { start, cells: BTreeMap::new() }
    }

    /// How many cells there are more.
    fn add(&mut self, edge: Arc<Edge>, tally: &Tally) -> usize {
        let before = self.cells.len();
        self.cells.entry(edge).or_default().add(tally);
        self.cells.len() - before
    }
}

/// Who has told of the traffic between two ends: of those that have, one is believed.
struct Heard<'a>(BTreeMap<Ends<'a>, Side>);

/// Source, destination, and whether it is about requests.
type Ends<'a> = (Option<&'a Party>, Option<&'a Party>, bool);

impl<'a> Heard<'a> {
    fn of(edges: impl Iterator<Item = &'a Edge>) -> Self {
        let mut heard = BTreeMap::new();
        for edge in edges {
            let best = heard.entry(ends(edge)).or_insert(edge.side);
            *best = edge.side.min(*best);
        }
        Self(heard)
    }

    fn counts(&self, edge: &Edge) -> bool {
        self.0.get(&ends(edge)).is_none_or(|side| *side == edge.side)
    }
}

fn ends(edge: &Edge) -> Ends<'_> {
    (edge.source.as_deref(), edge.destination.as_deref(), edge.protocol.has_requests())
}

/// Seconds of a short bucket: twice as long as the pause between two reports, so that steady traffic looks steady.
const FINE: u64 = 10;
/// Seconds of a long bucket.
const COARSE: u64 = 60;
/// Seconds that short buckets are kept.
const KEPT_FINE: u64 = 600;
/// Seconds that anything is kept.
const KEPT: u64 = 3_600;
