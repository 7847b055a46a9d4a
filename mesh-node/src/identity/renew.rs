//! The loop that keeps certificates fresh: what is due is issued, what failed is tried again with growing pauses, and
//! the trust bundle is looked at in between. It runs on the control thread; no data thread ever waits for a CA.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use mesh_core::id::SpiffeId;
use tokio::task::JoinSet;

use super::{Entry, IdentityStore, IssueError, SignError, Svid};

/// What one attempt came to.
type Outcome = (SpiffeId, Result<Svid, IssueError>);

impl IdentityStore {
    /// Keeps certificates and trust bundle fresh, for ever. Runs on the control thread; drop the future to stop it.
    pub async fn run_rotation(self: Arc<Self>) {
        // Side by side: a CA that does not answer one question may well answer the other.
        tokio::join!(self.follow_bundle(), self.renew_all());
    }

    async fn renew_all(self: &Arc<Self>) {
        // Dropped with this future, and all attempts with it.
        let mut attempts = JoinSet::<Outcome>::new();
        let mut running = BTreeSet::new();
        loop {
            let pause = self.start_due(&mut attempts, &mut running);
            tokio::select! {
                Some(done) = attempts.join_next() => match done {
                    Ok((id, outcome)) => {
                        running.remove(&id);
                        self.settle(&id, outcome);
                    }
                    // Which one it was is not known: all are started again when they are due.
                    Err(error) => {
                        tracing::error!(%error, "An attempt to issue a certificate broke off.");
                        attempts = JoinSet::new();
                        running.clear();
                    }
                },
                // The wall clock may jump while this sleeps: look again every so often.
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Starts what is due, as far as there is room; how long to wait for the next.
    fn start_due(
        self: &Arc<Self>,
        attempts: &mut JoinSet<Outcome>,
        running: &mut BTreeSet<SpiffeId>,
    ) -> Duration {
        let now = SystemTime::now();
        let mut next = LONGEST_NAP;
        for (id, entry) in self.entries.load().iter() {
            if running.contains(id) {
                continue;
            }
            if entry.due > now {
                next = next.min(entry.due.duration_since(now).unwrap_or_default());
            } else if running.len() < MAX_ATTEMPTS {
                running.insert(id.clone());
                attempts.spawn(self.clone().attempt(id.clone()));
            }
        }
        next.clamp(SHORTEST_NAP, LONGEST_NAP)
    }

    async fn attempt(self: Arc<Self>, id: SpiffeId) -> Outcome {
        let deadline = self.options.deadline;
        let issue =
            Svid::issue(self.ca.as_ref(), &id, self.options.lifetime, &self.trust, self.options.protocols);
        let outcome = match tokio::time::timeout(deadline, issue).await {
            Ok(outcome) => outcome,
            Err(_) => Err(SignError::Deadline(deadline).into()),
        };
        (id, outcome)
    }

    /// Puts the outcome in place, unless `id` is no longer wanted by now.
    fn settle(&self, id: &SpiffeId, outcome: Result<Svid, IssueError>) {
        let Some(old) = self.entries.load().get(id).cloned() else { return };
        let entry = Arc::new(match outcome {
            Ok(svid) => self.renewed(&old, svid),
            Err(e) => self.failed(id, &old, &e),
        });
        self.entries.rcu(|map| {
            let mut map = BTreeMap::clone(map);
            if let Some(slot) = map.get_mut(id) {
                *slot = entry.clone();
            }
            map
        });
        // An answer often brings the CA's newest roots along.
        self.take_bundle();
        self.settled.notify_waiters();
    }

    fn renewed(&self, old: &Entry, svid: Svid) -> Entry {
        self.counters.issued.fetch_add(1, Ordering::Relaxed);
        if old.svid.is_some() {
            self.counters.rotated.fetch_add(1, Ordering::Relaxed);
        }
        let (identity, serial) = (svid.id(), svid.serial());
        if old.failures > 0 {
            tracing::info!(%identity, serial, failures = old.failures, "Certificate issued at last.");
        } else {
            tracing::debug!(%identity, serial, "Certificate issued.");
        }
        if let Some(cache) = &self.cache
            && let Err(error) = cache.save(svid.id(), svid.chain(), svid.key())
        {
            tracing::warn!(%identity, %error, "A certificate could not be kept for the next start.");
        }
        let due = renewal_time(&svid);
        Entry { svid: Some(Arc::new(svid)), due, failures: 0, last_error: None }
    }

    /// The last good one stays. Every failure is counted; it is said when it is news.
    fn failed(&self, identity: &SpiffeId, old: &Entry, error: &IssueError) -> Entry {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        let failures = old.failures.saturating_add(1);
        let text = error.to_string();
        if old.last_error.as_deref() == Some(&text) {
            tracing::debug!(%identity, %error, failures, "Certificate still could not be issued.");
        } else {
            let reason = error.reason();
            tracing::warn!(%identity, %error, reason, failures, "Certificate could not be issued.");
        }
        let due = SystemTime::now() + self.backoff(failures);
        Entry { svid: old.svid.clone(), due, failures, last_error: Some(text.into()) }
    }

    async fn follow_bundle(&self) {
        let mut news = self.ca.news();
        loop {
            self.refresh_bundle().await;
            let told = async {
                let changed = match &mut news {
                    Some(news) => news.changed().await.is_ok(),
                    None => false,
                };
                // Whoever tells no more leaves it to the clock.
                if !changed {
                    std::future::pending::<()>().await;
                }
            };
            let _ = tokio::time::timeout(self.ca.pace().min(LONGEST_NAP), told).await;
        }
    }

    /// A CA may gain or lose a root while we run, or revoke something; the next handshake knows.
    pub(super) async fn refresh_bundle(&self) {
        let deadline = self.options.deadline;
        let refreshed = match tokio::time::timeout(deadline, self.ca.refresh()).await {
            Ok(refreshed) => refreshed,
            Err(_) => Err(SignError::Deadline(deadline)),
        };
        self.take_bundle();
        let error = refreshed.err().map(|e| e.to_string());
        if error.is_some() {
            self.counters.bundle_failures.fetch_add(1, Ordering::Relaxed);
        }
        let before = self.bundle_error.swap(error.clone().map(Arc::new));
        match (before.as_deref(), error) {
            (Some(before), Some(error)) if *before == error => {}
            (_, Some(error)) => {
                tracing::warn!(error, "The trust bundle cannot be looked at; the last good one stays.");
            }
            (Some(_), None) => tracing::info!("The trust bundle can be looked at again."),
            (None, None) => {}
        }
    }

    fn take_bundle(&self) {
        let bundle = self.ca.bundle();
        if *bundle != *self.trust.bundle() {
            let (roots, revocation_lists) = (bundle.roots().len(), bundle.crls().len());
            tracing::info!(roots, revocation_lists, "The trust bundle has changed.");
            self.counters.bundle_changes.fetch_add(1, Ordering::Relaxed);
            self.trust.set_bundle(bundle);
        }
    }

    /// Doubles with every failure up to the cap, less up to half of it: those who lost their CA together do not all come
    /// back to it together.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let doubled = self.options.min_backoff.saturating_mul(1 << doublings);
        doubled.min(self.options.max_backoff).mul_f64(1.0 - random_fraction() / 2.0)
    }
}

/// Half of what is left of the life of a certificate issued now, give or take a tenth, so that the certificates of a
/// node that started at once do not all come due at once.
fn renewal_time(svid: &Svid) -> SystemTime {
    let now = SystemTime::now();
    let left = svid.not_after().duration_since(now).unwrap_or_default();
    now + (left / 2).mul_f64(0.9 + 0.2 * random_fraction())
}

/// From 0 to 1.
fn random_fraction() -> f64 {
    let [a, b] = crate::tls::config::random::<2>();
    f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX)
}

/// The rotation looks at the clock and the bundle at least this often.
const LONGEST_NAP: Duration = Duration::from_secs(60);
/// And at most this often.
const SHORTEST_NAP: Duration = Duration::from_millis(50);
/// Requests under way at one time: a node that starts does not flood its CA.
const MAX_ATTEMPTS: usize = 8;
