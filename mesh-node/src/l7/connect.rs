//! From an endpoint to a request under way: a pooled connection, or a new one.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use mesh_core::cluster::{Http2KeepAlive, Overflow, Resource, Ticket, TlsPolicy, Upstream as Wanted};
use mesh_core::model::{Declared, Endpoint};

use super::announce::announce;
use super::cluster::{Cluster, Member};
use super::engine::Engine;
use super::h1::Limits;
use super::message::{Broken, Piece, RequestHead, ResponseHead, Version};
use super::originate::{self, Origination, Speaks};
use super::pool::{Kept, Place};
use super::shared::SharedCluster;
use super::site::{Dial, DialError, Dialled, Facts, Link};
use super::transfer::{Body, Sink, Upstream};
use super::up::h1::{H1Connection, H1Upstream};
use super::up::h2::H2Upstream;
use crate::frames::{Guarded, Watch};
use crate::run::tasks;
use crate::sys::sockopt;

/// A request under way on a connection.
pub struct Server {
    kind: Kind,
    member: Rc<Member>,
    /// Whether the connection had been used before.
    pub reused: bool,
    /// What is told of the connection.
    pub link: Link,
}

enum Kind {
    H1 { upstream: Box<H1Upstream>, born: Instant, name: Option<Arc<str>>, leave: Option<Leave> },
    H2 { upstream: Box<H2Upstream>, place: Place },
}

/// How an endpoint is connected to.
pub(super) struct Way<'a> {
    /// The endpoint.
    pub(super) endpoint: &'a Endpoint,
    /// TLS towards it, and what was made of that.
    pub(super) tls: (&'a TlsPolicy, &'a Origination),
    /// As [`Dial::probes`].
    pub(super) probes: bool,
}

/// Why a request could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// A circuit breaker is open.
    #[error("the limit of {} is reached", .0.0.as_str())]
    Overflow(Overflow),
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A connection broke before anything was sent.
    #[error("{0}")]
    Broken(Broken),
}

impl Engine {
    /// Sends the head of a request of a client to an endpoint.
    pub async fn begin(
        &self,
        cluster: &Rc<Cluster>,
        member: &Rc<Member>,
        head: &RequestHead,
        (now, facts): (Instant, &Facts),
    ) -> Result<Server, BeginError> {
        if speaks_h2(cluster, head) {
            // Boxed: few need it, and all would have to carry it.
            return Box::pin(self.begin_h2(cluster, member, head, facts)).await;
        }
        let pool = &cluster.policy.pool;
        if !is_limited(cluster)
            && let Some(kept) =
                member.pool.take(asked_name(cluster, head).as_deref(), pool.http.idle_timeout, now)
        {
            return h1(member, kept, head, (None, true));
        }
        Box::pin(self.begin_h1(cluster, member, head, facts)).await
    }

    async fn begin_h1(
        &self,
        cluster: &Rc<Cluster>,
        member: &Rc<Member>,
        head: &RequestHead,
        facts: &Facts,
    ) -> Result<Server, BeginError> {
        let leave = if is_limited(cluster) { Some(leave(cluster).await?) } else { None };
        let pool = &cluster.policy.pool;
        let name = asked_name(cluster, head);
        if let Some(kept) = member.pool.take(name.as_deref(), pool.http.idle_timeout, Instant::now()) {
            return h1(member, kept, head, (leave, true));
        }
        let speaks = (Speaks::Http1, name.as_deref());
        let dialled = self.dial(cluster, member, speaks, facts).await?;
        let link = dialled.link();
        let connection = H1Connection::new(dialled.io, link, dialled.held);
        h1(member, Kept { connection, born: Instant::now(), name }, head, (leave, false))
    }

