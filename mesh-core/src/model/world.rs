//! Resources in, records out, incrementally: a change costs what depends on it, not what the mesh has.
//!
//! Invariants: nothing a resource says can make this fail or panic, what cannot be used is a finding; the records are
//! a function of the resources, whatever order they came in; a record is told only if it differs from what was told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use self::backends::Backends;
use self::claims::Claims;
use self::configs::SubsetLabels;
use self::credentials::Credentials;
use self::entries::{Entries, ServiceEntry, WorkloadEntry};
use self::few::Few;
use self::gateway_api::GatewayApi;
use self::keys::Keys;
use self::mesh_config::MeshConfig;
use self::namespaces::NamespaceFacts;
use self::nodes::NodeFacts;
use self::pods::PodFacts;
pub(crate) use self::pods::enrol::Wish;
pub(crate) use self::pods::is_ready;
use self::policies::{EVERYWHERE, Policies};
use self::reach::{SidecarFacts, Sidecars};
pub(crate) use self::report::Report;
use self::report::{Findings, Topic};
use self::selector::{LabelIndex, SelectorIndex, selects};
use self::services::ServiceFacts;
pub(super) use self::services::hostname;
use self::shared::Values;
use self::slices::SliceFacts;
use super::reach::ExportDefaults;
use super::{CredentialScope, MeshSettings, Record, RecordKey, ServiceKey};
use crate::id::TrustDomain;
use crate::resource::{Finding, Object, ObjectKey, Spec};
use crate::waypoint::Attachments;

mod backends;
mod claims;
mod configs;
mod credentials;
mod entries;
mod few;
mod gateway_api;
mod keys;
mod mesh_config;
mod namespaces;
mod nodes;
mod pods;
mod policies;
mod reach;
mod readers;
mod report;
mod selector;
mod services;
mod shared;
mod slices;
mod waypoints;

/// What the compiler needs to know besides the resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileOptions {
    /// The name of the node that the snapshot is for; empty where there is none (gateways).
    pub node: String,
    /// The trust domain of the certificate authority, where one is known: identities can have no other. Otherwise `MeshConfig`'s,
    /// or `cluster.local`.
    pub trust_domain: Option<TrustDomain>,
    /// The namespace of mesh-wide configuration, normally `istio-system`.
    pub root_namespace: String,
    /// The cluster's name as telemetry shows it, normally `Kubernetes`.
    pub cluster: String,
    /// Whose certificates with keys become records.
    pub credentials: CredentialScope,
}

/// All resources, boiled down, and the records they come to.
#[derive(Debug)]
pub struct World {
    options: CompileOptions,
    cluster: Arc<str>,
    mesh: MeshConfig,
    config_map: Option<Object>,
    /// Labels.
    namespaces: HashMap<Arc<str>, NamespaceFacts>,
    nodes: HashMap<Arc<str>, NodeFacts>,
    pods: HashMap<Name, PodFacts>,
    pods_by_namespace: HashMap<Arc<str>, BTreeSet<Name>>,
    pods_by_node: HashMap<Arc<str>, BTreeSet<Name>>,
    pods_by_label: LabelIndex,
    /// The newest pod owns an address.
    pod_claims: Claims<std::cmp::Reverse<(bool, Option<i64>)>>,
    services: HashMap<Name, ServiceFacts>,
    /// Of services.
    selectors: SelectorIndex<Name>,
    /// The oldest service owns an address.
    vip_claims: Claims<Option<i64>>,
    slices: HashMap<Name, SliceFacts>,
    slices_by_service: HashMap<Name, BTreeSet<Name>>,
    /// Slice and index of the endpoint.
    slices_by_ip: HashMap<IpAddr, Few<(Name, usize)>>,
    /// What was told of the addresses without a workload, by slice.
    statics: HashMap<Name, BTreeSet<Arc<str>>>,
    entries: Entries,
    attachments: Attachments,
    policies: Policies,
    sidecars: Sidecars,
    subset_labels: SubsetLabels,
    credentials: Credentials,
    gateway_api: GatewayApi,
    backends: Backends,
    keys: Keys,
    /// What many resources say alike.
    values: Values,
    findings: Findings,
    /// What was told.
    told: HashMap<RecordKey, Record>,
    /// What is to be told.
    news: BTreeMap<RecordKey, Option<Record>>,
    dirty: Dirty,
}

