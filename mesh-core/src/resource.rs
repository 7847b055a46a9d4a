//! Typed Kubernetes and Istio objects as users write them: text goes in, [`Object`]s and [`Finding`]s come out.
//!
//! There is no API server in front of a file, so this module does what one would do: unknown fields, wrong types and
//! values outside their range are errors that name the file, the document, the field and, where there is one, the
//! likely intention. Invariant: a document with an error is rejected alone, and parsing never fails as a whole.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;

pub use self::health_check::HealthCheckSpec;
pub use self::label_selector::{LabelSelector, Operator, Requirement};
pub use self::networking::{
    DestinationRuleSpec, GatewaySpec, ServiceEntrySpec, SidecarSpec, VirtualServiceSpec, WorkloadEntrySpec,
    WorkloadGroupSpec,
};
pub use self::proxy_config::{ProxyConfigSpec, ProxyImage};
pub use self::rate_limit::RateLimitSpec;
pub use self::request_authentication::RequestAuthenticationSpec;
pub use self::secret::{Material, Secret, SecretKind};
pub use self::security::{AuthorizationPolicySpec, PeerAuthenticationSpec};
pub use self::served::{Received, ServedKind, from_json};
pub use self::status::{HostAddress, ObjectStatus};
pub use self::strict::Invalid;
pub use self::telemetry::TelemetrySpec;

mod decode;
mod document;
pub mod gateway_api;
pub mod health_check;
mod kind;
mod label_selector;
pub mod mesh_config;
pub mod networking;
mod proxy_config;
pub mod rate_limit;
pub mod request_authentication;
#[cfg(test)]
mod rows;
#[cfg(feature = "schema")]
pub mod schema;
mod secret;
pub mod security;
mod served;
pub mod status;
mod strict;
pub mod telemetry;
mod tree;
mod trim;
mod validate;
pub mod value;

pub(crate) use self::tree::quote;
pub(crate) use self::validate::is_subdomain;

/// A file as it was read: what [`parse`] takes.
#[derive(Debug, Clone, Copy)]
pub struct SourceFile<'a> {
    /// The name that findings show, normally the base name. A name that ends in `.json` is read as JSON.
    pub name: &'a str,
    /// The whole content.
    pub text: &'a str,
}

/// What a file contained.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// The objects of all documents without an error, in file order; `List` kinds are unpacked.
    pub objects: Vec<Object>,
    /// Everything there is to say about the file, in file order.
    pub findings: Vec<Finding>,
    /// The objects that were there but were refused, so that a caller can keep the last good version of them.
    pub rejected: Vec<Rejected>,
    /// Pods that somebody else than the mesh makes, of which the file shows what they will be.
    pub templates: Vec<PodTemplate>,
    /// How many documents there are, empty ones included.
    pub documents: usize,
}

/// What a `StatefulSet`, `DaemonSet`, Job or the like makes pods of. The mesh waits for the pods; who judges a set of files
/// wants to know that there will be some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTemplate {
    /// Where it stands.
    pub origin: Origin,
    /// Where the pods will be.
    pub namespace: Arc<str>,
    /// What they will be labelled with.
    pub labels: BTreeMap<String, String>,
}

/// A document (or an item of a `List`) that has an [`Level::Error`] finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Where it stands.
    pub origin: Origin,
    /// Which object it would have been; `None` if it could not be read that far.
    pub key: Option<ObjectKey>,
}

/// What makes an object unique in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// For example `Pod`. Stands for the group as well: where two groups have a kind of one name, Kubernetes' is
    /// spelled differently from what users write, `KubernetesGateway`.
    pub kind: &'static str,
    /// Empty for kinds that have no namespace.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

/// One valid object.
#[derive(Debug, Clone)]
pub struct Object {
    /// Where the user wrote it.
    pub origin: Origin,
    /// The part of `metadata` that the mesh reads, with defaults applied.
    pub meta: Meta,
    /// The object itself.
    pub spec: Spec,
    /// Of everything the object says: it differs, but for one case in 2⁶⁴, where two versions of the object do.
    pub digest: u64,
    /// `spec` in JSON, of kinds that travel to the data plane as they are ([`crate::model::Config`]).
    pub spec_json: Option<Arc<str>>,
    /// What the mesh reads back of its `status`; empty for an object of a file.
    pub status: ObjectStatus,
}

