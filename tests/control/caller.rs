//! Who calls: connections to a control plane, plain or TLS, and certificates asked for over them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use mesh_ca::bundle::pem;
use mesh_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use mesh_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::plane::{PLAIN, Plane, TLS};

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Svid {
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

/// What a certificate is asked for with.
#[derive(Default)]
pub(crate) struct Wish<'a> {
    /// A join token.
    pub(crate) token: Option<&'a str>,
    /// In its place: the whole header.
    pub(crate) authorization: Option<&'a [u8]>,
    pub(crate) impersonated: Option<&'a str>,
    pub(crate) seconds: i64,
    /// Names in the request itself.
    pub(crate) names: Vec<&'a str>,
}

impl Svid {
    /// Proves who it is on connections.
    pub(crate) fn show(&self, builder: ConfigBuilder<ClientConfig, WantsClientCert>) -> ClientConfig {
        let key = PrivatePkcs8KeyDer::from(self.key.clone()).into();
        builder.with_client_auth_cert(self.chain.clone(), key).expect("a certificate and its key")
    }

    /// The leaf's URI names, begin and end.
    pub(crate) fn leaf(&self) -> Result<(Vec<String>, SystemTime)> {
        let leaf = self.chain.first().context("an empty chain")?;
        let (_, leaf) = X509Certificate::from_der(leaf)?;
        let names = leaf.subject_alternative_name()?.context("no names")?;
        let names = names.value.general_names.iter().map(|name| match name {
            GeneralName::URI(uri) => (*uri).to_owned(),
            other => format!("{other:?}"),
        });
        let end = u64::try_from(leaf.validity().not_after.timestamp())?;
        Ok((names.collect(), SystemTime::UNIX_EPOCH + Duration::from_secs(end)))
    }
}

/// A connection to the plain port, from an address of this machine.
pub(crate) async fn plain(plane: &Plane, from: Ipv4Addr) -> Result<Channel> {
    let to = plane.at(PLAIN);
    let connector =
        tower::service_fn(
            move |_| async move { Ok::<_, std::io::Error>(TokioIo::new(dial(from, to).await?)) },
        );
    Ok(endpoint().connect_with_connector(connector).await?)
}

/// A connection to the TLS port, with a certificate if there is one.
pub(crate) async fn tls(plane: &Plane, svid: Option<&Svid>) -> Result<Channel> {
    tls_under(plane, &plane.roots()?, svid).await
}

/// [`tls`] from an address of this machine.
pub(crate) async fn tls_from(from: Ipv4Addr, plane: &Plane, svid: Option<&Svid>) -> Result<Channel> {
    let (to, config) = (plane.at(TLS), client(&plane.roots()?, svid)?);
    let connector = tower::service_fn(move |_| {
        let config = Arc::clone(&config);
        async move {
            let stream = dial(from, to).await?;
            let stream = TlsConnector::from(config).connect(ServerName::from(to.ip()), stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Ok(endpoint().connect_with_connector(connector).await?)
}

/// [`tls`] for somebody who trusts other roots.
pub(crate) async fn tls_under(plane: &Plane, roots: &[u8], svid: Option<&Svid>) -> Result<Channel> {
    let (to, config) = (plane.at(TLS), client(roots, svid)?);
    let connector = tower::service_fn(move |_| {
        let config = Arc::clone(&config);
        async move { handshake(to, config).await.map(TokioIo::new) }
    });
    Ok(endpoint().connect_with_connector(connector).await?)
}

/// TLS as a client that trusts `roots`.
pub(crate) fn client(roots: &[u8], svid: Option<&Svid>) -> Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots) {
        store.add(root?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store);
    let mut config = match svid {
        None => builder.with_no_client_auth(),
        Some(svid) => svid.show(builder),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// One TLS handshake.
pub(crate) async fn handshake(
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await?;
    let name = ServerName::from(to.ip());
    TlsConnector::from(config).connect(name, stream).await
}

/// A TCP connection from an address of this machine.
pub(crate) async fn dial(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

fn endpoint() -> Endpoint {
    Endpoint::from_static("http://mesh-control").connect_timeout(Duration::from_secs(5))
}

/// Asks for a certificate.
pub(crate) async fn certify(channel: Channel, wish: &Wish<'_>) -> Result<Svid, Status> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = |name: &&str| SanType::URI((*name).try_into().expect("ASCII"));
    params.subject_alt_names = wish.names.iter().map(uri).collect();
    let csr = params.serialize_request(&key).expect("a request");
    let answer = ask(channel, pem("CERTIFICATE REQUEST", csr.der()), wish).await?;
    // The roots come last.
    let (_, chain) = answer.cert_chain.split_last().expect("a chain");
    let chain = CertificateDer::pem_slice_iter(chain.concat().as_bytes()).collect::<Result<_, _>>();
    Ok(Svid { chain: chain.expect("PEM"), key: key.serialize_der() })
}

/// A request for a certificate that cannot be found fault with, in PEM.
pub(crate) fn certificate_request() -> String {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let csr = CertificateParams::default().serialize_request(&key).expect("a request");
    pem("CERTIFICATE REQUEST", csr.der())
}

/// [`certify`] with any text for a request.
pub(crate) async fn ask(
    channel: Channel,
    csr: String,
    wish: &Wish<'_>,
) -> Result<IstioCertificateResponse, Status> {
    let field = |id: &str| {
        let value = Value { kind: Some(Kind::StringValue(id.to_owned())) };
        Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() }
    };
    let message = IstioCertificateRequest {
        csr,
        validity_duration: wish.seconds,
        metadata: wish.impersonated.map(field),
    };
    let mut request = Request::new(message);
    let bearer = wish.token.map(|token| format!("Bearer {token}").into_bytes());
    if let Some(header) = bearer.as_deref().or(wish.authorization) {
        let header = http::HeaderValue::from_bytes(header).expect("a header");
        let mut headers = std::mem::take(request.metadata_mut()).into_headers();
        headers.insert("authorization", header);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
    }
    let mut client = IstioCertificateServiceClient::new(channel);
    Ok(client.create_certificate(request).await?.into_inner())
}

/// A node's own certificate, by a fresh join token.
pub(crate) async fn join(plane: &Plane, node: &str) -> Result<Svid> {
    let token = plane.token(node, &[])?;
    let wish = Wish { token: Some(&token), ..Wish::default() };
    Ok(certify(tls(plane, None).await?, &wish).await?)
}
