//! The serving end of a tunnel: requests for connections in, one handler task each.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{Carrier, ServeError, Stream, StreamError, hbone, mux};
use crate::run::drain::Drain;
use crate::run::tasks;
use crate::tls::{Peer, Protocol, TlsStream};

/// A future of this thread.
pub type LocalBoxFuture = Pin<Box<dyn Future<Output = ()>>>;

/// What happens to each stream.
pub type Handler = Rc<dyn Fn(Incoming) -> LocalBoxFuture>;

/// Bounds of one served tunnel.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Streams of HBONE at the same time; the peer is told, and refused beyond it. `mesh/1` has a number of its own.
    pub streams: u32,
    /// Bytes of a request's headers, decoded.
    pub header_list: u32,
    /// Until the HTTP/2 preface.
    pub preface: Duration,
    /// A tunnel without streams is closed after this long.
    pub idle: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            streams: 200,
            header_list: 64 << 10,
            preface: Duration::from_secs(5),
            idle: Duration::from_secs(5 * 60),
        }
    }
}

/// Serves the tunnels of one listener.
#[derive(Clone)]
pub struct Server {
    /// Bounds.
    pub limits: ServeLimits,
    /// Called for every well-formed request.
    pub handler: Handler,
    /// Called with a stable token for every request that is refused before the handler sees it: `not_connect` or
    /// `bad_authority`.
    pub on_refused: Rc<dyn Fn(&'static str)>,
    /// A goodbye when it begins, the end of everything when it is forced.
    pub drain: Drain,
}

impl Server {
    /// Serves one tunnel until it ends. `local` is the address the peer connected to.
    pub async fn serve(&self, tls: TlsStream, peer: Peer, local: SocketAddr) -> Result<(), ServeError> {
        let (proof, protocol) = (peer.proof.clone(), peer.protocol);
        let caller = Caller { peer, local, resets: Rc::default() };
        let served = async {
            match protocol {
                Protocol::Hbone => hbone::serve::serve(self, tls, caller).await,
                Protocol::Mesh => mux::serve::serve(self, tls, caller).await,
            }
        };
        // Its end takes all streams along.
        tokio::select! {
            result = served => result,
            error = proof.refuted() => Err(ServeError::Refuted(error)),
        }
    }

    /// Hands a well-formed request on.
    pub(super) fn hand_on(&self, caller: &Caller, authority: SocketAddr, headers: HeaderMap, answer: Answer) {
        let Caller { peer, local, resets } = caller;
        let (peer, resets) = (peer.clone(), Rc::clone(resets));
        let incoming = Incoming { authority, peer, local: *local, headers, answer, resets };
        tasks::spawn_local("tunnel stream", (self.handler)(incoming));
    }

    /// Resolves when the peer is to be told that nothing more is taken.
    pub(super) async fn leave(&self, peer: &Peer) {
        let valid_for = peer.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        // A peer whose certificate has ended may finish what it has begun; for more it must prove itself anew.
        tokio::select! {
            () = self.drain.graceful() => {}
            () = tokio::time::sleep(valid_for) => {}
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A peer's wish to be connected. Dropped without an answer, it is reset.
pub struct Incoming {
    /// Where to, canonical.
    pub authority: SocketAddr,
    /// Who asks.
    pub peer: Peer,
    /// The address the peer's tunnel goes to.
    pub local: SocketAddr,
    /// What else the peer says: `forwarded`, `baggage`, `traceparent`. Claims, not facts.
    pub headers: HeaderMap,
    answer: Answer,
    resets: Rc<ResetBudget>,
}

/// Where the answer goes.
pub(super) enum Answer {
    Hbone(hbone::serve::Answer),
    Mux(mux::Stream),
}

impl Incoming {
    /// Says yes; from now on bytes flow.
    pub fn accept(self) -> Result<Stream, StreamError> {
        let carrier = match self.answer {
            Answer::Hbone(answer) => answer.accept().map(Carrier::Hbone),
            Answer::Mux(stream) => stream.accept().map(Carrier::Mux),
        };
        carrier.map(|carrier| Stream::new(carrier, None)).inspect_err(|_| self.resets.take())
    }

    /// Answers `status` and ends the stream.
    pub fn reject(self, status: StatusCode) {
        let rejected = match self.answer {
            Answer::Hbone(answer) => answer.reject(status),
            Answer::Mux(stream) => stream.reject(status),
        };
        // If the stream is gone already, nobody is waiting for the answer.
        if rejected.is_err() {
            self.resets.take();
        }
    }

    /// Resolves when the peer gives up before an answer, so that what was begun for it can be stopped.
    pub async fn gone(&mut self) {
        // Whatever the reason, and also if the tunnel broke.
        match &mut self.answer {
            Answer::Hbone(answer) => answer.gone().await,
            Answer::Mux(stream) => drop(std::future::poll_fn(|cx| stream.poll_broken(cx)).await),
        }
        self.resets.take();
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("authority", &self.authority)
            .field("peer", &self.peer.id)
            .finish_non_exhaustive()
    }
}

/// What all requests of a tunnel share.
pub(super) struct Caller {
    pub(super) peer: Peer,
    pub(super) local: SocketAddr,
    pub(super) resets: Rc<ResetBudget>,
}

/// Counts requests that were taken back before they were answered. Each costs us a policy check and a connection, and
/// costs the peer two small frames; HTTP/2's limit of streams does not see them, because they free their place.
pub(super) struct ResetBudget {
    since: Cell<Instant>,
    taken: Cell<u32>,
}

impl Default for ResetBudget {
    fn default() -> Self {
        Self { since: Cell::new(Instant::now()), taken: Cell::new(0) }
    }
}

impl ResetBudget {
    fn take(&self) {
        if self.since.get().elapsed() >= Duration::from_secs(1) {
            self.since.set(Instant::now());
            self.taken.set(0);
        }
        self.taken.set(self.taken.get() + 1);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.taken.get() > MAX_EARLY_RESETS && self.since.get().elapsed() < Duration::from_secs(1)
    }
}

/// Requests of one tunnel taken back before their answer, per second. A busy node whose applications give up on a
/// dead service stays well below.
const MAX_EARLY_RESETS: u32 = 500;
