//! Identities: a key and a certificate for every workload identity of this node, always fresh.
//!
//! Keys are P-256, made here and never written anywhere. A certificate is renewed at half its life; the old one stays
//! valid, so that both overlap and no connection notices. If renewing fails, the last good one serves until its end,
//! and past its end it serves nothing new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use mesh_core::id::{SpiffeId, TrustDomain};
use tokio::sync::Notify;

pub mod ca;
mod svid;

pub use ca::{CaError, IssuedChain, Sign, StateCa};
pub use svid::{IssueError, Svid};

use crate::tls::{Trust, TrustError};

/// How an [`IdentityStore`] issues.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lifetime asked of the CA.
    pub lifetime: Duration,
    /// Trust domains whose identities peers may have; our own first, then aliases.
    pub trust_domains: Vec<TrustDomain>,
    /// First pause after a failed issue; it doubles up to `max_backoff`.
    pub min_backoff: Duration,
    /// Longest pause between attempts for one identity.
    pub max_backoff: Duration,
}

impl Options {
    /// Certificates of a day, retries after 1 to 60 seconds.
    pub fn new(trust_domains: Vec<TrustDomain>) -> Self {
        Self {
            lifetime: Duration::from_secs(24 * 60 * 60),
            trust_domains,
            min_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
        }
    }
}

/// The certificates of this node. Reading is wait-free and may happen on any thread.
pub struct IdentityStore {
    ca: Arc<dyn Sign>,
    options: Options,
    trust: Arc<Trust>,
    entries: ArcSwap<BTreeMap<SpiffeId, Arc<Entry>>>,
    /// Told when [`IdentityStore::want`] changed what is due.
    changed: Notify,
    counters: IdentityCounters,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct IdentityCounters {
    /// Certificates issued.
    pub issued: AtomicU64,
    /// Attempts to issue that failed.
    pub failed: AtomicU64,
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
    /// An empty store over `ca`. Fails if the CA's roots cannot be used.
    pub fn new(ca: Arc<dyn Sign>, options: Options) -> Result<Self, TrustError> {
        let trust = Arc::new(Trust::new(&ca.roots(), options.trust_domains.clone())?);
        Ok(Self {
            ca,
            options,
            trust,
            entries: ArcSwap::default(),
            changed: Notify::new(),
            counters: IdentityCounters::default(),
        })
    }

    /// The certificate of `id`, if there is one that is still valid.
    pub fn current(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        let svid = self.entries.load().get(id)?.svid.clone()?;
        svid.is_valid_at(SystemTime::now()).then_some(svid)
    }

    /// Makes `ids` the identities to hold: drops all others and issues what is missing before it returns, as far as
    /// the CA obliges (what it refuses is tried again by [`IdentityStore::run_rotation`]).
    pub fn want(&self, ids: &BTreeSet<SpiffeId>) {
        self.entries.rcu(|old| {
            let entry = |id: &SpiffeId| (id.clone(), old.get(id).cloned().unwrap_or_default());
            ids.iter().map(entry).collect::<BTreeMap<_, _>>()
        });
        for (id, entry) in self.entries.load().iter() {
            if entry.svid.is_none() && entry.failures == 0 {
                self.renew(id, entry);
            }
        }
        self.changed.notify_one();
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

    /// Renews what is due, for ever. Runs on the control thread; drop the future to stop it.
    pub async fn run_rotation(self: Arc<Self>) {
        loop {
            self.refresh_roots();
            let now = SystemTime::now();
            let entries = self.entries.load_full();
            for (id, entry) in entries.iter().filter(|(_, entry)| entry.due <= now) {
                self.renew(id, entry);
                // Signing takes CPU time; whatever else lives on this thread goes on in between.
                tokio::task::yield_now().await;
            }
            let next = self.entries.load().values().map(|entry| entry.due).min();
            let pause =
                next.map_or(LONGEST_NAP, |due| due.duration_since(SystemTime::now()).unwrap_or_default());
            tokio::select! {
                // The wall clock may jump while this sleeps: look again every so often.
                () = tokio::time::sleep(pause.clamp(SHORTEST_NAP, LONGEST_NAP)) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Issues a certificate for `id` and puts the outcome in place, unless `id` is no longer wanted by then.
    fn renew(&self, id: &SpiffeId, old: &Entry) {
        let issued = Svid::issue(self.ca.as_ref(), id, self.options.lifetime, &self.trust);
        let entry = Arc::new(match issued {
            Ok(svid) => {
                self.counters.issued.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(identity = %id, serial = svid.serial(), "Certificate issued.");
                let due = renewal_time(&svid);
                Entry { svid: Some(Arc::new(svid)), due, failures: 0, last_error: None }
            }
            Err(e) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                let failures = old.failures.saturating_add(1);
                tracing::warn!(identity = %id, error = %e, failures, "Certificate could not be issued.");
                let due = SystemTime::now() + self.backoff(failures);
                Entry { svid: old.svid.clone(), due, failures, last_error: Some(e.to_string().into()) }
            }
        });
        self.entries.rcu(|map| {
            let mut map = BTreeMap::clone(map);
            if let Some(slot) = map.get_mut(id) {
                *slot = entry.clone();
            }
            map
        });
    }

    /// A CA may gain a root while we run; peers under it are accepted from the next handshake on.
    fn refresh_roots(&self) {
        if let Err(e) = self.trust.set_roots(&self.ca.roots()) {
            tracing::error!(error = %e, "The CA's new roots are unusable, the old ones stay.");
        }
    }

    fn backoff(&self, failures: u32) -> Duration {
        let doubled = self.options.min_backoff.saturating_mul(1 << (failures - 1).min(16));
        jittered(doubled.min(self.options.max_backoff))
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

/// Half of what is left of the life of a certificate issued now, give or take a tenth, so that the certificates of a
/// node that started at once do not all come due at once.
fn renewal_time(svid: &Svid) -> SystemTime {
    let now = SystemTime::now();
    let left = svid.not_after().duration_since(now).unwrap_or_default();
    now + jittered(left / 2)
}

/// `d` ± 10 %.
fn jittered(d: Duration) -> Duration {
    let [a, b] = crate::tls::config::random::<2>();
    let fraction = f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX);
    d.mul_f64(0.9 + 0.2 * fraction)
}

/// The rotation looks at the clock at least this often.
const LONGEST_NAP: Duration = Duration::from_secs(60);
/// And at most this often.
const SHORTEST_NAP: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
