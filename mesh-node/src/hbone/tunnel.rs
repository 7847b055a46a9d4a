//! One client-side tunnel: an HTTP/2 connection, the task that drives it, and who uses it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::{Method, Request, Version};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pool::ConnectRequest;
use super::{
    CONNECTION_WINDOW, FRAME, MAX_PEER_ERRORS, OpenError, PING_INTERVAL, PING_TIMEOUT, REMEMBERED_FOR,
    REMEMBERED_RESETS, SEND_BUFFER, STREAM_WINDOW, Stage, Stream,
};
use crate::frames::Guarded;
use crate::identity::Svid;
use crate::run::drain::Drain;
use crate::tls::{Peer, TlsStream};

/// What carries a tunnel.
pub(super) type Connection = h2::client::Connection<Guarded<TlsStream>, Bytes>;

/// See the module. Shared by the pool, the driver and every lease.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// `None` once no new stream may begin; the connection then ends with its last stream.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// The certificate it was made with.
    svid: Arc<Svid>,
    /// The peer's certificate ends here.
    peer_not_after: SystemTime,
    streams: Cell<usize>,
    /// Whether the peer's settings arrived, that is, whether its limit of streams is known.
    settled: Cell<bool>,
    idle_since: Cell<Instant>,
    /// Told when the driver should look around: idle, or retired.
    stir: Notify,
}

/// The right to one stream of a tunnel; counts as one until dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    tunnel: Rc<Tunnel>,
}

/// How a tunnel is driven.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// Closed after this long without streams.
    pub(super) idle: Duration,
    /// Until the peer's settings.
    pub(super) settle: Duration,
}

impl Tunnel {
    /// Starts HTTP/2 on a TLS connection. The connection must then be given to [`drive`].
    pub(super) async fn start(
        tls: TlsStream,
        peer: &Peer,
        svid: Arc<Svid>,
    ) -> Result<(Rc<Self>, Connection), h2::Error> {
        let (io, _) = Guarded::client(tls);
        let (sender, conn) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(MAX_RESPONSE_HEADERS)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(REMEMBERED_FOR)
            .max_local_error_reset_streams(Some(MAX_PEER_ERRORS))
            .enable_push(false)
            .handshake(io)
            .await?;
        let tunnel = Rc::new(Self {
            sender: RefCell::new(Some(sender)),
            svid,
            peer_not_after: peer.not_after,
            streams: Cell::new(0),
            settled: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            stir: Notify::new(),
        });
        Ok((tunnel, conn))
    }

    /// Whether a new stream under `svid` may begin here at `now`. A rotated or expired certificate, at either end,
    /// takes the tunnel out of use.
    pub(super) fn serves(&self, svid: &Arc<Svid>, now: SystemTime) -> bool {
        Arc::ptr_eq(&self.svid, svid)
            && svid.is_valid_at(now)
            && now < self.peer_not_after
            && !self.is_retired()
    }

    /// A lease, if the tunnel is settled and has room below `limit` and the peer's own limit.
    pub(super) fn lease(self: &Rc<Self>, limit: usize) -> Option<Lease> {
        let peer_limit = self.sender.borrow().as_ref()?.current_max_send_streams();
        (self.settled.get() && self.streams.get() < limit.min(peer_limit)).then(|| self.lease_first())
    }

    /// The maker's own lease: the first stream goes out before the peer's settings are in.
    pub(super) fn lease_first(self: &Rc<Self>) -> Lease {
        self.streams.set(self.streams.get() + 1);
        Lease { tunnel: self.clone() }
    }

    /// No new streams; the connection ends with its last one.
    pub(super) fn retire(&self) {
        self.sender.borrow_mut().take();
        self.stir.notify_one();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.sender.borrow().is_none()
    }

    fn peer_takes_streams(&self) -> bool {
        self.sender.borrow().as_ref().is_none_or(|sender| sender.current_max_send_streams() > 0)
    }

    /// Resolves once the tunnel has been without streams for `idle`, or was retired.
    async fn unused(&self, idle: Duration) {
        while !self.is_retired() {
            let stir = self.stir.notified();
            if self.streams.get() > 0 {
                stir.await;
                continue;
            }
            let end = self.idle_since.get() + idle;
            if end <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(end) => {}
                () = stir => {}
            }
        }
    }
}

impl Lease {
    /// Sends CONNECT and waits for the answer, at most `deadline`.
    pub(super) async fn connect(
        self,
        request: &ConnectRequest,
        deadline: Duration,
    ) -> Result<Stream, OpenError> {
        match tokio::time::timeout(deadline, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(OpenError::Deadline(Stage::Connect)),
        }
    }

