//! Envoy's command operators, as far as there is something to say.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use mesh_core::id::SpiffeId;

use crate::report::request::{Flags, RequestFacts};

/// Something that a line can say about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operator {
    StartTime,
    Protocol,
    Code,
    Flags,
    Details,
    TerminationDetails,
    UpstreamFailure,
    BytesReceived,
    BytesSent,
    Duration,
    Address(Endpoint, Part),
    Cluster,
    ServerName,
    RouteName,
    GrpcStatus,
    GrpcStatusNumber,
    SourceIdentity,
    DestinationIdentity,
    /// The first of up to two headers that is there, cut to a number of bytes.
    Header {
        header: Header,
        or: Option<Header>,
        most: usize,
    },
}

/// Whose address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    UpstreamHost,
    UpstreamLocal,
    DownstreamLocal,
    DownstreamRemote,
}

/// What of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Ip,
    Port,
}

/// A header, or what HTTP/2 makes one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    Method,
    /// The path that the client sent.
    OriginalPath,
    /// The path, rewritten if the engine says so.
    Path,
    Authority,
    ForwardedFor,
    UserAgent,
    RequestId,
    UpstreamServiceTime,
    /// Any of the request's, in lower case.
    Request(Box<str>),
    /// Any of the response's, in lower case.
    Response(Box<str>),
}

/// What an operator has to say about one request.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    /// Nothing.
    Absent,
    Time(SystemTime),
    /// A number; in JSON too.
    Number(u64),
    /// A number that is a header's text.
    Digits(u64),
    /// Anything a peer has sent.
    Bytes(&'a [u8]),
    /// A word: spaces in it become underscores.
    Word(&'a str),
    Flags(Flags),
    Address(SocketAddr),
    Ip(IpAddr),
}

impl Operator {
    pub(super) fn value<'a>(&self, facts: &RequestFacts<'a>) -> Value<'a> {
        match self {
            Self::StartTime => Value::Time(facts.start),
            Self::Protocol => Value::text(facts.protocol),
            Self::Code => Value::Number(facts.code.into()),
            Self::Flags => Value::Flags(facts.flags),
            Self::Details => Value::word(facts.details),
            Self::TerminationDetails => Value::word(facts.termination_details),
            Self::UpstreamFailure => Value::text(facts.upstream_failure),
            Self::BytesReceived => Value::Number(facts.bytes_received),
            Self::BytesSent => Value::Number(facts.bytes_sent),
            Self::Duration => Value::Number(millis(facts.duration)),
            Self::Address(endpoint, part) => address(facts, *endpoint, *part),
            Self::Cluster => Value::text(facts.upstream_cluster),
            Self::ServerName => Value::text(facts.sni),
            Self::RouteName => Value::text(facts.route_name),
            Self::GrpcStatus => grpc_status(facts),
            Self::GrpcStatusNumber => number(facts.grpc_status),
            Self::SourceIdentity => identity(facts.source_identity),
            Self::DestinationIdentity => identity(facts.destination_identity),
            Self::Header { header, or, most } => match (header.value(facts), or) {
                (Value::Absent, Some(or)) => or.value(facts).cut(*most),
                (value, _) => value.cut(*most),
            },
        }
    }
}

impl Header {
    fn value<'a>(&self, facts: &RequestFacts<'a>) -> Value<'a> {
        let headers = &facts.headers;
        match self {
            Self::Method => Value::text(facts.method),
            Self::OriginalPath => Value::text(facts.path),
            Self::Path => (headers.request)(":path").map_or(Value::text(facts.path), Value::Bytes),
            Self::Authority => Value::text(facts.authority),
            Self::ForwardedFor => Value::header(headers.x_forwarded_for),
            Self::UserAgent => Value::header(headers.user_agent),
            Self::RequestId => Value::header(headers.request_id),
            Self::UpstreamServiceTime => {
                facts.upstream_service_time.map_or(Value::Absent, |time| Value::Digits(millis(time)))
            }
            Self::Request(name) => Value::header((headers.request)(name)),
            Self::Response(name) => Value::header((headers.response)(name)),
        }
    }
}

impl<'a> Value<'a> {
    /// Empty ones are absent.
    fn text(text: &'a str) -> Self {
        if text.is_empty() { Self::Absent } else { Self::Bytes(text.as_bytes()) }
    }

    fn word(text: &'a str) -> Self {
        if text.is_empty() { Self::Absent } else { Self::Word(text) }
    }

    fn header(header: Option<&'a [u8]>) -> Self {
        header.map_or(Self::Absent, Self::Bytes)
    }

    fn cut(self, most: usize) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.get(..most).unwrap_or(bytes)),
            other => other,
        }
    }
}

fn address<'a>(facts: &RequestFacts<'a>, endpoint: Endpoint, part: Part) -> Value<'a> {
    let address = match endpoint {
        Endpoint::UpstreamHost => facts.upstream_host,
        Endpoint::UpstreamLocal => facts.upstream_local,
        Endpoint::DownstreamLocal => facts.downstream_local,
        Endpoint::DownstreamRemote => Some(facts.downstream_remote),
    };
    match (address, part) {
        (None, _) => Value::Absent,
        (Some(address), Part::Whole) => Value::Address(address),
        (Some(address), Part::Ip) => Value::Ip(address.ip()),
        (Some(address), Part::Port) => Value::Number(address.port().into()),
    }
}

fn identity(identity: Option<&SpiffeId>) -> Value<'_> {
    identity.map_or(Value::Absent, |identity| Value::text(identity.uri()))
}

fn number<'a>(number: Option<u32>) -> Value<'a> {
    number.map_or(Value::Absent, |number| Value::Number(number.into()))
}

fn grpc_status<'a>(facts: &RequestFacts<'a>) -> Value<'a> {
    let place = facts.grpc_status.and_then(|status| usize::try_from(status).ok());
    place
        .and_then(|place| GRPC_STATUSES.get(place))
        .map_or(number(facts.grpc_status), |name| Value::text(name))
}

fn millis(duration: std::time::Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000).saturating_add(duration.subsec_millis().into())
}

/// By number, as Envoy spells them.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