impl Default for CompileOptions {
    /// No node, Istio's defaults for the rest.
    fn default() -> Self {
        Self {
            node: String::new(),
            trust_domain: None,
            root_namespace: "istio-system".to_owned(),
            cluster: "Kubernetes".to_owned(),
            credentials: CredentialScope::default(),
        }
    }
}

/// A namespaced name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Name {
    namespace: Arc<str>,
    name: Arc<str>,
}

/// What has to be worked out again.
#[derive(Debug, Default)]
struct Dirty {
    mesh: bool,
    /// Scopes whose `PeerAuthentications` changed.
    peers: BTreeSet<Arc<str>>,
    services: BTreeSet<Name>,
    slices: BTreeSet<Name>,
    pods: BTreeSet<Name>,
    entries: BTreeSet<Name>,
    workload_entries: BTreeSet<Name>,
    /// Nodes whose pods may see something else.
    nodes: BTreeSet<Arc<str>>,
}

impl World {
    /// Knows no resource yet. [`CompileOptions::node`] plays no part.
    pub fn new(options: CompileOptions) -> Self {
        let mesh = mesh_config::compile(None, &options, &mut Report::default());
        Self {
            cluster: options.cluster.as_str().into(),
            attachments: Attachments::new(&options.root_namespace),
            options,
            mesh,
            config_map: None,
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            pods: HashMap::new(),
            pods_by_namespace: HashMap::new(),
            pods_by_node: HashMap::new(),
            pods_by_label: LabelIndex::default(),
            pod_claims: Claims::default(),
            services: HashMap::new(),
            selectors: SelectorIndex::default(),
            vip_claims: Claims::default(),
            slices: HashMap::new(),
            slices_by_service: HashMap::new(),
            slices_by_ip: HashMap::new(),
            statics: HashMap::new(),
            entries: Entries::default(),
            policies: Policies::default(),
            sidecars: Sidecars::default(),
            subset_labels: SubsetLabels::default(),
            credentials: Credentials::default(),
            gateway_api: GatewayApi::default(),
            backends: Backends::default(),
            keys: Keys::default(),
            values: Values::default(),
            findings: Findings::default(),
            told: HashMap::new(),
            news: BTreeMap::new(),
            dirty: Dirty { mesh: true, ..Dirty::default() },
        }
    }

