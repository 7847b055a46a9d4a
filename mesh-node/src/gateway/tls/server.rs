//! A server's TLS: made from what a Gateway says and the certificates that it names.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use mesh_core::id::SpiffeId;
use mesh_core::resource::networking::gateway::{ServerTls, ServerTlsMode};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client::{ClientCertificate, ClientVerifier, Shown};
use super::resolve::Choice;
use super::settings::Settings;
use super::{ALPN_H2, ALPN_HTTP11, fitting};
use crate::gateway::certificates::{Materials, Pair};
use crate::identity::{IdentityStore, Svid};
use crate::tls::leaf::hex;
use crate::tls::strangers;

/// How a server does TLS.
pub(in crate::gateway) enum Tls {
    /// It opens it with certificates that a Gateway names.
    Open(Box<Open>),
    /// It opens it as itself, for clients of the mesh.
    Mesh(Mesh),
    /// It does not open it.
    Pass,
    /// It should open it and cannot, and why.
    Broken(String),
}

/// TLS with certificates that a Gateway names.
pub(in crate::gateway) struct Open {
    common: Arc<ServerConfig>,
    /// Without protocols.
    bare: Arc<ServerConfig>,
    /// Checks certificates of clients, where they are asked for.
    verifier: Option<Arc<ClientVerifier>>,
    certificates: Vec<Certificate>,
    remarks: Vec<String>,
    /// Of all that it was made from.
    digest: Digest,
}

/// TLS under the identity in the mesh.
pub(in crate::gateway) struct Mesh {
    id: Option<SpiffeId>,
    made: ArcSwapOption<MadeFor>,
}

struct MadeFor {
    svid: Arc<Svid>,
    common: Arc<ServerConfig>,
    bare: Arc<ServerConfig>,
}

/// A server's certificate, as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct Certificate {
    /// SHA-256 of it in hexadecimal.
    pub(in crate::gateway) fingerprint: String,
    /// When it ends, in seconds since 1970.
    pub(in crate::gateway) not_after: i64,
}

impl Tls {
    /// Whether TLS ends here.
    pub(super) fn opens(&self) -> bool {
        !matches!(self, Self::Pass)
    }

    /// Whether clients prove who they are in the mesh.
    pub(super) fn proves_identities(&self) -> bool {
        matches!(self, Self::Mesh(_))
    }

    /// The configuration for a client's handshake.
    pub(super) fn config(
        &self,
        hello: &ClientHello<'_>,
        identities: &IdentityStore,
    ) -> Result<Arc<ServerConfig>, String> {
        match self {
            Self::Open(open) => Ok(Arc::clone(fitting(hello, &open.common, &open.bare))),
            Self::Mesh(mesh) => mesh.config(hello, identities),
            Self::Pass => Err("TLS is not opened here".to_owned()),
            Self::Broken(why) => Err(why.clone()),
        }
    }

