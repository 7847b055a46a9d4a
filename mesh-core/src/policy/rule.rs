//! The compiled form of policies.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::PolicyName;
use super::matcher::{AccountMatch, StringMatch};
use crate::id::SpiffeId;

/// An AuthorizationPolicy.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Policy {
    pub(super) name: Arc<PolicyName>,
    pub(super) effect: Effect,
    /// Only noted, not enforced.
    pub(super) dry_run: bool,
    /// The rules that can match; their indices are those of the resource.
    pub(super) rules: Vec<Rule>,
}

/// What a match does, in the order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Effect {
    /// Needs an external authorizer, which nobody can ask yet: a match denies.
    Custom,
    Deny,
    Allow,
}

/// Matches if one entry of `from` (if there is any) and one of `to` (if there is any) match entirely, and all of
/// `when`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Rule {
    /// Into `spec.rules`.
    pub(super) index: usize,
    pub(super) from: Vec<Vec<Clause>>,
    pub(super) to: Vec<Vec<Clause>>,
    pub(super) when: Vec<Clause>,
}

/// "One of these" or "none of these".
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Clause {
    pub(super) negated: bool,
    #[serde(flatten)]
    pub(super) matcher: Matcher,
}

/// An attribute and the values it may have; any of them will do. An absent identity has no value.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Matcher {
    Principal(Vec<StringMatch>),
    Namespace(Vec<StringMatch>),
    TrustDomain(Vec<StringMatch>),
    ServiceAccount(Vec<AccountMatch>),
    SourceIp(Vec<IpNet>),
    DestinationIp(Vec<IpNet>),
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
    pub(super) mutual_tls: MutualTls,
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

/// What PeerAuthentication comes down to for one workload: by whose word plaintext is refused, if it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct MutualTls {
    pub(super) strict: Option<Arc<PolicyName>>,
    /// Ports with a mode of their own, ascending.
    pub(super) ports: Vec<(u16, Option<Arc<PolicyName>>)>,
}

impl Rule {
    pub(super) fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let all = |clauses: &[Clause]| clauses.iter().all(|clause| clause.matches(attributes));
        let any = |entries: &[Vec<Clause>]| entries.is_empty() || entries.iter().any(|entry| all(entry));
        any(&self.from) && any(&self.to) && all(&self.when)
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

impl MutualTls {
    /// The policy that wants a proven peer on `port`.
    pub(super) fn strict_on(&self, port: u16) -> Option<&Arc<PolicyName>> {
        match self.ports.binary_search_by_key(&port, |(port, _)| *port) {
            Ok(index) => self.ports.get(index).and_then(|(_, strict)| strict.as_ref()),
            Err(_) => self.strict.as_ref(),
        }
    }
}

/// A dump has every policy once; workloads refer to it.
fn names<S: serde::Serializer>(policies: &[Arc<Policy>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(policies.iter().map(|policy| &policy.name))
}
