//! An HTTP/1 client: one connection, one request after the other.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use tokio_util::io::poll_read_buf;

use crate::l7::deadline::Deadline;
use crate::l7::h1::{
    self, BodyDecoder, BodyEncoder, Framing, Limits, ResponseParts, encode_response, parse_request,
};
use crate::l7::io::Io;
use crate::l7::message::{Broken, Piece, RequestHead, ResponseHead};
use crate::l7::out::Out;
use crate::l7::transfer::{Body, Downstream, Sink};
use crate::run::drain::Drain;

/// The client's side of a connection. Between two requests it waits for the next head, see [`H1Downstream::poll_request`].
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts about a connection that are independent of each other"
)]
pub struct H1Downstream {
    io: Io,
    secure: bool,
    input: BytesMut,
    out: Out,
    limits: Limits,
    timeouts: Timeouts,
    deadline: Deadline,
    /// Of the request under way.
    method: Method,
    version: h1::Version,
    decoder: BodyDecoder,
    encoder: Option<BodyEncoder>,
    /// A body follows, but the client waits to be told.
    awaits_continue: bool,
    keep_alive: bool,
    /// The request asks to leave HTTP.
    asks: bool,
    leaves: bool,
    response_ended: bool,
    /// The allocations of an earlier head.
    spare: HeaderMap,
    /// Those of the response's.
    answered: HeaderMap,
    /// When clients are told to go.
    drain: Option<Drain>,
    /// Requests that may still begin.
    requests: Option<u32>,
    /// After which no other request may follow.
    until: Option<std::time::Instant>,
    /// Bytes of the body since the deadline was set.
    progress: usize,
    /// When a piece was taken; the next has not been asked for since.
    taken: Option<std::time::Instant>,
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// In which [`Self::enough`] of a body has to come, or its end.
    pub body: Duration,
    /// Bytes that count as progress: a client that sends less is as good as silent.
    pub enough: usize,
    /// From the end of the request to the answer.
    pub answer: Duration,
}

impl H1Downstream {
    /// A connection of which `input` was read already.
    pub fn new(io: Io, input: BytesMut, secure: bool, limits: Limits, timeouts: Timeouts) -> Self {
        let decoder = BodyDecoder::request(Framing::None, &limits);
        let mut deadline = Deadline::default();
        deadline.set(Some(timeouts.head));
        Self {
            io,
            secure,
            input,
            out: Out::default(),
            limits,
            timeouts,
            deadline,
            method: Method::GET,
            version: h1::Version::Http11,
            decoder,
            encoder: None,
            awaits_continue: false,
            keep_alive: true,
            asks: false,
            leaves: false,
            response_ended: false,
            spare: HeaderMap::new(),
            answered: HeaderMap::new(),
            drain: None,
            requests: None,
            until: None,
            progress: 0,
            taken: None,
        }
    }

    /// So many bytes of a body have come.
    fn advance(&mut self, bytes: usize) {
        self.taken = Some(std::time::Instant::now());
        self.progress += bytes;
        if self.progress >= self.timeouts.enough {
            self.progress = 0;
            self.deadline.set(Some(self.timeouts.body));
        }
    }

    /// Responses that begin once `drain` has say that the connection ends: a client that does not know it would send
    /// another request into nothing.
    pub fn close_with(&mut self, drain: Drain) {
        self.drain = Some(drain);
    }

    /// No further request follows so many, or one that is answered after `until`; clients are told with the answer.
    pub fn end_after(&mut self, requests: Option<u32>, until: Option<std::time::Instant>) {
        (self.requests, self.until) = (requests, until);
    }

    /// The next head; `None` when the client is done. After an error [`Self::refuse`] may still answer.
    pub fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RequestHead>, Broken>> {
        let mut first_read = false;
        loop {
            if let Some(head) = parse_request(&mut self.input, &self.limits, &mut self.spare)? {
                return Poll::Ready(self.begin(head).map(Some));
            }
            let first = self.input.is_empty();
            if std::mem::take(&mut first_read) {
                // The rest of a head that has not come at once.
                self.deadline.set(Some(self.timeouts.head));
            }
            if self.deadline.poll(cx).is_ready() {
                // Nobody waits for an answer to nothing.
                let silent = first.then_some(Ok(None));
                return Poll::Ready(silent.unwrap_or(Err(Broken::TimedOut("in the head of a request"))));
            }
            let read = ready!(self.poll_read(cx, READ))?;
            if read == 0 {
                let clean = first.then_some(Ok(None));
                return Poll::Ready(clean.unwrap_or(Err(Broken::Closed("in the head of a request"))));
            }
            if first {
                first_read = true;
            }
        }
    }

