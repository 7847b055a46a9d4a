//! HBONE, as ambient Istio speaks it: one HTTP/2 CONNECT stream for each carried connection.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};

use super::{PING_INTERVAL, PING_TIMEOUT, StreamError};

pub(super) mod client;
pub(super) mod serve;

/// One carried connection.
#[derive(Debug)]
pub(super) struct Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Bytes received whose window has not been given back.
    owed: usize,
}

impl Stream {
    fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, owed: 0 }
    }

    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        Poll::Ready(match ready!(self.recv.poll_data(cx)) {
            Some(Ok(data)) => {
                self.owed += data.len();
                Some(Ok(data))
            }
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    pub(super) fn taken(&mut self, bytes: usize) {
        let bytes = bytes.min(self.owed);
        self.owed -= bytes;
        // Fails only if the stream is gone, and its window with it.
        let _ = self.recv.flow_control().release_capacity(bytes);
    }

    pub(super) fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Result<usize, StreamError>> {
        self.send.reserve_capacity(wanted);
        loop {
            let room = self.send.capacity().min(wanted).min(DATA_FRAME);
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Err(self.why(cx))),
            }
        }
    }

    pub(super) fn send(&mut self, cx: &mut Context<'_>, bytes: Bytes) -> Result<(), StreamError> {
        self.send.send_data(bytes, false).map_err(|_| self.why(cx))
    }

    pub(super) fn finish(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        self.send.send_data(Bytes::new(), true).map_err(|_| self.why(cx))
    }

    pub(super) fn reset(&mut self) {
        // The code RFC 9113 (8.5) gives a reset of the carried connection.
        self.send.send_reset(Reason::CONNECT_ERROR);
    }

    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.send.poll_reset(cx).map(|reason| match reason {
            Ok(reason) => StreamError::Reset(reason.to_string()),
            Err(error) => error.into(),
        })
    }

    /// Why the sending half no longer takes anything.
    fn why(&mut self, cx: &mut Context<'_>) -> StreamError {
        match self.poll_broken(cx) {
            Poll::Ready(error) => error,
            Poll::Pending => StreamError::Lost("the stream is closed".to_owned()),
        }
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason.to_string()),
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// Resolves when the peer no longer answers pings.
async fn silence(mut pings: PingPong) {
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        match tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection itself ends with a better reason than ours.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Unread bytes a peer may send on one stream: what one slow reader can cost us. Carries 4 Gb/s over 2 ms.
const STREAM_WINDOW: u32 = 1 << 20;
/// Unread bytes on all streams of a tunnel together. As much as the streams of a full tunnel, or else a few readers
/// that have stopped would stop all the others between two pods.
const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;
/// Frames of one TLS record; larger ones measured slower.
const FRAME: u32 = 16 << 10;
/// With its header of 9 bytes, such a frame fills one TLS record exactly.
const DATA_FRAME: usize = (16 << 10) - 9;
/// Bytes of one stream that wait in HTTP/2 for the socket; the rest waits in the application's socket.
const SEND_BUFFER: usize = 256 << 10;
/// Streams we reset that are remembered, and for how long, so that data still under way to them is dropped quietly.
/// Data for a stream that was forgotten counts as an error of the peer's, and [`MAX_PEER_ERRORS`] of those in its
/// whole life end a tunnel, which a few applications that hang up on downloads would soon reach otherwise.
const REMEMBERED_RESETS: usize = 500;
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// Stream errors of a peer before its tunnel is ended: nobody makes that many by mistake.
const MAX_PEER_ERRORS: usize = 10_000;

#[cfg(test)]
mod tests;
