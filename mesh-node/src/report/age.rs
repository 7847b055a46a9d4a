//! Series that nobody has counted in for long are forgotten: pods come and go, tags take other values, and what was told once would
//! keep out what is told now. A counter that goes away, and may come back at 0, is one that Prometheus understands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mesh_core::topology::{Edge, Tally};
use tokio::time::Instant;

/// Since when nothing was counted.
#[derive(Debug, Default)]
pub(super) struct Age(Mutex<Option<(u64, Instant)>>);

impl Age {
    /// This is the sum of all counters now.
    pub(super) fn grow(&self, sum: u64, now: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_none_or(|(before, _)| before != sum) {
            *seen = Some((sum, now));
        }
    }

    /// Whether nothing was counted for so long.
    pub(super) fn is_beyond(&self, patience: Duration, now: Instant) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_some_and(|(_, since)| now.saturating_duration_since(since) >= patience)
    }
}

/// How long idle series are kept where there are `count` of at most `cap`.
pub(super) fn patience(count: usize, cap: usize) -> Duration {
    if count.saturating_mul(10) >= cap.saturating_mul(9) { SHORT } else { LONG }
}

/// Keeps what series that are gone had counted: what an edge has carried only grows, as long as anything of it is known.
pub(super) fn keep(
    gone: &mut BTreeMap<Edge, Tally>,
    old: impl Iterator<Item = (Edge, Tally)>,
    living: impl Iterator<Item = Edge>,
) {
    old.for_each(|(edge, tally)| gone.entry(edge).or_default().add(&tally));
    let living: BTreeSet<_> = living.collect();
    gone.retain(|edge, _| living.contains(edge));
}

/// How many label sets Telemetries of one workload may make for each one that is free then. It can never keep others out, and
/// whoever comes later finds room.
const SHARE: usize = 3;

/// Whether a workload whose Telemetries have made `share` label sets may have one more, with so many free.
pub(super) fn may_have(share: usize, free: usize) -> bool {
    share < free.saturating_mul(SHARE)
}

/// Longer than anybody looks away.
const LONG: Duration = Duration::from_secs(60 * 60);
/// Where there is hardly any room left; several times as long as threads remember what they have cached.
const SHORT: Duration = Duration::from_secs(5 * 60);
