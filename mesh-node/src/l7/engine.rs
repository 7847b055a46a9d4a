//! The engine of one client on one data thread: clusters with their connections, kept in step with the configuration.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::authn::{Authentication, Providers};
use mesh_core::cluster::{self, ClientCertificate, Destination};
use mesh_core::health::Checks;
use mesh_core::limit::{Limits, Policy};
use mesh_core::model::{Entry, Service, Snapshot, Workload};
use mesh_core::route::ClusterRef;
use tokio::sync::{Semaphore, watch};

use super::cluster::Cluster;
use super::edge::Trust;
use super::health;
use super::outbox::Outbox;
use super::shared::Shared;
use super::site::{Client, INBOUND};
use super::trace::Teller;
use crate::report::{Event, PseudoService, Reporter, Telemetry, Told};
use crate::run::tasks;

/// See the module. Requests of one client meet one set of pools, circuit breakers and balancers here.
pub struct Engine {
    /// On whose behalf.
    pub client: Rc<dyn Client>,
    /// Where requests are reported.
    pub reporter: Arc<Reporter>,
    /// Each copy of a request that is under way holds it.
    pub copies: Rc<()>,
    shared: Arc<Shared>,
    snapshots: RefCell<watch::Receiver<Arc<Snapshot>>>,
    view: RefCell<View>,
    outbox: Outbox,
    random: Cell<u64>,
}

/// What was made of one snapshot.
#[derive(Default)]
struct View {
    snapshot: Arc<Snapshot>,
    workload: Option<Arc<Workload>>,
    clusters: HashMap<ClusterRef, Vec<Known>>,
    trust: Trust,
    limits: Arc<Limits>,
    /// Those for all that the client, being a gateway, takes in.
    door: Rc<[Arc<Policy>]>,
    authentication: Arc<Authentication>,
    /// Who says whose tokens are accepted of all that the client takes in.
    providers: Rc<Providers>,
    told: Arc<Told>,
    /// Who tells spans; nobody where there are none.
    teller: Rc<Teller>,
}

/// A cluster by the port that was asked for.
struct Known {
    asked: u16,
    cluster: Rc<Cluster>,
}

/// A route names something that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCluster;

impl Engine {
    /// An engine that follows `snapshots`. `seed` should differ between threads.
    pub fn new(
        client: Rc<dyn Client>,
        reporter: Arc<Reporter>,
        shared: Arc<Shared>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        seed: u64,
    ) -> Rc<Self> {
        let snapshot = snapshots.borrow().clone();
        let (workload, trust) = (client.workload(&snapshot), Trust::of(&snapshot));
        let limits = shared.limits(&snapshot);
        let door = door(&*client, &limits);
        let authentication = shared.authentication(&snapshot);
        let providers = providers(&*client, &authentication);
        let clusters = HashMap::new();
        let told = client.told(&snapshot, &shared.telemetry(&snapshot));
        let teller = teller(&*client, &snapshot, (&told, &shared));
        let view = View {
            snapshot,
            workload,
            clusters,
            trust,
            limits,
            door,
            authentication,
            providers,
            told,
            teller,
        };
        let engine = Rc::new(Self {
            client,
            reporter,
            copies: Rc::default(),
            shared,
            snapshots: RefCell::new(snapshots),
            view: RefCell::new(view),
            outbox: Outbox::default(),
            random: Cell::new(seed | 1),
        });
        tasks::spawn_local("upkeep", upkeep(Rc::downgrade(&engine)));
        engine
    }

    /// The versions of the configuration that come after the one that was looked at last.
    pub fn versions(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.borrow().clone()
    }

