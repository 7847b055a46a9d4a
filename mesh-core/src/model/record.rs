//! What the model is made of while it travels: between the compiler and a [`super::Mirror`], in one process or over
//! the wire.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::service::StaticEndpoint;
use super::workload::{LocalPod, ServiceKey};
use super::{Config, Credential, CredentialName, Service, Workload};
use crate::id::TrustDomain;
use crate::policy::{Policy, PolicyName};
use crate::resource::ObjectKey;
use crate::resource::mesh_config::MeshText;

/// One piece of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A workload, without what only its own node needs.
    Workload(Arc<Workload>),
    /// What a workload's own node needs besides.
    LocalPod(Arc<LocalPod>),
    /// An address without a workload.
    StaticEndpoint(Arc<StaticEndpoint>),
    /// A service, without endpoints.
    Service(Arc<Service>),
    /// A policy.
    Policy(Arc<Policy>),
    /// A resource of traffic management.
    Config(Arc<Config>),
    /// A certificate with its key, for gateways.
    Credential(Arc<Credential>),
    /// The mesh's settings.
    Mesh(Arc<MeshSettings>),
    /// What peers' certificates are checked against.
    Trust(Arc<TrustBundle>),
}

/// What makes a [`Record`] unique. Ordered as records have to be told: what others refer to comes first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKey {
    /// There is one.
    Trust,
    /// There is one.
    Mesh,
    /// By [`Policy::key`].
    Policy(Arc<PolicyName>),
    /// By [`Credential::name`].
    Credential(Arc<CredentialName>),
    /// By [`Config::key`].
    Config(Arc<ObjectKey>),
    /// By [`Service::key`].
    Service(Arc<ServiceKey>),
    /// By [`LocalPod::uid`].
    LocalPod(Arc<str>),
    /// By [`Workload::uid`] or [`StaticEndpoint::uid`].
    Workload(Arc<str>),
}

/// What holds for the whole mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshSettings {
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Its other names, sorted, without itself.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// `MeshConfig`.
    pub config: MeshText,
    /// The networks that pods get their addresses from, sorted.
    pub pod_networks: Vec<IpNet>,
}

/// The roots of the mesh and what was revoked under them. The model carries it and looks at nothing in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// PEM.
    pub roots: Arc<str>,
    /// PEM; empty where nothing is.
    pub crls: Arc<str>,
}

impl Record {
    /// What makes it unique.
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Workload(workload) => RecordKey::Workload(Arc::clone(&workload.uid)),
            Self::LocalPod(pod) => RecordKey::LocalPod(Arc::clone(&pod.uid)),
            Self::StaticEndpoint(endpoint) => RecordKey::Workload(Arc::clone(&endpoint.uid)),
            Self::Service(service) => RecordKey::Service(Arc::new(service.key())),
            Self::Policy(policy) => RecordKey::Policy(policy.key()),
            Self::Config(config) => RecordKey::Config(config.key()),
            Self::Credential(credential) => RecordKey::Credential(Arc::clone(&credential.name)),
            Self::Mesh(_) => RecordKey::Mesh,
            Self::Trust(_) => RecordKey::Trust,
        }
    }

    /// The addresses that a client may ask for it by.
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Workload(workload) if !workload.host_network => &workload.ips,
            Self::StaticEndpoint(endpoint) => std::slice::from_ref(&endpoint.ip),
            Self::Service(service) => &service.vips,
            _ => &[],
        }
    }
}
