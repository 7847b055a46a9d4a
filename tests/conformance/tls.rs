//! Certificates for gateways and clients, and TLS of clients.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Tls;

/// A certificate authority that nobody else knows.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// The root, PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names, and URIs.
    pub(crate) fn issue(&self, names: &[&str]) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let (uris, hosts): (Vec<_>, Vec<_>) =
            names.iter().map(|it| (*it).to_owned()).partition(|it| it.contains("://"));
        let mut params = CertificateParams::new(hosts)?;
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

/// A Secret of TLS in the gateway's namespace.
pub(crate) fn secret(name: &str, pair: &Pair, ca: Option<&str>) -> String {
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let ca = ca.map(|pem| format!(", ca.crt: {}", encoded(pem))).unwrap_or_default();
    format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: {name}, namespace: istio-system}}, type: kubernetes.io/tls, \
         data: {{tls.crt: {}, tls.key: {}{ca}}}}}",
        encoded(&pair.certificate),
        encoded(&pair.key)
    )
}

/// Opens TLS as a client that believes `root`.
pub(crate) async fn open(tcp: TcpStream, root: &str, tls: &Tls, h2: bool) -> Result<TlsStream<TcpStream>> {
    open_as(tcp, root, tls, if h2 { b"h2" } else { b"http/1.1" }).await
}

/// Opens TLS as a client that believes `root` and offers this protocol.
pub(crate) async fn open_as(
    tcp: TcpStream,
    root: &str,
    tls: &Tls,
    alpn: &[u8],
) -> Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from(tls.sni.clone())?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("the handshake")
}
