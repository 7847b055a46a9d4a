//! What rules say about what pods send: where they are about requests, connections are opened up on the client's node, as a
//! sidecar would; where they are about connections, those go where rules say; everything else stays as it is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mesh_common::TUNNEL_PORT;
use mesh_core::cluster::{self, BackendTls, ClusterPolicy, Destination, Rules};
use mesh_core::model::{Declared, Service, ServiceKey, ServicePort, Snapshot, Workload};
use mesh_core::route::{self, About, ClusterRef, Route, RouteTable, StreamTable, StreamView};
use mesh_core::telemetry::READ_REQUESTS;
use tokio::net::TcpStream;

use super::revoke::{Carries, Facts};
use super::waypoint::{Missed, Passenger};
use super::{dial, dial::Origin, forwarded, inbound};
use crate::l7::engine::Engine;
use crate::l7::io::Io;
use crate::l7::serve::{Connection, connection};
use crate::l7::site::{self, Chosen, Client, Clients, Dial, DialError, Dialled, LocalBoxFuture, Site};
use crate::l7::{
    limit, logs, outbox, sniff,
    stream::{self, Stream},
};
use crate::redirect::LocalPod;
use crate::report::{ConnReport, Counters, Event, Mail, Told};
use crate::run::drain::Drain;
use crate::run::worker::Worker;
use crate::tunnel::{ConnectRequest, TunnelKey};

pub(super) mod outside;

/// What a data thread has for the requests of one pod.
pub struct PodRequests {
    engine: Rc<Engine>,
    rules: RefCell<HashMap<(Arc<ServiceKey>, u16), Compiled>>,
    /// By port.
    outside: RefCell<HashMap<u16, outside::Known>>,
}

/// The rules of one port of a service, as one version of the configuration has them.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "facts about a port that are independent of each other")]
struct Compiled {
    generation: u64,
    about: About,
    /// What they are compiled for: the client's labels may change.
    workload: Option<Arc<Workload>>,
    table: Option<Arc<RouteTable>>,
    /// Rules for connections whose bytes stay bytes.
    streams: Option<Arc<StreamTable>>,
    /// Whether a DestinationRule or a BackendTLSPolicy is about the service.
    shaped: bool,
    /// Whether its owner wants near endpoints to be preferred.
    distributed: bool,
    /// The TLS that its owner asks for.
    tls: Option<Arc<BackendTls>>,
    /// What of it is limited.
    limited: Limited,
    /// Whether any of its endpoints is asked whether it is well.
    checked: bool,
    /// Whether requests are read so that they can be told about.
    told: bool,
}

/// What may come only so often.
#[derive(Clone, Copy, Default)]
struct Limited {
    requests: bool,
    connections: bool,
}

/// Rules for requests, and rules for bytes.
type Tables = (Option<Arc<RouteTable>>, Option<Arc<StreamTable>>);

impl PodRequests {
    fn new(worker: &Rc<Worker>, pod: &Arc<LocalPod>) -> Rc<Self> {
        let client = PodClient { worker: Rc::downgrade(worker), pod: pod.clone(), key: pod.workload.clone() };
        let engine = Engine::new(
            Rc::new(client),
            worker.reporter.clone(),
            worker.shared.clone(),
            worker.snapshots(),
            worker.random(),
        );
        Rc::new(Self { engine, rules: RefCell::default(), outside: RefCell::default() })
    }

    /// What the pod's requests to a port of a service are judged by.
    fn compiled(&self, snapshot: &Snapshot, service: &Service, port: usize) -> Compiled {
        let number = service.ports.get(port).map_or(0, |port| port.number);
        let key = (Arc::new(service.key()), number);
        let generation = snapshot.config_generation();
        let workload = self.engine.client.workload(snapshot);
        let mut rules = self.rules.borrow_mut();
        let distributed = service.traffic_distribution.is_some();
        let tls = service.ports.get(port).and_then(|port| port.tls.clone());
        let checked = self.engine.checks().concerns(service, port);
        let known = rules.get(&key).filter(|known| {
            same_client(known.workload.as_ref(), workload.as_ref())
                && known.distributed == distributed
                && known.tls == tls
                && known.checked == checked
        });
        if let Some(known) = known.filter(|known| known.generation == generation) {
            return known.clone();
        }
        // Most changes of the configuration are about something else.
        let about = snapshot.virtuals().about(&service.hostname);
        let known = known.filter(|known| known.about.is_same(&about));
        let tables = known.map(|known| (known.table.clone(), known.streams.clone()));
        let workload_told = workload.as_deref().map(|it| self.engine.telemetry().rules().reads_requests(it));
        let compiled = compile(snapshot, workload, (service, tls), (number, about, tables));
        let told = workload_told.unwrap_or(false);
        let compiled = Compiled { limited: self.limited(service), checked, told, ..compiled };
        rules.insert(key, compiled.clone());
        compiled
    }