    fn begin(&mut self, mut head: h1::RequestHead) -> Result<RequestHead, Broken> {
        head.strip_hop_by_hop()?;
        let h1::RequestHead { method, target, authority, version, headers, framing, trace, .. } = head;
        let first = if framing.has_body() { self.timeouts.body } else { self.timeouts.answer };
        self.deadline.set(Some(first));
        self.progress = 0;
        self.taken = None;
        self.requests = self.requests.map(|left| left.saturating_sub(1));
        self.method = method.clone();
        self.version = version;
        self.keep_alive = head.keep_alive;
        self.decoder = BodyDecoder::request(framing, &self.limits);
        self.encoder = None;
        self.response_ended = false;
        self.awaits_continue = head.expect_continue;
        self.asks = head.upgrade.is_some() || self.method == Method::CONNECT;
        Ok(RequestHead {
            secure: self.secure,
            method,
            authority,
            target,
            client: None,
            version: version.into(),
            headers,
            framing,
            upgrade: head.upgrade,
            expects_continue: head.expect_continue,
            claims: None,
            trace,
        })
    }

    /// Takes back a map whose content is not needed any more.
    pub fn reuse(&mut self, mut headers: HeaderMap) {
        // What is in it holds on to the bytes it was read from.
        headers.clear();
        self.spare = headers;
    }

    /// No further request is read on this connection.
    pub fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// Whether another request may follow: both bodies have ended, and both sides want it.
    pub fn is_reusable(&self) -> bool {
        self.keep_alive
            && !self.leaves
            && self.response_ended
            && self.decoder.is_done()
            && !self.awaits_continue
    }

    /// Whether no other request is to follow the one under way, whatever its client would like.
    fn is_last(&self) -> bool {
        self.drain.as_ref().is_some_and(Drain::is_draining)
            || self.requests == Some(0)
            || self.until.is_some_and(|until| until <= std::time::Instant::now())
    }

    /// Whether the response under way was begun and will not be ended.
    pub fn is_cut(&self) -> bool {
        self.encoder.is_some() && !self.response_ended
    }

    /// Resets the connection: nobody is to take what was sent for all there is.
    pub fn abort(self) {
        if let Some(socket) = self.io.socket() {
            let _ = crate::sys::sockopt::set_linger_zero(socket, true);
        }
    }

    /// Waits for the next request from now on.
    pub fn rest(&mut self, now: std::time::Instant) {
        self.deadline.set_from(now, self.timeouts.idle);
    }

