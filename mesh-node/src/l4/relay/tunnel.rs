//! A stream of a tunnel as an end of a relay.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;

use super::MAX_BATCH;
use super::end::{Broken, End, Queue};
use crate::hbone::Stream;

/// See the module.
pub(super) struct TunnelEnd {
    stream: Stream,
    /// Bytes read whose window has not been given back.
    unreleased: usize,
    complete: bool,
}

impl TunnelEnd {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, unreleased: 0, complete: false }
    }

    /// Why the sending half no longer takes anything.
    fn why(&mut self, cx: &mut Context<'_>) -> Broken {
        match self.stream.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Broken::Reset(reason),
            Poll::Ready(Err(e)) => broken(&e),
            Poll::Pending => Broken::Lost("the stream is closed".to_owned()),
        }
    }
}

impl End for TunnelEnd {
    fn poll_fill(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<bool>, Broken> {
        let before = queue.len();
        while queue.len() < MAX_BATCH {
            match self.stream.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.unreleased += data.len();
                    queue.push(data);
                }
                Poll::Ready(Some(Err(e))) => return Err(broken(&e)),
                Poll::Ready(None) => return Ok(Poll::Ready(false)),
                Poll::Pending if queue.len() == before => return Ok(Poll::Pending),
                Poll::Pending => return Ok(Poll::Ready(true)),
            }
        }
        Ok(if queue.len() == before { Poll::Pending } else { Poll::Ready(true) })
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<usize>, Broken> {
        let send = &mut self.stream.send;
        let mut moved = 0;
        while !queue.is_empty() {
            send.reserve_capacity(queue.len());
            let capacity = send.capacity();
            if capacity > 0 {
                let data = queue.take(capacity.min(DATA_FRAME));
                moved += data.len();
                if send.send_data(data, false).is_err() {
                    return Err(self.why(cx));
                }
                continue;
            }
            match send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(e))) => return Err(broken(&e)),
                Poll::Ready(None) => return Err(self.why(cx)),
                Poll::Pending if moved == 0 => return Ok(Poll::Pending),
                Poll::Pending => break,
            }
        }
        Ok(Poll::Ready(moved))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        match self.stream.send.send_data(Bytes::new(), true) {
            Ok(()) => Ok(Poll::Ready(())),
            Err(_) => Err(self.why(cx)),
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match self.stream.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Poll::Ready(Broken::Reset(reason)),
            Poll::Ready(Err(e)) => Poll::Ready(broken(&e)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn passed_on(&mut self, n: usize) {
        let n = n.min(self.unreleased);
        self.unreleased -= n;
        // Fails only if the stream is gone, and its window with it.
        let _ = self.stream.recv.flow_control().release_capacity(n);
    }

    fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for TunnelEnd {
    fn drop(&mut self) {
        if !self.complete {
            // The code RFC 9113 (8.5) gives a reset of the carried connection.
            self.stream.send.send_reset(Reason::CONNECT_ERROR);
        }
    }
}

fn broken(e: &h2::Error) -> Broken {
    match e.reason() {
        Some(reason) if e.is_reset() => Broken::Reset(reason),
        _ => Broken::Lost(e.to_string()),
    }
}

/// With its header of 9 bytes, such a frame fills one TLS record exactly.
const DATA_FRAME: usize = (16 << 10) - 9;
