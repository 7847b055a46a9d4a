//! The engine behind a gateway's listeners: requests go to the services of the mesh.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use mesh_common::TUNNEL_PORT;
use mesh_core::authn::{Authentication, Providers};
use mesh_core::cluster::Credential;
use mesh_core::gateway_api::{Resources, client_certificate};
use mesh_core::http::xfcc;
use mesh_core::id::SpiffeId;
use mesh_core::model::{Endpoint, NoWay, Service, Snapshot, Target, Waypoint, Workload};
use mesh_core::own::Own;
use mesh_core::policy::{Decision, Notes, Seen};
use mesh_core::resource::Secret;
use mesh_core::resource::mesh_config::proxy::Topology;
use mesh_core::route::{ClusterRef, RouteTable, StreamView};
use mesh_core::telemetry::Side;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::accepted::{Accepted, Alpn, Facts, HttpConnection, OpaqueConnection, Serve, Thread};
use super::datagrams::{self, Means};
use super::listener::Serving;
use super::policies::EdgePolicies;
use super::tls::ClientCertificate;
use crate::admit::Descriptors;
use crate::identity::IdentityStore;
use crate::l7::authorize::refusal;
use crate::l7::engine::Engine;
use crate::l7::serve::{self, Connection, Protocol};
use crate::l7::shared::Shared;
use crate::l7::site::{self, Chosen, Client, Clients, Dial, DialError, Dialled, Guard, LocalBoxFuture, Site};
use crate::l7::stream::{self, Stream};
use crate::l7::{limit, outbox};
use crate::report::{
    ConnInfo, ConnReport, Direction, Event, Flag, Party, Passage, Perspective, Stage, Telemetry, Told,
};
use crate::run::drain::Drain;
use crate::run::lookup::Lookup;
use crate::sys::sockopt;
use crate::tunnel::{self, ConnectRequest, Pool, TunnelKey};

/// The engine of a process: its data threads share circuit breakers and outliers.
pub(super) fn engine(lookup: Lookup) -> super::Engine {
    let shared = Arc::new(Shared::new(lookup));
    Arc::new(move |thread| on_thread(thread, &shared))
}

fn on_thread(thread: &Thread, shared: &Arc<Shared>) -> Serve {
    let client = Rc::new(EdgeClient::new(thread, Perspective::Source));
    let (reporter, snapshots) = (Arc::clone(&thread.reporter), thread.snapshots.clone());
    reporter.follow_checked(shared);
    let engine = Engine::new(client, reporter, Arc::clone(shared), snapshots, entropy(thread));
    let thread = thread.clone();
    let policies = Rc::<EdgePolicies>::default();
    Rc::new(move |accepted| {
        let (engine, policies) = (Rc::clone(&engine), Rc::clone(&policies));
        if let Accepted::Datagrams(door) = accepted {
            return Box::pin(datagrams::serve(engine, Means::of(&thread), door));
        }
        Box::pin(async move {
            match accepted {
                Accepted::Http(connection) => serve(engine, policies, connection).await,
                Accepted::Opaque(connection) => {
                    let report = report(&engine, &connection.facts);
                    carry(&engine, &policies, (connection, report)).await;
                }
                // Envoy has a line for it too: the connection found no filter chain.
                Accepted::Unserved(facts, reason) => {
                    report(&engine, &facts).fail_as(Stage::Resolve, Flag::NoRoute, reason);
                }
                // There are no doors for these here.
                Accepted::Tunnel(_) | Accepted::Datagrams(_) => {}
            }
        })
    })
}

/// Differs from one thread, and from one start, to the next.
pub(crate) fn entropy(thread: &Thread) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let index = u64::try_from(thread.index).unwrap_or(0);
    index.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ std::hash::RandomState::new().build_hasher().finish()
}

async fn serve(engine: Rc<Engine>, policies: Rc<EdgePolicies>, mut connection: HttpConnection) {
    if let Some(socket) = connection.io.socket() {
        let _ = sockopt::set_nodelay(socket);
    }
    let facts = facts(&connection.facts);
    let _held = match limit::at_door(&engine, &facts) {
        Ok(held) => held,
        Err(over) => {
            return tracing::debug!(peer = %facts.peer, %over, "Closed a connection that is one too many.");
        }
    };
    let protocol = connection.alpn.map(|alpn| match alpn {
        Alpn::H2 => Protocol::Http2,
        Alpn::Http11 => Protocol::Http1,
    });
    let drain = connection.drain.clone();
    let io = std::mem::replace(&mut connection.io, crate::l7::io::Io::Closed);
    let site =
        Rc::new(EdgeSite { connection, known: RefCell::default(), engine: Rc::clone(&engine), policies });
    serve::connection(engine, Connection { io, input: BytesMut::new(), facts, site, protocol }, drain).await;
}

