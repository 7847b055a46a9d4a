//! Tasks with a name. A panic ends its task only, and is counted: the count must stay zero.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

/// Panics of tasks since the process started.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Runs a task.
#[expect(clippy::disallowed_methods, reason = "this is what is to be used in its place")]
pub fn spawn(name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(Guarded { name, future: Box::pin(future) })
}

/// Catches what the future throws at any poll, so that one connection's defect stays its own.
struct Guarded<F> {
    name: &'static str,
    future: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let future = self.future.as_mut();
        if let Ok(poll) = std::panic::catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            return poll;
        }
        PANICS.fetch_add(1, Ordering::Relaxed);
        tracing::error!(task = self.name, "A task panicked.");
        Poll::Ready(())
    }
}

static PANICS: AtomicU64 = AtomicU64::new(0);
