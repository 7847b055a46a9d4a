//! Carries one exchange between a client and a server: the request up, the response down, both at once.
//!
//! Both directions are moved by one poll, so that neither needs a task, a channel or a lock. Invariant: nothing is read
//! from one side unless the other has room for it, so that a slow reader costs bounded memory.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use super::message::{Broken, Piece, ResponseHead};

/// Where the body of one message goes.
pub trait Sink {
    /// Ready when there is room for another piece.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Takes a piece, whatever its size.
    fn push(&mut self, data: Bytes) -> Result<(), Broken>;

    /// Ends the message.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken>;

    /// Ready when nothing waits any more.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
}

/// Where the body of one message comes from.
pub trait Body {
    /// The next piece. Not to be asked again after the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>>;
}

/// A client that waits for the response to one request.
pub trait Downstream: Sink + Body {
    /// Sends an interim response.
    fn inform(&mut self, head: ResponseHead);

    /// Begins the response.
    fn respond(&mut self, head: ResponseHead) -> Result<(), Broken>;

    /// The allocations of the response's head, to be used again.
    fn spare(&mut self) -> HeaderMap {
        HeaderMap::new()
    }

    /// Resolves when the client has gone, without taking anything from it.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken>;

    /// Begins the response, which says that from here on bytes are no HTTP: both sides have agreed to leave it.
    fn leave_http(&mut self, head: ResponseHead) -> Result<(), Broken>;
}

/// A server that was sent the head of one request.
pub trait Upstream: Sink + Body {
    /// The head of the response; interim ones come before it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>>;

    /// The answer was to leave HTTP.
    fn leave_http(&mut self);
}

/// One direction of an exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flow {
    /// Pieces move.
    #[default]
    Open,
    /// The end was passed on, and is on its way.
    Ending,
    /// Nothing moves any more.
    Done,
}

impl Flow {
    /// Moves what can be moved from `body` to `sink`; `seen` is shown every piece. Ready when the end has been passed on.
    /// An error names the side by the position of the type: left is `body`, right is `sink`.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut impl Body,
        sink: &mut impl Sink,
        mut seen: impl FnMut(&Piece),
    ) -> Poll<Result<(), Either>> {
        while *self == Self::Open {
            ready!(sink.poll_room(cx)).map_err(Either::Sink)?;
            match body.poll_piece(cx).map_err(Either::Body)? {
                Poll::Ready(piece) => {
                    seen(&piece);
                    match piece {
                        Piece::Data(data) => sink.push(data).map_err(Either::Sink)?,
                        Piece::End(trailers) => {
                            sink.end(trailers).map_err(Either::Sink)?;
                            *self = Self::Ending;
                        }
                    }
                }
                Poll::Pending => {
                    if let Poll::Ready(Err(broken)) = sink.poll_flush(cx) {
                        return Poll::Ready(Err(Either::Sink(broken)));
                    }
                    return Poll::Pending;
                }
            }
        }
        if *self == Self::Ending {
            ready!(sink.poll_flush(cx)).map_err(Either::Sink)?;
            *self = Self::Done;
        }
        Poll::Ready(Ok(()))
    }
}

/// Which end of a flow broke.
#[derive(Debug)]
pub enum Either {
    /// Where it came from.
    Body(Broken),
    /// Where it went.
    Sink(Broken),
}
