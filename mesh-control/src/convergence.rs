//! How long subscribers take: from a change to their answer to the last response about it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram of what subscribers took.
#[derive(Debug, Default)]
pub struct Convergence {
    buckets: [AtomicU64; LIMITS.len() + 1],
    /// Of all, in microseconds.
    sum: AtomicU64,
}

/// One of the buckets, or all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Up to how many seconds, and how many took no longer; the last has no limit.
    pub buckets: Vec<(&'static str, u64)>,
    /// Seconds of all.
    pub sum: f64,
}

impl Convergence {
    /// One subscriber has answered.
    pub fn record(&self, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let place = LIMITS.partition_point(|(limit, _)| *limit < millis);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// As a scrape has it: each bucket with those below it.
    pub fn shown(&self) -> Shown {
        let names = LIMITS.iter().map(|(_, name)| *name).chain(["+Inf"]);
        let counts = self.buckets.iter().scan(0, |total, bucket| {
            *total += bucket.load(Ordering::Relaxed);
            Some(*total)
        });
        let sum = Duration::from_micros(self.sum.load(Ordering::Relaxed)).as_secs_f64();
        Shown { buckets: names.zip(counts).collect(), sum }
    }
}

/// Istio's limits, in milliseconds and as labels in seconds.
const LIMITS: [(u64, &str); 8] = [
    (100, "0.1"),
    (500, "0.5"),
    (1_000, "1"),
    (3_000, "3"),
    (5_000, "5"),
    (10_000, "10"),
    (20_000, "20"),
    (30_000, "30"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_those_below_them() {
        let all = Convergence::default();
        for millis in [3, 100, 101, 40_000] {
            all.record(Duration::from_millis(millis));
        }
        let shown = all.shown();
        assert_eq!(shown.buckets.first(), Some(&("0.1", 2)));
        assert_eq!(shown.buckets.get(1), Some(&("0.5", 3)));
        assert_eq!(shown.buckets.last(), Some(&("+Inf", 4)));
        assert!((shown.sum - 40.204).abs() < 1e-9, "{}", shown.sum);
    }
}