    /// Adds or replaces a resource. What comes of it is told by the next [`Self::commit`].
    pub fn upsert(&mut self, object: &Object) {
        let namespace = self.values.texts.share(Arc::clone(&object.meta.namespace));
        let name = Name { namespace, name: Arc::clone(&object.meta.name) };
        let mut report = Report::default();
        self.note_attachment(object);
        match &object.spec {
            Spec::Namespace(_) => self.put_namespace(&name.name, Some(NamespaceFacts::of(&object.meta))),
            Spec::Node(node) => {
                self.put_node(&name.name, Some(NodeFacts::of(object, node, &mut report)));
            }
            Spec::Pod(pod) => {
                let facts = PodFacts::of(object, pod, (&mut self.values, &mut report));
                self.put_pod(&name, facts);
            }
            Spec::Service(service) => {
                self.put_service(&name, ServiceFacts::of(object, service, &mut report));
                self.put_config(&object.key(), Some(object));
            }
            Spec::EndpointSlice(slice) => {
                let mut facts = SliceFacts::of(object, slice, &mut report);
                facts.iter_mut().for_each(|facts| facts.share(&mut self.values));
                self.put_slice(&name, facts);
            }
            Spec::ServiceEntry(entry) => {
                self.entries.allocator.apply(object);
                entries::warn_about(object, entry, &mut report);
                self.put_service_entry(&name, Some(ServiceEntry::of(object, entry)));
            }
            Spec::WorkloadEntry(entry) => {
                self.put_workload_entry(&name, Some(WorkloadEntry::of(object, entry)));
            }
            Spec::ConfigMap(map) => {
                self.put_authorities(&name, Some(map));
                return self.put_config_map(object);
            }
            Spec::AuthorizationPolicy(_) => return self.put_authorization(&name, object.clone()),
            Spec::PeerAuthentication(_) => return self.put_peer_authentication(&name, object.clone()),
            Spec::RequestAuthentication(_) => self.put_authentication(&object.key(), Some(object)),
            Spec::Sidecar(sidecar) => {
                reach::warn_about(object, sidecar, &mut report);
                self.put_sidecar(&name, SidecarFacts::of(sidecar, object.meta.creation_timestamp));
            }
            Spec::KubernetesGateway(_) | Spec::ListenerSet(_) | Spec::ReferenceGrant(_) => {
                self.put_gateway_resource(&object.key(), Some(object));
            }
            Spec::Secret(secret) => self.put_secret(&name, Some(secret)),
            Spec::BackendTlsPolicy(_) => self.put_backend_policy(&name, Some(object)),
            _ if object.spec_json.is_some() => self.put_config(&object.key(), Some(object)),
            // A Deployment's pods are objects of their own, and a service account is only ever named.
            _ => {}
        }
        self.findings.set(&object.key(), Topic::Itself, report);
    }

