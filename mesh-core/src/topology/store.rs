//! What was told in the last hour, added up as somebody wants to see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::graph::{Graph, Level, Rates, build};
use super::timeline::{FINE, KEPT, Sum, Timeline};
use super::verdicts::{PolicyId, VerdictPoint, Verdicts};
use super::{Edge, Party, Side, Tally};

/// What was told in the last hour, in buckets of ten seconds for the last ten minutes and of a minute before.
///
/// Memory: a cell is what one [`Edge`] carried in one bucket, some 170 bytes; there are at most [`Store::MAX_CELLS`] (some
/// 85 MB), and when there are more the oldest bucket is forgotten. There are at most [`Store::MAX_EDGES`] edges at a time;
/// what is told of others is not kept. So it is of policies: [`Store::MAX_VERDICTS`] cells of some 70 bytes (14 MB), and
/// [`Store::MAX_POLICIES`] policies.
#[derive(Debug)]
pub struct Store {
    traffic: Timeline<Edge, Tally>,
    pub(super) verdicts: Timeline<PolicyId, Verdicts>,
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

    /// Most policies at a time.
    pub const MAX_POLICIES: usize = 5_000;
    /// Most cells of policies.
    pub const MAX_VERDICTS: usize = 200_000;

    /// Takes in what an edge has carried in the last seconds. False if there is no room for another edge. `now` is in
    /// seconds since 1970.
    pub fn record(&mut self, now: u64, edge: Edge, tally: &Tally) -> bool {
        self.traffic.record(now, edge, tally)
    }

    /// Takes in what a policy has come to in the last seconds. False if there is no room for another policy.
    pub fn record_verdicts(&mut self, now: u64, policy: PolicyId, verdicts: &Verdicts) -> bool {
        self.verdicts.record(now, policy, verdicts)
    }

    /// Lets go of what is older than an hour, as of `now`.
    pub fn roll(&mut self, now: u64) {
        self.traffic.roll(now);
        self.verdicts.roll(now);
    }

    /// The graph of what was carried in the last `window` seconds between edges that `wanted` is true for.
    pub fn graph(&self, now: u64, window: u64, level: Level, wanted: impl Fn(&Edge) -> bool) -> Graph {
        let from = self.traffic.at(now).saturating_sub(window);
        let (sums, seconds) = self.sums(now, from);
        build(level, seconds, sums.into_iter().filter(|(edge, _)| wanted(edge)))
    }

    /// What each service was asked for in the last `window` seconds, by namespace and name.
    pub fn by_service(&self, now: u64, window: u64) -> BTreeMap<(Arc<str>, Arc<str>), Rates> {
        let (sums, seconds) = self.sums(now, self.traffic.at(now).saturating_sub(window));
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
        let now = self.traffic.at(now);
        let from = now.saturating_sub(KEPT);
        let mut points = Vec::new();
        for Counted { start, seconds, cells } in self.counted(from) {
            // What is not over yet would look like a drop.
            if start + seconds > now {
                continue;
            }
            let mut total = Tally::default();
            cells.iter().filter(|(edge, _)| wanted(edge)).for_each(|(_, tally)| total.add(tally));
            points.push(Point { at: start, seconds, rates: Rates::of(&total, seconds) });
        }
        points
    }

    /// What a policy has come to, over the hour; empty if nothing at all was told within it.
    pub fn verdict_series(&self, now: u64, policy: &PolicyId) -> Vec<VerdictPoint> {
        // Where there was traffic and nothing was told of the policy, it has come to nothing.
        let begun = [self.traffic.begun(), self.verdicts.begun()].into_iter().flatten().min();
        let Some(begun) = begun else { return Vec::new() };
        let steps = self.verdicts.steps(self.traffic.at(now), begun, policy);
        steps.into_iter().map(|(at, seconds, sum)| VerdictPoint::of(at, seconds, &sum)).collect()
    }

    /// How much is kept of traffic.
    pub fn summary(&self) -> Summary {
        self.traffic.summary()
    }

    /// What each edge has carried since `from`, where each connection or request counts once; and in how many seconds.
    fn sums(&self, now: u64, from: u64) -> (BTreeMap<&Edge, Tally>, u64) {
        let mut sums: BTreeMap<&Edge, Tally> = BTreeMap::new();
        let mut earliest = None;
        for Counted { start, cells, .. } in self.counted(from) {
            earliest.get_or_insert(start);
            for (edge, tally) in cells {
                sums.entry(edge).or_default().add(tally);
            }
        }
        let now = self.traffic.at(now);
        let begins = from.min(earliest.unwrap_or(from)).max(self.traffic.begun().unwrap_or(from));
        (sums, now.saturating_sub(begins).max(FINE))
    }

    /// Each bucket since `from`, the oldest first.
    fn counted(&self, from: u64) -> Vec<Counted<'_>> {
        let buckets: Vec<_> = self.traffic.buckets_since(from).collect();
        let heard = buckets.iter().map(|(.., bucket)| Heard::of(bucket.cells.keys().map(AsRef::as_ref)));
        let heard: Vec<_> = heard.collect();
        let counted = buckets.iter().enumerate().map(|(at, (start, seconds, bucket))| {
            // The same request may be told of in the bucket before or after: its two ends tell at times of their own.
            let near = heard.get(at.saturating_sub(1)..heard.len().min(at + 2)).unwrap_or_default();
            let cells = bucket.cells.iter().map(|(edge, tally)| (&**edge, tally));
            let counts =
                |edge: &Edge| near.iter().filter_map(|heard| heard.side(edge)).min() == Some(edge.side);
            let cells = cells.filter(|(edge, _)| counts(edge)).collect();
            Counted { start: *start, seconds: *seconds, cells }
        });
        counted.collect()
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            traffic: Timeline::new(Self::MAX_EDGES, Self::MAX_CELLS),
            verdicts: Timeline::new(Self::MAX_POLICIES, Self::MAX_VERDICTS),
        }
    }
}

impl Sum for Tally {
    fn add(&mut self, more: &Self) {
        Self::add(self, more);
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

/// What a bucket has, each connection or request once.
struct Counted<'a> {
    start: u64,
    seconds: u64,
    cells: Vec<(&'a Edge, &'a Tally)>,
}

/// Who has told of the traffic between two ends in one bucket: of those that have, one is believed.
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

    fn side(&self, edge: &Edge) -> Option<Side> {
        self.0.get(&ends(edge)).copied()
    }
}

fn ends(edge: &Edge) -> Ends<'_> {
    (edge.source.as_deref(), edge.destination.as_deref(), edge.protocol.has_requests())
}
