//! The compiled form of policies.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;
use serde::Serialize;

use super::PolicyName;
use super::matcher::{AccountMatch, StringMatch};
use super::request::{Count, Request, Seen, Truth, is_header, is_host};
use super::template::PathMatch;
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
    /// The labels by which workloads are to list it, if it goes by labels: gateways may have none that lists anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Arc<BTreeMap<String, String>>>,
    /// Who is to be asked, for [`Effect::Custom`]: a provider of `MeshConfig`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Arc<str>>,
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
    /// A match is for an external authorizer to decide; where nobody can ask it, it denies.
    Custom,
    /// A match denies.
    Deny,
    /// A match allows, and what no ALLOW policy matches is denied.
    Allow,
    /// A match is noted, and changes nothing.
    Audit,
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
    /// The host that a request is for, in lower case; with a port or without.
    Host(Vec<StringMatch>),
    /// The method of a request.
    Method(Vec<StringMatch>),
    /// The path of a request, without its query.
    Path(Vec<PathMatch>),
    /// A header of a request; each of its values by itself.
    Header {
        /// Its name.
        #[serde(serialize_with = "header_name")]
        name: HeaderName,
        /// What its values are compared with.
        values: Vec<StringMatch>,
    },
    /// Who sent a request, as far back as proxies are believed.
    RemoteIp(Vec<IpNet>),
    /// `issuer/subject` of the token of a request.
    RequestPrincipal(Vec<StringMatch>),
    /// Whom the token of a request is for.
    Audience(Vec<StringMatch>),
    /// Who got the token of a request.
    Presenter(Vec<StringMatch>),
    /// A claim of the token of a request.
    Claim {
        /// Its name, and those within it.
        path: Vec<Box<str>>,
        /// What its values are compared with; any of them will do.
        values: Vec<StringMatch>,
    },
    /// The server name that TLS asks for, in lower case.
    ServerName(Vec<StringMatch>),
}

/// What is matched: a connection in canonical form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    pub(super) peer: Option<&'a SpiffeId>,
    pub(super) source_ip: IpAddr,
    pub(super) destination: SocketAddr,
    pub(super) seen: Seen<'a>,
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
    /// Whether it matches, as far as that can be said. What cannot be known any more makes a rule that allows not match,
    /// and is left out of any other.
    pub(super) fn matches(&self, attributes: &Attributes<'_>, effect: Effect) -> Truth {
        let beyond = |clause: &Clause| clause.matcher.is_beyond(attributes.seen);
        if effect == Effect::Allow && self.clauses().any(beyond) {
            return Truth::No;
        }
        let one = |clause: &Clause| clause.matches(attributes, effect);
        let all = |clauses: &Vec<Clause>| Truth::all(clauses.iter().map(one));
        let truth = Truth::all(
            self.groups.iter().map(|Group(alternatives)| Truth::any(alternatives.iter().map(all))),
        );
        // Bytes that turn out to be no request are not allowed by it, whatever else it says.
        let ahead = effect == Effect::Allow && matches!(attributes.seen, Seen::Nothing);
        let open = ahead && truth == Truth::Yes && self.clauses().any(|clause| clause.matcher.is_of_stream());
        if open { Truth::Open } else { truth }
    }

    /// All there is in it.
    pub(super) fn clauses(&self) -> impl Iterator<Item = &Clause> {
        self.groups.iter().flat_map(|Group(alternatives)| alternatives).flatten()
    }
}

impl Clause {
    pub(super) fn matches(&self, attributes: &Attributes<'_>, effect: Effect) -> Truth {
        if self.matcher.is_beyond(attributes.seen) {
            return Truth::Yes;
        }
        // A rule that lets somebody pass asks for all values of a header, and any that it must not have is one too many.
        // With rules that refuse it is the other way round.
        let allows = effect == Effect::Allow;
        let count = if allows == self.negated { Count::Any } else { Count::All };
        let truth = self.matcher.matches(attributes, count);
        if self.negated { truth.not() } else { truth }
    }
}

impl Matcher {
    /// Whether it asks for something that will never be known.
    fn is_beyond(&self, seen: Seen<'_>) -> bool {
        match seen {
            Seen::Nothing | Seen::Request(_) => false,
            Seen::Unread => self.is_of_stream(),
            Seen::Bytes { .. } => self.is_of_stream() && !matches!(self, Self::ServerName(_)),
        }
    }

    /// Whether it is about what a connection carries, and not about who opens it to where.
    pub fn is_of_stream(&self) -> bool {
        match self {
            Self::Principal(_)
            | Self::Namespace(_)
            | Self::TrustDomain(_)
            | Self::ServiceAccount(_)
            | Self::SourceIp(_)
            | Self::DestinationIp(_)
            | Self::DestinationPort(_) => false,
            Self::Host(_)
            | Self::Method(_)
            | Self::Path(_)
            | Self::Header { .. }
            | Self::RemoteIp(_)
            | Self::RequestPrincipal(_)
            | Self::Audience(_)
            | Self::Presenter(_)
            | Self::Claim { .. }
            | Self::ServerName(_) => true,
        }
    }

    fn matches(&self, a: &Attributes<'_>, count: Count) -> Truth {
        let any = |values: &[StringMatch], of: fn(&SpiffeId) -> &str| {
            a.peer.is_some_and(|peer| values.iter().any(|value| value.matches(of(peer))))
        };
        let holds = match self {
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
            of_stream => match (of_stream, a.seen) {
                (_, Seen::Request(request)) => of_stream.matches_request(request, count),
                (Self::ServerName(values), Seen::Bytes { server_name }) => is_name(values, server_name),
                _ => return Truth::Open,
            },
        };
        holds.into()
    }

    fn matches_request(&self, request: &Request<'_>, count: Count) -> bool {
        let claims = request.claims;
        match self {
            Self::Host(values) => is_host(values, request.host),
            Self::Method(values) => is_one(values, Some(request.method)),
            Self::Path(values) => values.iter().any(|value| value.matches(request.path)),
            Self::Header { name, values } => is_header(request.headers, name, values, count),
            Self::RemoteIp(blocks) => blocks.iter().any(|block| block.contains(&request.remote_ip)),
            Self::RequestPrincipal(values) => is_one(values, claims.and_then(|claims| claims.principal())),
            Self::Presenter(values) => is_one(values, claims.and_then(|claims| claims.presenter())),
            Self::Audience(values) => {
                claims.is_some_and(|claims| claims.audiences().iter().any(|text| is_one(values, Some(text))))
            }
            Self::Claim { path, values } => claims.is_some_and(|claims| {
                claims.values(path.iter().map(|name| &**name)).iter().any(|text| is_one(values, Some(text)))
            }),
            Self::ServerName(values) => is_name(values, request.server_name),
            _ => false,
        }
    }
}

fn is_one(values: &[StringMatch], text: Option<&str>) -> bool {
    text.is_some_and(|text| values.iter().any(|value| value.matches(text)))
}

/// Patterns are in lower case.
fn is_name(values: &[StringMatch], name: Option<&str>) -> bool {
    name.is_some_and(|name| values.iter().any(|value| value.matches_folded(name)))
}

fn header_name<S: serde::Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

/// What Istio's control plane puts before the name of a PeerAuthentication that it turned into a policy.
pub const MUTUAL_TLS_PREFIX: &str = "converted_peer_authentication_";
