//! Heads of requests.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Method, header};
use mesh_core::trace::TraceWord;

use super::fields::{Fields, Message};
use super::scan::{self, Bounds};
use super::target::{Authority, Target};
use super::{Framing, Limits, MAX_FIELDS, Reason, Refused, Upgrade, Version, head_error};

/// The head of a request, as far as it concerns the proxy.
#[derive(Debug)]
pub struct RequestHead {
    /// The method. An extension is a token that is not a standard method in other letters.
    pub method: Method,
    /// What is asked for.
    pub target: Target,
    /// Whom it is asked of: the authority of the target if it names one, else Host. `None` in HTTP/1.0 only.
    pub authority: Option<Authority>,
    /// The version.
    pub version: Version,
    /// All fields but Host and Transfer-Encoding, of which [`RequestHead::authority`] and [`RequestHead::framing`]
    /// are what remains. A Content-Length is one number, and equal to the framing.
    pub headers: HeaderMap,
    /// What follows: never [`Framing::Close`].
    pub framing: Framing,
    /// Whether the client wants the connection to stay open.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends its body. `false` without a body.
    pub expect_continue: bool,
    /// The protocol that the client would switch to.
    pub upgrade: Option<Upgrade>,
    /// Whether any hop-by-hop field is there. Otherwise [`strip_hop_by_hop`](super::strip_hop_by_hop) has nothing to
    /// do.
    pub hop_by_hop: bool,
    /// What the headers say of a trace.
    pub trace: TraceWord,
}

impl RequestHead {
    /// Takes hop-by-hop fields out of the headers. [`RequestHead::upgrade`] stays.
    pub fn strip_hop_by_hop(&mut self) -> Result<(), Refused> {
        if std::mem::take(&mut self.hop_by_hop) {
            super::strip_hop_by_hop(&mut self.headers).map_err(Refused::client)?;
        }
        Ok(())
    }
}

/// Parses the head of a request at the start of `buf` and takes it out, and nothing that follows it. `None` asks for
/// more bytes, and leaves `buf` as it is.
///
/// `spare` is a map whose allocations are used again; it is taken when the head is complete.
pub fn parse_request(
    buf: &mut BytesMut,
    limits: &Limits,
    spare: &mut HeaderMap,
) -> Result<Option<RequestHead>, Refused> {
    parse(buf, limits, spare).map_err(Refused::client)
}

fn parse(buf: &mut BytesMut, limits: &Limits, spare: &mut HeaderMap) -> Result<Option<RequestHead>, Reason> {
    let Some(empty_line) = leading_line(buf)? else { return Ok(None) };
    let bytes = buf.get(empty_line..).unwrap_or_default();
    scan::first_line(bytes, limits.line_bytes)?;
    let Some(end) = scan::section_end(bytes, &Bounds::head(limits))? else {
        return Ok(None);
    };
    buf.advance(empty_line);
    let head = buf.split_to(end).freeze();

    let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let slots = slots.get_mut(..limits.fields.min(MAX_FIELDS)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&head, slots) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Reason::RequestLine),
        Err(error) => return Err(head_error(error, Reason::RequestLine, version_of(&head))),
    }
    assemble(&head, &request, limits, spare).map(Some)
}

fn assemble(
    head: &Bytes,
    request: &httparse::Request<'_, '_>,
    limits: &Limits,
    spare: &mut HeaderMap,
) -> Result<RequestHead, Reason> {
    let version = Version::of(request.version).ok_or(Reason::Version)?;
    let method = method(request.method.ok_or(Reason::RequestLine)?)?;
    let raw_target = head.slice_ref(request.path.ok_or(Reason::RequestLine)?.as_bytes());
    let (target, named) = Target::parse(&method, raw_target)?;
    let mut fields = Fields::collect(head, request.headers, Message::Request, spare)?;
    fields.judge_underscores(limits)?;

    // Host is judged even where the target overrules it: RFC 9112, sections 3.2 and 3.2.2.
    let host = fields.host.take().map(Authority::parse).transpose()?;
    if host.is_none() && version == Version::Http11 {
        return Err(Reason::HostMissing);
    }
    let framing = fields.framing(version)?.unwrap_or(Framing::None);
    if framing.has_body() && matches!(method, Method::CONNECT | Method::TRACE) {
        return Err(Reason::BodyNotAllowed);
    }
    let expect_continue = version == Version::Http11 && fields.expects_continue()? && framing.has_body();
    if !expect_continue {
        // In HTTP/1.0 it says nothing, and without a body there is nothing to wait for: the server behind us, which is sent
        // HTTP/1.1, is not to see it otherwise (RFC 9110, section 10.1.1).
        fields.headers.remove(header::EXPECT);
    }
    // With a body it is ignored, as RFC 9110, section 7.8, allows: nobody does both, and whether the other protocol begins
    // before or behind the body is read in two ways.
    let may_leave = method != Method::CONNECT && !framing.has_body();
    let upgrade = if may_leave { fields.upgrade(version) } else { None };
    Ok(RequestHead {
        method,
        target,
        authority: named.or(host),
        version,
        framing,
        keep_alive: fields.keep_alive(version),
        expect_continue,
        upgrade,
        hop_by_hop: fields.hop_by_hop,
        trace: fields.trace,
        headers: fields.headers,
    })
}

/// How many bytes of an empty line stand before the request line: RFC 9112, section 2.2, asks to ignore one, for
/// clients that end a body with it. `None` if that is open yet.
fn leading_line(buf: &[u8]) -> Result<Option<usize>, Reason> {
    let (empty_line, rest) = match buf {
        [b'\r', b'\n', rest @ ..] => (2, rest),
        [b'\r'] => return Ok(None),
        rest => (0, rest),
    };
    match rest {
        [] => Ok(None),
        [b'\r', ..] => Err(Reason::LeadingLines),
        [b'\n', ..] => Err(Reason::LineEnd),
        // TLS, the protocols where the server speaks first, and other noise: no need to wait for the end of a head.
        [first, ..] if !first.is_ascii_alphabetic() => Err(Reason::RequestLine),
        _ => Ok(Some(empty_line)),
    }
}

fn method(text: &str) -> Result<Method, Reason> {
    if text.len() > MAX_METHOD_BYTES {
        return Err(Reason::MethodLength);
    }
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| Reason::RequestLine)?;
    let is_standard = |name: &str| STANDARD_METHODS.contains(&name);
    if text.bytes().any(|b| b.is_ascii_lowercase()) && is_standard(&text.to_ascii_uppercase()) {
        return Err(Reason::MethodCase);
    }
    Ok(method)
}

/// The third word of a request line.
fn version_of(head: &[u8]) -> &[u8] {
    head.split(|&b| b == b' ').nth(2).unwrap_or_default()
}

/// The longest registered method has 17 bytes (`UPDATEREDIRECTREF`).
const MAX_METHOD_BYTES: usize = 24;

const STANDARD_METHODS: [&str; 9] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

#[cfg(test)]
mod tests;
