//! A peer that does not keep to the rules of the tunnel: certificates good and bad, handshakes and requests of all
//! kinds. What it is told is part of the result, never an error.

use std::{
    fmt::{self, Write as _},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream as StdStream},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use mesh_tests::bed::{Bed, PodHandle};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// One that signs.
pub struct Ca(Issuer<'static, KeyPair>);

impl Ca {
    /// The bed's own, as a thief of its state directory would have it.
    pub fn stolen(bed: &Bed) -> Result<Self> {
        let key = KeyPair::from_pem(&file(bed, "ca-key.pem")?)?;
        Ok(Self(Issuer::from_ca_cert_pem(&file(bed, "ca-cert.pem")?, key)?))
    }

    /// Another one under the same name.
    pub fn impostor(bed: &Bed) -> Result<Self> {
        Ok(Self(Issuer::from_ca_cert_pem(&file(bed, "ca-cert.pem")?, KeyPair::generate()?)?))
    }

    /// A list that revokes certificates of these serial numbers, in PEM. `number` says which list is newer.
    pub fn revoke(&self, serials: &[&[u8]], number: u64) -> Result<String> {
        let now = SystemTime::now();
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - HOUR).into(),
            next_update: (now + HOUR).into(),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.0)?.pem()?)
    }

    /// Signs.
    pub fn issue(&self, params: &CertificateParams) -> Result<Credential> {
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.0)?.der().clone();
        Ok(Credential { chain: vec![leaf], key: key.serialize_der() })
    }
}

/// A file of the bed's CA.
pub fn file(bed: &Bed, name: &str) -> Result<String> {
    let path = bed.layout().state.join("mesh/ca").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Credential {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Credential {
    /// Signed by nobody else.
    pub fn self_signed(params: &CertificateParams) -> Result<Self> {
        let key = KeyPair::generate()?;
        Ok(Self { chain: vec![params.self_signed(&key)?.der().clone()], key: key.serialize_der() })
    }
}

/// What a good certificate of the mesh has, with these URIs for names.
pub fn leaf(uris: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = |uri: &&str| Ok(SanType::URI((*uri).try_into()?));
    params.subject_alt_names = uris.iter().map(name).collect::<Result<_>>()?;
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// How an attempt went.
#[derive(Debug)]
pub struct Seen {
    /// Whence it came.
    pub from: SocketAddr,
    /// How it ended.
    pub end: End,
    /// When, from its start.
    pub took: Duration,
}

/// How an attempt ended.
pub enum End {
    /// Closed or reset, without a byte for an application.
    Refused(String),
    /// Bytes that only a peer who is content would send.
    Served(String),
    /// HTTP said this.
    Status(u16),
    /// Neither, until patience ran out.
    Open,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(how) => write!(f, "refused ({how})"),
            Self::Served(with) => write!(f, "served ({with})"),
            Self::Status(status) => write!(f, "HTTP status {status}"),
            Self::Open => f.write_str("still open"),
        }
    }
}

/// Connects from the network of `pod`, sends `bytes`, and waits to be thrown out.
pub fn raw(pod: &PodHandle, to: SocketAddr, bytes: &[u8], patience: Duration) -> Result<Seen> {
    let attempt = || -> std::io::Result<Seen> {
        let start = Instant::now();
        let mut tcp = StdStream::connect_timeout(&to, Duration::from_secs(3))?;
        let from = tcp.local_addr()?;
        tcp.set_read_timeout(Some(patience))?;
        let mut got = Vec::new();
        let end = match tcp.write_all(bytes).and_then(|()| tcp.read_to_end(&mut got)) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => End::Open,
            Err(error) => End::Refused(error.to_string()),
            // A TLS alert says no as well.
            Ok(_) if got.first().is_none_or(|kind| *kind == 0x15) => End::Refused("closed".to_owned()),
            Ok(_) => End::Served(String::from_utf8_lossy(&got).into_owned()),
        };
        Ok(Seen { from, end, took: start.elapsed() })
    };
    pod.run_in_netns(attempt)?.with_context(|| format!("connecting to {to}"))
}

/// A tunnel's client.
#[derive(Clone)]
pub struct Client {
    /// What it shows.
    pub credential: Option<Credential>,
    /// What it offers to speak.
    pub alpn: Vec<Vec<u8>>,
}

/// What it sends once TLS is up.
pub enum Then<'a> {
    /// Nothing; it waits for the server's first bytes.
    Listen,
    /// Nothing, ever.
    Idle,
    /// These bytes.
    Bytes(&'a [u8]),
    /// A request.
    Request(Box<http::Request<()>>),
}

