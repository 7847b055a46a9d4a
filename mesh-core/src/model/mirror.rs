//! Records in, snapshots out: what a node makes of what it is told.
//!
//! Invariants: a snapshot never changes once it is handed out, and the next one shares with it whatever did not
//! change; the cost of a record is that of what it touches, not of the mesh.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::alias::Alias;
use super::record::{MeshSettings, Record, RecordKey};
use super::service::StaticEndpoint;
use super::workload::{LocalPod, Membership, ServiceKey};
use super::{Config, Service, Snapshot, Workload};
use crate::cluster::{Defaults, DestinationRule};
use crate::gateway_api::{Grants, mesh_route};
use crate::net::canonical_ip;
use crate::policy::PolicyName;
use crate::resource::mesh_config::MeshConfig;
use crate::resource::{DestinationRuleSpec, Meta, ObjectKey, Spec, VirtualServiceSpec};
use crate::route::{self, ResourceName, VirtualService};

mod endpoints;

/// The working copy that snapshots are taken of.
#[derive(Debug, Default)]
pub struct Mirror {
    snapshot: Snapshot,
    /// As told, without what [`LocalPod`] adds.
    workloads: HashMap<Arc<str>, Arc<Workload>>,
    local_pods: HashMap<Arc<str>, Arc<LocalPod>>,
    statics: HashMap<Arc<str>, Arc<StaticEndpoint>>,
    /// As told, without endpoints.
    services: HashMap<Arc<ServiceKey>, Arc<Service>>,
    /// The uids of those who serve it.
    members: HashMap<Arc<ServiceKey>, BTreeSet<Arc<str>>>,
    /// How many of the workloads that decisions are made about list a policy.
    listed: HashMap<Arc<PolicyName>, usize>,
    /// Policies that were withdrawn while workloads still listed them: they hold until the last of those is told.
    withdrawn: BTreeSet<Arc<PolicyName>>,
    /// The addresses of names of DNS, as somebody has found them.
    addresses: HashMap<Arc<str>, Arc<[IpAddr]>>,
    /// The uids of workloads that have such a name in place of addresses.
    by_hostname: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Of which there is one each.
    settings: Vec<Record>,
    pending: Pending,
}

/// What has to be worked out again before the next snapshot.
#[derive(Debug, Default)]
struct Pending {
    services: BTreeSet<Arc<ServiceKey>>,
    workloads: BTreeSet<Arc<str>>,
    policies: bool,
    /// VirtualServices; none for those that are gone.
    virtuals: BTreeMap<ResourceName, Option<VirtualService>>,
    /// Routes of the Gateway API that are new, different or gone.
    routes: BTreeSet<Arc<ObjectKey>>,
    /// Namespaces whose `ReferenceGrants` are.
    granting: BTreeSet<Arc<str>>,
}

impl Mirror {
    /// Knows nothing yet. `node` is whose pods are local; without a name all workloads are guarded (gateways, tests).
    pub fn new(node: &str) -> Self {
        let snapshot = Snapshot { node: node.into(), ..Snapshot::default() };
        Self { snapshot, ..Self::default() }
    }

