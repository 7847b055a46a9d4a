//! The CA of a vault, as it changes: made where there is none, and looked at again from time to time.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use mesh_core::id::TrustDomain;

use crate::authority::{Authority, Limits};
use crate::error::CaError;
use crate::material::{CURRENT, Material};
use crate::vault::{Contents, Vault, VaultError};

/// The CA that a vault holds. Any number of processes may have one of the same vault.
pub struct Ca {
    vault: Arc<dyn Vault>,
    domain: TrustDomain,
    limits: Limits,
    state: ArcSwap<State>,
}

struct State {
    authority: Arc<Authority>,
    /// What the vault held at the last look.
    seen: Contents,
    /// Whether all of it is in force; if not, the next look tries again.
    complete: bool,
}

impl Ca {
    /// Opens the CA of `vault`, making one for `domain` first if there is none. Whoever comes first makes it; all others
    /// end up with the same.
    pub async fn open(
        vault: Arc<dyn Vault>,
        domain: &TrustDomain,
        limits: Limits,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let mut seen = vault.read().await?;
        if !CURRENT.is_used(&seen) {
            let made = Material::self_made(domain, now)?;
            match vault.write(&seen, &made.changes(&CURRENT)).await {
                Ok(()) => tracing::info!(place = seen.place_of(""), "New CA made."),
                Err(VaultError::Conflict { .. }) => {}
                Err(e) => return Err(e.into()),
            }
            seen = vault.read().await?;
        }
        let authority = Arc::new(Authority::load(&seen, domain, limits, now)?);
        let state = ArcSwap::from_pointee(State { authority, seen, complete: true });
        Ok(Self { vault, domain: domain.clone(), limits, state })
    }

    /// The CA as of the last look at its vault. Wait-free.
    pub fn authority(&self) -> Arc<Authority> {
        self.state.load().authority.clone()
    }

    /// Looks at the vault again; whether the CA has changed.
    ///
    /// What is not good changes nothing and is an error, again at every look, until it is mended. Revocation lists
    /// stand alone: if they are not good, the last good ones stay, and everything else counts.
    pub async fn refresh(&self, now: SystemTime) -> Result<bool, CaError> {
        let contents = self.vault.read().await?;
        let state = self.state.load_full();
        if state.complete && state.seen.entries() == contents.entries() {
            return Ok(false);
        }
        let mut complaint = None;
        let keep_crls = |e| {
            complaint = Some(e);
            Ok(state.authority.bundle().crls().clone())
        };
        let authority = Authority::load_or(&contents, &self.domain, (self.limits, now), keep_crls)?;
        let complete = complaint.is_none();
        self.state.store(Arc::new(State { authority: Arc::new(authority), seen: contents, complete }));
        complaint.map_or(Ok(true), Err)
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("authority", &self.authority()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
