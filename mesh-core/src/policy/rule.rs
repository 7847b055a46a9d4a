//! The compiled form of policies.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::PolicyName;
use super::matcher::{AccountMatch, StringMatch};
use crate::id::SpiffeId;

/// An AuthorizationPolicy, or what a PeerAuthentication comes to, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Policy {
    /// The resource it was compiled from.
    pub name: Arc<PolicyName>,
    /// What a match does.
    pub effect: Effect,
    /// Only noted, not enforced.
    pub dry_run: bool,
    /// Which workloads it is for.
    pub scope: Scope,
    /// The rules that can match; their indices are those of the resource.
    pub rules: Vec<Rule>,
}

/// Which workloads a [`Policy`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of the mesh.
    Mesh,
    /// All of its namespace.
    Namespace,
    /// Those that list it ([`Workload::policies`]).
    Listed,
}

/// What a match does, in the order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Effect {
    /// A PeerAuthentication refuses plaintext.
    #[serde(rename = "MUTUAL_TLS")]
    MutualTls,
    /// Needs an external authorizer, which nobody can ask yet: a match denies.
    Custom,
    /// A match denies.
    Deny,
    /// A match allows, and what no ALLOW policy matches is denied.
    Allow,
}

/// Matches if every group has an alternative that matches; without groups it matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Rule {
    /// Into `spec.rules`.
    pub index: usize,
    /// One for `from`, one for `to` and one for each condition, as far as they are there.
    pub groups: Vec<Group>,
}

/// Matches if all clauses of one of its alternatives match. Without alternatives it never matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Group(pub Vec<Vec<Clause>>);

/// "One of these" or "none of these".
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Clause {
    /// None of these.
    pub negated: bool,
    /// These.
    #[serde(flatten)]
    pub matcher: Matcher,
}

/// An attribute and the values it may have; any of them will do. An absent identity has no value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Matcher {
    /// `<trust domain>/ns/<namespace>/sa/<service account>` of the peer.
    Principal(Vec<StringMatch>),
    /// The namespace of the peer's identity.
    Namespace(Vec<StringMatch>),
    /// The trust domain of the peer's identity.
    TrustDomain(Vec<StringMatch>),
    /// The service account of the peer's identity.
    ServiceAccount(Vec<AccountMatch>),
    /// The address of the direct peer.
    SourceIp(Vec<IpNet>),
    /// The address of the workload.
    DestinationIp(Vec<IpNet>),
    /// The port of the workload.
    DestinationPort(Vec<u16>),
}

/// What is matched: a connection in canonical form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    pub(super) peer: Option<&'a SpiffeId>,
    pub(super) source_ip: IpAddr,
    pub(super) destination: SocketAddr,
}

/// Everything that applies to one workload.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Effective {
    /// A policy that applies, but was not received yet. Nobody knows what it refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<Arc<PolicyName>>,
    #[serde(serialize_with = "names")]
    pub(super) mutual_tls: Vec<Arc<Policy>>,
    /// CUSTOM before DENY.
    #[serde(serialize_with = "names")]
    pub(super) deny: Vec<Arc<Policy>>,
    #[serde(serialize_with = "names")]
    pub(super) allow: Vec<Arc<Policy>>,
    #[serde(serialize_with = "names")]
    pub(super) dry_run_deny: Vec<Arc<Policy>>,
    #[serde(serialize_with = "names")]
    pub(super) dry_run_allow: Vec<Arc<Policy>>,
}

impl Policy {
    /// The name under which it travels and is listed by workloads. What a PeerAuthentication comes to is set apart by
    /// the prefix that Istio's control plane gives it; no resource can have such a name.
    pub fn key(&self) -> Arc<PolicyName> {
        match self.effect {
            Effect::MutualTls => mutual_tls_key(&self.name),
            _ => Arc::clone(&self.name),
        }
    }
}

/// The key of the policy that PeerAuthentication `name` comes to.
pub(crate) fn mutual_tls_key(name: &PolicyName) -> Arc<PolicyName> {
    let PolicyName { namespace, name } = name;
    Arc::new(PolicyName {
        namespace: Arc::clone(namespace),
        name: format!("{MUTUAL_TLS_PREFIX}{name}").into(),
    })
}

impl Rule {
    pub(super) fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let all = |clauses: &Vec<Clause>| clauses.iter().all(|clause| clause.matches(attributes));
        self.groups.iter().all(|Group(alternatives)| alternatives.iter().any(all))
    }
}

impl Clause {
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        self.matcher.matches(attributes) != self.negated
    }
}

impl Matcher {
    fn matches(&self, a: &Attributes<'_>) -> bool {
        let any = |values: &[StringMatch], of: fn(&SpiffeId) -> &str| {
            a.peer.is_some_and(|peer| values.iter().any(|value| value.matches(of(peer))))
        };
        match self {
            Self::Principal(values) => any(values, SpiffeId::principal),
            Self::Namespace(values) => any(values, SpiffeId::namespace),
            Self::TrustDomain(values) => any(values, |peer| peer.trust_domain().as_str()),
            Self::ServiceAccount(values) => a.peer.is_some_and(|peer| {
                let is = |value: &AccountMatch| {
                    *value.name == *peer.service_account() && *value.namespace == *peer.namespace()
                };
                values.iter().any(is)
            }),
            Self::SourceIp(blocks) => blocks.iter().any(|block| block.contains(&a.source_ip)),
            Self::DestinationIp(blocks) => blocks.iter().any(|block| block.contains(&a.destination.ip())),
            Self::DestinationPort(ports) => ports.contains(&a.destination.port()),
        }
    }
}

/// A dump has every policy once; workloads refer to it.
fn names<S: serde::Serializer>(policies: &[Arc<Policy>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(policies.iter().map(|policy| &policy.name))
}

/// What Istio's control plane puts before the name of a PeerAuthentication that it turned into a policy.
pub const MUTUAL_TLS_PREFIX: &str = "converted_peer_authentication_";