    /// Adds or replaces a record. Takes effect with the next [`Self::snapshot`].
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Workload(workload) => self.put_workload(&workload),
            Record::StaticEndpoint(endpoint) => self.put_static(endpoint),
            Record::LocalPod(pod) => {
                if self.is_local(&pod.node) {
                    self.pending.workloads.insert(Arc::clone(&pod.uid));
                    self.local_pods.insert(Arc::clone(&pod.uid), pod);
                } else {
                    // A pod of this name may have been here before.
                    self.drop_local_pod(&pod.uid);
                }
            }
            Record::Service(service) => {
                let key = Arc::new(service.key());
                self.services.insert(Arc::clone(&key), service);
                self.pending.services.insert(key);
            }
            Record::Policy(policy) => {
                self.withdrawn.remove(&policy.key());
                self.snapshot.policies.insert(policy);
                self.pending.policies = true;
            }
            Record::Config(config) => self.put_config(config),
            Record::Credential(credential) => {
                // One may come again because others are told of it now.
                let old = self.snapshot.credentials.get(&credential.name);
                if old.is_none_or(|old| old.secret != credential.secret) {
                    self.snapshot.credentials.insert_mut(Arc::clone(&credential.name), credential);
                    self.snapshot.credential_generation += 1;
                }
            }
            Record::Mesh(settings) => {
                self.set_mesh(&settings);
                self.keep(Record::Mesh(settings));
            }
            // Certificates are not looked at here.
            Record::Trust(_) => self.keep(record),
        }
    }

    /// Takes a record out; nothing happens if it is not there. Takes effect with the next [`Self::snapshot`].
    pub fn remove(&mut self, key: &RecordKey) {
        match key {
            RecordKey::Workload(uid) => {
                self.drop_workload(uid);
                self.drop_static(uid);
            }
            RecordKey::LocalPod(uid) => self.drop_local_pod(uid),
            RecordKey::Service(key) => {
                self.services.remove(key);
                self.pending.services.insert(Arc::clone(key));
            }
            RecordKey::Policy(key) => self.withdraw(key),
            RecordKey::Config(key) => {
                if self.snapshot.configs.remove_mut(key) {
                    self.drop_config(key);
                }
            }
            RecordKey::Credential(name) => {
                if self.snapshot.credentials.remove_mut(name) {
                    self.snapshot.credential_generation += 1;
                }
            }
            RecordKey::Mesh | RecordKey::Trust => {}
        }
    }

    /// The names of DNS whose addresses are wanted, sorted.
    pub fn hostnames(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_hostname.keys()
    }

    /// Takes note of the addresses that a name leads to from now on, in the order of the answer; of those that nobody
    /// wants any more, nothing is kept. Returns whether that is news. Takes effect with the next [`Self::snapshot`].
    pub fn resolved(&mut self, hostname: &Arc<str>, addresses: Vec<IpAddr>) -> bool {
        let Some(uids) = self.by_hostname.get(hostname) else { return false };
        let addresses: Arc<[IpAddr]> = addresses.into_iter().map(canonical_ip).collect();
        if self.addresses.get(hostname).is_some_and(|known| *known == addresses) {
            return false;
        }
        self.addresses.insert(Arc::clone(hostname), addresses);
        let workloads = uids.iter().filter_map(|uid| self.workloads.get(uid));
        let services = workloads.flat_map(|workload| &workload.services);
        self.pending.services.extend(services.map(|one| Arc::clone(&one.service)));
        true
    }

    /// Every key that is there, of records as they were told.
    pub fn keys(&self) -> impl Iterator<Item = RecordKey> + '_ {
        let workloads = self.workloads.keys().chain(self.statics.keys()).cloned().map(RecordKey::Workload);
        let pods = self.local_pods.keys().cloned().map(RecordKey::LocalPod);
        let services = self.services.keys().cloned().map(RecordKey::Service);
        let policies = self.snapshot.policies.policies().into_iter().map(|policy| policy.key());
        let configs = self.snapshot.configs.keys().cloned().map(RecordKey::Config);
        let policies = policies.map(RecordKey::Policy).collect::<Vec<_>>();
        let credentials = self.snapshot.credentials.keys().cloned().map(RecordKey::Credential);
        workloads.chain(pods).chain(services).chain(configs).chain(policies).chain(credentials)
    }

    /// Every record that is there, as it was told, but for credentials: whoever asks for all of them wants to keep or
    /// show them.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let policies = self.snapshot.policies.policies().into_iter().cloned().map(Record::Policy);
        let services = self.services.values().cloned().map(Record::Service);
        let pods = self.local_pods.values().cloned().map(Record::LocalPod);
        let workloads = self.workloads.values().cloned().map(Record::Workload);
        let statics = self.statics.values().cloned().map(Record::StaticEndpoint);
        let settings = self.settings.iter().cloned();
        let configs = self.snapshot.configs.values().cloned().map(Record::Config);
        settings.chain(policies).chain(configs).chain(services).chain(pods).chain(workloads).chain(statics)
    }

    /// The model as it is now.
    pub fn snapshot(&mut self) -> Snapshot {
        let pending = std::mem::take(&mut self.pending);
        let Pending { services, workloads, policies, virtuals, routes, granting } = pending;
        if !virtuals.is_empty() {
            Arc::make_mut(&mut self.snapshot.virtuals).update(virtuals);
        }
        if !routes.is_empty() || !granting.is_empty() {
            self.set_routes(routes, &granting);
        }
        let mut services = services;
        for uid in &workloads {
            self.join(uid, &mut services);
        }
        for key in &services {
            self.rebuild(key);
        }
        let guarded = if policies { self.snapshot.policies.guarded() } else { Vec::new() };
        guarded.iter().chain(&workloads).for_each(|uid| self.guard(uid));
        self.snapshot.loaded = true;
        self.snapshot.policies.set_loaded();
        self.snapshot.clone()
    }

    fn put_config(&mut self, config: Arc<Config>) {
        let meta = &config.object().meta;
        match &config.object().spec {
            Spec::DestinationRule(spec) => self.snapshot.rules.insert(Arc::new(rule_of(meta, spec))),
            Spec::VirtualService(spec) => {
                let service = virtual_service_of(meta, spec);
                self.pending.virtuals.insert(service.key(), Some(service));
            }
            // Clients in the mesh do not follow UDPRoutes.
            Spec::HttpRoute(_) | Spec::GrpcRoute(_) | Spec::TlsRoute(_) | Spec::TcpRoute(_) => {
                self.pending.routes.insert(config.key());
            }
            Spec::ReferenceGrant(_) => _ = self.pending.granting.insert(Arc::clone(&meta.namespace)),
            Spec::Service(_) => {
                let alias = Alias::of(&config).into_iter();
                alias.for_each(|(host, alias)| self.snapshot.aliases.insert_mut(host, Arc::new(alias)));
            }
            _ => {}
        }
        self.snapshot.config_generation += 1;
        self.snapshot.configs.insert_mut(config.key(), config);
    }

    fn drop_config(&mut self, key: &Arc<ObjectKey>) {
        let ObjectKey { kind, namespace, name } = &**key;
        match *kind {
            route if route.ends_with("Route") => _ = self.pending.routes.insert(Arc::clone(key)),
            "ReferenceGrant" => _ = self.pending.granting.insert(Arc::clone(namespace)),
            "Service" => {
                self.snapshot.aliases.remove_mut(&super::world::hostname(name, namespace));
            }
            "DestinationRule" => drop(self.snapshot.rules.remove(namespace, name)),
            "VirtualService" => {
                let name = ResourceName { namespace: Arc::clone(namespace), name: Arc::clone(name) };
                self.pending.virtuals.insert(name, None);
            }
            _ => {}
        }
        self.snapshot.config_generation += 1;
    }

    /// Compiles routes of the Gateway API, and those again that refer to something in the namespaces of `granting`.
    fn set_routes(&mut self, mut routes: BTreeSet<Arc<ObjectKey>>, granting: &BTreeSet<Arc<str>>) {
        routes.extend(self.snapshot.virtuals.routes_referring_to(granting));
        let first = ObjectKey { kind: "ReferenceGrant", namespace: "".into(), name: "".into() };
        let after = self.snapshot.configs.range(Arc::new(first)..).map(|(_, config)| config.object());
        let mut grants = Grants::default();
        for object in after {
            let Spec::ReferenceGrant(spec) = &object.spec else { break };
            grants.add(&object.meta.namespace, spec);
        }
        let compiled: Vec<_> = routes
            .into_iter()
            .map(|key| {
                let config = self.snapshot.configs.get(&key);
                let route = config.and_then(|config| mesh_route(config.object(), &grants));
                (key, route)
            })
            .collect();
        let virtuals = Arc::make_mut(&mut self.snapshot.virtuals);
        compiled.into_iter().for_each(|(key, route)| virtuals.set_route(&key, route));
    }

    fn keep(&mut self, record: Record) {
        self.settings.retain(|old| old.key() != record.key());
        self.settings.push(record);
    }

    fn is_local(&self, node: &str) -> bool {
        self.snapshot.node.is_empty() || *self.snapshot.node == *node
    }

    fn drop_local_pod(&mut self, uid: &Arc<str>) {
        if self.local_pods.remove(uid).is_some() {
            self.pending.workloads.insert(Arc::clone(uid));
        }
    }

    fn set_mesh(&mut self, settings: &MeshSettings) {
        self.snapshot.trust_domain = settings.trust_domain.clone();
        self.snapshot.trust_domain_aliases = settings.trust_domain_aliases.as_slice().into();
        if *self.snapshot.mesh != **settings.config.config() {
            self.set_config(settings.config.config());
        }
        self.snapshot.pod_networks = Arc::new(settings.pod_networks.iter().copied().collect());
    }

    fn set_config(&mut self, config: &Arc<MeshConfig>) {
        self.snapshot.mesh = Arc::clone(config);
        let root = Some(&*config.root_namespace).filter(|name| !name.is_empty()).unwrap_or("istio-system");
        let defaults = Defaults::new(config, root, "cluster.local");
        self.snapshot.rules.set_defaults(Arc::new(defaults));
        self.snapshot.config_generation += 1;
        self.set_route_settings(config);
    }

    /// What this says may concern every VirtualService.
    fn set_route_settings(&mut self, config: &MeshConfig) {
        let known = self.snapshot.virtuals.settings();
        let settings = route::Settings {
            export_to: config.default_virtual_service_export_to.clone(),
            retries: config.default_http_retry_policy.clone(),
            ..known.clone()
        };
        if *known == settings {
            return;
        }
        self.snapshot.virtuals = Arc::new(self.snapshot.virtuals.cleared(settings));
        let all = self.snapshot.configs.values().filter_map(|config| match &config.object().spec {
            Spec::VirtualService(spec) => Some(virtual_service_of(&config.object().meta, spec)),
            _ => None,
        });
        self.pending.virtuals.extend(all.map(|it| (it.key(), Some(it))));
    }

    fn put_workload(&mut self, workload: &Arc<Workload>) {
        self.drop_static(&workload.uid);
        let uid = Arc::clone(&workload.uid);
        let decided = self.decides_about(workload);
        for key in workload.policies.iter().filter(|_| decided) {
            *self.listed.entry(Arc::clone(key)).or_default() += 1;
        }
        let old = self.workloads.insert(Arc::clone(&uid), Arc::clone(workload));
        if let Some(old) = &old {
            self.leave(&uid, &old.services);
            self.forget_addresses(old);
            self.unlist(old);
        }
        if let Some(hostname) = &workload.hostname {
            self.by_hostname.entry(Arc::clone(hostname)).or_default().insert(Arc::clone(&uid));
        }
        self.enter(&uid, &workload.services);
        self.pending.workloads.insert(uid);
    }

    fn drop_workload(&mut self, uid: &Arc<str>) {
        let Some(old) = self.workloads.remove(uid) else { return };
        self.leave(uid, &old.services);
        self.forget_addresses(&old);
        self.unlist(&old);
        self.snapshot.by_uid.remove_mut(uid);
        self.snapshot.local.remove_mut(uid);
        self.snapshot.policies.release(uid);
    }

    fn put_static(&mut self, endpoint: Arc<StaticEndpoint>) {
        self.drop_workload(&endpoint.uid);
        self.drop_static(&endpoint.uid);
        self.enter(&endpoint.uid, &endpoint.services);
        self.statics.insert(Arc::clone(&endpoint.uid), endpoint);
    }

    fn drop_static(&mut self, uid: &Arc<str>) {
        if let Some(old) = self.statics.remove(uid) {
            self.leave(uid, &old.services);
        }
    }

    fn enter(&mut self, uid: &Arc<str>, services: &[Membership]) {
        for Membership { service, .. } in services {
            self.members.entry(Arc::clone(service)).or_default().insert(Arc::clone(uid));
            self.pending.services.insert(Arc::clone(service));
        }
    }

    fn leave(&mut self, uid: &str, services: &[Membership]) {
        for Membership { service, .. } in services {
            if let Some(members) = self.members.get_mut(service) {
                members.remove(uid);
                if members.is_empty() {
                    self.members.remove(service);
                }
            }
            self.pending.services.insert(Arc::clone(service));
        }
    }

    /// An address may have passed on to another workload already.
    fn forget_addresses(&mut self, workload: &Workload) {
        for ip in &workload.ips {
            if self.snapshot.by_ip.get(ip).is_some_and(|owner| owner.uid == workload.uid) {
                self.snapshot.by_ip.remove_mut(ip);
            }
        }
        let Some(hostname) = &workload.hostname else { return };
        let Some(uids) = self.by_hostname.get_mut(hostname) else { return };
        uids.remove(&workload.uid);
        if uids.is_empty() {
            self.by_hostname.remove(hostname);
            self.addresses.remove(hostname);
        }
    }

    fn unlist(&mut self, workload: &Workload) {
        if !self.decides_about(workload) {
            return;
        }
        for key in &workload.policies {
            let Some(count) = self.listed.get_mut(key) else { continue };
            *count -= 1;
            if *count == 0 {
                self.listed.remove(key);
                if self.withdrawn.remove(key) {
                    self.snapshot.policies.remove(key);
                    self.pending.policies = true;
                }
            }
        }
    }

    /// Without a policy that it lists a workload is closed to everybody; the word that it does not list it any more
    /// may be just behind.
    fn withdraw(&mut self, key: &Arc<PolicyName>) {
        if self.listed.contains_key(key) && self.snapshot.policies.contains(key) {
            self.withdrawn.insert(Arc::clone(key));
        } else if self.snapshot.policies.remove(key).is_some() {
            self.pending.policies = true;
        }
    }

    /// Brings the parts of a workload together, and has its services notice.
    fn join(&mut self, uid: &Arc<str>, services: &mut BTreeSet<Arc<ServiceKey>>) {
        let Some(told) = self.workloads.get(uid) else { return };
        let workload = match self.local_pods.get(uid) {
            Some(pod) => Arc::new(told.with_local(pod)),
            None => Arc::clone(told),
        };
        services.extend(workload.services.iter().map(|membership| Arc::clone(&membership.service)));
        for ip in workload.ips.iter().filter(|_| workload.owns_addresses()) {
            self.snapshot.by_ip.insert_mut(*ip, Arc::clone(&workload));
        }
        let local = !workload.host_network
            && workload.node.as_deref().is_some_and(|node| *node == *self.snapshot.node);
        if local {
            self.snapshot.local.insert_mut(Arc::clone(uid), Arc::clone(&workload));
        } else {
            self.snapshot.local.remove_mut(uid);
        }
        self.snapshot.by_uid.insert_mut(Arc::clone(uid), workload);
    }

    /// Puts a service and its endpoints together, or takes it out.
    fn rebuild(&mut self, key: &Arc<ServiceKey>) {
        if let Some(old) = self.snapshot.services.get(key).cloned() {
            self.forget_service(&old);
        }
        self.note_entry(key);
        let Some(told) = self.services.get(key) else {
            self.snapshot.services.remove_mut(key);
            return;
        };
        let mut service = Service::clone(told);
        for port in &mut service.ports {
            port.endpoints = self.endpoints(key, told, port.number, |it| &it.ports);
        }
        for port in &mut service.udp_ports {
            port.endpoints = self.endpoints(key, told, port.number, |it| &it.udp_ports);
        }
        if service.entry.is_some() {
            self.name_entry(&service, true);
        }
        let service = Arc::new(service);
        for vip in &service.vips {
            self.snapshot.by_vip.insert_mut(*vip, Arc::clone(&service));
        }
        for network in service.entry.iter().flat_map(|entry| &entry.networks) {
            Arc::make_mut(&mut self.snapshot.by_network).insert(*network, &service);
        }
        self.snapshot.services.insert_mut(Arc::clone(key), service);
    }

    /// Counts a change of what a ServiceEntry is known by, which its endpoints are not.
    fn note_entry(&mut self, key: &ServiceKey) {
        let names = |service: &Service| {
            let ports: Vec<_> = service.ports.iter().map(|port| (port.number, port.declared())).collect();
            (ports, service.has_addresses(), service.is_passthrough(), service.exported.clone())
        };
        let of = |service: Option<&Service>| service.filter(|it| it.entry.is_some()).map(names);
        let old = of(self.snapshot.services.get(key).map(|it| &**it));
        if old != of(self.services.get(key).map(|it| &**it)) {
            self.snapshot.entry_generation += 1;
        }
    }

    fn name_entry(&mut self, service: &Service, present: bool) {
        let known =
            self.snapshot.entries_by_host.get(&service.hostname).into_iter().flat_map(|all| all.iter());
        let others = known.filter(|it| **it != service.namespace).cloned();
        let mut all: Vec<_> = others.chain(present.then(|| Arc::clone(&service.namespace))).collect();
        all.sort_unstable();
        if all.is_empty() {
            self.snapshot.entries_by_host.remove_mut(&service.hostname);
        } else {
            self.snapshot.entries_by_host.insert_mut(Arc::clone(&service.hostname), all.into());
        }
    }

    fn forget_service(&mut self, service: &Service) {
        if service.entry.is_some() {
            self.name_entry(service, false);
        }
        for network in service.entry.iter().flat_map(|entry| &entry.networks) {
            Arc::make_mut(&mut self.snapshot.by_network).remove(*network, service);
        }
        for vip in &service.vips {
            let own = |owner: &Arc<Service>| {
                (&owner.namespace, &owner.hostname) == (&service.namespace, &service.hostname)
            };
            if self.snapshot.by_vip.get(vip).is_some_and(own) {
                self.snapshot.by_vip.remove_mut(vip);
            }
        }
    }

    /// Decisions are made about the workloads of this node, or about all where there is no node.
    fn decides_about(&self, workload: &Workload) -> bool {
        workload.node.as_deref().is_some_and(|node| self.is_local(node)) || self.snapshot.node.is_empty()
    }

    fn guard(&mut self, uid: &str) {
        let Some(workload) = self.snapshot.by_uid.get(uid).cloned() else { return };
        if self.decides_about(&workload) {
            self.snapshot.policies.guard(&workload);
        } else {
            self.snapshot.policies.release(uid);
        }
    }
}

fn rule_of(meta: &Meta, spec: &DestinationRuleSpec) -> DestinationRule {
    DestinationRule {
        namespace: Arc::clone(&meta.namespace),
        name: Arc::clone(&meta.name),
        created: meta.creation_timestamp,
        spec: spec.clone(),
    }
}

fn virtual_service_of(meta: &Meta, spec: &VirtualServiceSpec) -> VirtualService {
    VirtualService {
        namespace: Arc::clone(&meta.namespace),
        name: Arc::clone(&meta.name),
        created: meta.creation_timestamp,
        spec: spec.clone(),
    }
}

#[cfg(test)]
mod tests;
