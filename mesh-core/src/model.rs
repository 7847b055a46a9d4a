//! What resources compile to: one immutable [`Snapshot`] that answers "who is at this address", "where does this
//! connection go" and, through [`PolicySet`], "may it".
//!
//! A [`World`] turns resources into [`Record`]s, a [`Mirror`] turns records into snapshots. They may stand side by
//! side in one process or have a network between them.
//!
//! Invariant: compiling is a pure, deterministic function; equal resources give equal snapshots on every node, in
//! whatever order they came. Queries never scan: what a connection needs is found by hash.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

pub use self::alias::{Lead, MAX_ALIASES};
pub use self::compile::{Compiled, compile};
pub use self::config::Config;
pub use self::credential::{Asker, AskerProof, Credential, CredentialName, CredentialScope, Reader};
pub use self::mirror::Mirror;
pub use self::reach::{Exported, Reach};
pub use self::record::{MeshSettings, Record, RecordKey, TrustBundle};
pub use self::service::{
    Declared, Endpoint, EndpointId, Entry, Families, Named, Service, ServicePort, StaticEndpoint,
};
pub use self::waypoint::{NoWay, WAYPOINT_PORT, Waypoint, WaypointName};
pub use self::workload::{LocalPod, Membership, ServiceKey, Workload, WorkloadType};
pub use self::world::{CompileOptions, World};
use crate::cluster::Rules;
use crate::id::TrustDomain;
use crate::net::canonical;
use crate::policy::PolicySet;
use crate::resource::mesh_config::MeshConfig;
use crate::resource::{ObjectKey, Secret};
use crate::route::Virtuals;

mod alias;
mod cidr;
mod compile;
mod config;
mod credential;
mod mirror;
mod outside;
mod reach;
mod record;
mod service;
mod waypoint;
mod workload;
mod world;

pub(crate) use self::alias::real_name;
pub(crate) use self::world::{Report, Wish, is_ready};

