//! The rules of what is bound to a waypoint, compiled for whoever asks.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use mesh_core::authn::Providers;
use mesh_core::model::{Service, ServiceKey, Snapshot, Workload};
use mesh_core::policy::{Decision, DeniedBy, Gate, Notes, Question, Seen, Targeted};
use mesh_core::route::{About, Client, ClusterRef, Owners, Route, RouteTable, StreamTable};
use mesh_core::telemetry::Side;

use super::Waypoint;
use crate::l7::engine::Engine;
use crate::l7::site::{Chosen, Clients, Facts, Guard, Site};
use crate::report::Told;

/// The rules of a waypoint as a data thread knows them.
pub(super) struct Rules {
    /// What stands for the waypoint.
    pub(super) own: ServiceKey,
    /// Its namespace and name.
    name: (Arc<str>, Arc<str>),
    known: RefCell<HashMap<(Arc<ServiceKey>, u16), Known>>,
    /// Policies, and of which version of the configuration.
    policies: RefCell<Option<Policies>>,
}

/// Rules of one port of a service, as one version of the configuration has them.
struct Known {
    generation: u64,
    about: About,
    /// By who asks; there is one entry where that makes no difference.
    tables: Vec<(Asking, Tables)>,
}

/// The policies of one version of the configuration, and those of them for each service.
struct Policies {
    generation: u64,
    all: Targeted,
    gates: HashMap<Option<Arc<ServiceKey>>, Rc<Gate>>,
}

/// As whom rules are asked about: namespace and labels.
type Asking = (Arc<str>, BTreeMap<String, String>);

/// For requests, and for bytes.
#[derive(Clone, Default)]
pub(super) struct Tables {
    pub(super) requests: Option<Arc<RouteTable>>,
    pub(super) streams: Option<Arc<StreamTable>>,
}

impl Rules {
    /// Of the waypoint of this name.
    pub(super) fn of(namespace: &Arc<str>, name: &str) -> Self {
        Self {
            own: ServiceKey::of_waypoint(namespace, name),
            name: (Arc::clone(namespace), name.into()),
            known: RefCell::default(),
            policies: RefCell::default(),
        }
    }

    /// The waypoint's namespace and name.
    fn name(&self) -> (&str, &str) {
        (&self.name.0, &self.name.1)
    }

    /// What is told about what goes to `service`, or to workloads by their addresses.
    pub(super) fn told(&self, engine: &Engine, service: Option<&Service>) -> Arc<Told> {
        let all = engine.telemetry();
        all.told(all.rules().of_waypoint(self.name(), service), Side::Server)
    }

    /// Whose tokens are accepted of what goes to `service`, if it is there.
    fn providers(&self, engine: &Engine, service: Option<&Service>) -> Providers {
        let authentication = engine.authentication();
        if authentication.is_empty() {
            return Providers::default();
        }
        authentication.of_waypoint(self.name(), service)
    }

    /// Whether tokens are asked for of what goes to `service`.
    pub(super) fn asks_for_tokens(&self, engine: &Engine, service: &Service) -> bool {
        !self.providers(engine, Some(service)).is_empty()
    }

    /// The policies for what goes to `service`, if it goes to one.
    pub(super) fn gate(&self, snapshot: &Snapshot, service: Option<&Service>) -> Rc<Gate> {
        if !snapshot.is_loaded() {
            return Rc::default();
        }
        let generation = snapshot.config_generation();
        let mut known = self.policies.borrow_mut();
        let mut policies = known.take().filter(|known| known.generation == generation).unwrap_or_else(|| {
            let (namespace, name) = &self.name;
            let all = Targeted::of(snapshot, (namespace, name));
            Policies { generation, all, gates: HashMap::new() }
        });
        if policies.gates.len() >= MAX_KNOWN {
            policies.gates.clear();
        }
        let key = service.map(|service| Arc::new(service.key()));
        let gate = policies.gates.entry(key).or_insert_with(|| Rc::new(policies.all.gate(service)));
        let gate = Rc::clone(gate);
        *known = Some(policies);
        gate
    }

