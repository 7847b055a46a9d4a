//! What the engine is told by whoever runs it: who the clients are, which rules are theirs, how endpoints are reached.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use mesh_core::authn::{Authentication, Providers};
use mesh_core::cluster::Credential;
use mesh_core::id::SpiffeId;
use mesh_core::limit::{Limits, Policy};
use mesh_core::model::{Endpoint, NoWay, Service, Snapshot, Target, Waypoint, Workload};
use mesh_core::own::Own;
use mesh_core::policy::{Decision, Notes, Seen};
use mesh_core::resource::Secret;
use mesh_core::resource::mesh_config::proxy::Topology;
use mesh_core::route::{MatchInfo, Route, RouteTable};
use mesh_core::telemetry::Side;
use tokio::task::JoinHandle;

use super::engine::Engine;
use super::io::Io;
use crate::report::{ConnReport, Flag, Perspective, PseudoService, Telemetry, Told};
use crate::tls::{Agreed, Leaf};
use crate::tunnel;

/// A future on one thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// On whose behalf requests are sent: decides which rules apply and as whom connections are made. Pools and circuit
/// breakers belong to one of these.
pub trait Client {
    /// What tells it from the others of this process; the uid of a pod.
    fn key(&self) -> &Arc<str>;

    /// Its workload, as the configuration has it now.
    fn workload(&self, snapshot: &Snapshot) -> Option<Arc<Workload>>;

    /// What stands between clients and this gateway, where it says so itself and not the mesh for all.
    fn topology(&self) -> Option<Topology> {
        None
    }

    /// Its namespace and labels, by which rules are for it or not.
    fn namespace_and_labels(&self, snapshot: &Snapshot) -> (Arc<str>, BTreeMap<String, String>) {
        let workload = self.workload(snapshot);
        workload.map_or_else(|| ("".into(), BTreeMap::new()), |it| (it.namespace.clone(), it.labels.clone()))
    }

    /// Whether rules may name files of this machine for it: whoever writes rules for a pod must not have the node read, or
    /// sign with, what lies on the node.
    fn reads_files(&self) -> bool {
        false
    }

    /// Who it is, if it is a gateway or a waypoint: limits may be for it.
    fn own(&self) -> Option<Arc<Own>> {
        None
    }

    /// The limits for all that it takes in.
    fn door(&self, limits: &Limits) -> Vec<Arc<Policy>> {
        self.own().map(|own| limits.of_gateway(&own)).unwrap_or_default()
    }

    /// Whose tokens are accepted of all that it takes in.
    fn providers(&self, authentication: &Authentication) -> Providers {
        self.own().map(|own| authentication.of_gateway(&own)).unwrap_or_default()
    }

    /// Who asks services in its stead about what it takes in, if it sends nothing anywhere but to its application.
    fn outbound(&self) -> Option<Rc<Engine>> {
        None
    }

    /// What stands for the service of the application that it takes requests in for; see [`INBOUND`].
    fn inbound(&self) -> Option<Arc<Service>> {
        None
    }

    /// Whose requests are told about; a pod that takes them in has no say in how they are sent.
    fn observed(&self, snapshot: &Snapshot) -> Option<Arc<Workload>> {
        self.workload(snapshot)
    }

    /// What is told about its requests.
    fn told(&self, snapshot: &Snapshot, all: &Telemetry) -> Arc<Told> {
        let (namespace, labels) = self.namespace_and_labels(snapshot);
        all.told(all.rules().of_workload(&namespace, &labels), Side::Client)
    }

    /// Whether what it sends to a service goes through a waypoint, where the service's limits are counted.
    fn passes_on(&self, service: &Service) -> bool {
        service.waypoint.is_some()
    }

    /// Whose view metrics of its requests are.
    fn perspective(&self) -> Perspective {
        Perspective::Source
    }

    /// The Secret of this name that is meant for it, if it is told of any.
    fn secret(&self, _: &Snapshot, _: &str) -> Option<Arc<Secret>> {
        None
    }