impl Client {
    /// A client that would be let in.
    pub fn good(credential: &Credential) -> Self {
        Self { credential: Some(credential.clone()), alpn: vec![b"h2".to_vec()] }
    }

    /// Makes a handshake from the network of `pod`, then does what `then` says and waits to be answered.
    pub fn attempt(&self, pod: &PodHandle, to: SocketAddr, then: Then<'_>) -> Result<Seen> {
        let attempt = async {
            let start = Instant::now();
            let tcp = TcpStream::connect(to).await.context("TCP")?;
            let from = tcp.local_addr()?;
            let end = tokio::time::timeout(PATIENCE, self.speak(tcp, then)).await.unwrap_or(Ok(End::Open))?;
            Ok(Seen { from, end, took: start.elapsed() })
        };
        pod.run_in_netns(|| block_on(attempt))?.with_context(|| format!("connecting to {to}"))
    }

    async fn speak(&self, tcp: TcpStream, then: Then<'_>) -> Result<End> {
        let mut tls = match self.handshake(tcp).await? {
            Ok(tls) => tls,
            Err(error) => return Ok(End::Refused(error.to_string())),
        };
        match then {
            Then::Request(request) => Ok(ask(tls, *request).await),
            Then::Listen => Ok(listen(&mut tls).await),
            Then::Idle => Ok(drain(&mut tls).await),
            Then::Bytes(bytes) => {
                use tokio::io::AsyncWriteExt as _;
                // What comes of it shows in the answer.
                let _ = tls.write_all(bytes).await;
                let _ = tls.flush().await;
                Ok(drain(&mut tls).await)
            }
        }
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<std::io::Result<Tls>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match &self.credential {
            None => builder.with_no_client_auth(),
            Some(Credential { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), PrivatePkcs8KeyDer::from(key.clone()).into())?
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        let name = ServerName::from(tcp.peer_addr()?.ip());
        Ok(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await)
    }

    /// Serial number of the certificate that the server at `to` shows, in lower-case hex, with its end of validity.
    pub fn serial(&self, pod: &PodHandle, to: SocketAddr) -> Result<(String, SystemTime)> {
        let look = async {
            let tls = self.handshake(TcpStream::connect(to).await?).await??;
            let (_, session) = tls.get_ref();
            let leaf = session.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
            let (_, leaf) = X509Certificate::from_der(leaf)?;
            let mut serial = String::new();
            leaf.raw_serial().iter().try_for_each(|byte| write!(serial, "{byte:02x}"))?;
            let end = u64::try_from(leaf.validity().not_after.timestamp())?;
            Ok((serial, SystemTime::UNIX_EPOCH + Duration::from_secs(end)))
        };
        pod.run_in_netns(|| block_on(look))?
    }
}

/// A request of the tunnel: CONNECT to `authority`.
pub fn connect(authority: &str) -> Result<Box<http::Request<()>>> {
    let request = http::Request::builder().method("CONNECT").version(http::Version::HTTP_2);
    Ok(Box::new(request.uri(authority).body(())?))
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// The first bytes decide: a server that is content sends its settings at once.
async fn listen(tls: &mut Tls) -> End {
    let mut buffer = [0; 512];
    match tls.read(&mut buffer).await {
        Ok(0) => End::Refused("closed".to_owned()),
        Ok(n) => End::Served(format!("{n} bytes")),
        Err(error) => End::Refused(error.to_string()),
    }
}

/// Until the end, whatever comes before it.
async fn drain(tls: &mut Tls) -> End {
    let mut all = Vec::new();
    match tls.read_to_end(&mut all).await {
        Ok(_) => End::Refused(format!("closed after {} bytes", all.len())),
        Err(error) => End::Refused(error.to_string()),
    }
}

async fn ask(tls: Tls, request: http::Request<()>) -> End {
    let exchange = async {
        let (send, connection) = h2::client::handshake(tls).await?;
        let answer = async {
            let (response, _stream) = send.ready().await?.send_request(request, false)?;
            Ok::<_, h2::Error>(response.await?.status().as_u16())
        };
        tokio::select! {
            // The answer first: a server may answer and close at the same time.
            biased;
            status = answer => status.map(End::Status),
            ended = connection => ended.map(|()| End::Refused("the tunnel was closed".to_owned())),
        }
    };
    exchange.await.unwrap_or_else(|error: h2::Error| End::Refused(error.to_string()))
}

/// Takes every server for whom it came for.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// For one attempt; longer than any deadline of the tunnel's.
const PATIENCE: Duration = Duration::from_secs(8);
const HOUR: Duration = Duration::from_secs(3600);
