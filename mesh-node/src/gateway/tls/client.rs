//! Certificates of clients: which are accepted, and what is known of them afterwards.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use mesh_ca::Bundle;
use mesh_core::id::SpiffeId;
use mesh_core::resource::networking::gateway::{ServerTls, ServerTlsMode};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::gateway::certificates::Materials;
use crate::tls::leaf::{Leaf, hex, rfc2253};
use crate::tls::strangers::{algorithms, is_named, names, refused, verify_chain};

/// The certificate that a client has shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// SHA-256 of it.
    pub sha256: [u8; 32],
    /// Its subject as RFC 2253 writes it.
    pub subject: String,
    /// URIs among its names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Who it is in the mesh, where that was proven.
    pub identity: Option<SpiffeId>,
    /// Whether it was checked, and not just taken.
    pub verified: bool,
}

impl ClientCertificate {
    /// What `leaf` says; what cannot be read is left out.
    pub(super) fn read(leaf: &CertificateDer<'_>, verified: bool) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, leaf).as_ref());
        let mut read = Self {
            sha256,
            subject: String::new(),
            uris: Vec::new(),
            dns: Vec::new(),
            identity: None,
            verified,
        };
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return read };
        read.subject = rfc2253(certificate.subject());
        for name in names(&certificate) {
            match name {
                GeneralName::URI(uri) => read.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => read.dns.push((*name).to_owned()),
                _ => {}
            }
        }
        read
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("subject", &self.subject)
            .field("sha256", &hex(&self.sha256))
            .finish_non_exhaustive()
    }
}

/// What a client has shown in its handshake, and when: enough to decide again.
#[derive(Debug, Clone)]
pub(in crate::gateway) struct Shown {
    chain: Arc<[CertificateDer<'static>]>,
    at: UnixTime,
}

impl Shown {
    /// What a handshake that ends now has brought.
    pub(super) fn now(chain: &[CertificateDer<'_>]) -> Self {
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Self { chain, at: UnixTime::now() }
    }

    /// The client's own certificate, for whoever asks later what it says.
    pub(in crate::gateway) fn leaf(&self) -> Option<Leaf> {
        Leaf::of(&self.chain)
    }
}

/// Which clients are accepted.
pub(super) struct ClientVerifier {
    mandatory: bool,
    /// `None` takes any.
    rules: Option<Rules>,
}

struct Rules {
    bundle: Bundle,
    /// What `bundle` was made from: authorities, and what is revoked.
    source: (Arc<[u8]>, Option<Arc<[u8]>>),
    hints: Vec<DistinguishedName>,
    /// Of which a certificate must have one, unless there is none.
    names: Vec<String>,
    /// Of which one must be the certificate's, or its key's; unless there is none of either.
    hashes: Vec<String>,
    keys: Vec<String>,
}

impl ClientVerifier {
    /// What `spec` asks of clients; `None` if it is nothing.
    pub(super) fn of(spec: &ServerTls, materials: &Materials) -> Result<Option<Self>, String> {
        let mandatory = match spec.mode {
            ServerTlsMode::Mutual => true,
            ServerTlsMode::OptionalMutual => false,
            _ => return Ok(None),
        };
        if spec.insecure_skip_verify == Some(true) {
            return Ok(Some(Self { mandatory, rules: None }));
        }
        let ca = materials.ca.as_deref().ok_or("there are no authorities to check clients against")?;
        let crl = materials.crl.as_deref().unwrap_or_default();
        let source = (Arc::from(ca), materials.crl.clone());
        let bundle =
            Bundle::parse(ca, crl).map_err(|error| format!("the authorities for clients: {error}"))?;
        let hints = bundle.roots().iter().filter_map(subject_of).collect();
        let normal = |hash: &String| hash.replace(':', "").to_ascii_lowercase();
        let rules = Rules {
            bundle,
            source,
            hints,
            names: spec.subject_alt_names.clone(),
            hashes: spec.verify_certificate_hash.iter().map(normal).collect(),
            keys: spec.verify_certificate_spki.clone(),
        };
        Ok(Some(Self { mandatory, rules: Some(rules) }))
    }

    /// Whether certificates are checked at all.
    pub(super) fn verifies(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether a client that `before` has let in is let in by this one as well, which has come in its place under the same
    /// settings. That a certificate has ended since then is no reason: connections may live longer than certificates.
    pub(super) fn still_accepts(&self, before: &Self, shown: &Shown) -> Result<(), Error> {
        let (Some(rules), Some((leaf, intermediates))) = (&self.rules, shown.chain.split_first()) else {
            return Ok(());
        };
        if before.rules.as_ref().is_some_and(|before| before.source == rules.source) {
            return Ok(());
        }
        rules.verify(leaf, intermediates, shown.at)
    }
}

impl Rules {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let chain = (leaf, intermediates);
        verify_chain(&self.bundle, chain, (now, KeyUsage::client_auth()), || false)?;
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| Error::from(CertificateError::BadEncoding))?;
        if !self.names.is_empty() && !self.has_a_name(&certificate) {
            return Err(refused("it has none of the names that are asked for"));
        }
        if self.hashes.is_empty() && self.keys.is_empty() {
            return Ok(());
        }
        let hash = hex(digest(&SHA256, leaf).as_ref());
        let key = BASE64_STANDARD.encode(digest(&SHA256, certificate.public_key().raw));
        if self.hashes.contains(&hash) || self.keys.contains(&key) {
            Ok(())
        } else {
            Err(refused("neither it nor its key is one of those that are asked for"))
        }
    }

    fn has_a_name(&self, certificate: &X509Certificate<'_>) -> bool {
        self.names.iter().any(|asked| is_named(certificate, asked))
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.rules.as_ref().map_or(&[], |rules| &rules.hints)
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(rules) = &self.rules {
            rules.verify(leaf, intermediates, now)?;
        }
        Ok(ClientCertVerified::assertion())
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

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("mandatory", &self.mandatory).finish_non_exhaustive()
    }
}

fn subject_of(root: &CertificateDer<'_>) -> Option<DistinguishedName> {
    let (_, certificate) = X509Certificate::from_der(root).ok()?;
    Some(DistinguishedName::from(certificate.subject().as_raw().to_vec()))
}

#[cfg(test)]
mod tests;