/// The report of a connection whose bytes are nobody's business.
fn report(engine: &Rc<Engine>, facts: &Facts) -> ConnReport {
    let report = engine.reporter.begin(ConnInfo {
        direction: Direction::Outbound,
        source: Party {
            addr: facts.peer,
            identity: facts.client.as_ref().and_then(|client| client.identity.clone()),
            workload: engine.client_workload(),
        },
        destination: Party::unknown(facts.local),
        hbone_addr: None,
        service: None,
        pseudo_service: None,
        encrypted: false,
        datagrams: false,
    });
    let tls = site::Tls { agreed: facts.agreed, leaf: facts.leaf.clone(), own: None };
    report.passes(Passage::new(facts.local, facts.sni.clone()).secured(tls));
    outbox::tell(engine, &report, engine.told());
    report
}

async fn carry(
    engine: &Engine,
    policies: &EdgePolicies,
    (connection, report): (OpaqueConnection, ConnReport),
) {
    let client = facts(&connection.facts);
    let decide = || {
        let seen = Seen::Bytes { server_name: client.sni.as_deref() };
        policies.decide(engine, &client, (seen, &[])).strict()
    };
    match decide() {
        Ok(notes) => engine.reporter.noted(&notes, &client.peer, &connection.facts.local),
        Err(denied) => {
            engine.reporter.denied(&denied, refusal(&client, &denied));
            return report.denied(&denied, &denied);
        }
    }
    let _held = match limit::at_door(engine, &client) {
        Ok(held) => held,
        Err(over) => return report.fail_as(Stage::Policy, Flag::RateLimited, over),
    };
    let mut versions = engine.versions();
    let revoked = async {
        loop {
            if let Err(denied) = decide() {
                break denied;
            }
            if versions.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            versions.borrow_and_update();
        }
    };
    tokio::select! {
        () = carry_allowed(engine, connection, &report) => {}
        denied = revoked => {
            engine.reporter.count(Event::DeniedLater);
            report.denied(&denied, format_args!("cut after a policy change: {denied}"));
        }
    }
}

/// Carries one that policy lets pass.
async fn carry_allowed(engine: &Engine, connection: OpaqueConnection, report: &ConnReport) {
    if let Some(named) = connection.named() {
        let asked = connection.facts.sni.as_deref().unwrap_or("no name");
        // What is not there, or not for this gateway to see, has no filter chain in Istio.
        let found = named.filter(|to| engine.cluster(to, connection.port()).is_ok());
        let Some(to) = found else {
            let reason = format_args!("no service of this gateway is called {asked}");
            return report.fail_as(Stage::Resolve, Flag::NoRoute, reason);
        };
        let (stream, drain) = stream_of(connection, to, true);
        return stream::carry(engine, stream, report, &drain).await;
    }
    let rules = connection.serving().and_then(|(_, served)| served.streams);
    let view =
        StreamView { server_name: connection.facts.sni.as_deref(), destination: connection.facts.local.ip() };
    let Some(route) = rules.as_ref().and_then(|rules| rules.pick(&view)) else {
        let asked = connection.facts.sni.as_deref().unwrap_or("no name");
        let reason = format_args!("no rule is for port {} and {asked}", connection.port());
        return report.fail_as(Stage::Resolve, Flag::NoRoute, reason);
    };
    let to = route.forward.choose(engine.random()).to.clone();
    let (stream, drain) = stream_of(connection, to, false);
    stream::carry(engine, stream, report, &drain).await;
}

/// A connection as the engine carries it, and when it should end.
fn stream_of(connection: OpaqueConnection, to: ClusterRef, sealed: bool) -> (Stream, Drain) {
    let (asked, facts) = (connection.port(), facts(&connection.facts));
    let OpaqueConnection { io, input, drain, .. } = connection;
    (Stream { io, early: input.freeze(), facts, to, asked, sealed }, drain)
}

fn facts(facts: &Facts) -> site::Facts {
    site::Facts {
        peer: facts.peer,
        local: Some(facts.local),
        sni: facts.sni.clone(),
        secure: facts.secure,
        source: None,
        identity: facts.client.as_ref().and_then(|client| client.identity.clone()),
        certificate: facts.client.as_deref().map(forwarded),
        forwarded_for: std::cell::OnceCell::new(),
        tls: site::Tls { agreed: facts.agreed, leaf: facts.leaf.clone(), own: None },
    }
}

