//! Workloads that are no pods, and who is behind which entry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{WorkloadEntry, memberships};
use crate::id::SpiffeId;
use crate::model::world::pods::{Names, PodFacts};
use crate::model::world::{Name, Report, Topic, World};
use crate::model::{Membership, Record, RecordKey, Workload, WorkloadType};
use crate::net::canonical_ip;
use crate::resource::networking::WorkloadEntrySpec;
use crate::resource::networking::workload::Address;
use crate::resource::value::Port;
use crate::resource::{ObjectKey, Origin};

impl World {
    pub(in crate::model::world) fn commit_workload_entry(&mut self, name: &Name) {
        let uid: Arc<str> =
            format!("{}/networking.istio.io/WorkloadEntry/{}/{}", self.cluster, name.namespace, name.name)
                .into();
        let mut report = Report::default();
        let record = self.entries.workloads.get(name).and_then(|entry| {
            let place = Place { field: "spec", name, origin: &entry.origin, labels: &entry.labels };
            let services = self.services_selecting(name, entry);
            let record = self.entry_workload(&place, &entry.spec, (&uid, services), &mut report)?;
            Some(self.bound(record, &name.namespace, &entry.labels))
        });
        let (namespace, own) = (Arc::clone(&name.namespace), Arc::clone(&name.name));
        let object = ObjectKey { kind: "WorkloadEntry", namespace, name: own };
        self.findings.set(&object, Topic::Outcome, report);
        self.emit(RecordKey::Workload(uid), record);
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
        let account =
            Some(spec.service_account.as_str()).filter(|text| !text.is_empty()).unwrap_or("default");
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

/// The label by which Istio knows that somebody outside of Kubernetes ends tunnels.
const TUNNEL: &str = "networking.istio.io/tunnel";