/// Where an object stands: a document of a file, or a cluster ([`Origin::in_cluster`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The name given in [`SourceFile`]; in a cluster, the object's kind, namespace and name.
    pub file: Arc<str>,
    /// Counted from 1; 0 stands for the file as a whole, [`usize::MAX`] for an object of a cluster.
    pub document: usize,
}

/// Metadata with Kubernetes' defaults applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// For example `Pod`; as [`ObjectKey::kind`].
    pub kind: &'static str,
    /// `default` if the user gave none; empty for kinds that have no namespace.
    pub namespace: Arc<str>,
    /// `metadata.name`, checked against the rule for its kind.
    pub name: Arc<str>,
    /// `metadata.labels`, checked.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.uid`; objects that never saw an API server have none.
    pub uid: Option<Arc<str>>,
    /// `metadata.creationTimestamp` in seconds since the Unix epoch, which decides conflicts: the oldest wins.
    pub creation_timestamp: Option<i64>,
    /// `metadata.generation`, which an API server raises with every change of the spec; a status says which one it
    /// is about.
    pub generation: Option<i64>,
}

/// The kinds that the mesh uses. The Kubernetes types keep their own `metadata` (owner references are read from it).
#[derive(Debug, Clone)]
pub enum Spec {
    /// `v1`.
    Namespace(Namespace),
    /// `v1`.
    Node(Box<Node>),
    /// `v1`.
    Pod(Box<Pod>),
    /// `v1`.
    Service(Box<Service>),
    /// `v1`.
    ServiceAccount(ServiceAccount),
    /// `discovery.k8s.io/v1`.
    EndpointSlice(EndpointSlice),
    /// `apps/v1`.
    Deployment(Box<Deployment>),
    /// `v1`.
    ConfigMap(ConfigMap),
    /// `networking.istio.io/v1`, `v1beta1` and `v1alpha3`, as the kinds up to [`Spec::Sidecar`]. Not Kubernetes' Gateway.
    Gateway(GatewaySpec),
    /// What happens to requests.
    VirtualService(Box<VirtualServiceSpec>),
    /// How services are talked to.
    DestinationRule(Box<DestinationRuleSpec>),
    /// Services that Kubernetes does not know.
    ServiceEntry(Box<ServiceEntrySpec>),
    /// A workload that is no pod.
    WorkloadEntry(WorkloadEntrySpec),
    /// What such workloads have in common.
    WorkloadGroup(Box<WorkloadGroupSpec>),
    /// What clients see.
    Sidecar(Box<SidecarSpec>),
    /// `security.istio.io/v1` and `v1beta1`.
    PeerAuthentication(PeerAuthenticationSpec),
    /// `security.istio.io/v1` and `v1beta1`.
    AuthorizationPolicy(AuthorizationPolicySpec),
    /// `security.istio.io/v1` and `v1beta1`.
    RequestAuthentication(RequestAuthenticationSpec),
    /// `telemetry.istio.io/v1` and `v1alpha1`.
    Telemetry(TelemetrySpec),
    /// `networking.istio.io/v1beta1`.
    ProxyConfig(ProxyConfigSpec),
    /// `v1`, as far as it holds certificates and keys.
    Secret(Box<Secret>),
    /// `gateway.networking.k8s.io/v1` and `v1beta1`.
    GatewayClass(gateway_api::GatewayClassSpec),
    /// `Gateway` of `gateway.networking.k8s.io/v1` and `v1beta1`.
    KubernetesGateway(Box<gateway_api::GatewaySpec>),
    /// `gateway.networking.k8s.io/v1`.
    ListenerSet(Box<gateway_api::ListenerSetSpec>),
    /// `gateway.networking.k8s.io/v1` and `v1beta1`.
    HttpRoute(Box<gateway_api::HttpRouteSpec>),
    /// `gateway.networking.k8s.io/v1`.
    GrpcRoute(Box<gateway_api::GrpcRouteSpec>),
    /// `gateway.networking.k8s.io/v1`, `v1alpha3` and `v1alpha2`.
    TlsRoute(Box<gateway_api::TlsRouteSpec>),
    /// `gateway.networking.k8s.io/v1` and `v1alpha2`.
    TcpRoute(Box<gateway_api::TcpRouteSpec>),
    /// `gateway.networking.k8s.io/v1` and `v1alpha2`.
    UdpRoute(Box<gateway_api::UdpRouteSpec>),
    /// `gateway.networking.k8s.io/v1` and `v1beta1`.
    ReferenceGrant(gateway_api::ReferenceGrantSpec),
    /// `gateway.networking.k8s.io/v1` and `v1alpha3`.
    BackendTlsPolicy(Box<gateway_api::BackendTlsPolicySpec>),
    /// `policy.mesh.internal/v1alpha1`.
    RateLimit(Box<RateLimitSpec>),
    /// `policy.mesh.internal/v1alpha1`.
    HealthCheck(Box<HealthCheckSpec>),
}

