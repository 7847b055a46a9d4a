//! Who may have which certificate. Pure: what is known of the caller was proven elsewhere, and where workloads run is
//! asked of a [`Placement`].
//!
//! The rules, all of which refuse unless they grant:
//! 1. Everybody may have the identity that their credential proves, and nothing else,
//! 2. but a node may have the identities of the workloads that run on it now. A node is a pod of a trusted node account
//!    whose token is bound to a node, or a machine outside of Kubernetes that has joined under a node's name.
//! 3. Only identities of our own trust domain are signed.
//! 4. A certificate renews itself only while the mesh has somebody of its identity: what is nobody's any more ends with the
//!    certificate that there is.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use mesh_core::id::{IdError, SpiffeId, TrustDomain};

use crate::csr::Csr;

/// Who asks, as proven by their credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A pod, by a token of its service account that the API server has vouched for.
    ServiceAccountToken {
        /// The account's namespace.
        namespace: String,
        /// The account's name.
        service_account: String,
        /// For whom the token was made, as far as the API server was asked about it.
        audiences: Vec<String>,
        /// The pod that the token is bound to.
        pod: Option<PodRef>,
        /// The node of that pod.
        node: Option<NodeName>,
    },
    /// The holder of a certificate of ours that is valid now; verified by the TLS connection that the request came on.
    Svid(SpiffeId),
    /// The holder of a join token.
    JoinToken(Binding),
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Whom a join token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// A node outside of Kubernetes.
    Node(NodeName),
    /// One workload, for example a virtual machine.
    Identity(SpiffeId),
}

/// The name of a node: a DNS subdomain (RFC 1123), as Kubernetes has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(String);

/// A text that names no node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a node's name has at most 253 of a-z, 0-9, '-' and '.', and labels begin and end with a letter or digit"
)]
pub struct NodeNameError;

/// Where workloads run.
pub trait Placement {
    /// Whether a workload with this identity runs on this node now, or is about to.
    fn runs_on(&self, node: &NodeName, id: &SpiffeId) -> bool;

    /// Whether there is, or may come, a workload with this identity.
    fn is_somebody(&self, id: &SpiffeId) -> bool;
}

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// Whose certificate, if not the caller's own.
    pub impersonated: Option<SpiffeId>,
    /// The key to certify.
    pub csr: Csr,
    /// How long the certificate should live; the CA has a limit of its own.
    pub ttl: Option<Duration>,
}

/// What the decision rests on besides the request.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The domain that this CA signs for.
    pub trust_domain: TrustDomain,
    /// Service accounts of node proxies, as (namespace, name).
    pub node_accounts: BTreeSet<(String, String)>,
    /// Audiences of which a service account token must have one.
    pub audiences: Vec<String>,
}

impl Rules {
    /// Istio's habits: tokens for `istio-ca`; nodes are `mesh-node` and `ztunnel` of the root namespace.
    pub fn new(trust_domain: TrustDomain, root_namespace: &str) -> Self {
        let account = |name: &str| (root_namespace.to_owned(), name.to_owned());
        Self {
            trust_domain,
            node_accounts: ["mesh-node", "ztunnel"].map(account).into(),
            audiences: vec![DEFAULT_AUDIENCE.to_owned()],
        }
    }
}

/// The right to one certificate. There is no signature without one.
#[derive(Debug)]
pub struct Grant {
    id: SpiffeId,
    csr: Csr,
    ttl: Option<Duration>,
    asked_by: String,
    method: &'static str,
}

/// Why there is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token was made for somebody else.
    #[error("the token is not for this CA: it is for {}, not for {}", list(found), list(expected))]
    WrongAudience {
        /// What the token has.
        found: Vec<String>,
        /// One of which it should have.
        expected: Vec<String>,
    },
    /// The account's names do not fit into an identity.
    #[error("the caller's account {0}")]
    BadAccount(IdError),
    /// An identity of another trust domain.
    #[error("{id} is not of the trust domain {domain}")]
    ForeignTrustDomain {
        /// What was asked for, or asked with.
        id: SpiffeId,
        /// What this CA signs for.
        domain: TrustDomain,
    },
    /// Another identity than the caller's, who is no node.
    #[error("{caller} may have its own certificate only, not the one of {id}")]
    NotANode {
        /// Who asked.
        caller: String,
        /// What was asked for.
        id: SpiffeId,
    },
    /// A node proxy whose credential does not say which node it is on.
    #[error("{caller} is a node proxy, but its credential does not say of which node")]
    NodeUnknown {
        /// Who asked.
        caller: String,
    },
    /// No workload of this identity on that node.
    #[error("no workload with the identity {id} runs on node {node}")]
    NotOnNode {
        /// The caller's node.
        node: NodeName,
        /// What was asked for.
        id: SpiffeId,
    },
    /// A certificate of an identity that nobody in the mesh has any more.
    #[error("no workload and no WorkloadGroup has the identity {id}, so that its certificate is not renewed")]
    Nobody {
        /// What was asked with.
        id: SpiffeId,
    },
    /// The identity of a node; only that node may have it.
    #[error("{id} is the identity of a node, which nobody else may have")]
    NodeIdentity {
        /// What was asked for.
        id: SpiffeId,
    },
    /// A lifetime of nothing.
    #[error("a certificate that lives for {0:?} is none")]
    Lifetime(Duration),
}

