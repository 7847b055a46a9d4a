//! Requests to a pod, read where they arrive: because policy asks for what is in them, because tokens are asked for, or because
//! a service of the pod limits those of strangers.
//!
//! Whoever is in the mesh is counted on its own side, at its node, a waypoint or a gateway. A stranger has nobody there, so
//! that its requests are told apart here. Everything else that comes stays bytes.
//!
//! Invariant: the application is dialled with a permit that was made for one of the requests, or for the connection whatever
//! it carries.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mesh_core::authn::{Authentication, Providers};
use mesh_core::http::xfcc;
use mesh_core::limit::{Limits, Policy};
use mesh_core::model::{Declared, Entry, Service, ServicePort, Snapshot, Workload};
use mesh_core::policy::{Decision, DeniedBy, Notes, Permit, Seen};
use mesh_core::route::{ClusterRef, Route, RouteTable};
use mesh_core::telemetry::Side;

use super::super::dial::Origin;
use super::super::revoke::{Carries, Facts};
use crate::l7::engine::Engine;
use crate::l7::io::Io;
use crate::l7::serve::{Connection, connection};
use crate::l7::site::{
    self, Chosen, Client, Clients, Dial, DialError, Dialled, Guard, INBOUND, LocalBoxFuture, Site,
};
use crate::l7::sniff::{self, Beginning, Wanted};
use crate::redirect::LocalPod;
use crate::report::{Perspective, Telemetry, Told};
use crate::run::worker::Worker;
use crate::sys::sockopt;

/// Why, and how, a connection is to be read.
pub(super) struct Plan {
    /// The services whose limits count.
    limited: Vec<Arc<Service>>,
    /// What stands for the service at the port, and its number.
    inbound: (Arc<Service>, u16),
    /// What the port is declared to carry, by each service that has it.
    declared: Vec<Declared>,
    /// Whether policy asks for what it carries.
    guarded: bool,
    /// How long it may take until that is known.
    pub(super) patience: Duration,
}

/// Whether a connection has to be read, and how. One that policy refuses need not be: who refuses it says so.
pub(super) fn plan(worker: &Worker, facts: &Facts) -> Option<Plan> {
    let snapshot = worker.snapshot();
    let workload = snapshot.workload_by_uid(&facts.uid)?;
    let guarded = match facts.ask((&snapshot, workload), (Seen::Nothing, &[])) {
        Decision::Allowed(_) => false,
        Decision::Denied(_) => return None,
        Decision::NeedsRequest | Decision::NeedsExternal(_) => true,
    };
    let asks = asks_for_tokens(worker, &snapshot, workload);
    let told = worker.shared.telemetry(&snapshot).rules().reads_requests(workload);
    let is_read = guarded || asks || told;
    let limits = worker.shared.limits(&snapshot);
    if !is_read && (limits.is_empty() || facts.peer.is_some()) {
        return None;
    }
    let services: Vec<_> = serving(&snapshot, workload, facts.destination.port()).collect();
    let limits_requests =
        |service: &Arc<Service>| limits.of_service(service).iter().any(|it| it.limits_requests());
    let limited = services.iter().filter(|(service, _)| facts.peer.is_none() && limits_requests(service));
    let limited: Vec<_> = limited.cloned().collect();
    if !is_read && limited.is_empty() {
        return None;
    }
    let asked = if is_read { &services } else { &limited };
    let declared = |(service, number): &(Arc<Service>, u16)| {
        let port = service.ports.iter().find(|port| port.number == *number);
        port.map_or(Declared::Nothing, ServicePort::declared)
    };
    let inbound = match limited.first().or(services.first()) {
        Some((service, number)) => (itself(service, *number), *number),
        None => (alone(workload, facts.destination.port()), facts.destination.port()),
    };
    Some(Plan {
        declared: asked.iter().map(declared).collect(),
        limited: limited.into_iter().map(|(service, _)| service).collect(),
        inbound,
        guarded,
        // Whoever begins late must not get past those who ask for tokens.
        patience: if asks { sniff::FOREVER } else { sniff::patience(&snapshot) },
    })
}

/// Whether tokens are asked for of those who connect to a workload.
fn asks_for_tokens(worker: &Worker, snapshot: &Snapshot, workload: &Workload) -> bool {
    let authentication = worker.shared.authentication(snapshot);
    !authentication.is_empty()
        && !authentication.of_workload(&workload.namespace, &workload.labels).is_empty()
}

impl Plan {
    /// What makes a difference about the first bytes.
    pub(super) fn wanted(&self) -> Wanted {
        let may_be = self.declared.is_empty() || self.declared.contains(&Declared::Nothing);
        let surely_tls = self.declared.contains(&Declared::Tls);
        let sniffs = !self.is_http();
        Wanted {
            request: sniffs && may_be,
            name: sniffs && self.guarded && (may_be || surely_tls),
            surely_tls: sniffs && surely_tls && !may_be,
        }
    }

