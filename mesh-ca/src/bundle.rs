//! What peers are checked against: roots, and what their issuers have revoked. Parsed once, shared by all checks.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::chain;
use crate::crl::{CrlError, Crls};

/// Roots and revocations. Never without a root.
#[derive(Debug, Clone)]
pub struct Bundle {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    crls: Crls,
}

/// Why there is no bundle.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BundleError {
    /// Not one root given.
    #[error("there is no root certificate")]
    Empty,
    /// Not PEM.
    #[error("the root certificates are malformed: {0}")]
    Pem(String),
    /// Not a certificate.
    #[error("root certificate {index} is malformed: {reason}")]
    Malformed {
        /// Position in the list, from 0.
        index: usize,
        /// What the parser said.
        reason: webpki::Error,
    },
    /// The revocation lists are of no use.
    #[error(transparent)]
    Crl(#[from] CrlError),
}

impl Bundle {
    /// Trusts `roots` but for what `crls` name. A root that is given twice counts once.
    pub fn new(
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
        crls: Crls,
    ) -> Result<Self, BundleError> {
        let mut unique: Vec<CertificateDer<'static>> = Vec::new();
        for root in roots {
            if !unique.contains(&root) {
                unique.push(root);
            }
        }
        if unique.is_empty() {
            return Err(BundleError::Empty);
        }
        let anchor =
            |(index, root)| chain::anchor(root).map_err(|reason| BundleError::Malformed { index, reason });
        let anchors = unique.iter().enumerate().map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { roots: unique, anchors, crls })
    }

    /// A bundle as it is sent or mounted: PEM roots, and PEM revocation lists where there are any.
    pub fn parse(roots: &[u8], crls: &[u8]) -> Result<Self, BundleError> {
        let roots = CertificateDer::pem_slice_iter(roots).collect::<Result<Vec<_>, _>>();
        let roots = roots.map_err(|e| BundleError::Pem(e.to_string()))?;
        let crls = Crls::parse(crls, &roots)?;
        Self::new(roots, crls)
    }

    /// The roots.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The roots as certificate checks take them, in the same order.
    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// What is revoked.
    pub fn crls(&self) -> &Crls {
        &self.crls
    }

    /// The roots as PEM.
    pub fn roots_pem(&self) -> String {
        self.roots.iter().map(|root| pem("CERTIFICATE", root)).collect()
    }
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots && self.crls == other.crls
    }
}

/// One PEM section (RFC 7468), with lines of 64 characters.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine};
    // 48 bytes make 64 characters; a line is encoded by itself, so none but the last is padded.
    let lines: String = der.chunks(48).map(|line| BASE64_STANDARD.encode(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

#[cfg(test)]
mod tests;
