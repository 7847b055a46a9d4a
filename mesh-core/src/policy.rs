//! Who may connect to whom, and ask for what: PeerAuthentication and AuthorizationPolicy, compiled, and evaluated by one
//! matcher for connections and for requests.
//!
//! Invariant: a [`Permit`] exists only because a loaded policy set allowed exactly that connection, or that request; it is
//! the only key to the code that dials. Whatever cannot be known (of bytes that are no request, or that nobody has read) or
//! cannot be understood makes the outcome stricter, never laxer; what cannot be understood is a finding.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};
use serde::{Serialize, Serializer};

pub use self::decision::{Decision, External, Notes, Question};
use self::effective::Effective;
pub use self::explain::{Explained, ExplainedRule, Matches};
pub use self::matcher::{AccountMatch, StringMatch};
pub use self::permit::{Denied, DeniedBy, Permit};
pub use self::request::{Host, Request, Seen};
pub use self::rule::{Clause, Effect, Group, MUTUAL_TLS_PREFIX, Matcher, Policy, Rule, Scope};
pub use self::standing::Standing;
pub use self::targeted::{Gate, Targeted};
pub use self::template::{PathMatch, Template};
pub use self::told::{Attribute, Told};
use crate::id::SpiffeId;
use crate::model::Workload;

pub(crate) mod compile;
mod decision;
mod effective;
mod egress;
mod engine;
mod explain;
mod index;
mod matcher;
mod permit;
mod request;
mod rule;
mod standing;
mod targeted;
mod template;
mod told;

pub(crate) use self::rule::mutual_tls_key;

/// All policies, compiled, with the ones that apply to a workload listed per workload. The default is "nothing known
/// yet", which permits nothing. Cheap to clone: versions share what is equal.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    loaded: bool,
    by_key: HashTrieMapSync<Arc<PolicyName>, Arc<Policy>>,
    /// Those with the scope of a namespace; those of the mesh under [`EVERYWHERE`].
    scoped: HashTrieMapSync<Arc<str>, RedBlackTreeMapSync<Arc<PolicyName>, Arc<Policy>>>,
    /// By [`Workload::uid`], for the workloads that decisions are made about.
    effective: HashTrieMapSync<Arc<str>, Arc<Effective>>,
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
    /// Whether something was received to decide by.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// How many policies there are, dry-run ones included.
    pub fn len(&self) -> usize {
        self.by_key.size()
    }

    /// Whether there is no policy.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// All policies, in order of precedence and name.
    pub fn policies(&self) -> Vec<&Arc<Policy>> {
        let mut policies: Vec<_> = self.by_key.values().collect();
        policies.sort_by(|a, b| (a.effect, &a.name).cmp(&(b.effect, &b.name)));
        policies
    }

    pub(crate) fn set_loaded(&mut self) {
        self.loaded = true;
    }

    /// Adds or replaces a policy. [`Self::guard`] is due for the workloads it applies to.
    pub(crate) fn insert(&mut self, policy: Arc<Policy>) {
        let key = policy.key();
        self.remove(&key);
        if let Some(scope) = scope_of(&policy) {
            let mut others = self.scoped.get(&scope).cloned().unwrap_or_default();
            others.insert_mut(Arc::clone(&key), Arc::clone(&policy));
            self.scoped.insert_mut(scope, others);
        }
        self.by_key.insert_mut(key, policy);
    }

    /// Takes a policy out. [`Self::guard`] is due for the workloads it applied to.
    pub(crate) fn remove(&mut self, key: &PolicyName) -> Option<Arc<Policy>> {
        let policy = self.by_key.get(key).cloned()?;
        self.by_key.remove_mut(key);
        if let Some(scope) = scope_of(&policy) {
            let mut others = self.scoped.get(&scope).cloned().unwrap_or_default();
            others.remove_mut(key);
            if others.is_empty() {
                self.scoped.remove_mut(&scope);
            } else {
                self.scoped.insert_mut(scope, others);
            }
        }
        Some(policy)
    }

    /// Whether there is a policy with this key.
    pub(crate) fn contains(&self, key: &PolicyName) -> bool {
        self.by_key.contains_key(key)
    }

    /// Works out which policies apply to `workload`, so that decisions about it can be made.
    pub(crate) fn guard(&mut self, workload: &Workload) {
        let effective = self.applying_to(workload);
        if self.effective.get(&workload.uid).is_none_or(|old| **old != effective) {
            self.effective.insert_mut(Arc::clone(&workload.uid), Arc::new(effective));
        }
    }

    /// The uids of the workloads that decisions can be made about.
    pub(crate) fn guarded(&self) -> Vec<Arc<str>> {
        self.effective.keys().cloned().collect()
    }

    /// Makes no decisions about this workload any more.
    pub(crate) fn release(&mut self, uid: &str) {
        self.effective.remove_mut(uid);
    }

    fn applying_to(&self, workload: &Workload) -> Effective {
        let unlisted = [EVERYWHERE, &*workload.namespace];
        let unlisted = unlisted.into_iter().filter_map(|scope| self.scoped.get(scope));
        let unlisted = unlisted.flat_map(RedBlackTreeMapSync::values);
        let listed = workload.policies.iter().filter_map(|key| self.by_key.get(key));
        let mut all: Vec<_> = unlisted.chain(listed.filter(|policy| policy.scope == Scope::Listed)).collect();
        all.sort_by(|a, b| (a.effect, &a.name).cmp(&(b.effect, &b.name)));
        let missing = workload.policies.iter().find(|key| !self.by_key.contains_key(*key)).cloned();
        Effective { missing, ..Effective::of(&all) }
    }
}

/// Where a policy applies without being listed.
fn scope_of(policy: &Policy) -> Option<Arc<str>> {
    match policy.scope {
        Scope::Mesh => Some(EVERYWHERE.into()),
        Scope::Namespace => Some(Arc::clone(&policy.name.namespace)),
        Scope::Listed => None,
    }
}

/// No namespace has an empty name.
const EVERYWHERE: &str = "";

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
            policies: Vec<&'a Arc<Policy>>,
            workloads: BTreeMap<&'a str, &'a Effective>,
        }
        let workloads = self.effective.iter().map(|(uid, effective)| (&**uid, &**effective)).collect();
        Dump { loaded: self.loaded, policies: self.policies(), workloads }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
