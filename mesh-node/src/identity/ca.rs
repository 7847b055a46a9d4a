//! The embedded CA: one directory, one intermediate or self-made root, certificates for whoever shares the directory.
//!
//! The directory holds Istio's `cacerts` names: `root-cert.pem` (one or more roots), `ca-cert.pem` (the certificate
//! that signs), `cert-chain.pem` (from it up to a root) and `ca-key.pem`. Whoever brings these four files plugs in a
//! CA of theirs; where there are none, a root is made once and kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::id::{SpiffeId, TrustDomain};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::tls::config::random;

mod files;

/// Signs certificates for identities. The caller decides who may have which.
pub trait Sign: Send + Sync {
    /// Certifies the key of `csr` (whose own names are ignored) as `id` for at most `lifetime`.
    fn sign(
        &self,
        id: &SpiffeId,
        csr: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
    ) -> Result<IssuedChain, CaError>;

    /// The roots that peers are to be checked against.
    fn roots(&self) -> Arc<[CertificateDer<'static>]>;
}

/// What a CA returns.
#[derive(Debug, Clone)]
pub struct IssuedChain {
    /// Leaf first, then intermediates; no root.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// What is wrong with a CA or its files.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Some files of the CA are there and this one is not.
    #[error("{}: missing, although other files of the CA are there", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The chain from `ca-cert.pem` to a root is broken, expired or not allowed to sign.
    #[error("{}: certificates it signs are not accepted under root-cert.pem: {reason}", path.display())]
    Chain {
        /// The signing certificate.
        path: PathBuf,
        /// What the check said.
        reason: String,
    },
    /// A request could not be signed.
    #[error("the certificate could not be signed: {0}")]
    Sign(#[from] rcgen::Error),
    /// The CA's own certificate has ended.
    #[error("the CA's own certificate has expired")]
    Expired,
    /// Refused by a CA elsewhere.
    #[error("{0}")]
    Refused(String),
}

impl CaError {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "ca_io",
            Self::Missing { .. } => "ca_file_missing",
            Self::Malformed { .. } => "ca_file_malformed",
            Self::Chain { .. } => "ca_chain_broken",
            Self::Sign(_) => "ca_sign_failed",
            Self::Expired => "ca_expired",
            Self::Refused(_) => "ca_refused",
        }
    }
}

/// The CA of a state directory.
pub struct StateCa {
    issuer: Issuer<'static, KeyPair>,
    /// Sent after each leaf: `ca-cert.pem` and what follows it, without roots.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Arc<[CertificateDer<'static>]>,
    /// Nothing signed outlives the signer.
    not_after: SystemTime,
}

impl StateCa {
    /// Opens `<state>/ca`, making a CA for `domain` first if there is none. Any number of processes may do so at the
    /// same time; all end up with the same CA.
    pub fn open(state: &Path, domain: &TrustDomain) -> Result<Self, CaError> {
        let dir = files::open_or_create(state, |write| self_made(domain, write))?;
        let loaded = files::load(&dir)?;
        let ca = Self {
            issuer: loaded.issuer,
            intermediates: loaded.intermediates,
            roots: loaded.roots.into(),
            not_after: loaded.not_after,
        };
        files::check_chain(&dir, &ca, domain)?;
        Ok(ca)
    }
}

impl Sign for StateCa {
    fn sign(
        &self,
        id: &SpiffeId,
        csr: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
    ) -> Result<IssuedChain, CaError> {
        let now = SystemTime::now();
        if now >= self.not_after {
            return Err(CaError::Expired);
        }
        let mut request = CertificateSigningRequestParams::from_der(csr)?;
        request.params = leaf(id, now, (now + lifetime).min(self.not_after))?;
        let certificate = request.signed_by(&self.issuer)?.der().clone();
        let certificates = std::iter::once(certificate).chain(self.intermediates.iter().cloned()).collect();
        Ok(IssuedChain { certificates })
    }

    fn roots(&self) -> Arc<[CertificateDer<'static>]> {
        self.roots.clone()
    }
}

impl std::fmt::Debug for StateCa {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateCa").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// A workload's certificate: no subject, one critical URI name, both TLS roles.
fn leaf(id: &SpiffeId, now: SystemTime, not_after: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.uri())?)];
    params.not_before = (now - BACKDATE).into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    Ok(params)
}

/// The four files of a fresh self-signed root, which signs by itself.
fn self_made(
    domain: &TrustDomain,
    write: &mut dyn FnMut(&str, &str) -> Result<(), CaError>,
) -> Result<(), CaError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, domain.to_string());
    // Two installations of one trust domain must not have roots of the same name: path building tells them apart.
    let [a, b, c, d] = random::<4>();
    let name = format!("Mesh root {a:02x}{b:02x}{c:02x}{d:02x}");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    let certificate = params.self_signed(&key)?.pem();
    write(files::ROOT, &certificate)?;
    write(files::CERTIFICATE, &certificate)?;
    write(files::CHAIN, &certificate)?;
    write(files::KEY, &key.serialize_pem())
}

/// 126 random bits: positive, never zero, never longer than the 20 bytes RFC 5280 allows.
fn serial() -> SerialNumber {
    let mut bytes = random::<16>();
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Clocks of two nodes may differ by this much without a fresh certificate being refused.
const BACKDATE: Duration = Duration::from_secs(60);
/// A self-made root lasts ten years.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

#[cfg(test)]
mod tests;
