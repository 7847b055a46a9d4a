//! Requests and responses as the engine sees them, whatever protocol they came by.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use mesh_core::authn::Claims;
use mesh_core::trace::TraceWord;

use super::h1::{self, Authority, Framing, Refused, Target, Upgrade, X_B3_SAMPLED};

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Whether the client used TLS.
    pub secure: bool,
    /// Host and port as the client wrote them. `None` in HTTP/1.0 only.
    pub authority: Option<Authority>,
    /// Path and query.
    pub target: Target,
    /// Who sent it, where a proxy that is trusted says so.
    pub client: Option<IpAddr>,
    /// What the client speaks.
    pub version: Version,
    /// All but `Host`, what belongs to one connection, and what [`TraceWord::is_behind`]. A `Content-Length` is equal to the framing.
    pub headers: HeaderMap,
    /// What comes after the head; never [`Framing::Close`].
    pub framing: Framing,
    /// The protocol that the client would like to speak instead; also what an extended CONNECT asks for.
    pub upgrade: Option<Upgrade>,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// What its token says, if it has one that was accepted.
    pub claims: Option<Arc<Claims>>,
    /// What it says of the trace that it is part of.
    pub trace: TraceWord,
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// All but what belongs to one connection.
    pub headers: HeaderMap,
    /// What comes after the head.
    pub framing: Framing,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<Upgrade>,
}

/// A part of a body.
#[derive(Debug)]
pub enum Piece {
    /// Some bytes; not empty.
    Data(Bytes),
    /// The end, with trailers if there are any.
    End(Option<HeaderMap>),
}

/// How a connection, or a stream of one, broke.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Broken {
    /// The socket or the tunnel under it.
    #[error("{0}")]
    Io(String),
    /// It ended where it must not.
    #[error("the connection was closed {0}")]
    Closed(&'static str),
    /// The stream was reset; nothing was done with the request if the code is `REFUSED_STREAM`.
    #[error("the stream was reset ({0})")]
    Reset(h2::Reason),
    /// What came is no HTTP, or not HTTP that is let through.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// What came is no HTTP/2, or more of it than anybody may send.
    #[error("{0}")]
    Protocol(String),
    /// A body that is not as long as its head says.
    #[error("{0}")]
    Length(#[from] h1::EncodeError),
    /// A body that is longer than it may be.
    #[error("the body is longer than a limit allows")]
    TooLong,
    /// Nothing came for too long.
    #[error("timed out {0}")]
    TimedOut(&'static str),
    /// The time that the rule gives is over.
    #[error("the request took longer than its rule allows")]
    Overdue,
}

impl Version {
    /// As access logs write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

impl RequestHead {
    /// What stands for a request that could not be read, where it is reported.
    pub fn unread(version: Version, secure: bool) -> Self {
        Self {
            method: Method::from_bytes(b"-").unwrap_or_default(),
            secure,
            authority: None,
            target: Target::unread(),
            client: None,
            version,
            headers: HeaderMap::new(),
            framing: Framing::None,
            upgrade: None,
            expects_continue: false,
            claims: None,
            trace: TraceWord::Nothing,
        }
    }

    /// Puts all that came among the headers, for those who ask about them by names that are not known here.
    pub fn complete(&mut self) {
        if self.trace == TraceWord::Untraced {
            self.trace = TraceWord::Any;
            self.headers.append(X_B3_SAMPLED, HeaderValue::from_static("0"));
        }
    }

    /// Whether what follows the head is no message: a CONNECT, or another protocol.
    pub fn leaves_http(&self) -> bool {
        self.method == Method::CONNECT || self.upgrade.is_some()
    }

    /// Whether this is a gRPC call.
    pub fn is_grpc(&self) -> bool {
        self.headers.get(http::header::CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()))
    }
}

/// `application/grpc`, alone or with a format after it.
pub fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// The status of a gRPC call that an answer's head, or its trailers, tell.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason),
            // The stack says this of streams that the peer's GOAWAY leaves out, and of those that were to begin after it.
            Some(_) if error.is_go_away() && error.is_remote() => Self::Reset(h2::Reason::REFUSED_STREAM),
            Some(_) if error.is_go_away() && error.is_library() => Self::Protocol(error.to_string()),
            _ if error.get_io().is_some_and(|it| it.kind() == std::io::ErrorKind::InvalidData) => {
                Self::Protocol(error.to_string())
            }
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<h1::Version> for Version {
    fn from(version: h1::Version) -> Self {
        match version {
            h1::Version::Http10 => Self::Http10,
            h1::Version::Http11 => Self::Http11,
        }
    }
}

/// Looked for in every answer: a name that is read anew each time costs four times as much.
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