    /// Whether what begins like this carries requests.
    pub(super) fn is_for(&self, begins: &Beginning) -> bool {
        self.is_http() || *begins == Beginning::Request
    }

    /// What is known of a connection that carries none.
    pub(super) fn bytes(&self, begins: &Beginning) -> Carries {
        let looked = self.wanted().name;
        if looked { Carries::Bytes(begins.name().map(Arc::from)) } else { Carries::Unread }
    }

    fn is_http(&self) -> bool {
        self.declared.iter().any(|it| matches!(it, Declared::Http | Declared::Http2))
    }
}

/// The services that a pod serves at this port of its own, each with its number there.
fn serving<'s>(
    snapshot: &'s Snapshot,
    workload: &'s Workload,
    own: u16,
) -> impl Iterator<Item = (Arc<Service>, u16)> + 's {
    let ports = workload.services.iter().flat_map(|it| it.ports.iter().map(move |port| (&it.service, *port)));
    let here = ports.filter(move |(_, (_, target))| *target == own);
    here.filter_map(|(key, (number, _))| Some((snapshot.service(key)?.clone(), number)))
}

/// Serves the requests of one connection.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    (pod, facts): (&Arc<LocalPod>, Facts),
    plan: Plan,
    (io, input, origin): (Io, BytesMut, Origin),
) {
    if let Some(tcp) = io.socket() {
        // A connection of requests ends with its last answer, and that is to arrive.
        let _ = sockopt::set_linger_zero(tcp, false);
    }
    let facts = Facts { carries: Carries::Requests, ..facts };
    let (inbound, number) = plan.inbound;
    let to = ClusterRef { host: INBOUND.into(), subset: None, port: Some(number) };
    let route = Route { retries: None, ..Route::to(to) };
    let matched = Arc::new(route.unmatched());
    let snapshot = worker.snapshot();
    let source =
        snapshot.workload_by_ip(facts.source_ip).filter(|it| Some(&it.identity) == facts.peer.as_ref());
    let own = snapshot.workload_by_uid(&facts.uid);
    let certificate =
        own.zip(facts.peer.as_ref()).map(|(own, peer)| xfcc::caller(&own.identity, peer).into());
    let shown = own.filter(|_| facts.peer.is_some()).map(|it| it.identity.clone());
    let about = site::Facts {
        source: source.cloned(),
        identity: facts.peer.clone(),
        certificate,
        tls: site::Tls { own: shown, ..origin.tls.clone() },
        ..site::Facts::stranger(origin.client, Some(facts.destination))
    };
    let permits = Rc::<Permits>::default();
    let site = OwnSite {
        worker: Rc::downgrade(worker),
        facts: facts.clone(),
        permits: Rc::clone(&permits),
        number,
        only: (Arc::new(route), matched),
    };
    let caller = Caller {
        worker: Rc::downgrade(worker),
        pod: Arc::clone(pod),
        facts,
        origin,
        inbound,
        services: plan.limited,
        permits,
    };
    // Of one client alone: the application sees each by its own address.
    let engine = Engine::new(
        Rc::new(caller),
        worker.reporter.clone(),
        worker.shared.clone(),
        worker.snapshots(),
        worker.random(),
    );
    let served = Connection { io, input, facts: about, site: Rc::new(site), protocol: None };
    connection(engine, served, worker.drain.clone()).await;
}

/// Permits that requests were given, and that nobody has dialled with yet: most requests find a connection.
#[derive(Default)]
struct Permits(RefCell<Vec<Permit>>);

impl Permits {
    fn put(&self, permit: Permit) {
        let mut all = self.0.borrow_mut();
        if all.len() < MAX_PERMITS {
            all.push(permit);
        }
    }

    fn take(&self) -> Option<Permit> {
        self.0.borrow_mut().pop()
    }
}

/// What stands for the service of a pod at a port that no service leads to.
fn alone(workload: &Workload, number: u16) -> Arc<Service> {
    let entry = Entry { name: Arc::clone(&workload.name), ..Entry::default() };
    let names = (Arc::clone(&workload.namespace), Arc::clone(&workload.name), INBOUND.into());
    Arc::new(Service::of_a_port(names, number, entry))
}

/// A service as the pod itself is one: wherever a client has gone.
fn itself(service: &Service, number: u16) -> Arc<Service> {
    let ports = service.ports.iter().filter(|port| port.number == number);
    let ports = ports.map(|port| ServicePort { tls: None, endpoints: Vec::new(), ..port.clone() }).collect();
    let entry = Entry { name: Arc::clone(&service.name), passthrough: true, ..Entry::default() };
    Arc::new(Service { ports, waypoint: None, entry: Some(Arc::new(entry)), ..service.clone() })
}

