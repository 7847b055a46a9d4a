//! TLS towards the servers of a service, as its DestinationRule asks for it.
//!
//! Invariant: what a rule asks for and cannot be had fails the connection; nothing is sent in the clear instead.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::cluster::{ClientCertificate, TlsOrigination, TlsPolicy, Trust};
use mesh_core::resource::Secret;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, TlsStream};

use self::materials::{Materials, Sources};
use self::verify::Verifier;
use super::io::Io;
use super::site::{Client, Dial, DialError, Dialled};
use crate::tls::files::Files;
use crate::tls::strangers::{certified, provider};

mod materials;
mod verify;

/// The TLS of one cluster, made when it is needed and made again when what it is made from has changed.
#[derive(Default)]
pub struct Origination(RefCell<State>);

#[derive(Default)]
struct State {
    files: Files,
    made: Option<Made>,
}

struct Made {
    configs: Result<Configs, String>,
    /// What was asked for, and what there was.
    secrets: Vec<(String, Option<Arc<Secret>>)>,
    /// When files were looked at last.
    looked: Instant,
}

/// The same but for what is spoken then.
#[derive(Clone)]
struct Configs {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    bytes: Arc<ClientConfig>,
}

/// What will be spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Nobody knows.
    Bytes,
    /// TLS of the client's, which the rules of the cluster do not touch.
    Sealed,
}

/// A connection as the rules of the cluster want it.
pub async fn secure(
    dialled: Dialled,
    (policy, origination): (&TlsPolicy, &Origination),
    to: &Dial<'_>,
    client: &dyn Client,
    (speaks, asked): (Speaks, Option<&str>),
) -> Result<Dialled, DialError> {
    let addr = to.endpoint.addr;
    match policy {
        _ if speaks == Speaks::Sealed => Ok(dialled),
        TlsPolicy::Mesh | TlsPolicy::Disable => Ok(dialled),
        TlsPolicy::IstioMutual { .. } if dialled.encrypted => Ok(dialled),
        TlsPolicy::IstioMutual { .. } => Err(DialError::Tls(format!(
            "a DestinationRule asks for mutual TLS of the mesh, in which {addr} takes no part"
        ))),
        TlsPolicy::Originate(rule) => {
            let Dialled { io, encrypted, held } = dialled;
            // Envoy's auto_sni, with which auto_san_validation keeps step: the name is also the one that is checked.
            let host = rule.sni.as_deref().or(asked).unwrap_or(&to.service.0.hostname);
            let failed = |why: String| DialError::Tls(format!("TLS with {host} at {addr}: {why}"));
            if !client.reads_files() && names_files(rule) {
                return Err(failed("files are read for gateways only".to_owned()));
            }
            let secret = |name: &str| client.secret(to.snapshot, name);
            let configs = origination.configs(rule, &secret).map_err(failed)?;
            let name = server_name(rule, host, to).map_err(failed)?;
            let io =
                Box::pin(handshake(io, configs.of_speech(speaks), name, speaks)).await.map_err(failed)?;
            Ok(Dialled { io, encrypted, held })
        }
    }
}

fn names_files(rule: &TlsOrigination) -> bool {
    matches!(rule.certificate, Some(ClientCertificate::Files { .. }))
        || matches!(rule.trust, Trust::File(_))
        || rule.crl.is_some()
}