impl Refusal {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::WrongAudience { .. } => "wrong_audience",
            Self::BadAccount(_) => "bad_account",
            Self::ForeignTrustDomain { .. } => "foreign_trust_domain",
            Self::NotANode { .. } => "not_a_node",
            Self::NodeUnknown { .. } => "node_unknown",
            Self::NotOnNode { .. } => "not_on_node",
            Self::Nobody { .. } => "nobody",
            Self::NodeIdentity { .. } => "node_identity",
            Self::Lifetime(_) => "bad_lifetime",
        }
    }
}

/// Decides about one request. See [`crate::issue()`], which also signs and writes the audit log.
pub fn authorize(
    caller: &Caller,
    request: Request,
    rules: &Rules,
    placement: &dyn Placement,
) -> Result<Grant, Refusal> {
    let id = decide(caller, &request, rules, placement)?;
    let Request { csr, ttl, .. } = request;
    Ok(Grant { id, csr, ttl, asked_by: caller.to_string(), method: caller.method() })
}

impl Grant {
    /// For a CA inside of the node that asks: which identities it holds is the decision of its own configuration.
    pub fn embedded(id: SpiffeId, csr: Csr, ttl: Duration) -> Self {
        Self { id, csr, ttl: Some(ttl), asked_by: "this node".to_owned(), method: "embedded" }
    }

    /// Whatever a test likes to grant.
    #[cfg(test)]
    pub(crate) fn without_checks(id: SpiffeId, csr: Csr, ttl: Option<Duration>) -> Self {
        Self { id, csr, ttl, asked_by: "a test".to_owned(), method: "none" }
    }

    /// Whose certificate it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The lifetime asked for.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    pub(crate) fn csr(&self) -> &Csr {
        &self.csr
    }

    pub(crate) fn asked_by(&self) -> &str {
        &self.asked_by
    }

    pub(crate) fn method(&self) -> &'static str {
        self.method
    }
}

impl Caller {
    /// How the caller has proven who it is, as a stable token.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::ServiceAccountToken { .. } => "service_account_token",
            Self::Svid(_) => "svid",
            Self::JoinToken(_) => "join_token",
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAccountToken { namespace, service_account, pod, node, .. } => {
                write!(f, "service account {namespace}/{service_account}")?;
                if let Some(pod) = pod {
                    write!(f, " of pod {}", pod.name)?;
                }
                node.as_ref().map_or(Ok(()), |node| write!(f, " on node {node}"))
            }
            Self::Svid(id) => id.fmt(f),
            Self::JoinToken(binding) => write!(f, "join token of {binding}"),
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Identity(id) => id.fmt(f),
        }
    }
}

