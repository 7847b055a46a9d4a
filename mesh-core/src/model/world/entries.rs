//! `ServiceEntries` and `WorkloadEntries` → services that Kubernetes does not know, and workloads that are no pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use self::workloads::Place;
use super::claims::Claims;
use super::selector::{LabelIndex, SelectorIndex, selects};
use super::{Name, Report, World};

use ipnet::IpNet;

use crate::allocate::{Allocator, Ranges};
use crate::cluster::TrafficDistribution;
use crate::machine::{HEALTH_CHECKED, account_of};
use crate::model::{
    Entry, Exported, Families, Membership, Record, RecordKey, Service, ServiceKey, ServicePort,
};
use crate::net::canonical_ip;
use crate::resource::networking::service_entry::{Location, Resolution, ServiceEntryPort};
use crate::resource::networking::workload::Address;
use crate::resource::networking::{ServiceEntrySpec, WorkloadEntrySpec};
use crate::resource::value::{Host, Port, Protocol};
use crate::resource::{Object, ObjectKey, Origin};

mod workloads;

/// All of them, and what they were told as.
#[derive(Debug)]
pub(super) struct Entries {
    /// Gives addresses to hosts without any. Who writes them into statuses gives the same.
    pub(super) allocator: Allocator,
    services: HashMap<Name, ServiceEntry>,
    workloads: HashMap<Name, WorkloadEntry>,
    by_label: LabelIndex,
    /// `workloadSelectors` of services.
    selectors: SelectorIndex<Name>,
    /// Of two with the same host in one namespace the oldest has it.
    hosts: HashMap<ServiceKey, BTreeSet<(Option<i64>, Name)>>,
    /// The oldest has an address.
    addresses: Claims<Option<i64>>,
    /// Those that list an endpoint with this address.
    by_endpoint: HashMap<IpAddr, BTreeSet<Name>>,
    /// `WorkloadEntries` with this address.
    by_address: HashMap<IpAddr, BTreeSet<Name>>,
    /// Records by the ServiceEntry that they came of.
    told: HashMap<Name, BTreeSet<RecordKey>>,
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            allocator: Allocator::new(Ranges::default()),
            services: HashMap::new(),
            workloads: HashMap::new(),
            by_label: LabelIndex::default(),
            selectors: SelectorIndex::default(),
            hosts: HashMap::new(),
            addresses: Claims::default(),
            by_endpoint: HashMap::new(),
            by_address: HashMap::new(),
            told: HashMap::new(),
        }
    }
}

/// What is kept of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceEntry {
    origin: Origin,
    created: Option<i64>,
    spec: ServiceEntrySpec,
    selector: Option<Arc<BTreeMap<String, String>>>,
    vips: Vec<IpAddr>,
    /// Those of its addresses that are more than one.
    networks: Vec<IpNet>,
    /// Its annotation: which of its endpoints are preferred.
    distribution: Option<Box<str>>,
}

/// What is kept of a WorkloadEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkloadEntry {
    origin: Origin,
    spec: WorkloadEntrySpec,
    /// Those of the object, and those of its spec, which count more.
    labels: BTreeMap<String, String>,
    /// Whether it may be sent to, as far as somebody on the machine looks.
    ready: bool,
}

/// Names what of a ServiceEntry nothing acts on.
pub(super) fn warn_about(object: &Object, spec: &ServiceEntrySpec, report: &mut Report) {
    let mut warn = |field: &str, reason: &str| report.warning(object, field, reason);
    if spec.resolution != Resolution::DynamicDns {
        return;
    }
    for (index, port) in spec.ports.iter().enumerate() {
        if port.target_port.is_some_and(|target| target != port.number) {
            let field = format!("spec.ports[{index}].targetPort");
            warn(
                &field,
                "is not used with DYNAMIC_DNS, where names are reached at the port that was asked for",
            );
        }
    }
}