    fn limited(&self, service: &Service) -> Limited {
        let limits = self.engine.limits();
        let policies = limits.of_service(service);
        Limited {
            requests: policies.iter().any(|it| it.limits_requests()),
            connections: policies.iter().any(|it| it.limits_connections()),
        }
    }
}

/// The engine of what a pod sends.
pub(super) fn engine(worker: &Rc<Worker>, pod: &Arc<LocalPod>) -> Rc<Engine> {
    Rc::clone(&worker.requests(pod, || PodRequests::new(worker, pod)).engine)
}

/// States what a Telemetry says is told about a connection of a pod, and the way to services that are told.
pub(super) fn tell(worker: &Rc<Worker>, pod: &Arc<LocalPod>, report: &ConnReport, told: Option<Arc<Told>>) {
    if told.as_ref().is_some_and(|told| told.tells_of_connections()) {
        report.post(outbox::post(&engine(worker, pod)));
    }
    report.tell(told);
}

/// Has a service of access logs told what the kernel has carried for a pod. One that is gone meanwhile has nobody who could.
pub fn deliver(worker: &Rc<Worker>, mail: Mail) {
    match worker.local_pod(&mail.client) {
        Some(pod) => logs::put(&engine(worker, &pod), &mail.service, mail.entry),
        None => worker.reporter.count(Event::LogUndelivered),
    }
}

/// Whether rules that are compiled for one are good for the other.
fn same_client(one: Option<&Arc<Workload>>, other: Option<&Arc<Workload>>) -> bool {
    same_object(one, other) || one.map(|it| &it.labels) == other.map(|it| &it.labels)
}

