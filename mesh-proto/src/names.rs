//! What resources and their types are called on the wire.

use std::sync::Arc;

use mesh_core::model::{CredentialName, RecordKey, ServiceKey};
use mesh_core::policy::PolicyName;
use mesh_core::resource::{ObjectKey, ServedKind};

/// A type of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// [`crate::mesh::TrustBundle`].
    Trust,
    /// [`crate::mesh::Mesh`].
    Mesh,
    /// [`crate::security::Authorization`].
    Authorization,
    /// [`crate::mesh::Credential`]: for gateways only.
    Credential,
    /// [`crate::mesh::Config`].
    Config,
    /// [`crate::mesh::LocalPod`].
    LocalPod,
    /// [`crate::workload::Address`]: workloads and services.
    Address,
}

impl ResourceType {
    /// All of them, in the order in which a node should be told.
    pub const ALL: [Self; 7] = [
        Self::Trust,
        Self::Mesh,
        Self::Authorization,
        Self::Credential,
        Self::Config,
        Self::LocalPod,
        Self::Address,
    ];

    /// The type's URL.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Trust => "type.googleapis.com/mesh.discovery.v1.TrustBundle",
            Self::Mesh => "type.googleapis.com/mesh.discovery.v1.Mesh",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
            Self::Credential => "type.googleapis.com/mesh.discovery.v1.Credential",
            Self::Config => "type.googleapis.com/mesh.discovery.v1.Config",
            Self::LocalPod => "type.googleapis.com/mesh.discovery.v1.LocalPod",
            Self::Address => "type.googleapis.com/istio.workload.Address",
        }
    }

    /// The type with this URL.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// The type that a record with this key travels as.
    pub const fn of(key: &RecordKey) -> Self {
        match key {
            RecordKey::Trust => Self::Trust,
            RecordKey::Mesh => Self::Mesh,
            RecordKey::Policy(_) => Self::Authorization,
            RecordKey::Credential(_) => Self::Credential,
            RecordKey::Config(_) => Self::Config,
            RecordKey::LocalPod(_) => Self::LocalPod,
            RecordKey::Service(_) | RecordKey::Workload(_) => Self::Address,
        }
    }
}

/// The name that the record with this key has among those of its type.
pub fn name(key: &RecordKey) -> Arc<str> {
    match key {
        RecordKey::Trust => TRUST.into(),
        RecordKey::Mesh => MESH.into(),
        RecordKey::Policy(name) => name.to_string().into(),
        RecordKey::Credential(name) => name.to_string().into(),
        RecordKey::Config(key) => format!("{}/{}/{}", key.kind, key.namespace, key.name).into(),
        RecordKey::Service(key) => key.to_string().into(),
        RecordKey::LocalPod(uid) | RecordKey::Workload(uid) => Arc::clone(uid),
    }
}

/// The key behind a name; `None` if nothing of this type can have it.
pub fn key(kind: ResourceType, name: &str) -> Option<RecordKey> {
    Some(match kind {
        ResourceType::Trust if name == TRUST => RecordKey::Trust,
        ResourceType::Mesh if name == MESH => RecordKey::Mesh,
        ResourceType::Trust | ResourceType::Mesh => return None,
        ResourceType::Config => {
            let (kind, rest) = name.split_once('/')?;
            let (namespace, name) = rest.split_once('/')?;
            let kind = ServedKind::all().map(ServedKind::key).find(|known| *known == kind)?;
            RecordKey::Config(Arc::new(ObjectKey { kind, namespace: namespace.into(), name: name.into() }))
        }
        ResourceType::Credential => {
            let (namespace, name) = name.split_once('/')?;
            let name = CredentialName { namespace: namespace.into(), name: name.into() };
            RecordKey::Credential(Arc::new(name))
        }
        ResourceType::LocalPod => RecordKey::LocalPod(name.into()),
        ResourceType::Authorization => {
            let (namespace, name) = name.split_once('/')?;
            RecordKey::Policy(Arc::new(PolicyName { namespace: namespace.into(), name: name.into() }))
        }
        // A workload's uid has more slashes: neither namespaces nor host names have any.
        ResourceType::Address => match name.split_once('/')? {
            (_, rest) if rest.contains('/') => RecordKey::Workload(name.into()),
            (namespace, hostname) => RecordKey::Service(Arc::new(ServiceKey {
                namespace: namespace.into(),
                hostname: hostname.into(),
            })),
        },
    })
}

/// The field of a subscriber's metadata by which a gateway says which it is: `NAMESPACE/NAME`.
pub const GATEWAY: &str = "GATEWAY";
/// The field by which a machine says which WorkloadGroup, of the namespace in `NAMESPACE`, it is one of; Istio's name.
pub const GROUP: &str = "AUTO_REGISTER_GROUP";
/// The field with its address; Istio's name.
pub const INSTANCE_IPS: &str = "INSTANCE_IPS";
/// The field with the network of that; Istio's name.
pub const NETWORK: &str = "NETWORK";
/// The type of messages in which a machine says how its own probe went, in the place of a request for resources: well, or
/// why not in `error_detail`. Istio's name.
pub const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";
/// What a response has for its `system_version_info` while more of the same is on its way.
pub const PARTIAL: &str = "partial";
/// There is one bundle.
const TRUST: &str = "trust";
/// There is one mesh.
const MESH: &str = "mesh";
/// What the host name of a waypoint begins with that nothing may be sent to.
pub(crate) const REFUSED: &str = "refused.";
/// Extension of workloads that carries [`crate::mesh::WorkloadDetails`].
pub(crate) const WORKLOAD_DETAILS: &str = "mesh/workload";
/// Extension of services that carries [`crate::mesh::ServiceDetails`].
pub(crate) const SERVICE_DETAILS: &str = "mesh/service";
