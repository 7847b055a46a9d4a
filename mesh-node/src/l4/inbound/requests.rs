//! Requests to a pod that are told apart where they arrive: those from outside the mesh, where a service of the pod limits
//! requests, and all of them where tokens are asked for.
//!
//! Whoever is in the mesh is counted on its own side, at its node, a waypoint or a gateway; a stranger has nobody there. Tokens
//! are asked for by the node of the pod that they are shown to, whoever shows them. Everything else that comes stays bytes.

use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mesh_core::authn::{Authentication, Providers};
use mesh_core::limit::{Limits, Policy};
use mesh_core::model::{Declared, Entry, Exported, Families, Service, ServicePort, Snapshot, Workload};
use mesh_core::route::{ClusterRef, Route, RouteTable};
use tokio::net::TcpStream;

use super::super::revoke::Facts;
use crate::l7::engine::Engine;
use crate::l7::io::Io;
use crate::l7::serve::{Connection, connection};
use crate::l7::site::{self, Chosen, Dial, DialError, Dialled, INBOUND, LocalBoxFuture, Site};
use crate::l7::sniff;
use crate::redirect::LocalPod;
use crate::report::Perspective;
use crate::run::worker::Worker;
use crate::sys::sockopt;
use crate::tunnel::Incoming;

/// The services that requests at a port of a pod are for; `None` where there is none, and what it is called there.
pub(super) struct Asked(Vec<(Arc<Service>, u16)>);

/// What is known of a port before any byte has come.
enum Speaks {
    /// Requests.
    Http(Asked),
    /// Whatever the first bytes are, which are waited for so long.
    Unknown(Asked, Duration),
    /// Nothing that is looked at.
    Bytes,
}

/// Whether tokens are asked for of those who connect to a workload.
pub(in crate::l4) fn asks_for_tokens(worker: &Worker, snapshot: &Snapshot, workload: &Workload) -> bool {
    let authentication = worker.shared.authentication(snapshot);
    !authentication.is_empty()
        && !authentication.of_workload(&workload.namespace, &workload.labels).is_empty()
}

/// Whether a connection of a stranger carries requests that somebody limits, or asks for tokens of. One that policy refuses does
/// not: who refuses it says so.
pub(super) async fn asked(worker: &Worker, facts: &Facts, tcp: &TcpStream) -> Option<Asked> {
    let snapshot = worker.snapshot();
    let limits = worker.shared.limits(&snapshot);
    let limited = |service: &Service| limits.of_service(service).iter().any(|it| it.limits_requests());
    match speaks(worker, &snapshot, facts, limited) {
        Speaks::Http(asked) => Some(asked),
        Speaks::Unknown(asked, patience) => {
            let begins = sniff::beginning(tcp, SNIFFED, patience).await;
            (begins == sniff::Beginning::Request).then_some(asked)
        }
        Speaks::Bytes => None,
    }
}

/// What comes to a port, as far as requests there are `limited`, or tokens are asked for.
fn speaks(worker: &Worker, snapshot: &Snapshot, facts: &Facts, limited: impl Fn(&Service) -> bool) -> Speaks {
    let Some(workload) = snapshot.workload_by_uid(&facts.uid) else { return Speaks::Bytes };
    let tokens = asks_for_tokens(worker, snapshot, workload);
    let services = serving(snapshot, workload, facts.destination.port());
    let (limited, all): (Vec<_>, Vec<_>) = services.partition(|(service, _)| limited(service));
    if limited.is_empty() && !tokens {
        return Speaks::Bytes;
    }
    if snapshot.policies().authorize(workload, &facts.connection()).is_err() {
        return Speaks::Bytes;
    }
    let declared = |(service, number): &(Arc<Service>, u16)| {
        let port = service.ports.iter().find(|port| port.number == *number);
        port.map_or(Declared::Nothing, ServicePort::declared)
    };
    let asked: Vec<_> = limited.into_iter().chain(all.into_iter().filter(|_| tokens)).collect();
    let declared: Vec<_> = asked.iter().map(declared).collect();
    if declared.iter().any(|it| matches!(it, Declared::Http | Declared::Http2)) {
        return Speaks::Http(Asked(asked));
    }
    if !declared.is_empty() && !declared.contains(&Declared::Nothing) {
        return Speaks::Bytes;
    }
    // Whoever begins late must not get past those who ask for tokens.
    let patience = if tokens { FOREVER } else { sniff::patience(snapshot) };
    Speaks::Unknown(Asked(asked), patience)
}