    /// What it shows to servers whose owners ask for TLS, by name; `None` if nothing.
    fn certificate(&self, _: &Snapshot) -> Option<Credential> {
        None
    }

    /// Opens a connection to an endpoint, after asking whether it may.
    fn dial<'a>(&'a self, to: &'a Dial<'a>) -> LocalBoxFuture<'a, Result<Dialled, DialError>>;
}

/// The host of the cluster that is the application itself, where requests are taken in for one.
pub const INBOUND: &str = "inbound";

/// Where a connection goes.
#[derive(Debug)]
pub struct Dial<'a> {
    /// The configuration that was decided with.
    pub snapshot: &'a Arc<Snapshot>,
    /// The service whose endpoint it is, and the index of its port.
    pub service: (&'a Arc<Service>, usize),
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// How long the connection may take to stand.
    pub timeout: Duration,
    /// Whether it only asks if the endpoint is well, perhaps at another port than requests go to.
    pub probes: bool,
}

impl Dial<'_> {
    /// What policy is asked about.
    pub fn target(&self) -> Target {
        let (service, port) = self.service;
        match &self.endpoint.workload {
            _ if !self.probes => Target::Service { service: Arc::clone(service), port },
            Some(workload) => Target::Workload { workload: Arc::clone(workload), addr: self.endpoint.addr },
            None => Target::External,
        }
    }

    /// The waypoint that connections to the service go through, and the address that they ask for there.
    pub fn through(&self) -> Option<(&Arc<Waypoint>, Result<SocketAddr, NoWay>)> {
        let (service, port) = self.service;
        service.way(port, self.endpoint.addr.is_ipv4())
    }
}

/// A connection that stands.
#[derive(Debug)]
pub struct Dialled {
    /// Its bytes.
    pub io: Io,
    /// Whether identities were proven at both ends.
    pub encrypted: bool,
    /// What ends with the connection.
    pub held: Option<Held>,
}

/// What is told of a connection to a server, the same for all requests on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// Whether identities were proven at both ends.
    pub encrypted: bool,
    /// Our own address.
    pub local: Option<SocketAddr>,
    /// What was agreed on in TLS, whoever is at the other end.
    pub agreed: Agreed,
}

impl Dialled {
    /// What is told of it. Asks the kernel: once is enough.
    pub fn link(&self) -> Link {
        Link { encrypted: self.encrypted, local: self.io.local(), agreed: self.io.agreed() }
    }
}

/// A task that watches over a connection to a pod of this node, and ends with it; and that end's own report.
#[derive(Debug)]
pub struct Held {
    task: JoinHandle<()>,
    report: Rc<ConnReport>,
}

impl Held {
    /// Ends the task when it is dropped.
    pub fn new(task: JoinHandle<()>, report: Rc<ConnReport>) -> Self {
        Self { task, report }
    }

    /// States that `outbound` is the other end of the connection, where bytes are counted.
    pub fn mirror(&self, outbound: &ConnReport) {
        self.report.mirror(outbound);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// Nobody answered, or not in time.
    #[error("{0}")]
    Connect(String),
    /// TLS, or the identity that it should prove.
    #[error("{0}")]
    Tls(String),
    /// Policy says no.
    #[error("{0}")]
    Denied(String),
}

impl From<tunnel::OpenError> for DialError {
    fn from(error: tunnel::OpenError) -> Self {
        match (error.flag(), error.stage()) {
            (Flag::Deny, _) => Self::Denied(error.to_string()),
            (_, tunnel::Stage::Tls) => Self::Tls(error.to_string()),
            _ => Self::Connect(error.to_string()),
        }
    }
}

/// A rule, and the match that it was chosen by.
pub type Chosen = (Arc<Route>, Arc<MatchInfo>);

/// The listener that a connection came in by.
pub trait Site {
    /// The rules for its requests, as they are now; `None` sends all of them to [`Site::fallback`].
    fn routes(&self) -> Option<Arc<RouteTable>>;

