//! Why a tunnel or a stream failed, in stable tokens.

use std::fmt;
use std::io;
use std::sync::Arc;

use http::StatusCode;

use crate::report::Flag;
use crate::tls::{PeerError, TlsError};

/// How far opening a stream got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// TCP to the tunnel port.
    Dial,
    /// TLS.
    Tls,
    /// HTTP/2 settings.
    H2Handshake,
    /// Waiting for the answer to CONNECT.
    Connect,
}

impl Stage {
    /// A word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Tls => "tls",
            Self::H2Handshake => "h2_handshake",
            Self::Connect => "connect",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why no stream could be opened. Everybody who waited for the same tunnel gets the same answer, hence `Clone`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The tunnel port could not be reached.
    #[error("the tunnel port could not be reached: {0}")]
    Dial(Arc<io::Error>),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(TlsError),
    /// The peer does not speak HTTP/2, or hung up before it had said so.
    #[error("HTTP/2 could not be established: {0}")]
    H2Handshake(Arc<str>),
    /// The peer answered, and not with 200.
    #[error("the peer answered CONNECT with {status}")]
    Refused {
        /// The answer.
        status: StatusCode,
    },
    /// The peer reset the stream instead of answering.
    #[error("the peer reset the stream before it answered ({0})")]
    Reset(Arc<str>),
    /// The peer did not look at it: its tunnel is full, or about to end.
    #[error("the peer takes no more streams on this tunnel")]
    NotTaken,
    /// The tunnel ended before the answer.
    #[error("the tunnel ended before the answer: {0}")]
    TunnelLost(Arc<str>),
    /// A stage took too long.
    #[error("no progress in time ({0})")]
    Deadline(Stage),
    /// The certificate does not belong to the tunnel's source, or has expired.
    #[error("the certificate at hand cannot open this tunnel")]
    Identity,
}

impl OpenError {
    /// Stable token for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dial(_) => "tunnel_unreachable",
            Self::Tls(e) => e.reason(),
            Self::H2Handshake(_) => "h2_handshake_failed",
            Self::Refused { status } if *status == StatusCode::UNAUTHORIZED => "denied_by_peer",
            Self::Refused { status } if *status == StatusCode::SERVICE_UNAVAILABLE => "unavailable_at_peer",
            Self::Refused { .. } => "refused_by_peer",
            Self::Reset(_) | Self::NotTaken => "reset_by_peer",
            Self::TunnelLost(_) => "tunnel_lost",
            Self::Deadline(Stage::Dial) => "tunnel_connect_timeout",
            Self::Deadline(Stage::Tls) => "tls_handshake_timeout",
            Self::Deadline(Stage::H2Handshake) => "h2_handshake_timeout",
            Self::Deadline(Stage::Connect) => "connect_response_timeout",
            Self::Identity => "no_valid_certificate",
        }
    }

    /// The response flag.
    pub fn flag(&self) -> Flag {
        match self {
            Self::Tls(e) => e.flag(),
            Self::Deadline(Stage::Tls) => Flag::TlsFailure,
            Self::H2Handshake(_) | Self::Deadline(Stage::H2Handshake) => Flag::H2Failure,
            Self::Refused { status } if *status == StatusCode::UNAUTHORIZED => Flag::Deny,
            Self::Identity => Flag::IdentityError,
            _ => Flag::Connect,
        }
    }

    /// How far it got.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Dial(_) | Self::Identity => Stage::Dial,
            Self::Tls(_) => Stage::Tls,
            Self::H2Handshake(_) => Stage::H2Handshake,
            Self::Refused { .. } | Self::Reset(_) | Self::NotTaken | Self::TunnelLost(_) => Stage::Connect,
            Self::Deadline(stage) => *stage,
        }
    }

    /// Whether another endpoint may do better. None of the application's bytes have left yet, so trying is safe.
    pub fn retry(&self) -> bool {
        match self {
            Self::Refused { status } => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Identity => false,
            _ => true,
        }
    }
}

/// How a stream broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset it.
    #[error("the stream was reset ({0})")]
    Reset(String),
    /// The tunnel under it is gone.
    #[error("the tunnel is gone: {0}")]
    Lost(String),
}

/// Why serving a tunnel ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The HTTP/2 preface did not arrive in time.
    #[error("the HTTP/2 preface did not arrive in time")]
    PrefaceDeadline,
    /// What arrived first is not HTTP/2.
    #[error("HTTP/2 could not be established: {0}")]
    Handshake(h2::Error),
    /// The peer broke HTTP/2's rules or our limits, or the connection broke.
    #[error("the tunnel failed: {0}")]
    Connection(h2::Error),
    /// The peer broke the rules of `mesh/1`.
    #[error("the tunnel failed: {0}")]
    Protocol(String),
    /// The connection broke.
    #[error("the tunnel failed: {0}")]
    Lost(io::Error),
    /// The peer did not answer a ping.
    #[error("the peer no longer answers")]
    PeerDead,
    /// The peer takes requests back faster than anybody with a purpose.
    #[error("the peer takes back too many requests")]
    ResetFlood,
    /// The peer sends more frames that carry nothing than anybody with a purpose.
    #[error("the peer sends too many frames that carry nothing")]
    Flood,
    /// The drain's deadline passed.
    #[error("the drain's deadline passed")]
    Forced,
    /// What the peer has proven is not accepted any more.
    #[error("the peer is no longer accepted: {0}")]
    Refuted(PeerError),
}

impl ServeError {
    /// Stable token for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PrefaceDeadline => "h2_preface_timeout",
            Self::Handshake(_) => "h2_handshake_failed",
            Self::Connection(e) if e.is_io() => "tunnel_lost",
            Self::Lost(_) => "tunnel_lost",
            Self::Connection(_) => "h2_protocol_error",
            Self::Protocol(_) => "mesh_protocol_error",
            Self::PeerDead => "ping_timeout",
            Self::ResetFlood => "reset_flood",
            Self::Flood => "frame_flood",
            Self::Forced => "drain_deadline",
            Self::Refuted(error) => error.reason(),
        }
    }

    /// The response flag.
    pub fn flag(&self) -> Flag {
        match self {
            Self::PrefaceDeadline | Self::Handshake(_) => Flag::H2Failure,
            _ => Flag::None,
        }
    }
}