fn same_object(one: Option<&Arc<Workload>>, other: Option<&Arc<Workload>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// Makes tables, unless there are some of just that.
fn compile(
    snapshot: &Snapshot,
    workload: Option<Arc<Workload>>,
    (service, tls): (&Service, Option<Arc<BackendTls>>),
    (number, about, tables): (u16, About, Option<Tables>),
) -> Compiled {
    let none = std::collections::BTreeMap::new();
    let namespace: Arc<str> = workload.as_ref().map_or_else(|| "".into(), |it| it.namespace.clone());
    let labels = workload.as_ref().map_or(&none, |it| &it.labels);
    let client = route::Client { namespace: &namespace, labels };
    let (table, streams) = tables.unwrap_or_else(|| {
        let table = RouteTable::for_service(&about, client, number).map(Arc::new);
        (table, StreamTable::for_service(&about, client, number).map(Arc::new))
    });
    let client = cluster::Client { namespace: &namespace, labels };
    let destination = Destination {
        traffic_distribution: service.traffic_distribution,
        tls: tls.as_deref(),
        ..Destination::new(&service.namespace, &service.hostname, number)
    };
    let plain = |rules: &Rules| {
        let policy = cluster::resolve(rules, &client, &destination, None).ok()?;
        Some(ClusterPolicy { rules: Vec::new(), ..policy })
    };
    let shaped = tls.is_some()
        || plain(snapshot.rules()) != plain(&Rules::new(Arc::new(snapshot.rules().defaults().clone())));
    let distributed = service.traffic_distribution.is_some();
    Compiled {
        generation: snapshot.config_generation(),
        about,
        table,
        streams,
        shaped,
        distributed,
        tls,
        workload,
        limited: Limited::default(),
        checked: false,
        told: false,
    }
}

impl Compiled {
    /// Whether requests have to be told apart.
    fn is_about_requests(&self) -> bool {
        self.table.is_some() || self.shaped || self.checked || self.limited.requests || self.told
    }

    /// Whether connections whose bytes stay bytes are not simply sent to the service.
    fn is_about_bytes(&self) -> bool {
        let shaped = self.shaped || self.checked || self.distributed;
        self.streams.is_some() || shaped || self.limited.connections
    }
}

/// Whether no rule is about what a workload sends to a port of a service, so that nobody has to look at it.
pub fn is_plain(snapshot: &Snapshot, workload: &Arc<Workload>, service: &Arc<Service>, port: usize) -> bool {
    let tls = service.ports.get(port).and_then(|port| port.tls.clone());
    if snapshot.configs().next().is_none() {
        return tls.is_none();
    }
    let number = service.ports.get(port).map_or(0, |port| port.number);
    let about = snapshot.virtuals().about(&service.hostname);
    let rules = compile(snapshot, Some(Arc::clone(workload)), (service, tls), (number, about, None));
    !rules.is_about_requests() && !rules.is_about_bytes()
}

/// What a connection turns out to be.
pub(super) enum Kind {
    /// Bytes.
    Bytes(TcpStream),
    /// Bytes that rules are about, where they go, and the server name that their TLS asks for where that says it.
    Routed(TcpStream, Rc<PodRequests>, ClusterRef, Option<Arc<str>>),
    /// Requests, to be served with these rules.
    Requests(TcpStream, Rc<PodRequests>),
}

/// Decides whether a connection to `service.ports[port]` carries requests that rules are about.
pub(super) async fn classify(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    snapshot: &Snapshot,
    (service, port): (&Arc<Service>, usize),
    (tcp, wanted): (TcpStream, SocketAddr),
) -> Kind {
    let asks_for_tls = service.ports.get(port).is_some_and(|port| port.tls.is_some());
    let is_simple = service.traffic_distribution.is_none() && !service.is_dynamic();
    let is_labelled =
        snapshot.workload_by_uid(&pod.workload).is_some_and(|it| it.labels.contains_key(READ_REQUESTS));
    if snapshot.configs().next().is_none() && is_simple && !asks_for_tls && !is_labelled {
        return Kind::Bytes(tcp);
    }
    let requests = worker.requests(pod, || PodRequests::new(worker, pod));
    let rules = requests.compiled(snapshot, service, port);
    let declared = service.ports.get(port).map_or(Declared::Tcp, ServicePort::declared);
    let is_http = matches!(declared, Declared::Http | Declared::Http2);
    let may_be_tls = matches!(declared, Declared::Tls | Declared::Nothing);
    let wanted_of = sniff::Wanted {
        request: rules.is_about_requests() && declared == Declared::Nothing,
        name: (service.is_dynamic() || rules.streams.as_ref().is_some_and(|rules| rules.asks_for_names()))
            && may_be_tls,
        surely_tls: declared == Declared::Tls,
    };
    let begins = sniff::beginning(&tcp, wanted_of, sniff::patience(snapshot)).await;
    if rules.is_about_requests() && (is_http || begins == sniff::Beginning::Request) {
        return Kind::Requests(tcp, requests);
    }
    if !rules.is_about_bytes() && !service.is_dynamic() {
        return Kind::Bytes(tcp);
    }
    let view = StreamView { server_name: begins.name(), destination: wanted.ip() };
    let route = rules.streams.as_ref().and_then(|rules| rules.pick(&view));
    let to = match route {
        Some(route) => route.forward.choose(requests.engine.random()).to.clone(),
        None => own_cluster(service, port),
    };
    let name = begins.name().filter(|_| service.is_dynamic()).map(Arc::from);
    Kind::Routed(tcp, requests, to, name)
}

/// A port of a service that is declared as HTTP: rules about its requests may come.
#[derive(Debug, Clone)]
pub(super) struct HttpPort {
    service: ServiceKey,
    number: u16,
}

impl HttpPort {
    /// `None` if the port carries bytes, or may.
    pub(super) fn of(service: &Service, port: usize) -> Option<Self> {
        let port = service.ports.get(port)?;
        let http = matches!(port.declared(), Declared::Http | Declared::Http2);
        http.then(|| Self { service: service.key(), number: port.number })
    }
}

/// Resolves when a connection that was opened before any rule was about its requests should be opened anew: such rules
/// have come, and nothing is under way, as far as can be seen; at the latest when Envoy would end it.
pub(super) async fn overruled(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    port: &HttpPort,
    counters: &Counters,
) {
    let mut snapshots = worker.snapshots();
    let mut seen = None;
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let generation = Some(snapshot.config_generation());
        if seen != generation && port.is_ruled(worker, pod, &snapshot) {
            break;
        }
        seen = generation;
        drop(snapshot);
        if snapshots.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
    let _ = tokio::time::timeout(stream::DRAIN_TIME, settled(counters)).await;
}

/// Resolves when no byte has come through for [`QUIET`] and the last ones were the server's: what was asked is answered.
async fn settled(counters: &Counters) {
    let carried = || (counters.sent.load(Ordering::Relaxed), counters.received.load(Ordering::Relaxed));
    let (mut before, mut quiet) = (carried(), 0);
    let mut answered = before.0 == 0 || before.1 > 0;
    while quiet < LOOKS || !answered {
        tokio::time::sleep(QUIET / LOOKS).await;
        let now = carried();
        if now != before {
            answered = now.1 > before.1;
        }
        quiet = if now == before { quiet.saturating_add(1) } else { 0 };
        before = now;
    }
}

impl HttpPort {
    fn is_ruled(&self, worker: &Rc<Worker>, pod: &Arc<LocalPod>, snapshot: &Snapshot) -> bool {
        let Some(service) = snapshot.service(&self.service) else { return false };
        let port = service.ports.iter().position(|port| port.number == self.number);
        let requests = worker.requests(pod, || PodRequests::new(worker, pod));
        port.is_some_and(|port| requests.compiled(snapshot, service, port).is_about_requests())
    }
}

/// Without a byte for so long, nothing is under way.
const QUIET: Duration = Duration::from_millis(200);
/// Looks in that time.
const LOOKS: u32 = 4;

/// The service itself, whatever rules say.
fn own_cluster(service: &Service, port: usize) -> ClusterRef {
    let number = service.ports.get(port).map(|port| port.number);
    ClusterRef { host: Arc::clone(&service.hostname), subset: None, port: number }
}

/// Carries a connection whose bytes stay bytes to where it goes.
pub(super) async fn carry(
    requests: &PodRequests,
    (source, number): (&Arc<Workload>, u16),
    (tcp, client, wanted): (TcpStream, SocketAddr, SocketAddr),
    ((to, sni), report, drain): ((ClusterRef, Option<Arc<str>>), &ConnReport, &Drain),
) {
    let facts = site::Facts { sni, ..facts(source, client, wanted) };
    let stream = Stream { io: tcp.into(), early: Bytes::new(), facts, to, asked: number, sealed: false };
    stream::carry(&requests.engine, stream, report, drain).await;
}

fn facts(source: &Arc<Workload>, client: SocketAddr, wanted: SocketAddr) -> site::Facts {
    site::Facts {
        source: Some(Arc::clone(source)),
        identity: Some(source.identity.clone()),
        ..site::Facts::stranger(client, Some(wanted))
    }
}

/// Serves the requests of one connection to a service.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    requests: Rc<PodRequests>,
    source: &Arc<Workload>,
    (service, port): (Arc<Service>, usize),
    opened: (TcpStream, SocketAddr, SocketAddr),
) {
    let number = service.ports.get(port).map_or(0, |port| port.number);
    let fallback = chosen(Route::by_default(
        own_cluster(&service, port),
        requests.engine.snapshot().virtuals().settings(),
    ));
    let engine = Rc::clone(&requests.engine);
    if let Err(over) = limit::to_service(&engine, &service, &facts(source, opened.1, opened.2)) {
        return tracing::debug!(client = %opened.1, %over, "Closed a connection that is one too many.");
    }
    let site =
        Rc::new(ServiceSite { requests, key: service.key(), number, fallback, known: RefCell::default() });
    serve_at(worker, engine, source, site, opened).await;
}

