//! Chains of certificates: what counts as one, and the check of one against roots and revocations.

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage,
    RevocationCheckDepth, RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy,
};

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

/// A root as the checks take it.
pub(crate) fn anchor(root: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, Error> {
    webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned())
}

/// Certificates in a chain, leaf included. Three levels of CA are more than any known mesh has.
pub const MAX_CERTIFICATES: usize = 4;
/// Bytes in a chain, leaf included: four RSA-4096 certificates fit with room to spare.
pub const MAX_BYTES: usize = 16 * 1024;
