//! Certificate requests: a public key, and the proof that whoever asks holds the private one. Nothing else of a request
//! counts, whatever it says about names, uses or extensions.

use rcgen::{
    CertificateParams, CertificateSigningRequest, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo as ParsedKey};

/// A P-256 key whose holder has asked for a certificate.
#[derive(Debug)]
pub struct Csr {
    key: SubjectPublicKeyInfo,
}

/// Why a request is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// More than [`MAX_BYTES`].
    #[error("the certificate request is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not PEM, not DER, not PKCS #10, or followed by something else.
    #[error("the certificate request is malformed")]
    Malformed,
    /// RSA, another curve, another hash.
    #[error("the certificate request's key is not ECDSA on P-256, signed with SHA-256")]
    Algorithm,
    /// Its signature is not one of its key.
    #[error("the certificate request does not prove possession of its key")]
    Unproven,
}

impl CsrError {
    /// Stable token for metrics and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "csr_too_large",
            Self::Malformed => "csr_malformed",
            Self::Algorithm => "csr_algorithm",
            Self::Unproven => "csr_unproven",
        }
    }
}

impl Csr {
    /// Takes a request in DER (PKCS #10, RFC 2986) if it proves possession of a P-256 key.
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_BYTES {
            return Err(CsrError::TooLarge);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let key = &request.certification_request_info.subject_pki;
        if !is_p256(key) || request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(CsrError::Algorithm);
        }
        request.verify_signature().map_err(|_| CsrError::Unproven)?;
        let key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::Malformed)?;
        Ok(Self { key })
    }

    /// [`Csr::parse`] of the first request in a PEM text, which is how Istio's certificate service carries it.
    pub fn parse_pem(pem: &[u8]) -> Result<Self, CsrError> {
        use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
        // Base64 takes four bytes for three, and there are lines and their ends.
        if pem.len() > MAX_BYTES * 2 {
            return Err(CsrError::TooLarge);
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| CsrError::Malformed)?;
        Self::parse(&der)
    }

    pub(crate) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

/// A new P-256 key, and a request that proves possession of it and names nobody: who a certificate is for is the CA's
/// decision.
pub fn make() -> Result<(PrivatePkcs8KeyDer<'static>, CertificateSigningRequest), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    Ok((key.serialize_der().into(), request))
}

/// The named curve, and a point that is written out in full: what peers take without exception.
fn is_p256(key: &ParsedKey<'_>) -> bool {
    let AlgorithmIdentifier { algorithm, parameters } = &key.algorithm;
    let curve = parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let point = &*key.subject_public_key.data;
    *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve == Some(OID_EC_P256)
        && point.len() == UNCOMPRESSED_POINT
        && point.first() == Some(&4)
}

/// Bytes of a request in DER. One with a P-256 key has some 300, with many names some 2,000.
pub const MAX_BYTES: usize = 16 * 1024;
/// A tag and two coordinates.
const UNCOMPRESSED_POINT: usize = 65;

#[cfg(test)]
mod tests;
