//! Who may connect to whom: PeerAuthentication and AuthorizationPolicy, compiled and evaluated at layer 4.
//!
//! Invariant: a [`Permit`] exists only because a loaded policy set allowed exactly that connection; it is the only
//! key to the code that dials. Whatever cannot be evaluated here (layer 7 attributes, external authorizers) makes the
//! outcome stricter, never laxer, and is a finding.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Serialize, Serializer};

pub use self::permit::{Denied, DeniedBy, Permit};
use self::rule::{Effective, Policy};
use crate::id::SpiffeId;

mod compile;
mod egress;
mod engine;
mod matcher;
mod permit;
mod rule;

pub(crate) use self::compile::PolicyInput;

/// All policies, compiled, with the ones that apply to a workload listed per workload. The default is "nothing known
/// yet", which permits nothing.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    loaded: bool,
    /// Sorted by action and name.
    policies: Vec<Arc<Policy>>,
    /// By [`crate::model::Workload::uid`]; workloads with equal lists share them.
    by_workload: HashMap<Arc<str>, Arc<Effective>>,
}

/// A policy resource, as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A connection to a workload, as far as layer 4 can see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection<'a> {
    /// Who connects. Only ever from a verified certificate or from the kernel's word about a local pod, never from
    /// an address or a header. `None` is plaintext from anybody.
    pub peer: Option<&'a SpiffeId>,
    /// The address of the direct peer; IPv4-mapped addresses count as IPv4.
    pub source_ip: IpAddr,
    /// The address and port of the workload itself (not of a service).
    pub destination: SocketAddr,
    /// Whether the bytes were encrypted on their way. No policy of today asks for it: what STRICT asks for is a
    /// proven peer, and traffic that never left the kernel proves it without.
    pub encrypted: bool,
}

impl PolicySet {
    /// Whether the set was compiled from something.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// How many `AuthorizationPolicies` take part in decisions, dry-run ones included.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether no AuthorizationPolicy takes part in decisions.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PolicyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The policies, and which of them apply to which workload.
impl Serialize for PolicySet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Dump<'a> {
            loaded: bool,
            policies: &'a [Arc<Policy>],
            workloads: BTreeMap<&'a str, &'a Effective>,
        }
        let workloads = self.by_workload.iter().map(|(uid, effective)| (&**uid, &**effective)).collect();
        Dump { loaded: self.loaded, policies: &self.policies, workloads }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
