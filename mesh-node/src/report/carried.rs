//! A connection in the words of a request, which is how access logs of Envoy's form and services of access logs have both.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::request::{Perspective, RequestFacts, TlsFacts};
use super::{ConnInfo, Direction, Failure, Flag, Flags, Stage, Told};
use crate::l7::site::Tls;
use crate::tls::Agreed;

/// What a gateway or a waypoint knows of a connection that it carries, beside what every proxy does. One that has this is
/// logged as requests are, which is what Istio's gateways and waypoints do; nodes log as Istio's node proxy does.
#[derive(Clone, Debug)]
pub struct Passage {
    local: SocketAddr,
    sni: Option<Arc<str>>,
    cluster: Option<Arc<str>>,
    upstream: Option<SocketAddr>,
    /// The proxy's own address towards the endpoint, and what was agreed on in TLS.
    link: (Option<SocketAddr>, Agreed),
    /// What there is to tell of the client's TLS.
    tls: Tls,
    /// Which policy has refused it, as Envoy states it.
    refused_by: String,
}

impl Passage {
    /// Of a connection to the address `local`, whose client has asked for the server `sni` in TLS.
    pub fn new(local: SocketAddr, sni: Option<Arc<str>>) -> Self {
        let (link, tls, refused_by) = (Default::default(), Tls::default(), String::new());
        Self { local, sni, cluster: None, upstream: None, link, tls, refused_by }
    }

    /// The same with what there is to tell of the client's TLS.
    #[must_use]
    pub fn secured(self, tls: Tls) -> Self {
        Self { tls, ..self }
    }

    /// The cluster that it goes to.
    pub(super) fn set_cluster(&mut self, name: Arc<str>) {
        self.cluster = Some(name);
    }

    /// The endpoint that is tried.
    pub(super) const fn set_upstream(&mut self, addr: SocketAddr) {
        self.upstream = Some(addr);
    }

    /// What there is to tell of the connection to the endpoint.
    pub(super) const fn set_link(&mut self, link: (Option<SocketAddr>, Agreed)) {
        self.link = link;
    }

    /// Which policy has refused it.
    pub(super) fn set_refused_by(&mut self, policy: String) {
        self.refused_by = policy;
    }
}

/// What was carried by a connection that is over.
pub(super) struct Carried<'a> {
    pub(super) info: &'a ConnInfo,
    pub(super) passage: Option<&'a Passage>,
    /// Bytes the local pod has sent, and those it has received.
    pub(super) bytes: (u64, u64),
    pub(super) since: SystemTime,
    pub(super) duration: Duration,
    pub(super) failure: Option<&'a Failure>,
    pub(super) told: Option<&'a Arc<Told>>,
}

impl Carried<'_> {
    /// In the words of a request, of which a connection has only some: bytes are those that the client sent and was sent.
    pub(super) fn as_facts<T>(&self, then: impl FnOnce(&RequestFacts<'_>) -> T) -> T {
        let info = self.info;
        let is_inbound = info.direction == Direction::Inbound;
        let (received, sent) = if is_inbound { (self.bytes.1, self.bytes.0) } else { self.bytes };
        let cluster = self.cluster();
        let flag = self.failure.map_or(Flag::None, |it| it.flag);
        let local = is_inbound.then_some(info.destination.addr);
        let link = self.passage.map(|it| it.link).unwrap_or_default();
        let tls = self.passage.map(|it| &it.tls);
        let sender = match info.direction {
            Direction::Outbound => info.source.workload.as_ref().map(|it| &it.identity),
            Direction::Inbound => None,
            Direction::Through => tls.and_then(|it| it.own.as_ref()),
        };
        then(&RequestFacts {
            reporter: match info.direction {
                Direction::Inbound => Perspective::Destination,
                Direction::Outbound => Perspective::Source,
                Direction::Through => Perspective::Waypoint,
            },
            start: self.since,
            duration: self.duration,
            source: info.source.workload.as_ref(),
            source_identity: info.source.identity.as_ref(),
            client_identity: info.source.identity.as_ref(),
            destination: info.destination.workload.as_ref(),
            destination_identity: info.destination.identity.as_ref(),
            service: info.service.as_ref(),
            pseudo_service: info.pseudo_service,
            encrypted: info.encrypted,
            flags: self.flags(),
            details: if self.passage.is_some() && flag == Flag::NoRoute { NO_ROUTE } else { "" },
            termination_details: match self.passage {
                Some(passage) => &passage.refused_by,
                None => self.failure.map_or("", |it| it.flag.label()),
            },
            upstream_failure: self.failure.map_or("", |it| it.reason.as_str()),
            bytes_received: received,
            bytes_sent: sent,
            upstream_host: self.passage.map_or(Some(info.destination.addr), |it| it.upstream),
            upstream_cluster: &cluster,
            upstream_local: link.0,
            downstream_local: self.passage.map_or(local, |it| Some(it.local)),
            sni: self.passage.and_then(|it| it.sni.as_deref()).unwrap_or_default(),
            told: self.told,
            tls: TlsFacts {
                mutual: self.passage.map_or(info.encrypted, |it| it.tls.leaf.is_some()),
                downstream: tls.map(|it| it.agreed).unwrap_or_default(),
                upstream: link.1,
                leaf: tls.and_then(|it| it.leaf.as_ref()),
                own: tls.and_then(|it| it.own.as_ref()),
                sender: sender.filter(|_| info.encrypted),
            },
            ..RequestFacts::nothing(info.source.addr)
        })
    }

    /// As Envoy calls where a connection goes; which port of a service was asked for a node knows only of services that have one.
    fn cluster(&self) -> Cow<'_, str> {
        if let Some(passage) = self.passage {
            return passage.cluster.as_deref().unwrap_or_default().into();
        }
        let port = self.info.destination.addr.port();
        match (&self.info.service, self.info.pseudo_service) {
            _ if self.info.direction == Direction::Inbound => format!("inbound|{port}||").into(),
            (Some(service), _) => {
                let only = service.ports.first().filter(|_| service.ports.len() == 1);
                format!("outbound|{}||{}", only.map_or(port, |it| it.number), service.hostname).into()
            }
            (None, Some(pseudo)) => pseudo.name().into(),
            (None, None) => "".into(),
        }
    }

    /// The nearest of Envoy's flags. Where all endpoints that may be tried were, Envoy says so of a connection.
    fn flags(&self) -> Flags {
        let Some(failure) = self.failure else { return Flags::NONE };
        match (failure.flag, self.passage.is_some()) {
            (Flag::None | Flag::Deny, _) => Flags::NONE,
            // Of tunnels that do not come about gateways speak as of any connection: here the client has gone first.
            (Flag::Connect, true) if failure.stage == Stage::Connect => Flags::DC,
            (Flag::Connect | Flag::TlsFailure, true) => Flags::UF | Flags::URX,
            (Flag::Connect | Flag::TlsFailure | Flag::H2Failure | Flag::IdentityError, _) => Flags::UF,
            (Flag::NoRoute, _) => Flags::NR,
            (Flag::NoUpstream, _) => Flags::UH,
            (Flag::NoCluster, _) => Flags::NC,
            (Flag::Overflow, _) => Flags::UO,
            (Flag::RateLimited, _) => Flags::RL,
            (Flag::Terminated, _) => Flags::UC,
            (Flag::Drained, _) => Flags::LR,
        }
    }
}

/// Envoy's word for a connection that no rule is about.
const NO_ROUTE: &str = "filter_chain_not_found";
