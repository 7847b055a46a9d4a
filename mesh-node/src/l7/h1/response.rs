//! Heads of responses.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header;
use http::{HeaderMap, Method, StatusCode};

use super::fields::{Fields, Message};
use super::scan::{self, Bounds};
use super::{Framing, Limits, MAX_FIELDS, Reason, Refused, Upgrade, Version, head_error};

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status. The text beside it is dropped: it means nothing, and not every client bears every one.
    pub status: StatusCode,
    /// The version.
    pub version: Version,
    /// All fields but Transfer-Encoding. A Content-Length is one number, equal to the framing if there is a body; it
    /// is there without one too (HEAD, 304), and not with 1xx, 204 and the 2xx of CONNECT.
    pub headers: HeaderMap,
    /// What follows.
    pub framing: Framing,
    /// What kind of answer it is.
    pub kind: ResponseKind,
    /// Whether the server keeps the connection open, and the end of the response can be told.
    pub keep_alive: bool,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<Upgrade>,
    /// Whether any hop-by-hop field is there. Otherwise [`strip_hop_by_hop`](super::strip_hop_by_hop) has nothing to
    /// do.
    pub hop_by_hop: bool,
}

/// What a response is to the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseKind {
    /// 1xx but 101: the answer is still to come.
    Interim,
    /// 101: what follows is the other protocol. Only then may bytes of the client that came after its request go on.
    Switching,
    /// 2xx to CONNECT: what follows is the tunnel.
    Tunnel,
    /// The answer.
    Final,
}

impl ResponseKind {
    /// The kind of a response with this status to this method.
    pub fn of(method: &Method, status: StatusCode) -> Self {
        match status {
            StatusCode::SWITCHING_PROTOCOLS => Self::Switching,
            _ if status.is_informational() => Self::Interim,
            _ if status.is_success() && *method == Method::CONNECT => Self::Tunnel,
            _ => Self::Final,
        }
    }
}

impl ResponseHead {
    /// Takes hop-by-hop fields out of the headers. [`ResponseHead::upgrade`] stays.
    pub fn strip_hop_by_hop(&mut self) -> Result<(), Refused> {
        if std::mem::take(&mut self.hop_by_hop) {
            super::strip_hop_by_hop(&mut self.headers).map_err(Refused::server)?;
        }
        Ok(())
    }
}

/// Parses the head of a response to `method` at the start of `buf` and takes it out, and nothing that follows it.
/// `None` asks for more bytes, and leaves `buf` as it is.
///
/// `spare` is a map whose allocations are used again; it is taken when the head is complete. After an interim
/// response the next head is parsed in the same way.
pub fn parse_response(
    buf: &mut BytesMut,
    method: &Method,
    limits: &Limits,
    spare: &mut HeaderMap,
) -> Result<Option<ResponseHead>, Refused> {
    parse(buf, method, limits, spare).map_err(Refused::server)
}

/// Whether no body follows, whatever the fields say. RFC 9112, section 6.3, rules 1 and 2.
pub(super) fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status == StatusCode::NOT_MODIFIED
        || never_has_length(status)
        || (*method == Method::CONNECT && status.is_success())
}

/// 1xx and 204 have no body, and no fields about one. RFC 9110, section 8.6.
pub(super) fn never_has_length(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

fn parse(
    buf: &mut BytesMut,
    method: &Method,
    limits: &Limits,
    spare: &mut HeaderMap,
) -> Result<Option<ResponseHead>, Reason> {
    match &**buf {
        [] => return Ok(None),
        [b'H', ..] => {}
        _ => return Err(Reason::StatusLine),
    }
    scan::first_line(buf, limits.line_bytes)?;
    let Some(end) = scan::section_end(buf, &Bounds::head(limits))? else { return Ok(None) };
    let head = buf.split_to(end).freeze();

    let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let slots = slots.get_mut(..limits.fields.min(MAX_FIELDS)).unwrap_or_default();
    let mut response = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, &head, slots) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Reason::StatusLine),
        Err(error) => return Err(head_error(error, Reason::StatusLine, &head)),
    }
    assemble(&head, &response, method, spare).map(Some)
}

fn assemble(
    head: &Bytes,
    response: &httparse::Response<'_, '_>,
    method: &Method,
    spare: &mut HeaderMap,
) -> Result<ResponseHead, Reason> {
    let version = Version::of(response.version).ok_or(Reason::Version)?;
    let code = response.code.ok_or(Reason::StatusLine)?;
    let status = StatusCode::from_u16(code).map_err(|_| Reason::StatusLine)?;
    let mut fields = Fields::collect(head, response.headers, Message::Response, spare)?;
    let kind = ResponseKind::of(method, status);
    let upgrade = fields.upgrade(version);
    if kind == ResponseKind::Switching && upgrade.is_none() {
        return Err(Reason::SwitchWithoutUpgrade);
    }
    let framing = framing(&mut fields, version, method, status)?;
    Ok(ResponseHead {
        status,
        version,
        framing,
        kind,
        keep_alive: framing != Framing::Close && fields.keep_alive(version),
        upgrade: upgrade.filter(|_| kind == ResponseKind::Switching),
        hop_by_hop: fields.hop_by_hop,
        headers: fields.headers,
    })
}

fn framing(
    fields: &mut Fields,
    version: Version,
    method: &Method,
    status: StatusCode,
) -> Result<Framing, Reason> {
    let declared = fields.framing(version)?;
    if never_has_length(status) {
        // `Content-Length: 0` on a 204 is wrong and common. Anything else means that a body follows after all.
        if declared.is_some_and(Framing::has_body) {
            return Err(Reason::BodyNotAllowed);
        }
        fields.headers.remove(header::CONTENT_LENGTH);
        return Ok(Framing::None);
    }
    if is_bodiless(method, status) {
        if *method == Method::CONNECT {
            fields.headers.remove(header::CONTENT_LENGTH);
        }
        return Ok(Framing::None);
    }
    Ok(declared.unwrap_or(Framing::Close))
}

#[cfg(test)]
mod tests;
