//! TLS that ends before a server which knows nothing of it, as an application has it that speaks TLS by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ResolvesServerCertUsingSni, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What a server shows, and what it wants to see.
#[derive(Debug, Clone, Copy)]
pub struct Sealing<'a> {
    /// Only clients that ask for this name are served.
    pub name: &'a str,
    /// A certificate, PEM.
    pub certificate: &'a str,
    /// Its key, PEM.
    pub key: &'a str,
    /// Who has to have signed the certificates of clients, PEM; absent means that nobody needs one.
    pub clients: Option<&'a str>,
}

/// Opens TLS as a server. Offers HTTP/2 and HTTP/1.1.
///
/// # Errors
/// If the certificates cannot be read, or are not for the name.
pub fn acceptor(sealing: &Sealing<'_>) -> Result<TlsAcceptor> {
    let chain = vec![CertificateDer::from_pem_slice(sealing.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(sealing.key.as_bytes())?;
    let builder = rustls::ServerConfig::builder();
    let certified = CertifiedKey::from_der(chain, key, builder.crypto_provider())?;
    let mut by_name = ResolvesServerCertUsingSni::new();
    by_name.add(sealing.name, certified)?;
    let builder = match sealing.clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build()?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(by_name));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Passes on what is inside of the TLS of each connection, until nobody can be accepted any more.
pub async fn pass_on(listener: TcpListener, acceptor: TlsAcceptor, plain: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            let mut outer = acceptor.accept(tcp).await?;
            let mut inner = TcpStream::connect(plain).await?;
            // Whatever breaks, whoever asked has seen it too.
            tokio::io::copy_bidirectional(&mut outer, &mut inner).await
        });
        while connections.try_join_next().is_some() {}
    }
}
