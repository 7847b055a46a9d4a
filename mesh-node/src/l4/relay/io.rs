//! Any other connection as an end of a relay: TLS on a socket, or inside of a tunnel.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::end::{Broken, End, Queue};
use super::{FIRST_READ, MAX_READ};
use crate::l7::io::Io;
use crate::sys::sockopt::set_linger_zero;

/// See the module.
pub(super) struct IoEnd {
    io: Io,
    buffer: BytesMut,
    /// Size of the next read.
    size: usize,
    /// Bytes at the front of the queue that were written and may not have left yet.
    written: usize,
    complete: bool,
}

impl IoEnd {
    pub(super) fn new(io: Io) -> Self {
        Self { io, buffer: BytesMut::new(), size: FIRST_READ, written: 0, complete: false }
    }

    fn set_linger_zero(&self, on: bool) -> io::Result<()> {
        self.io.socket().map_or(Ok(()), |socket| set_linger_zero(socket, on))
    }
}

impl End for IoEnd {
    fn poll_fill(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<bool>, Broken> {
        // One read at a time, so that a slow sink leaves the rest with the sender.
        if !queue.is_empty() {
            return Ok(Poll::Pending);
        }
        self.buffer.reserve(self.size);
        match pin!(self.io.read_buf(&mut self.buffer)).poll(cx)? {
            Poll::Pending => {
                // An idle connection keeps no buffer.
                self.buffer = BytesMut::new();
                Ok(Poll::Pending)
            }
            Poll::Ready(0) => Ok(Poll::Ready(false)),
            Poll::Ready(n) => {
                queue.push(self.buffer.split().freeze());
                let size = if n >= self.size { self.size * 4 } else { self.size };
                self.size = size.min(MAX_READ);
                Ok(Poll::Ready(true))
            }
        }
    }

    /// What was written counts once it was flushed: until then it stays in the queue, so that this is called again.
    fn poll_drain(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<usize>, Broken> {
        while let Some(rest) = after(queue, self.written) {
            match Pin::new(&mut self.io).poll_write(cx, rest)? {
                Poll::Pending => break,
                Poll::Ready(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Poll::Ready(n) => self.written += n,
            }
        }
        if self.written == 0 || Pin::new(&mut self.io).poll_flush(cx)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let n = std::mem::take(&mut self.written);
        queue.advance(n);
        Ok(Poll::Ready(n))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        if Pin::new(&mut self.io).poll_shutdown(cx)?.is_pending() {
            return Ok(Poll::Pending);
        }
        // What is in flight before the FIN must survive the close.
        self.set_linger_zero(false)?;
        Ok(Poll::Ready(()))
    }

    /// Not to be known without reading: noticed with the next read or write.
    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<Broken> {
        Poll::Pending
    }

    fn passed_on(&mut self, _: usize) {}

    fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for IoEnd {
    fn drop(&mut self) {
        if !self.complete {
            // A socket that refuses the option is already gone; a tunnel resets its stream by itself.
            let _ = self.set_linger_zero(true);
        }
    }
}

/// The piece of the queue that follows its first `skip` bytes.
fn after(queue: &Queue, mut skip: usize) -> Option<&[u8]> {
    let mut rest = queue.iter().filter_map(|piece: &Bytes| {
        let rest = piece.get(skip..).filter(|rest| !rest.is_empty());
        skip = skip.saturating_sub(piece.len());
        rest
    });
    rest.next()
}
