//! The report of one HTTP request: metrics and a line of the access log, both Istio's.
//!
//! Requests are reported once, when they are over, from borrowed facts. Of the threads that carry requests none waits
//! for another here, and none shares a counter with another: each finds its own through a cache of its own.
//!
//! Invariant: every reported request is in exactly one bucket of each of the three histograms of one label set, and
//! whatever peers say, the number of label sets is bounded.

pub(super) mod attributes;
mod encode;
mod flags;
mod format;
mod labels;
mod series;
mod shape;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::id::SpiffeId;
use mesh_core::model::{Service, Workload};

pub use flags::Flags;
pub use format::{AccessFormat, FormatError};

pub(super) use encode::{append, without_exemplar};
pub(super) use format::Clock;
pub(super) use series::RequestMap;
pub(super) use shape::MAX_VALUE;

use super::{Event, PseudoService, Reporter, Told};
use crate::tls::{Agreed, Leaf};

/// Who reports a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Perspective {
    /// The client's side; a gateway is the client of what is behind it.
    Source,
    /// The server's side.
    Destination,
    /// A proxy in between, for a service.
    Waypoint,
}

impl Perspective {
    /// Every perspective; one's place in it is its discriminant.
    pub const ALL: [Self; 3] = [Self::Source, Self::Destination, Self::Waypoint];

    /// The value of the label `reporter`.
    pub const fn reporter(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Waypoint => "waypoint",
        }
    }
}

