//! The body of a request, kept while the request may have to be sent again.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use mesh_core::http::messages::Messages;
use mesh_core::resource::rate_limit::BodyLimit;

use super::message::{Broken, Piece};
use super::transfer::Body;

/// What was read of a body.
#[derive(Debug, Default)]
pub struct Kept {
    pieces: Vec<Bytes>,
    bytes: usize,
    /// All of it was read, and this is the end; trailers are not kept.
    ended: bool,
    /// Something was read and not kept: the body can be sent only once.
    lost: bool,
    /// Whether anything is to be kept at all.
    wanted: bool,
    /// How long the body may be, and whether all of it is kept until it is sent.
    limit: Option<BodyLimit>,
    /// At its end, of one that is kept as a whole.
    trailers: Option<HeaderMap>,
    /// Of a call of gRPC.
    messages: Option<Messages>,
}

/// A body as one try reads it: first what is kept, then what comes.
pub struct Replay<'a, D> {
    /// Where it comes from.
    pub source: &'a mut D,
    /// What is kept of it.
    pub kept: &'a mut Kept,
    /// How many pieces this try has had.
    pub position: &'a mut usize,
}

impl Kept {
    /// Keeps nothing unless `wanted`.
    pub fn new(wanted: bool, limit: Option<BodyLimit>) -> Self {
        let wanted = wanted || limit.as_ref().is_some_and(|limit| limit.buffer);
        Self { wanted, limit, ..Self::default() }
    }

    /// Counts the messages of gRPC in it.
    #[must_use]
    pub fn counting(self, grpc: bool) -> Self {
        Self { messages: grpc.then(Messages::default), ..self }
    }

    /// Messages of gRPC that the client has begun to send so far.
    pub fn messages(&self) -> u64 {
        self.messages.as_ref().map_or(0, Messages::count)
    }

    /// Whether the body is sent on only once all of it is there.
    pub fn is_buffered(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| limit.buffer)
    }

    /// Whether the body can be sent again.
    pub fn is_whole(&self) -> bool {
        !self.lost
    }

    /// Bytes of it that the client has sent so far.
    pub fn received(&self) -> usize {
        self.bytes
    }

    /// The request will not be sent again.
    pub fn forget(&mut self) {
        if self.is_buffered() {
            // Some of it may not have been sent yet.
            return;
        }
        self.wanted = false;
        self.pieces.clear();
        self.lost |= self.bytes > 0;
    }

    fn keep(&mut self, data: &Bytes) -> Result<(), Broken> {
        self.bytes = self.bytes.saturating_add(data.len());
        if let Some(messages) = &mut self.messages {
            messages.pass(data);
        }
        let most = self.limit.as_ref().and_then(|limit| usize::try_from(limit.max_bytes).ok());
        if most.is_some_and(|most| self.bytes > most) {
            return Err(Broken::TooLong);
        }
        if self.wanted && (self.bytes <= LIMIT || self.is_buffered()) {
            self.pieces.push(data.clone());
        } else {
            self.wanted = false;
            self.lost = true;
            self.pieces.clear();
        }
        Ok(())
    }
}

impl<D: Body> Body for Replay<'_, D> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        if let Some(piece) = self.kept.pieces.get(*self.position) {
            *self.position += 1;
            return Poll::Ready(Ok(Piece::Data(piece.clone())));
        }
        if self.kept.ended {
            return Poll::Ready(Ok(Piece::End(self.kept.trailers.clone())));
        }
        let polled = self.source.poll_piece(cx);
        match &polled {
            Poll::Ready(Ok(Piece::Data(data))) => {
                self.kept.keep(data)?;
                *self.position = self.kept.pieces.len();
            }
            Poll::Ready(Ok(Piece::End(trailers))) => {
                self.kept.ended = true;
                if self.kept.is_buffered() {
                    self.kept.trailers.clone_from(trailers);
                } else {
                    self.kept.lost |= trailers.is_some();
                }
            }
            _ => {}
        }
        polled
    }
}

/// Bytes of a body that are kept: what Istio's proxies buffer for a retry.
const LIMIT: usize = 1 << 20;
