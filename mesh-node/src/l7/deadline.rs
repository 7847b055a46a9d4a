//! A deadline that moves often and is rarely met.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Moving it costs a store: the timer below is only wound again when it has rung too early. That is what a connection
/// needs that is waited for anew with every request.
#[derive(Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// To be met `after` from now; `None` means never.
    pub fn set(&mut self, after: Option<Duration>) {
        self.at = after.map(|after| Instant::now() + after);
    }

    /// To be met so long after `now`.
    pub fn set_from(&mut self, now: std::time::Instant, after: Duration) {
        self.at = Some(Instant::from_std(now) + after);
    }

    /// To be met so much later than it would be.
    pub fn delay(&mut self, by: Duration) {
        self.at = self.at.map(|at| at + by);
    }

    /// Whether it will ever be met.
    pub fn is_set(&self) -> bool {
        self.at.is_some()
    }

    /// Ready once it has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        // A timer that rings later than the deadline would miss it.
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_met_when_it_was_set_to_last() {
        let mut deadline = Deadline::default();
        let begin = Instant::now();
        deadline.set(Some(Duration::from_secs(1)));
        let poll = std::future::poll_fn(|cx| Poll::Ready(deadline.poll(cx).is_ready())).await;
        assert!(!poll);
        deadline.set(Some(Duration::from_secs(5)));
        std::future::poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
        deadline.set(Some(Duration::from_secs(9)));
        assert!(!std::future::poll_fn(|cx| Poll::Ready(deadline.poll(cx).is_ready())).await);
        deadline.set(Some(Duration::from_secs(2)));
        std::future::poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_it_is_never_met() {
        let mut deadline = Deadline::default();
        let poll = std::future::poll_fn(|cx| deadline.poll(cx));
        assert!(tokio::time::timeout(Duration::from_secs(3600), poll).await.is_err());
    }
}
