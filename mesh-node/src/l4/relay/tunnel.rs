//! A stream of a tunnel as an end of a relay.

use std::task::{Context, Poll};

use super::MAX_BATCH;
use super::end::{Broken, End, Queue};
use crate::tunnel::Stream;

/// See the module.
pub(super) struct TunnelEnd {
    stream: Stream,
    complete: bool,
}

impl TunnelEnd {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, complete: false }
    }
}

impl End for TunnelEnd {
    fn poll_fill(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<bool>, Broken> {
        let before = queue.len();
        while queue.len() < MAX_BATCH {
            match self.stream.poll_receive(cx) {
                Poll::Ready(Some(Ok(data))) => queue.push(data),
                Poll::Ready(Some(Err(error))) => return Err(error.into()),
                Poll::Ready(None) => return Ok(Poll::Ready(false)),
                Poll::Pending if queue.len() == before => return Ok(Poll::Pending),
                Poll::Pending => return Ok(Poll::Ready(true)),
            }
        }
        Ok(if queue.len() == before { Poll::Pending } else { Poll::Ready(true) })
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<usize>, Broken> {
        let mut moved = 0;
        while !queue.is_empty() {
            match self.stream.poll_room(cx, queue.len()) {
                Poll::Ready(Ok(room)) => {
                    let data = queue.take(room);
                    moved += data.len();
                    self.stream.send(cx, data)?;
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending if moved == 0 => return Ok(Poll::Pending),
                Poll::Pending => break,
            }
        }
        Ok(Poll::Ready(moved))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        self.stream.finish(cx)?;
        Ok(Poll::Ready(()))
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.stream.poll_broken(cx).map(Broken::from)
    }

    fn passed_on(&mut self, n: usize) {
        self.stream.taken(n);
    }

    fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for TunnelEnd {
    fn drop(&mut self) {
        if !self.complete {
            self.stream.reset();
        }
    }
}
