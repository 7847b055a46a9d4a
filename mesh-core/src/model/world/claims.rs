//! Who owns an address that several claim.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Name;
use super::few::Few;

/// Claims to addresses. Of all who claim one, the one with the lowest rank owns it, and of equals the first by name.
#[derive(Debug)]
pub(super) struct Claims<R>(HashMap<IpAddr, Few<(R, Name)>>);

impl<R> Default for Claims<R> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<R: Ord> Claims<R> {
    /// Makes or withdraws a claim.
    pub(super) fn set(&mut self, ip: IpAddr, claim: (R, Name), claimed: bool) {
        let claims = self.0.entry(ip).or_default();
        if claimed {
            claims.insert(claim);
        } else {
            claims.remove(&claim);
        }
        if claims.is_empty() {
            self.0.remove(&ip);
        }
    }

    /// Who owns `ip`.
    pub(super) fn owner(&self, ip: IpAddr) -> Option<&Name> {
        self.0.get(&ip)?.first().map(|(_, name)| name)
    }

    /// Everyone who claims `ip`.
    pub(super) fn claimants(&self, ip: IpAddr) -> impl Iterator<Item = &Name> {
        self.0.get(&ip).into_iter().flat_map(Few::iter).map(|(_, name)| name)
    }
}
