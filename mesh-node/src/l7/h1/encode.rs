//! Heads as they leave.
//!
//! Host, Content-Length, Transfer-Encoding, Connection and Upgrade are written from what they mean; whatever the map
//! has under these names stays behind. Everything else is text that its type has already refused to hold line ends.
//!
//! Neither Date nor Server is added: that is for whoever answers in a server's place.

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};

use super::body::{BodyEncoder, EncodeError};
use super::fields::content_length;
use super::names::X_B3_SAMPLED;
use super::response::{is_bodiless, never_has_length};
use super::target::{Authority, Target};
use super::{Framing, Upgrade, Version};

/// A request to write. It is always HTTP/1.1.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    /// The method.
    pub method: &'a Method,
    /// What is asked for. Absolute form goes out as origin form, since who it is asked of is in `authority`.
    pub target: &'a Target,
    /// What Host says. Without one it is empty, as RFC 9112, section 3.2, asks.
    pub authority: Option<&'a Authority>,
    /// The other fields, stripped of hop-by-hop ones.
    pub headers: &'a HeaderMap,
    /// What follows.
    pub framing: Framing,
    /// `false` asks the server to close the connection.
    pub keep_alive: bool,
    /// The protocol to switch to.
    pub upgrade: Option<&'a Upgrade>,
    /// Whether it says that it is not traced ([`TraceWord::is_behind`](mesh_core::trace::TraceWord::is_behind)).
    pub untraced: bool,
}

/// A response to write.
#[derive(Debug, Clone, Copy)]
pub struct ResponseParts<'a> {
    /// The method of the request, which decides with the status whether a body may follow.
    pub method: &'a Method,
    /// The version of the request. The response is HTTP/1.1 all the same, without chunks for a client of HTTP/1.0.
    pub version: Version,
    /// The status.
    pub status: StatusCode,
    /// The fields, stripped of hop-by-hop ones.
    pub headers: &'a HeaderMap,
    /// What follows.
    pub framing: Framing,
    /// `false` tells the client that the connection is closed afterwards.
    pub keep_alive: bool,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<&'a Upgrade>,
}

