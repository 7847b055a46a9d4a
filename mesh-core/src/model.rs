//! What resources compile to: one immutable [`Snapshot`] that answers "who is at this address", "where does this
//! connection go" and, through [`PolicySet`], "may it".
//!
//! Invariant: compiling is a pure, deterministic function; equal resources give equal snapshots on every node.
//! Queries never scan: what a connection needs is found by hash.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

pub use self::compile::{CompileOptions, Compiled, compile};
pub use self::service::{Endpoint, EndpointId, Service, ServicePort};
pub use self::workload::{Workload, WorkloadType};
use crate::id::TrustDomain;
use crate::net::canonical;
use crate::policy::PolicySet;

mod cidr;
mod compile;
mod service;
mod workload;

pub(crate) use self::compile::{Report, SelectorIndex};

/// Everything the data plane decides with, at one moment. Cheap to query, never changes.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    loaded: bool,
    trust_domain: TrustDomain,
    trust_domain_aliases: Vec<TrustDomain>,
    access_log_file: Option<Arc<str>>,
    node: Arc<str>,
    /// Sorted by uid.
    workloads: Vec<Arc<Workload>>,
    by_ip: HashMap<IpAddr, Arc<Workload>>,
    by_uid: HashMap<Arc<str>, Arc<Workload>>,
    /// Sorted by (namespace, name).
    services: Vec<Arc<Service>>,
    by_vip: HashMap<IpAddr, Arc<Service>>,
    by_vip_port: HashMap<(IpAddr, u16), (Arc<Service>, usize)>,
    pod_network: cidr::CidrSet,
    policies: PolicySet,
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To an endpoint of `service.ports[port]`.
    Service {
        /// The service that owns the address.
        service: Arc<Service>,
        /// Index into [`Service::ports`].
        port: usize,
    },
    /// The address is a service's, the port is not: nothing listens there.
    ServiceWithoutPort(Arc<Service>),
    /// To this workload itself, without a service.
    Workload {
        /// The owner of the address.
        workload: Arc<Workload>,
        /// The destination in canonical form.
        addr: SocketAddr,
    },
    /// Inside the pods' network, but no workload that is known: a pod that is too new or just gone. Nobody can tell
    /// whether it is enrolled.
    UnknownInPodNetwork,
    /// Outside of everything the mesh knows.
    External,
}

impl Snapshot {
    /// Whether this was compiled from something. Until then, nothing may be decided with it.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// All workloads, sorted by uid.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// The workload that owns `ip`. Pods in their node's network do not own their address.
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.by_ip.get(&crate::net::canonical_ip(ip))
    }

    /// The workload with this [`Workload::uid`].
    pub fn workload_by_uid(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    /// The pods of this node that have a network of their own, enrolled or not, sorted by uid.
    pub fn local_pods(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter().filter(|pod| !pod.host_network && pod.node.as_deref() == Some(&*self.node))
    }

    /// All services, sorted by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// The service with this namespace and name.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        let key = |service: &Arc<Service>| (&*service.namespace, &*service.name).cmp(&(namespace, name));
        self.services.get(self.services.binary_search_by(key).ok()?)
    }

    /// Where a connection to `dst` goes. Services come first, then workloads.
    pub fn resolve(&self, dst: SocketAddr) -> Target {
        let dst = canonical(dst);
        if let Some((service, port)) = self.by_vip_port.get(&(dst.ip(), dst.port())) {
            return Target::Service { service: Arc::clone(service), port: *port };
        }
        if let Some(service) = self.by_vip.get(&dst.ip()) {
            return Target::ServiceWithoutPort(Arc::clone(service));
        }
        if let Some(workload) = self.by_ip.get(&dst.ip()) {
            return Target::Workload { workload: Arc::clone(workload), addr: dst };
        }
        if self.pod_network.contains(dst.ip()) { Target::UnknownInPodNetwork } else { Target::External }
    }

    /// The compiled policies.
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// The trust domain of this mesh: `MeshConfig`'s, else the one given to the compiler.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Other names of the trust domain; peers of these are accepted as well. Sorted, without [`Self::trust_domain`].
    pub fn trust_domain_aliases(&self) -> &[TrustDomain] {
        &self.trust_domain_aliases
    }

    /// `MeshConfig`'s `accessLogFile`, if it is set and not empty.
    pub fn access_log_file(&self) -> Option<&str> {
        self.access_log_file.as_deref()
    }
}

/// The form of the admin interface's `/config_dump`.
impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut dump = serializer.serialize_struct("Snapshot", 7)?;
        dump.serialize_field("loaded", &self.loaded)?;
        dump.serialize_field("node", &self.node)?;
        dump.serialize_field("trust_domain", &self.trust_domain)?;
        dump.serialize_field("trust_domain_aliases", &self.trust_domain_aliases)?;
        dump.serialize_field("workloads", &self.workloads)?;
        dump.serialize_field("services", &self.services)?;
        dump.serialize_field("policies", &self.policies)?;
        dump.end()
    }
}

#[cfg(test)]
mod tests;
