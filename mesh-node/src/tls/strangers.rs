//! TLS with those who are not of the mesh: cryptography, and names in certificates.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use mesh_ca::Bundle;
use mesh_ca::chain::revocation;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, OtherError};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// The cryptography for strangers: TLS 1.3 and 1.2 with forward secrecy, hybrid key exchange first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let build = || {
        Arc::new(CryptoProvider {
            kx_groups: vec![
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    };
    PROVIDER.get_or_init(build).clone()
}

/// Signatures that are accepted in certificates.
pub(crate) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    static ALGORITHMS: OnceLock<WebPkiSupportedAlgorithms> = OnceLock::new();
    ALGORITHMS.get_or_init(|| provider().signature_verification_algorithms)
}

/// A certificate with its key, which fit; `named` is what messages call it.
pub(crate) fn certified(
    named: &str,
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("{named} is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err(format!("{named} holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| format!("the key of {named} is no private key in PEM"))?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| format!("{named} and its key cannot be used: {error}"))
}

/// Why a certificate is refused, though it is under an authority that is trusted.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotWanted(&'static str);

/// The refusal of a certificate.
pub(crate) fn refused(why: &'static str) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotWanted(why)))))
}

/// The kinds with an alert of their own keep it, so that the client's log says why.
fn from_webpki(error: &webpki::Error) -> Error {
    use webpki::Error as E;
    Error::InvalidCertificate(match error {
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        E::CertExpired { .. } => CertificateError::Expired,
        E::CertRevoked => CertificateError::Revoked,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::BadDer | E::BadDerTime => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
    })
}

/// Checks a chain of certificates, the leaf first, against the authorities and revocations of `bundle`. `stands_alone` is
/// asked about a leaf that is an authority itself, which is otherwise refused.
pub(crate) fn verify_chain(
    bundle: &Bundle,
    (leaf, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
    (now, usage): (UnixTime, KeyUsage),
    stands_alone: impl FnOnce() -> bool,
) -> Result<(), Error> {
    let bytes = intermediates.iter().map(|one| one.len()).sum::<usize>() + leaf.len();
    if intermediates.len() >= MAX_CERTIFICATES || bytes > MAX_BYTES {
        return Err(refused("the chain is too long"));
    }
    let lists = bundle.crls().lists();
    let parsed = EndEntityCert::try_from(leaf).map_err(|error| from_webpki(&error))?;
    let (anchors, revoked) = (bundle.anchors(), revocation(&lists));
    match parsed.verify_for_usage(algorithms().all, anchors, intermediates, now, usage, revoked, None) {
        Ok(_) => Ok(()),
        Err(webpki::Error::CaUsedAsEndEntity) if stands_alone() => Ok(()),
        Err(error) => Err(from_webpki(&error)),
    }
}

/// The names of a certificate, but for its subject.
pub(crate) fn names<'c>(certificate: &'c X509Certificate<'_>) -> impl Iterator<Item = &'c GeneralName<'c>> {
    let names = certificate.subject_alternative_name().ok().flatten();
    names.into_iter().flat_map(|names| &names.value.general_names)
}

/// Whether `asked` is one of the names of a certificate: a host, an address, a URI.
pub(crate) fn is_named(certificate: &X509Certificate<'_>, asked: &str) -> bool {
    let is_asked_for = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => is_host(name, asked),
        GeneralName::URI(text) | GeneralName::RFC822Name(text) => asked == *text,
        GeneralName::IPAddress(octets) => {
            let ip = address(octets);
            ip.is_some() && asked.parse::<IpAddr>().ok() == ip
        }
        _ => false,
    };
    names(certificate).any(is_asked_for)
}

/// Whether a DNS name of a certificate stands for `asked`; a star in it stands for one label.
fn is_host(name: &str, asked: &str) -> bool {
    let (name, asked) = (name.to_ascii_lowercase(), asked.to_ascii_lowercase());
    let star = name.strip_prefix("*.").zip(asked.split_once('.'));
    name == asked || star.is_some_and(|(rest, (label, behind))| !label.is_empty() && rest == behind)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Certificates in a chain, leaf included.
const MAX_CERTIFICATES: usize = 8;
/// Bytes in a chain: eight of RSA-4096 certificates.
const MAX_BYTES: usize = 32 << 10;
