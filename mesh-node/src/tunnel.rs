//! Tunnels between nodes: many carried connections over one connection of mutual TLS.
//!
//! Two protocols do it, chosen by ALPN in the handshake: [`hbone`], one HTTP/2 CONNECT stream for each, which every peer
//! of ambient Istio speaks; and [`mux`], `mesh/1`, a framing of our own that nodes of this mesh prefer among themselves.
//! Who may talk to whom, what is counted and how a node drains is the same above both.
//!
//! A stream's end is the carried connection's FIN; any reset, and the death of the tunnel, is its RST. Data reaches nobody
//! before the far end has accepted, that is, before it has reached the application; the first of it may wait there ([`Early`]).
//!
//! Invariant: a tunnel carries streams of one source identity to one destination identity, both proven when it was
//! made; it is never lent to any other pair.

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::tls::Agreed;

mod client;
mod early;
mod error;
mod hbone;
mod mux;
mod pool;
mod serve;
#[cfg(test)]
pub(crate) mod testkit;

pub use early::Early;
pub use error::{OpenError, ServeError, Stage, StreamError};
pub use pool::{ConnectRequest, Pool, PoolOptions, TunnelKey};
pub use serve::{Handler, Incoming, LocalBoxFuture, ServeLimits, Server};

/// One carried connection: what is sent and what is received, each ended by itself.
#[derive(Debug)]
pub struct Stream {
    carrier: Carrier,
    /// Client side: keeps the tunnel's count of streams.
    lease: Option<client::Lease>,
}

#[derive(Debug)]
enum Carrier {
    Hbone(hbone::Stream),
    Mux(mux::Stream),
}

impl Stream {
    fn new(carrier: Carrier, lease: Option<client::Lease>) -> Self {
        Self { carrier, lease }
    }

    /// Client side: the tunnel's own address, as its other end sees it.
    pub fn local(&self) -> Option<SocketAddr> {
        self.lease.as_ref()?.tunnel().local
    }

    /// Client side: what was agreed on with the tunnel's other end.
    pub fn agreed(&self) -> Option<Agreed> {
        Some(self.lease.as_ref()?.tunnel().agreed)
    }

    /// The next bytes that came; none after the peer's FIN. [`Stream::taken`] must be told of them once they are passed on.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        match &mut self.carrier {
            Carrier::Hbone(stream) => stream.poll_receive(cx),
            Carrier::Mux(stream) => stream.poll_receive(cx),
        }
    }

    /// So many of the bytes received are passed on: the peer may send as many more.
    pub fn taken(&mut self, bytes: usize) {
        match &mut self.carrier {
            Carrier::Hbone(stream) => stream.taken(bytes),
            Carrier::Mux(stream) => stream.taken(bytes),
        }
    }

    /// How many of `wanted` bytes (at least one) can be sent at once: never none, and no more than fit a frame.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, StreamError>> {
        match &mut self.carrier {
            Carrier::Hbone(stream) => stream.poll_room(cx, wanted),
            Carrier::Mux(stream) => stream.poll_room(cx, wanted),
        }
    }

    /// Sends bytes, no more than [`Stream::poll_room`] has just said.
    pub fn send(&mut self, cx: &mut Context<'_>, bytes: Bytes) -> Result<(), StreamError> {
        match &mut self.carrier {
            Carrier::Hbone(stream) => stream.send(cx, bytes),
            Carrier::Mux(stream) => stream.send(bytes),
        }
    }

    /// Sends FIN.
    pub fn finish(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        match &mut self.carrier {
            Carrier::Hbone(stream) => stream.finish(cx),
            Carrier::Mux(stream) => stream.finish(),
        }
    }

    /// Sends RST.
    pub fn reset(&mut self) {
        match &mut self.carrier {
            Carrier::Hbone(stream) => stream.reset(),
            Carrier::Mux(stream) => stream.reset(),
        }
    }

    /// Resolves when the connection breaks, without receiving from it.
    pub fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match &mut self.carrier {
            Carrier::Hbone(stream) => stream.poll_broken(cx),
            Carrier::Mux(stream) => stream.poll_broken(cx),
        }
    }
}

/// A tunnel's other end is asked this often whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// And is taken for dead after this long without an answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
