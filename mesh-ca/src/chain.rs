//! Chains of certificates: what counts as one, and the check of one against roots and revocations.

use std::time::{Duration, SystemTime};

use mesh_core::id::{IdError, SpiffeId};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage,
    RevocationCheckDepth, RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whether the first of `chain` may act as a client under one of `anchors`, as peers will ask; if not, why.
pub(crate) fn check(
    chain: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    now: UnixTime,
) -> Result<(), String> {
    let (leaf, intermediates) = chain.split_first().ok_or("it is empty")?;
    let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
    if chain.len() > MAX_CERTIFICATES || bytes > MAX_BYTES {
        return Err(format!("it has more than {MAX_CERTIFICATES} certificates or {MAX_BYTES} bytes"));
    }
    let leaf = EndEntityCert::try_from(leaf).map_err(|e| e.to_string())?;
    let usage = KeyUsage::client_auth();
    leaf.verify_for_usage(ALL_VERIFICATION_ALGS, anchors, intermediates, now, usage, None, None)
        .map(|_| ())
        .map_err(|e| e.to_string())
}

/// The one SPIFFE id of a verified leaf. A certificate with another URI, or with a name that cannot be read, names nobody.
pub fn identity(leaf: &CertificateDer<'_>) -> Result<SpiffeId, IdentityError> {
    let (rest, cert) = X509Certificate::from_der(leaf).map_err(|_| IdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(IdentityError::Malformed);
    }
    let names = cert.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
    let mut uri = None;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(_) if uri.is_some() => return Err(IdentityError::Several),
            GeneralName::URI(text) => uri = Some(*text),
            // A name that one parser skips and another reads is how two parties come to differ about an identity.
            GeneralName::Invalid(..) => return Err(IdentityError::Malformed),
            _ => {}
        }
    }
    SpiffeId::parse(uri.ok_or(IdentityError::None)?).map_err(IdentityError::Id)
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It, or one of its names, cannot be read.
    #[error("the certificate or its names are malformed")]
    Malformed,
    /// No URI.
    #[error("the certificate carries no SPIFFE id")]
    None,
    /// More than one URI.
    #[error("the certificate carries more than one URI")]
    Several,
    /// The URI is none of ours.
    #[error("the certificate's SPIFFE id {0}")]
    Id(IdError),
}

/// How revocation lists count in the check of a peer; `None` if there are none.
///
/// Every certificate of the chain but the root is looked up in the lists of its issuer. An issuer without a list has
/// revoked nothing. A list past its `nextUpdate` goes on counting: to refuse every peer because a new list is late would
/// stop the mesh, and to drop the list would let in those whom it names.
pub fn revocation<'a>(lists: &'a [&'a CertRevocationList<'a>]) -> Option<RevocationOptions<'a>> {
    let builder = RevocationOptionsBuilder::new(lists).ok()?;
    let builder = builder.with_depth(RevocationCheckDepth::Chain);
    let builder = builder.with_status_policy(UnknownStatusPolicy::Allow);
    Some(builder.with_expiration_policy(ExpirationPolicy::Ignore).build())
}

/// A time of a certificate, in seconds since 1970; those before are as good as 1970.
pub fn time(timestamp: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}

/// A root as the checks take it.
pub(crate) fn anchor(root: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, Error> {
    webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned())
}

/// Certificates in a chain, leaf included. Three levels of CA are more than any known mesh has.
pub const MAX_CERTIFICATES: usize = 4;
/// Bytes in a chain, leaf included: four RSA-4096 certificates fit with room to spare.
pub const MAX_BYTES: usize = 16 * 1024;
