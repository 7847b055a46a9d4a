//! An hour of counts: the last minutes in short buckets, the rest in longer ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Summary;

/// What adds up.
pub(super) trait Sum: Default {
    fn add(&mut self, more: &Self);
    fn is_empty(&self) -> bool;
}

/// What was told of each key in the last hour.
///
/// Memory: a cell is what was told of one key in one bucket. There are at most so many cells, and when there are more the oldest
/// bucket is forgotten; and at most so many keys at a time: what is told of others is not kept.
#[derive(Debug)]
pub(super) struct Timeline<K, V> {
    /// Of [`FINE`] seconds, the oldest first.
    fine: VecDeque<Bucket<K, V>>,
    /// Of [`COARSE`] seconds, the oldest first.
    coarse: VecDeque<Bucket<K, V>>,
    keys: BTreeSet<Arc<K>>,
    cells: usize,
    /// Keys and cells.
    most: (usize, usize),
    /// When the first was told.
    begun: Option<u64>,
    /// The latest time that was told: a clock that goes back stands still here.
    latest: u64,
}

#[derive(Debug)]
pub(super) struct Bucket<K, V> {
    start: u64,
    pub(super) cells: BTreeMap<Arc<K>, V>,
}

impl<K: Ord, V: Sum> Timeline<K, V> {
    pub(super) fn new(most_keys: usize, most_cells: usize) -> Self {
        Self {
            fine: VecDeque::new(),
            coarse: VecDeque::new(),
            keys: BTreeSet::new(),
            cells: 0,
            most: (most_keys, most_cells),
            begun: None,
            latest: 0,
        }
    }

    /// False if there is no room for another key.
    pub(super) fn record(&mut self, now: u64, key: K, value: &V) -> bool {
        if value.is_empty() {
            return true;
        }
        self.roll(now);
        let now = self.latest;
        self.begun.get_or_insert(now);
        let key = match self.keys.get(&key) {
            Some(known) => Arc::clone(known),
            None if self.keys.len() >= self.most.0 => return false,
            None => {
                let key = Arc::new(key);
                self.keys.insert(Arc::clone(&key));
                key
            }
        };
        let start = now / FINE * FINE;
        if self.fine.back().is_none_or(|bucket| bucket.start != start) {
            self.fine.push_back(Bucket::new(start));
        }
        let bucket = self.fine.back_mut().expect("there is one now");
        self.cells += bucket.add(key, value);
        if self.cells > self.most.1 {
            self.forget_oldest();
        }
        true
    }

    /// Lets go of what is older than an hour, as of `now`.
    pub(super) fn roll(&mut self, now: u64) {
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

    /// `now`, or the latest time that was told.
    pub(super) fn at(&self, now: u64) -> u64 {
        now.max(self.latest)
    }

    /// When the first was told.
    pub(super) fn begun(&self) -> Option<u64> {
        self.begun
    }

    pub(super) fn summary(&self) -> Summary {
        Summary { edges: self.keys.len(), cells: self.cells }
    }

    /// Start, length and content of what ends after `from`, the oldest first. Where nothing was told there is no bucket.
    pub(super) fn buckets_since(&self, from: u64) -> impl Iterator<Item = (u64, u64, &Bucket<K, V>)> {
        // The last long bucket ends where the short ones begin: the rest of its minute is still among those.
        let ends = self.fine.front().map_or(u64::MAX, |bucket| bucket.start);
        let length = move |start: u64| COARSE.min(ends.saturating_sub(start)).max(1);
        let coarse = self.coarse.iter().map(move |bucket| (bucket.start, length(bucket.start), bucket));
        let fine = self.fine.iter().map(|bucket| (bucket.start, FINE, bucket));
        coarse.chain(fine).filter(move |(start, seconds, _)| start + seconds > from)
    }

    /// What was told of one key since `begun`, at most an hour ago: start, length and sum of each stretch of time that is over, and
    /// nothing where nothing was told.
    pub(super) fn steps(&self, now: u64, begun: u64, key: &K) -> Vec<(u64, u64, V)> {
        let now = self.at(now);
        // What an older stretch had is forgotten in part.
        let from = begun.max(now.saturating_sub(KEPT).div_ceil(COARSE) * COARSE);
        let border = now.saturating_sub(KEPT_FINE).div_ceil(FINE) * FINE;
        let mut sums: BTreeMap<u64, V> = BTreeMap::new();
        for (start, _, bucket) in self.buckets_since(from) {
            if let Some(value) = bucket.cells.get(key) {
                let step = if start < border { COARSE } else { FINE };
                sums.entry(start / step * step).or_default().add(value);
            }
        }
        let long = steps_of(COARSE, from..border).map(|at| (at, COARSE.min(border - at)));
        let short = steps_of(FINE, from.max(border)..now).map(|at| (at, FINE));
        let all = long.chain(short).filter(|(at, seconds)| at + seconds <= now);
        all.map(|(at, seconds)| (at, seconds, sums.remove(&at).unwrap_or_default())).collect()
    }

    /// Adds a bucket that is over to the longer one of its time.
    fn fold(&mut self, old: Bucket<K, V>) {
        let start = old.start / COARSE * COARSE;
        if self.coarse.back().is_none_or(|bucket| bucket.start != start) {
            self.coarse.push_back(Bucket::new(start));
        }
        let bucket = self.coarse.back_mut().expect("there is one now");
        self.cells -= old.cells.len();
        for (key, value) in old.cells {
            self.cells += bucket.add(key, &value);
        }
    }

    fn forget_oldest(&mut self) {
        let Some(old) = self.coarse.pop_front().or_else(|| self.fine.pop_front()) else { return };
        self.cells -= old.cells.len();
        drop(old);
        // One reference is that of the set itself.
        self.keys.retain(|key| Arc::strong_count(key) > 1);
    }
}

impl<K: Ord, V: Sum> Bucket<K, V> {
    fn new(start: u64) -> Self {
        Self { start, cells: BTreeMap::new() }
    }

    /// How many cells there are more.
    fn add(&mut self, key: Arc<K>, value: &V) -> usize {
        let before = self.cells.len();
        self.cells.entry(key).or_default().add(value);
        self.cells.len() - before
    }
}

/// Where stretches of `step` seconds begin that have a part in `range`.
fn steps_of(step: u64, range: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    let first = range.start / step * step;
    let end = if range.is_empty() { first } else { range.end };
    (first..end).step_by(usize::try_from(step).unwrap_or(usize::MAX))
}

/// Seconds of a short bucket: twice as long as the pause between two reports, so that steady traffic looks steady.
pub(super) const FINE: u64 = 10;
/// Seconds of a long bucket.
const COARSE: u64 = 60;
/// Seconds that short buckets are kept.
const KEPT_FINE: u64 = 600;
/// Seconds that anything is kept.
pub(super) const KEPT: u64 = 3_600;