/// Serves a stream of a tunnel, if it may carry requests that are asked for tokens; gives it back otherwise.
pub(super) async fn tunnelled(
    worker: &Rc<Worker>,
    (pod, facts): (&Arc<LocalPod>, &Facts),
    incoming: Incoming,
    client: SocketAddr,
) -> Option<Incoming> {
    let snapshot = worker.snapshot();
    let (asked, patience) = match speaks(worker, &snapshot, facts, |_| false) {
        Speaks::Http(asked) => (asked, None),
        Speaks::Unknown(asked, patience) => (asked, Some(patience)),
        Speaks::Bytes => return Some(incoming),
    };
    // If the client has gone meanwhile, nobody is waiting.
    let Ok(stream) = incoming.accept() else { return None };
    let (mut io, mut input) = (Io::from(stream), BytesMut::new());
    if let Some(patience) = patience {
        let begins = sniff::read_beginning(&mut io, &mut input, SNIFFED, patience).await;
        if begins != sniff::Beginning::Request {
            super::bytes(worker, (pod, facts), (io, input.freeze()), client).await;
            return None;
        }
    }
    let source = snapshot.workload_by_ip(client.ip());
    let source = source.filter(|workload| facts.peer.as_ref() == Some(&workload.identity)).cloned();
    let known = site::Facts {
        source,
        identity: facts.peer.clone(),
        ..site::Facts::stranger(client, Some(facts.destination))
    };
    let connection = Connection { io, input, facts: known, site: site_of(facts, &asked), protocol: None };
    carry(worker, (pod, facts.clone()), asked, connection).await;
    None
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

/// Serves the requests of one connection of a stranger.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    (pod, facts): (&Arc<LocalPod>, Facts),
    asked: Asked,
    (tcp, client): (TcpStream, SocketAddr),
) {
    // A connection of requests ends with its last answer, and that is to arrive.
    let _ = sockopt::set_linger_zero(&tcp, false);
    let known = site::Facts::stranger(client, Some(facts.destination));
    let (io, site) = (Io::Tcp(tcp), site_of(&facts, &asked));
    let connection = Connection { io, input: BytesMut::new(), facts: known, site, protocol: None };
    carry(worker, (pod, facts), asked, connection).await;
}

fn site_of(facts: &Facts, asked: &Asked) -> Rc<OwnSite> {
    let (wanted, number) = (facts.destination, asked.number(facts));
    let to = ClusterRef { host: INBOUND.into(), subset: None, port: Some(number) };
    let route = Route { retries: None, ..Route::to(to) };
    let matched = Arc::new(route.unmatched());
    Rc::new(OwnSite { wanted, number, only: (Arc::new(route), matched) })
}

async fn carry(worker: &Rc<Worker>, (pod, facts): (&Arc<LocalPod>, Facts), asked: Asked, served: Connection) {
    let number = asked.number(&facts);
    let stranger = Client {
        worker: Rc::downgrade(worker),
        pod: Arc::clone(pod),
        address: served.facts.peer,
        inbound: asked.0.first().map_or_else(|| nobodys(number), |(service, _)| itself(service, number)),
        // Whoever has proven who it is was counted on its own side.
        services: asked.0.into_iter().map(|it| it.0).filter(|_| facts.peer.is_none()).collect(),
        facts,
    };
    // Of one client alone: the application sees each by its own address.
    let engine = Engine::new(
        Rc::new(stranger),
        worker.reporter.clone(),
        worker.shared.clone(),
        worker.snapshots(),
        worker.random(),
    );
    connection(engine, served, worker.drain.clone()).await;
}

impl Asked {
    /// The port that it is called by, where it has a name.
    fn number(&self, facts: &Facts) -> u16 {
        self.0.first().map_or(facts.destination.port(), |(_, number)| *number)
    }
}

/// A port that no service has, as if one had.
fn nobodys(number: u16) -> Arc<Service> {
    let port = ServicePort { number, name: None, app_protocol: None, tls: None, endpoints: Vec::new() };
    let entry = Entry { passthrough: true, ..Entry::default() };
    Arc::new(Service {
        namespace: "".into(),
        name: INBOUND.into(),
        hostname: INBOUND.into(),
        vips: Vec::new(),
        ports: vec![port],
        udp_ports: Vec::new(),
        session_affinity: None,
        local_only: false,
        traffic_distribution: None,
        headless: true,
        publish_not_ready: false,
        families: Families::Any,
        exported: Exported::default(),
        entry: Some(Arc::new(entry)),
        waypoint: None,
    })
}

/// A service as the pod itself is one: wherever a client has gone.
fn itself(service: &Service, number: u16) -> Arc<Service> {
    let ports = service.ports.iter().filter(|port| port.number == number);
    let ports = ports.map(|port| ServicePort { tls: None, endpoints: Vec::new(), ..port.clone() }).collect();
    let entry = Entry { name: Arc::clone(&service.name), passthrough: true, ..Entry::default() };
    Arc::new(Service { ports, waypoint: None, entry: Some(Arc::new(entry)), ..service.clone() })
}

/// Whoever talks to one port of a pod.
struct Client {
    worker: Weak<Worker>,
    pod: Arc<LocalPod>,
    facts: Facts,
    address: SocketAddr,
    inbound: Arc<Service>,
    /// Those whose limits count.
    services: Vec<Arc<Service>>,
}

impl site::Client for Client {
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

    fn door(&self, limits: &Limits) -> Vec<Arc<Policy>> {
        self.services.iter().flat_map(|service| limits.of_service(service)).cloned().collect()
    }

    fn outbound(&self) -> Option<Rc<Engine>> {
        let worker = self.worker.upgrade()?;
        Some(super::super::requests::engine(&worker, &self.pod))
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
            super::held(&worker, &self.pod, self.facts.clone(), self.address).await
        })
    }
}

/// A port of a pod.
struct OwnSite {
    wanted: SocketAddr,
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
        Some(self.wanted)
    }

    fn port(&self) -> u16 {
        self.number
    }

    fn is_edge(&self) -> bool {
        false
    }
}

/// Of what nobody declares.
const SNIFFED: sniff::Wanted = sniff::Wanted { request: true, name: false, surely_tls: false };
/// As Istio waits for the first bytes: a server that speaks first has to be declared where tokens are asked for.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