/// Whoever talks to one port of a pod.
struct Caller {
    worker: Weak<Worker>,
    pod: Arc<LocalPod>,
    facts: Facts,
    origin: Origin,
    inbound: Arc<Service>,
    /// Those whose limits count.
    services: Vec<Arc<Service>>,
    permits: Rc<Permits>,
}

impl Client for Caller {
    fn key(&self) -> &Arc<str> {
        &self.facts.uid
    }

    fn workload(&self, _: &Snapshot) -> Option<Arc<Workload>> {
        None
    }

    fn providers(&self, authentication: &Authentication) -> Providers {
        let snapshot = self.worker.upgrade().map(|worker| worker.snapshot());
        let workload = snapshot.as_ref().and_then(|it| it.workload_by_uid(&self.facts.uid));
        workload.map(|it| authentication.of_workload(&it.namespace, &it.labels)).unwrap_or_default()
    }

    fn outbound(&self) -> Option<Rc<Engine>> {
        let worker = self.worker.upgrade()?;
        Some(super::super::requests::engine(&worker, &self.pod))
    }

    fn door(&self, limits: &Limits) -> Vec<Arc<Policy>> {
        self.services.iter().flat_map(|service| limits.of_service(service)).cloned().collect()
    }

    fn observed(&self, snapshot: &Snapshot) -> Option<Arc<Workload>> {
        snapshot.workload_by_uid(&self.facts.uid).cloned()
    }

    fn told(&self, snapshot: &Snapshot, all: &Telemetry) -> Arc<Told> {
        let chosen = snapshot.workload_by_uid(&self.facts.uid);
        let chosen = chosen.map(|it| all.rules().of_workload(&it.namespace, &it.labels));
        all.told(chosen.unwrap_or_default(), Side::Server)
    }

    fn inbound(&self) -> Option<Arc<Service>> {
        Some(Arc::clone(&self.inbound))
    }

    fn perspective(&self) -> Perspective {
        Perspective::Destination
    }

    fn dial<'a>(&'a self, _: &'a Dial<'a>) -> LocalBoxFuture<'a, Result<Dialled, DialError>> {
        Box::pin(async move {
            let gone = || DialError::Connect("the node is stopping".to_owned());
            let worker = self.worker.upgrade().ok_or_else(gone)?;
            let facts = self.facts.clone();
            super::held_for_requests(&worker, &self.pod, (facts, self.permits.take()), &self.origin).await
        })
    }
}

/// A port of a pod.
struct OwnSite {
    worker: Weak<Worker>,
    facts: Facts,
    permits: Rc<Permits>,
    number: u16,
    only: Chosen,
}

impl Site for OwnSite {
    fn routes(&self) -> Option<Arc<RouteTable>> {
        None
    }

    fn fallback(&self) -> Option<Chosen> {
        Some(self.only.clone())
    }

    fn wanted(&self, _: &site::Facts) -> Option<SocketAddr> {
        Some(self.facts.destination)
    }

    fn guard(&self) -> Guard {
        match self.ask(Seen::Nothing, &[]) {
            Decision::Allowed(_) => Guard::Later,
            _ => Guard::Now,
        }
    }

    fn decide(&self, _: &site::Facts, seen: Seen<'_>, approved: &[Arc<str>]) -> Decision<Notes> {
        match self.ask(seen, approved) {
            Decision::Allowed(permit) => {
                let notes = permit.notes().clone();
                self.permits.put(permit);
                Decision::Allowed(notes)
            }
            Decision::Denied(denied) => Decision::Denied(denied),
            Decision::NeedsRequest => Decision::NeedsRequest,
            Decision::NeedsExternal(external) => Decision::NeedsExternal(external),
        }
    }

    fn port(&self) -> u16 {
        self.number
    }

    fn clients(&self) -> Clients {
        Clients::Callers
    }
}

impl OwnSite {
    fn ask(&self, seen: Seen<'_>, approved: &[Arc<str>]) -> Decision<Permit> {
        let Some(worker) = self.worker.upgrade() else { return DeniedBy::NotLoaded.into() };
        let snapshot = worker.snapshot();
        match snapshot.workload_by_uid(&self.facts.uid) {
            Some(workload) => self.facts.ask((&snapshot, workload), (seen, approved)),
            None => DeniedBy::UnknownWorkload.into(),
        }
    }
}

/// As many as there are requests at a time on one connection; others use those.
const MAX_PERMITS: usize = 128;
