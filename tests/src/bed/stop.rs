//! A flag that ends waiting threads at once.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Clones share one flag, which goes up once and stays up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Raises the flag and wakes everyone.
    pub(crate) fn raise(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    /// Whether it is up.
    pub(crate) fn raised(&self) -> bool {
        *lock(&self.0.0)
    }

    /// Waits; answers whether the flag is up, at once when it goes up.
    pub(crate) fn wait(&self, duration: Duration) -> bool {
        let up = self.0.1.wait_timeout_while(lock(&self.0.0), duration, |up| !*up);
        *up.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Locks; a thread that panicked while it held the lock is no reason for others to panic, because every holder here
/// leaves the data whole at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