    /// Who a client is that has shown `chain`.
    pub(super) fn client(&self, chain: &[CertificateDer<'_>]) -> Option<ClientCertificate> {
        let leaf = chain.first()?;
        match self {
            Self::Open(open) => {
                let verified = open.verifier.as_ref().is_some_and(|verifier| verifier.verifies());
                Some(ClientCertificate::read(leaf, verified))
            }
            Self::Mesh(_) => {
                let identity = mesh_ca::chain::identity(leaf).ok();
                Some(ClientCertificate { identity, ..ClientCertificate::read(leaf, true) })
            }
            Self::Pass | Self::Broken(_) => None,
        }
    }

    /// Whether a client that was let in under `before` would be today: `Err` says why not. A server that cannot open TLS at
    /// the moment, or in another way than before, has nothing to say about it.
    pub(in crate::gateway) fn still_accepts(&self, before: &Self, shown: &Shown) -> Result<(), String> {
        let (Self::Open(now), Self::Open(before)) = (self, before) else { return Ok(()) };
        match (&now.verifier, &before.verifier) {
            (Some(now), Some(before)) => now.still_accepts(before, shown).map_err(|error| error.to_string()),
            _ => Ok(()),
        }
    }

    /// Its certificates, as they may be shown.
    pub(in crate::gateway) fn certificates(&self) -> &[Certificate] {
        match self {
            Self::Open(open) => &open.certificates,
            Self::Mesh(_) | Self::Pass | Self::Broken(_) => &[],
        }
    }

    /// Why it cannot serve, if it cannot.
    pub(in crate::gateway) fn problem(&self) -> Option<&str> {
        match self {
            Self::Broken(why) => Some(why),
            _ => None,
        }
    }

    /// Whether it was made from exactly this.
    pub(in crate::gateway) fn is_of(&self, materials: &Materials) -> bool {
        match self {
            Self::Open(open) => open.digest.as_ref() == digest_of(materials).as_ref(),
            _ => false,
        }
    }

    /// Makes the TLS of a server that opens it with `materials`.
    pub(in crate::gateway) fn open(spec: &ServerTls, materials: &Materials) -> Result<Self, String> {
        Open::of(spec, materials).map(|open| Self::Open(Box::new(open)))
    }

    /// What is not quite as it was asked for.
    pub(in crate::gateway) fn remarks(&self) -> &[String] {
        match self {
            Self::Open(open) => &open.remarks,
            Self::Mesh(_) | Self::Pass | Self::Broken(_) => &[],
        }
    }

    /// The TLS of a server that opens it as `id`.
    pub(in crate::gateway) fn mesh(id: Option<SpiffeId>) -> Self {
        Self::Mesh(Mesh { id, made: ArcSwapOption::empty() })
    }

    /// Whether it opens TLS as `id`.
    pub(in crate::gateway) fn is_mesh(&self, id: Option<&SpiffeId>) -> bool {
        matches!(self, Self::Mesh(mesh) if mesh.id.as_ref() == id)
    }
}

impl Open {
    fn of(spec: &ServerTls, materials: &Materials) -> Result<Self, String> {
        let mut remarks = Vec::new();
        let settings = Settings::of(spec, |remark| remarks.push(remark))?;
        let (mut keys, mut certificates) = (Vec::new(), Vec::new());
        for pair in &materials.pairs {
            let key = certified(pair, &settings.provider)?;
            let shown = key.end_entity_cert().map_err(|error| error.to_string()).and_then(Certificate::of);
            certificates.push(shown.map_err(|why| format!("{} {why}", pair.named))?);
            keys.push(Arc::new(key));
        }
        let verifier = ClientVerifier::of(spec, materials)?.map(Arc::new);
        let builder = ServerConfig::builder_with_provider(settings.provider)
            .with_protocol_versions(&settings.versions)
            .map_err(|error| error.to_string())?;
        let asks = verifier.is_some();
        let builder = match verifier.clone() {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth()),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Choice::of(keys)));
        config.ignore_client_order = settings.own_order;
        resume(&mut config, asks)?;
        let bare = Arc::new(config.clone());
        config.alpn_protocols = protocols();
        Ok(Self {
            common: Arc::new(config),
            bare,
            verifier,
            certificates,
            remarks,
            digest: digest_of(materials),
        })
    }
}

fn certified(pair: &Pair, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let mut key = strangers::certified(&pair.named, &pair.certificate, &pair.key, provider)?;
    key.ocsp.clone_from(&pair.ocsp_staple);
    Ok(key)
}

/// Whether handshakes can be shortened: not where clients show certificates, which would outlive the check.
fn resume(config: &mut ServerConfig, asks: bool) -> Result<(), String> {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if asks {
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
    }
    Ok(())
}

impl Mesh {
    fn config(
        &self,
        hello: &ClientHello<'_>,
        identities: &IdentityStore,
    ) -> Result<Arc<ServerConfig>, String> {
        let id = self.id.as_ref().ok_or("this gateway has no identity in the mesh")?;
        let svid = identities.current(id).ok_or_else(|| format!("there is no certificate for {id}"))?;
        let made = self.made.load_full().filter(|made| Arc::ptr_eq(&made.svid, &svid));
        let made = made.unwrap_or_else(|| {
            let mut config = ServerConfig::clone(svid.server());
            config.alpn_protocols.clear();
            let bare = Arc::new(config.clone());
            config.alpn_protocols = protocols();
            let made = Arc::new(MadeFor { svid, common: Arc::new(config), bare });
            self.made.store(Some(Arc::clone(&made)));
            made
        });
        Ok(Arc::clone(fitting(hello, &made.common, &made.bare)))
    }
}

impl Certificate {
    fn of(leaf: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|error| format!("is malformed: {error}"))?;
        let not_after = parsed.validity().not_after.timestamp();
        Ok(Self { fingerprint: hex(digest(&SHA256, leaf).as_ref()), not_after })
    }
}

fn protocols() -> Vec<Vec<u8>> {
    vec![ALPN_H2.to_vec(), ALPN_HTTP11.to_vec()]
}

fn digest_of(materials: &Materials) -> Digest {
    let mut context = Context::new(&SHA256);
    let mut add = |part: Option<&[u8]>| {
        let part = part.unwrap_or_default();
        context.update(&part.len().to_be_bytes());
        context.update(part);
    };
    for pair in &materials.pairs {
        add(Some(&pair.certificate));
        add(Some(&pair.key));
        add(pair.ocsp_staple.as_deref());
    }
    add(materials.ca.as_deref());
    add(materials.crl.as_deref());
    context.finish()
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(open) => f.debug_tuple("Open").field(&open.certificates).finish(),
            Self::Mesh(mesh) => f.debug_tuple("Mesh").field(&mesh.id).finish(),
            Self::Pass => f.write_str("Pass"),
            Self::Broken(why) => f.debug_tuple("Broken").field(why).finish(),
        }
    }
}

/// Whether a server of this mode opens TLS, and with what.
pub(in crate::gateway) fn opens_with_certificates(mode: ServerTlsMode) -> bool {
    matches!(mode, ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual)
}
