//! Listeners and connections of the admin ports.
//!
//! 15020 and 15021 can be reached by every pod. A client gets some seconds for a whole exchange and a share of the
//! connections, so that slow or greedy ones cannot keep the kubelet's probe out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};

use super::{Admin, routes};
use crate::report::Event;

/// Which of the three ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// State, configuration and log levels; loopback only.
    Admin,
    /// Metrics.
    Metrics,
    /// Readiness.
    Ready,
}

/// Port numbers; 0 takes any free one.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// For people and tools on this machine.
    pub admin: u16,
    /// For Prometheus.
    pub metrics: u16,
    /// For the kubelet.
    pub ready: u16,
}

impl Default for Ports {
    /// Istio's.
    fn default() -> Self {
        Self { admin: 15_000, metrics: 15_020, ready: 15_021 }
    }
}

/// A port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on port {port} for {endpoint:?}: {source}")]
pub struct AdminError {
    endpoint: Endpoint,
    port: u16,
    source: io::Error,
}

/// The bound ports.
#[derive(Debug)]
pub struct Servers {
    listeners: Vec<(Endpoint, TcpListener)>,
}

impl Servers {
    /// Binds all ports, of the network namespace of the calling thread. To be called within a tokio runtime.
    ///
    /// # Errors
    /// If a port is taken. That the machine has no IPv6 is no error.
    pub async fn bind(ports: Ports) -> Result<Self, AdminError> {
        Self::bind_at(ports, None).await
    }

    /// As [`Self::bind`], with the ports for everybody at one address only.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub async fn bind_at(ports: Ports, address: Option<IpAddr>) -> Result<Self, AdminError> {
        let mut listeners = Vec::new();
        for (endpoint, port) in [
            (Endpoint::Admin, ports.admin),
            (Endpoint::Metrics, ports.metrics),
            (Endpoint::Ready, ports.ready),
        ] {
            let bound = match address {
                _ if endpoint == Endpoint::Admin => bind_loopback(port).await,
                Some(address) => TcpListener::bind((address, port)).await.map(|listener| vec![listener]),
                None => bind_all(port).await,
            };
            let bound = bound.map_err(|source| AdminError { endpoint, port, source })?;
            listeners.extend(bound.into_iter().map(|listener| (endpoint, listener)));
        }
        Ok(Self { listeners })
    }

    /// Where the ports are.
    pub fn addresses(&self) -> Vec<(Endpoint, SocketAddr)> {
        let all = self.listeners.iter();
        all.filter_map(|(endpoint, listener)| Some((*endpoint, listener.local_addr().ok()?))).collect()
    }

    /// Serves for ever; dropping the future ends everything.
    pub async fn run(self, admin: Arc<Admin>) {
        let mut loops = JoinSet::new();
        for (endpoint, listener) in self.listeners {
            loops.spawn(accept_loop(endpoint, listener, admin.clone()));
        }
        while loops.join_next().await.is_some() {}
    }
}

/// IPv4, and IPv6 on the same port where there is one.
async fn bind_loopback(port: u16) -> io::Result<Vec<TcpListener>> {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = v4.local_addr()?.port();
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await.ok();
    Ok([v4].into_iter().chain(v6).collect())
}

/// One socket for both families, or one for each, or IPv4 alone, as the machine has it.
async fn bind_all(port: u16) -> io::Result<Vec<TcpListener>> {
    let Ok(v6) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await else {
        return Ok(vec![TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?]);
    };
    let port = v6.local_addr()?.port();
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
        // The first socket does not serve IPv4 (bindv6only).
        Ok(v4) => Ok(vec![v6, v4]),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(vec![v6]),
        Err(error) => Err(error),
    }
}

async fn accept_loop(endpoint: Endpoint, listener: TcpListener, admin: Arc<Admin>) {
    let mut open = Open::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((io, peer)) => open.admit(endpoint, io, peer.ip().to_canonical(), &admin),
                Err(error) => {
                    admin.reporter.count(Event::AcceptOther);
                    tracing::debug!(?endpoint, %error, "Accepting on an admin port failed.");
                    sleep(PAUSE_AFTER_ERROR).await;
                }
            },
            Some(ended) = open.tasks.join_next_with_id() => open.ended(ended.map(|(id, ())| id)),
        }
    }
}

/// The open connections of a listener.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    peers: HashMap<Id, IpAddr>,
}

impl Open {
    /// Serves a connection, or drops it if there are too many already, of this peer or at all.
    fn admit(&mut self, endpoint: Endpoint, io: TcpStream, peer: IpAddr, admin: &Arc<Admin>) {
        let share = if peer.is_loopback() { MAX_CONNECTIONS } else { MAX_PER_PEER };
        let of_peer = self.peers.values().filter(|other| **other == peer).count();
        if self.tasks.len() >= MAX_CONNECTIONS || of_peer >= share {
            admin.reporter.count(Event::AdminConnections);
            return;
        }
        let task = self.tasks.spawn(serve(endpoint, io, admin.clone()));
        self.peers.insert(task.id(), peer);
    }

    fn ended(&mut self, ended: Result<Id, tokio::task::JoinError>) {
        let id = ended.unwrap_or_else(|error| {
            tracing::error!(%error, "An answer on an admin port panicked.");
            error.id()
        });
        self.peers.remove(&id);
    }
}

async fn serve(endpoint: Endpoint, io: TcpStream, admin: Arc<Admin>) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(routes::answer(endpoint, &admin, &request.into_parts().0).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE).max_buf_size(MAX_HEAD);
    // A client that ends its side with its request still wants the answer; how long it may take is bounded below.
    http.half_close(true);
    // Only the page asks again and again; others give their place back at once.
    http.keep_alive(endpoint == Endpoint::Admin);
    let life = if endpoint == Endpoint::Admin { LIFE_OF_PAGE } else { LIFE_OF_EXCHANGE };
    let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
    // What goes wrong here is the client's own affair.
    if timeout(life, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(GRACE, connection).await;
    }
}

/// Connections of one listener at a time.
const MAX_CONNECTIONS: usize = 64;
/// Connections of one address at a time, so that a single pod cannot take all; loopback is trusted.
const MAX_PER_PEER: usize = 16;
/// For a request's head; also how long an idle connection is kept.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// For one request and its answer.
const LIFE_OF_EXCHANGE: Duration = Duration::from_secs(20);
/// For a connection that a browser keeps; it opens another when this one ends between two requests.
const LIFE_OF_PAGE: Duration = Duration::from_secs(300);
/// For an exchange that is under way when the life of its connection ends.
const GRACE: Duration = Duration::from_secs(5);
/// After a failed `accept()`, most likely for want of descriptors.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);
