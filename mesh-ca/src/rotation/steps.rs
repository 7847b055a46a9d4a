//! The steps of a rotation as changes of a vault, each checked before it is made.

use std::time::{Duration, SystemTime};

use mesh_core::id::TrustDomain;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Dwell, Phase, Rotation, Step, StepError};
use crate::audit;
use crate::authority::{Authority, Limits};
use crate::bundle::pem;
use crate::chain;
use crate::error::CaError;
use crate::material::{CURRENT, Material, NEXT, certificates};
use crate::random::{hex, sha256};
use crate::vault::{Change, Contents, Vault, VaultError};

/// Why a step was not made.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// It is not its turn or its time.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The CA is not good, or would not be good after the step, or the vault failed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// There is no CA to change.
    #[error("{place}: there is no CA yet")]
    NoCa {
        /// The vault.
        place: String,
    },
}

impl From<VaultError> for RotateError {
    fn from(e: VaultError) -> Self {
        Self::Ca(e.into())
    }
}

/// A rotation as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How far it has come.
    pub phase: Phase,
    /// When that phase began.
    pub since: Option<SystemTime>,
    /// How long until the next step may be made; zero if it may be made now, or if none is due.
    pub left: Duration,
    /// All trusted roots; first those that certificates of now lead to.
    pub roots: Vec<RootStatus>,
}

/// One trusted root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootStatus {
    /// Its subject.
    pub subject: String,
    /// SHA-256 of the certificate in lower-case hex.
    pub fingerprint: String,
    /// End of its validity.
    pub not_after: SystemTime,
    /// Whether certificates of now lead to it.
    pub signs: bool,
}

/// Adds the root of `next` (see [`Material::self_made`] and [`Material::plugged_in`]) to what is trusted.
pub async fn begin(
    vault: &dyn Vault,
    domain: &TrustDomain,
    next: &Material,
    dwell: Dwell,
    now: SystemTime,
) -> Result<Status, RotateError> {
    let site = Site { vault, domain, dwell, now };
    let contents = site.read().await?;
    let rotation = Rotation::load(&contents)?.step(Step::Begin, dwell, now)?;
    let old = Material::load(&contents, &CURRENT, domain, now)?;
    // An intermediate may be exchanged under the same root: that one stays.
    let retiring = old.anchors().iter().filter(|root| !next.roots().contains(root));
    let rotation = rotation.with_retiring(retiring.map(|root| fingerprint(root)).collect());
    let mut changes = next.changes(&NEXT);
    changes.push(rotation.change());
    site.make(Step::Begin, &contents, &changes).await
}

/// Signs with the next root.
pub async fn switch(
    vault: &dyn Vault,
    domain: &TrustDomain,
    dwell: Dwell,
    now: SystemTime,
) -> Result<Status, RotateError> {
    let site = Site { vault, domain, dwell, now };
    let contents = site.read().await?;
    let rotation = Rotation::load(&contents)?.step(Step::Switch, dwell, now)?;
    site.make(Step::Switch, &contents, &[rotation.change()]).await
}

/// Removes the old root and its key. Roots in the file of the old one that it did not sign under stay trusted.
pub async fn finish(
    vault: &dyn Vault,
    domain: &TrustDomain,
    dwell: Dwell,
    now: SystemTime,
) -> Result<Status, RotateError> {
    let site = Site { vault, domain, dwell, now };
    let contents = site.read().await?;
    let rotation = Rotation::load(&contents)?.step(Step::Finish, dwell, now)?;
    let next = Material::load(&contents, &NEXT, domain, now)?;
    let place = contents.place_of(CURRENT.root);
    let old_roots = certificates(contents.get(CURRENT.root).unwrap_or_default(), &place)?;
    let kept = old_roots
        .iter()
        .filter(|root| !rotation.retiring().contains(&fingerprint(root)) && !next.roots().contains(root));
    let roots: String = next.roots().iter().chain(kept).map(|root| pem("CERTIFICATE", root)).collect();
    // Until the phase is written nobody reads the signer's files that change here, and the roots that go away have
    // served their time: each beginning of this list leaves the next root signing.
    let mut changes: Vec<Change> =
        next.changes(&CURRENT).into_iter().filter(|change| change.name() != CURRENT.root).collect();
    changes.push(Change::put(CURRENT.root, roots));
    changes.push(rotation.change());
    changes.extend(NEXT.names().map(Change::remove));
    site.make(Step::Finish, &contents, &changes).await
}

/// Takes back a beginning.
pub async fn abort(
    vault: &dyn Vault,
    domain: &TrustDomain,
    dwell: Dwell,
    now: SystemTime,
) -> Result<Status, RotateError> {
    let site = Site { vault, domain, dwell, now };
    let contents = site.read().await?;
    let rotation = Rotation::load(&contents)?.step(Step::Abort, dwell, now)?;
    let mut changes = vec![rotation.change()];
    changes.extend(NEXT.names().map(Change::remove));
    site.make(Step::Abort, &contents, &changes).await
}

/// How far it has come, and what is trusted.
pub async fn status(
    vault: &dyn Vault,
    domain: &TrustDomain,
    dwell: Dwell,
    now: SystemTime,
) -> Result<Status, RotateError> {
    let site = Site { vault, domain, dwell, now };
    site.status(&site.read().await?)
}

/// Where a step is made, and when.
struct Site<'a> {
    vault: &'a dyn Vault,
    domain: &'a TrustDomain,
    dwell: Dwell,
    now: SystemTime,
}

impl Site<'_> {
    async fn read(&self) -> Result<Contents, RotateError> {
        let contents = self.vault.read().await?;
        if CURRENT.is_used(&contents) {
            return Ok(contents);
        }
        Err(RotateError::NoCa { place: contents.place_of("") })
    }

    /// Makes the changes if a CA that works comes of them.
    async fn make(&self, step: Step, contents: &Contents, changes: &[Change]) -> Result<Status, RotateError> {
        let status = self.status(&contents.with(changes))?;
        self.vault.write(contents, changes).await?;
        audit::rotated(step, &status);
        Ok(status)
    }

    fn status(&self, contents: &Contents) -> Result<Status, RotateError> {
        let limits = Limits::up_to(self.dwell.longest_leaf);
        let authority = Authority::load(contents, self.domain, limits, self.now)?;
        let rotation = Rotation::load(contents)?;
        let anchors = authority.material().anchors();
        let mut roots: Vec<_> =
            authority.bundle().roots().iter().map(|root| describe(root, anchors)).collect();
        roots.sort_by_key(|root| !root.signs);
        let left = rotation.time_left(self.dwell, self.now);
        Ok(Status { phase: rotation.phase(), since: rotation.since(), left, roots })
    }
}

fn describe(root: &CertificateDer<'_>, anchors: &[CertificateDer<'_>]) -> RootStatus {
    let parsed = X509Certificate::from_der(root).ok().map(|(_, parsed)| parsed);
    let subject = parsed.as_ref().map(|root| root.subject().to_string()).unwrap_or_default();
    let end = parsed.map_or(0, |root| root.validity().not_after.timestamp());
    RootStatus {
        subject,
        fingerprint: fingerprint(root),
        not_after: chain::time(end),
        signs: anchors.contains(root),
    }
}

fn fingerprint(root: &CertificateDer<'_>) -> String {
    hex(&sha256(root))
}