/// Writes the head of a request, and returns what frames its body.
pub fn encode_request(parts: &RequestParts<'_>, out: &mut BytesMut) -> Result<BodyEncoder, EncodeError> {
    if parts.framing == Framing::Close {
        return Err(EncodeError::CloseDelimitedRequest);
    }
    out.reserve(HEAD_ESTIMATE);
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(parts.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    if let Some(authority) = parts.authority {
        out.extend_from_slice(authority.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    // Every field is asked: names of another length need no more.
    let is_as_long = |name: &HeaderName| name.as_str().len() == X_B3_SAMPLED.as_str().len();
    let says_so = |name: &HeaderName| parts.untraced && is_as_long(name) && *name == X_B3_SAMPLED;
    put_fields(parts.headers, out, |name| *name != header::HOST && !is_ours(name) && !says_so(name));
    if parts.untraced {
        out.extend_from_slice(b"x-b3-sampled: 0\r\n");
    }
    let te = parts.headers.contains_key(header::TE);
    put_connection(parts.upgrade, !parts.keep_alive, false, te, out);
    let body = match parts.framing {
        Framing::Length(length) => put_length(length, out),
        Framing::Chunked => put_chunked(out),
        Framing::None | Framing::Close => {
            // Without it, servers answer some of these with 411.
            if matches!(*parts.method, Method::POST | Method::PUT | Method::PATCH) {
                put_length(0, out);
            }
            BodyEncoder::EMPTY
        }
    };
    out.extend_from_slice(b"\r\n");
    Ok(body)
}

/// Writes the head of a response, and returns what frames its body. A response that must not have one gets none,
/// whatever the framing, and one that must say so says that its length is 0.
pub fn encode_response(parts: &ResponseParts<'_>, out: &mut BytesMut) -> BodyEncoder {
    out.reserve(HEAD_ESTIMATE);
    put_status(parts.status, out);
    put_fields(parts.headers, out, |name| !is_ours(name));
    let framing = match parts.framing {
        Framing::Chunked if parts.version == Version::Http10 => Framing::Close,
        framing => framing,
    };
    let bodiless = is_bodiless(parts.method, parts.status);
    // What becomes of the connection is for the answer to say, and an interim response is none.
    let interim = parts.status.is_informational();
    let close = !interim && (!parts.keep_alive || (framing == Framing::Close && !bodiless));
    let keep = !interim && !close && parts.version == Version::Http10;
    put_connection(parts.upgrade, close, keep, false, out);
    let body = match framing {
        _ if bodiless => {
            put_declared(parts, out);
            BodyEncoder::EMPTY
        }
        Framing::None => put_length(0, out),
        Framing::Length(length) => put_length(length, out),
        Framing::Chunked => put_chunked(out),
        Framing::Close => BodyEncoder::CLOSE,
    };
    out.extend_from_slice(b"\r\n");
    body
}

/// Writes the fields that `keep` lets through.
pub(super) fn put_fields(headers: &HeaderMap, out: &mut BytesMut, keep: impl Fn(&HeaderName) -> bool) {
    for (name, value) in headers {
        if !keep(name) {
            continue;
        }
        // HTTP/2 lets spaces around a value through, which here belong to nobody.
        let value = value.as_bytes().trim_ascii();
        out.reserve(name.as_str().len() + value.len() + 4);
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether the encoder writes this field itself.
fn is_ours(name: &HeaderName) -> bool {
    matches!(*name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::CONNECTION | header::UPGRADE)
}

fn put_status(status: StatusCode, out: &mut BytesMut) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Connection, with all that belongs into it, and Upgrade.
fn put_connection(upgrade: Option<&Upgrade>, close: bool, keep: bool, te: bool, out: &mut BytesMut) {
    let options = [(upgrade.is_some(), "upgrade"), (close, "close"), (keep, "keep-alive"), (te, "te")];
    let mut separator = "connection: ";
    for (_, option) in options.iter().filter(|(applies, _)| *applies) {
        out.extend_from_slice(separator.as_bytes());
        out.extend_from_slice(option.as_bytes());
        separator = ", ";
    }
    if separator == ", " {
        out.extend_from_slice(b"\r\n");
    }
    if let Some(upgrade) = upgrade {
        out.extend_from_slice(b"upgrade: ");
        out.extend_from_slice(upgrade.protocol().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn put_chunked(out: &mut BytesMut) -> BodyEncoder {
    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    BodyEncoder::CHUNKED
}

fn put_length(length: u64, out: &mut BytesMut) -> BodyEncoder {
    out.extend_from_slice(b"content-length: ");
    put_decimal(length, out);
    out.extend_from_slice(b"\r\n");
    BodyEncoder::length(length)
}

/// The length that a response would have, if it had a body: answers to HEAD, and 304.
fn put_declared(parts: &ResponseParts<'_>, out: &mut BytesMut) {
    if never_has_length(parts.status) || *parts.method == Method::CONNECT {
        return;
    }
    let declared = match parts.framing {
        Framing::Length(length) => Some(length),
        _ => {
            parts.headers.get(header::CONTENT_LENGTH).and_then(|value| content_length(value.as_bytes()).ok())
        }
    };
    if let Some(length) = declared {
        put_length(length, out);
    }
}

fn put_decimal(number: u64, out: &mut BytesMut) {
    let mut digits = [b'0'; MAX_DECIMAL_DIGITS];
    let mut rest = number;
    let mut start = MAX_DECIMAL_DIGITS;
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        start = place;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// Room for most heads, so that a buffer grows once.
const HEAD_ESTIMATE: usize = 512;

/// Digits of a 64-bit number.
const MAX_DECIMAL_DIGITS: usize = 20;

#[cfg(test)]
mod tests;
