//! Bytes that wait for a connection.
//!
//! Small pieces are gathered, large ones are kept as they are: copying a page costs less than another slice of a
//! vectored write, copying a megabyte does not.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::io::Io;

/// See the module.
#[derive(Debug, Default)]
pub struct Out {
    /// In the order they go out, before [`Self::tail`].
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Out {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len + self.tail.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where small things are written to.
    pub fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Adds a piece.
    pub fn push(&mut self, data: Bytes) {
        if data.len() < KEPT_WHOLE {
            self.tail.extend_from_slice(&data);
            return;
        }
        self.seal();
        self.len += data.len();
        self.pieces.push_back(data);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.len += tail.len();
            self.pieces.push_back(tail);
        }
    }

    /// Writes all of it.
    pub fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = if self.pieces.is_empty() {
                let written = ready!(Pin::new(&mut *io).poll_write(cx, &self.tail))?;
                self.tail.advance(written);
                written
            } else {
                self.seal();
                let written = ready!(self.poll_pieces(io, cx))?;
                self.advance(written);
                written
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Pin::new(io).poll_flush(cx)
    }

    fn poll_pieces(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        Pin::new(io).poll_write_vectored(cx, slices)
    }

    fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(first) = self.pieces.front_mut() {
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }
}

/// From this size on a piece is not copied.
const KEPT_WHOLE: usize = 4 << 10;
/// Slices of one write.
const SLICES: usize = 16;
