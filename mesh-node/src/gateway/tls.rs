//! TLS with the clients of a gateway.
//!
//! The first message of a client names the server that it wants; which certificate it gets, which protocols there are
//! and whether it has to show a certificate itself are that server's business. Unlike tunnels, where both ends are ours,
//! clients are strangers: TLS 1.2 is spoken where a Gateway does not forbid it.
//!
//! Invariant: what is wrong with one server's certificate costs no other server anything, and a server that has had a
//! good certificate keeps it until there is another good one.

mod client;
mod resolve;
mod server;
mod settings;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mesh_core::route::is_of_mesh;
use rustls::server::{Acceptor, ClientHello};
use rustls::{AlertDescription, CertificateError, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;

pub use self::client::ClientCertificate;
pub(super) use self::client::Shown;
pub(super) use self::server::{Tls, opens_with_certificates};
use super::accepted::Alpn;
use super::listener::{Served, Serving};
use crate::identity::IdentityStore;
use crate::l7::io::Io;
use crate::tls::{Agreed, Proof, Role};

/// What the beginning of a connection came to.
pub(super) struct Greeted {
    pub(super) io: Io,
    /// Read and not consumed: everything so far, where the server does not open TLS.
    pub(super) input: BytesMut,
    pub(super) sni: Option<Arc<str>>,
    pub(super) alpn: Option<Alpn>,
    pub(super) client: Option<Arc<ClientCertificate>>,
    /// What was agreed on.
    pub(super) agreed: Agreed,
    /// The same as it came, to be judged again.
    pub(super) shown: Option<Shown>,
    /// The same, where it has proven an identity in the mesh.
    pub(super) proof: Option<Proof>,
    pub(super) served: Served,
}

/// Why a handshake came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The first bytes are not TLS.
    NotTls,
    /// Not finished in time.
    Deadline,
    /// There were too many others.
    Overload,
    /// Nobody serves the name that was asked for.
    ServerName,
    /// The server has no certificate.
    NoCertificate,
    /// The client's certificate is missing or not accepted.
    ClientCertificate,
    /// The client ended it, for a reason that it gave.
    Alert,
    /// The connection broke.
    Lost,
    /// Nothing in common, or a mistake of the client.
    Protocol,
    /// A proxy should have said who the client is, and has not.
    ProxyHeader,
}

impl Refused {
    /// Every reason; its place in it is its discriminant.
    pub(super) const ALL: [Self; 10] = [
        Self::NotTls,
        Self::Deadline,
        Self::Overload,
        Self::ServerName,
        Self::NoCertificate,
        Self::ClientCertificate,
        Self::Alert,
        Self::Lost,
        Self::Protocol,
        Self::ProxyHeader,
    ];

    /// Stable token for metrics and logs.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::Deadline => "deadline",
            Self::Overload => "overload",
            Self::ServerName => "server_name",
            Self::NoCertificate => "no_certificate",
            Self::ClientCertificate => "client_certificate",
            Self::Alert => "refused_by_client",
            Self::Lost => "connection_lost",
            Self::Protocol => "protocol",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

/// Why there was no handshake, or no connection for it.
pub(super) struct Refusal {
    pub(super) why: Refused,
    pub(super) detail: String,
    /// The name that nobody serves, if it was one.
    pub(super) asked: Option<Arc<str>>,
}

impl From<(Refused, String)> for Refusal {
    fn from((why, detail): (Refused, String)) -> Self {
        Self { why, detail, asked: None }
    }
}

/// Reads who is asked for and makes the handshake, if it is for us to make. Takes at most [`HANDSHAKE_DEADLINE`].
pub(super) async fn greet(
    tcp: TcpStream,
    serving: &Serving,
    identities: &IdentityStore,
) -> Result<Greeted, Refusal> {
    let handshake = handshake(tcp, serving, identities);
    match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(greeted) => greeted,
        Err(_) => Err((Refused::Deadline, "the handshake took too long".to_owned()).into()),
    }
}

