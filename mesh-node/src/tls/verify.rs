//! Peer certificates: the chain must lead to our roots, and the leaf must carry exactly one SPIFFE id of a trust
//! domain we accept. Names, addresses and the subject count for nothing.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use mesh_ca::Bundle;
use mesh_ca::chain::{self, IdentityError};
use mesh_core::id::{IdError, SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::config::provider;
use super::proof::{Proof, Role};
use super::{Agreed, Peer, Protocol};

/// What peers are checked against: roots, revocations and accepted trust domains.
///
/// Shared by all configurations; a change counts for the next handshake, and whoever holds a [`super::Proof`] hears of it.
#[derive(Debug)]
pub struct Trust {
    bundle: ArcSwap<Bundle>,
    domains: ArcSwap<Vec<TrustDomain>>,
    news: watch::Sender<()>,
}

impl Trust {
    /// Trusts `bundle` for the identities of `domains` (our own first, then aliases).
    pub fn new(bundle: Arc<Bundle>, domains: Vec<TrustDomain>) -> Self {
        let (bundle, domains) = (ArcSwap::new(bundle), ArcSwap::from_pointee(domains));
        Self { bundle, domains, news: watch::Sender::new(()) }
    }

    /// Changes whenever peers are checked against something else.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Replaces roots and revocations.
    pub fn set_bundle(&self, bundle: Arc<Bundle>) {
        self.bundle.store(bundle);
        self.news.send_replace(());
    }

    /// Roots and revocations of now.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.bundle.load_full()
    }

    /// Replaces the accepted trust domains.
    pub fn set_domains(&self, domains: Vec<TrustDomain>) {
        if **self.domains.load() != domains {
            self.domains.store(Arc::new(domains));
            self.news.send_replace(());
        }
    }

    /// Whether an identity of `domain` may be accepted at all.
    pub fn accepts(&self, domain: &TrustDomain) -> bool {
        self.domains.load().contains(domain)
    }

    /// Whether a peer that has shown `chain` (leaf first) at that time is accepted, as things are now.
    pub(super) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        at: UnixTime,
        role: Role,
    ) -> Result<(), PeerError> {
        let (leaf, intermediates) = chain.split_first().ok_or(PeerError::MalformedNames)?;
        self.verify(&Chain { leaf, intermediates }, at, role.usage()).map(|_| ())
    }

    /// Checks a chain as rustls hands it over; the identity is returned only if everything holds.
    fn verify(&self, chain: &Chain<'_>, now: UnixTime, usage: KeyUsage) -> Result<SpiffeId, PeerError> {
        chain.check_size()?;
        let bundle = self.bundle.load();
        let (roots, lists) = (bundle.anchors(), bundle.crls().lists());
        let revocation = chain::revocation(&lists);
        let leaf = EndEntityCert::try_from(chain.leaf).map_err(PeerError::from_webpki)?;
        leaf.verify_for_usage(algorithms().all, roots, chain.intermediates, now, usage, revocation, None)
            .map_err(PeerError::from_webpki)?;
        // Only now: what is parsed here was signed by a CA of ours.
        let id = chain::identity(chain.leaf)?;
        if !self.accepts(id.trust_domain()) {
            return Err(PeerError::ForeignTrustDomain(id.trust_domain().clone()));
        }
        Ok(id)
    }
}

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// More than [`chain::MAX_CERTIFICATES`] or [`chain::MAX_BYTES`].
    #[error("the peer's certificate chain is too long")]
    ChainTooLong,
    /// No path to one of our roots.
    #[error("the peer's certificate was not issued under a root we trust")]
    Untrusted,
    /// Past its end.
    #[error("the peer's certificate has expired")]
    Expired,
    /// Named by a revocation list, itself or an intermediate above it.
    #[error("the peer's certificate has been revoked")]
    Revoked,
    /// Before its begin.
    #[error("the peer's certificate is not valid yet")]
    NotYetValid,
    /// Its extended key usage excludes the role.
    #[error("the peer's certificate is not for this use")]
    WrongUsage,
    /// Malformed, a CA as a leaf, a weak or unknown algorithm, or the like.
    #[error("the peer's certificate is invalid: {0}")]
    Invalid(webpki::Error),
    /// The leaf or its subject alternative names do not parse.
    #[error("the names of the peer's certificate are malformed")]
    MalformedNames,
    /// No URI among its names.
    #[error("the peer's certificate carries no SPIFFE id")]
    NoId,
    /// More than one URI among its names.
    #[error("the peer's certificate carries more than one URI")]
    SeveralIds,
    /// The URI is not a SPIFFE id of our form.
    #[error("the peer's certificate carries a malformed SPIFFE id: {0}")]
    MalformedId(IdError),
    /// A trust domain that we do not accept.
    #[error("the peer belongs to the foreign trust domain {0}")]
    ForeignTrustDomain(TrustDomain),
    /// A good identity, but not the one we came for.
    #[error("the peer is {found}, not {expected}")]
    WrongIdentity {
        /// Whom we wanted.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
}

