//! HTTP/1.x without sockets: bytes in, heads and pieces of bodies out, and the way back.
//!
//! Two programs that disagree about where a message ends, or whom it is for, are how requests are smuggled past
//! policies. So nothing here is guessed and nothing preferred: a message that can be read in two ways is refused with
//! a [`Reason`], and what is sent on is written anew from what was understood, never copied.
//!
//! Heads are slices of the bytes that arrived: [`parse_request`] and [`parse_response`] allocate for the header map
//! alone, which is handed back in for the next head. Bodies pass through [`BodyDecoder`] and [`BodyEncoder`] as
//! slices, too.

mod body;
mod decode;
mod encode;
mod fields;
mod hop;
mod limits;
mod names;
mod refused;
mod request;
mod response;
mod scan;
mod target;

use http::header::HeaderValue;

pub use body::{BodyEncoder, EncodeError, Frame};
pub use decode::{BodyDecoder, Piece};
pub use encode::{RequestParts, ResponseParts, encode_request, encode_response};
pub use fields::{content_length, judge_underscores, may_trail};
pub use hop::strip_hop_by_hop;
pub use limits::{
    Limits, MAX_FIELDS, MAX_HEAD_BYTES, MAX_LINE_BYTES, MAX_TRAILER_BYTES, MAX_TRAILERS, Underscores,
};
pub(super) use names::X_B3_SAMPLED;
pub use refused::{Reason, Refused, Side};
pub use request::{RequestHead, parse_request};
pub use response::{ResponseHead, ResponseKind, parse_response};
pub use target::{Authority, Scheme, Target, TargetForm};

/// Whether these are the first bytes of HTTP/2 with prior knowledge; `None` if it takes more of them to tell. To be
/// asked before [`parse_request`], which refuses it as a version it does not speak.
pub fn looks_like_h2_preface(bytes: &[u8]) -> Option<bool> {
    if bytes.len() >= H2_PREFACE.len() {
        return Some(bytes.starts_with(H2_PREFACE));
    }
    if H2_PREFACE.starts_with(bytes) { None } else { Some(false) }
}

/// A version of HTTP that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    fn of(minor: Option<u8>) -> Option<Self> {
        match minor? {
            0 => Some(Self::Http10),
            1 => Some(Self::Http11),
            _ => None,
        }
    }
}

/// Where the body of a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// With the connection. Responses only.
    Close,
}

impl Framing {
    /// Whether any byte may follow the head.
    pub const fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// The protocol of an upgrade: one name, with or without a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    protocol: HeaderValue,
}

impl Upgrade {
    /// The protocol as it was written.
    pub const fn protocol(&self) -> &HeaderValue {
        &self.protocol
    }

    /// Whether it is a WebSocket, RFC 6455.
    pub fn is_websocket(&self) -> bool {
        self.protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
    }

    /// What an extended CONNECT of HTTP/2 asks for.
    pub fn named(protocol: &str) -> Option<Self> {
        Self::parse(&HeaderValue::from_str(protocol).ok()?)
    }

    /// One protocol that is not HTTP or TLS. `h2c` would make what follows requests again, which nobody here would
    /// see.
    fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.as_bytes();
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(b);
        let name = text.split(|&b| b == b'/').next()?;
        let is_http =
            [b"h2c".as_slice(), b"h2", b"http", b"tls"].iter().any(|n| name.eq_ignore_ascii_case(n));
        (!name.is_empty() && text.iter().all(is_token) && !is_http).then(|| Self { protocol: value.clone() })
    }
}

/// What a fault found by the tokeniser means; `first_line` is what it means in the first line, where `version` is what
/// stands where the version should.
fn head_error(error: httparse::Error, first_line: Reason, version: &[u8]) -> Reason {
    match error {
        httparse::Error::HeaderName => Reason::FieldName,
        httparse::Error::HeaderValue => Reason::FieldValue,
        httparse::Error::NewLine => Reason::LineEnd,
        httparse::Error::TooManyHeaders => Reason::TooManyFields,
        httparse::Error::Version => match version {
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..] => Reason::Version,
            _ => first_line,
        },
        httparse::Error::Status | httparse::Error::Token => first_line,
    }
}

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests;
