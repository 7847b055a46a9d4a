//! Certificates of servers: which are accepted.

use std::fmt;
use std::sync::Arc;

use mesh_ca::Bundle;
use mesh_core::cluster::TlsOrigination;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::KeyUsage;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::materials::{Authorities, Materials};
use crate::tls::strangers::{algorithms, is_named, names, refused, verify_chain};

/// See the module.
pub(super) struct Verifier {
    /// `None` takes any; that the server has the certificate's key is checked all the same.
    rules: Option<Rules>,
}

struct Rules {
    bundle: Arc<Bundle>,
    /// Of which a certificate must have one; none means the name that was asked for.
    names: Arc<[Arc<str>]>,
}

impl Verifier {
    pub(super) fn of(rule: &TlsOrigination, materials: &Materials) -> Result<Self, String> {
        let bundle = materials.authorities.as_ref().map(Authorities::bundle).transpose()?;
        let rules = bundle.map(|bundle| Rules { bundle, names: Arc::clone(&rule.subject_alt_names) });
        Ok(Self { rules })
    }
}

impl Rules {
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let trusts_itself = || self.trusts_itself(leaf, now);
        verify_chain(&self.bundle, (leaf, intermediates), (now, KeyUsage::server_auth()), trusts_itself)
    }

    /// Whether it is one of those that the rule names, as for a server that is certified by nobody but itself.
    fn trusts_itself(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).ok().and_then(|now| ASN1Time::from_timestamp(now).ok());
        let parsed = X509Certificate::from_der(leaf).ok().zip(now);
        let is_valid = parsed.is_some_and(|((_, leaf), now)| leaf.validity().is_valid_at(now));
        is_valid && self.bundle.roots().contains(leaf)
    }

    fn verify_name(&self, leaf: &CertificateDer<'_>, asked: &ServerName<'_>) -> Result<(), Error> {
        if self.names.is_empty() {
            return verify_server_name(&ParsedCertificate::try_from(leaf)?, asked);
        }
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| Error::from(CertificateError::BadEncoding))?;
        if self.names.iter().any(|name| is_named(&certificate, name) || is_below(&certificate, name)) {
            Ok(())
        } else {
            Err(refused("it has none of the subjectAltNames that are asked for"))
        }
    }
}

/// Whether a host of a certificate is one of those that `asked` stands for: `*.suffix`, of any depth.
fn is_below(certificate: &X509Certificate<'_>, asked: &str) -> bool {
    let Some(suffix) = asked.strip_prefix('*').filter(|suffix| suffix.starts_with('.')) else { return false };
    let suffix = suffix.to_ascii_lowercase();
    names(certificate).any(|name| match name {
        GeneralName::DNSName(name) => {
            name.len() > suffix.len() && name.to_ascii_lowercase().ends_with(&suffix)
        }
        _ => false,
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(rules) = &self.rules {
            rules.verify_chain(leaf, intermediates, now)?;
            rules.verify_name(leaf, asked)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("checks", &self.rules.is_some()).finish_non_exhaustive()
    }
}
