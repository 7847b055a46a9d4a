//! A TCP socket as an end of a relay.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::end::{Broken, End, Queue};
use super::{FIRST_READ, MAX_READ, MAX_SLICES};
use crate::sys::sockopt::set_linger_zero;

/// See the module. `W` is [`broken`] of the same socket.
pub(super) struct TcpEnd<'a, W: Future<Output = io::Error>> {
    read: &'a ReadHalf<'a>,
    write: WriteHalf<'a>,
    broken: Pin<&'a mut W>,
    buffer: BytesMut,
    /// Size of the next read.
    size: usize,
    complete: bool,
}

impl<'a, W: Future<Output = io::Error>> TcpEnd<'a, W> {
    pub(super) fn new(read: &'a ReadHalf<'a>, write: WriteHalf<'a>, broken: Pin<&'a mut W>) -> Self {
        Self { read, write, broken, buffer: BytesMut::new(), size: FIRST_READ, complete: false }
    }

    /// Learns from a read of `n` bytes into `room`.
    fn adapt(&mut self, n: usize, room: usize) {
        if n == room {
            self.size = (self.size * 4).min(MAX_READ);
            return;
        }
        // A short read means that the socket is empty: saying so saves the read that would find out. No edge can be
        // lost in between, because only this thread looks for readiness; a FIN or an error stays set in any case.
        let _ = self.read.as_ref().try_io(Interest::READABLE, would_block::<()>);
        if n < self.size / 4 {
            self.size = (self.size / 2).max(FIRST_READ);
        }
    }
}

impl<W: Future<Output = io::Error>> End for TcpEnd<'_, W> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<bool>, Broken> {
        // One read at a time, so that a slow sink leaves the rest with the sender.
        if !queue.is_empty() {
            return Ok(Poll::Pending);
        }
        loop {
            if self.read.as_ref().poll_read_ready(cx)?.is_pending() {
                // An idle connection keeps no buffer.
                self.buffer = BytesMut::new();
                return Ok(Poll::Pending);
            }
            self.buffer.reserve(self.size);
            // No more than that, whatever room there is: a rest would be a frame of its own.
            let room = self.size;
            match self.read.try_read_buf(&mut (&mut self.buffer).limit(room)) {
                Ok(0) => return Ok(Poll::Ready(false)),
                Ok(n) => {
                    queue.push(self.buffer.split().freeze());
                    self.adapt(n, room);
                    return Ok(Poll::Ready(true));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<usize>, Broken> {
        loop {
            if self.write.as_ref().poll_write_ready(cx)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut used = 0;
            let mut offered = 0;
            for (slice, piece) in slices.iter_mut().zip(queue.iter()) {
                *slice = IoSlice::new(piece);
                offered += piece.len();
                used += 1;
            }
            match self.write.try_write_vectored(&slices[..used]) {
                Ok(n) => {
                    if n < offered {
                        // As with short reads: the socket is full.
                        let _ = self.write.as_ref().try_io(Interest::WRITABLE, would_block::<()>);
                    }
                    queue.advance(n);
                    return Ok(Poll::Ready(n));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        match Pin::new(&mut self.write).poll_shutdown(cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(e)) => Err(e.into()),
            Poll::Ready(Ok(())) => {
                // What is in flight before the FIN must survive the close.
                set_linger_zero(self.write.as_ref(), false)?;
                Ok(Poll::Ready(()))
            }
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.broken.as_mut().poll(cx).map(Broken::Socket)
    }

    fn passed_on(&mut self, _: usize) {}

    fn complete(&mut self) {
        self.complete = true;
    }
}

impl<W: Future<Output = io::Error>> Drop for TcpEnd<'_, W> {
    fn drop(&mut self) {
        if !self.complete {
            // A socket that refuses the option is already gone.
            let _ = set_linger_zero(self.write.as_ref(), true);
        }
    }
}

/// Resolves with the socket's error once it has one, without reading.
pub(super) async fn broken(socket: &ReadHalf<'_>) -> io::Error {
    loop {
        if let Err(e) = socket.ready(Interest::ERROR).await {
            return e;
        }
        let error = socket.as_ref().try_io(Interest::ERROR, || match socket.as_ref().take_error()? {
            Some(e) => Ok(e),
            None => would_block(),
        });
        match error {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(e) | Err(e) => return e,
        }
    }
}

/// For `try_io`: clears the readiness that tokio remembers.
fn would_block<T>() -> io::Result<T> {
    Err(io::ErrorKind::WouldBlock.into())
}