    async fn exchange(self, request: &ConnectRequest) -> Result<Stream, OpenError> {
        let sender = self.tunnel.sender.borrow().clone();
        let Some(sender) = sender else {
            return Err(OpenError::TunnelLost("it was retired".into()));
        };
        let mut sender = sender.ready().await.map_err(|e| self.lost(&e))?;
        let (response, send) = sender.send_request(head(request), false).map_err(|e| self.lost(&e))?;
        // A clone that lives on would keep a retired tunnel from ending.
        drop(sender);
        let response = response.await.map_err(|e| self.lost(&e))?;
        if !response.status().is_success() {
            return Err(OpenError::Refused { status: response.status() });
        }
        Ok(Stream { send, recv: response.into_body(), lease: Some(self) })
    }

    /// Sorts an error before the answer; one that concerns the whole tunnel retires it.
    fn lost(&self, e: &h2::Error) -> OpenError {
        match e.reason() {
            Some(reason) if e.is_reset() && e.is_remote() => OpenError::Reset(reason),
            _ => {
                self.tunnel.retire();
                let text = e.to_string().into();
                if self.tunnel.settled.get() {
                    OpenError::TunnelLost(text)
                } else {
                    OpenError::H2Handshake(text)
                }
            }
        }
    }

    /// The tunnel it is for.
    pub(super) fn tunnel(&self) -> &Rc<Tunnel> {
        &self.tunnel
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let left = self.tunnel.streams.get() - 1;
        self.tunnel.streams.set(left);
        if left == 0 {
            self.tunnel.idle_since.set(Instant::now());
            self.tunnel.stir.notify_one();
        }
    }
}

/// Runs a tunnel to its end. `settled` is called once: when the peer's settings are in, or with the reason why they
/// never will be.
pub(super) async fn drive(
    tunnel: Rc<Tunnel>,
    mut conn: Connection,
    timing: Timing,
    drain: Drain,
    settled: impl FnOnce(Result<(), OpenError>),
) {
    let mut pings = conn.ping_pong().expect("taken once per connection");
    let mut conn = std::pin::pin!(conn);

    // The answer to a ping comes after the peer's settings, whatever else it does meanwhile.
    let first = tokio::select! {
        ended = conn.as_mut() => {
            let why = ended.err().map_or_else(|| "it was closed".to_owned(), |e| e.to_string());
            Err(OpenError::H2Handshake(why.into()))
        }
        answer = tokio::time::timeout(timing.settle, pings.ping(Ping::opaque())) => match answer {
            Err(_) => Err(OpenError::Deadline(Stage::H2Handshake)),
            Ok(Err(e)) => Err(OpenError::H2Handshake(e.to_string().into())),
            Ok(Ok(_)) if !tunnel.peer_takes_streams() => Err(OpenError::H2Handshake("no streams allowed".into())),
            Ok(Ok(_)) => Ok(()),
        },
        () = drain.forced() => Err(OpenError::TunnelLost("the drain's deadline passed".into())),
    };
    let failed = first.is_err();
    tunnel.settled.set(!failed);
    if failed {
        tunnel.retire();
    }
    settled(first);
    if failed {
        return;
    }

    let until_unused = async {
        tokio::select! {
            _ = conn.as_mut() => return,
            () = tunnel.unused(timing.idle) => tunnel.retire(),
        }
        // Ends with the last stream. How is each stream's own business.
        let _ = conn.as_mut().await;
    };
    tokio::select! {
        () = until_unused => {}
        () = silence(pings) => tracing::debug!(identity = %tunnel.svid.id(), "Tunnel peer no longer answers."),
        () = drain.forced() => {}
    }
    tunnel.retire();
}

/// Resolves when the peer no longer answers pings.
async fn silence(mut pings: PingPong) {
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        match tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is over, which its own future says.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

fn head(request: &ConnectRequest) -> Request<()> {
    let uri = http::Uri::builder()
        .authority(request.authority.to_string())
        .build()
        .expect("an address and a port are an authority");
    let mut head = Request::new(());
    *head.method_mut() = Method::CONNECT;
    *head.version_mut() = Version::HTTP_2;
    *head.uri_mut() = uri;
    let named = [
        ("forwarded", &request.forwarded),
        ("baggage", &request.baggage),
        ("traceparent", &request.traceparent),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            head.headers_mut().insert(name, value.clone());
        }
    }
    head
}

/// Bytes of a response's headers, decoded.
const MAX_RESPONSE_HEADERS: u32 = 16 << 10;
