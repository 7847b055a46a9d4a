//! One certificate with its key, ready for handshakes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_ca::{chain, csr};
use mesh_core::id::SpiffeId;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::sign::{Sign, SignError};
use crate::tls::{Protocols, Trust, config};

/// An identity's certificate and key (SPIFFE calls it an X.509-SVID), as TLS configurations built once.
pub struct Svid {
    id: SpiffeId,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    key: Vec<u8>,
    trust: Arc<Trust>,
    client: ClientConfig,
    server: Arc<ServerConfig>,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The CA refused or failed.
    #[error("{0}")]
    Sign(#[from] SignError),
    /// Key or request could not be made.
    #[error("the key could not be made: {0}")]
    Key(#[from] rcgen::Error),
    /// What the CA returned is no certificate chain.
    #[error("the CA's answer is not a certificate chain")]
    Malformed,
    /// What the CA returned does not fit the key, or the like.
    #[error("the CA's answer cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl IssueError {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Sign(e) => e.reason(),
            Self::Key(_) => "key_failed",
            Self::Malformed => "ca_answer_malformed",
            Self::Unusable(_) => "ca_answer_unusable",
        }
    }
}

impl Svid {
    /// Makes a key and has `ca` certify it as `id`.
    pub async fn issue(
        ca: &dyn Sign,
        id: &SpiffeId,
        lifetime: Duration,
        trust: &Arc<Trust>,
        protocols: Protocols,
    ) -> Result<Self, IssueError> {
        let (key, request) = csr::make()?;
        let chain = ca.sign(id, request.der().clone(), lifetime).await?.certificates;
        Self::assemble(id.clone(), chain, key, trust.clone(), protocols)
    }

    /// Puts a chain (leaf first) and its key together.
    pub fn assemble(
        id: SpiffeId,
        chain: Vec<CertificateDer<'static>>,
        key: PrivatePkcs8KeyDer<'static>,
        trust: Arc<Trust>,
        protocols: Protocols,
    ) -> Result<Self, IssueError> {
        let kept = key.secret_pkcs8_der().to_vec();
        let key = PrivateKeyDer::from(key);
        let leaf = chain.first().ok_or(IssueError::Malformed)?;
        let (_, cert) = X509Certificate::from_der(leaf).map_err(|_| IssueError::Malformed)?;
        let serial = cert.raw_serial().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let not_before = chain::time(cert.validity().not_before.timestamp());
        let not_after = chain::time(cert.validity().not_after.timestamp());
        let client = config::client(chain.clone(), key.clone_key(), trust.clone(), protocols)?;
        let server = Arc::new(config::server(chain.clone(), key, trust.clone(), protocols)?);
        Ok(Self { id, serial, not_before, not_after, chain, key: kept, trust, client, server })
    }

    /// Whose certificate this is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Serial number in lower-case hex.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Begin of validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it may begin something new at `now`.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        now < self.not_after
    }

    /// The chain as sent to peers, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The key, to be kept where [`super::cache`] keeps keys and nowhere else.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// What peers are checked against.
    pub(crate) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    pub(crate) fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    pub(crate) fn client_for(&self, expected: &SpiffeId) -> Arc<ClientConfig> {
        config::expecting(&self.client, self.trust.clone(), expected)
    }
}

impl std::fmt::Debug for Svid {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).field("serial", &self.serial).finish_non_exhaustive()
    }
}