impl PeerError {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::ChainTooLong => "chain_too_long",
            Self::Untrusted => "untrusted_chain",
            Self::Expired => "certificate_expired",
            Self::Revoked => "certificate_revoked",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::WrongUsage => "wrong_key_usage",
            Self::Invalid(_) => "invalid_certificate",
            Self::MalformedNames => "malformed_names",
            Self::NoId => "no_spiffe_id",
            Self::SeveralIds => "several_spiffe_ids",
            Self::MalformedId(_) => "malformed_spiffe_id",
            Self::ForeignTrustDomain(_) => "foreign_trust_domain",
            Self::WrongIdentity { .. } => "wrong_identity",
        }
    }

    fn from_webpki(e: webpki::Error) -> Self {
        use webpki::Error as E;
        match e {
            // A signature that does not fit: an issuer of the right name with another key.
            E::UnknownIssuer | E::InvalidSignatureForPublicKey => Self::Untrusted,
            E::CertExpired { .. } => Self::Expired,
            E::CertRevoked => Self::Revoked,
            E::CertNotValidYet { .. } => Self::NotYetValid,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::WrongUsage,
            other => Self::Invalid(other),
        }
    }

    /// For rustls: the kinds with an alert of their own keep it, so that the other end's log says why.
    fn into_rustls(self) -> Error {
        Error::InvalidCertificate(match self {
            Self::Untrusted => CertificateError::UnknownIssuer,
            Self::Expired => CertificateError::Expired,
            Self::Revoked => CertificateError::Revoked,
            Self::NotYetValid => CertificateError::NotValidYet,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// The identity and the end of validity of a leaf whose chain was verified.
pub(super) fn peer_of(
    leaf: &CertificateDer<'_>,
    (protocol, agreed): (Protocol, Agreed),
    proof: Proof,
) -> Result<Peer, PeerError> {
    let id = chain::identity(leaf)?;
    Ok(Peer { id, protocol, agreed, not_after: not_after(leaf)?, proof })
}

/// When a certificate ends.
pub(super) fn not_after(leaf: &CertificateDer<'_>) -> Result<SystemTime, PeerError> {
    let (_, cert) = X509Certificate::from_der(leaf).map_err(|_| PeerError::MalformedNames)?;
    Ok(chain::time(cert.validity().not_after.timestamp()))
}

impl From<IdentityError> for PeerError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Malformed => Self::MalformedNames,
            IdentityError::None => Self::NoId,
            IdentityError::Several => Self::SeveralIds,
            IdentityError::Id(error) => Self::MalformedId(error),
        }
    }
}

/// A [`Trust`] in the two shapes rustls asks for.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    trust: Arc<Trust>,
    expected: Option<SpiffeId>,
}

impl PeerVerifier {
    /// Accepts every identity of the accepted trust domains.
    pub(crate) fn any(trust: Arc<Trust>) -> Self {
        Self { trust, expected: None }
    }

    /// Accepts `id` alone.
    pub(super) fn exactly(trust: Arc<Trust>, id: SpiffeId) -> Self {
        Self { trust, expected: Some(id) }
    }

    fn check(&self, chain: &Chain<'_>, now: UnixTime, usage: KeyUsage) -> Result<(), PeerError> {
        let found = self.trust.verify(chain, now, usage)?;
        match &self.expected {
            Some(expected) if *expected != found => {
                Err(PeerError::WrongIdentity { expected: expected.clone(), found })
            }
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usage = KeyUsage::server_auth();
        self.check(&Chain { leaf, intermediates }, now, usage).map_err(PeerError::into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Clients of the mesh have one certificate; naming our CAs would only lengthen the handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let usage = KeyUsage::client_auth();
        self.check(&Chain { leaf, intermediates }, now, usage).map_err(PeerError::into_rustls)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// A chain as it came off the wire.
struct Chain<'a> {
    leaf: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
}

impl Chain<'_> {
    /// Bounds the work of path building before it begins.
    fn check_size(&self) -> Result<(), PeerError> {
        let bytes = self.intermediates.iter().map(|c| c.len()).sum::<usize>() + self.leaf.len();
        if self.intermediates.len() >= chain::MAX_CERTIFICATES || bytes > chain::MAX_BYTES {
            return Err(PeerError::ChainTooLong);
        }
        Ok(())
    }
}

fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    static ALGORITHMS: std::sync::OnceLock<WebPkiSupportedAlgorithms> = std::sync::OnceLock::new();
    ALGORITHMS.get_or_init(|| provider().signature_verification_algorithms)
}

fn tls13_only() -> Error {
    Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
}