/// What `x-forwarded-client-cert` says of a certificate.
fn forwarded(certificate: &ClientCertificate) -> Arc<str> {
    let ClientCertificate { sha256, subject, uris, dns, .. } = certificate;
    xfcc::Certificate { sha256: *sha256, subject, uris, dns }.element().into()
}

/// A server of a Gateway.
struct EdgeSite {
    connection: HttpConnection,
    /// The rules as they were last, and what they were found in.
    known: RefCell<Option<Known>>,
    engine: Rc<Engine>,
    policies: Rc<EdgePolicies>,
}

/// What a listener served, and the rules of one server in it.
type Known = (Arc<Serving>, Option<Arc<RouteTable>>);

impl Site for EdgeSite {
    fn routes(&self) -> Option<Arc<RouteTable>> {
        let mut known = self.known.borrow_mut();
        if let Some((serving, routes)) = &*known
            && self.connection.listener.is_current(serving)
        {
            return routes.clone();
        }
        let (serving, routes) = (self.connection.listener.current(), self.connection.routes());
        *known = Some((serving, routes.clone()));
        routes
    }

    fn fallback(&self) -> Option<Chosen> {
        None
    }

    fn guard(&self) -> Guard {
        self.policies.guard(&self.engine)
    }

    fn decide(&self, facts: &site::Facts, seen: Seen<'_>, approved: &[Arc<str>]) -> Decision<Notes> {
        self.policies.decide(&self.engine, facts, (seen, approved))
    }

    fn port(&self) -> u16 {
        self.connection.port()
    }

    fn clients(&self) -> Clients {
        Clients::Strangers
    }
}

/// The gateway itself, or the waypoint, as whom requests are sent on.
pub(crate) struct EdgeClient {
    key: Arc<str>,
    perspective: Perspective,
    random: Cell<u64>,
    own: watch::Receiver<Arc<Own>>,
    identities: Arc<IdentityStore>,
    tunnels: Pool,
    descriptors: Descriptors,
    shown: RefCell<Option<Shown>>,
}

/// The Secret that Gateways show to servers, in one version of the configuration, to whom.
type Shown = (u64, Arc<Own>, Option<Credential>);

impl Client for EdgeClient {
    fn key(&self) -> &Arc<str> {
        &self.key
    }

    fn workload(&self, snapshot: &Snapshot) -> Option<Arc<Workload>> {
        let own = self.own.borrow().clone();
        let found = snapshot.workloads().find(|it| it.namespace == own.namespace && it.name == own.name);
        found.cloned()
    }

    fn perspective(&self) -> Perspective {
        self.perspective
    }

    fn reads_files(&self) -> bool {
        true
    }

    fn topology(&self) -> Option<Topology> {
        self.own.borrow().topology
    }

    fn own(&self) -> Option<Arc<Own>> {
        Some(self.own.borrow().clone())
    }

    fn providers(&self, authentication: &Authentication) -> Providers {
        let own = self.own.borrow().clone();
        match self.perspective {
            Perspective::Waypoint => authentication.of_waypoint((&own.namespace, &own.name), None),
            _ => authentication.of_gateway(&own),
        }
    }

    fn told(&self, _: &Snapshot, all: &Telemetry) -> Arc<Told> {
        let own = self.own.borrow().clone();
        match self.perspective {
            Perspective::Waypoint => {
                all.told(all.rules().of_waypoint((&own.namespace, &own.name), None), Side::Server)
            }
            _ => all.told(all.rules().of_gateway(&own), Side::Client),
        }
    }

    fn passes_on(&self, service: &Service) -> bool {
        self.perspective != Perspective::Waypoint && service.waypoint.as_ref().is_some_and(|it| it.ingress)
    }

    fn namespace_and_labels(&self, _: &Snapshot) -> (Arc<str>, BTreeMap<String, String>) {
        let own = self.own.borrow();
        (Arc::clone(&own.namespace), own.labels.clone())
    }

    fn secret(&self, snapshot: &Snapshot, name: &str) -> Option<Arc<Secret>> {
        snapshot.credential(&self.own.borrow().namespace, name).cloned()
    }

    fn certificate(&self, snapshot: &Snapshot) -> Option<Credential> {
        let (generation, own) = (snapshot.config_generation(), self.own.borrow().clone());
        let mut shown = self.shown.borrow_mut();
        if let Some((of, to, certificate)) = &*shown
            && *of == generation
            && *to == own
        {
            return certificate.clone();
        }
        let resources = Resources::of(snapshot.configs().map(|config| config.object()));
        let certificate = client_certificate(&resources, &own).map(|name| Credential::Secret(name.into()));
        *shown = Some((generation, own, certificate.clone()));
        certificate
    }

