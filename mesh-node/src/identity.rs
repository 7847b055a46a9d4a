//! Identities: a key and a certificate for every workload identity of this node, always fresh.
//!
//! Keys are P-256, made here and never written to a disk. A certificate is renewed at half its life; the old one stays
//! valid, so that both overlap and no connection notices. If renewing fails, the last good one serves until its end,
//! and past its end it serves nothing new.
//!
//! Who signs is behind [`Sign`]: the CA of a state directory, or one on another machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_core::id::{SpiffeId, TrustDomain};
use tokio::sync::Notify;

pub mod cache;
mod renew;
mod sign;
mod svid;

pub use sign::{IssuedChain, Sign, SignError, Signing};
pub use svid::{IssueError, Svid};

use self::cache::Cache;
use crate::tls::{Protocols, Trust};

/// How an [`IdentityStore`] issues.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lifetime asked of the CA.
    pub lifetime: Duration,
    /// Trust domains whose identities peers may have; our own first, then aliases.
    pub trust_domains: Vec<TrustDomain>,
    /// What tunnels under these identities may speak.
    pub protocols: Protocols,
    /// How long one attempt may take.
    pub deadline: Duration,
    /// First pause after a failed issue; it doubles up to `max_backoff`.
    pub min_backoff: Duration,
    /// Longest pause between attempts for one identity.
    pub max_backoff: Duration,
    /// How long [`IdentityStore::prepare`] waits for certificates.
    pub patience: Duration,
}

impl Options {
    /// Certificates of a day, attempts of 10 seconds, retries after 1 to 60 seconds, a patience of 2 seconds.
    pub fn new(trust_domains: Vec<TrustDomain>) -> Self {
        Self {
            lifetime: Duration::from_secs(24 * 60 * 60),
            trust_domains,
            protocols: Protocols::default(),
            deadline: Duration::from_secs(10),
            min_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            patience: Duration::from_secs(2),
        }
    }
}

/// The certificates of this node. Reading is wait-free and may happen on any thread.
pub struct IdentityStore {
    ca: Arc<dyn Sign>,
    options: Options,
    /// Where certificates outlive this process.
    cache: Option<Cache>,
    trust: Arc<Trust>,
    entries: ArcSwap<BTreeMap<SpiffeId, Arc<Entry>>>,
    /// Told when there is something new to issue.
    changed: Notify,
    /// Told whenever an attempt is over.
    settled: Notify,
    /// Why the last look at the trust bundle failed, if it did.
    bundle_error: ArcSwapOption<String>,
    counters: IdentityCounters,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct IdentityCounters {
    /// Certificates issued.
    pub issued: AtomicU64,
    /// Those of them that took the place of an older one.
    pub rotated: AtomicU64,
    /// Attempts to issue that failed.
    pub failed: AtomicU64,
    /// Changes of the trust bundle.
    pub bundle_changes: AtomicU64,
    /// Looks at the trust bundle that failed.
    pub bundle_failures: AtomicU64,
}

/// Whether an identity can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateState {
    /// Never issued yet.
    Pending,
    /// Usable.
    Valid,
    /// Usable, but the last attempt to renew it failed.
    RenewalFailing,
    /// Past its end.
    Expired,
}

impl CertificateState {
    /// A word for people and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Valid => "Valid",
            Self::RenewalFailing => "RenewalFailing",
            Self::Expired => "Expired",
        }
    }
}

/// One identity as the admin page shows it.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    /// The identity.
    pub id: SpiffeId,
    /// Serial number in lower-case hex; empty while pending.
    pub serial: String,
    /// Begin of validity.
    pub not_before: Option<SystemTime>,
    /// End of validity.
    pub not_after: Option<SystemTime>,
    /// Whether it can be used.
    pub state: CertificateState,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<Arc<str>>,
}

impl IdentityStore {
    /// An empty store over `ca`. Nothing is issued unless [`IdentityStore::run_rotation`] runs.
    pub fn new(ca: Arc<dyn Sign>, options: Options) -> Self {
        let trust = Arc::new(Trust::new(ca.bundle(), options.trust_domains.clone()));
        Self {
            ca,
            options,
            cache: None,
            trust,
            entries: ArcSwap::default(),
            changed: Notify::new(),
            settled: Notify::new(),
            bundle_error: ArcSwapOption::empty(),
            counters: IdentityCounters::default(),
        }
    }

    /// Whether `id` is to be held, with a certificate or still without.
    pub fn holds(&self, id: &SpiffeId) -> bool {
        self.entries.load().contains_key(id)
    }

    /// Keeps certificates in `cache`, and begins with those that are there.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// The certificate of `id`, if there is one that is still valid.
    pub fn current(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        let svid = self.entries.load().get(id)?.svid.clone()?;
        svid.is_valid_at(SystemTime::now()).then_some(svid)
    }

