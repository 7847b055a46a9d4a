//! Histograms with the limits of Istio's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often something took how long, or was how large.
#[derive(Debug)]
pub struct Histogram {
    limits: &'static [(u64, &'static str)],
    buckets: Vec<AtomicU64>,
    sum: AtomicU64,
    /// What is counted, in one of what is shown.
    scale: u32,
}

/// One of the buckets, or all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Up to how much, and how many were no more; the last has no limit.
    pub buckets: Vec<(&'static str, u64)>,
    /// Of all.
    pub sum: f64,
}

impl Histogram {
    /// Of how long subscribers take: from a change to their answer to the last response about it; shown in seconds.
    pub fn of_convergence() -> Self {
        Self::new(&CONVERGENCE, MICROS)
    }

    /// Of how long it takes to make a response; shown in seconds.
    pub fn of_pushes() -> Self {
        Self::new(&PUSHES, MICROS)
    }

    /// Of sizes of responses, in bytes.
    pub fn of_sizes() -> Self {
        Self::new(&SIZES, 1)
    }

    fn new(limits: &'static [(u64, &'static str)], scale: u32) -> Self {
        let buckets = (0..=limits.len()).map(|_| AtomicU64::new(0)).collect();
        Self { limits, buckets, sum: AtomicU64::new(0), scale }
    }

    /// One more, which took so long.
    pub fn took(&self, time: Duration) {
        self.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// One more, of so many bytes, or microseconds.
    pub fn record(&self, value: u64) {
        let place = self.limits.partition_point(|(limit, _)| *limit < value);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// As a scrape has it: each bucket with those below it.
    pub fn shown(&self) -> Shown {
        let names = self.limits.iter().map(|(_, name)| *name).chain(["+Inf"]);
        let counts = self.buckets.iter().scan(0, |total, bucket| {
            *total += bucket.load(Ordering::Relaxed);
            Some(*total)
        });
        let sum = self.sum.load(Ordering::Relaxed);
        // Whole and rest apart: each is exact for longer than any process runs.
        let (whole, rest) = (sum / u64::from(self.scale), sum % u64::from(self.scale));
        let whole = u32::try_from(whole).map_or(f64::from(u32::MAX), f64::from);
        let rest = u32::try_from(rest).map_or(0.0, f64::from);
        Shown { buckets: names.zip(counts).collect(), sum: whole + rest / f64::from(self.scale) }
    }
}

/// Microseconds in a second.
const MICROS: u32 = 1_000_000;
/// In microseconds, and as labels in seconds.
const CONVERGENCE: [(u64, &str); 8] = [
    (100_000, "0.1"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (3_000_000, "3"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (20_000_000, "20"),
    (30_000_000, "30"),
];
/// In microseconds, and as labels in seconds.
const PUSHES: [(u64, &str); 8] = [
    (10_000, "0.01"),
    (100_000, "0.1"),
    (1_000_000, "1"),
    (3_000_000, "3"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (20_000_000, "20"),
    (30_000_000, "30"),
];
/// In bytes.
const SIZES: [(u64, &str); 6] = [
    (1, "1"),
    (10_000, "10000"),
    (1_000_000, "1e+06"),
    (4_000_000, "4e+06"),
    (10_000_000, "1e+07"),
    (40_000_000, "4e+07"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_those_below_them() {
        let all = Histogram::of_convergence();
        for millis in [3, 100, 101, 40_000] {
            all.took(Duration::from_millis(millis));
        }
        let shown = all.shown();
        assert_eq!(shown.buckets.first(), Some(&("0.1", 2)));
        assert_eq!(shown.buckets.get(1), Some(&("0.5", 3)));
        assert_eq!(shown.buckets.last(), Some(&("+Inf", 4)));
        assert!((shown.sum - 40.204).abs() < 1e-9, "{}", shown.sum);
        let sizes = Histogram::of_sizes();
        sizes.record(10_001);
        assert_eq!(sizes.shown().buckets.get(1..3), Some(&[("10000", 0), ("1e+06", 1)][..]));
        assert!((sizes.shown().sum - 10_001.0).abs() < 1e-9);
    }
}
