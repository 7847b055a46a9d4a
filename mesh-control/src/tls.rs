//! The control plane's own certificate, from its own CA: always fresh, under the root of the moment.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use mesh_ca::{Bundle, Ca, CaError, Csr};
use mesh_core::id::SpiffeId;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Holds the TLS configuration of the moment.
pub struct Serving {
    ca: Arc<Ca>,
    id: SpiffeId,
    names: Vec<String>,
    config: ArcSwap<Config>,
}

struct Config {
    tls: Arc<ServerConfig>,
    /// For connections to other replicas.
    client: Arc<ClientConfig>,
    bundle: Arc<Bundle>,
    /// When half of the certificate's life is over.
    due: SystemTime,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The CA failed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A key or a request could not be made.
    #[error("the key of the control plane's certificate could not be made: {0}")]
    Key(#[from] rcgen::Error),
    /// A request that we made ourselves is none.
    #[error(transparent)]
    Csr(#[from] mesh_ca::CsrError),
    /// TLS does not take it.
    #[error("the control plane's certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The roots cannot be used to check clients.
    #[error("clients cannot be checked: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl Serving {
    /// Makes a certificate for `id`, which clients may know by any of `names` as well.
    pub fn new(ca: Arc<Ca>, id: SpiffeId, names: Vec<String>) -> Result<Self, ServingError> {
        let config = make(&ca, &id, &names)?;
        Ok(Self { ca, id, names, config: ArcSwap::from_pointee(config) })
    }

    /// The configuration of the moment. A certificate that has come of age since anybody looked (the process may have
    /// been stopped for a while) is renewed first: its clients would refuse it.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.fresh().tls)
    }

    fn fresh(&self) -> Guard<Arc<Config>> {
        let now = SystemTime::now();
        if now >= self.config.load().due
            && let Err(error) = self.refresh(now)
        {
            tracing::error!(%error, "The control plane's certificate cannot be renewed.");
        }
        self.config.load()
    }

    /// The configuration for connections to other replicas, which show the same identity.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.fresh().client)
    }

    /// Who this control plane is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Makes a new certificate if half of the life of this one is over, or if the roots have changed. On an error the
    /// old one stays.
    pub fn refresh(&self, now: SystemTime) -> Result<(), ServingError> {
        let current = self.config.load();
        if now < current.due && current.bundle == *self.ca.authority().bundle() {
            return Ok(());
        }
        self.config.store(Arc::new(make(&self.ca, &self.id, &self.names)?));
        Ok(())
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("id", &self.id).field("names", &self.names).finish_non_exhaustive()
    }
}

fn make(ca: &Ca, id: &SpiffeId, names: &[String]) -> Result<Config, ServingError> {
    let now = SystemTime::now();
    let authority = ca.authority();
    let (key, request) = mesh_ca::csr::make()?;
    let csr = Csr::parse(request.der())?;
    let signed = authority.sign_server(id, names, &csr, now)?;
    let bundle = Arc::clone(authority.bundle());
    let mut roots = RootCertStore::empty();
    for root in bundle.roots() {
        roots.add(root.clone())?;
    }
    let crls = bundle.crls().ders();
    let provider = Arc::new(aws_lc_rs::default_provider());
    // Tokens are as good as certificates, so there need not be one; whoever shows one is who it says.
    let roots = Arc::new(roots);
    let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .with_crls(crls.clone())
        .allow_unknown_revocation_status()
        .build()?;
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(servers)
        .with_client_auth_cert(signed.certificates.clone(), key.clone_key().into())?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.resumption = Resumption::disabled();
    let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .with_crls(crls)
        .allow_unknown_revocation_status()
        .allow_unauthenticated()
        .build()?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(signed.certificates, key.into())?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would outlive the check of the certificate it began with.
    tls.send_tls13_tickets = 0;
    let life = signed.not_after.duration_since(now).unwrap_or(Duration::ZERO);
    Ok(Config { tls: Arc::new(tls), client: Arc::new(client), bundle, due: now + life / 2 })
}