/// Serves the requests of one connection.
async fn serve_at(
    worker: &Rc<Worker>,
    engine: Rc<Engine>,
    source: &Arc<Workload>,
    site: Rc<dyn Site>,
    (tcp, client, wanted): (TcpStream, SocketAddr, SocketAddr),
) {
    let facts = facts(source, client, wanted);
    let served = Connection { io: Io::Tcp(tcp), input: BytesMut::new(), facts, site, protocol: None };
    connection(engine, served, worker.drain.clone()).await;
}

/// A rule that no match leads to.
fn chosen(route: Route) -> Chosen {
    let matched = Arc::new(route.unmatched());
    (Arc::new(route), matched)
}

/// The port of a service that a connection was made to.
struct ServiceSite {
    requests: Rc<PodRequests>,
    key: ServiceKey,
    number: u16,
    fallback: Chosen,
    /// The rules as they were last, and what they were compiled for.
    known: RefCell<Option<Compiled>>,
}

impl Site for ServiceSite {
    fn routes(&self) -> Option<Arc<RouteTable>> {
        let engine = &self.requests.engine;
        let snapshot = engine.snapshot();
        let generation = snapshot.config_generation();
        let workload = engine.client_workload();
        if let Some(known) = &*self.known.borrow()
            && known.generation == generation
            && same_object(known.workload.as_ref(), workload.as_ref())
        {
            return known.table.clone();
        }
        let service = snapshot.service(&self.key)?;
        let port = service.ports.iter().position(|port| port.number == self.number)?;
        let compiled = self.requests.compiled(&snapshot, service, port);
        let table = compiled.table.clone();
        *self.known.borrow_mut() = Some(Compiled { workload, ..compiled });
        table
    }