impl NodeName {
    /// Takes `text` if it can be a node's name.
    pub fn parse(text: &str) -> Result<Self, NodeNameError> {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let label = |label: &str| {
            let bytes = label.as_bytes();
            edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        };
        let good = text.len() <= MAX_NODE_NAME && text.split('.').all(label);
        if good { Ok(Self(text.to_owned())) } else { Err(NodeNameError) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a node outside of Kubernetes, which it gets for its join token and renews by itself.
pub fn node_identity(domain: &TrustDomain, node: &NodeName) -> SpiffeId {
    SpiffeId::new(domain, NODE_NAMESPACE, node.as_str()).expect("a node's name can stand in an identity")
}

/// The node that `id` is the identity of, if it is one.
pub fn node_of(id: &SpiffeId) -> Option<NodeName> {
    let name = Some(id.service_account()).filter(|_| id.namespace() == NODE_NAMESPACE)?;
    NodeName::parse(name).ok()
}

/// What is known of the caller once its credential is read.
struct Proven {
    /// Its own identity.
    id: SpiffeId,
    /// Whether it may act for a node's workloads, and for which node's.
    role: Role,
}

enum Role {
    Workload,
    Node(NodeName),
    /// A node proxy that does not say where it runs.
    NodeSomewhere,
}

fn decide(
    caller: &Caller,
    request: &Request,
    rules: &Rules,
    placement: &dyn Placement,
) -> Result<SpiffeId, Refusal> {
    if let Some(ttl) = request.ttl.filter(|ttl| *ttl < MIN_TTL) {
        return Err(Refusal::Lifetime(ttl));
    }
    let proven = prove(caller, rules)?;
    let renews = matches!((caller, &proven.role), (Caller::Svid(_), Role::Workload));
    if renews && !placement.is_somebody(&proven.id) {
        return Err(Refusal::Nobody { id: proven.id });
    }
    let Some(wanted) = request.impersonated.as_ref().filter(|id| **id != proven.id) else {
        return Ok(proven.id);
    };
    ours(wanted, rules)?;
    if wanted.namespace() == NODE_NAMESPACE {
        return Err(Refusal::NodeIdentity { id: wanted.clone() });
    }
    match proven.role {
        Role::Workload => Err(Refusal::NotANode { caller: caller.to_string(), id: wanted.clone() }),
        Role::NodeSomewhere => Err(Refusal::NodeUnknown { caller: caller.to_string() }),
        Role::Node(node) if placement.runs_on(&node, wanted) => Ok(wanted.clone()),
        Role::Node(node) => Err(Refusal::NotOnNode { node, id: wanted.clone() }),
    }
}

fn prove(caller: &Caller, rules: &Rules) -> Result<Proven, Refusal> {
    match caller {
        Caller::ServiceAccountToken { namespace, service_account, audiences, node, .. } => {
            if !audiences.iter().any(|audience| rules.audiences.contains(audience)) {
                let expected = rules.audiences.clone();
                return Err(Refusal::WrongAudience { found: audiences.clone(), expected });
            }
            let id = SpiffeId::new(&rules.trust_domain, namespace, service_account)
                .map_err(Refusal::BadAccount)?;
            if id.namespace() == NODE_NAMESPACE {
                return Err(Refusal::NodeIdentity { id });
            }
            let role = match node {
                _ if !is_node_account(&id, rules) => Role::Workload,
                Some(node) => Role::Node(node.clone()),
                None => Role::NodeSomewhere,
            };
            Ok(Proven { id, role })
        }
        Caller::Svid(id) => {
            ours(id, rules)?;
            let role = match node_of(id) {
                Some(node) => Role::Node(node),
                None if is_node_account(id, rules) => Role::NodeSomewhere,
                None => Role::Workload,
            };
            Ok(Proven { id: id.clone(), role })
        }
        Caller::JoinToken(Binding::Node(node)) => {
            Ok(Proven { id: node_identity(&rules.trust_domain, node), role: Role::Node(node.clone()) })
        }
        Caller::JoinToken(Binding::Identity(id)) => {
            ours(id, rules)?;
            if id.namespace() == NODE_NAMESPACE {
                return Err(Refusal::NodeIdentity { id: id.clone() });
            }
            Ok(Proven { id: id.clone(), role: Role::Workload })
        }
    }
}

fn ours(id: &SpiffeId, rules: &Rules) -> Result<(), Refusal> {
    if *id.trust_domain() == rules.trust_domain {
        return Ok(());
    }
    Err(Refusal::ForeignTrustDomain { id: id.clone(), domain: rules.trust_domain.clone() })
}

fn is_node_account(id: &SpiffeId, rules: &Rules) -> bool {
    let mut accounts = rules.node_accounts.iter();
    accounts.any(|(namespace, name)| namespace == id.namespace() && name == id.service_account())
}

fn list(audiences: &[String]) -> String {
    if audiences.is_empty() { "nobody".to_owned() } else { audiences.join(", ") }
}

/// The audience of tokens for Istio's CA.
pub const DEFAULT_AUDIENCE: &str = "istio-ca";
/// Where the identities of nodes outside of Kubernetes stand. No namespace of Kubernetes has a dot in its name, so that
/// nobody can make an account there.
pub const NODE_NAMESPACE: &str = "nodes.mesh";
/// Certificates know no parts of a second.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Bytes in a DNS subdomain.
const MAX_NODE_NAME: usize = 253;

#[cfg(test)]
mod tests;