fn is_address(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

impl ServiceEntry {
    pub(super) fn of(object: &Object, spec: &ServiceEntrySpec) -> Self {
        let selector = spec.workload_selector.as_ref().map(|selector| Arc::new(selector.labels.clone()));
        let networks = spec.addresses.iter().map(|subnet| subnet.get());
        let mut vips: Vec<_> =
            networks.filter(is_address).map(|network| canonical_ip(network.addr())).collect();
        vips.sort_unstable();
        vips.dedup();
        let networks = spec.addresses.iter().map(|subnet| subnet.get());
        let mut networks: Vec<_> =
            networks.filter(|network| !is_address(network)).map(|network| network.trunc()).collect();
        networks.sort_unstable();
        networks.dedup();
        let (origin, created) = (object.origin.clone(), object.meta.creation_timestamp);
        let distribution = super::services::annotated_distribution(&object.meta).map(Box::from);
        Self { origin, created, spec: spec.clone(), selector, vips, networks, distribution }
    }

    fn hosts(&self) -> impl Iterator<Item = Arc<str>> {
        self.spec.hosts.iter().map(|host| host.to_string().into())
    }

    /// What somebody who has `own` ports by name serves: the service's number and its own.
    fn ports(&self, own: &BTreeMap<String, Port>) -> Box<[(u16, u16)]> {
        let target = |port: &ServiceEntryPort| {
            let own = own.get(&port.name).copied().or(port.target_port);
            (port.number.get(), own.unwrap_or(port.number).get())
        };
        let mut ports: Vec<_> = self.carried().map(target).collect();
        ports.sort_unstable();
        ports.into()
    }

    fn endpoint_ips(&self) -> impl Iterator<Item = (IpAddr, &WorkloadEntrySpec)> {
        self.spec.endpoints.iter().filter_map(|endpoint| Some((ip_of(endpoint)?, endpoint)))
    }

    fn carried(&self) -> impl Iterator<Item = &ServiceEntryPort> {
        self.spec.ports.iter().filter(|port| port.protocol != Some(Protocol::Udp))
    }
}

impl WorkloadEntry {
    /// Its service account.
    pub(super) fn account(&self) -> &str {
        account_of(&self.spec)
    }

    pub(super) fn of(object: &Object, spec: &WorkloadEntrySpec) -> Self {
        let labels = object.meta.labels.iter().chain(&spec.labels);
        let labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
        let is_checked = object.meta.annotations.get(HEALTH_CHECKED).is_some_and(|value| value == "true");
        let ready = !is_checked || object.status.is_healthy == Some(true);
        Self { origin: object.origin.clone(), spec: spec.clone(), labels, ready }
    }
}

impl World {
    pub(super) fn put_service_entry(&mut self, name: &Name, new: Option<ServiceEntry>) {
        if self.entries.services.get(name) == new.as_ref() {
            return;
        }
        if let Some(old) = self.entries.services.remove(name) {
            self.file_entry(name, &old, false);
        }
        if let Some(new) = new {
            self.file_entry(name, &new, true);
            self.entries.services.insert(name.clone(), new);
        }
        self.dirty.entries.insert(name.clone());
    }

    /// Whoever claims the same, and whoever is selected, has to be looked at again.
    fn file_entry(&mut self, name: &Name, entry: &ServiceEntry, present: bool) {
        for hostname in entry.hosts() {
            let key = ServiceKey { namespace: Arc::clone(&name.namespace), hostname };
            let claims = self.entries.hosts.entry(key.clone()).or_default();
            let claim = (entry.created, name.clone());
            if present {
                claims.insert(claim)
            } else {
                claims.remove(&claim)
            };
            let rivals: Vec<_> = claims.iter().map(|(_, name)| name.clone()).collect();
            if rivals.is_empty() {
                self.entries.hosts.remove(&key);
            }
            rivals.iter().for_each(|rival| self.mark_entry(rival));
        }
        for vip in &entry.vips {
            self.entries.addresses.set(*vip, (entry.created, name.clone()), present);
            self.dirty.entries.extend(self.entries.addresses.claimants(*vip).cloned());
        }
        for (ip, _) in entry.endpoint_ips() {
            file(&mut self.entries.by_endpoint, ip, name, present);
            self.dirty.pods.extend(self.pod_claims.claimants(ip).cloned());
        }
        let Some(selector) = &entry.selector else { return };
        if present {
            self.entries.selectors.insert(&name.namespace, Arc::clone(selector), name.clone());
        } else {
            self.entries.selectors.remove(&name.namespace, selector, name);
        }
        self.mark_pods_and_entries(&name.namespace, selector);
    }

    fn mark_entry(&mut self, name: &Name) {
        self.dirty.entries.insert(name.clone());
        let Some(entry) = self.entries.services.get(name) else { return };
        let listed = entry.endpoint_ips().flat_map(|(ip, _)| self.pod_claims.claimants(ip).cloned());
        self.dirty.pods.extend(listed);
        if let Some(selector) = entry.selector.clone() {
            self.mark_pods_and_entries(&name.namespace, &selector);
        }
    }

    fn mark_pods_and_entries(&mut self, namespace: &str, selector: &BTreeMap<String, String>) {
        if !selector.is_empty() {
            let pods = self.pods_by_label.candidates(Some(namespace), selector).cloned();
            self.dirty.pods.extend(pods);
            self.mark_workload_entries(namespace, selector);
        }
    }

    /// The labels of the WorkloadEntry that the node of this name serves, if that is one.
    pub(super) fn machine(&self, node: &str) -> Option<(Name, &BTreeMap<String, String>)> {
        let (namespace, name) = node.split_once('/')?;
        let name = Name { namespace: namespace.into(), name: name.into() };
        let labels = &self.entries.workloads.get(&name)?.labels;
        Some((name, labels))
    }

    /// The `WorkloadEntries` of a namespace that a selector, which is not empty, selects.
    pub(super) fn machines_with<'a>(
        &'a self,
        namespace: &str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'a Name, &'a WorkloadEntry)> {
        let names = self.entries.by_label.candidates(Some(namespace), selector);
        let entries = names.filter_map(|name| Some((name, self.entries.workloads.get(name)?)));
        entries.filter(|(_, entry)| selects(selector, &entry.labels))
    }

    /// The nodes that serve `WorkloadEntries` of a namespace, or of all.
    pub(super) fn machines_of(&self, namespace: Option<&str>) -> Vec<Arc<str>> {
        let all = self.entries.workloads.keys();
        let own = all.filter(|name| namespace.is_none_or(|namespace| *name.namespace == *namespace));
        own.map(workloads::node_of).collect()
    }

    /// Marks the `WorkloadEntries` that a selector may select, of one namespace or of all.
    pub(super) fn mark_machines(&mut self, namespace: Option<&str>, selector: &BTreeMap<String, String>) {
        let entries = self.entries.by_label.candidates(namespace, selector).cloned();
        self.dirty.workload_entries.extend(entries);
    }

    /// Marks the `WorkloadEntries` of a namespace that a selector, which is not empty, may select.
    pub(super) fn mark_workload_entries(&mut self, namespace: &str, selector: &BTreeMap<String, String>) {
        let entries = self.entries.by_label.candidates(Some(namespace), selector).cloned();
        self.dirty.workload_entries.extend(entries);
    }

    pub(super) fn put_workload_entry(&mut self, name: &Name, new: Option<WorkloadEntry>) {
        if self.entries.workloads.get(name) == new.as_ref() {
            return;
        }
        if let Some(old) = self.entries.workloads.remove(name) {
            self.entries.by_label.remove(name, &old.labels);
            if let Some(ip) = ip_of(&old.spec) {
                file(&mut self.entries.by_address, ip, name, false);
            }
        }
        if let Some(new) = new {
            self.entries.by_label.insert(name, &new.labels);
            if let Some(ip) = ip_of(&new.spec) {
                file(&mut self.entries.by_address, ip, name, true);
            }
            self.entries.workloads.insert(name.clone(), new);
        }
        self.dirty.workload_entries.insert(name.clone());
    }

    /// A Service has come, gone or changed: what it has, no ServiceEntry has.
    pub(super) fn mark_rivals(&mut self, service: &Service) {
        let claims = self.entries.hosts.get(&service.key()).into_iter().flatten();
        let rivals: Vec<_> = claims.map(|(_, name)| name.clone()).collect();
        rivals.iter().for_each(|rival| self.mark_entry(rival));
        for vip in &service.vips {
            self.dirty.entries.extend(self.entries.addresses.claimants(*vip).cloned());
        }
    }

    /// A pod has got an address, or lost it: a pod is itself, whatever else is said about its address.
    pub(super) fn mark_entries_at(&mut self, ip: IpAddr) {
        let entries = self.entries.by_endpoint.get(&ip).into_iter().flatten().cloned();
        self.dirty.entries.extend(entries);
        self.dirty.entries.extend(self.entries.addresses.claimants(ip).cloned());
        let workloads = self.entries.by_address.get(&ip).into_iter().flatten().cloned();
        self.dirty.workload_entries.extend(workloads);
    }

    /// What its labels ask for may lead elsewhere now.
    pub(super) fn mark_workload_entries_of(&mut self, namespace: Option<&str>) {
        let all = self.entries.workloads.keys();
        let own = all.filter(|name| namespace.is_none_or(|namespace| *name.namespace == *namespace));
        self.dirty.workload_entries.extend(own.cloned());
    }

    /// What its namespace says of a ServiceEntry has changed.
    pub(super) fn mark_entries_of(&mut self, namespace: &str) {
        let own = self.entries.services.keys().filter(|name| *name.namespace == *namespace);
        self.dirty.entries.extend(own.cloned());
    }

    /// The mesh's settings have changed: the trust domain, or who sees what does not say.
    pub(super) fn mark_all_entries(&mut self) {
        self.dirty.entries.extend(self.entries.services.keys().cloned());
        self.dirty.workload_entries.extend(self.entries.workloads.keys().cloned());
    }

    pub(super) fn commit_entry(&mut self, name: &Name) {
        let mut report = Report::default();
        let records = self.entry_records(name, &mut report);
        let Name { namespace, name: own } = name;
        let object =
            ObjectKey { kind: "ServiceEntry", namespace: Arc::clone(namespace), name: Arc::clone(own) };
        self.findings.set(&object, super::Topic::Outcome, report);
        let keys: BTreeSet<_> = records.iter().map(Record::key).collect();
        let before = if keys.is_empty() {
            self.entries.told.remove(name)
        } else {
            self.entries.told.insert(name.clone(), keys.clone())
        };
        for gone in before.unwrap_or_default().difference(&keys) {
            if !self.has_passed_on(gone, name) {
                self.emit(gone.clone(), None);
            }
        }
        for record in records {
            self.emit(record.key(), Some(record));
        }
    }

    /// Whether a Service, or another than this ServiceEntry, has it now.
    fn has_passed_on(&self, key: &RecordKey, name: &Name) -> bool {
        let RecordKey::Service(key) = key else { return false };
        self.is_of_kubernetes(&key.hostname).is_some_and(|service| service.namespace == key.namespace)
            || self.owner_of_host(key).is_some_and(|owner| owner != name)
    }

    fn is_of_kubernetes(&self, hostname: &str) -> Option<&Name> {
        let (name, namespace) = hostname.strip_suffix(".svc.cluster.local")?.split_once('.')?;
        let name = Name { namespace: namespace.into(), name: name.into() };
        self.services.get_key_value(&name).map(|(name, _)| name)
    }

    fn owner_of_host(&self, key: &ServiceKey) -> Option<&Name> {
        self.entries.hosts.get(key)?.first().map(|(_, name)| name)
    }

    fn entry_records(&self, name: &Name, report: &mut Report) -> Vec<Record> {
        let Some(entry) = self.entries.services.get(name) else { return Vec::new() };
        let keys = self.hosts_of(name, entry, report);
        let services = keys.iter().enumerate().map(|(index, key)| {
            let (vips, networks) = match index {
                _ if entry.spec.addresses.is_empty() => (self.given(name, &key.hostname), Vec::new()),
                0 => (self.vips_of(name, entry, report), entry.networks.clone()),
                // Which of several was meant is not to be seen from an address.
                _ => (Vec::new(), Vec::new()),
            };
            Record::Service(Arc::new(self.entry_service((name, entry), key, (vips, networks))))
        });
        let mut records: Vec<_> = services.collect();
        let listed = entry.spec.endpoints.iter().enumerate().map(|(index, endpoint)| {
            let field = format!("spec.endpoints[{index}]");
            let place = Place { field: &field, name, origin: &entry.origin, labels: &endpoint.labels };
            let ports = entry.ports(&endpoint.ports);
            self.entry_workload(
                &place,
                endpoint,
                (&self.entry_uid(name, endpoint), memberships(&keys, &ports)),
                report,
            )
        });
        records.extend(listed.flatten());
        let by_name = matches!(entry.spec.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if by_name && entry.spec.endpoints.is_empty() && entry.selector.is_none() {
            records.extend(keys.iter().filter_map(|key| self.host_workload((name, entry), key, report)));
        }
        records
    }

    /// The hosts that are really this one's.
    fn hosts_of(&self, name: &Name, entry: &ServiceEntry, report: &mut Report) -> Vec<Arc<ServiceKey>> {
        let mut keys = Vec::new();
        for hostname in entry.hosts() {
            let key = ServiceKey { namespace: Arc::clone(&name.namespace), hostname };
            if self.is_of_kubernetes(&key.hostname).is_some() {
                let reason = format!("{} is a Service, and stays what it is", key.hostname);
                report.warning_at(&entry.origin, "spec.hosts", reason);
                continue;
            }
            match self.owner_of_host(&key) {
                Some(owner) if owner != name => {
                    let reason = format!("{} belongs to ServiceEntry {owner}, which is older", key.hostname);
                    report.warning_at(&entry.origin, "spec.hosts", reason);
                }
                _ if keys.iter().any(|known: &Arc<ServiceKey>| **known == key) => {}
                _ => keys.push(Arc::new(key)),
            }
        }
        keys
    }

    /// The addresses that a host was given because it has none.
    fn given(&self, Name { namespace, name }: &Name, host: &str) -> Vec<IpAddr> {
        let (namespace, name) = (Arc::clone(namespace), Arc::clone(name));
        let key = ObjectKey { kind: "ServiceEntry", namespace, name };
        let grant = self.entries.allocator.of(&key).map(|(grant, _)| &grant.addresses);
        let own =
            grant.into_iter().flatten().filter(|it| matches!(&it.host, Host::Name(name) if **name == *host));
        let mut own: Vec<_> = own.map(|it| it.value).collect();
        own.sort_unstable();
        own
    }

    /// Whom other addresses than before are given to has to be looked at again.
    pub(super) fn give_addresses(&mut self) {
        for ObjectKey { namespace, name, .. } in self.entries.allocator.settle() {
            self.dirty.entries.insert(Name { namespace, name });
        }
    }

    fn vips_of(&self, name: &Name, entry: &ServiceEntry, report: &mut Report) -> Vec<IpAddr> {
        let mut vips = entry.vips.clone();
        vips.retain(|vip| {
            let pod = self.pod_claims.owner(*vip).map(|owner| format!("Pod {owner}"));
            let service = self.vip_claims.owner(*vip).map(|owner| format!("Service {owner}")).or(pod);
            let other = self.entries.addresses.owner(*vip).filter(|owner| *owner != name);
            let other =
                service.or_else(|| other.map(|owner| format!("ServiceEntry {owner}, which is older")));
            if let Some(other) = &other {
                let reason = format!("{vip} belongs to {other}");
                report.warning_at(&entry.origin, "spec.addresses", reason);
            }
            other.is_none()
        });
        vips
    }

    fn entry_service(
        &self,
        (name, entry): (&Name, &ServiceEntry),
        key: &Arc<ServiceKey>,
        (vips, networks): (Vec<IpAddr>, Vec<IpNet>),
    ) -> Service {
        let port = |port: &ServiceEntryPort| ServicePort {
            number: port.number.get(),
            name: Some(port.name.as_str().into()),
            app_protocol: port.protocol.and_then(Protocol::app_protocol).map(Arc::from),
            tls: None,
            endpoints: Vec::new(),
        };
        let spec = &entry.spec;
        let exported = &self.mesh.text.config().default_service_export_to;
        Service {
            namespace: Arc::clone(&name.namespace),
            name: Arc::clone(&key.hostname),
            hostname: Arc::clone(&key.hostname),
            headless: vips.is_empty(),
            vips,
            ports: entry.carried().map(port).collect(),
            udp_ports: Vec::new(),
            session_affinity: None,
            local_only: false,
            traffic_distribution: match &entry.distribution {
                Some(text) => TrafficDistribution::parse(text),
                None => self.distribution_in(&name.namespace),
            },
            publish_not_ready: false,
            families: Families::Any,
            exported: Exported::of(&spec.export_to, exported, &name.namespace),
            entry: Some(Arc::new(Entry {
                name: Arc::clone(&name.name),
                external: spec.location == Location::MeshExternal,
                passthrough: spec.resolution == Resolution::None,
                dynamic: spec.resolution == Resolution::DynamicDns,
                networks,
                first_address_only: spec.resolution == Resolution::DnsRoundRobin,
                subject_alt_names: spec.subject_alt_names.iter().map(|name| name.as_str().into()).collect(),
            })),
            waypoint: self.waypoint_of("ServiceEntry", name),
        }
    }

    fn entry_uid(&self, Name { namespace, name }: &Name, endpoint: &WorkloadEntrySpec) -> Arc<str> {
        let address = endpoint.address.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{}/networking.istio.io/ServiceEntry/{namespace}/{name}/{address}", self.cluster).into()
    }

    /// A host of which nothing else is known is where its name leads.
    fn host_workload(
        &self,
        (name, entry): (&Name, &ServiceEntry),
        key: &Arc<ServiceKey>,
        report: &mut Report,
    ) -> Option<Record> {
        let address = Some(Address::Name(Host::Name(Arc::clone(&key.hostname))));
        let endpoint = WorkloadEntrySpec { address, ..WorkloadEntrySpec::default() };
        if key.hostname.starts_with('*') {
            return None;
        }
        let place = Place { field: "spec.hosts", name, origin: &entry.origin, labels: &endpoint.labels };
        let memberships = memberships(std::slice::from_ref(key), &entry.ports(&BTreeMap::new()));
        self.entry_workload(&place, &endpoint, (&self.entry_uid(name, &endpoint), memberships), report)
    }
}

fn ip_of(spec: &WorkloadEntrySpec) -> Option<IpAddr> {
    match spec.address {
        Some(Address::Ip(ip)) => Some(canonical_ip(ip)),
        _ => None,
    }
}

fn file(index: &mut HashMap<IpAddr, BTreeSet<Name>>, ip: IpAddr, name: &Name, present: bool) {
    if present {
        index.entry(ip).or_default().insert(name.clone());
    } else {
        super::forget(index, &ip, name);
    }
}

fn memberships(keys: &[Arc<ServiceKey>], ports: &[(u16, u16)]) -> Vec<Membership> {
    let one = |key: &Arc<ServiceKey>| Membership {
        service: Arc::clone(key),
        ports: ports.into(),
        udp_ports: Box::default(),
    };
    keys.iter().map(one).collect()
}
