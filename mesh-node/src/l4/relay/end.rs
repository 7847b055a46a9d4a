//! What the relay needs to know of an end.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::tunnel::StreamError;

/// How an end broke.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A socket's error.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// A stream of a tunnel's.
    #[error("{0}")]
    Stream(#[from] StreamError),
}

/// A source of one direction and the sink of the other.
///
/// Dropped before [`End::complete`], an end resets its connection.
pub(super) trait End {
    /// Appends what has arrived. `true`: something (perhaps) did; `false`: FIN, with nothing after it; pending: the
    /// waker is set for more, or the queue is full enough already.
    fn poll_fill(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<bool>, Broken>;

    /// Sends from the queue; ready with the number of bytes taken over, at least one.
    fn poll_drain(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<usize>, Broken>;

    /// Sends FIN.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken>;

    /// Resolves when the connection breaks, without reading from it.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken>;

    /// `n` bytes that came from here have been passed on: the peer may send as many more.
    fn passed_on(&mut self, n: usize);

    /// Both FINs have been passed on: nothing is left to reset.
    fn complete(&mut self);
}

/// Bytes on their way, in the pieces they came in.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Queue {
    /// With one piece in it.
    pub(super) fn of(piece: Bytes) -> Self {
        let mut queue = Self::default();
        queue.push(piece);
        queue
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// At most `max` bytes from the front, of one piece, without a copy.
    pub(super) fn take(&mut self, max: usize) -> Bytes {
        let Some(front) = self.pieces.front_mut() else { return Bytes::new() };
        let piece = if front.len() <= max {
            self.pieces.pop_front().unwrap_or_default()
        } else {
            front.split_to(max)
        };
        self.len -= piece.len();
        piece
    }

    /// Drops `n` bytes from the front.
    pub(super) fn advance(&mut self, mut n: usize) {
        while n > 0 && !self.is_empty() {
            n -= self.take(n).len();
        }
    }

    /// The pieces, front first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }
}
