//! How long requests took.

use super::float;

/// A histogram with the limits that Istio's metrics have: nothing is lost on the way from there, and counts since the start of a
/// busy proxy are beyond 32 bits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency([u64; BUCKETS]);

impl Latency {
    /// From counts by bucket, the lowest first. Buckets do not include those below them; what is missing is zero, and what
    /// is too much is left out.
    pub fn from_counts(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut buckets = [0; BUCKETS];
        for (bucket, count) in buckets.iter_mut().zip(counts) {
            *bucket = count;
        }
        Self(buckets)
    }

    /// Counts by bucket, the lowest first.
    pub fn counts(&self) -> &[u64; BUCKETS] {
        &self.0
    }

    /// The time, in milliseconds, that this share of requests took at most; `None` if there were none. Between the limits of
    /// a bucket it is a guess, as Prometheus makes it; beyond the last limit it is that limit.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.0.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * float(total);
        let mut below = 0;
        let mut lower = 0.0;
        for (count, upper) in self.0.iter().zip(LIMITS_MS) {
            let up_to = below + *count;
            if *count > 0 && float(up_to) >= rank {
                let inside = (rank - float(below)) / float(*count);
                return Some(lower + (upper - lower) * inside);
            }
            (below, lower) = (up_to, upper);
        }
        Some(lower)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(total, more)| *total = total.saturating_add(more));
    }

    pub(super) fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (now, then) in since.0.iter_mut().zip(earlier.0) {
            *now = now.checked_sub(then).unwrap_or(*now);
        }
        since
    }
}

/// The last one has no limit.
pub const BUCKETS: usize = 20;

/// Envoy's default limits, in milliseconds.
const LIMITS_MS: [f64; BUCKETS - 1] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
