//! Draining in two phases: graceful (accept no more, tell peers, finish what runs) and forced (reset the rest).

use std::time::Duration;

use tokio::sync::watch;

/// Starts a drain.
#[derive(Debug)]
pub struct DrainSwitch(watch::Sender<Phase>);

/// Learns of a drain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<Phase>);

/// A switch and what listens to it.
pub fn channel() -> (DrainSwitch, Drain) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (DrainSwitch(sender), Drain(receiver))
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    Serving,
    Graceful,
    Forced,
}

impl DrainSwitch {
    /// Begins the graceful phase.
    pub fn start(&self) {
        self.0.send_replace(Phase::Graceful);
    }

    /// Begins the forced phase.
    pub fn force(&self) {
        self.0.send_replace(Phase::Forced);
    }

    /// Begins the graceful phase and waits until nobody listens any more; whether that came in time.
    pub async fn graceful(&self, patience: Duration) -> bool {
        self.start();
        tokio::time::timeout(patience, self.0.closed()).await.is_ok()
    }

    /// Runs the graceful phase until nobody listens any more or `grace` is over, then forces the rest.
    pub async fn run(self, grace: Duration) {
        self.graceful(grace).await;
        self.force();
        let _ = tokio::time::timeout(FORCED, self.0.closed()).await;
    }
}

impl Drain {
    /// One that never begins.
    pub fn never() -> Self {
        channel().1
    }

    /// Resolves when the graceful phase begins.
    pub async fn graceful(&self) {
        self.reached(Phase::Graceful).await;
    }

    /// Resolves when the forced phase begins.
    pub async fn forced(&self) {
        self.reached(Phase::Forced).await;
    }

    /// Works until the graceful phase begins, and lets go of everything then.
    pub async fn during(self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            () = self.graceful() => {}
        }
    }

    /// Whether the graceful phase has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Phase::Graceful
    }

    async fn reached(&self, phase: Phase) {
        // A switch that is gone can start nothing any more.
        if self.0.clone().wait_for(|now| *now >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What tasks get to see the forced phase and end.
const FORCED: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn phases_follow_each_other() {
        let (switch, drain) = channel();
        assert!(!drain.is_draining());
        let held = drain.clone();
        let run = switch.run(Duration::from_secs(5));
        let watch = async {
            held.graceful().await;
            assert!(held.is_draining());
            held.forced().await;
            drop((held, drain));
        };
        tokio::join!(run, watch);
    }
}