async fn handshake(
    mut tcp: TcpStream,
    serving: &Serving,
    identities: &IdentityStore,
) -> Result<Greeted, Refusal> {
    let (accepted, input) = read_hello(&mut tcp).await?;
    let hello = accepted.client_hello();
    let sni: Option<Arc<str>> = hello.server_name().map(|name| name.to_ascii_lowercase().into());
    let asked = || sni.as_deref().map_or("no name".to_owned(), |name| format!("{name:?}"));
    let unserved = |detail: String| Refusal { why: Refused::ServerName, detail, asked: sni.clone() };
    let served = serving.select(sni.as_deref());
    let served = served.ok_or_else(|| unserved(format!("nobody serves {}", asked())))?.clone();
    let of_mesh = || hello.alpn().is_some_and(|mut offered| offered.any(is_of_mesh));
    if served.goes_by_name() && !of_mesh() {
        return Err(unserved(format!("what asks for {} is no TLS of the mesh", asked())));
    }
    let tls = served.tls.clone();
    let Some(tls) = tls.filter(|tls| tls.opens()) else {
        let (alpn, client, shown, proof) = (None, None, None, None);
        let (io, agreed) = (tcp.into(), Agreed::default());
        return Ok(Greeted { io, input, sni, alpn, client, agreed, shown, proof, served });
    };
    let trust = (Arc::clone(identities.trust()), identities.trust().news());
    let config = tls.config(&hello, identities).map_err(|why| (Refused::NoCertificate, why))?;
    let stream = StartHandshake::from_parts(accepted, tcp)
        .into_stream(config)
        .await
        .map_err(|error| refusal(&error))?;
    let (_, session) = stream.get_ref();
    let (alpn, agreed) = (session.alpn_protocol().and_then(Alpn::of), Agreed::of(session));
    let client = session.peer_certificates().and_then(|chain| tls.client(chain)).map(Arc::new);
    let shown = session.peer_certificates().map(Shown::now);
    let chain = session.peer_certificates().filter(|_| tls.proves_identities());
    let proof = chain.map(|chain| Proof::new(trust, chain, Role::Client));
    let io = Io::Tls(Box::new(stream.into()));
    Ok(Greeted { io, input: BytesMut::new(), sni, alpn, client, agreed, shown, proof, served })
}

/// The first message of a client, and all bytes that were read for it.
async fn read_hello(tcp: &mut TcpStream) -> Result<(rustls::server::Accepted, BytesMut), Refusal> {
    let mut acceptor = Acceptor::default();
    let mut input = BytesMut::with_capacity(HELLO);
    loop {
        let before = input.len();
        if before > MAX_HELLO {
            return Err((Refused::NotTls, "the first message does not end".to_owned()).into());
        }
        input.reserve(HELLO / 4);
        let read = tcp.read_buf(&mut input).await.map_err(|error| lost(&error))?;
        if read == 0 {
            return Err((Refused::Lost, "the client went away".to_owned()).into());
        }
        let mut news = input.get(before..).unwrap_or_default();
        while !news.is_empty() {
            acceptor.read_tls(&mut news).map_err(|error| (Refused::NotTls, error.to_string()))?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((accepted, input)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                if alert.write_all(&mut bytes).is_ok() {
                    // Whoever does not speak TLS need not hear it.
                    let _ = tcp.write_all(&bytes).await;
                }
                return Err((classify(&error), error.to_string()).into());
            }
        }
    }
}

impl Alpn {
    fn of(protocol: &[u8]) -> Option<Self> {
        match protocol {
            ALPN_H2 => Some(Self::H2),
            ALPN_HTTP11 => Some(Self::Http11),
            _ => None,
        }
    }
}

impl Served {
    /// Whether requests are inside of its TLS, and it is opened here.
    pub(super) fn carries_requests(&self) -> bool {
        self.table.is_some()
    }
}

/// Of two forms of a configuration the one for a client that offers these protocols: whoever offers only others gets
/// none, as with OpenSSL, and not an alert.
fn fitting<'c>(
    hello: &ClientHello<'_>,
    common: &'c Arc<ServerConfig>,
    bare: &'c Arc<ServerConfig>,
) -> &'c Arc<ServerConfig> {
    let ours = |offered: &[u8]| common.alpn_protocols.iter().any(|ours| ours == offered);
    let in_common = hello.alpn().is_none_or(|mut offered| offered.any(ours));
    if in_common { common } else { bare }
}

fn refusal(error: &io::Error) -> Refusal {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.map_or_else(|| lost(error), |tls| (classify(tls), tls.to_string()).into())
}

fn lost(error: &io::Error) -> Refusal {
    (Refused::Lost, error.to_string()).into()
}

fn classify(error: &rustls::Error) -> Refused {
    use rustls::Error as E;
    match error {
        E::InvalidMessage(_) => Refused::NotTls,
        E::NoCertificatesPresented | E::InvalidCertificate(CertificateError::BadEncoding) => {
            Refused::ClientCertificate
        }
        E::InvalidCertificate(_) => Refused::ClientCertificate,
        E::AlertReceived(AlertDescription::CloseNotify) => Refused::Lost,
        E::AlertReceived(_) => Refused::Alert,
        _ => Refused::Protocol,
    }
}

const ALPN_H2: &[u8] = b"h2";
const ALPN_HTTP11: &[u8] = b"http/1.1";
/// How long a handshake may take; a silent or dripping client holds a place no longer than this.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a first message with post-quantum keys, and then some.
const HELLO: usize = 4 << 10;
/// Bytes after which a first message is none.
const MAX_HELLO: usize = 64 << 10;

#[cfg(test)]
mod tests;