    async fn begin_h2(
        &self,
        cluster: &Rc<Cluster>,
        member: &Rc<Member>,
        head: &RequestHead,
        facts: &Facts,
    ) -> Result<Server, BeginError> {
        let shared = cluster.policy.proxy_protocol.is_none();
        let name = asked_name(cluster, head);
        loop {
            let streams = cluster.policy.pool.http.max_concurrent_streams;
            let found = member.pool.place(name.as_deref(), streams).filter(|_| shared);
            let reused = found.is_some();
            let place = match found {
                Some(place) => place,
                None => self.connect_h2(cluster, member, name.clone(), facts).await?,
            };
            let begun = begin_stream(&place, head, cluster.policy.pool.connect_timeout).await;
            let worn = cluster.policy.pool.http.max_requests_per_connection;
            if begun.is_err() || !shared || worn.is_some_and(|most| place.served() >= most.get()) {
                place.retire();
            }
            match begun {
                Ok(Some(upstream)) => {
                    let link = place.link();
                    let kind = Kind::H2 { upstream: Box::new(upstream), place };
                    return Ok(Server { kind, member: Rc::clone(member), reused, link });
                }
                // The server has said since that it has no room on the connection, or that it is over, and nothing was
                // sent: that is no try.
                Ok(None) => {}
                Err(BeginError::Broken(Broken::Io(_) | Broken::Closed(_) | Broken::Reset(_))) if reused => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect_h2(
        &self,
        cluster: &Cluster,
        member: &Member,
        name: Option<Arc<str>>,
        facts: &Facts,
    ) -> Result<Place, BeginError> {
        let ticket = match cluster.shared.admission.ticket(Resource::Connection) {
            Ok(ticket) => Some(ticket),
            // Those there are belong to other threads or endpoints, and may never be free.
            Err(_) if member.pool.is_empty() => None,
            Err(overflow) => return Err(BeginError::Overflow(overflow)),
        };
        let dialled = self.dial(cluster, member, (Speaks::Http2, name.as_deref()), facts).await?;
        let link = dialled.link();
        let (sender, watch) =
            handshake(dialled, cluster.policy.pool.http.keepalive).await.map_err(BeginError::Broken)?;
        Ok(member.pool.add((sender, watch), link, (name, ticket), Instant::now()))
    }

    /// A new connection; in TLS that is made here, for the server name that the request asks for.
    pub(super) async fn dial(
        &self,
        cluster: &Cluster,
        member: &Member,
        speaks: (Speaks, Option<&str>),
        facts: &Facts,
    ) -> Result<Dialled, DialError> {
        let tls = (&cluster.policy.tls, &*cluster.origination);
        let way = Way { endpoint: &member.endpoint, tls, probes: false };
        self.open(cluster, way, speaks, facts).await
    }

    /// As [`Self::dial`], by a way of one's own.
    pub(super) async fn open(
        &self,
        cluster: &Cluster,
        Way { endpoint, tls, probes }: Way<'_>,
        speaks: (Speaks, Option<&str>),
        facts: &Facts,
    ) -> Result<Dialled, DialError> {
        let snapshot = self.snapshot();
        let timeout = cluster.policy.pool.connect_timeout;
        let service = (&cluster.service, cluster.port);
        let dial = Dial { snapshot: &snapshot, service, endpoint, timeout, probes };
        if let Some(workload) = endpoint.workload.as_ref().filter(|it| it.accepts_tunnel()) {
            let id = &workload.identity;
            if !cluster.service.admits(workload) || !cluster.policy.tls.admits(id) {
                return Err(DialError::Tls(format!(
                    "{id} is none of the subjectAltNames that are asked for"
                )));
            }
        }
        let until = tokio::time::Instant::now() + timeout;
        let late = |_| DialError::Connect(format!("no connection within {timeout:?}"));
        let mut dialled = tokio::time::timeout_at(until, self.client.dial(&dial)).await.map_err(late)??;
        if let (Some(probes), Some(socket)) = (&cluster.policy.pool.keepalive, dialled.io.socket()) {
            // A kernel that does not know a value keeps its own.
            let _ = sockopt::set_probes(socket, (probes.time, probes.interval), probes.probes);
        }
        if let Some(version) = cluster.policy.proxy_protocol {
            let told = announce(&mut dialled.io, version, facts, endpoint.addr);
            let told = tokio::time::timeout_at(until, told).await.map_err(late)?;
            told.map_err(|error| DialError::Connect(error.to_string()))?;
        }
        let secured = originate::secure(dialled, tls, &dial, &*self.client, speaks);
        let late = |_| DialError::Tls(format!("no TLS with {} within {timeout:?}", endpoint.addr));
        tokio::time::timeout_at(until, secured).await.map_err(late)?
    }
}

/// Leave of the circuit breaker to have a request under way on a connection. A connection that waits for requests has
/// none: it would keep those out who cannot use it, on other threads and for other endpoints.
struct Leave {
    ticket: Option<Ticket>,
    shared: Arc<SharedCluster>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        drop(self.ticket.take());
        if self.shared.admission.current(Resource::Pending) > 0 {
            self.shared.freed.notify_one();
        }
    }
}

/// Whether the number of connections has a limit: counting without costs every request two atomic operations.
fn is_limited(cluster: &Cluster) -> bool {
    cluster.policy.pool.limits.connections != u32::MAX
}

/// Takes leave, or waits for it if so many may wait.
async fn leave(cluster: &Rc<Cluster>) -> Result<Leave, BeginError> {
    let shared = &cluster.shared;
    let granted = |ticket| Leave { ticket: Some(ticket), shared: Arc::clone(shared) };
    if let Ok(ticket) = shared.admission.ticket(Resource::Connection) {
        return Ok(granted(ticket));
    }
    let _pending = shared.admission.ticket(Resource::Pending).map_err(BeginError::Overflow)?;
    loop {
        let mut free = std::pin::pin!(shared.freed.notified());
        free.as_mut().enable();
        if let Ok(ticket) = shared.admission.ticket(Resource::Connection) {
            return Ok(granted(ticket));
        }
        free.await;
    }
}

fn h1(
    member: &Rc<Member>,
    kept: Kept,
    head: &RequestHead,
    (leave, reused): (Option<Leave>, bool),
) -> Result<Server, BeginError> {
    let Kept { connection, born, name } = kept;
    let link = connection.link();
    let upstream = Box::new(connection.begin(head, Limits::default()).map_err(BeginError::Broken)?);
    let kind = Kind::H1 { upstream, born, name, leave };
    Ok(Server { kind, member: Rc::clone(member), reused, link })
}

/// The server name that TLS asks for because of a request: its host without a port, as the endpoint gets to see it. `None`
/// where no request makes a difference.
fn asked_name(cluster: &Cluster, head: &RequestHead) -> Option<Arc<str>> {
    let TlsPolicy::Originate(rule) = &cluster.policy.tls else { return None };
    let host = head.authority.as_ref().filter(|_| rule.sni.is_none())?.host();
    Some(host.trim_matches(['[', ']']).to_ascii_lowercase().into())
}

/// Whether HTTP/2 is spoken to the endpoints.
fn speaks_h2(cluster: &Cluster, head: &RequestHead) -> bool {
    let declared = cluster.declared;
    let by_client = head.version == Version::Http2;
    match (cluster.policy.pool.http.upstream, declared) {
        // What a client wants to leave HTTP for is asked for in its own version.
        _ if head.leaves_http() && !by_client => false,
        (Wanted::Client, _) => by_client,
        (Wanted::Upgrade, _) | (_, Declared::Http2) | (Wanted::UpgradeDeclared, Declared::Http) => true,
        (_, Declared::Http) => false,
        // Who answers in TLS need not know HTTP/2, and the client, or the proxy before, has not asked it. gRPC is nothing else.
        (_, Declared::Tls) => by_client && (head.is_grpc() || head.leaves_http()),
        (_, Declared::Nothing | Declared::Tcp) => by_client,
    }
}

/// Sends the head of a request on a connection of HTTP/2, and waits until it is out if the server may not take it: one
/// that allows no streams, or none for now, would keep it for ever.
async fn begin_stream(
    place: &Place,
    head: &RequestHead,
    patience: Duration,
) -> Result<Option<H2Upstream>, BeginError> {
    let Some(mut sender) = place.sender() else {
        return Err(BeginError::Broken(Broken::Closed("before the request")));
    };
    let late = |_| {
        let reason = format!("the server has allowed no stream for {patience:?}");
        BeginError::Dial(DialError::Connect(reason))
    };
    let ready = std::future::poll_fn(|cx| sender.poll_ready(cx));
    let ready = tokio::time::timeout(patience, ready).await.map_err(late)?;
    ready.map_err(|error| BeginError::Broken(error.into()))?;
    let mut upstream = H2Upstream::begin(&mut sender, head).map_err(BeginError::Broken)?;
    let watch = place.watch();
    if watch.is_settled() && place.streams() <= sender.current_max_send_streams() {
        return Ok(Some(upstream));
    }
    let opened = async {
        let begun = tokio::select! {
            // Who was told of the stream can have begun with it, however it ended.
            biased;
            () = watch.opened(upstream.stream()) => Ok(true),
            broken = std::future::poll_fn(|cx| upstream.poll_lost(cx)) => Err(BeginError::Broken(broken)),
            () = no_room(place, &sender) => Ok(false),
        }?;
        Ok(begun.then_some(upstream))
    };
    tokio::time::timeout(patience, opened).await.map_err(late)?
}

/// Resolves once it is known that others have all the room there is on a connection. If there is none at all, another
/// connection would be no better.
async fn no_room(place: &Place, sender: &h2::client::SendRequest<Bytes>) {
    place.watch().settled().await;
    // The stack takes in what was read before anybody else is asked again.
    tokio::task::yield_now().await;
    let most = sender.current_max_send_streams();
    if most == 0 || place.streams() <= most {
        std::future::pending::<()>().await;
    }
}

/// Begins to speak HTTP/2 on a connection, and has a task keep it going.
pub(super) async fn handshake(
    Dialled { io, held, .. }: Dialled,
    keepalive: Option<Http2KeepAlive>,
) -> Result<(h2::client::SendRequest<Bytes>, Watch), Broken> {
    let (io, watch) = Guarded::client(io);
    let handshake = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .enable_push(false)
        .handshake(io);
    let (sender, mut connection) = handshake.await?;
    let pings = keepalive.and_then(|keepalive| connection.ping_pong().zip(Some(keepalive)));
    tasks::spawn_local("http/2 client", async move {
        let _held = held;
        let silence = async {
            match pings {
                Some((pings, keepalive)) => silence(pings, keepalive).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "An HTTP/2 connection to a server broke.");
            },
            () = silence => tracing::debug!("A server does not answer the PING frames of HTTP/2."),
        }
    });
    Ok((sender, watch))
}

/// Resolves when the server does not answer a PING in time.
async fn silence(mut pings: h2::PingPong, keepalive: Http2KeepAlive) {
    loop {
        tokio::time::sleep(keepalive.interval).await;
        match tokio::time::timeout(keepalive.timeout, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended by itself.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

impl Server {
    /// Whether nothing at all has come back.
    pub fn is_unheard(&self) -> bool {
        match &self.kind {
            Kind::H1 { upstream, .. } => upstream.is_unheard(),
            Kind::H2 { .. } => false,
        }
    }

    /// The response is complete: the connection may serve another request.
    pub fn release(self, cluster: &Cluster, spare: HeaderMap, now: Instant) {
        // Leave is given back last: whoever waits for it may find the connection.
        let Kind::H1 { upstream, born, name, leave: _leave } = self.kind else { return };
        let Some(mut connection) = upstream.into_idle() else { return };
        connection.reuse(spare);
        let pool = &cluster.policy.pool;
        let worn = cluster.policy.proxy_protocol.is_some()
            || pool.http.max_requests_per_connection.is_some_and(|most| connection.served() >= most.get())
            || pool.max_connection_duration.is_some_and(|most| now.saturating_duration_since(born) >= most);
        if worn {
            connection.close();
        } else {
            self.member.pool.put(Kept { connection, born, name }, now);
        }
    }

    /// The connection of an HTTP/2 stream takes no further ones.
    pub fn retire(&self) {
        if let Kind::H2 { place, .. } = &self.kind {
            place.retire();
        }
    }
}

impl Body for Server {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        match &mut self.kind {
            Kind::H1 { upstream, .. } => upstream.poll_piece(cx),
            Kind::H2 { upstream, .. } => upstream.poll_piece(cx),
        }
    }
}

impl Sink for Server {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.kind {
            Kind::H1 { upstream, .. } => upstream.poll_room(cx),
            Kind::H2 { upstream, .. } => upstream.poll_room(cx),
        }
    }

    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        match &mut self.kind {
            Kind::H1 { upstream, .. } => upstream.push(data),
            Kind::H2 { upstream, .. } => upstream.push(data),
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match &mut self.kind {
            Kind::H1 { upstream, .. } => upstream.end(trailers),
            Kind::H2 { upstream, .. } => upstream.end(trailers),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.kind {
            Kind::H1 { upstream, .. } => upstream.poll_flush(cx),
            Kind::H2 { upstream, .. } => upstream.poll_flush(cx),
        }
    }
}

impl Upstream for Server {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        match &mut self.kind {
            Kind::H1 { upstream, .. } => upstream.poll_head(cx),
            Kind::H2 { upstream, .. } => upstream.poll_head(cx),
        }
    }

    fn leave_http(&mut self) {
        match &mut self.kind {
            Kind::H1 { upstream, .. } => upstream.leave_http(),
            Kind::H2 { upstream, .. } => upstream.leave_http(),
        }
    }
}

/// Unread bytes of one response.
const WINDOW: u32 = 1 << 20;
/// Unread bytes of all responses of a connection.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of the head of a response, by the measure of HTTP/2; the same as for HTTP/1.
const MAX_HEADERS: u32 = 60 << 10;