    /// Sends what waits, ends the connection, and gives the client a moment to read it: closing at once while bytes of
    /// it are unread would reset what was sent.
    pub async fn close(mut self) {
        if std::future::poll_fn(|cx| self.out.poll_flush(&mut self.io, cx)).await.is_err() {
            return;
        }
        if tokio::io::AsyncWriteExt::shutdown(&mut self.io).await.is_err() {
            return;
        }
        let drain = async {
            let mut left = LINGER_BYTES;
            while left > 0 {
                self.input.clear();
                match std::future::poll_fn(|cx| self.poll_read(cx, READ)).await {
                    Ok(0) | Err(_) => return,
                    Ok(read) => left = left.saturating_sub(read),
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, drain).await;
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<Result<usize, Broken>> {
        if self.input.capacity() - self.input.len() < size / 4 {
            self.input.reserve(size);
        }
        poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input).map_err(Broken::from)
    }
}

impl Body for H1Downstream {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        if std::mem::take(&mut self.awaits_continue) && self.encoder.is_none() {
            self.out.tail().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if !self.out.is_empty() && self.encoder.is_none() {
            let _ = self.out.poll_flush(&mut self.io, cx)?;
        }
        if let Some(taken) = self.taken.take() {
            // That the server was slow is not the client's fault.
            self.deadline.delay(taken.elapsed());
        }
        loop {
            match self.decoder.decode(&mut self.input)? {
                h1::Piece::Data(data) => {
                    self.advance(data.len());
                    return Poll::Ready(Ok(Piece::Data(data)));
                }
                h1::Piece::End(trailers) => {
                    self.deadline.set(Some(self.timeouts.answer));
                    return Poll::Ready(Ok(Piece::End(trailers)));
                }
                h1::Piece::NeedMore => {}
            }
            match self.poll_read(cx, READ_BODY) {
                Poll::Ready(read) => {
                    if read? == 0 {
                        self.decoder.end_of_input()?;
                    }
                }
                Poll::Pending if !self.leaves && self.deadline.poll(cx).is_ready() => {
                    return Poll::Ready(Err(Broken::TimedOut("in the body of a request")));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Sink for H1Downstream {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.out.len() < ROOM {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        let Some(encoder) = &mut self.encoder else { return Err(Broken::Closed("before the response")) };
        let frame = encoder.frame(data.len())?;
        self.out.tail().extend_from_slice(frame.prefix());
        self.out.push(data);
        self.out.tail().extend_from_slice(frame.suffix());
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        let Some(encoder) = &mut self.encoder else { return Err(Broken::Closed("before the response")) };
        encoder.finish(trailers.as_ref(), self.out.tail())?;
        self.response_ended = true;
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        ready!(self.out.poll_flush(&mut self.io, cx))?;
        if self.leaves && self.response_ended {
            let ended = tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.io), cx);
            return ended.map_err(Broken::from);
        }
        Poll::Ready(Ok(()))
    }
}

impl Downstream for H1Downstream {
    fn inform(&mut self, head: ResponseHead) {
        if self.version == h1::Version::Http10 {
            return;
        }
        // Once is enough, and nobody else has asked.
        if head.status == StatusCode::CONTINUE && !std::mem::take(&mut self.awaits_continue) {
            return;
        }
        let parts = ResponseParts {
            method: &self.method,
            version: self.version,
            status: head.status,
            headers: &head.headers,
            framing: Framing::None,
            keep_alive: true,
            upgrade: None,
        };
        encode_response(&parts, self.out.tail());
    }

    fn respond(&mut self, head: ResponseHead) -> Result<(), Broken> {
        // A client that still waits for a 100 may send its body or not: nobody can tell where the next request begins.
        self.keep_alive &= !self.awaits_continue;
        // What came early was meant for another protocol. It is no request, whatever it looks like (CVE-2025-64763).
        self.keep_alive &= self.leaves || !self.asks;
        self.keep_alive &= self.leaves || !self.is_last();
        let parts = ResponseParts {
            method: &self.method,
            version: self.version,
            status: head.status,
            headers: &head.headers,
            framing: head.framing,
            keep_alive: self.keep_alive,
            upgrade: head.upgrade.as_ref(),
        };
        let encoder = encode_response(&parts, self.out.tail());
        self.answered = head.headers;
        self.answered.clear();
        self.keep_alive &= !encoder.ends_with_connection();
        self.encoder = Some(encoder);
        Ok(())
    }

    fn spare(&mut self) -> HeaderMap {
        std::mem::take(&mut self.answered)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.deadline.poll(cx).is_ready() {
            return Poll::Ready(Broken::TimedOut("waiting for an answer"));
        }
        // What comes before the response is the next request; there is no need to read more of it than that.
        if !self.decoder.is_done() || self.input.len() >= READ {
            return Poll::Pending;
        }
        match ready!(self.poll_read(cx, READ)) {
            Ok(0) => Poll::Ready(Broken::Closed("before the response")),
            Ok(_) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Err(broken) => Poll::Ready(broken),
        }
    }

    fn leave_http(&mut self, head: ResponseHead) -> Result<(), Broken> {
        self.leaves = true;
        self.respond(head)?;
        self.decoder = BodyDecoder::raw();
        self.encoder = Some(BodyEncoder::raw());
        Ok(())
    }
}

/// Bytes read at a time where a head is expected.
const READ: usize = 8 << 10;
/// Bytes read at a time where a body is.
const READ_BODY: usize = 64 << 10;
/// Bytes that may wait for the client before more are taken from the server.
const ROOM: usize = 64 << 10;
/// How long, and how many bytes, a client that is being hung up on may still send.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests;
