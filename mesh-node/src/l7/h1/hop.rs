//! Fields that belong to one connection, and who may say so.

use http::header::{self, HeaderMap, HeaderName};

use super::Reason;

/// What the Connection fields of a message ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    options: usize,
}

impl Connection {
    /// Adds one Connection field. Refuses one that names a field which somebody behind us relies on.
    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), Reason> {
        for option in options(value) {
            self.options += 1;
            if self.options > MAX_OPTIONS {
                return Err(Reason::Connection);
            }
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                nominated(option)?;
            }
        }
        Ok(())
    }
}

/// Takes out what must not travel further than one connection: what the Connection fields name, and Connection,
/// Keep-Alive, Proxy-Connection, Transfer-Encoding, Upgrade, HTTP2-Settings and TE, of which `trailers` alone stays.
///
/// An upgrade that goes through travels in [`Upgrade`](super::Upgrade) and is written by the encoder.
/// RFC 9110, section 7.6.1.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Result<(), Reason> {
    let mut named = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for option in options(value.as_bytes()) {
            named.push(nominated(option)?);
            if named.len() > MAX_OPTIONS {
                return Err(Reason::Connection);
            }
        }
    }
    let trailers = wants_trailers(headers);
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, header::HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Whether this field is one that framing, routing, authentication or the mesh itself relies on: nobody may have it
/// dropped on the way by naming it in Connection, write it with underscores, or send it after the body.
pub(super) fn is_relied_on(name: &str) -> bool {
    RELIED_ON.contains(&name) || RELIED_ON_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a Connection field names no field that its message could have: `keep-alive` belongs to a connection whoever names it.
pub(super) fn names_nothing(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// Whether this is one of the fields that belong to a connection by themselves.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE);
    values
        .iter()
        .any(|value| options(value.as_bytes()).any(|coding| coding.eq_ignore_ascii_case(b"trailers")))
}

/// The elements of a list. RFC 9110, section 5.6.1: empty ones count for nothing.
fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

fn nominated(option: &[u8]) -> Result<HeaderName, Reason> {
    let name = HeaderName::from_bytes(option).map_err(|_| Reason::Connection)?;
    if is_relied_on(name.as_str()) { Err(Reason::ConnectionNominates) } else { Ok(name) }
}

/// Most names in the Connection fields of one message. Three are in use: `keep-alive` or `close`, `upgrade`, `te`.
const MAX_OPTIONS: usize = 16;

static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    // Of an upgrade to HTTP/2, which is ignored (RFC 9113, 3.1): nobody behind us is to take it for one of ours.
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const RELIED_ON: [&str; 21] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "origin",
    "proxy-authorization",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "vary",
    "via",
    "www-authenticate",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
];

const RELIED_ON_PREFIXES: [&str; 5] = ["access-control-", "sec-", "x-envoy-", "x-forwarded-", "x-istio-"];

#[cfg(test)]
mod tests;
