//! The token bucket: so many in a time, and so many at once.
//!
//! It is kept as one number, the time at which the bucket will be full again (the generic cell rate algorithm): a token
//! is taken by moving that time, so that any number of threads take exactly what there is, and nobody has to refill.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast tokens come, and how many there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Nanoseconds from one token to the next, at least 1.
    interval: u64,
    /// Nanoseconds in which an empty bucket fills: `interval` for each token that it holds.
    window: u64,
    /// Tokens that a full bucket holds.
    burst: u32,
}

/// How a bucket stands after a token was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Tokens that a full bucket holds.
    pub limit: u32,
    /// Whole tokens that are left.
    pub remaining: u32,
    /// Until there is one more; of a bucket that is empty, until there is one again.
    pub next: Duration,
}

/// One bucket. Times are nanoseconds since a moment that its owner chooses, and goes by for all calls.
#[derive(Debug, Default)]
pub struct Bucket {
    full_at: AtomicU64,
}

impl Rate {
    /// `count` tokens in `per`, of which a full bucket holds `burst`. Zero counts as one. The time from one token to the
    /// next is rounded up to a nanosecond: never does more pass than was said.
    pub fn new(count: u32, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let (interval, burst) = (per.div_ceil(u64::from(count.max(1))).max(1), burst.max(1));
        Self { interval, window: interval.saturating_mul(u64::from(burst)), burst }
    }

    /// Tokens that a full bucket holds.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Takes a token from a bucket that will be full at `full_at`: `Ok` says when it will be then.
    pub fn take(&self, full_at: u64, now: u64) -> Result<(u64, Standing), Standing> {
        let owed = full_at.saturating_sub(now);
        let after = owed.saturating_add(self.interval);
        if after > self.window {
            let next = Duration::from_nanos(after - self.window);
            return Err(Standing { limit: self.burst, remaining: 0, next });
        }
        let left = self.window - after;
        let standing = Standing {
            limit: self.burst,
            remaining: u32::try_from(left / self.interval).unwrap_or(u32::MAX),
            next: Duration::from_nanos(self.interval - left % self.interval),
        };
        Ok((now.saturating_add(after), standing))
    }

    /// Takes back that a token was taken.
    pub fn give_back(&self, full_at: u64) -> u64 {
        full_at.saturating_sub(self.interval)
    }
}

impl Bucket {
    /// Takes a token; `Err` if there is none.
    pub fn take(&self, rate: &Rate, now: u64) -> Result<Standing, Standing> {
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let (after, standing) = rate.take(full_at, now)?;
            match self.full_at.compare_exchange_weak(full_at, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(standing),
                Err(other) => full_at = other,
            }
        }
    }

    /// Gives a token back that was taken and is not needed.
    pub fn give_back(&self, rate: &Rate) {
        // Nothing else can be wrong with it than that somebody else was faster, and then it is tried again.
        let _ = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| Some(rate.give_back(full_at)));
    }
}

#[cfg(test)]
mod tests;
