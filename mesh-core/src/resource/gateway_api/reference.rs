//! How objects of the Gateway API name others.

use serde::Deserialize;

use super::super::value::Port;
use super::value::{GroupName, KindName, NamespaceName, ObjectName, SectionName, Weight};

/// What a route attaches to: a Gateway, or a Service for the traffic inside of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Absent means `gateway.networking.k8s.io`.
    #[serde(default = "GroupName::gateway_api")]
    pub group: GroupName,
    /// Absent means `Gateway`.
    #[serde(default = "KindName::gateway")]
    pub kind: KindName,
    /// Absent means the route's own.
    pub namespace: Option<NamespaceName>,
    /// Its name.
    pub name: ObjectName,
    /// Only this listener of a Gateway, or port of a Service.
    pub section_name: Option<SectionName>,
    /// Only listeners on this port, or this port of a Service.
    pub port: Option<Port>,
}

/// What listeners are added to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct ListenerParent {
    /// Absent means `gateway.networking.k8s.io`.
    #[serde(default = "GroupName::gateway_api")]
    pub group: GroupName,
    /// Absent means `Gateway`.
    #[serde(default = "KindName::gateway")]
    pub kind: KindName,
    /// Absent means that of the ListenerSet.
    pub namespace: Option<NamespaceName>,
    /// Its name.
    pub name: ObjectName,
}

/// Which default Gateways a route attaches to besides those it names. Experimental.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum DefaultGateways {
    /// All there are.
    All,
    /// None.
    None,
}

/// An object that requests can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Absent means Kubernetes' core group.
    #[serde(default = "GroupName::core")]
    pub group: GroupName,
    /// Absent means `Service`.
    #[serde(default = "KindName::service")]
    pub kind: KindName,
    /// Absent means the route's own; another one needs a ReferenceGrant.
    pub namespace: Option<NamespaceName>,
    /// Its name.
    pub name: ObjectName,
    /// The Service's port, not the pods'. Always there for a Service.
    pub port: Option<Port>,
}

/// A backend and its share.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawBackendRef")]
pub struct BackendRef {
    /// Where to.
    pub backend: Backend,
    /// Absent means 1; all weights 0 send no request anywhere.
    pub weight: Weight,
}

/// A backend, its share, and what happens to what is sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawFilteredBackend<F>", bound(deserialize = "F: Deserialize<'de>"))]
pub struct FilteredBackend<F> {
    /// Where to.
    pub backend: Backend,
    /// Absent means 1; all weights 0 send no request anywhere.
    pub weight: Weight,
    /// Applied after those of the rule, at most 16.
    pub filters: Vec<F>,
}

/// An object of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct LocalRef {
    /// Empty for Kubernetes' core group.
    pub group: GroupName,
    /// For example `ConfigMap`.
    pub kind: KindName,
    /// Its name.
    pub name: ObjectName,
}

/// An object of any namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct ObjectRef {
    /// Empty for Kubernetes' core group.
    pub group: GroupName,
    /// For example `ConfigMap`.
    pub kind: KindName,
    /// Its name.
    pub name: ObjectName,
    /// Absent means that of the object that refers to it; another one needs a ReferenceGrant.
    pub namespace: Option<NamespaceName>,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct SecretRef {
    /// Absent means Kubernetes' core group.
    #[serde(default = "GroupName::core")]
    pub group: GroupName,
    /// Absent means `Secret`.
    #[serde(default = "KindName::secret")]
    pub kind: KindName,
    /// Its name.
    pub name: ObjectName,
    /// Absent means that of the Gateway; another one needs a ReferenceGrant.
    pub namespace: Option<NamespaceName>,
}

/// The object that configures a GatewayClass.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct ParametersRef {
    /// Empty for Kubernetes' core group.
    pub group: GroupName,
    /// For example `ConfigMap`.
    pub kind: KindName,
    /// Its name.
    pub name: ObjectName,
    /// Absent for kinds that have no namespace.
    pub namespace: Option<NamespaceName>,
}

impl Backend {
    /// Whether it is a Kubernetes Service.
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && *self.kind == *"Service"
    }
}

/// As users write [`BackendRef`].
#[derive(Deserialize)]
struct RawBackendRef {
    #[serde(default = "GroupName::core")]
    group: GroupName,
    #[serde(default = "KindName::service")]
    kind: KindName,
    namespace: Option<NamespaceName>,
    name: ObjectName,
    port: Option<Port>,
    #[serde(default)]
    weight: Weight,
}

impl From<RawBackendRef> for BackendRef {
    fn from(raw: RawBackendRef) -> Self {
        let RawBackendRef { group, kind, namespace, name, port, weight } = raw;
        Self { backend: Backend { group, kind, namespace, name, port }, weight }
    }
}

/// As users write [`FilteredBackend`].
#[derive(Deserialize)]
struct RawFilteredBackend<F> {
    #[serde(default = "GroupName::core")]
    group: GroupName,
    #[serde(default = "KindName::service")]
    kind: KindName,
    namespace: Option<NamespaceName>,
    name: ObjectName,
    port: Option<Port>,
    #[serde(default)]
    weight: Weight,
    #[serde(default = "Vec::new")]
    filters: Vec<F>,
}

impl<F> From<RawFilteredBackend<F>> for FilteredBackend<F> {
    fn from(raw: RawFilteredBackend<F>) -> Self {
        let RawFilteredBackend { group, kind, namespace, name, port, weight, filters } = raw;
        Self { backend: Backend { group, kind, namespace, name, port }, weight, filters }
    }
}
