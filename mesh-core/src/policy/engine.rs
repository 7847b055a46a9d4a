//! Decides about connections to a workload.
//!
//! The order is Istio's: PeerAuthentication, then any CUSTOM or DENY match denies, then no ALLOW policy at all
//! allows, then any ALLOW match allows, and everything else is denied.

use std::sync::Arc;

use super::rule::{Attributes, Effective, Policy};
use super::{Connection, Denied, DeniedBy, Permit, PolicyName, PolicySet};
use crate::model::Workload;
use crate::net::{canonical, canonical_ip};

impl PolicySet {
    /// Decides whether `connection` may reach `workload`. The permit is for [`Connection::destination`], which must
    /// be an address of the workload.
    ///
    /// Called for every connection: looks the workload up once, tries only policies that apply to it, and does not
    /// allocate.
    pub fn authorize(&self, workload: &Workload, connection: &Connection<'_>) -> Result<Permit, Denied> {
        if !self.loaded {
            return Err(DeniedBy::NotLoaded.into());
        }
        let effective = self.effective.get(&workload.uid).ok_or(DeniedBy::UnknownWorkload)?;
        let attributes = Attributes {
            peer: connection.peer,
            source_ip: canonical_ip(connection.source_ip),
            destination: canonical(connection.destination),
        };
        if !workload.has_ip(attributes.destination.ip()) {
            return Err(DeniedBy::WrongDestination.into());
        }
        enforce(effective, &attributes)?;
        Ok(Permit::mint(attributes.destination, would_deny(effective, &attributes).cloned()))
    }
}

pub(super) fn enforce(effective: &Effective, attributes: &Attributes<'_>) -> Result<(), DeniedBy> {
    if let Some(policy) = &effective.missing {
        return Err(DeniedBy::PolicyMissing { policy: Arc::clone(policy) });
    }
    if let Some((policy, _)) = first_match(&effective.mutual_tls, attributes) {
        return Err(DeniedBy::MutualTls { policy: Arc::clone(&policy.name) });
    }
    if let Some((policy, rule)) = first_match(&effective.deny, attributes) {
        return Err(DeniedBy::Policy { policy: Arc::clone(&policy.name), rule });
    }
    if effective.allow.is_empty() || first_match(&effective.allow, attributes).is_some() {
        return Ok(());
    }
    Err(DeniedBy::NoAllowMatched { applied: effective.allow.len() })
}

/// The dry-run policy that would turn an allowed connection down.
fn would_deny<'a>(effective: &'a Effective, attributes: &Attributes<'_>) -> Option<&'a Arc<PolicyName>> {
    if let Some((policy, _)) = first_match(&effective.dry_run_deny, attributes) {
        return Some(&policy.name);
    }
    // Where ALLOW policies are enforced one has matched already, and another one would only allow more.
    let first = effective.dry_run_allow.first().filter(|_| effective.allow.is_empty())?;
    first_match(&effective.dry_run_allow, attributes).is_none().then_some(&first.name)
}

fn first_match<'a>(policies: &'a [Arc<Policy>], attributes: &Attributes<'_>) -> Option<(&'a Policy, usize)> {
    policies.iter().find_map(|policy| {
        let rule = policy.rules.iter().find(|rule| rule.matches(attributes))?;
        Some((&**policy, rule.index))
    })
}