/// What is to be told about one HTTP request. Empty texts are unknown ones.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Who reports.
    pub reporter: Perspective,
    /// When the request's first byte was seen.
    pub start: SystemTime,
    /// From then until all was over.
    pub duration: Duration,
    /// The client, if the configuration knows it.
    pub source: Option<&'a Arc<Workload>>,
    /// The *proven* identity of whoever is told of as the client; at a gateway, which sends as itself, its own.
    pub source_identity: Option<&'a SpiffeId>,
    /// The identity that the certificate of the connection's client proves.
    pub client_identity: Option<&'a SpiffeId>,
    /// The server, if one was chosen and the configuration knows it.
    pub destination: Option<&'a Arc<Workload>>,
    /// The server's *proven* identity.
    pub destination_identity: Option<&'a SpiffeId>,
    /// The service that was asked for.
    pub service: Option<&'a Arc<Service>>,
    /// What to say instead if there is no service.
    pub pseudo_service: Option<PseudoService>,
    /// Whether the request travelled under mutual TLS between proxies.
    pub encrypted: bool,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2` or `HTTP/3`.
    pub protocol: &'static str,
    /// The method.
    pub method: &'a str,
    /// The path with its query, as the client sent it.
    pub path: &'a str,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// The status of the response; 0 if none was sent.
    pub code: u16,
    /// The status of a gRPC call, wherever in the response it was.
    pub grpc_status: Option<u32>,
    /// What went wrong, for machines.
    pub flags: Flags,
    /// Who made the response and why, for instance `via_upstream`.
    pub details: &'a str,
    /// Why the client's connection was ended, if the proxy did.
    pub termination_details: &'a str,
    /// Why there is no connection to the server.
    pub upstream_failure: &'a str,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// Bytes of the response's body.
    pub bytes_sent: u64,
    /// Messages of a gRPC request; 0 if nobody has counted.
    pub request_messages: u64,
    /// Messages of a gRPC response; 0 if nobody has counted.
    pub response_messages: u64,
    /// From the request's first byte to the head of the server's answer.
    pub until_answer: Option<Duration>,
    /// How often servers were tried.
    pub attempts: u32,
    /// What `x-envoy-upstream-service-time` says.
    pub upstream_service_time: Option<Duration>,
    /// What the log shows of headers.
    pub headers: RequestHeaderFacts<'a>,
    /// The server's address.
    pub upstream_host: Option<SocketAddr>,
    /// The name of the cluster that was chosen, for instance `outbound|9080|v1|reviews.default.svc.cluster.local`.
    pub upstream_cluster: &'a str,
    /// The proxy's own address towards the server.
    pub upstream_local: Option<SocketAddr>,
    /// The address that the client connected to.
    pub downstream_local: Option<SocketAddr>,
    /// The client's address.
    pub downstream_remote: SocketAddr,
    /// The address of the connection's other end, whoever the client is by headers that are believed.
    pub downstream_direct: SocketAddr,
    /// The server name of the client's TLS handshake.
    pub sni: &'a str,
    /// The name of the route that was taken.
    pub route_name: &'a str,
    /// The trace that it is part of, if it is traced.
    pub trace: Option<u128>,
    /// What Telemetries say is told about it.
    pub told: Option<&'a Arc<Told>>,
    /// What there is to tell of TLS.
    pub tls: TlsFacts<'a>,
}

/// What there is to tell of TLS at both ends.
#[derive(Clone, Copy, Default)]
pub struct TlsFacts<'a> {
    /// Whether the client has proven who it is. On the client's node, which takes connections in plainly, whether they go on
    /// under mutual TLS.
    pub mutual: bool,
    /// What was agreed on with the client.
    pub downstream: Agreed,
    /// What was agreed on with the server.
    pub upstream: Agreed,
    /// The client's certificate.
    pub leaf: Option<&'a Leaf>,
    /// The identity that was shown to the client.
    pub own: Option<&'a SpiffeId>,
    /// The identity that was shown to the server.
    pub sender: Option<&'a SpiffeId>,
}

/// Headers that the log shows, as they were sent.
#[derive(Clone, Copy)]
pub struct RequestHeaderFacts<'a> {
    /// `x-forwarded-for`.
    pub x_forwarded_for: Option<&'a [u8]>,
    /// `user-agent`.
    pub user_agent: Option<&'a [u8]>,
    /// `x-request-id`.
    pub request_id: Option<&'a [u8]>,
    /// Any other header of the request as it was sent on, `:path` and the like among them; only formats of the user's own ask.
    pub request: HeaderLookup<'a>,
    /// Any header of the response; only formats of the user's own ask.
    pub response: HeaderLookup<'a>,
    /// Any of the response's trailers; only formats of the user's own ask.
    pub trailer: HeaderLookup<'a>,
}

/// Finds a header's first value by its name in lower case.
pub type HeaderLookup<'a> = &'a dyn Fn(&str) -> Option<&'a [u8]>;

impl RequestFacts<'_> {
    /// Of something from this address, of which nothing else is known.
    pub fn nothing(peer: SocketAddr) -> Self {
        Self {
            reporter: Perspective::Source,
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            source: None,
            source_identity: None,
            client_identity: None,
            destination: None,
            destination_identity: None,
            service: None,
            pseudo_service: None,
            encrypted: false,
            grpc: false,
            protocol: "",
            method: "",
            path: "",
            authority: "",
            code: 0,
            grpc_status: None,
            flags: Flags::NONE,
            details: "",
            termination_details: "",
            upstream_failure: "",
            bytes_received: 0,
            bytes_sent: 0,
            request_messages: 0,
            response_messages: 0,
            until_answer: None,
            attempts: 0,
            upstream_service_time: None,
            headers: RequestHeaderFacts::NONE,
            upstream_host: None,
            upstream_cluster: "",
            upstream_local: None,
            downstream_local: None,
            downstream_remote: peer,
            downstream_direct: peer,
            sni: "",
            route_name: "",
            trace: None,
            told: None,
            tls: TlsFacts::default(),
        }
    }
}

impl RequestHeaderFacts<'_> {
    /// No header is known.
    pub const NONE: Self = Self {
        x_forwarded_for: None,
        user_agent: None,
        request_id: None,
        request: &|_| None,
        response: &|_| None,
        trailer: &|_| None,
    };
}

impl Reporter {
    /// Reports a request that is over. To be called once for each, by the thread that carried it; never waits.
    pub fn request(&self, facts: &RequestFacts<'_>) {
        if self.requests.record(facts) {
            self.count(Event::LabelOverflow);
        }
        self.log(facts);
    }

    /// Writes a line of the access log, if there is to be one.
    pub(super) fn log(&self, facts: &RequestFacts<'_>) {
        if facts.told.is_none_or(|told| told.logs(facts)) {
            self.access.request(facts);
        }
    }

    /// Whether the log's format has headers or trailers of answers.
    pub fn reads_answers(&self) -> bool {
        self.access.reads_answers()
    }

    /// Logs requests in a format of their own, whether connections are logged or not; with `None` as connections are
    /// (see [`Reporter::set_access_log`]), in Istio's format.
    pub fn set_request_log(&self, format: Option<AccessFormat>) {
        self.access.set_requests(format);
    }
}

#[cfg(test)]
mod log_tests;
#[cfg(test)]
pub(crate) mod tests;
