//! What both ends of an HTTP/2 stream have in common.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use super::h1::may_trail;
use super::message::{Broken, Piece};

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) struct Receiving {
    stream: RecvStream,
    /// All data is in; trailers may follow.
    data_ended: bool,
    /// Taken by whoever reads, not yet given back to the window.
    unreleased: usize,
}

/// The sending half of a stream.
#[derive(Debug)]
pub(super) struct Sending(pub(super) SendStream<Bytes>);

impl Receiving {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, data_ended: false, unreleased: 0 }
    }

    /// The next piece. Asking for it says that the one before has been passed on.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        let passed_on = std::mem::take(&mut self.unreleased);
        if passed_on > 0 {
            // Fails only if the stream is gone, and its window with it.
            let _ = self.stream.flow_control().release_capacity(passed_on);
        }
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.unreleased = data.len();
                    return Poll::Ready(Ok(Piece::Data(data)));
                }
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => self.data_ended = true,
            }
        }
        let mut trailers = ready!(self.stream.poll_trailers(cx))?;
        if let Some(trailers) = &mut trailers {
            drop_forbidden(trailers);
        }
        Poll::Ready(Ok(Piece::End(trailers)))
    }
}

/// What frames, routes or authenticates came too late to be judged with the head (RFC 9110, 6.5.1).
fn drop_forbidden(trailers: &mut HeaderMap) {
    let forbidden: Vec<_> = trailers.keys().filter(|name| !may_trail(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

impl Sending {
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.0.reserve_capacity(1);
        while self.0.capacity() == 0 {
            match ready!(self.0.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Err(self.why(cx))),
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        self.0.reserve_capacity(data.len());
        self.0.send_data(data, false).map_err(Broken::from)
    }

    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match trailers {
            Some(trailers) => self.0.send_trailers(trailers).map_err(Broken::from),
            None => self.0.send_data(Bytes::new(), true).map_err(Broken::from),
        }
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        self.0.send_reset(reason);
    }

    /// Why the stream takes nothing any more.
    pub(super) fn why(&mut self, cx: &mut Context<'_>) -> Broken {
        match self.0.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Broken::Reset(reason),
            Poll::Ready(Err(error)) => error.into(),
            Poll::Pending => Broken::Closed("for writing"),
        }
    }
}