    /// What is done with a request for a host that no rule is about; `None` answers it with 404.
    fn fallback(&self) -> Option<Chosen>;

    /// What stands for the service in the metrics of a request that led to none, by the match that was used.
    fn nobody(&self, _: &Arc<MatchInfo>) -> Option<PseudoService> {
        None
    }

    /// Whether policy is to be asked about requests, by the configuration as it is now.
    fn guard(&self) -> Guard {
        Guard::None
    }

    /// Asks policy about something of this client, by the configuration as it is now. `approved` are the external authorizers
    /// that have nothing against it.
    fn decide(&self, _: &Facts, _: Seen<'_>, _: &[Arc<str>]) -> Decision<Notes> {
        Decision::Allowed(Notes::default())
    }

    /// Whose tokens are accepted here, where that is not the same for all that the client takes in.
    fn providers(&self) -> Option<Rc<Providers>> {
        None
    }

    /// What is told about requests here, where that is not the same for all that the client takes in.
    fn told(&self) -> Option<Arc<Told>> {
        None
    }

    /// The address that a client asked for.
    fn wanted(&self, facts: &Facts) -> Option<SocketAddr> {
        facts.asked()
    }

    /// The port that clients asked for.
    fn port(&self) -> u16;

    /// Who clients are: how far what they say about themselves in headers is believed.
    fn clients(&self) -> Clients;

    /// Whether they are those of a gateway.
    fn is_edge(&self) -> bool {
        self.clients() == Clients::Strangers
    }
}

/// Who the clients of a listener are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Anybody, at a gateway. What they say of themselves is taken away or added to.
    Strangers,
    /// Whoever comes to a pod or a waypoint: of the mesh, whose [`Facts::identity`] is proven, or from outside of it.
    Callers,
    /// The workload on whose behalf requests are sent.
    Own,
}

/// Whether policy is to be asked about the requests of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Never: somebody else asks.
    None,
    /// Not now: there is no policy. There may be one before a request is over.
    Later,
    /// Yes.
    Now,
}

/// One connection of a client.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The client's address.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: Option<SocketAddr>,
    /// The server name it asked for in TLS.
    pub sni: Option<Arc<str>>,
    /// Whether it uses TLS.
    pub secure: bool,
    /// The workload, where the client is a pod of this node.
    pub source: Option<Arc<Workload>>,
    /// Its identity, if it is proven.
    pub identity: Option<SpiffeId>,
    /// What `x-forwarded-client-cert` is to say of its certificate.
    pub certificate: Option<Arc<str>>,
    /// What `x-forwarded-for` says of it, once somebody has asked.
    pub forwarded_for: OnceCell<HeaderValue>,
    /// What there is to tell of its TLS.
    pub tls: Tls,
}

/// What there is to tell of the TLS of a client's connection, where it was opened here.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// What was agreed on.
    pub agreed: Agreed,
    /// The certificate that the client has shown.
    pub leaf: Option<Leaf>,
    /// Whom the client was shown, where that is an identity of the mesh.
    pub own: Option<SpiffeId>,
}

impl Facts {
    /// Of a client of which nothing is known, without TLS.
    pub fn stranger(peer: SocketAddr, local: Option<SocketAddr>) -> Self {
        Self {
            peer,
            local,
            sni: None,
            secure: false,
            source: None,
            identity: None,
            certificate: None,
            forwarded_for: OnceCell::new(),
            tls: Tls::default(),
        }
    }

    /// The address that the client asked for; at a gateway it asks for nothing but the gateway.
    pub fn asked(&self) -> Option<SocketAddr> {
        self.local.filter(|_| self.source.is_some())
    }

    /// The client's address as a header's value.
    pub fn forwarded_for(&self) -> HeaderValue {
        let value = || {
            HeaderValue::from_str(&self.peer.ip().to_canonical().to_string())
                .expect("an address is a header's value")
        };
        self.forwarded_for.get_or_init(value).clone()
    }
}
