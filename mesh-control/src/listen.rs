//! Ports: accepts connections, and finds out who is there before anything is read from them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::Server;

use crate::gate::Gate;
use crate::peer::{Connection, Security};
use crate::tasks;

mod places;

pub use places::{Place, Places, machine};

/// A connection that gRPC is spoken on.
#[derive(Debug)]
pub struct Stream {
    io: Io,
    connection: Connection,
    greeting: Option<Greeting>,
    /// Counts against the limits while the connection lives.
    _place: Place,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is awaited of a client before anything else is done for it.
#[derive(Debug)]
struct Greeting {
    /// Bytes that have not come yet.
    left: usize,
    until: Pin<Box<Sleep>>,
}

/// Why a client got no further than its handshake.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("its TLS handshake failed: {0}")]
    Handshake(#[from] io::Error),
    #[error("its TLS handshake took too long")]
    Deadline,
    #[error("its certificate names nobody: {0}")]
    Nobody(#[from] mesh_ca::chain::IdentityError),
}

/// Makes the TLS configuration of the moment.
pub type Tls = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

impl Stream {
    /// What is known of it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Accepts connections for ever: at most [`MAX_CONNECTIONS`] at once and so many of one machine, of which each has
/// [`HANDSHAKE`] for its handshake and as long again for HTTP/2's. Errors cost a moment, never the port.
pub fn accept(listener: TcpListener, tls: Option<Tls>) -> mpsc::Receiver<io::Result<Stream>> {
    let (sender, receiver) = mpsc::channel(1);
    let places = Places::new(MAX_CONNECTIONS);
    let door = Arc::new(Door { tls, sender, complaints: Gate::default() });
    drop(tasks::spawn("accept", async move {
        loop {
            let place = places.wait().await;
            match listener.accept().await {
                Ok((io, address)) => {
                    let Some(place) = places.take(address.ip(), place) else {
                        tracing::debug!(%address, "A connection is one too many of its machine.");
                        continue;
                    };
                    // Small messages are answers that somebody waits for.
                    let _ = io.set_nodelay(true);
                    drop(tasks::spawn("handshake", Arc::clone(&door).admit(io, address, place)));
                }
                Err(error) => {
                    if let Some(muted) = door.complaints.pass() {
                        tracing::warn!(%error, muted, "A connection could not be accepted.");
                    }
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }));
    receiver
}

/// How gRPC is spoken on every port.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
}

/// What every connection of a port has to pass.
struct Door {
    tls: Option<Tls>,
    sender: mpsc::Sender<io::Result<Stream>>,
    complaints: Gate,
}

impl Door {
    async fn admit(self: Arc<Self>, io: TcpStream, address: SocketAddr, place: Place) {
        match welcome(io, address, place, self.tls.as_ref()).await {
            // When the process ends nobody takes it any more.
            Ok(stream) => drop(self.sender.send(Ok(stream)).await),
            Err(refusal) => {
                if let Some(muted) = self.complaints.pass() {
                    tracing::warn!(%address, reason = %refusal, muted, "A client was turned away.");
                }
            }
        }
    }
}

async fn welcome(
    io: TcpStream,
    address: SocketAddr,
    place: Place,
    tls: Option<&Tls>,
) -> Result<Stream, Refusal> {
    let (io, security) = match tls {
        None => (Io::Plain(io), Security::Plain),
        Some(tls) => {
            let handshake = TlsAcceptor::from(tls()).accept(io);
            let stream =
                tokio::time::timeout(HANDSHAKE, handshake).await.map_err(|_| Refusal::Deadline)??;
            let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let id = leaf.map(mesh_ca::chain::identity).transpose()?;
            (Io::Tls(Box::new(stream)), id.map_or(Security::Tls, Security::Mutual))
        }
    };
    let connection = Connection { address, security };
    let greeting = Greeting { left: PREFACE, until: Box::pin(tokio::time::sleep(HANDSHAKE)) };
    Ok(Stream { io, connection, greeting: Some(greeting), _place: place })
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, greeting, .. } = &mut *self;
        if let Some(greeting) = greeting
            && greeting.until.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let outcome = match io {
            Io::Plain(io) => Pin::new(io).poll_read(context, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(context, buffer),
        };
        if let Some(Greeting { left, .. }) = greeting {
            *left = left.saturating_sub(buffer.filled().len() - before);
            if *left == 0 {
                *greeting = None;
            }
        }
        outcome
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(context, bytes),
            Io::Tls(io) => Pin::new(io).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(context),
            Io::Tls(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(context),
            Io::Tls(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}

/// Connections at once, of one port.
const MAX_CONNECTIONS: usize = 10_000;
/// What a client has for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Bytes with which HTTP/2 begins. What comes after them is under its keepalive.
const PREFACE: usize = 24;
/// Descriptors that have run out come back.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// A connection that says nothing for so long is asked whether it lives…
const KEEPALIVE: Duration = Duration::from_secs(30);
/// …and has so long to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that a client may send before they are read: a subscriber that waits for its turn holds no more than this.
const WINDOW: u32 = 256 << 10;
/// Calls at once on a connection: one stream, and certificates.
const MAX_STREAMS: u32 = 100;
