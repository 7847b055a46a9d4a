//! The proof that a connection is allowed, and the reason why one is not.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Notes, PolicyName};

/// Proof that policy allows one connection to one destination. Code that dials takes it by value, so a decision is
/// used once and cannot be skipped.
///
/// It cannot be made by hand,
///
/// ```compile_fail,E0451
/// let destination = "10.0.0.1:80".parse().unwrap();
/// let permit = mesh_core::policy::Permit { destination, notes: Default::default() };
/// ```
///
/// nor by calling what makes it,
///
/// ```compile_fail,E0624
/// let permit = mesh_core::policy::Permit::mint("10.0.0.1:80".parse().unwrap(), Default::default());
/// ```
///
/// nor copied,
///
/// ```compile_fail,E0599
/// fn twice(permit: mesh_core::policy::Permit) -> [mesh_core::policy::Permit; 2] {
///     [permit.clone(), permit]
/// }
/// ```
///
/// nor used twice:
///
/// ```compile_fail,E0382
/// fn twice(permit: mesh_core::policy::Permit) {
///     permit.into_destination();
///     permit.into_destination();
/// }
/// ```
#[must_use = "nothing is connected yet"]
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    destination: SocketAddr,
    notes: Notes,
}

/// A connection that is not allowed. `Display` is the reason, for logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{by}")]
pub struct Denied {
    /// What denied it.
    pub by: DeniedBy,
}

/// What denied a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeniedBy {
    /// A PeerAuthentication is STRICT here, and the peer has no proven identity.
    MutualTls {
        /// Whose mode applies.
        policy: Arc<PolicyName>,
    },
    /// A DENY (or CUSTOM) policy matched.
    Policy {
        /// The policy.
        policy: Arc<PolicyName>,
        /// Index into `spec.rules`.
        rule: usize,
    },
    /// ALLOW policies apply, and none of them matched.
    NoAllowMatched {
        /// How many apply, 1 or more.
        applied: usize,
        /// The first of them, at most eight.
        policies: Box<[Arc<PolicyName>]>,
    },
    /// A policy applies that was not received yet, so that nobody knows what it refuses.
    PolicyMissing {
        /// The policy.
        policy: Arc<PolicyName>,
    },
    /// It depends on what nobody has looked at.
    Undecided,
    /// No configuration was received yet.
    NotLoaded,
    /// The configuration does not have this workload (any more).
    UnknownWorkload,
    /// The destination is not an address of the workload that the question was about, or not where the target leads.
    WrongDestination,
    /// Outbound: the destination is an enrolled workload, which is reached through a tunnel and in no other way.
    NeedsTunnel {
        /// [`crate::model::Workload::uid`] of the destination.
        workload: Arc<str>,
    },
    /// Outbound: an address in the pods' network that no known pod has; it may be an enrolled one.
    UnknownInPodNetwork,
}

impl Permit {
    /// Only the engine of this module calls it.
    pub(super) fn mint(destination: SocketAddr, notes: Notes) -> Self {
        Self { destination, notes }
    }

    /// The one destination that it is good for, in canonical form.
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// Uses it up.
    pub fn into_destination(self) -> SocketAddr {
        self.destination
    }

    /// The dry-run policy that would have denied the connection if it were enforced.
    pub fn dry_run_denied(&self) -> Option<&PolicyName> {
        self.notes.would_be_denied.as_deref()
    }

    /// What is to be recorded.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }
}

impl DeniedBy {
    /// The policy that denied it, if it was a single one.
    pub fn policy(&self) -> Option<&Arc<PolicyName>> {
        match self {
            Self::MutualTls { policy } | Self::Policy { policy, .. } | Self::PolicyMissing { policy } => {
                Some(policy)
            }
            _ => None,
        }
    }

    /// The policies that it is to be counted with: the one that denied it, or those of which none has allowed it.
    pub fn policies(&self) -> &[Arc<PolicyName>] {
        match self {
            Self::NoAllowMatched { policies, .. } => policies,
            _ => self.policy().map_or(&[], std::slice::from_ref),
        }
    }

    /// What Envoy would state in its log for it: which policy has matched, and nothing of what is in it.
    pub fn details(&self) -> String {
        match self {
            Self::Policy { policy, rule } => {
                let PolicyName { namespace, name } = &**policy;
                format!("rbac_access_denied_matched_policy[ns[{namespace}]-policy[{name}]-rule[{rule}]]")
            }
            _ => "rbac_access_denied_matched_policy[none]".to_owned(),
        }
    }
}

impl From<DeniedBy> for Denied {
    fn from(by: DeniedBy) -> Self {
        Self { by }
    }
}

impl fmt::Display for DeniedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MutualTls { policy } => {
                write!(f, "PeerAuthentication {policy} is STRICT and the connection is plaintext")
            }
            Self::Policy { policy, rule } => write!(f, "AuthorizationPolicy {policy} denies it, rule {rule}"),
            Self::NoAllowMatched { applied, .. } => write!(f, "no ALLOW policy matched ({applied} apply)"),
            Self::PolicyMissing { policy } => write!(f, "policy {policy} applies but was not received yet"),
            Self::Undecided => f.write_str("it depends on requests, and nobody has looked for any"),
            Self::NotLoaded => f.write_str("no configuration was received yet"),
            Self::UnknownWorkload => f.write_str("the workload is not part of the configuration"),
            Self::WrongDestination => f.write_str("the destination is not an address of the target"),
            Self::NeedsTunnel { workload } => {
                write!(f, "{workload} is enrolled and only reached through a tunnel")
            }
            Self::UnknownInPodNetwork => f.write_str("no known pod has this address of the pods' network"),
        }
    }
}

/// Policies that a refusal names because none of them has allowed it: each is counted, and whoever is refused decides how often.
pub(super) const MAX_NAMED: usize = 8;