    /// What policy says of a connection that asked for `wanted`, of `service` if it is one's, or of a request on it.
    pub(super) fn decide(
        &self,
        (snapshot, service): (&Snapshot, Option<&Service>),
        (facts, wanted): (&Facts, SocketAddr),
        (seen, approved): (Seen<'_>, &[Arc<str>]),
    ) -> Decision<Notes> {
        let connection = mesh_core::policy::Connection {
            peer: facts.identity.as_ref(),
            source_ip: facts.peer.ip(),
            destination: wanted,
            encrypted: true,
        };
        self.gate(snapshot, service).decide(&Question { connection: &connection, seen, approved })
    }

    /// The rules for what `source` sends to port `number` of a service.
    pub(super) fn tables(
        &self,
        snapshot: &Snapshot,
        (service, number): (&Service, u16),
        source: Option<&Arc<Workload>>,
    ) -> Tables {
        let generation = snapshot.config_generation();
        let mut all = self.known.borrow_mut();
        if all.len() >= MAX_KNOWN {
            all.clear();
        }
        let known = all.entry((Arc::new(service.key()), number)).or_insert_with(|| {
            let about = snapshot.virtuals().about(&service.hostname);
            Known { generation, about, tables: Vec::new() }
        });
        if known.generation != generation {
            // Most changes of the configuration are about something else.
            let about = snapshot.virtuals().about(&service.hostname);
            if !known.about.is_same(&about) {
                *known = Known { generation, about, tables: Vec::new() };
            }
            known.generation = generation;
        }
        let asking: Asking = match source.filter(|_| known.about.asks_for_source()) {
            Some(source) => (Arc::clone(&source.namespace), source.labels.clone()),
            None => ("".into(), BTreeMap::new()),
        };
        if let Some((_, tables)) = known.tables.iter().find(|(known, _)| *known == asking) {
            return tables.clone();
        }
        let client = Client { namespace: &asking.0, labels: &asking.1 };
        let owners = Owners { service: &service.namespace, waypoint: &self.own.namespace };
        let tables = Tables {
            requests: RouteTable::for_waypoint(&known.about, client, number, owners).map(Arc::new),
            streams: StreamTable::for_waypoint(&known.about, client, number, owners).map(Arc::new),
        };
        if known.tables.len() >= MAX_ASKING {
            known.tables.clear();
        }
        known.tables.push((asking, tables.clone()));
        tables
    }
}

/// The port of a service that a connection came for.
pub(super) struct WaypointSite {
    waypoint: Rc<Waypoint>,
    key: ServiceKey,
    number: u16,
    source: Option<Arc<Workload>>,
    fallback: Chosen,
    /// The rules as they were last, and of which version of the configuration.
    known: RefCell<Option<(u64, Option<Arc<RouteTable>>)>>,
    /// Whose tokens were accepted last, and of which version.
    providers: RefCell<Option<(u64, Rc<Providers>)>>,
    /// What was told last, and of which version.
    told: RefCell<Option<(u64, Arc<Told>)>>,
}

impl WaypointSite {
    pub(super) fn new(
        waypoint: Rc<Waypoint>,
        (service, port): (&Service, usize),
        source: Option<Arc<Workload>>,
    ) -> Self {
        let to = own_cluster(service, port);
        let number = to.port.unwrap_or_default();
        let fallback = Route::to(to);
        let matched = Arc::new(fallback.unmatched());
        let fallback = (Arc::new(fallback), matched);
        Self {
            waypoint,
            key: service.key(),
            number,
            source,
            fallback,
            known: RefCell::default(),
            providers: RefCell::default(),
            told: RefCell::default(),
        }
    }
}

impl Site for WaypointSite {
    fn routes(&self) -> Option<Arc<RouteTable>> {
        let snapshot = self.waypoint.engine.snapshot();
        let generation = snapshot.config_generation();
        if let Some((known, table)) = &*self.known.borrow()
            && *known == generation
        {
            return table.clone();
        }
        let service = snapshot.service(&self.key)?;
        let tables = self.waypoint.rules.tables(&snapshot, (service, self.number), self.source.as_ref());
        *self.known.borrow_mut() = Some((generation, tables.requests.clone()));
        tables.requests
    }

    fn fallback(&self) -> Option<Chosen> {
        Some(self.fallback.clone())
    }

    fn guard(&self) -> Guard {
        let snapshot = self.waypoint.engine.snapshot();
        let gate =
            snapshot.service(&self.key).map(|service| self.waypoint.rules.gate(&snapshot, Some(service)));
        if gate.is_some_and(|gate| gate.is_empty()) { Guard::Later } else { Guard::Now }
    }

    fn decide(&self, facts: &Facts, seen: Seen<'_>, approved: &[Arc<str>]) -> Decision<Notes> {
        let snapshot = self.waypoint.engine.snapshot();
        let Some(wanted) = facts.local else { return DeniedBy::WrongDestination.into() };
        // One that is not there any more has no policy of its own left, and nowhere to be sent either.
        let service = snapshot.service(&self.key).map(|service| &**service);
        self.waypoint.rules.decide((&snapshot, service), (facts, wanted), (seen, approved))
    }

    fn providers(&self) -> Option<Rc<Providers>> {
        let engine = &self.waypoint.engine;
        let snapshot = engine.snapshot();
        let generation = snapshot.config_generation();
        let mut known = self.providers.borrow_mut();
        if let Some((_, providers)) = known.as_ref().filter(|(of, _)| *of == generation) {
            return Some(Rc::clone(providers));
        }
        let service = snapshot.service(&self.key).map(|it| &**it);
        let providers = Rc::new(self.waypoint.rules.providers(engine, service));
        *known = Some((generation, Rc::clone(&providers)));
        Some(providers)
    }

    fn told(&self) -> Option<Arc<Told>> {
        let engine = &self.waypoint.engine;
        let snapshot = engine.snapshot();
        let generation = snapshot.config_generation();
        let mut known = self.told.borrow_mut();
        if let Some((_, told)) = known.as_ref().filter(|(of, _)| *of == generation) {
            return Some(Arc::clone(told));
        }
        let service = snapshot.service(&self.key).map(|it| &**it);
        let told = self.waypoint.rules.told(engine, service);
        *known = Some((generation, Arc::clone(&told)));
        Some(told)
    }

    fn port(&self) -> u16 {
        self.number
    }

    fn clients(&self) -> Clients {
        Clients::Callers
    }
}

/// The service itself, whatever rules say.
pub(super) fn own_cluster(service: &Service, port: usize) -> ClusterRef {
    let number = service.ports.get(port).map(|port| port.number);
    ClusterRef { host: Arc::clone(&service.hostname), subset: None, port: number }
}

/// Ports of services whose rules are kept.
const MAX_KNOWN: usize = 10_000;
/// Kinds of clients whose rules are kept for one of them.
const MAX_ASKING: usize = 256;
