//! Revocation lists: whole or not at all. A list is taken only if it parses to its end and, where its issuer is known
//! here, is signed by it; what does not pass never replaces what is in force.

use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, OwnedCertRevocationList};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::bundle::pem;
use crate::chain;
use crate::vault::MAX_ENTRY;

/// Any number of revocation lists, also none. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Crls(Arc<[Crl]>);

#[derive(Debug)]
struct Crl {
    der: Vec<u8>,
    list: CertRevocationList<'static>,
    next_update: Option<SystemTime>,
}

/// Why revocation lists are of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// More than [`MAX_ENTRY`] bytes.
    #[error("the revocation lists are larger than {MAX_ENTRY} bytes")]
    TooLarge,
    /// More than [`MAX_LISTS`].
    #[error("there are more than {MAX_LISTS} revocation lists")]
    TooMany,
    /// Something, but no section `X509 CRL`.
    #[error("there is text, but no revocation list in it")]
    Empty,
    /// Not PEM, not a complete list, or one with an extension that must be understood and is not.
    #[error("revocation list {index} is malformed: {reason}")]
    Malformed {
        /// Position in the file, from 0.
        index: usize,
        /// What the parser said.
        reason: String,
    },
    /// The CA that it names has not signed it.
    #[error("revocation list {index} is not signed by {issuer}, whose list it says it is")]
    Forged {
        /// Position in the file, from 0.
        index: usize,
        /// The CA's name.
        issuer: String,
    },
}

impl Crls {
    /// Takes all lists of a PEM text, or none. An empty text has none.
    ///
    /// `issuers` are the CA certificates that are known here; lists of others are taken as well, since intermediates of
    /// another cluster are known to peers only. What those have signed is checked when one of their leafs is.
    pub fn parse(text: &[u8], issuers: &[CertificateDer<'_>]) -> Result<Self, CrlError> {
        if text.len() as u64 > MAX_ENTRY {
            return Err(CrlError::TooLarge);
        }
        let mut lists = Vec::new();
        for (index, section) in CertificateRevocationListDer::pem_slice_iter(text).enumerate() {
            if index >= MAX_LISTS {
                return Err(CrlError::TooMany);
            }
            let malformed = |reason: String| CrlError::Malformed { index, reason };
            let der = section.map_err(|e| malformed(e.to_string()))?;
            lists.push(Crl::parse(index, &der, issuers)?);
        }
        if lists.is_empty() && !text.trim_ascii().is_empty() {
            return Err(CrlError::Empty);
        }
        Ok(Self(lists.into()))
    }

    /// The lists as certificate checks take them.
    pub fn lists(&self) -> Vec<&CertRevocationList<'static>> {
        self.0.iter().map(|crl| &crl.list).collect()
    }

    /// The lists as TLS takes them.
    pub fn ders(&self) -> Vec<CertificateRevocationListDer<'static>> {
        self.0.iter().map(|crl| crl.der.clone().into()).collect()
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no list.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the first of the lists should have been replaced by a newer one, if any says so.
    pub fn next_update(&self) -> Option<SystemTime> {
        self.0.iter().filter_map(|crl| crl.next_update).min()
    }

    /// The lists as PEM; empty if there are none.
    pub fn to_pem(&self) -> String {
        self.0.iter().map(|crl| pem("X509 CRL", &crl.der)).collect()
    }
}

impl PartialEq for Crls {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Crl, &Crl)| a.der == b.der;
        self.len() == other.len() && self.0.iter().zip(other.0.iter()).all(same)
    }
}

impl Crl {
    fn parse(index: usize, der: &[u8], issuers: &[CertificateDer<'_>]) -> Result<Self, CrlError> {
        let malformed = |reason: String| CrlError::Malformed { index, reason };
        let (rest, parsed) =
            CertificateRevocationList::from_der(der).map_err(|e| malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("something follows it".into()));
        }
        let list = OwnedCertRevocationList::from_der(der).map_err(|e| malformed(e.to_string()))?;
        let mut named = issuers.iter().filter(|issuer| is_of(issuer, &parsed)).peekable();
        if named.peek().is_some() && !named.any(|issuer| has_signed(issuer, &parsed)) {
            return Err(CrlError::Forged { index, issuer: parsed.issuer().to_string() });
        }
        let next_update = parsed.next_update().map(|at| chain::time(at.timestamp()));
        Ok(Self { der: der.to_vec(), list: list.into(), next_update })
    }
}

fn is_of(issuer: &CertificateDer<'_>, list: &CertificateRevocationList<'_>) -> bool {
    let parsed = X509Certificate::from_der(issuer);
    parsed.is_ok_and(|(_, issuer)| issuer.subject().as_raw() == list.issuer().as_raw())
}

/// Whether the signature is one of `issuer`'s key, by whichever of our algorithms the list names.
fn has_signed(issuer: &CertificateDer<'_>, list: &CertificateRevocationList<'_>) -> bool {
    let Ok(issuer) = EndEntityCert::try_from(issuer) else { return false };
    let (message, signature) = (list.tbs_cert_list.as_ref(), &*list.signature_value.data);
    // An algorithm that is not of the key fails before anything is computed.
    ALL_VERIFICATION_ALGS.iter().any(|alg| issuer.verify_signature(*alg, message, signature).is_ok())
}

/// Lists in one bundle: some for each CA of a few dozen clusters.
pub const MAX_LISTS: usize = 64;

#[cfg(test)]
mod tests;
