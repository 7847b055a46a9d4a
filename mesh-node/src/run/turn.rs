//! The time of a process as the one that serves its node, and how it ends: by a wish, or because another takes over.
//!
//! Whoever steps aside for another that dies before it serves goes on accepting, and waits for the next: those who look after processes start one
//! that has failed again, and until then connections find somebody. What it has is the configuration as it was when it stepped aside, so
//! it does not wait for long; after that it ends, for a fresh start.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::drain::{Drain, DrainSwitch};
use super::handover::{Door, Successor};
use super::node::Stops;

/// How the time of a process as the one that serves the node has ended.
#[derive(Debug)]
pub(super) enum End {
    /// It was told to stop.
    Stopped,
    /// Another has taken over.
    Replaced(Successor),
    /// Another was to take over and has not, nor has any after it: nobody follows the configuration now.
    Forsaken(io::Error),
}

/// The time of a process as the one that serves its node.
pub(super) struct Turn<P> {
    /// Where processes of the node meet.
    pub(super) meeting: PathBuf,
    /// Where this one waits for others.
    pub(super) door: Door,
    /// Whether it has looked at its pods; nobody takes over before.
    pub(super) looked: watch::Receiver<Option<P>>,
    /// Has the kernel's programs know this process as the one that serves again.
    pub(super) reclaim: Box<dyn Fn() -> anyhow::Result<()>>,
}

impl<P> Turn<P> {
    /// Waits for the wish to stop, or for a successor that serves.
    pub(super) async fn serve_until(mut self, relief: DrainSwitch, stops: &mut Stops) -> End {
        let mut relief = Some(relief);
        let mut forsaken: Option<(Instant, io::Error)> = None;
        loop {
            let patience = async {
                match &forsaken {
                    Some((until, _)) => tokio::time::sleep_until(*until).await,
                    None => std::future::pending().await,
                }
            };
            let looked = &self.looked;
            let successor = tokio::select! {
                () = stops.next() => return End::Stopped,
                successor = self.door.successor(|| looked.borrow().is_some()) => Some(successor),
                () = patience => None,
            };
            let Some(successor) = successor else {
                let error = forsaken.map(|(_, error)| error);
                return End::Forsaken(error.unwrap_or_else(|| io::ErrorKind::TimedOut.into()));
            };
            info!("Another process takes over; serving on until it has begun.");
            if let Some(relief) = relief.take()
                && !relief.graceful(ASIDE).await
            {
                warn!("Not everything was let go of in time.");
            }
            let introduced = tokio::select! {
                () = stops.next() => return End::Stopped,
                introduced = successor.introduce() => introduced,
            };
            let error = match introduced {
                Ok(successor) => return End::Replaced(successor),
                Err(error) => error,
            };
            if let Err(reason) = self.wait_for_another(&error) {
                warn!(reason = format!("{reason:#}"), "No other process can be waited for.");
                return End::Forsaken(error);
            }
            let until = forsaken.map_or_else(|| Instant::now() + ANOTHER, |(until, _)| until);
            forsaken = Some((until, error));
        }
    }

    /// Goes on where one that was to take over has ended. One that is still there has what there is to have.
    fn wait_for_another(&mut self, error: &io::Error) -> anyhow::Result<()> {
        anyhow::ensure!(
            error.kind() == io::ErrorKind::UnexpectedEof,
            "the one that was to take over: {error}"
        );
        (self.reclaim)()?;
        self.door = Door::open(&self.meeting, self.door.pins().to_owned())?;
        warn!(
            wait_s = ANOTHER.as_secs(),
            "The process that was to take over has ended before it served; serving on as things were, and waiting for another."
        );
        Ok(())
    }
}

/// Gives connections `grace` to end by themselves. The wish to stop after the one that has begun this ends what is left.
///
/// # Errors
/// If nobody has wished that it end: a fresh start is needed.
pub(super) async fn until_stopped(
    end: End,
    (switch, drained): (DrainSwitch, Drain),
    (grace, stops): (Duration, &mut Stops),
) -> anyhow::Result<()> {
    // Of a process that was replaced nobody has wished that it stop: whoever started it does so once its successor is ready.
    let mut is_wished = matches!(end, End::Stopped);
    match &end {
        End::Stopped => {}
        // What has connected before the kernel programs knew of the new listeners is still in the queues.
        End::Replaced(_) => tokio::time::sleep(LAST_ARRIVALS).await,
        End::Forsaken(error) => warn!(%error, "The process that was to take over has not begun to serve."),
    }
    info!(grace_s = grace.as_secs(), "Draining; what is captured stays captured.");
    drop(drained);
    let mut running = std::pin::pin!(switch.run(grace));
    loop {
        tokio::select! {
            () = &mut running => break,
            () = stops.next() => {
                if is_wished {
                    return Ok(());
                }
                is_wished = true;
            }
        }
    }
    match end {
        End::Replaced(successor) if !is_wished => until_needed(successor, stops).await,
        End::Forsaken(error) if !is_wished => Err(error).context("nobody has taken over"),
        _ => Ok(()),
    }
}

/// Waits to be stopped. Whoever started this process would start it again, and that one would take over: so it ends only when
/// its successor has ended, or when nobody has stopped this one for so long that it must be the one that is wanted.
async fn until_needed(mut successor: Successor, stops: &mut Stops) -> anyhow::Result<()> {
    info!("Nothing is left to do; waiting to be stopped.");
    tokio::select! {
        () = stops.next() => Ok(()),
        () = successor.gone() => anyhow::bail!("the process that has taken over has ended"),
        () = tokio::time::sleep(FORGOTTEN) => anyhow::bail!("nobody has stopped this process after it was replaced"),
    }
}

/// How long others may take to let go of what only one process may have.
const ASIDE: Duration = Duration::from_secs(2);
/// How long a process waits for another, once one has failed to take over: an agent of Kubernetes starts it again at once, and ten seconds later.
const ANOTHER: Duration = Duration::from_secs(20);
/// How long a process that was replaced waits to be stopped.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// How long a process that was replaced still accepts.
const LAST_ARRIVALS: Duration = Duration::from_millis(500);