/// Something a user should know about a document. `Display` is the line that tools print:
/// `FILE:DOC LEVEL field.path: reason (hint)`, without the field where the whole document is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The document it is about.
    pub origin: Origin,
    /// How bad it is.
    pub level: Level,
    /// The path of the field, for example `spec.ports[0].port`; empty for the whole document.
    pub field: String,
    /// What is wrong, in one line.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// How bad a [`Finding`] is. Ordered: `Info < Warning < Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing is wrong; the mesh just does not use it.
    Info,
    /// It applies, but probably not as intended.
    Warning,
    /// The document is rejected.
    Error,
}

/// Parses every document of `file`. Never fails as a whole: what is wrong with one document is a finding of that
/// document. Takes time and memory in proportion to the text, whatever the text is.
pub fn parse(file: &SourceFile<'_>) -> Parsed {
    document::parse(file)
}

impl Parsed {
    /// Adds what another file contained.
    pub fn append(&mut self, other: Self) {
        let Self { objects, findings, rejected, templates, documents } = other;
        self.objects.extend(objects);
        self.findings.extend(findings);
        self.rejected.extend(rejected);
        self.templates.extend(templates);
        self.documents += documents;
    }
}

impl Object {
    /// What makes this object unique.
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            kind: self.meta.kind,
            namespace: Arc::clone(&self.meta.namespace),
            name: Arc::clone(&self.meta.name),
        }
    }
}

impl Origin {
    /// The origin of an object that an API server holds: it is shown as `Kind namespace/name`.
    pub fn in_cluster(key: &ObjectKey) -> Self {
        Self { file: key.to_string().into(), document: usize::MAX }
    }

    /// The number of the document; `None` for an object of a cluster.
    pub fn document_in_file(&self) -> Option<usize> {
        Some(self.document).filter(|document| *document != usize::MAX)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.document {
            usize::MAX => f.write_str(&self.file),
            document => write!(f, "{}:{document}", self.file),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.origin, self.level)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", one_line(&self.field))?;
        }
        f.write_str(&one_line(&self.reason))?;
        match &self.hint {
            Some(hint) => write!(f, " ({})", one_line(hint)),
            None => Ok(()),
        }
    }
}

/// The path of an entry of a map: `metadata.labels.app`, `metadata.labels["a/b"]`.
pub(crate) fn entry_path(map: &str, key: &str) -> String {
    tree::Path::Key(&tree::Path::Root(map), key).to_string()
}

/// Rules and matches of `spec` that are never used, as far as parsing finds them: field, reason, hint.
pub(crate) fn never_used(spec: &VirtualServiceSpec) -> Vec<(String, String, Option<String>)> {
    let problems = validate::never_used(spec).into_iter();
    problems.map(|problem| (problem.field, problem.reason, problem.hint)).collect()
}

/// Users' keys and values end up in these texts; a line break in one must not forge a second finding.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        Cow::Owned(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests;
