//! The serving end of a tunnel: CONNECT streams in, one handler task each.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use mesh_core::net::authority::parse_connect_authority;
use tokio::time::Instant;

use super::{
    CONNECTION_WINDOW, FRAME, MAX_PEER_ERRORS, PING_INTERVAL, PING_TIMEOUT, REMEMBERED_FOR,
    REMEMBERED_RESETS, SEND_BUFFER, STREAM_WINDOW, ServeError, Stream,
};
use crate::frames::{Guarded, dismiss};
use crate::run::drain::Drain;
use crate::run::tasks;
use crate::tls::{Peer, TlsStream};

/// A future of this thread.
pub type LocalBoxFuture = Pin<Box<dyn Future<Output = ()>>>;

/// What happens to each stream.
pub type Handler = Rc<dyn Fn(Incoming) -> LocalBoxFuture>;

/// Bounds of one served tunnel.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Streams at the same time; the peer is told, and refused beyond it.
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
    /// Called for every well-formed CONNECT.
    pub handler: Handler,
    /// Called with a stable token for every request that is refused before the handler sees it: `not_connect` or
    /// `bad_authority`.
    pub on_refused: Rc<dyn Fn(&'static str)>,
    /// GOAWAY when it begins, the end of everything when it is forced.
    pub drain: Drain,
}

impl Server {
    /// Serves one tunnel until it ends. `local` is the address the peer connected to.
    pub async fn serve(&self, tls: TlsStream, peer: Peer, local: SocketAddr) -> Result<(), ServeError> {
        let (io, watch) = Guarded::server(tls);
        let handshake = tokio::time::timeout(self.limits.preface, self.builder().handshake(io));
        let mut conn = match handshake.await {
            Err(_) => return Err(ServeError::PrefaceDeadline),
            Ok(Err(e)) => return Err(ServeError::Handshake(e)),
            Ok(Ok(conn)) => conn,
        };
        let pings = conn.ping_pong().expect("taken once per connection");
        let result = tokio::select! {
            result = self.streams(&mut conn, &peer, local) => result,
            () = watch.enough() => Err(ServeError::Flood),
            () = keepalive(pings) => Err(ServeError::PeerDead),
            () = self.drain.forced() => Err(ServeError::Forced),
        };
        if matches!(result, Err(ServeError::Flood | ServeError::ResetFlood)) {
            dismiss(&mut conn).await;
        }
        result
    }

    fn builder(&self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(self.limits.header_list)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(REMEMBERED_FOR)
            .max_local_error_reset_streams(Some(MAX_PEER_ERRORS));
        builder
    }

    async fn streams(
        &self,
        conn: &mut Connection<Guarded<TlsStream>, Bytes>,
        peer: &Peer,
        local: SocketAddr,
    ) -> Result<(), ServeError> {
        let mut idle = pin!(tokio::time::sleep(self.limits.idle));
        let valid_for = peer.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        let mut leave = pin!(async {
            // A peer whose certificate has ended may finish what it has begun; for more it must prove itself anew.
            tokio::select! {
                () = self.drain.graceful() => {}
                () = tokio::time::sleep(valid_for) => {}
            }
        });
        let mut leaving = false;
        let resets = Rc::new(ResetBudget::default());
        loop {
            let mut leave_now = false;
            tokio::select! {
                next = conn.accept() => match next {
                    None => return Ok(()),
                    // Many peers hang up without a goodbye; if nothing was under way, nothing was lost.
                    Some(Err(e)) if e.is_io() && !conn.has_streams() => return Ok(()),
                    Some(Err(e)) => return Err(ServeError::Connection(e)),
                    Some(Ok(_)) if resets.is_spent() => return Err(ServeError::ResetFlood),
                    Some(Ok((request, respond))) => {
                        let caller = Caller { peer: peer.clone(), local, resets: resets.clone() };
                        self.begin(request, respond, caller);
                    }
                },
                () = &mut leave, if !leaving => leave_now = true,
                () = &mut idle, if !leaving => {
                    leave_now = !conn.has_streams();
                    idle.as_mut().reset(Instant::now() + self.limits.idle);
                }
            }
            if leave_now {
                leaving = true;
                conn.graceful_shutdown();
            }
        }
    }

    /// Checks a request and hands it on.
    fn begin(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, caller: Caller) {
        let (head, recv) = request.into_parts();
        let target = match head.uri.authority() {
            _ if head.method != Method::CONNECT => Err("not_connect"),
            Some(authority) => parse_connect_authority(authority.as_str()).map_err(|_| "bad_authority"),
            None => Err("bad_authority"),
        };
        match target {
            Ok(authority) => {
                let Caller { peer, local, resets } = caller;
                let incoming =
                    Incoming { authority, peer, local, headers: head.headers, respond, recv, resets };
                tasks::spawn_local("hbone stream", (self.handler)(incoming));
            }
            Err(reason) => {
                (self.on_refused)(reason);
                // If the stream is gone already, nobody is waiting for the answer.
                let _ = respond.send_response(answer(StatusCode::BAD_REQUEST), true);
            }
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
    /// The request's other headers: `forwarded`, `baggage`, `traceparent`. Claims, not facts.
    pub headers: HeaderMap,
    respond: SendResponse<Bytes>,
    recv: RecvStream,
    resets: Rc<ResetBudget>,
}

impl Incoming {
    /// Answers 200; from now on bytes flow.
    pub fn accept(mut self) -> Result<Stream, h2::Error> {
        let send =
            self.respond.send_response(answer(StatusCode::OK), false).inspect_err(|_| self.resets.take())?;
        Ok(Stream { send, recv: self.recv, lease: None })
    }

    /// Answers `status` and ends the stream.
    pub fn reject(mut self, status: StatusCode) {
        // If the stream is gone already, nobody is waiting for the answer.
        if self.respond.send_response(answer(status), true).is_err() {
            self.resets.take();
        }
    }

    /// Resolves when the peer gives up before an answer, so that what was begun for it can be stopped.
    pub async fn gone(&mut self) {
        // Whatever the reason, and also if the tunnel broke.
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
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
struct Caller {
    peer: Peer,
    local: SocketAddr,
    resets: Rc<ResetBudget>,
}

/// Counts requests that were taken back before they were answered. Each costs us a policy check and a connection, and
/// costs the peer two small frames; HTTP/2's limit of streams does not see them, because they free their place.
struct ResetBudget {
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

    fn is_spent(&self) -> bool {
        self.taken.get() > MAX_EARLY_RESETS && self.since.get().elapsed() < Duration::from_secs(1)
    }
}

/// Resolves when the peer no longer answers pings (or no longer is there, which the connection notices as well).
async fn keepalive(mut pings: PingPong) {
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

fn answer(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

/// Requests of one tunnel taken back before their answer, per second. A busy node whose applications give up on a
/// dead service stays well below.
const MAX_EARLY_RESETS: u32 = 500;