    /// Takes a resource out; nothing happens if it is not there.
    pub fn remove(&mut self, key: &ObjectKey) {
        let name = Name { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) };
        self.attachments.remove(key);
        match key.kind {
            "Namespace" => self.put_namespace(&name.name, None),
            "Node" => self.put_node(&name.name, None),
            "Pod" => self.put_pod(&name, None),
            "Service" => {
                self.put_service(&name, None);
                self.put_config(key, None);
            }
            "EndpointSlice" => self.put_slice(&name, None),
            "ServiceEntry" => {
                self.entries.allocator.remove(key);
                self.put_service_entry(&name, None);
            }
            "WorkloadEntry" => self.put_workload_entry(&name, None),
            "ConfigMap" if self.config_map.as_ref().is_some_and(|map| map.key() == *key) => {
                self.config_map = None;
                self.dirty.mesh = true;
            }
            "ConfigMap" => self.put_authorities(&name, None),
            "Sidecar" => self.put_sidecar(&name, None),
            "Secret" => self.put_secret(&name, None),
            "VirtualService" | "DestinationRule" | "Gateway" | "GatewayClass" | "HTTPRoute" | "GRPCRoute"
            | "TLSRoute" | "TCPRoute" | "UDPRoute" | "RateLimit" | "HealthCheck" | "WorkloadGroup"
            | "Telemetry" => {
                self.put_config(key, None);
            }
            "RequestAuthentication" => self.put_authentication(key, None),
            "KubernetesGateway" | "ListenerSet" | "ReferenceGrant" => self.put_gateway_resource(key, None),
            "BackendTLSPolicy" => self.put_backend_policy(&name, None),
            "AuthorizationPolicy" => self.drop_authorization(&name),
            "PeerAuthentication" => self.drop_peer_authentication(&name),
            _ => {}
        }
        self.findings.drop(key);
    }

    /// Notes that `later` is another definition of the object that `earlier` defines, and is used instead.
    pub fn report_redefinition(&mut self, earlier: &Object, later: &Object) {
        let mut report = Report::default();
        let reason = format!("{} is defined again in {}, which is used instead", earlier.key(), later.origin);
        report.warning(earlier, "metadata.name", reason);
        self.findings.set(&earlier.key(), Topic::Redefinition, report);
    }

    /// Works out what the changes since the last call come to: the records that are new or different, and the keys of
    /// those that are gone. What others refer to is told before, and withdrawn after them.
    pub fn commit(&mut self) -> Vec<(RecordKey, Option<Record>)> {
        if std::mem::take(&mut self.dirty.mesh) {
            self.commit_mesh();
        }
        self.commit_readers();
        self.commit_waypoints();
        let scopes = std::mem::take(&mut self.dirty.peers);
        let all = scopes.contains(EVERYWHERE);
        for scope in scopes.iter().filter(|scope| !all || &***scope == EVERYWHERE) {
            self.recompile_peers(scope);
        }
        for name in std::mem::take(&mut self.dirty.services) {
            self.commit_service(&name);
        }
        self.give_addresses();
        // After the services of Kubernetes, which come first.
        for name in std::mem::take(&mut self.dirty.entries) {
            self.commit_entry(&name);
        }
        for name in std::mem::take(&mut self.dirty.workload_entries) {
            self.commit_workload_entry(&name);
        }
        for name in std::mem::take(&mut self.dirty.slices) {
            self.commit_slice(&name);
        }
        for name in std::mem::take(&mut self.dirty.pods) {
            self.commit_pod(&name);
        }
        let (told, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.news).into_iter().partition(|(_, record)| record.is_some());
        told.into_iter().chain(gone.into_iter().rev()).collect()
    }

    /// Everything there is to say about the resources, in the order of file names and documents.
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.all()
    }

    /// Another number whenever [`Self::findings`] may have changed.
    pub fn findings_version(&self) -> u64 {
        self.findings.version()
    }

    /// All records as they were told last, in no order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.told.values()
    }

    fn put_pod(&mut self, name: &Name, facts: Option<PodFacts>) {
        if self.pods.get(name) == facts.as_ref() {
            return;
        }
        if let Some(old) = self.pods.remove(name) {
            forget(&mut self.pods_by_namespace, &name.namespace, name);
            self.dirty.nodes.extend(old.node.clone());
            if let Some(node) = &old.node {
                forget(&mut self.pods_by_node, node, name);
            }
            self.pods_by_label.remove(name, &old.labels);
            self.claim_pod_addresses(name, &old, false);
        }
        if let Some(new) = facts {
            self.pods_by_namespace.entry(Arc::clone(&name.namespace)).or_default().insert(name.clone());
            self.dirty.nodes.extend(new.node.clone());
            if let Some(node) = &new.node {
                self.pods_by_node.entry(Arc::clone(node)).or_default().insert(name.clone());
            }
            self.pods_by_label.insert(name, &new.labels);
            self.claim_pod_addresses(name, &new, true);
            self.pods.insert(name.clone(), new);
        }
        self.dirty.pods.insert(name.clone());
    }

    /// Whoever else claims an address, or refers to it, has to be looked at again.
    fn claim_pod_addresses(&mut self, name: &Name, pod: &PodFacts, claimed: bool) {
        for ip in &pod.ips {
            if !pod.host_network {
                let rank = std::cmp::Reverse((!pod.terminating, pod.created));
                self.pod_claims.set(*ip, (rank, name.clone()), claimed);
                self.dirty.pods.extend(self.pod_claims.claimants(*ip).cloned());
                self.mark_entries_at(*ip);
            }
            let slices = self.slices_by_ip.get(ip).into_iter().flat_map(Few::iter);
            self.dirty.slices.extend(slices.map(|(slice, _)| slice.clone()));
        }
    }

    fn put_service(&mut self, name: &Name, facts: Option<ServiceFacts>) {
        if self.services.get(name) == facts.as_ref() {
            return;
        }
        self.mark_members(name);
        if let Some(old) = self.services.remove(name) {
            if let Some(selector) = &old.selector {
                self.selectors.remove(&name.namespace, selector, name);
            }
            self.claim_vips(name, &old, false);
            self.mark_rivals(&old.service);
        }
        if let Some(new) = facts {
            if let Some(selector) = &new.selector {
                self.selectors.insert(&name.namespace, Arc::clone(selector), name.clone());
            }
            self.claim_vips(name, &new, true);
            self.mark_rivals(&new.service);
            self.services.insert(name.clone(), new);
        }
        self.mark_members(name);
        self.dirty.services.insert(name.clone());
    }

    fn claim_vips(&mut self, name: &Name, service: &ServiceFacts, claimed: bool) {
        for vip in &service.service.vips {
            self.vip_claims.set(*vip, (service.created, name.clone()), claimed);
            self.dirty.services.extend(self.vip_claims.claimants(*vip).cloned());
        }
    }

    /// Marks whoever is, or could be, an endpoint of a service.
    fn mark_members(&mut self, name: &Name) {
        let slices = self.slices_by_service.get(name).cloned().unwrap_or_default();
        for slice in &slices {
            self.mark_endpoints(slice);
        }
        self.dirty.slices.extend(slices);
        self.mark_selected_by(name);
    }

    fn mark_selected_by(&mut self, name: &Name) {
        let Some(selector) = self.services.get(name).and_then(|facts| facts.selector.as_ref()) else {
            return;
        };
        let candidates = self.pods_by_label.candidates(Some(&name.namespace), selector);
        let selected =
            candidates.filter(|name| self.pods.get(name).is_some_and(|pod| selects(selector, &pod.labels)));
        self.dirty.pods.extend(selected.cloned());
        let selector = Arc::clone(selector);
        self.mark_workload_entries(&name.namespace, &selector);
    }

    fn mark_endpoints(&mut self, slice: &Name) {
        let endpoints = self.slices.get(slice).into_iter().flat_map(|slice| &slice.endpoints);
        let owners = endpoints.flat_map(|one| one.ips.iter().filter_map(|ip| self.owner_of(one, *ip)));
        let owners: Vec<_> = owners.cloned().collect();
        self.dirty.pods.extend(owners);
    }

    fn put_config_map(&mut self, object: &Object) {
        if &*object.meta.name == "istio" && *object.meta.namespace == *self.options.root_namespace {
            self.config_map = Some(object.clone());
            self.dirty.mesh = true;
        }
    }

    fn commit_mesh(&mut self) {
        let mut report = Report::default();
        let object = self.config_map.as_ref().and_then(|object| match &object.spec {
            Spec::ConfigMap(map) => Some((object, map)),
            _ => None,
        });
        let mesh = mesh_config::compile(object, &self.options, &mut report);
        if let Some((object, _)) = object {
            let key = object.key();
            self.findings.set(&key, Topic::Itself, report);
        }
        let renamed = (&mesh.trust_domain, &mesh.aliases) != (&self.mesh.trust_domain, &self.mesh.aliases);
        let exports = ExportDefaults::of(mesh.text.config()) != ExportDefaults::of(self.mesh.text.config());
        let services =
            mesh.text.config().default_service_export_to != self.mesh.text.config().default_service_export_to;
        if exports {
            self.dirty.nodes.extend(self.pods_by_node.keys().cloned());
        }
        self.mesh = mesh;
        let networks: BTreeSet<_> =
            self.nodes.values().flat_map(|node| &node.pod_networks).copied().collect();
        let settings = MeshSettings {
            trust_domain: self.mesh.trust_domain.clone(),
            trust_domain_aliases: self.mesh.aliases.clone(),
            config: self.mesh.text.clone(),
            pod_networks: networks.into_iter().collect(),
        };
        self.emit(RecordKey::Mesh, Some(Record::Mesh(Arc::new(settings))));
        if renamed || services {
            self.mark_all_entries();
        }
        if services {
            self.dirty.services.extend(self.services.keys().cloned());
        }
        if renamed {
            self.recompile_authorization();
            self.mark_namespace(EVERYWHERE);
        }
    }

    fn commit_service(&mut self, name: &Name) {
        let mut report = Report::default();
        let service = self.service(name, &mut report);
        let origin_key = ObjectKey {
            kind: "Service",
            namespace: Arc::clone(&name.namespace),
            name: Arc::clone(&name.name),
        };
        self.findings.set(&origin_key, Topic::Outcome, report);
        let hostname = hostname(&name.name, &name.namespace);
        let key = ServiceKey { namespace: Arc::clone(&name.namespace), hostname };
        let key = RecordKey::Service(Arc::new(key));
        let of_entry = |record: &Record| matches!(record, Record::Service(told) if told.entry.is_some());
        // What a ServiceEntry has in its place is told with that.
        if service.is_some() || !self.told.get(&key).is_some_and(of_entry) {
            self.emit(key, service.map(|service| Record::Service(Arc::new(service))));
        }
    }

    fn commit_slice(&mut self, name: &Name) {
        let records = self.static_endpoints(name);
        let uids: BTreeSet<_> = records.iter().map(|endpoint| Arc::clone(&endpoint.uid)).collect();
        let before = if uids.is_empty() {
            self.statics.remove(name)
        } else {
            self.statics.insert(name.clone(), uids.clone())
        };
        for gone in before.unwrap_or_default().difference(&uids) {
            self.emit(RecordKey::Workload(Arc::clone(gone)), None);
        }
        for endpoint in records {
            let key = RecordKey::Workload(Arc::clone(&endpoint.uid));
            self.emit(key, Some(Record::StaticEndpoint(Arc::new(endpoint))));
        }
    }

    fn commit_pod(&mut self, name: &Name) {
        let mut report = Report::default();
        let mut records = self.workload(name, &mut report);
        if let Some((workload, _)) = &mut records {
            workload.identity = self.values.identity(workload.identity.clone());
        }
        let uid = self.uid_of(name);
        let listed = records.as_ref().map_or(&[][..], |(workload, _)| &workload.policies);
        if *listed != *self.listed_by(&uid) {
            // Its node needs other policies.
            let node = self.pods.get(name).and_then(|pod| pod.node.clone());
            self.dirty.nodes.extend(node);
        }
        let Name { namespace, name } = name;
        let object = ObjectKey { kind: "Pod", namespace: Arc::clone(namespace), name: Arc::clone(name) };
        self.findings.set(&object, Topic::Outcome, report);
        let (workload, local) =
            records.map(|(workload, local)| (Arc::new(workload), Arc::new(local))).unzip();
        self.emit(RecordKey::LocalPod(Arc::clone(&uid)), local.map(Record::LocalPod));
        self.emit(RecordKey::Workload(uid), workload.map(Record::Workload));
    }

    /// The uid of a pod's workload.
    fn uid_of(&self, Name { namespace, name }: &Name) -> Arc<str> {
        format!("{}//Pod/{namespace}/{name}", self.cluster).into()
    }

    /// Takes note of what `key` has come to, if that is news.
    fn emit(&mut self, key: RecordKey, record: Option<Record>) {
        if self.told.get(&key) == record.as_ref() {
            return;
        }
        match &record {
            Some(record) => self.told.insert(key.clone(), record.clone()),
            None => self.told.remove(&key),
        };
        self.news.insert(key, record);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The addresses of a slice, each with the index of its endpoint.
fn addresses(slice: &SliceFacts) -> impl Iterator<Item = (usize, IpAddr)> {
    let endpoints = slice.endpoints.iter().enumerate();
    endpoints.flat_map(|(index, endpoint)| endpoint.ips.iter().map(move |ip| (index, *ip)))
}

/// Takes `member` out of its group, and the group out when it was the last.
fn forget<K: Eq + Hash, V: Ord>(groups: &mut HashMap<K, BTreeSet<V>>, group: &K, member: &V) {
    if let Some(members) = groups.get_mut(group) {
        members.remove(member);
        if members.is_empty() {
            groups.remove(group);
        }
    }
}

#[cfg(test)]
mod tests;