    /// The configuration as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.refresh();
        Arc::clone(&self.view.borrow().snapshot)
    }

    /// The client's own workload, as the configuration had it when it was looked at last.
    pub fn client_workload(&self) -> Option<Arc<Workload>> {
        self.view.borrow().workload.clone()
    }

    /// What of requests is believed, as the configuration has it now.
    pub fn trust(&self) -> Trust {
        self.refresh();
        self.view.borrow().trust.of_client(self.client.topology())
    }

    /// The limits of the configuration as it is now.
    pub fn limits(&self) -> Arc<Limits> {
        self.refresh();
        Arc::clone(&self.view.borrow().limits)
    }

    /// Those of them that are for all that the client takes in, if it is a gateway or a waypoint.
    pub fn door(&self) -> Rc<[Arc<Policy>]> {
        self.refresh();
        Rc::clone(&self.view.borrow().door)
    }

    /// The tokens that the configuration accepts as it is now.
    pub fn authentication(&self) -> Arc<Authentication> {
        self.refresh();
        Arc::clone(&self.view.borrow().authentication)
    }

    /// Those of them that are for all that the client takes in.
    pub fn providers(&self) -> Rc<Providers> {
        self.refresh();
        Rc::clone(&self.view.borrow().providers)
    }

    /// What is told about the client's requests, as the configuration has it now.
    pub fn told(&self) -> Arc<Told> {
        self.refresh();
        Arc::clone(&self.view.borrow().told)
    }

    /// All that the configuration says about what is told.
    pub fn telemetry(&self) -> Arc<Telemetry> {
        self.shared.telemetry(&self.snapshot())
    }

    /// Who tells the spans of the client.
    pub(super) fn teller(&self) -> Rc<Teller> {
        Rc::clone(&self.view.borrow().teller)
    }

    /// What waits to be told to services.
    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The health checks of the configuration as it is now.
    pub fn checks(&self) -> Arc<Checks> {
        self.shared.checks(&self.snapshot())
    }

    /// The clusters in use that have endpoints which are to be asked whether they are well.
    pub(super) fn checked_clusters(&self) -> Vec<Rc<Cluster>> {
        let view = self.view.borrow();
        let all = view.clusters.values().flatten().map(|known| &known.cluster);
        all.filter(|cluster| !cluster.shared.monitor.is_empty()).cloned().collect()
    }

    /// Places for such questions, which the threads of the process share.
    pub(super) fn question_places(&self) -> &Arc<Semaphore> {
        self.shared.questions()
    }

    /// A pseudo-random number (xorshift, mixed): good for spreading load, useless for secrets.
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Where `asked`, the name that a request or TLS is for, leads, if the service of a cluster is wherever such names are. What
    /// the service is not for is not looked up, and addresses that names must not lead to are left out.
    pub async fn look_up(&self, cluster: &Cluster, asked: Option<&str>) -> Vec<SocketAddr> {
        let name = asked.and_then(|asked| cluster.service.name_for(asked));
        let (Some(name), Some(port)) = (name, cluster.service.ports.get(cluster.port)) else {
            return Vec::new();
        };
        self.reporter.count(Event::NameLookedUp);
        // Rare, and larger than what requests have to carry.
        let found = Box::pin(self.shared.lookup(&name)).await;
        let snapshot = self.snapshot();
        let all = found.iter().map(|ip| SocketAddr::new(*ip, port.number));
        all.filter(|addr| snapshot.may_be_named(*addr)).collect()
    }

    /// The cluster that a rule sends to, for a request to port `asked`.
    pub fn cluster(&self, to: &ClusterRef, asked: u16) -> Result<Rc<Cluster>, NoCluster> {
        self.refresh();
        let mut view = self.view.borrow_mut();
        let known = view.clusters.get(to).and_then(|all| all.iter().find(|it| it.asked == asked));
        if let Some(known) = known {
            return Ok(Rc::clone(&known.cluster));
        }
        let cluster = Rc::new(self.make(&view.snapshot, to, asked, None)?);
        let known = Known { asked, cluster: Rc::clone(&cluster) };
        view.clusters.entry(to.clone()).or_default().push(known);
        Ok(cluster)
    }

    fn make(
        &self,
        snapshot: &Arc<Snapshot>,
        to: &ClusterRef,
        asked: u16,
        old: Option<&Rc<Cluster>>,
    ) -> Result<Cluster, NoCluster> {
        let (namespace, labels) = self.client.namespace_and_labels(snapshot);
        let service = self.service(snapshot, to, (&namespace, asked)).ok_or(NoCluster)?;
        let number = to.port_of(service.ports.iter().map(|port| port.number), asked);
        let port = service.ports.iter().position(|port| port.number == number).ok_or(NoCluster)?;
        let workload = self.client.workload(snapshot);
        let client = cluster::Client { namespace: &namespace, labels: &labels };
        let destination = Destination {
            traffic_distribution: service.traffic_distribution,
            tls: service.ports.get(port).and_then(|port| port.tls.as_deref()),
            // Rules for a service are its clients' business, not that of the application's own side.
            ..Destination::new(
                &service.namespace,
                if is_inbound(to) { &to.host } else { &service.hostname },
                number,
            )
        };
        let policy = cluster::resolve(snapshot.rules(), &client, &destination, to.subset.as_deref());
        let mut policy = policy.map_err(|_| NoCluster)?;
        if let Some(tls) = destination.tls.filter(|tls| policy.tls == tls.policy()) {
            let certificate = self.client.certificate(snapshot);
            policy.tls = tls.policy_with(certificate.map(ClientCertificate::Credential));
        }
        if let Some(entry) = &service.entry {
            policy.tls = policy.tls.or_names(&entry.subject_alt_names);
        }
        let subset = to.subset.as_deref().unwrap_or_default();
        let name = old.map_or_else(
            || {
                if is_inbound(to) {
                    return format!("{INBOUND}|{number}||").into();
                }
                format!("outbound|{number}|{subset}|{}", service.hostname).into()
            },
            |old| Arc::clone(&old.name),
        );
        let policy = match old.filter(|old| *old.policy == policy) {
            Some(old) => Arc::clone(&old.policy),
            None => Arc::new(policy),
        };
        let shared = self.shared.cluster(self.client.key(), &name, &policy);
        // Whoever sends through a waypoint leaves it to that.
        let checks = (!self.client.passes_on(&service)).then(|| self.shared.checks(snapshot));
        let service = (service, port);
        let cluster =
            Cluster::new(name, shared, policy, service, (workload.as_deref(), old.map(|old| &**old)));
        cluster.check(checks.as_deref(), Instant::now());
        Ok(cluster)
    }

    /// Follows the configuration: what did not change stays as it is.
    fn refresh(&self) {
        if !self.snapshots.borrow().has_changed().unwrap_or(false) {
            return;
        }
        let snapshot = self.snapshots.borrow_mut().borrow_and_update().clone();
        let mut view = self.view.borrow_mut();
        let same_rules = view.snapshot.config_generation() == snapshot.config_generation();
        let (namespace, _) = self.client.namespace_and_labels(&snapshot);
        let clusters = std::mem::take(&mut view.clusters);
        for (to, all) in clusters {
            let kept = all.into_iter().filter_map(|known| {
                let service = self.service(&snapshot, &to, (&namespace, known.asked))?;
                let same = Arc::ptr_eq(&service, &known.cluster.service) || is_nobodys(&to);
                if same_rules && same {
                    return Some(known);
                }
                let cluster = self.make(&snapshot, &to, known.asked, Some(&known.cluster)).ok()?;
                Some(Known { asked: known.asked, cluster: Rc::new(cluster) })
            });
            let kept: Vec<_> = kept.collect();
            if !kept.is_empty() {
                view.clusters.insert(to, kept);
            }
        }
        view.workload = self.client.workload(&snapshot);
        view.trust = Trust::of(&snapshot);
        view.limits = self.shared.limits(&snapshot);
        view.door = door(&*self.client, &view.limits);
        view.authentication = self.shared.authentication(&snapshot);
        view.providers = providers(&*self.client, &view.authentication);
        view.told = self.client.told(&snapshot, &self.shared.telemetry(&snapshot));
        view.teller = teller(&*self.client, &snapshot, (&view.told, &self.shared));
        view.snapshot = snapshot;
    }

    fn service(&self, snapshot: &Snapshot, to: &ClusterRef, place: (&str, u16)) -> Option<Arc<Service>> {
        if is_inbound(to) { self.client.inbound() } else { service(snapshot, to, place) }
    }

    fn sweep(&self, now: Instant) {
        self.refresh();
        self.shared.tick(now);
        // What a gateway is may come to be known after what is for it.
        let limits = self.limits();
        let authentication = self.authentication();
        let mut view = self.view.borrow_mut();
        view.door = door(&*self.client, &limits);
        view.providers = providers(&*self.client, &authentication);
        let own = self.client.own();
        if own.is_some() && !view.teller.is_of(own.as_ref()) {
            let snapshot = Arc::clone(&view.snapshot);
            view.told = self.client.told(&snapshot, &self.shared.telemetry(&snapshot));
            view.teller = teller(&*self.client, &snapshot, (&view.told, &self.shared));
        }
        drop(view);
        let view = self.view.borrow();
        for known in view.clusters.values().flatten() {
            let pool = &known.cluster.policy.pool;
            for member in known.cluster.members() {
                member.pool.sweep(pool.http.idle_timeout, pool.max_connection_duration, now);
            }
        }
    }
}

