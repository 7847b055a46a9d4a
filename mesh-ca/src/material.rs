//! What a CA signs with: a key, the certificate of it, the chain from there to a root, and the roots; four PEM files
//! under the names that Istio gives them in its Secret `cacerts`.
//!
//! A [`Material`] has been checked: its parts fit, and certificates that it signs are accepted under its roots.

use std::fmt;
use std::time::{Duration, SystemTime};

use mesh_core::id::{SpiffeId, TrustDomain};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::chain;
use crate::error::CaError;
use crate::leaf;
use crate::vault::{Change, Contents};

/// A signer and its roots.
pub struct Material {
    pems: Pems,
    issuer: Issuer<'static, KeyPair>,
    /// Sent after each leaf: the signing certificate and what follows it, without roots.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    /// Those of the roots that chains of this signer lead to.
    anchors: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Material {
    /// A new self-signed root for `domain`, of ten years, that signs by itself.
    pub fn self_made(domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = leaf::root(domain, now).self_signed(&key)?.pem().into_bytes();
        let key = key.serialize_pem().into_bytes();
        let pems = Pems { root: certificate.clone(), chain: certificate.clone(), certificate, key };
        Self::assemble(pems, &|name| format!("the new {name}"), &CURRENT, (domain, now))
    }

    /// The signer that somebody brings, from the four files of Istio's `cacerts`.
    pub fn plugged_in(contents: &Contents, domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        Self::load(contents, &CURRENT, domain, now)
    }

    pub(crate) fn load(
        contents: &Contents,
        slot: &Slot,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let pem = |name| match contents.get(name) {
            Some(pem) => Ok(pem.to_vec()),
            None => Err(CaError::Missing { place: contents.place_of(name) }),
        };
        let pems = Pems {
            root: pem(slot.root)?,
            certificate: pem(slot.certificate)?,
            chain: pem(slot.chain)?,
            key: pem(slot.key)?,
        };
        Self::assemble(pems, &|name| contents.place_of(name), slot, (domain, now))
    }

    /// Checks the files one by one, and that they fit. `place` names a file for people.
    fn assemble(
        pems: Pems,
        place: &dyn Fn(&str) -> String,
        slot: &Slot,
        (domain, now): (&TrustDomain, SystemTime),
    ) -> Result<Self, CaError> {
        let roots = certificates(&pems.root, &place(slot.root))?;
        let at_signer = place(slot.certificate);
        let signer = certificates(&pems.certificate, &at_signer)?.swap_remove(0);
        let chain = certificates(&pems.chain, &place(slot.chain))?;
        let key = key(&pems.key, &place(slot.key))?;

        let (_, parsed) = X509Certificate::from_der(&signer).map_err(malformed(&at_signer))?;
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            let reason = format!("its key is not the one of {}", slot.certificate);
            return Err(CaError::Malformed { place: place(slot.key), reason });
        }
        let not_before = chain::time(parsed.validity().not_before.timestamp());
        let not_after = chain::time(parsed.validity().not_after.timestamp());
        if not_after <= now {
            return Err(CaError::Malformed { place: at_signer, reason: "it has expired".into() });
        }
        let issuer = Issuer::from_ca_cert_der(&signer, key).map_err(malformed(&at_signer))?;

        let mut intermediates: Vec<CertificateDer<'static>> = Vec::new();
        for certificate in std::iter::once(signer).chain(chain) {
            if !roots.contains(&certificate) && !intermediates.contains(&certificate) {
                intermediates.push(certificate);
            }
        }
        let mut material =
            Self { pems, issuer, intermediates, roots, anchors: Vec::new(), not_before, not_after };
        material.anchors = material
            .find_anchors(domain, now)
            .map_err(|reason| CaError::Chain { place: at_signer, reason })?;
        Ok(material)
    }