    fn fallback(&self) -> Option<Chosen> {
        Some(self.fallback.clone())
    }

    fn port(&self) -> u16 {
        self.number
    }

    fn clients(&self) -> Clients {
        Clients::Own
    }
}

/// A pod of this node, as whom requests are sent on.
struct PodClient {
    worker: Weak<Worker>,
    pod: Arc<LocalPod>,
    key: Arc<str>,
}

impl Client for PodClient {
    fn key(&self) -> &Arc<str> {
        &self.key
    }

    fn workload(&self, snapshot: &Snapshot) -> Option<Arc<Workload>> {
        snapshot.workload_by_uid(&self.key).cloned()
    }

    fn dial<'a>(&'a self, to: &'a Dial<'a>) -> LocalBoxFuture<'a, Result<Dialled, DialError>> {
        Box::pin(self.open(to))
    }
}

impl PodClient {
    async fn open(&self, to: &Dial<'_>) -> Result<Dialled, DialError> {
        let gone = || DialError::Connect("the node is stopping".to_owned());
        let worker = self.worker.upgrade().ok_or_else(gone)?;
        let source = self.workload(to.snapshot);
        let source =
            source.ok_or_else(|| DialError::Denied("the pod is not in the configuration".to_owned()))?;
        let addr = to.endpoint.addr;
        if let Some((waypoint, wanted)) = to.through() {
            let client = self.own_address(addr);
            let passenger = Passenger { worker: &worker, pod: &self.pod, source: &source, client };
            let stream = passenger.ride(to.snapshot, waypoint, wanted, |_| ()).await;
            let stream = stream.map_err(|missed| match missed {
                Missed::NoWay(none) => DialError::Connect(none.to_string()),
                Missed::Identity(reason) => DialError::Tls(reason),
                Missed::Tunnel(error) => error.into(),
            })?;
            return Ok(Dialled { io: stream.into(), encrypted: true, held: None });
        }
        match &to.endpoint.workload {
            Some(workload) if workload.accepts_tunnel() => match worker.local_pod(&workload.uid) {
                Some(pod) => self.open_local(&worker, &source, &pod, addr).await,
                None => self.open_tunnel(&worker, &source, workload, addr).await,
            },
            _ => {
                let permit = to.snapshot.permit_egress(&source, addr, &to.target());
                let permit = permit.map_err(|denied| DialError::Denied(denied.to_string()))?;
                let tcp = dial::outside(&worker, &self.pod, permit).await;
                let tcp = tcp.map_err(|error| DialError::Connect(error.to_string()))?;
                Ok(Dialled { io: Io::Tcp(tcp), encrypted: false, held: None })
            }
        }
    }

    fn own_address(&self, to: SocketAddr) -> SocketAddr {
        let own = self.pod.ips.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).or(self.pod.ips.first());
        SocketAddr::new(own.copied().unwrap_or_else(|| to.ip()), 0)
    }

    /// Same node: as a connection of bytes, and cut like one when policy changes.
    async fn open_local(
        &self,
        worker: &Rc<Worker>,
        source: &Arc<Workload>,
        pod: &Arc<LocalPod>,
        to: SocketAddr,
    ) -> Result<Dialled, DialError> {
        let client = self.own_address(to);
        let facts = Facts {
            uid: pod.workload.clone(),
            peer: Some(source.identity.clone()),
            source_ip: client.ip(),
            destination: to,
            carries: Carries::Unread,
        };
        let origin = Origin { pod: Some(Arc::clone(&self.pod)), ..Origin::elsewhere(client) };
        inbound::held(worker, pod, facts, origin).await
    }

    /// Another node: a stream of a tunnel from this pod to that one.
    async fn open_tunnel(
        &self,
        worker: &Rc<Worker>,
        source: &Arc<Workload>,
        workload: &Arc<Workload>,
        to: SocketAddr,
    ) -> Result<Dialled, DialError> {
        let svid = worker.svid(&source.identity).await.map_err(DialError::Tls)?;
        let address = SocketAddr::new(to.ip(), TUNNEL_PORT);
        let key = TunnelKey {
            source_pod: self.pod.workload.clone(),
            source: source.identity.clone(),
            destination: workload.identity.clone(),
            address,
        };
        let forwarded = forwarded::value(self.own_address(to));
        let request = ConnectRequest { forwarded, ..ConnectRequest::new(to) };
        let dial = async || dial::tunnel(worker, &self.pod, address).await;
        let stream = worker.pool.open(&key, dial, svid, &request).await?;
        Ok(Dialled { io: stream.into(), encrypted: true, held: None })
    }
}
