//! How long to wait before trying again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// Doubles with every failure, up to a limit.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// The wait after one more failure; not shorter than what the other side asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        jittered(wait).max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }

    /// It has worked: the next failure is a first one.
    pub(super) fn reset(&mut self) {
        self.next = self.least;
    }
}

/// Between three quarters and five quarters of `wait`, so that many who failed together do not come back together.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + 0.5 * random())
}

/// At least 0, less than 1. Good for spreading load, not for secrets.
fn random() -> f64 {
    // Every `RandomState` has keys of its own, so the hash of nothing is a number nobody expects.
    let bits = RandomState::new().build_hasher().finish() >> 32;
    let bits = u32::try_from(bits).expect("32 bits are left");
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// A server that asks for more than this is asked again all the same: what it says may be a mistake.
const LONGEST_ASKED: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for around in [1, 2, 4, 5, 5] {
            let wait = backoff.next(None).as_secs_f64();
            let around = f64::from(around);
            assert!((0.75 * around..=1.25 * around).contains(&wait), "{wait} is not about {around}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= Duration::from_millis(1250));
        assert_eq!(backoff.next(Some(Duration::from_secs(9))), Duration::from_secs(9));
        assert_eq!(backoff.next(Some(Duration::from_secs(99_999))), LONGEST_ASKED);
    }

    #[test]
    fn jitter_spreads() {
        let waits: Vec<_> = (0..100).map(|_| jittered(Duration::from_secs(100)).as_secs()).collect();
        assert!(waits.iter().all(|wait| (75..=125).contains(wait)));
        assert!(waits.iter().min() < Some(&90) && waits.iter().max() > Some(&110), "{waits:?}");
    }
}