    /// Has certificates issued for those of `ids` that have none, and waits until each has been tried once, or until
    /// [`Options::patience`] is over: pods are captured when their certificates are there. Drops nothing.
    pub async fn prepare(&self, ids: &BTreeSet<SpiffeId>) {
        self.entries.rcu(|old| {
            let mut entries = BTreeMap::clone(old);
            for id in ids {
                entries
                    .entry(id.clone())
                    .or_insert_with(|| Arc::new(self.remembered(id).unwrap_or_default()));
            }
            entries
        });
        self.changed.notify_one();
        let tried = async {
            loop {
                let mut settled = std::pin::pin!(self.settled.notified());
                // Whatever is settled from here on is told, also before the wait begins.
                settled.as_mut().enable();
                let entries = self.entries.load_full();
                if ids.iter().all(|id| entries.get(id).is_none_or(|entry| entry.was_tried())) {
                    return;
                }
                settled.await;
            }
        };
        if tokio::time::timeout(self.options.patience, tried).await.is_err() {
            tracing::debug!("Not all new identities have certificates yet.");
        }
    }

    /// Makes `ids` the identities to hold: drops all others, and has issued what is missing as soon as may be.
    pub fn want(&self, ids: &BTreeSet<SpiffeId>) {
        self.entries.rcu(|old| {
            let entry = |id: &SpiffeId| (id.clone(), old.get(id).cloned().unwrap_or_default());
            ids.iter().map(entry).collect::<BTreeMap<_, _>>()
        });
        if let Some(cache) = &self.cache
            && let Err(error) = cache.retain(ids)
        {
            tracing::warn!(%error, "Certificates that are not wanted any more could not be removed.");
        }
        self.changed.notify_one();
    }

    /// Tries at once again what failed: whoever signs can be reached again.
    pub fn hurry(&self) {
        self.entries.rcu(|old| {
            let now = SystemTime::now();
            let hurried = |entry: &Arc<Entry>| match entry.failures {
                0 => Arc::clone(entry),
                _ => Arc::new(Entry { due: now, ..entry.as_ref().clone() }),
            };
            old.iter().map(|(id, entry)| (id.clone(), hurried(entry))).collect::<BTreeMap<_, _>>()
        });
        self.changed.notify_one();
    }

    /// What the last process of this node has left for `id`.
    fn remembered(&self, id: &SpiffeId) -> Option<Entry> {
        let kept = self.cache.as_ref()?.load(id)?;
        let svid =
            Svid::assemble(id.clone(), kept.chain, kept.key, self.trust.clone(), self.options.protocols)
                .ok()?;
        let now = SystemTime::now();
        if !svid.is_valid_at(now) {
            return None;
        }
        // Whoever signs it may have changed meanwhile: it is renewed as soon as may be, and serves until then.
        Some(Entry { svid: Some(Arc::new(svid)), due: now, failures: 0, last_error: None })
    }

    /// Replaces the trust domains accepted in peers, from the next handshake on.
    pub fn set_trust_domains(&self, domains: Vec<TrustDomain>) {
        self.trust.set_domains(domains);
    }

    /// What peers are checked against.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Totals for the metrics.
    pub fn counters(&self) -> &IdentityCounters {
        &self.counters
    }

    /// All identities, in order.
    pub fn statuses(&self) -> Vec<CertificateStatus> {
        let now = SystemTime::now();
        self.entries.load().iter().map(|(id, entry)| entry.status(id, now)).collect()
    }
}

impl std::fmt::Debug for IdentityStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityStore")
            .field("identities", &self.entries.load().len())
            .finish_non_exhaustive()
    }
}

/// State of one identity; replaced as a whole.
#[derive(Clone)]
struct Entry {
    svid: Option<Arc<Svid>>,
    /// When to issue (again).
    due: SystemTime,
    /// Failed attempts since the last success.
    failures: u32,
    last_error: Option<Arc<str>>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { svid: None, due: SystemTime::UNIX_EPOCH, failures: 0, last_error: None }
    }
}

impl Entry {
    fn was_tried(&self) -> bool {
        self.svid.is_some() || self.failures > 0
    }

    fn status(&self, id: &SpiffeId, now: SystemTime) -> CertificateStatus {
        let state = match &self.svid {
            None => CertificateState::Pending,
            Some(svid) if !svid.is_valid_at(now) => CertificateState::Expired,
            Some(_) if self.failures > 0 => CertificateState::RenewalFailing,
            Some(_) => CertificateState::Valid,
        };
        CertificateStatus {
            id: id.clone(),
            serial: self.svid.as_ref().map(|svid| svid.serial().to_owned()).unwrap_or_default(),
            not_before: self.svid.as_ref().map(|svid| svid.not_before()),
            not_after: self.svid.as_ref().map(|svid| svid.not_after()),
            state,
            last_error: self.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
