//! The specs of `security.istio.io` kinds, field for field as users write them. What they mean is decided where
//! they are compiled; here only their shape is fixed.
//!
//! An absent list is an empty list. Istio draws no other line: where an empty list would surprise (`principals: []`
//! restricts nothing), parsing says so.

use std::collections::BTreeMap;

use serde::Deserialize;

#[cfg(feature = "schema")]
use crate::resource::schema::{
    LabelsSchema, both,
    rules::{AUTHORIZATION_POLICY, PEER_AUTHENTICATION, PORT_LEVEL_MTLS, rules},
};

/// `PeerAuthentication.spec`: whether plaintext is accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-validations" = rules(PEER_AUTHENTICATION))))]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthenticationSpec {
    /// The workloads it is for; absent means the whole namespace, or the whole mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// For all ports that [`Self::port_level_mtls`] does not name.
    pub mtls: Option<MutualTls>,
    /// By workload (container) port, 1..=65535, not Service port. Needs a selector.
    #[cfg_attr(feature = "schema", schemars(extend("minProperties" = 1, "x-kubernetes-validations" = rules(PORT_LEVEL_MTLS))))]
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
}

/// Selects workloads of a namespace by label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// All of them must be equal on the workload; empty selects every workload.
    #[cfg_attr(feature = "schema", schemars(with = "LabelsSchema<4096>"))]
    pub match_labels: BTreeMap<String, String>,
}

/// `mtls` of a PeerAuthentication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct MutualTls {
    /// Absent means [`MutualTlsMode::Unset`].
    pub mode: MutualTlsMode,
}

/// Which connections a workload accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum MutualTlsMode {
    /// As the next wider level says; `Permissive` where none says anything.
    #[default]
    #[serde(rename = "UNSET")]
    Unset,
    /// Plaintext; treated as `Permissive`, because a mesh peer never talks plaintext to another.
    #[serde(rename = "DISABLE")]
    Disable,
    /// Plaintext and mTLS.
    #[serde(rename = "PERMISSIVE")]
    Permissive,
    /// Only mTLS.
    #[serde(rename = "STRICT")]
    Strict,
}

/// `AuthorizationPolicy.spec`: who may talk to a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-validations" = rules(AUTHORIZATION_POLICY))))]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicySpec {
    /// The workloads it is for; absent means the whole namespace, or the whole mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// The older, single form of [`Self::target_refs`].
    pub target_ref: Option<PolicyTargetReference>,
    /// The gateways, waypoints or services it is for, at most 16; excludes a selector.
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// At most 512. None at all: an ALLOW policy allows nothing.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    pub rules: Vec<Rule>,
    /// What a matching rule does; absent means [`Action::Allow`].
    pub action: Action,
    /// Who decides for [`Action::Custom`].
    pub provider: Option<ExtensionProvider>,
}

/// What an AuthorizationPolicy does with a match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Action {
    /// Lets it pass.
    #[default]
    #[serde(rename = "ALLOW")]
    Allow,
    /// Refuses it, whatever any ALLOW policy says.
    #[serde(rename = "DENY")]
    Deny,
    /// Notes it; never changes the outcome.
    #[serde(rename = "AUDIT")]
    Audit,
    /// Asks an external authorizer first.
    #[serde(rename = "CUSTOM")]
    Custom,
}

/// Names an extension provider of `MeshConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionProvider {
    /// Its name there.
    pub name: String,
}

/// The object that a policy attaches to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["kind", "name"])))]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyTargetReference {
    /// API group; empty for core kinds.
    #[cfg_attr(feature = "schema", schemars(length(max = 253)))]
    pub group: String,
    /// `Gateway`, `GatewayClass`, `Service` or `ServiceEntry`.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 63)))]
    pub kind: String,
    /// Its name, in the policy's namespace.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub name: String,
    /// May only repeat the policy's namespace.
    pub namespace: Option<String>,
}

/// Matches if one entry of each non-empty part matches: from AND to AND all of when. Empty matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// One of them must match; at most 512.
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    pub from: Vec<From>,
    /// One of them must match.
    pub to: Vec<To>,
    /// All of them must match.
    pub when: Vec<Condition>,
}

/// An entry of `from`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct From {
    /// Who connects.
    pub source: Source,
}

/// Who connects. All non-empty fields must match; each by any of its values; a `not_` field by none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("not" = both(&[ACCOUNTS, IDENTITIES]))))]
#[serde(rename_all = "camelCase", default)]
pub struct Source {
    /// Identities without `spiffe://`: exact, `prefix*`, `*suffix` or `*`.
    pub principals: Vec<String>,
    /// Must not match.
    pub not_principals: Vec<String>,
    /// Subjects of a verified JWT, `issuer/subject`. L7.
    pub request_principals: Vec<String>,
    /// Must not match. L7.
    pub not_request_principals: Vec<String>,
    /// Namespaces of the identity.
    pub namespaces: Vec<String>,
    /// Must not match.
    pub not_namespaces: Vec<String>,
    /// `namespace/name`, or `name` in the policy's namespace; no wildcards.
    #[cfg_attr(feature = "schema", schemars(length(max = 16), inner(length(max = 320))))]
    pub service_accounts: Vec<String>,
    /// Must not match.
    #[cfg_attr(feature = "schema", schemars(length(max = 16), inner(length(max = 320))))]
    pub not_service_accounts: Vec<String>,
    /// Trust domains of the identity.
    pub trust_domains: Vec<String>,
    /// Must not match.
    pub not_trust_domains: Vec<String>,
    /// Addresses or CIDRs of the direct peer.
    pub ip_blocks: Vec<String>,
    /// Must not match.
    pub not_ip_blocks: Vec<String>,
    /// Addresses or CIDRs of the original client, as forwarded by trusted proxies. L7.
    pub remote_ip_blocks: Vec<String>,
    /// Must not match. L7.
    pub not_remote_ip_blocks: Vec<String>,
}

/// An entry of `to`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct To {
    /// What is asked for.
    pub operation: Operation,
}

/// What is asked for. All non-empty fields must match; each by any of its values; a `not_` field by none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Host header, case-insensitive. L7.
    pub hosts: Vec<String>,
    /// Must not match. L7.
    pub not_hosts: Vec<String>,
    /// Workload ports as decimal numbers.
    pub ports: Vec<String>,
    /// Must not match.
    pub not_ports: Vec<String>,
    /// HTTP methods. L7.
    pub methods: Vec<String>,
    /// Must not match. L7.
    pub not_methods: Vec<String>,
    /// Normalised paths, exact, prefix, suffix or template. L7.
    pub paths: Vec<String>,
    /// Must not match. L7.
    pub not_paths: Vec<String>,
}

/// An entry of `when`: an attribute and the values it must or must not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["key"])))]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// The attribute, for example `source.ip`; one of those that parsing knows.
    pub key: String,
    /// One of them must match.
    pub values: Vec<String>,
    /// None of them may match.
    pub not_values: Vec<String>,
}

/// Ways to name who connects that exclude [`IDENTITIES`].
#[cfg(feature = "schema")]
const ACCOUNTS: &[&str] = &["serviceAccounts", "notServiceAccounts"];
/// Ways to name who connects that exclude [`ACCOUNTS`].
#[cfg(feature = "schema")]
const IDENTITIES: &[&str] = &["principals", "notPrincipals", "namespaces", "notNamespaces"];