/// The service that a rule means. Where clients go of their own accord is no service, and treated like one that is wherever
/// they go.
fn service(snapshot: &Snapshot, to: &ClusterRef, (namespace, asked): (&str, u16)) -> Option<Arc<Service>> {
    if !is_nobodys(to) {
        return snapshot.service_by_host(&to.host, namespace).cloned();
    }
    let names = ("".into(), Arc::clone(&to.host), Arc::clone(&to.host));
    let entry = Entry { external: true, ..Entry::default() };
    Some(Arc::new(Service::of_a_port(names, asked, entry)))
}

fn door(client: &dyn Client, limits: &Limits) -> Rc<[Arc<Policy>]> {
    if limits.is_empty() { Rc::default() } else { client.door(limits).into() }
}

fn providers(client: &dyn Client, authentication: &Authentication) -> Rc<Providers> {
    if authentication.is_empty() { Rc::default() } else { client.providers(authentication).into() }
}

/// Whoever listens at some of the client's places may be told of more than what is told of the client in general.
fn teller(client: &dyn Client, snapshot: &Snapshot, (told, shared): (&Told, &Shared)) -> Rc<Teller> {
    let tells = told.effective.tracing.is_some() || !shared.telemetry(snapshot).rules().is_empty();
    Rc::new(if tells { Teller::of(client, snapshot) } else { Teller::nobody(client) })
}

/// Whether this is the application that the client takes requests in for.
fn is_inbound(to: &ClusterRef) -> bool {
    *to.host == *INBOUND
}

/// Whether this is the address that the client asked for, whatever is there.
fn is_nobodys(to: &ClusterRef) -> bool {
    *to.host == *PseudoService::Passthrough.name()
}

/// Closes idle connections and brings back endpoints, until the engine is gone.
/// Sweeps, and asks endpoints whether they are well.
async fn upkeep(engine: std::rc::Weak<Engine>) {
    let mut sweep_at = Instant::now();
    loop {
        let Some(engine) = engine.upgrade() else { return };
        let now = Instant::now();
        if sweep_at <= now {
            engine.sweep(now);
            sweep_at = now + UPKEEP;
        }
        let pause = health::ask_those_due(&engine, now, sweep_at);
        drop(engine);
        tokio::time::sleep(pause).await;
    }
}

/// Often enough for ejections of a second, which tests like.
const UPKEEP: Duration = Duration::from_millis(500);
