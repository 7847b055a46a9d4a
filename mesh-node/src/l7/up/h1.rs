//! A connection to an HTTP/1 server, and one request on it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::poll_read_buf;

use crate::l7::h1::{
    self, BodyDecoder, BodyEncoder, Limits, RequestParts, ResponseKind, encode_request, parse_response,
};
use crate::l7::io::Io;
use crate::l7::message::{Broken, Piece, RequestHead, ResponseHead};
use crate::l7::out::Out;
use crate::l7::site::{Held, Link};
use crate::l7::transfer::{Body, Sink, Upstream};
use crate::run::tasks;

/// A connection without a request.
#[derive(Debug)]
pub struct H1Connection {
    io: Io,
    input: BytesMut,
    out: Out,
    spare: HeaderMap,
    /// Requests that were sent on it.
    served: u32,
    link: Link,
    #[expect(dead_code, reason = "held for what its destructor does")]
    held: Option<Held>,
}

/// The server's side of one request. Dropped before the response has ended, it closes the connection.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts about an exchange that are independent of each other"
)]
pub struct H1Upstream {
    connection: H1Connection,
    method: Method,
    encoder: BodyEncoder,
    decoder: Option<BodyDecoder>,
    limits: Limits,
    request_ended: bool,
    keep_alive: bool,
    leaves: bool,
    /// Something of the response has come.
    heard: bool,
}

impl H1Connection {
    /// A connection that nothing was sent on.
    pub fn new(io: Io, link: Link, held: Option<Held>) -> Self {
        let (input, out, spare) = (BytesMut::new(), Out::default(), HeaderMap::new());
        Self { io, input, out, spare, served: 0, link, held }
    }

    /// Requests that were sent on it.
    pub fn served(&self) -> u32 {
        self.served
    }

    /// What is told of it.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Whether the server has closed it, or said something that nobody asked for. Costs nothing while it is silent.
    pub fn is_stale(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.input.clear();
        self.input.reserve(1);
        poll_read_buf(Pin::new(&mut self.io), &mut cx, &mut self.input).is_ready()
    }

    /// Ends the connection as its server expects it: torn down, it would look as if something had failed.
    pub fn close(mut self) {
        tasks::spawn_local("close", async move {
            let end = async {
                self.io.shutdown().await?;
                while self.io.read(&mut [0; 256]).await? > 0 {}
                std::io::Result::Ok(())
            };
            // Nobody waits for it; a server that does not end its side is left to itself.
            let _ = tokio::time::timeout(CLOSING, end).await;
        });
    }

    /// Takes back a map whose content is not needed any more.
    pub fn reuse(&mut self, headers: HeaderMap) {
        self.spare = headers;
    }

    /// Writes the head of a request; the rest follows through the returned side.
    pub fn begin(mut self, head: &RequestHead, limits: Limits) -> Result<H1Upstream, Broken> {
        self.served = self.served.saturating_add(1);
        let parts = RequestParts {
            method: &head.method,
            target: &head.target,
            authority: head.authority.as_ref(),
            headers: &head.headers,
            framing: head.framing,
            keep_alive: true,
            upgrade: head.upgrade.as_ref(),
            untraced: head.trace.is_behind(),
        };
        let encoder = encode_request(&parts, self.out.tail())?;
        Ok(H1Upstream {
            connection: self,
            method: head.method.clone(),
            encoder,
            decoder: None,
            limits,
            request_ended: false,
            keep_alive: true,
            leaves: false,
            heard: false,
        })
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<Result<usize, Broken>> {
        if self.input.capacity() - self.input.len() < size / 4 {
            self.input.reserve(size);
        }
        poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input).map_err(Broken::from)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.out.poll_flush(&mut self.io, cx).map_err(Broken::from)
    }
}

impl H1Upstream {
    /// Whether nothing at all has come back: the request may not even have been read.
    pub fn is_unheard(&self) -> bool {
        !self.heard
    }

    /// The connection, if another request may be sent on it. Otherwise it is closed.
    pub fn into_idle(self) -> Option<H1Connection> {
        let done = self.request_ended && self.decoder.as_ref().is_some_and(BodyDecoder::is_done);
        let clean = self.connection.input.is_empty() && self.connection.out.is_empty();
        if !done || !clean || self.leaves {
            return None;
        }
        if !self.keep_alive {
            self.connection.close();
            return None;
        }
        Some(self.connection)
    }

    fn head(&mut self, mut head: h1::ResponseHead) -> Result<ResponseHead, Broken> {
        head.strip_hop_by_hop()?;
        let h1::ResponseHead { status, headers, framing, kind, keep_alive, upgrade, .. } = head;
        if kind != ResponseKind::Interim {
            self.keep_alive &= keep_alive;
            self.decoder = Some(BodyDecoder::response(framing, &self.limits));
        }
        Ok(ResponseHead { status, headers, framing, upgrade })
    }
}

impl Body for H1Upstream {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        let Some(decoder) = &mut self.decoder else {
            return Poll::Ready(Err(Broken::Closed("before the response")));
        };
        loop {
            match decoder.decode(&mut self.connection.input)? {
                h1::Piece::Data(data) => return Poll::Ready(Ok(Piece::Data(data))),
                h1::Piece::End(trailers) => return Poll::Ready(Ok(Piece::End(trailers))),
                h1::Piece::NeedMore => {}
            }
            if ready!(self.connection.poll_read(cx, READ_BODY))? == 0 {
                decoder.end_of_input()?;
                self.keep_alive = false;
            }
        }
    }
}

impl Sink for H1Upstream {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.connection.out.len() < ROOM {
            return Poll::Ready(Ok(()));
        }
        self.connection.poll_flush(cx)
    }

    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        let frame = self.encoder.frame(data.len())?;
        let out = &mut self.connection.out;
        out.tail().extend_from_slice(frame.prefix());
        out.push(data);
        out.tail().extend_from_slice(frame.suffix());
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        self.request_ended = true;
        Ok(self.encoder.finish(trailers.as_ref(), self.connection.out.tail())?)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        ready!(self.connection.poll_flush(cx))?;
        if self.leaves && self.request_ended {
            let ended = tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.connection.io), cx);
            return ended.map_err(Broken::from);
        }
        Poll::Ready(Ok(()))
    }
}

impl Upstream for H1Upstream {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        loop {
            let Self { connection, method, limits, .. } = self;
            let parsed = parse_response(&mut connection.input, method, limits, &mut connection.spare)?;
            if let Some(head) = parsed {
                return Poll::Ready(self.head(head));
            }
            if ready!(self.connection.poll_read(cx, READ))? == 0 {
                return Poll::Ready(Err(Broken::Closed("before the response")));
            }
            self.heard = true;
        }
    }

    fn leave_http(&mut self) {
        self.leaves = true;
        self.request_ended = false;
        self.decoder = Some(BodyDecoder::raw());
        self.encoder = BodyEncoder::raw();
    }
}

/// Bytes read at a time where a head is expected: with most answers, all of it.
const READ: usize = 16 << 10;
/// Bytes read at a time where a body is.
const READ_BODY: usize = 64 << 10;
/// Bytes that may wait for the server before more are taken from the client.
const ROOM: usize = 64 << 10;
/// How long a server may take to end its side of a connection that is not needed any more.
const CLOSING: Duration = Duration::from_secs(1);
