//! A CA that can sign: its material, the bundle it stands for, and the limits of what it signs.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::id::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;

use crate::audit;
use crate::authorize::Grant;
use crate::bundle::Bundle;
use crate::crl::Crls;
use crate::csr::Csr;
use crate::error::CaError;
use crate::leaf;
use crate::material::{self, CRL, Material};
use crate::random::hex;
use crate::rotation::{Phase, Rotation};
use crate::vault::Contents;

/// How long certificates may live.
///
/// All who sign from one vault must have the same limits: a rotation waits for as long as the longest of their
/// certificates lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lifetime where nobody asks for one.
    pub default_ttl: Duration,
    /// Longest lifetime, whatever is asked for.
    pub max_ttl: Duration,
}

impl Default for Limits {
    /// A day: what a node renews twice a day, and what a stolen key is good for at most.
    fn default() -> Self {
        Self::up_to(Duration::from_secs(24 * 60 * 60))
    }
}

impl Limits {
    /// Certificates of `max`, unless somebody asks for less.
    pub const fn up_to(max: Duration) -> Self {
        Self { default_ttl: max, max_ttl: max }
    }
}

/// A CA as of one moment. It never changes; see [`crate::Ca`] for the one that does.
pub struct Authority {
    material: Material,
    bundle: Arc<Bundle>,
    rotation: Rotation,
    limits: Limits,
}

/// A certificate, fresh from the CA.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Leaf first, then intermediates; no root.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Serial number in lower-case hex.
    pub serial: String,
    /// Begin of validity: some seconds ago, since clocks differ.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

impl Authority {
    /// The CA that `contents` hold. Everything in there must be good; the error names the entry that is not.
    pub fn load(
        contents: &Contents,
        domain: &TrustDomain,
        limits: Limits,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        Self::load_or(contents, domain, (limits, now), Err)
    }

    /// [`Authority::load`], with the caller's answer to revocation lists that are of no use.
    pub(crate) fn load_or(
        contents: &Contents,
        domain: &TrustDomain,
        (mut limits, now): (Limits, SystemTime),
        bad_crls: impl FnOnce(CaError) -> Result<Crls, CaError>,
    ) -> Result<Self, CaError> {
        let rotation = Rotation::load(contents)?;
        let (material, other_roots) = rotation.materials(contents, domain, now)?;
        if let Some(longest) = rotation.longest_leaf() {
            limits.max_ttl = limits.max_ttl.min(longest);
        }
        let roots = [material.roots(), &other_roots].concat();
        let issuers = [&roots, material.intermediates()].concat();
        let crls = Crls::parse(contents.get(CRL).unwrap_or_default(), &issuers)
            .map_err(material::malformed(&contents.place_of(CRL)))
            .or_else(bad_crls)?;
        let bundle = Bundle::new(roots, crls)
            .map_err(material::malformed(&contents.place_of(material::CURRENT.root)))?;
        Ok(Self { material, bundle: Arc::new(bundle), rotation, limits })
    }

    /// Certifies the key of `grant` under its name, and says so in the audit log.
    pub fn sign(&self, grant: &Grant, now: SystemTime) -> Result<Signed, CaError> {
        let outcome = self.certify(grant, now);
        audit::signed(grant, &outcome);
        outcome
    }

    /// Certifies the key of `csr` for a server of the control plane: it is `id`, and answers to DNS names and addresses
    /// as well, since its clients may know it by nothing else. Who runs the CA may call it what they like, so there is
    /// no grant; a line in the audit log there is.
    pub fn sign_server(
        &self,
        id: &SpiffeId,
        names: &[String],
        csr: &Csr,
        now: SystemTime,
    ) -> Result<Signed, CaError> {
        let signed = self.certificate(id, csr, (self.limits.default_ttl, names.to_vec()), now);
        audit::signed_server(id, &signed);
        signed
    }

    fn certify(&self, grant: &Grant, now: SystemTime) -> Result<Signed, CaError> {
        let ttl = grant.ttl().unwrap_or(self.limits.default_ttl);
        self.certificate(grant.id(), grant.csr(), (ttl, Vec::new()), now)
    }

    fn certificate(
        &self,
        id: &SpiffeId,
        csr: &Csr,
        (ttl, names): (Duration, Vec<String>),
        now: SystemTime,
    ) -> Result<Signed, CaError> {
        if now >= self.material.not_after() || now < self.material.not_before() {
            return Err(CaError::Expired);
        }
        let ttl = ttl.min(self.limits.max_ttl);
        let not_before = whole_seconds(now - leaf::BACKDATE);
        let not_after = whole_seconds((now + ttl).min(self.material.not_after()));
        let params = leaf::workload(id, names, not_before, not_after)?;
        let serial = params.serial_number.as_ref().map(|serial| hex(&serial.to_bytes())).unwrap_or_default();
        let certificate = params.signed_by(csr.key(), self.material.issuer())?.der().clone();
        let intermediates = self.material.intermediates().iter().cloned();
        let certificates = std::iter::once(certificate).chain(intermediates).collect();
        Ok(Signed { certificates, serial, not_before, not_after })
    }

    /// What peers are to be checked against.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// What signs.
    pub fn material(&self) -> &Material {
        &self.material
    }

    /// How far a change of the root has come.
    pub fn phase(&self) -> Phase {
        self.rotation.phase()
    }

    /// How long certificates may live.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

impl fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("material", &self.material)
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

/// Certificates know no parts of a second.
fn whole_seconds(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests;
