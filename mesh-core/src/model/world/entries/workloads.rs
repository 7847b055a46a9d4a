//! Workloads that are no pods, and who is behind which entry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{WorkloadEntry, memberships};
use crate::id::SpiffeId;
use crate::machine::{TUNNEL, account_of};
use crate::model::world::pods::{Names, PodFacts};
use crate::model::world::{Name, Report, Topic, World};
use crate::model::{LocalPod, Membership, Record, RecordKey, Workload, WorkloadType};
use crate::net::canonical_ip;
use crate::resource::networking::WorkloadEntrySpec;
use crate::resource::networking::workload::Address;
use crate::resource::value::Port;
use crate::resource::{ObjectKey, Origin};

impl World {
    pub(in crate::model::world) fn commit_workload_entry(&mut self, name: &Name) {
        let uid = self.entry_uid_of(name);
        let mut report = Report::default();
        let record = self.entries.workloads.get(name).and_then(|entry| {
            let place = Place { field: "spec", name, origin: &entry.origin, labels: &entry.labels };
            let services = self.services_selecting(name, entry);
            let record = self.entry_workload(&place, &entry.spec, (&uid, services), &mut report)?;
            Some(self.as_machine(name, entry, self.bound(record, &name.namespace, &entry.labels)))
        });
        let (record, local) = record.unwrap_or_default();
        let listed = match &record {
            Some(Record::Workload(workload)) => &workload.policies[..],
            _ => &[],
        };
        if local.is_some() || listed != self.listed_by(&uid) {
            self.dirty.nodes.insert(node_of(name));
        }
        self.emit(RecordKey::LocalPod(Arc::clone(&uid)), local.map(Record::LocalPod));
        let (namespace, own) = (Arc::clone(&name.namespace), Arc::clone(&name.name));
        let object = ObjectKey { kind: "WorkloadEntry", namespace, name: own };
        self.findings.set(&object, Topic::Outcome, report);
        self.emit(RecordKey::Workload(uid), record);
    }

    /// The uid of the workload that a WorkloadEntry is.
    pub(in crate::model::world) fn entry_uid_of(&self, Name { namespace, name }: &Name) -> Arc<str> {
        format!("{}/networking.istio.io/WorkloadEntry/{namespace}/{name}", self.cluster).into()
    }

    /// One that ends tunnels is a machine that a node of ours may serve: with the policies that select it, and with what only
    /// that node is told.
    fn as_machine(
        &self,
        name: &Name,
        entry: &WorkloadEntry,
        record: Record,
    ) -> (Option<Record>, Option<Arc<LocalPod>>) {
        let Record::Workload(workload) = &record else { return (Some(record), None) };
        let ready = entry.ready;
        if !workload.enrolled {
            let workload = Workload { ready, ..Workload::clone(workload) };
            return (Some(Record::Workload(Arc::new(workload))), None);
        }
        let node = node_of(name);
        let local = LocalPod {
            uid: Arc::clone(&workload.uid),
            node: Arc::clone(&node),
            pod_uid: None,
            labels: Arc::new(entry.labels.clone()),
            probe_ports: Vec::new(),
            enrolled: true,
            inbound_bypass: false,
            dns_bypass: false,
        };
        let policies = self.policies_of(name, &entry.labels);
        let workload = Workload { ready, node: Some(node), policies, ..Workload::clone(workload) };
        (Some(Record::Workload(Arc::new(workload))), Some(Arc::new(local)))
    }

    /// A WorkloadEntry asks for a waypoint as a pod does; what a ServiceEntry lists is of that.
    fn bound(&self, record: Record, namespace: &Arc<str>, labels: &BTreeMap<String, String>) -> Record {
        match (record, self.waypoint_of_workload(namespace, labels)) {
            (Record::Workload(workload), waypoint @ Some(_)) => {
                Record::Workload(Arc::new(Workload { waypoint, ..Workload::clone(&workload) }))
            }
            (record, _) => record,
        }
    }

    /// As for a pod, but that a name of a port is the WorkloadEntry's own.
    fn services_selecting(&self, name: &Name, entry: &WorkloadEntry) -> Vec<Membership> {
        let mut services = self.entries_selecting(&name.namespace, &entry.labels, &entry.spec.ports);
        for selected in self.selectors.matching(&name.namespace, &entry.labels) {
            let Some(facts) = self.services.get(&selected) else { continue };
            services.push(facts.membership(facts.ports_of_entry(&entry.spec.ports)));
        }
        services
    }

