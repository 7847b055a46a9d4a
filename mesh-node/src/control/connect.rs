//! Connections to the control plane: TLS under the mesh's own roots, with the node's certificate once there is one.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use mesh_ca::Bundle;
use mesh_core::service_host::{service_of, variable_of};
use rustls::{ClientConfig, RootCertStore, client::WebPkiServerVerifier};
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, ToSocketAddrs},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tonic::transport::Channel;

use super::{credential::Credential, trust::Trust};
use crate::tls::config::{ALPN_H2, provider};

/// Where the control plane is, and how it is recognised.
#[derive(Debug)]
pub struct Endpoint {
    host: String,
    port: u16,
    /// Where Kubernetes said that the service is when this pod started. It is asked first, since a cluster's DNS may need the mesh, or be
    /// missing.
    known: Option<SocketAddr>,
    /// `None` for a plain connection.
    roots: Option<Roots>,
}

#[derive(Debug)]
struct Roots {
    /// Read anew for every connection: whoever manages it may replace it.
    file: Option<PathBuf>,
    /// What the control plane itself told last.
    told: Arc<Trust>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not `http://host:port` or `https://host:port`.
    #[error("{0:?} is no address of a control plane; write https://host:port")]
    Address(String),
    /// The file of the roots is of no use.
    #[error("the control plane's root certificates {}: {reason}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS to the control plane: {0}")]
    Tls(String),
    /// Nobody there, or not who we came for.
    #[error("{0}")]
    Unreachable(String),
}

impl Endpoint {
    /// The control plane at `url`. Over TLS it must show a certificate under the roots of `file` or, once there are
    /// some, under those of `told`.
    pub fn parse(url: &str, file: Option<PathBuf>, told: Arc<Trust>) -> Result<Self, ConnectError> {
        let wrong = || ConnectError::Address(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let roots = match uri.scheme_str() {
            Some("https") => Some(Roots { file, told }),
            Some("http") => None,
            _ => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if roots.is_some() { 15012 } else { 15010 });
        // Only where whoever answers has to prove that it is who was meant.
        let service = roots.as_ref().and_then(|_| service_of(&host));
        let variable = service.map(|(_, name)| variable_of(name));
        let known = variable.and_then(|name| std::env::var(name).ok()?.parse::<IpAddr>().ok());
        let known = known.map(|ip| SocketAddr::new(ip, port));
        Ok(Self { host, port, known, roots })
    }

    /// Connects, as `credential` if there is one.
    pub async fn connect(&self, credential: Option<&Credential>) -> Result<Channel, ConnectError> {
        let tls = match &self.roots {
            None => None,
            Some(roots) => Some(self.tls(roots, credential)?),
        };
        let (host, port, known) = (self.host.clone(), self.port, self.known);
        let connector = tower::service_fn(move |_: Uri| {
            let (host, tls) = (host.clone(), tls.clone());
            async move {
                // A service may be another one by now, or gone.
                if let Some(known) = known
                    && let Ok(io) = dial(known, tls.clone()).await
                {
                    return Ok(io);
                }
                dial((&*host, port), tls).await
            }
        });
        // What comes after the scheme is what the server sees; that the connection is protected is the connector's
        // business.
        let endpoint = tonic::transport::Endpoint::from_static("http://mesh-control")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| ConnectError::Unreachable(chain(&error)))
    }

    fn tls(&self, roots: &Roots, credential: Option<&Credential>) -> Result<Tls, ConnectError> {
        let failed = |error: &dyn std::error::Error| ConnectError::Tls(error.to_string());
        let mut store = RootCertStore::empty();
        let mut known = roots.told.bundle().roots().to_vec();
        if let Some(path) = &roots.file {
            known.extend(read_roots(path)?.roots().iter().cloned());
        }
        for root in known {
            store.add(root).map_err(|error| failed(&error))?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|error| failed(&error))?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(&error))?
            .with_webpki_verifier(verifier);
        let mut config = match credential {
            Some(credential) => {
                let (chain, key) = credential.for_tls();
                builder.with_client_auth_cert(chain, key).map_err(|error| failed(&error))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        let name = ServerName::try_from(self.host.clone()).map_err(|error| failed(&error))?;
        Ok((TlsConnector::from(Arc::new(config)), name))
    }
}

/// Reads a file of PEM certificates.
pub fn read_roots(path: &std::path::Path) -> Result<Bundle, ConnectError> {
    let wrong = |reason: String| ConnectError::Roots { path: path.to_owned(), reason };
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    Bundle::parse(&text, &[]).map_err(|error| wrong(error.to_string()))
}

type Tls = (TlsConnector, ServerName<'static>);

type Io = TokioIo<Either<TcpStream, Box<TlsStream<TcpStream>>>>;

async fn dial(to: impl ToSocketAddrs, tls: Option<Tls>) -> io::Result<Io> {
    let stream = timeout(REACH, TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(match tls {
        None => Either::Left(stream),
        Some((connector, name)) => Either::Right(Box::new(connector.connect(name, stream).await?)),
    }))
}

/// All of an error's causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What a new connection has to be there.
const CONNECT: Duration = Duration::from_secs(5);
/// What the other end's system has to answer: a new attempt gets through sooner than the second try of an old one once
/// the network is back.
const REACH: Duration = Duration::from_secs(1);
/// A connection that says nothing for so long is asked whether it lives…
const KEEPALIVE: Duration = Duration::from_secs(2);
/// …and has so long to answer. Together they end before TCP's own pauses have grown past a few seconds, after which
/// a network that is back would go unnoticed for as long again.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that the control plane may send before they are read.
const WINDOW: u32 = 4 << 20;
