//! HBONE, the tunnel between nodes: one HTTP/2 CONNECT stream per carried connection, over mutual TLS.
//!
//! A stream's `END_STREAM` is the carried connection's FIN; any reset, and the death of the tunnel, is its RST. Data
//! flows only after the far end answered 200, that is, after it reached the application.
//!
//! Invariant: a tunnel carries streams of one source identity to one destination identity, both proven when it was
//! made; it is never lent to any other pair.

use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

mod error;
mod pool;
mod serve;
#[cfg(test)]
pub(crate) mod testkit;
mod tunnel;

pub use error::{OpenError, ServeError, Stage};
pub use pool::{ConnectRequest, Pool, PoolOptions, TunnelKey};
pub use serve::{Handler, Incoming, LocalBoxFuture, ServeLimits, Server};

/// One carried connection: what is sent and what is received, each closed by itself.
#[derive(Debug)]
pub struct Stream {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) recv: RecvStream,
    /// Client side: keeps the tunnel's count of streams.
    #[expect(dead_code, reason = "held for what its destructor does")]
    pub(crate) lease: Option<tunnel::Lease>,
}

/// Unread bytes a peer may send on one stream: what one slow reader can cost us. Carries 4 Gb/s over 2 ms.
const STREAM_WINDOW: u32 = 1 << 20;
/// Unread bytes on all streams of a tunnel together. As much as the streams of a full tunnel, or else a few readers
/// that have stopped would stop all the others between two pods.
const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;
/// Frames of one TLS record; larger ones measured slower.
const FRAME: u32 = 16 << 10;
/// Bytes of one stream that wait in HTTP/2 for the socket; the rest waits in the application's socket.
const SEND_BUFFER: usize = 256 << 10;
/// Streams we reset that are remembered, and for how long, so that data still under way to them is dropped quietly.
/// Data for a stream that was forgotten counts as an error of the peer's, and [`MAX_PEER_ERRORS`] of those in its
/// whole life end a tunnel, which a few applications that hang up on downloads would soon reach otherwise.
const REMEMBERED_RESETS: usize = 500;
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// Stream errors of a peer before its tunnel is ended: nobody makes that many by mistake.
const MAX_PEER_ERRORS: usize = 10_000;
/// A tunnel's other end is asked this often whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// And is taken for dead after this long without an answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
