//! Keys of issuers, from where rules say that they are: fetched, fetched again before they are old, and kept for a while when that
//! fails.
//!
//! Invariants: nothing is asked that [`mesh_core::authn::may_be_asked`] does not allow, at the very address that was looked at, and
//! nobody is followed anywhere else; what came back is taken as keys or not at all, and shown to nobody; where there are no keys,
//! there are none.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::authn::{KeySet, KeySite, Wanted};
use mesh_core::model::Snapshot;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::fetch::{FetchError, fetch};

mod fetch;

/// The mesh around whoever fetches, by which it is known what may be asked. May take a while.
pub type Surroundings = Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync>;

/// How keys are fetched.
#[derive(Clone)]
pub struct KeyOptions {
    /// What is around.
    pub surroundings: Surroundings,
    /// Whether whoever writes the configuration owns this machine, so that a service of it may be here as well.
    pub local: bool,
    /// When.
    pub schedule: Schedule,
}

/// When keys are fetched.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// From a success to the next time.
    pub refresh: Duration,
    /// From a failure to the next time; twice as long after each further one, up to [`Self::refresh`].
    pub retry: Duration,
    /// From the last success until keys are not believed any more.
    pub kept: Duration,
}

impl Default for Schedule {
    /// As Istio's control plane, but that keys which cannot be had are given up after a day.
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(20 * 60),
            retry: Duration::from_secs(5),
            kept: Duration::from_secs(24 * 3600),
        }
    }
}

/// What is wanted, and what has been found.
#[derive(Debug)]
pub struct KeyFeed {
    wanted: watch::Sender<Wanted>,
    found: mpsc::Receiver<Found>,
}

/// A place, and the keys that it has from now on: `None` if they are not believed any more, or could not be had at the first
/// try.
pub type Found = (KeySite, Option<Arc<KeySet>>);

/// The other end of a [`KeyFeed`], which fetches.
pub struct KeyFollower {
    options: KeyOptions,
    wanted: watch::Receiver<Wanted>,
    found: mpsc::Sender<Found>,
    known: BTreeMap<KeySite, Known>,
    running: JoinSet<(KeySite, Result<KeySet, FetchError>)>,
    spread: RandomState,
}

/// What is known of a place.
#[derive(Debug)]
struct Known {
    due: Instant,
    failures: u32,
    /// Until when its keys are believed.
    good: Option<Instant>,
    running: bool,
}

impl KeyFeed {
    /// Both ends.
    pub fn new(options: KeyOptions) -> (Self, KeyFollower) {
        let (wanted, asked) = watch::channel(Wanted::new());
        let (sender, found) = mpsc::channel(MAX_WAITING);
        let follower = KeyFollower {
            options,
            wanted: asked,
            found: sender,
            known: BTreeMap::new(),
            running: JoinSet::new(),
            spread: RandomState::new(),
        };
        (Self { wanted, found }, follower)
    }

    /// These and no others.
    pub fn want(&self, wanted: &Wanted) {
        self.wanted.send_if_modified(|known| {
            let differs = known != wanted;
            if differs {
                known.clone_from(wanted);
            }
            differs
        });
    }

    /// What has been found next.
    pub async fn next(&mut self) -> Found {
        match self.found.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }
}

impl KeyFollower {
    /// Fetches for as long as somebody wants anything.
    pub async fn run(mut self) {
        loop {
            self.begin();
            let waiting = self.known.values().filter(|known| !known.running);
            let next = waiting.map(|known| known.due).min();
            let next = next.filter(|_| self.running.len() < MAX_RUNNING);
            let next = next.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.adopt();
                }
                Some(ended) = self.running.join_next() => {
                    if let Ok((site, outcome)) = ended
                        && let Some(found) = self.take(site, outcome)
                        && self.found.send(found).await.is_err()
                    {
                        return;
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    fn adopt(&mut self) {
        let wanted = self.wanted.borrow_and_update();
        self.known.retain(|site, _| wanted.contains_key(site));
        for site in wanted.keys() {
            let new = || Known { due: Instant::now(), failures: 0, good: None, running: false };
            self.known.entry(site.clone()).or_insert_with(new);
        }
    }

    /// Fetches whatever is due, some at a time.
    fn begin(&mut self) {
        let now = Instant::now();
        let due = self.known.iter_mut().filter(|(_, known)| known.due <= now && !known.running);
        for (site, known) in due.take(MAX_RUNNING.saturating_sub(self.running.len())) {
            known.running = true;
            let (site, options) = (site.clone(), self.options.clone());
            let wish = self.wanted.borrow().get(&site).cloned().unwrap_or_default();
            self.running.spawn(async move {
                let outcome = fetch(&site, &wish, &options).await;
                (site, outcome)
            });
        }
    }

    fn take(&mut self, site: KeySite, outcome: Result<KeySet, FetchError>) -> Option<Found> {
        let Schedule { refresh, retry, kept } = self.options.schedule;
        let known = self.known.get_mut(&site)?;
        let now = Instant::now();
        known.running = false;
        match outcome {
            Ok(keys) => {
                tracing::debug!(%site, keys = keys.len(), "The keys of an issuer were fetched.");
                // A tenth more or less, so that those that began together do not stay together.
                let share = u32::try_from(self.spread.hash_one(&site) % 20).unwrap_or(0);
                *known = Known {
                    due: now + refresh * (90 + share) / 100,
                    failures: 0,
                    good: Some(now + kept),
                    running: false,
                };
                Some((site, Some(Arc::new(keys))))
            }
            Err(reason) => {
                let first = known.failures == 0 && known.good.is_none();
                let pause = retry.saturating_mul(1 << known.failures.min(16)).min(refresh);
                known.failures = known.failures.saturating_add(1);
                let over = known.good.is_some_and(|until| until <= now);
                // It is looked at again when its keys are too old, if not before.
                known.due = known.good.map_or(now + pause, |until| (now + pause).min(until.max(now + retry)));
                let kept =
                    if known.good.is_some() && !over { "the last ones hold" } else { "there are none" };
                tracing::warn!(%site, %reason, kept, "The keys of an issuer cannot be fetched.");
                if over {
                    known.good = None;
                }
                (over || first).then_some((site, None))
            }
        }
    }
}

impl std::fmt::Debug for KeyFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyFollower").field("known", &self.known).finish_non_exhaustive()
    }
}

/// Found and not taken.
const MAX_WAITING: usize = 16;
/// Places asked at the same time.
const MAX_RUNNING: usize = 8;
/// Nothing to ask for.
const IDLE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
