//! One request to an HTTP/2 server.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};

use crate::l7::h1::{Framing, Reason, Refused, Side, X_B3_SAMPLED};
use crate::l7::message::{Broken, Piece, RequestHead, ResponseHead};
use crate::l7::streams::{Receiving, Sending};
use crate::l7::transfer::{Body, Sink, Upstream};

/// The server's side of one stream. Dropped before the response has ended, it resets the stream.
#[derive(Debug)]
pub struct H2Upstream {
    send: Sending,
    response: ResponseFuture,
    recv: Option<Receiving>,
    /// Nothing is left to send.
    ended: bool,
    complete: bool,
}

impl H2Upstream {
    /// Sends the head of a request. The connection must be ready for another stream.
    pub fn begin(sender: &mut SendRequest<Bytes>, head: &RequestHead) -> Result<Self, Broken> {
        let ended = !head.framing.has_body() && !head.leaves_http();
        let (response, send) = sender.send_request(request(head)?, ended)?;
        Ok(Self { send: Sending(send), response, recv: None, ended, complete: false })
    }

    /// The number of the stream.
    pub fn stream(&self) -> u32 {
        self.response.stream_id().as_u32()
    }

    /// Ready once the stream, or the connection, is lost.
    pub fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.send.0.poll_reset(cx).map(|reset| reset.map_or_else(Broken::from, Broken::Reset))
    }
}

fn request(head: &RequestHead) -> Result<Request<()>, Broken> {
    let authority = head.authority.as_ref().map_or("", |it| it.as_str());
    let uri = if head.method == Method::CONNECT {
        Uri::builder().authority(authority).build()
    } else {
        let scheme = if head.secure { "https" } else { "http" };
        Uri::builder().scheme(scheme).authority(authority).path_and_query(head.target.as_str()).build()
    };
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri.map_err(|_| Refused { side: Side::Client, reason: Reason::Target })?;
    *request.headers_mut() = head.headers.clone();
    if head.trace.is_behind() {
        request.headers_mut().insert(X_B3_SAMPLED, HeaderValue::from_static("0"));
    }
    if let Some(upgrade) = &head.upgrade {
        *request.method_mut() = Method::CONNECT;
        let protocol = upgrade.protocol().to_str().unwrap_or_default();
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
    }
    Ok(request)
}

impl Body for H2Upstream {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        let Some(recv) = &mut self.recv else {
            return Poll::Ready(Err(Broken::Closed("before the response")));
        };
        let piece = ready!(recv.poll_piece(cx))?;
        self.complete = matches!(piece, Piece::End(_));
        Poll::Ready(Ok(piece))
    }
}

impl Sink for H2Upstream {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.send.poll_room(cx)
    }

    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        self.send.push(data)
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        self.send.end(trailers)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }
}

impl Upstream for H2Upstream {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        if let Poll::Ready(Some(Ok(interim))) = self.response.poll_informational(cx) {
            let (parts, ()) = interim.into_parts();
            return Poll::Ready(Ok(ResponseHead {
                status: parts.status,
                headers: parts.headers,
                framing: Framing::None,
                upgrade: None,
            }));
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx))?;
        let (parts, body) = response.into_parts();
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let known = length.and_then(|it| it.to_str().ok()).and_then(|it| it.parse().ok());
        let framing = match known {
            _ if body.is_end_stream() => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        self.complete = body.is_end_stream();
        self.recv = Some(Receiving::new(body));
        Poll::Ready(Ok(ResponseHead { status: parts.status, headers: parts.headers, framing, upgrade: None }))
    }

    fn leave_http(&mut self) {}
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        if !(self.complete && self.ended) {
            self.send.reset(h2::Reason::CANCEL);
        }
    }
}
