//! The TLS side of the tunnel: who is at the other end, proven before a byte of anything else is read.
//!
//! Both ends present a certificate with exactly one SPIFFE id; TLS 1.3 only, ALPN `mesh/1` or `h2`, no server name, no
//! resumption and no tickets, so that every tunnel is a full handshake under the identities of that moment.
//!
//! Invariant: whoever holds a [`TlsStream`] from this module holds a connection whose peer was verified; the
//! [`Peer`] that comes with it is the only source of a peer's identity.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use mesh_core::id::SpiffeId;
use mesh_core::tunnel;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::identity::Svid;

mod agreed;
pub(crate) mod config;
mod error;
pub(crate) mod files;
mod io_buffer;
pub(crate) mod leaf;
#[cfg(test)]
pub(crate) mod pki;
mod proof;
pub(crate) mod strangers;
#[cfg(test)]
pub(crate) mod testkit;
mod verify;

pub use agreed::Agreed;
pub use error::TlsError;
pub use io_buffer::BufferedTcp;
pub use leaf::Leaf;
pub use proof::Proof;
pub(crate) use proof::Role;
pub use verify::{PeerError, Trust};

/// A verified tunnel connection, either end. Reads and writes are gathered below TLS, see [`BufferedTcp`].
pub type TlsStream = tokio_rustls::TlsStream<BufferedTcp>;

/// What is spoken inside of a tunnel's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 CONNECT, as all peers of ambient Istio do.
    Hbone,
    /// `mesh/1`, among nodes of this mesh.
    Mesh,
}

/// What is offered and taken in handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Protocols {
    /// `mesh/1` with peers that offer it, HBONE with all others.
    #[default]
    Auto,
    /// HBONE alone.
    Hbone,
    /// `mesh/1` alone: peers that do not offer it are refused.
    Mesh,
}

impl Protocols {
    /// The names in the handshake, the best first.
    fn names(self) -> Vec<Vec<u8>> {
        let (mesh, hbone) = (tunnel::ALPN.to_vec(), config::ALPN_H2.to_vec());
        match self {
            Self::Auto => vec![mesh, hbone],
            Self::Hbone => vec![hbone],
            Self::Mesh => vec![mesh],
        }
    }
}

/// Who is at the other end of a [`TlsStream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The one SPIFFE id of the verified certificate.
    pub id: SpiffeId,
    /// What is spoken.
    pub protocol: Protocol,
    /// What was agreed on.
    pub agreed: Agreed,
    /// End of the certificate's validity; nothing new may start on the connection after it.
    pub not_after: SystemTime,
    /// How it has proven that, to be judged again.
    pub proof: Proof,
}

/// Serves a TLS handshake as `svid` and returns the stream with the verified client.
///
/// Takes at most [`HANDSHAKE_DEADLINE`].
pub async fn accept(io: TcpStream, svid: &Svid) -> Result<(TlsStream, Peer), TlsError> {
    accept_within(io, svid, HANDSHAKE_DEADLINE).await
}

/// [`accept`] with a deadline of the caller's.
pub async fn accept_within(
    io: TcpStream,
    svid: &Svid,
    deadline: Duration,
) -> Result<(TlsStream, Peer), TlsError> {
    let news = svid.trust().news();
    let handshake = TlsAcceptor::from(svid.server().clone()).accept(BufferedTcp::new(io));
    let stream = within(deadline, handshake).await?;
    finish(TlsStream::from(stream), (svid, news), Role::Client)
}

/// Makes a TLS handshake as `svid` with a server that must be `expected`, at most [`HANDSHAKE_DEADLINE`].
///
/// A server that proves any other identity is refused inside the handshake, before it learns ours.
pub async fn connect(io: TcpStream, svid: &Svid, expected: &SpiffeId) -> Result<(TlsStream, Peer), TlsError> {
    connect_within(io, svid, expected, HANDSHAKE_DEADLINE).await
}

/// [`connect`] with a deadline of the caller's.
pub async fn connect_within(
    io: TcpStream,
    svid: &Svid,
    expected: &SpiffeId,
    deadline: Duration,
) -> Result<(TlsStream, Peer), TlsError> {
    // The name is never sent (no SNI) and never compared: the verifier compares SPIFFE ids.
    let name = ServerName::from(io.peer_addr().map_err(TlsError::from_io)?.ip());
    let news = svid.trust().news();
    let handshake = TlsConnector::from(svid.client_for(expected)).connect(name, BufferedTcp::new(io));
    let stream = within(deadline, handshake).await?;
    finish(TlsStream::from(stream), (svid, news), Role::Server)
}

/// What both roles check once rustls is content; `role` is the peer's.
fn finish(
    mut stream: TlsStream,
    (svid, news): (&Svid, watch::Receiver<()>),
    role: Role,
) -> Result<(TlsStream, Peer), TlsError> {
    let (_, session) = stream.get_ref();
    // rustls lets a peer pass that offers no protocol at all.
    let protocol = match session.alpn_protocol() {
        Some(config::ALPN_H2) => Protocol::Hbone,
        Some(tunnel::ALPN) => Protocol::Mesh,
        _ => return Err(TlsError::NoAlpn),
    };
    let chain = session.peer_certificates().unwrap_or_default();
    let leaf = chain.first().ok_or(TlsError::NoClientCertificate)?;
    let proof = Proof::new((svid.trust().clone(), news), chain, role);
    let spoken = (protocol, Agreed::of(session));
    let peer = verify::peer_of(leaf, spoken, proof).map_err(TlsError::Peer)?;
    // A `mesh/1` tunnel writes everything it has at once, and needs no copy for that.
    if protocol == Protocol::Hbone {
        stream.get_mut().0.gather_writes();
    }
    Ok((stream, peer))
}

async fn within<T>(deadline: Duration, f: impl Future<Output = io::Result<T>>) -> Result<T, TlsError> {
    match tokio::time::timeout(deadline, f).await {
        Ok(result) => result.map_err(TlsError::from_io),
        Err(_) => Err(TlsError::Deadline),
    }
}

/// Address of the other end, for logs.
pub fn peer_addr(stream: &TlsStream) -> io::Result<SocketAddr> {
    stream.get_ref().0.get_ref().peer_addr()
}

/// How long a handshake may take; a silent or dripping peer holds a slot no longer than this.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
