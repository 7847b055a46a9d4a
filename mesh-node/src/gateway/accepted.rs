//! What a data thread hands to the engine: connections, with all that is known of them.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use mesh_core::model::Snapshot;
use mesh_core::own::Own;
use mesh_core::route::{ClusterRef, RouteTable, destination_of};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::listener::{Listener, Served, ServerKey, Serving};
use super::tls::ClientCertificate;
use crate::admit::Descriptors;
use crate::identity::IdentityStore;
use crate::l7::io::Io;
use crate::report::Reporter;
use crate::run::drain::Drain;
use crate::run::watchdog::Watchdog;
use crate::tls::{Agreed, Leaf};

/// A future on one thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Serves connections. Called once on each data thread, inside of its `LocalSet`.
pub type Engine = Arc<dyn Fn(&Thread) -> Serve + Send + Sync>;

/// Serves a connection to its end. The future is dropped when the process has drained long enough.
pub type Serve = Rc<dyn Fn(Accepted) -> LocalBoxFuture<'static, ()>>;

/// What a data thread has to work with.
#[derive(Clone)]
pub struct Thread {
    /// Number of the thread, from 0.
    pub index: usize,
    /// Who sees whether it turns.
    pub watchdog: Arc<Watchdog>,
    /// The configuration as it changes.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Who this gateway is.
    pub own: watch::Receiver<Arc<Own>>,
    /// Its certificates; none where it has no identity in the mesh.
    pub identities: Arc<IdentityStore>,
    /// Where requests and connections are reported.
    pub reporter: Arc<Reporter>,
    /// When the process stops.
    pub drain: Drain,
    /// What connections may use of the process's file descriptors.
    pub descriptors: Descriptors,
}

/// A connection of a client.
#[derive(Debug)]
pub enum Accepted {
    /// Requests: a plain port, or TLS that was opened here with HTTP inside.
    Http(HttpConnection),
    /// Bytes: a port that knows nothing of them, or TLS that was opened here with nobody knows what inside, or that is
    /// passed on as it is.
    Opaque(OpaqueConnection),
    /// A tunnel, of which nothing has been read.
    Tunnel(TunnelConnection),
    /// One that is over: nobody serves the name that it asked for, and why not. It is told about like any other.
    Unserved(Facts, String),
    /// All that comes to a listener of datagrams, until it is closed.
    Datagrams(DatagramDoor),
}

/// A listener of datagrams, which are no connections.
#[derive(Debug)]
pub struct DatagramDoor {
    /// Its socket, which tells where datagrams were sent to.
    pub(super) socket: UdpSocket,
    /// The listener.
    pub(super) listener: Arc<Listener>,
    /// True once it is to be closed.
    pub(super) closed: watch::Receiver<bool>,
}

/// A connection that is to become a tunnel.
#[derive(Debug)]
pub struct TunnelConnection {
    /// Its socket.
    pub tcp: TcpStream,
    /// The other end.
    pub peer: SocketAddr,
    /// This end.
    pub local: SocketAddr,
}

/// A connection that carries requests.
pub struct HttpConnection {
    /// Its bytes.
    pub io: Io,
    /// What is known of it.
    pub facts: Facts,
    /// What was agreed on in TLS; without it the first bytes tell.
    pub alpn: Option<Alpn>,
    /// When it should end: its server is gone or has become another, or the process stops.
    pub drain: Drain,
    /// The listener that it came by.
    pub listener: Arc<Listener>,
    /// Its server there.
    pub(super) server: ServerKey,
}

/// A connection that carries bytes.
pub struct OpaqueConnection {
    /// Its bytes. Dropping it resets the connection.
    pub io: Io,
    /// What was read already and has to be passed on before anything else: the beginning of TLS that is not opened here.
    pub input: BytesMut,
    /// What is known of it.
    pub facts: Facts,
    /// As [`HttpConnection::drain`].
    pub drain: Drain,
    /// The listener that it came by.
    pub listener: Arc<Listener>,
    /// Its server there.
    pub(super) server: ServerKey,
}

/// What is known of a connection.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
    /// The server name that it asked for in TLS, in lower case.
    pub sni: Option<Arc<str>>,
    /// Whether TLS was opened here.
    pub secure: bool,
    /// The certificate that it has shown.
    pub client: Option<Arc<ClientCertificate>>,
    /// What was agreed on in TLS, if it was opened here.
    pub agreed: Agreed,
    /// That certificate as it came.
    pub leaf: Option<Leaf>,
}

/// A version of HTTP, as TLS agrees on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// `http/1.1`.
    Http11,
    /// `h2`.
    H2,
}

impl HttpConnection {
    /// The newest rules for its requests; `None` if its server is gone, which is answered with 404.
    pub fn routes(&self) -> Option<Arc<RouteTable>> {
        self.listener.current().find(&self.server)?.table.clone()
    }

    /// The port of the Service that it came to, as rules know it.
    pub fn port(&self) -> u16 {
        self.server.port
    }
}

impl OpaqueConnection {
    /// Its server as it is now, for rules about bytes; `None` if it is gone.
    pub fn serving(&self) -> Option<(Arc<Serving>, Served)> {
        let serving = self.listener.current();
        let served = serving.find(&self.server)?.clone();
        Some((serving, served))
    }

    /// Where its server name says that it goes, if its server goes by such names: `Some(None)` if that is nowhere.
    pub fn named(&self) -> Option<Option<ClusterRef>> {
        let serving = self.listener.current();
        let server = serving.server(&self.server).filter(|server| server.goes_by_name())?;
        Some(self.facts.sni.as_deref().and_then(destination_of).filter(|to| {
            // A service carries its namespace in its name.
            let namespace = to.host.split('.').nth(1).unwrap_or_default();
            server.serves(&to.host, namespace)
        }))
    }

    /// As [`HttpConnection::port`].
    pub fn port(&self) -> u16 {
        self.server.port
    }
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnection").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl fmt::Debug for OpaqueConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpaqueConnection").field("facts", &self.facts).finish_non_exhaustive()
    }
}