    /// Signs a certificate that is thrown away and checks it as a peer would: a broken chain shows at the start, not at
    /// the first handshake. The roots under which it is accepted, at least one.
    fn find_anchors(
        &self,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let id = SpiffeId::new(domain, "mesh", "probe").map_err(|e| e.to_string())?;
        let probe = leaf::workload(&id, Vec::new(), now, now + PROBE_LIFETIME).and_then(|params| {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            params.signed_by(&key, &self.issuer)
        });
        let probe = probe.map_err(|e| e.to_string())?.der().clone();
        let chain: Vec<_> = std::iter::once(probe).chain(self.intermediates.iter().cloned()).collect();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (mut accepted, mut refused) = (Vec::new(), String::new());
        for root in &self.roots {
            let anchor = chain::anchor(root).map_err(|e| e.to_string())?;
            match chain::check(&chain, &[anchor], UnixTime::since_unix_epoch(since)) {
                Ok(()) => accepted.push(root.clone()),
                Err(reason) => refused = reason,
            }
        }
        if accepted.is_empty() { Err(refused) } else { Ok(accepted) }
    }

    /// What keeps this in the files of `slot`; the key comes last, so that no beginning of it can sign.
    pub(crate) fn changes(&self, slot: &Slot) -> Vec<Change> {
        vec![
            Change::put(slot.root, self.pems.root.clone()),
            Change::put(slot.certificate, self.pems.certificate.clone()),
            Change::put(slot.chain, self.pems.chain.clone()),
            Change::put(slot.key, self.pems.key.clone()),
        ]
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(crate) fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// Every root in the file: those of this signer, and whatever else the mesh is to trust.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The roots that this signer's chains lead to.
    pub fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.anchors
    }

    /// Begin of the signing certificate's validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of the signing certificate's validity; nothing signed outlives it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl fmt::Debug for Material {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The texts as they are kept.
struct Pems {
    root: Vec<u8>,
    certificate: Vec<u8>,
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// The names of the four files of one signer.
pub(crate) struct Slot {
    /// One or more roots.
    pub(crate) root: &'static str,
    /// The certificate that signs.
    pub(crate) certificate: &'static str,
    /// From the one that signs up to a root.
    pub(crate) chain: &'static str,
    /// The key of the one that signs.
    pub(crate) key: &'static str,
}

impl Slot {
    /// Whether any of the files is there.
    pub(crate) fn is_used(&self, contents: &Contents) -> bool {
        self.names().into_iter().any(|name| contents.get(name).is_some())
    }

    pub(crate) fn names(&self) -> [&'static str; 4] {
        [self.root, self.certificate, self.chain, self.key]
    }
}

/// At least one certificate.
pub(crate) fn certificates(pem: &[u8], place: &str) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let list =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(malformed(place))?;
    if list.is_empty() {
        return Err(CaError::Malformed { place: place.into(), reason: "it holds no certificate".into() });
    }
    for certificate in &list {
        X509Certificate::from_der(certificate).map_err(malformed(place))?;
    }
    Ok(list)
}

fn key(pem: &[u8], place: &str) -> Result<KeyPair, CaError> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(malformed(place))?;
    KeyPair::try_from(&der).map_err(malformed(place))
}

pub(crate) fn malformed<E: fmt::Display>(place: &str) -> impl FnOnce(E) -> CaError + use<E> {
    let place = place.to_owned();
    move |e| CaError::Malformed { place, reason: e.to_string() }
}

/// The signer of now, but for the time between switch and finish of a rotation.
pub(crate) const CURRENT: Slot =
    Slot { root: "root-cert.pem", certificate: "ca-cert.pem", chain: "cert-chain.pem", key: "ca-key.pem" };
/// The signer that a rotation leads to.
pub(crate) const NEXT: Slot = Slot {
    root: "next-root-cert.pem",
    certificate: "next-ca-cert.pem",
    chain: "next-cert-chain.pem",
    key: "next-ca-key.pem",
};
/// Certificates that are no longer good; Istio's name.
pub(crate) const CRL: &str = "ca-crl.pem";
/// How far a rotation has come.
pub(crate) const ROTATION: &str = "rotation.json";
/// All files of a CA.
pub(crate) const FILES: &[&str] = &[
    CURRENT.root,
    CURRENT.certificate,
    CURRENT.chain,
    CURRENT.key,
    NEXT.root,
    NEXT.certificate,
    NEXT.chain,
    NEXT.key,
    CRL,
    ROTATION,
];
const PROBE_LIFETIME: Duration = Duration::from_secs(60);
