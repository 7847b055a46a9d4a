//! Requests from outside the mesh to a pod, where a service of it limits requests.
//!
//! Whoever is in the mesh is counted on its own side, at its node, a waypoint or a gateway. A stranger has nobody there, so
//! that its requests are told apart here, where they arrive. Everything else that comes stays bytes.

use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::BytesMut;
use mesh_core::limit::{Limits, Policy};
use mesh_core::model::{Declared, Entry, Service, ServicePort, Snapshot, Workload};
use mesh_core::route::{ClusterRef, Route, RouteTable};
use tokio::net::TcpStream;

use super::super::revoke::Facts;
use crate::l7::engine::Engine;
use crate::l7::io::Io;
use crate::l7::serve::{Connection, connection};
use crate::l7::site::{self, Chosen, Client, Dial, DialError, Dialled, INBOUND, LocalBoxFuture, Site};
use crate::l7::sniff;
use crate::redirect::LocalPod;
use crate::report::Perspective;
use crate::run::worker::Worker;
use crate::sys::sockopt;

/// The services at a port of a pod that limit requests: never none.
pub(super) struct Limited(Vec<(Arc<Service>, u16)>);

/// Whether a connection carries requests that somebody limits. One that policy refuses does not: who refuses it says so.
pub(super) async fn limited(worker: &Worker, facts: &Facts, tcp: &TcpStream) -> Option<Limited> {
    let snapshot = worker.snapshot();
    let limits = worker.shared.limits(&snapshot);
    if limits.is_empty() {
        return None;
    }
    let workload = snapshot.workload_by_uid(&facts.uid)?;
    let services = serving(&snapshot, workload, facts.destination.port());
    let limited =
        services.filter(|(service, _)| limits.of_service(service).iter().any(|it| it.limits_requests()));
    let limited: Vec<_> = limited.collect();
    let declared = |(service, number): &(Arc<Service>, u16)| {
        let port = service.ports.iter().find(|port| port.number == *number);
        port.map_or(Declared::Nothing, ServicePort::declared)
    };
    let declared: Vec<_> = limited.iter().map(declared).collect();
    if limited.is_empty() || snapshot.policies().authorize(workload, &facts.connection()).is_err() {
        return None;
    }
    let is_http = declared.iter().any(|it| matches!(it, Declared::Http | Declared::Http2));
    let may_be = declared.contains(&Declared::Nothing);
    let wanted = sniff::Wanted { request: may_be && !is_http, name: false, surely_tls: false };
    let begins = sniff::beginning(tcp, wanted, sniff::patience(&snapshot)).await;
    (is_http || begins == sniff::Beginning::Request).then_some(Limited(limited))
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
    Limited(services): Limited,
    (tcp, client): (TcpStream, SocketAddr),
) {
    let Some((first, number)) = services.first() else { return };
    // A connection of requests ends with its last answer, and that is to arrive.
    let _ = sockopt::set_linger_zero(&tcp, false);
    let (number, wanted) = (*number, facts.destination);
    let to = ClusterRef { host: INBOUND.into(), subset: None, port: Some(number) };
    let route = Route { retries: None, ..Route::to(to) };
    let matched = Arc::new(route.unmatched());
    let site = Rc::new(OwnSite { wanted, number, only: (Arc::new(route), matched) });
    let stranger = Stranger {
        worker: Rc::downgrade(worker),
        pod: Arc::clone(pod),
        facts,
        address: client,
        inbound: itself(first, number),
        services: services.into_iter().map(|(service, _)| service).collect(),
    };
    // Of one client alone: the application sees each by its own address.
    let engine = Engine::new(
        Rc::new(stranger),
        worker.reporter.clone(),
        worker.shared.clone(),
        worker.snapshots(),
        worker.random(),
    );
    let facts = site::Facts::stranger(client, Some(wanted));
    let served = Connection { io: Io::Tcp(tcp), input: BytesMut::new(), facts, site, protocol: None };
    connection(engine, served, worker.drain.clone()).await;
}

/// A service as the pod itself is one: wherever a client has gone.
fn itself(service: &Service, number: u16) -> Arc<Service> {
    let ports = service.ports.iter().filter(|port| port.number == number);
    let ports = ports.map(|port| ServicePort { tls: None, endpoints: Vec::new(), ..port.clone() }).collect();
    let entry = Entry { name: Arc::clone(&service.name), passthrough: true, ..Entry::default() };
    Arc::new(Service { ports, waypoint: None, entry: Some(Arc::new(entry)), ..service.clone() })
}

/// Whoever is outside, and talks to one port of a pod.
struct Stranger {
    worker: Weak<Worker>,
    pod: Arc<LocalPod>,
    facts: Facts,
    address: SocketAddr,
    inbound: Arc<Service>,
    /// Those whose limits count.
    services: Vec<Arc<Service>>,
}

impl Client for Stranger {
    fn key(&self) -> &Arc<str> {
        &self.facts.uid
    }

    fn workload(&self, _: &Snapshot) -> Option<Arc<Workload>> {
        None
    }

    fn door(&self, limits: &Limits) -> Vec<Arc<Policy>> {
        self.services.iter().flat_map(|service| limits.of_service(service)).cloned().collect()
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
