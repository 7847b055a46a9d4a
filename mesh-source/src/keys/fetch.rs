//! One question for keys.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use mesh_core::authn::{Discovered, KeySet, KeySite, MAX_KEY_SET, Url, Wish, may_be_asked, places_of};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::KeyOptions;

/// Why there are no keys. Says nothing of what came back: whoever reads it may be somebody who may not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// The name leads nowhere.
    #[error("the host is not known")]
    NoHost,
    /// It leads only where nothing may be asked.
    #[error(
        "the host is where keys may not be asked for: this machine, its link, or what is no service of the mesh"
    )]
    Forbidden,
    /// Nobody is there.
    #[error("no connection could be made")]
    Connect,
    /// Whoever is there is not who it should be.
    #[error("TLS failed")]
    Tls,
    /// It does not speak HTTP.
    #[error("the answer is no HTTP")]
    Protocol,
    /// It said something else than 200; redirections are not followed.
    #[error("the status of the answer is {0}")]
    Status(u16),
    /// It said too much.
    #[error("the answer is longer than {MAX_KEY_SET} bytes")]
    TooLong,
    /// What it said is no key set.
    #[error("the answer is not a JSON Web Key Set")]
    NoKeys,
    /// What it said does not lead to keys.
    #[error("the answer is no configuration of an issuer with a jwks_uri")]
    NoConfiguration,
    /// It took too long.
    #[error("there was no answer within {0:?}")]
    Timeout(Duration),
}

/// The keys of a place that somebody wants.
pub(super) async fn fetch(site: &KeySite, wish: &Wish, options: &KeyOptions) -> Result<KeySet, FetchError> {
    let url = site.url().ok_or(FetchError::NoHost)?;
    let url = match site {
        KeySite::Url(_) => url,
        KeySite::Issuer(_) => {
            let configuration = get_in_time(&url, wish, options).await?;
            Discovered::parse(&configuration).ok_or(FetchError::NoConfiguration)?.0
        }
    };
    let keys = get_in_time(&url, wish, options).await?;
    KeySet::parse(&keys).map_err(|_| FetchError::NoKeys)
}

async fn get_in_time(url: &Url, wish: &Wish, options: &KeyOptions) -> Result<Bytes, FetchError> {
    let got = tokio::time::timeout(wish.timeout, get(url, &wish.namespaces, options)).await;
    got.unwrap_or(Err(FetchError::Timeout(wish.timeout)))
}

async fn get(url: &Url, namespaces: &BTreeSet<Arc<str>>, options: &KeyOptions) -> Result<Bytes, FetchError> {
    let mut last = FetchError::Forbidden;
    for address in addresses(url, namespaces, options).await?.into_iter().take(MAX_TRIES) {
        // To the very address that was looked at: a name may lead elsewhere by now.
        let Ok(tcp) = TcpStream::connect(address).await else {
            last = FetchError::Connect;
            continue;
        };
        if !url.secure {
            return ask(url, tcp).await;
        }
        let name = ServerName::try_from(url.host.to_string()).map_err(|_| FetchError::Tls)?;
        let connector = TlsConnector::from(client().ok_or(FetchError::Tls)?);
        let tls = connector.connect(name, tcp).await.map_err(|_| FetchError::Tls)?;
        return ask(url, tls).await;
    }
    Err(last)
}

/// Where the host is, as far as it may be asked there.
async fn addresses(
    url: &Url,
    namespaces: &BTreeSet<Arc<str>>,
    options: &KeyOptions,
) -> Result<Vec<SocketAddr>, FetchError> {
    let surroundings = Arc::clone(&options.surroundings);
    let snapshot = tokio::task::spawn_blocking(move || surroundings()).await;
    let snapshot = snapshot.map_err(|_| FetchError::NoHost)?;
    let (all, of_service) = match (places_of(&snapshot, url, namespaces), url.address()) {
        (Some(endpoints), _) => (endpoints, true),
        (None, Some(ip)) => (vec![SocketAddr::new(ip, url.port)], false),
        (None, None) => {
            let found = tokio::net::lookup_host((&*url.host, url.port)).await;
            (found.map_err(|_| FetchError::NoHost)?.collect(), false)
        }
    };
    if all.is_empty() {
        return Err(FetchError::NoHost);
    }
    let may = |at: &SocketAddr| may_be_asked(&snapshot, *at, of_service, options.local);
    Ok(all.into_iter().filter(may).collect())
}

async fn ask(url: &Url, io: impl AsyncRead + AsyncWrite + Unpin) -> Result<Bytes, FetchError> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = handshake.map_err(|_| FetchError::Protocol)?;
    let host = match (url.secure, url.port) {
        (true, 443) | (false, 80) => url.host.to_string(),
        (_, port) if url.host.contains(':') => format!("[{}]:{port}", url.host),
        (_, port) => format!("{}:{port}", url.host),
    };
    let request = Request::get(&*url.target)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::NoHost)?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|_| FetchError::Protocol)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), MAX_KEY_SET).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() { FetchError::TooLong } else { FetchError::Protocol }
        })?;
        Ok(body.to_bytes())
    };
    let (mut connection, mut exchange) = (pin!(connection), pin!(exchange));
    let mut over = false;
    poll_fn(|cx| {
        // Its end is not that of the exchange, which may have something left to read.
        over = over || connection.as_mut().poll(cx).is_ready();
        exchange.as_mut().poll(cx)
    })
    .await
}

/// TLS that trusts the authorities of the system, which are read once; `None` where there are none.
fn client() -> Option<Arc<ClientConfig>> {
    static CLIENT: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    CLIENT.get_or_init(make_client).clone()
}

fn make_client() -> Option<Arc<ClientConfig>> {
    let named = std::env::var(SSL_CERT_FILE).ok().filter(|path| !path.is_empty());
    let mut places = named.as_deref().into_iter().chain(BUNDLES.iter().copied().filter(|_| named.is_none()));
    let pem = places.find_map(|path| std::fs::read(path).ok())?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    // Those that cannot be used are left out: nobody here put them there.
    let (added, _) = roots.add_parsable_certificates(certificates);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut client = versions.ok().filter(|_| added > 0)?.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(client))
}

/// Addresses of one host that are tried.
const MAX_TRIES: usize = 4;
const USER_AGENT: &str = "mesh-keys";
/// What users of other programs name a bundle of authorities by.
const SSL_CERT_FILE: &str = "SSL_CERT_FILE";
/// Where distributions have theirs.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
