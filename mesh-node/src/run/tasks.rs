//! Tasks with a name. A panic ends its task only, and is counted: the count must stay zero.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::sys::memory;

/// Panics of tasks since the process started.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Runs a task on this thread.
pub fn spawn_local(name: &'static str, future: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    tokio::task::spawn_local(Guarded { name, future: Box::pin(future) })
}

/// Has this process let go of the memory that only its start needed, once that is over.
pub fn settle() {
    spawn_local("memory", async {
        tokio::time::sleep(SETTLED).await;
        if let Err(error) = memory::let_go_of_the_start() {
            tracing::debug!(%error, "What the start has left in memory stays there.");
        }
    });
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

/// After this long, a process that starts has read its configuration and serves.
const SETTLED: Duration = Duration::from_secs(5);
static PANICS: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_its_task_only() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        let before = panics();
        local.block_on(&runtime, async {
            let bad = spawn_local("bad", async { panic!("on purpose") });
            let good = spawn_local("good", async {});
            assert!(bad.await.is_ok() && good.await.is_ok());
        });
        assert_eq!(panics(), before + 1);
    }
}