    fn dial<'a>(&'a self, to: &'a Dial<'a>) -> LocalBoxFuture<'a, Result<Dialled, DialError>> {
        Box::pin(self.open(to))
    }
}

impl EdgeClient {
    pub(crate) fn new(thread: &Thread, perspective: Perspective) -> Self {
        Self {
            key: "gateway".into(),
            perspective,
            random: Cell::new(entropy(thread)),
            own: thread.own.clone(),
            identities: Arc::clone(&thread.identities),
            tunnels: Pool::new(tunnel::PoolOptions::default(), thread.drain.clone()),
            descriptors: thread.descriptors,
            shown: RefCell::default(),
        }
    }

    async fn open(&self, to: &Dial<'_>) -> Result<Dialled, DialError> {
        // What comes through a waypoint goes through no other.
        let through = to.through().filter(|_| self.perspective != Perspective::Waypoint);
        if let Some((waypoint, wanted)) = through.filter(|(waypoint, _)| waypoint.ingress) {
            return self.open_through(to.snapshot, waypoint, wanted).await;
        }
        self.reach(to.snapshot, to.endpoint, &to.target()).await
    }

    /// Reaches an endpoint that `target` leads to.
    pub(crate) async fn reach(
        &self,
        snapshot: &Snapshot,
        endpoint: &Endpoint,
        target: &Target,
    ) -> Result<Dialled, DialError> {
        let addr = endpoint.addr;
        match &endpoint.workload {
            Some(workload) if workload.accepts_tunnel() && !addr.ip().is_loopback() => {
                let address = SocketAddr::new(addr.ip(), TUNNEL_PORT);
                self.open_tunnel(snapshot, (workload, address), addr).await
            }
            _ => {
                let permit = snapshot.permit_gateway(addr, target);
                let permit = permit.map_err(|denied| DialError::Denied(denied.to_string()))?;
                let tcp = self.connect(permit.into_destination()).await;
                let tcp = tcp.map_err(|error| DialError::Connect(error.to_string()))?;
                Ok(Dialled { io: tcp.into(), encrypted: false, held: None })
            }
        }
    }

    /// Through one pod of a waypoint; whether another is tried, whoever asks decides.
    async fn open_through(
        &self,
        snapshot: &Snapshot,
        waypoint: &Waypoint,
        wanted: Result<SocketAddr, NoWay>,
    ) -> Result<Dialled, DialError> {
        let closed = |none: NoWay| DialError::Connect(none.to_string());
        let wanted = wanted.map_err(closed)?;
        let mut pods = snapshot
            .way_through(waypoint, wanted.is_ipv4(), self.random())
            .map_err(closed)?
            .iter()
            .filter_map(|pod| Some((pod.workload.as_ref()?, pod.addr)))
            .cycle();
        let skipped = usize::try_from(self.random() % MAX_SKIPPED).unwrap_or(0);
        let pod = pods.nth(skipped);
        let pod = pod.ok_or_else(|| DialError::Connect("no pod of the waypoint is known".to_owned()))?;
        self.open_tunnel(snapshot, pod, wanted).await
    }

    /// As [`Engine::random`].
    fn random(&self) -> u64 {
        let mut x = self.random.get() | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    async fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let tcp = self.descriptors.allow_dial(TcpStream::connect(to).await?)?;
        let _ = sockopt::set_nodelay(&tcp);
        Ok(tcp)
    }

    async fn open_tunnel(
        &self,
        snapshot: &Snapshot,
        (workload, address): (&Arc<Workload>, SocketAddr),
        to: SocketAddr,
    ) -> Result<Dialled, DialError> {
        let own = self.own.borrow().clone();
        let id = SpiffeId::new(snapshot.trust_domain(), &own.namespace, &own.service_account);
        let id = id.map_err(|error| DialError::Tls(error.to_string()))?;
        let svid = self.identities.current(&id);
        let svid = svid.ok_or_else(|| DialError::Tls(format!("this gateway has no certificate for {id}")))?;
        let key = TunnelKey {
            source_pod: Arc::clone(&self.key),
            source: id,
            destination: workload.identity.clone(),
            address,
        };
        let dial = async || self.connect(address).await;
        let stream = self.tunnels.open(&key, dial, svid, &ConnectRequest::new(to)).await?;
        Ok(Dialled { io: stream.into(), encrypted: true, held: None })
    }
}

/// Pods of a waypoint that are passed by at most: one of so many at random is as good as any.
const MAX_SKIPPED: u64 = 64;