/// The name that is asked for. What is no name is not sent, and an address is not either.
fn server_name(rule: &TlsOrigination, host: &str, to: &Dial<'_>) -> Result<ServerName<'static>, String> {
    match ServerName::try_from(host.to_owned()) {
        Ok(name) => Ok(name),
        Err(_) if rule.trust == Trust::Anybody || !rule.subject_alt_names.is_empty() => {
            Ok(ServerName::from(to.endpoint.addr.ip()))
        }
        Err(_) => {
            Err("no certificate is for such a name; the rule needs an sni or subjectAltNames".to_owned())
        }
    }
}

async fn handshake(
    io: Io,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    speaks: Speaks,
) -> Result<Io, String> {
    match io {
        Io::Tcp(tcp) => Ok(Io::Tls(Box::new(connect(tcp, config, name, speaks).await?))),
        io => Ok(Io::Nested(Box::new(connect(io, config, name, speaks).await?))),
    }
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    speaks: Speaks,
) -> Result<TlsStream<S>, String> {
    let stream = TlsConnector::from(config).connect(name, io).await.map_err(|error| error.to_string())?;
    let agreed = stream.get_ref().1.alpn_protocol();
    if speaks == Speaks::Http2 && agreed != Some(ALPN_H2) {
        return Err("the server does not agree to speak HTTP/2".to_owned());
    }
    Ok(TlsStream::from(stream))
}

impl Origination {
    fn configs(
        &self,
        rule: &TlsOrigination,
        secret: &dyn Fn(&str) -> Option<Arc<Secret>>,
    ) -> Result<Configs, String> {
        let mut state = self.0.borrow_mut();
        let State { files, made } = &mut *state;
        let now = Instant::now();
        if let Some(made) = made
            && !made.is_outdated(files, secret, now)
        {
            return made.configs.clone();
        }
        files.begin();
        let mut sources = Sources { files, secret, secrets: Vec::new() };
        let materials = sources.gather(rule);
        let secrets = sources.secrets;
        let configs = materials.and_then(|materials| match Configs::of(rule, &materials) {
            Ok(configs) => Ok(configs),
            // Of two files that belong together one is replaced before the other.
            Err(why) => match made.take().and_then(|made| made.configs.ok()) {
                Some(before) => {
                    tracing::warn!(%why, "What TLS towards a service is made from has changed and cannot be used; it stays as it was.");
                    Ok(before)
                }
                None => Err(why),
            },
        });
        *made = Some(Made { configs: configs.clone(), secrets, looked: now });
        configs
    }
}

impl Made {
    fn is_outdated(
        &mut self,
        files: &mut Files,
        secret: &dyn Fn(&str) -> Option<Arc<Secret>>,
        now: Instant,
    ) -> bool {
        if self.secrets.iter().any(|(name, known)| secret(name) != *known) {
            return true;
        }
        if now.saturating_duration_since(self.looked) < LOOK {
            return false;
        }
        self.looked = now;
        files.have_changed() || self.configs.is_err()
    }
}

/// What TLS is made with to whoever answers, where it does not matter who that is.
///
/// # Errors
/// What the library says against it.
pub(crate) fn anybody() -> Result<Arc<ClientConfig>, String> {
    let rule = TlsOrigination {
        certificate: None,
        trust: Trust::Anybody,
        crl: None,
        sni: None,
        subject_alt_names: Arc::default(),
    };
    let nothing = Materials { pair: None, authorities: None };
    Configs::of(&rule, &nothing).map(|configs| configs.http1)
}

impl Configs {
    fn of(rule: &TlsOrigination, materials: &Materials) -> Result<Self, String> {
        let verifier = Verifier::of(rule, materials)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &materials.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = certified(&pair.named, &pair.certificate, &pair.key, &provider())?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        };
        // Connections are kept; a handshake that is shortened would outlive what was checked.
        config.resumption = Resumption::disabled();
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Self { http1: offering(&[ALPN_HTTP11]), http2: offering(&[ALPN_H2]), bytes: offering(&[]) })
    }

    fn of_speech(self, speaks: Speaks) -> Arc<ClientConfig> {
        match speaks {
            Speaks::Http1 => self.http1,
            Speaks::Http2 => self.http2,
            Speaks::Bytes | Speaks::Sealed => self.bytes,
        }
    }
}

const ALPN_H2: &[u8] = b"h2";
const ALPN_HTTP11: &[u8] = b"http/1.1";
/// How long files are taken to be as they were.
const LOOK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
