//! Numbers of threads, by which each finds the counters that it alone writes.

use std::sync::{Mutex, PoisonError};

/// A number that no other living thread has. Numbers of threads that have ended are given out again, so that those who
/// come later go on with their counters.
pub(super) struct ThreadNumber(usize);

struct Numbers {
    free: Vec<usize>,
    next: usize,
}

static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { free: Vec::new(), next: 0 });

impl ThreadNumber {
    /// One for the calling thread. To be held where its counters are remembered: who gives it back must not count any more.
    pub(super) fn take() -> Self {
        let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        Self(numbers.free.pop().unwrap_or_else(|| {
            numbers.next += 1;
            numbers.next - 1
        }))
    }

    /// The number itself.
    pub(super) const fn get(&self) -> usize {
        self.0
    }
}

impl Drop for ThreadNumber {
    fn drop(&mut self) {
        NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.0);
    }
}