    /// The `ServiceEntries` that a pod is an endpoint of.
    pub(in crate::model::world) fn entries_with_pod(&self, name: &Name, pod: &PodFacts) -> Vec<Membership> {
        if pod.terminating {
            return Vec::new();
        }
        let mut all = self.entries_selecting(&name.namespace, &pod.labels, &BTreeMap::new());
        let own = pod.ips.iter().filter(|ip| !pod.host_network && self.pod_claims.owner(**ip) == Some(name));
        for ip in own {
            let listing = self.entries.by_endpoint.get(ip).into_iter().flatten();
            for (name, entry) in listing.filter_map(|name| Some((name, self.entries.services.get(name)?))) {
                let keys = self.hosts_of(name, entry, &mut Report::default());
                let here = entry.endpoint_ips().filter(|(at, _)| at == ip);
                all.extend(here.flat_map(|(_, endpoint)| memberships(&keys, &entry.ports(&endpoint.ports))));
            }
        }
        all.sort();
        all.dedup_by(|a, b| a.service == b.service);
        all
    }

    fn entries_selecting(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        ports: &BTreeMap<String, Port>,
    ) -> Vec<Membership> {
        let mut all = Vec::new();
        for name in self.entries.selectors.matching(namespace, labels) {
            let Some(entry) = self.entries.services.get(&name) else { continue };
            let keys = self.hosts_of(&name, entry, &mut Report::default());
            all.extend(memberships(&keys, &entry.ports(ports)));
        }
        all
    }

    pub(super) fn entry_workload(
        &self,
        place: &Place<'_>,
        spec: &WorkloadEntrySpec,
        (uid, mut services): (&Arc<str>, Vec<Membership>),
        report: &mut Report,
    ) -> Option<Record> {
        let Place { field, name, origin, labels } = *place;
        let account = account_of(spec);
        let identity = SpiffeId::new(&self.mesh.trust_domain, &name.namespace, account);
        let identity = identity.map_err(|error| format!("serviceAccount: the identity {error}"));
        let known = identity.and_then(|identity| Ok((identity, address_of(spec)?)));
        let (identity, (ips, hostname)) = known
            .map_err(|reason| report.warning_at(origin, field, format!("{reason}; it is left out")))
            .ok()?;
        // A pod that is listed by its address is an endpoint as itself.
        if ips.iter().any(|ip| self.pod_claims.owner(*ip).is_some()) {
            return None;
        }
        services.sort();
        let Names { app, version, canonical_name, canonical_revision } = Names::plain(labels, &name.name);
        let mut locality = spec.locality.splitn(3, '/').map(Arc::<str>::from);
        let mut part = || locality.next().unwrap_or_default();
        Some(Record::Workload(Arc::new(Workload {
            uid: Arc::clone(uid),
            pod_uid: None,
            name: Arc::clone(&name.name),
            namespace: Arc::clone(&name.namespace),
            node: None,
            ips,
            hostname,
            weight: spec.weight,
            identity,
            enrolled: labels.get(TUNNEL).is_some_and(|value| value == "http"),
            labels: labels.clone(),
            app,
            version,
            canonical_name,
            canonical_revision,
            workload_name: Arc::clone(&name.name),
            workload_type: WorkloadType::Pod,
            service_account: account.into(),
            cluster: Arc::clone(&self.cluster),
            region: part(),
            zone: part(),
            probe_ports: Vec::new(),
            host_network: false,
            services,
            policies: Vec::new(),
            ready: true,
            inbound_bypass: false,
            dns_bypass: false,
            waypoint: None,
        })))
    }
}

/// What the node that serves a WorkloadEntry is called: no node of Kubernetes has a slash in its name, so that nobody can be
/// taken for another.
pub(in crate::model::world) fn node_of(name: &Name) -> Arc<str> {
    format!("{}/{}", name.namespace, name.name).into()
}

/// Where a workload is written, for findings about it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) field: &'a str,
    pub(super) name: &'a Name,
    pub(super) origin: &'a Origin,
    pub(super) labels: &'a BTreeMap<String, String>,
}

/// Its addresses, or the name that stands for them; the error says why it has neither.
fn address_of(spec: &WorkloadEntrySpec) -> Result<(Vec<IpAddr>, Option<Arc<str>>), String> {
    match &spec.address {
        Some(Address::Ip(ip)) => Ok((vec![canonical_ip(*ip)], None)),
        Some(Address::Name(host)) => Ok((Vec::new(), Some(host.to_string().into()))),
        Some(Address::Unix(path)) => {
            Err(format!("{path} is a Unix socket, which nobody but its own host can reach"))
        }
        None => Err("has no address: gateways of other networks are not known here".to_owned()),
    }
}
