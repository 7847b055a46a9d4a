//! One request of an HTTP/2 client.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::uri::Scheme;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version as HttpVersion,
    header,
};
use mesh_core::trace::TraceWord;

use crate::l7::deadline::Deadline;
use crate::l7::h1::{Authority, Framing, Limits, Reason, Target, Upgrade, content_length, judge_underscores};
use crate::l7::message::{Broken, Piece, RequestHead, ResponseHead, Version};
use crate::l7::streams::{Receiving, Sending};
use crate::l7::transfer::{Body, Downstream, Sink};

/// The client's side of one stream. Dropped before the response has ended, it resets the stream.
#[derive(Debug)]
pub struct H2Downstream {
    recv: Receiving,
    respond: SendResponse<Bytes>,
    send: Option<Sending>,
    ended: bool,
    leaves: bool,
    /// The client has reset it before an answer began.
    taken_back: bool,
    /// Until when something has to move before the response begins.
    deadline: Deadline,
    patience: Duration,
}

impl H2Downstream {
    /// Takes a request apart that a connection has accepted; nothing may stand still for longer than `patience`. `Err`
    /// says what is wrong with its head.
    pub fn accept(
        request: Request<h2::RecvStream>,
        respond: SendResponse<Bytes>,
        (secure, limits, patience): (bool, &Limits, Duration),
    ) -> (Self, Result<RequestHead, Reason>) {
        let (parts, body) = request.into_parts();
        let head = head(parts, body.is_end_stream(), secure, limits);
        let mut deadline = Deadline::default();
        deadline.set(Some(patience));
        let recv = Receiving::new(body);
        (
            Self {
                recv,
                respond,
                send: None,
                ended: false,
                leaves: false,
                taken_back: false,
                deadline,
                patience,
            },
            head,
        )
    }

    /// Whether the client has taken its request back before there was an answer.
    pub fn is_taken_back(&self) -> bool {
        self.taken_back
    }

    fn sending(&mut self) -> Result<&mut Sending, Broken> {
        self.send.as_mut().ok_or(Broken::Closed("before the response"))
    }
}

fn head(
    parts: http::request::Parts,
    ended: bool,
    secure: bool,
    limits: &Limits,
) -> Result<RequestHead, Reason> {
    let http::request::Parts { method, uri, mut headers, extensions, .. } = parts;
    let protocol = extensions.get::<h2::ext::Protocol>();
    let upgrade = protocol.map(|it| Upgrade::named(it.as_str()).ok_or(Reason::Target)).transpose()?;
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(Reason::Target);
    }
    // It belongs to one connection, and the stack does not know it.
    headers.remove(&HTTP2_SETTINGS);
    let authority = authority(&uri, headers.remove(header::HOST).as_ref())?;
    let path = uri.path_and_query().map(|it| Bytes::copy_from_slice(it.as_str().as_bytes()));
    let (target, _) = match path {
        Some(path) if upgrade.is_some() => (Target::origin(path)?, None),
        Some(path) => Target::parse(&method, path)?,
        None => Target::parse(&method, authority.as_bytes().clone())?,
    };
    let framing = match length(&headers)? {
        // What follows is no body where HTTP is left.
        _ if ended || upgrade.is_some() || method == Method::CONNECT => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    join_cookies(&mut headers);
    if headers.len() > limits.fields {
        return Err(Reason::TooManyFields);
    }
    if headers.keys().any(|name| name.as_str().contains('_')) {
        judge_underscores(&mut headers, limits.underscores)?;
    }
    if method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(Reason::MethodCase);
    }
    Ok(RequestHead {
        // What asks for another protocol is a GET to everybody but HTTP/2.
        method: if upgrade.is_some() { Method::GET } else { method },
        secure,
        authority: Some(authority),
        target,
        client: None,
        version: Version::Http2,
        expects_continue: false,
        claims: None,
        trace: TraceWord::Any,
        headers,
        framing,
        upgrade,
    })
}

/// As strict as with HTTP/1, where it may be sent on to.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Reason> {
    let mut all = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = all.next();
    if all.next().is_some() {
        return Err(Reason::ContentLengthRepeated);
    }
    first.map(|value| content_length(value.as_bytes())).transpose()
}

fn authority(uri: &Uri, host: Option<&HeaderValue>) -> Result<Authority, Reason> {
    let named = uri.authority().map(|it| it.as_str().as_bytes());
    match (named, host) {
        (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host.as_bytes()) => Err(Reason::Host),
        (Some(named), _) => Authority::parse(Bytes::copy_from_slice(named)),
        (None, Some(host)) => Authority::parse(Bytes::copy_from_slice(host.as_bytes())),
        (None, None) => Err(Reason::HostMissing),
    }
}

/// HTTP/2 may send cookies in parts, HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_some() && cookies.next().is_some() {
        let all: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

impl Body for H2Downstream {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        match self.recv.poll_piece(cx) {
            Poll::Pending if !self.leaves && self.deadline.poll(cx).is_ready() => {
                Poll::Ready(Err(Broken::TimedOut("in the body of a request")))
            }
            Poll::Pending => Poll::Pending,
            ready @ Poll::Ready(_) => {
                self.taken_back |= self.send.is_none() && matches!(ready, Poll::Ready(Err(Broken::Reset(_))));
                self.deadline.set(Some(self.patience));
                ready
            }
        }
    }
}

impl Sink for H2Downstream {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.send {
            // A stream that has ended has room for nothing, and nothing follows.
            Some(send) if !self.ended => send.poll_room(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        self.sending()?.push(data)
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        self.sending()?.end(trailers)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        // The connection's own task writes.
        Poll::Ready(Ok(()))
    }
}

impl Downstream for H2Downstream {
    fn inform(&mut self, head: ResponseHead) {
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        // Nobody waits for it.
        let _ = self.respond.send_informational(response);
    }

    fn respond(&mut self, head: ResponseHead) -> Result<(), Broken> {
        let ResponseHead { mut status, mut headers, framing, .. } = head;
        if let Framing::Length(length) = framing {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 8441: what is a 101 elsewhere is a 200 here.
            status = StatusCode::OK;
        }
        let mut response = Response::new(());
        *response.version_mut() = HttpVersion::HTTP_2;
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        self.ended = !framing.has_body() && !self.leaves;
        self.send = Some(Sending(self.respond.send_response(response, self.ended)?));
        Ok(())
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.deadline.poll(cx).is_ready() {
            return Poll::Ready(Broken::TimedOut("waiting for an answer"));
        }
        let reset = if let Some(send) = &mut self.send {
            send.0.poll_reset(cx)
        } else {
            let reset = self.respond.poll_reset(cx);
            self.taken_back |= matches!(reset, Poll::Ready(Ok(_)));
            reset
        };
        reset.map(|reason| reason.map_or_else(Broken::from, Broken::Reset))
    }

    fn leave_http(&mut self, head: ResponseHead) -> Result<(), Broken> {
        self.leaves = true;
        self.respond(head)
    }
}

static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

impl Drop for H2Downstream {
    fn drop(&mut self) {
        // A request that is not wanted to its end is reset with NO_ERROR once the response is out (RFC 9113, 8.1): the
        // stack does that. Told to, it would reset at once, and throw away what waits of the response.
        if self.ended {
            return;
        }
        match &mut self.send {
            Some(send) => send.reset(h2::Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(h2::Reason::INTERNAL_ERROR),
        }
    }
}
