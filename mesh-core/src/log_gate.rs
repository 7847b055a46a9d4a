//! How much there is to say about those who misbehave: a peer must not fill a disk by doing so often.

use std::time::{Duration, Instant};

/// Lets so many log lines a second pass and counts the others, to be told of with the next that passes.
#[derive(Debug, Clone, Copy)]
pub struct LogGate {
    per_second: u32,
    begin: Option<Instant>,
    passed: u32,
    muted: u64,
}

impl LogGate {
    /// A gate for `per_second` lines.
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, begin: None, passed: 0, muted: 0 }
    }

    /// The number of lines left out since the last one, if this one may pass.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.begin.is_none_or(|begin| now.saturating_duration_since(begin) >= INTERVAL) {
            (self.begin, self.passed) = (Some(now), 0);
        }
        if self.passed >= self.per_second {
            self.muted += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.muted))
    }
}

const INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