/// Everything the data plane decides with, at one moment. Cheap to query, never changes; cheap to clone, because
/// snapshots share what is equal.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    loaded: bool,
    trust_domain: TrustDomain,
    trust_domain_aliases: Arc<[TrustDomain]>,
    mesh: Arc<MeshConfig>,
    node: Arc<str>,
    by_uid: HashTrieMapSync<Arc<str>, Arc<Workload>>,
    by_ip: HashTrieMapSync<IpAddr, Arc<Workload>>,
    /// Pods of this node with a network of their own, by uid.
    local: RedBlackTreeMapSync<Arc<str>, Arc<Workload>>,
    services: RedBlackTreeMapSync<Arc<ServiceKey>, Arc<Service>>,
    by_vip: HashTrieMapSync<IpAddr, Arc<Service>>,
    by_network: Arc<cidr::NetworkMap>,
    /// The namespaces of the `ServiceEntries` that have a host, sorted.
    entries_by_host: HashTrieMapSync<Arc<str>, Arc<[Arc<str>]>>,
    /// By their full names.
    aliases: HashTrieMapSync<Arc<str>, Arc<alias::Alias>>,
    /// Differs whenever hosts, ports or addresses of `ServiceEntries` do.
    entry_generation: u64,
    pod_networks: Arc<cidr::CidrSet>,
    policies: PolicySet,
    configs: RedBlackTreeMapSync<Arc<ObjectKey>, Arc<Config>>,
    /// Differs whenever [`Self::configs`] does.
    config_generation: u64,
    virtuals: Arc<Virtuals>,
    rules: Rules,
    /// Certificates with keys: for gateways, and never shown.
    credentials: RedBlackTreeMapSync<Arc<CredentialName>, Arc<Credential>>,
    /// Differs whenever [`Self::credentials`] does.
    credential_generation: u64,
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

    /// All workloads, sorted by uid. Sorts them all: for people, not for the data path.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        let mut workloads: Vec<_> = self.by_uid.values().collect();
        workloads.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
        workloads.into_iter()
    }

    /// The workload that owns `ip`. Pods in their node's network do not own their address.
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.by_ip.get(&crate::net::canonical_ip(ip))
    }

    /// The service that has `ip`, whoever sees it.
    pub(crate) fn service_at(&self, ip: IpAddr) -> Option<&Service> {
        self.by_vip.get(&crate::net::canonical_ip(ip)).map(AsRef::as_ref)
    }

    /// The workload with this [`Workload::uid`].
    pub fn workload_by_uid(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    /// The pods of this node that have a network of their own, enrolled or not, sorted by uid.
    pub fn local_pods(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.local.values()
    }

    /// All services, sorted by namespace and host name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// How many workloads there are.
    pub fn workload_count(&self) -> usize {
        self.by_uid.size()
    }

    /// How many services there are.
    pub fn service_count(&self) -> usize {
        self.services.size()
    }

    /// The service with this key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Where a connection to `dst` goes. Services come first, then workloads.
    pub fn resolve(&self, dst: SocketAddr) -> Target {
        self.resolve_among(dst, |_| true)
    }

    /// [`Self::resolve`], of the `ServiceEntries` that `sees` is true for.
    fn resolve_among(&self, dst: SocketAddr, sees: impl Fn(&Service) -> bool) -> Target {
        let dst = canonical(dst);
        let sees = |service: &Service| service.entry.is_none() || sees(service);
        if let Some(service) = self.by_vip.get(&dst.ip()).filter(|service| sees(service)) {
            let service = Arc::clone(service);
            match service.ports.iter().position(|port| port.number == dst.port()) {
                Some(port) => return Target::Service { service, port },
                // Of somebody else's address, a ServiceEntry is about some ports.
                None if service.entry.is_some() => {}
                None => return Target::ServiceWithoutPort(service),
            }
        }
        match self.place(dst) {
            // A network has somebody's address in it sooner or later, whose it stays.
            Target::External => self.in_network(dst, sees).unwrap_or(Target::External),
            place => place,
        }
    }

    /// The port of a ServiceEntry that an address of its networks leads to.
    fn in_network(&self, dst: SocketAddr, sees: impl Fn(&Service) -> bool) -> Option<Target> {
        let port_of = |service: &Service| service.ports.iter().position(|port| port.number == dst.port());
        let service =
            self.by_network.find(dst.ip(), |service| port_of(service).is_some() && sees(service))?;
        Some(Target::Service { port: port_of(service)?, service: Arc::clone(service) })
    }

    /// [`Self::resolve`] for a client of `namespace`: a ServiceEntry that it does not see leads nowhere.
    pub fn resolve_for(&self, namespace: &str, dst: SocketAddr) -> Target {
        self.resolve_among(dst, |service| service.exported.is_to(namespace))
    }

    /// What is at `dst`, a canonical address, whatever services say about it.
    pub(crate) fn place(&self, dst: SocketAddr) -> Target {
        if let Some(workload) = self.by_ip.get(&dst.ip()) {
            return Target::Workload { workload: Arc::clone(workload), addr: dst };
        }
        if self.pod_networks.contains(dst.ip()) { Target::UnknownInPodNetwork } else { Target::External }
    }

    /// The compiled policies.
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// The resources of traffic management, by kind, namespace and name.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        self.configs.values()
    }

    /// Those of [`Self::configs`] that are of this kind, as [`ObjectKey::kind`] spells it.
    pub fn configs_of(&self, kind: &'static str) -> impl Iterator<Item = &Arc<Config>> {
        let first = ObjectKey { kind, namespace: "".into(), name: "".into() };
        let from = self.configs.range(Arc::new(first)..);
        from.take_while(move |(key, _)| key.kind == kind).map(|(_, config)| config)
    }

    /// A number that differs between two snapshots of a [`Mirror`] if their [`Self::configs`] do.
    pub fn config_generation(&self) -> u64 {
        self.config_generation
    }

    /// The `VirtualServices`, compiled as far as they can be before it is known who asks.
    pub fn virtuals(&self) -> &Arc<Virtuals> {
        &self.virtuals
    }

    /// The `DestinationRules`.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The service of this full host name that a client of `namespace` sees: Kubernetes', else that of a ServiceEntry, of
    /// which its own namespace's comes first, then the first by namespace; else the one that an alias leads to.
    pub fn service_by_host(&self, host: &Arc<str>, namespace: &str) -> Option<&Arc<Service>> {
        self.service_named(host, namespace).or_else(|| self.service_by_alias(host, namespace))
    }

    /// [`Self::service_by_host`], of those that have the name themselves.
    fn service_named(&self, host: &Arc<str>, namespace: &str) -> Option<&Arc<Service>> {
        let of = |owner: &str| {
            let key = ServiceKey { namespace: owner.into(), hostname: Arc::clone(host) };
            self.services.get(&key).filter(|service| service.exported.is_to(namespace))
        };
        // A service of Kubernetes carries its namespace in its name.
        let own = host.split('.').nth(1).and_then(of).filter(|service| service.entry.is_none());
        let entries = || self.entries_by_host.get(host).into_iter().flat_map(|all| all.iter());
        own.or_else(|| entries().any(|it| **it == *namespace).then(|| of(namespace)).flatten())
            .or_else(|| entries().find_map(|owner| of(owner)))
    }

    /// The service that has a name for a client of `namespace`, which is in lower case, itself and not by an alias: else
    /// that of the ServiceEntry with the longest host that covers it, like `*.example`.
    pub fn service_by_name(&self, name: &str, namespace: &str) -> Option<&Arc<Service>> {
        let covering = || {
            let mut rest = name;
            std::iter::from_fn(move || {
                rest = rest.split_once('.')?.1;
                Some(format!("*.{rest}"))
            })
        };
        self.service_named(&name.into(), namespace).or_else(|| {
            covering()
                .filter(|host| self.entries_by_host.contains_key(host.as_str()))
                .find_map(|host| self.service_named(&host.into(), namespace))
        })
    }

    /// The Secret of this name, if this is a gateway of its namespace and a Gateway names it.
    pub fn credential(&self, namespace: &str, name: &str) -> Option<&Arc<Secret>> {
        let key = CredentialName { namespace: namespace.into(), name: name.into() };
        self.credentials.get(&key).map(|credential| &credential.secret)
    }

    /// All Secrets that this gateway was told, by namespace and name.
    pub fn credentials(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.credentials.values()
    }

    /// A number that differs between two snapshots of a [`Mirror`] if their [`Self::credentials`] do.
    pub fn credential_generation(&self) -> u64 {
        self.credential_generation
    }

    /// The trust domain of this mesh: `MeshConfig`'s, else the one given to the compiler.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Other names of the trust domain; peers of these are accepted as well. Sorted, without [`Self::trust_domain`].
    pub fn trust_domain_aliases(&self) -> &[TrustDomain] {
        &self.trust_domain_aliases
    }

    /// The settings of the mesh. The same object as long as they are the same.
    pub fn mesh(&self) -> &Arc<MeshConfig> {
        &self.mesh
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
        dump.serialize_field("workloads", &self.workloads().collect::<Vec<_>>())?;
        dump.serialize_field("services", &self.services().collect::<Vec<_>>())?;
        dump.serialize_field("policies", &self.policies)?;
        dump.end()
    }
}

#[cfg(test)]
mod tests;
