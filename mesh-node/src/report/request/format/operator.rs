//! Envoy's command operators, as far as there is something to say.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::SystemTime;

use mesh_core::id::SpiffeId;

use super::date;

use crate::report::request::{Flags, RequestFacts, TlsFacts};
use crate::tls::leaf::Part;
use crate::tls::{Agreed, Leaf};

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
    /// Until the answer's head.
    ResponseDuration,
    /// From then on.
    ResponseSendDuration,
    Attempts,
    /// Of the machine, or of the container.
    HostName,
    TraceId,
    /// In a format of its own.
    StartTimeAs(Box<str>),
    /// Nobody here can tell.
    Unknown(Box<str>),
    Address(Endpoint, AddressPart),
    Cluster,
    ServerName,
    RouteName,
    GrpcStatus,
    GrpcStatusNumber,
    /// URIs of the client's certificate, or what it has proven.
    SourceIdentity,
    DestinationIdentity,
    /// What the client was shown.
    OwnIdentity,
    /// What the server was shown.
    SenderIdentity,
    TlsVersion(Side),
    Cipher(Side),
    /// Of the client's certificate.
    Certificate(Part),
    /// When the client's certificate begins or ends to be good, in a format of its own or as times are.
    Validity(Bound, Option<Box<str>>),
    /// The first of up to two headers that is there, cut to a number of bytes.
    Header {
        header: Header,
        or: Option<Header>,
        /// Whether what follows a `?` belongs to it.
        query: bool,
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
    /// Whoever is at the connection's other end, whatever headers say.
    DownstreamDirect,
}

/// What of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressPart {
    Whole,
    Ip,
    Port,
}

/// Towards whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// An end of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Start,
    End,
}

/// A header, or what HTTP/2 makes one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    Method,
    /// The path before a rule rewrote it.
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
    /// Any of the response's trailers, in lower case.
    Trailer(Box<str>),
}

/// What an operator has to say about one request.
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
    /// Written for this request.
    Owned(String),
}

impl Operator {
    /// Whether it is about headers or trailers of the answer, which nobody keeps otherwise.
    pub(super) fn reads_answers(&self) -> bool {
        let reads = |header: &Header| matches!(header, Header::Response(_) | Header::Trailer(_));
        matches!(self, Self::Header { header, or, .. } if reads(header) || or.as_ref().is_some_and(reads))
    }

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
            Self::ResponseDuration => Value::time(facts.until_answer),
            Self::ResponseSendDuration => {
                Value::time(facts.until_answer.map(|until| facts.duration.saturating_sub(until)))
            }
            Self::Attempts => Value::Number(facts.attempts.into()),
            Self::HostName => Value::text(&HOST_NAME),
            Self::TraceId => facts.trace.map_or(Value::Absent, |trace| Value::Owned(format!("{trace:032x}"))),
            Self::StartTimeAs(format) => Value::Owned(date::formatted(format, facts.start)),
            Self::Unknown(_) => Value::Absent,
            Self::Address(endpoint, part) => address(facts, *endpoint, *part),
            Self::Cluster => Value::text(facts.upstream_cluster),
            Self::ServerName => Value::text(facts.sni),
            Self::RouteName => Value::text(facts.route_name),
            Self::GrpcStatus => grpc_status(facts),
            Self::GrpcStatusNumber => number(facts.grpc_status),
            Self::SourceIdentity => match facts.tls.leaf.and_then(|leaf| leaf.says(Part::Uris)) {
                Some(uris) => Value::Owned(uris),
                None => identity(facts.client_identity),
            },
            Self::OwnIdentity => identity(facts.tls.own),
            Self::SenderIdentity => identity(facts.tls.sender),
            Self::TlsVersion(side) => Value::known(facts.tls.of(*side).version()),
            Self::Cipher(side) => Value::known(facts.tls.of(*side).cipher()),
            Self::Certificate(part) => {
                facts.tls.leaf.and_then(|leaf| leaf.says(*part)).map_or(Value::Absent, Value::Owned)
            }
            Self::Validity(bound, format) => validity(facts, *bound, format.as_deref()),
            Self::DestinationIdentity => identity(facts.destination_identity),
            Self::Header { header, or, query, most } => {
                let value = match (header.value(facts), or) {
                    (Value::Absent, Some(or)) => or.value(facts),
                    (value, _) => value,
                };
                if *query { value.cut(*most) } else { value.before_query().cut(*most) }
            }
        }
    }
}

impl Header {
    fn value<'a>(&self, facts: &RequestFacts<'a>) -> Value<'a> {
        let headers = &facts.headers;
        match self {
            Self::Method => Value::text(facts.method),
            Self::OriginalPath => Value::header((headers.request)("x-envoy-original-path")),
            Self::Path => (headers.request)(":path").map_or(Value::text(facts.path), Value::Bytes),
            Self::Authority => {
                (headers.request)(":authority").map_or(Value::text(facts.authority), Value::Bytes)
            }
            Self::ForwardedFor => Value::header(headers.x_forwarded_for),
            Self::UserAgent => Value::header(headers.user_agent),
            Self::RequestId => Value::header(headers.request_id),
            Self::UpstreamServiceTime => {
                facts.upstream_service_time.map_or(Value::Absent, |time| Value::Digits(millis(time)))
            }
            Self::Request(name) => Value::header((headers.request)(name)),
            Self::Response(name) => Value::header((headers.response)(name)),
            Self::Trailer(name) => Value::header((headers.trailer)(name)),
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

    fn known(text: Option<&'a str>) -> Self {
        text.map_or(Self::Absent, Self::text)
    }

    fn header(header: Option<&'a [u8]>) -> Self {
        header.map_or(Self::Absent, Self::Bytes)
    }

    fn time(time: Option<std::time::Duration>) -> Self {
        time.map_or(Self::Absent, |time| Self::Number(millis(time)))
    }

    fn before_query(self) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.split(|byte| *byte == b'?').next().unwrap_or(bytes)),
            other => other,
        }
    }

    fn cut(self, most: usize) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.get(..most).unwrap_or(bytes)),
            other => other,
        }
    }
}

fn address<'a>(facts: &RequestFacts<'a>, endpoint: Endpoint, part: AddressPart) -> Value<'a> {
    let address = match endpoint {
        Endpoint::UpstreamHost => facts.upstream_host,
        Endpoint::UpstreamLocal => facts.upstream_local,
        Endpoint::DownstreamLocal => facts.downstream_local,
        Endpoint::DownstreamRemote => Some(facts.downstream_remote),
        Endpoint::DownstreamDirect => Some(facts.downstream_direct),
    };
    match (address, part) {
        (None, _) => Value::Absent,
        (Some(address), AddressPart::Whole) => Value::Address(address),
        (Some(address), AddressPart::Ip) => Value::Ip(address.ip()),
        (Some(address), AddressPart::Port) => Value::Number(address.port().into()),
    }
}

impl TlsFacts<'_> {
    const fn of(&self, side: Side) -> Agreed {
        match side {
            Side::Client => self.downstream,
            Side::Server => self.upstream,
        }
    }
}

fn validity<'a>(facts: &RequestFacts<'a>, bound: Bound, format: Option<&str>) -> Value<'a> {
    let Some((start, end)) = facts.tls.leaf.and_then(Leaf::validity) else { return Value::Absent };
    let time = if bound == Bound::Start { start } else { end };
    format.map_or(Value::Time(time), |format| Value::Owned(date::formatted(format, time)))
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

/// As the kernel has it, which is the pod's name in Kubernetes. Asked once.
static HOST_NAME: LazyLock<String> = LazyLock::new(|| {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim_end().to_owned()
});

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
