use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::{Bucket, Rate};

const SECOND: u64 = 1_000_000_000;

/// A token bucket as everybody knows it: tokens, and when they were counted last. In billionths of a token of which one
/// comes every `interval`, so that nothing is ever rounded.
struct Reference {
    interval: u128,
    most: u128,
    tokens: u128,
    at: u64,
}

impl Reference {
    fn new(count: u32, per: Duration, burst: u32) -> Self {
        let interval = u128::from(u64::try_from(per.as_nanos()).unwrap().div_ceil(u64::from(count)));
        let most = u128::from(burst) * interval;
        Self { interval, most, tokens: most, at: 0 }
    }

    fn take(&mut self, now: u64) -> Option<u128> {
        let passed = u128::from(now - self.at);
        (self.tokens, self.at) = ((self.tokens + passed).min(self.most), now);
        self.tokens = self.tokens.checked_sub(self.interval)?;
        Some(self.tokens / self.interval)
    }

    fn give_back(&mut self) {
        self.tokens = (self.tokens + self.interval).min(self.most);
    }
}

proptest! {
    #[test]
    fn it_is_the_bucket_that_everybody_knows(
        (count, burst) in (1u32..50, 1u32..20),
        per in 1u64..5_000,
        steps in prop::collection::vec((0u64..3 * SECOND / 2, prop::bool::weighted(0.1)), 1..80),
    ) {
        let per = Duration::from_millis(per);
        let (rate, bucket) = (Rate::new(count, per, burst), Bucket::default());
        let (mut reference, mut now) = (Reference::new(count, per, burst), 0);
        for (passed, regrets) in steps {
            now += passed;
            let wanted = reference.take(now);
            let taken = bucket.take(&rate, now);
            prop_assert_eq!(taken.ok().map(|it| u128::from(it.remaining)), wanted);
            match taken {
                Ok(_) if regrets => {
                    bucket.give_back(&rate);
                    reference.give_back();
                }
                Ok(standing) => {
                    // When it says that there is one more there is, and not before.
                    let next = u64::try_from(standing.next.as_nanos()).unwrap();
                    let left = standing.remaining;
                    let probe = |at| Rate::take(&rate, bucket.full_at.load(Ordering::Relaxed), at).map_or(0, |it| it.1.remaining + 1);
                    prop_assert_eq!(probe(now + next - 1), left);
                    prop_assert!(left + 1 >= burst || probe(now + next) == left + 1);
                }
                Err(standing) => {
                    let next = u64::try_from(standing.next.as_nanos()).unwrap();
                    let full_at = bucket.full_at.load(Ordering::Relaxed);
                    prop_assert!(rate.take(full_at, now + next - 1).is_err());
                    prop_assert!(rate.take(full_at, now + next).is_ok());
                }
            }
        }
    }
}

#[test]
fn threads_take_exactly_what_there_is() {
    let (rate, bucket, taken) =
        (Rate::new(1_000, Duration::from_secs(1), 500), Bucket::default(), AtomicU64::new(0));
    // The time goes on while they take, as it does.
    let clock = AtomicU64::new(0);
    let take = || {
        let now = clock.fetch_add(50_000, Ordering::Relaxed);
        taken.fetch_add(u64::from(bucket.take(&rate, now).is_ok()), Ordering::Relaxed);
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20_000).for_each(|_| take()));
        }
    });
    // 80,000 steps of 50 µs are 4 s: 500 at once, and 1,000 in each second. A thread whose time is a little old may
    // miss a token that another has seen come, but nobody gets one that is not there.
    let taken = taken.load(Ordering::Relaxed);
    assert!((4_490..=4_500).contains(&taken), "{taken}");
}

#[test]
fn threads_that_look_at_one_moment_get_no_more_than_the_burst() {
    let (rate, bucket, taken) =
        (Rate::new(1, Duration::from_secs(3600), 777), Bucket::default(), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    taken.fetch_add(u64::from(bucket.take(&rate, 1).is_ok()), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), 777);
}

#[test]
fn numbers_out_of_this_world_do_no_harm() {
    let day = Duration::from_secs(86_400);
    for rate in
        [Rate::new(0, Duration::ZERO, 0), Rate::new(u32::MAX, day, 1), Rate::new(1, Duration::MAX, u32::MAX)]
    {
        let bucket = Bucket::default();
        assert!(bucket.take(&rate, 0).is_ok());
        let _ = (bucket.take(&rate, u64::MAX), bucket.take(&rate, 0));
        bucket.give_back(&rate);
    }
}
