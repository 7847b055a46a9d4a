//! What the data threads of a process know together of the services they send to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use mesh_core::authn::Authentication;
use mesh_core::balance::Health;
use mesh_core::cluster::{Admission, ClusterPolicy, SharedOutliers};
use mesh_core::health::{Checks, SharedMonitor};
use mesh_core::limit::Limits;
use mesh_core::model::{EndpointId, Snapshot};
use mesh_core::retry::RecentRequests;
use tokio::sync::{Notify, Semaphore};

use crate::report::{Checked, CheckedEndpoint, Telemetry};
use crate::run::lookup::Lookup;

/// Circuit breakers and outliers by client and cluster, whose entries live as long as a thread uses them; and what limits
/// have counted.
#[derive(Debug)]
pub struct Shared {
    all: Mutex<HashMap<Name, Weak<SharedCluster>>>,
    limits: Derived<Limits>,
    authentication: Derived<Authentication>,
    checks: Derived<Checks>,
    telemetry: Derived<Telemetry>,
    /// Places for health checks that are under way.
    questions: Arc<Semaphore>,
    /// Names that clients ask for.
    lookup: Lookup,
    epoch: Instant,
}

/// What follows from a configuration, with the version of that.
#[derive(Debug, Default)]
struct Derived<T>(Mutex<(u64, Arc<T>)>);

impl<T> Derived<T> {
    /// Of this configuration, or of a newer one that another thread has seen. `make` is given what was before.
    fn of(&self, snapshot: &Snapshot, make: impl FnOnce(&T) -> T) -> Arc<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 < snapshot.config_generation() {
            *known = (snapshot.config_generation(), Arc::new(make(&known.1)));
        }
        Arc::clone(&known.1)
    }
}

/// Without anybody who looks names up.
impl Default for Shared {
    fn default() -> Self {
        Self::new(Lookup::default())
    }
}

impl Shared {
    /// Of a process that looks names up there.
    pub fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            all: Mutex::default(),
            limits: Derived::default(),
            authentication: Derived::default(),
            checks: Derived::default(),
            telemetry: Derived::default(),
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            epoch: Instant::now(),
        }
    }
}

/// The names of a client and of a cluster.
type Name = (Arc<str>, Arc<str>);

/// What the threads share of one cluster for one client.
#[derive(Debug)]
pub struct SharedCluster {
    /// Circuit breakers.
    pub admission: Arc<Admission>,
    /// Who is left out; absent where nobody ever is.
    pub outliers: Option<SharedOutliers>,
    /// Who is left out because it does not answer when it is asked.
    pub monitor: Arc<SharedMonitor>,
    /// Told when a connection is free, or may be made.
    pub freed: Notify,
    /// Requests in the time that a retry budget says; nothing where it says none.
    recent: Mutex<Option<(Duration, RecentRequests)>>,
}

impl SharedCluster {
    /// Counts a request, for a retry budget that looks at the requests of so long.
    pub fn count_request(&self, interval: Duration, now: Instant) {
        self.with_recent(interval, now, |recent| recent.add(now));
    }

    /// Requests in the last `interval`.
    pub fn recent_requests(&self, interval: Duration, now: Instant) -> u32 {
        self.with_recent(interval, now, |recent| recent.count(now))
    }

    fn with_recent<T>(
        &self,
        interval: Duration,
        now: Instant,
        act: impl FnOnce(&mut RecentRequests) -> T,
    ) -> T {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // Another rule counts anew.
        recent.take_if(|(counted, _)| *counted != interval);
        let (_, recent) = recent.get_or_insert_with(|| (interval, RecentRequests::new(interval, now)));
        act(recent)
    }
}

impl Shared {
    /// The limits of a configuration, or of a newer one that another thread has seen.
    pub fn limits(&self, snapshot: &Snapshot) -> Arc<Limits> {
        self.limits.of(snapshot, |before| Limits::of(snapshot, before, self.epoch))
    }

    /// The tokens that a configuration accepts, or a newer one that another thread has seen.
    pub fn authentication(&self, snapshot: &Snapshot) -> Arc<Authentication> {
        self.authentication.of(snapshot, |before| Authentication::of(snapshot, before))
    }

    /// What is told about requests by a configuration, or by a newer one that another thread has seen.
    pub fn telemetry(&self, snapshot: &Snapshot) -> Arc<Telemetry> {
        self.telemetry.of(snapshot, |before| Telemetry::of(snapshot, before))
    }

    /// The health checks of a configuration, or of a newer one that another thread has seen.
    pub fn checks(&self, snapshot: &Snapshot) -> Arc<Checks> {
        self.checks.of(snapshot, |_| Checks::of(snapshot))
    }

    /// The addresses of a name that a client asks for.
    pub async fn lookup(&self, name: &str) -> Arc<[IpAddr]> {
        self.lookup.find(name).await
    }

    /// Places for health checks that are under way.
    pub fn questions(&self) -> &Arc<Semaphore> {
        &self.questions
    }

    /// The state of `cluster` for `client`, made with this policy if nobody has it yet.
    pub fn cluster(
        &self,
        client: &Arc<str>,
        cluster: &Arc<str>,
        policy: &ClusterPolicy,
    ) -> Arc<SharedCluster> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(client), Arc::clone(cluster));
        let known = all.get(&key).and_then(Weak::upgrade);
        let monitor = known.as_ref().map(|known| Arc::clone(&known.monitor)).unwrap_or_default();
        if let Some(known) = known
            && known.outliers.is_some() == policy.outlier.is_some()
        {
            known.admission.set_limits(policy.pool.limits);
            if let (Some(outliers), Some(policy)) = (&known.outliers, &policy.outlier) {
                outliers.set_policy(policy.clone());
            }
            return known;
        }
        let new = Arc::new(SharedCluster {
            admission: Arc::new(Admission::new(policy.pool.limits)),
            outliers: policy.outlier.clone().map(SharedOutliers::new),
            monitor,
            freed: Notify::new(),
            recent: Mutex::default(),
        });
        all.retain(|_, known| known.strong_count() > 0);
        all.insert(key, Arc::downgrade(&new));
        new
    }

    /// Brings back those who have been left out long enough.
    pub fn tick(&self, now: Instant) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = all.values().filter_map(Weak::upgrade).collect();
        for outliers in all.iter().filter_map(|cluster| cluster.outliers.as_ref()) {
            outliers.tick(now);
        }
    }
}

impl Health for SharedCluster {
    /// Neither of the two ever goes back, so that their sum changes with each.
    fn generation(&self) -> u64 {
        self.outliers.as_ref().map_or(0, Health::generation).wrapping_add(self.monitor.generation())
    }

    fn is_ejected(&self, id: EndpointId) -> bool {
        self.outliers.as_ref().is_some_and(|outliers| Health::is_ejected(outliers, id))
            || self.monitor.is_ejected(id)
    }
}

impl Checked for Shared {
    fn checked(&self) -> Vec<CheckedEndpoint> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = all.iter().filter_map(|(name, it)| Some((name.clone(), it.upgrade()?))).collect();
        let views = all.iter().flat_map(|((client, cluster), shared)| {
            let views = shared.monitor.views().into_iter();
            views.map(|view| CheckedEndpoint {
                client: Arc::clone(client),
                cluster: Arc::clone(cluster),
                endpoint: view.id.addr(),
                check: view.by,
                standing: CheckedEndpoint::standing(view.standing),
                reason: view.reason,
            })
        });
        views.collect()
    }
}

/// Health checks that are under way at a time: each has a connection of its own.
const MAX_QUESTIONS: usize = 128;
