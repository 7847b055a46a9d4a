//! [`Outliers`] that several threads share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Ejected, Outcome, OutlierPolicy, Outliers};
use crate::balance::Health;
use crate::model::EndpointId;

/// One [`Outliers`] for all data threads: what fails on one is left out by all. While nothing fails, nobody waits for
/// anybody: successes cost one atomic load. The lock is held for a few instructions and never while waiting.
#[derive(Debug)]
pub struct SharedOutliers {
    /// Whether successes can be skipped: nobody failed of late, and only answers of 400 and above are failures.
    quiet: AtomicBool,
    generation: AtomicU64,
    inner: Mutex<Outliers>,
}

impl SharedOutliers {
    /// As [`Outliers::new`].
    pub fn new(policy: OutlierPolicy) -> Self {
        let outliers = Outliers::new(policy);
        let quiet = AtomicBool::new(can_skip(&outliers));
        Self { quiet, generation: AtomicU64::new(0), inner: Mutex::new(outliers) }
    }

    /// As [`Outliers::set_policy`].
    pub fn set_policy(&self, policy: OutlierPolicy) {
        self.with(|outliers| outliers.set_policy(policy));
    }

    /// As [`Outliers::set_endpoints`].
    pub fn set_endpoints(&self, endpoints: impl IntoIterator<Item = EndpointId>) {
        self.with(|outliers| outliers.set_endpoints(endpoints));
    }

    /// As [`Outliers::record`].
    pub fn record(&self, id: EndpointId, outcome: Outcome, now: Instant) -> Option<Ejected> {
        // A success that is lost to a failure at the same moment came before it as well as after it.
        let surely_fine = match outcome {
            Outcome::Success | Outcome::Connected => true,
            Outcome::Status(status) => status < 400,
            Outcome::ConnectFailure | Outcome::Reset | Outcome::Timeout => false,
        };
        if surely_fine && self.quiet.load(Ordering::Acquire) {
            return None;
        }
        self.with(|outliers| outliers.record(id, outcome, now))
    }

    /// As [`Outliers::tick`].
    pub fn tick(&self, now: Instant) -> bool {
        self.with(|outliers| outliers.tick(now))
    }

    /// As [`Outliers::next_tick`].
    pub fn next_tick(&self) -> Option<Instant> {
        self.lock().next_tick()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Outliers) -> T) -> T {
        let mut outliers = self.lock();
        let result = act(&mut outliers);
        self.quiet.store(can_skip(&outliers), Ordering::Release);
        self.generation.store(outliers.generation(), Ordering::Release);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Outliers> {
        // Nothing panics while it is held; if it did, a lost count would be the worst of it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health for SharedOutliers {
    /// Does not take the lock.
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes the lock.
    fn is_ejected(&self, id: EndpointId) -> bool {
        self.lock().is_ejected(id)
    }
}

fn can_skip(outliers: &Outliers) -> bool {
    outliers.is_quiet() && outliers.policy().error_codes.iter().all(|code| *code >= 400)
}
