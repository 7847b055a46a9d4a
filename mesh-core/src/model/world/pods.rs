//! Pods → what is kept of them, and workloads.
//!
//! A pod is boiled down as soon as it comes: a cluster has a hundred thousand of them, and little of each matters here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use self::enrol::Wish;
use super::shared::Values;
use super::{Name, Report, World};
use crate::id::{IdError, SpiffeId};
use crate::model::{LocalPod, Workload, WorkloadType};
use crate::net::canonical_ip;
use crate::resource::{Meta, Object, Origin};

pub(super) use self::probes::valid;

pub(super) mod enrol;
mod owner;
mod probes;

/// What is kept of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts about a pod that are independent of each other")]
pub(super) struct PodFacts {
    pub(super) origin: Origin,
    pub(super) labels: Arc<BTreeMap<String, String>>,
    pub(super) node: Option<Arc<str>>,
    /// As its status reports them.
    pub(super) ips: Vec<IpAddr>,
    pub(super) host_network: bool,
    /// Being deleted.
    pub(super) terminating: bool,
    pub(super) ready: bool,
    pub(super) created: Option<i64>,
    /// Of all containers, in their order.
    pub(super) named_ports: Arc<[(Box<str>, u16)]>,
    pod_uid: Option<Arc<str>>,
    account: Arc<str>,
    owner: (Arc<str>, WorkloadType),
    names: Names,
    probe_ports: Vec<u16>,
    wish: Wish,
    inbound_bypass: bool,
    dns_bypass: bool,
}

impl PodFacts {
    /// As the API server or a file says; of a pod that a kubelet has from a file, as that says.
    pub(super) fn uid(&self) -> Option<&Arc<str>> {
        self.pod_uid.as_ref()
    }

    /// Its service account.
    pub(super) fn account(&self) -> &Arc<str> {
        &self.account
    }

    /// The name of what runs it.
    pub(super) fn owner(&self) -> &Arc<str> {
        &self.owner.0
    }

    /// `None` for a pod that has ended: its address may long belong to another.
    pub(super) fn of(
        object: &Object,
        pod: &Pod,
        (values, report): (&mut Values, &mut Report),
    ) -> Option<Self> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let meta = &object.meta;
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        if let Some(reason) = enrol::unheeded(meta, spec) {
            report.warning(object, format!("metadata.labels[\"{}\"]", enrol::MODE), reason);
        }
        let node = spec.node_name.as_deref().filter(|node| !node.is_empty());
        let (owner, kind) = owner::of(pod, meta);
        let owner = values.texts.share(owner);
        Some(Self {
            origin: object.origin.clone(),
            names: Names::of(&meta.labels, &owner, values),
            labels: values.labels.share(meta.labels.clone()),
            node: node.map(|node| values.texts.share(node)),
            ips: addresses(object, pod, report),
            host_network: spec.host_network.unwrap_or_default(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ready: is_ready(pod),
            created: meta.creation_timestamp,
            named_ports: values.ports.share(named_ports(spec)),
            pod_uid: uid_on_node(meta).map(Arc::from),
            account: values.texts.share(service_account(spec)),
            owner: (owner, kind),
            probe_ports: probes::ports(spec),
            wish: Wish::of(meta, spec),
            inbound_bypass: meta.annotations.get(INBOUND_BYPASS).is_some_and(|value| value == "true"),
            dns_bypass: meta.annotations.get(DNS_CAPTURE).is_some_and(|value| value == "false"),
        })
    }
}

impl World {
    /// The pod's records, as things are.
    pub(super) fn workload(&self, name: &Name, report: &mut Report) -> Option<(Workload, LocalPod)> {
        let pod = self.pods.get(name)?;
        let identity = match self.identity(name, pod) {
            Ok(identity) => identity,
            Err(error) => {
                let reason = format!("the pod's identity {error}");
                report.error_at(&pod.origin, "spec.serviceAccountName", reason);
                return None;
            }
        };
        let locality = pod.node.as_ref().and_then(|node| self.nodes.get(node));
        let enrolled = self.is_enrolled(name, pod);
        let (services, ready_somewhere) = self.memberships(name, pod);
        let uid: Arc<str> = format!("{}//Pod/{}/{}", self.cluster, name.namespace, name.name).into();
        let local = LocalPod {
            uid: Arc::clone(&uid),
            node: pod.node.clone().unwrap_or_default(),
            pod_uid: pod.pod_uid.clone(),
            labels: Arc::clone(&pod.labels),
            probe_ports: pod.probe_ports.clone(),
            enrolled,
            inbound_bypass: pod.inbound_bypass,
            dns_bypass: pod.dns_bypass,
        };
        let workload = Workload {
            uid,
            pod_uid: None,
            name: Arc::clone(&name.name),
            namespace: Arc::clone(&name.namespace),
            node: pod.node.clone(),
            ips: self.owned_addresses(name, pod, report),
            hostname: None,
            weight: 0,
            identity,
            enrolled: enrolled && !pod.inbound_bypass,
            labels: self.subset_labels.pick(&pod.labels),
            app: Arc::clone(&pod.names.app),
            version: Arc::clone(&pod.names.version),
            canonical_name: Arc::clone(&pod.names.canonical_name),
            canonical_revision: Arc::clone(&pod.names.canonical_revision),
            workload_name: Arc::clone(&pod.owner.0),
            workload_type: pod.owner.1,
            service_account: Arc::clone(&pod.account),
            cluster: Arc::clone(&self.cluster),
            region: locality.map(|node| Arc::clone(&node.region)).unwrap_or_default(),
            zone: locality.map(|node| Arc::clone(&node.zone)).unwrap_or_default(),
            probe_ports: Vec::new(),
            host_network: pod.host_network,
            services,
            policies: self.policies_of(name, &pod.labels),
            ready: pod.ready || ready_somewhere,
            inbound_bypass: false,
            dns_bypass: false,
            waypoint: self.waypoint_of_workload(&name.namespace, &pod.labels),
        };
        Some((workload, local))
    }

    fn identity(&self, name: &Name, pod: &PodFacts) -> Result<SpiffeId, IdError> {
        SpiffeId::new(&self.mesh.trust_domain, &name.namespace, &pod.account)
    }

    fn is_enrolled(&self, name: &Name, pod: &PodFacts) -> bool {
        // A waypoint ends tunnels itself.
        if pod.wish != Wish::Always && self.waypoint_run_by(&name.namespace, &pod.labels).is_some() {
            return false;
        }
        let labels = self.namespaces.get(&name.namespace).map(|facts| &facts.labels);
        pod.wish.is_enrolled(&name.namespace, labels, &self.options.root_namespace)
    }

    /// Two pods report the same address for a moment when it is handed on: it belongs to the newer one, unless that
    /// one is about to end.
    fn owned_addresses(&self, name: &Name, pod: &PodFacts, report: &mut Report) -> Vec<IpAddr> {
        let mut ips = pod.ips.clone();
        if pod.host_network {
            return ips;
        }
        ips.retain(|ip| match self.pod_claims.owner(*ip) {
            Some(owner) if owner != name => {
                let reason = format!("{ip} belongs to Pod {owner}, which is newer");
                report.warning_at(&pod.origin, "status.podIPs", reason);
                false
            }
            _ => true,
        });
        ips
    }
}

/// The names that telemetry groups by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) app: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) canonical_name: Arc<str>,
    pub(super) canonical_revision: Arc<str>,
}

impl Names {
    fn of(labels: &BTreeMap<String, String>, workload_name: &str, values: &mut Values) -> Self {
        let Self { app, version, canonical_name, canonical_revision } = Self::plain(labels, workload_name);
        let [app, version, canonical_name, canonical_revision] =
            [app, version, canonical_name, canonical_revision].map(|name| values.texts.share(name));
        Self { app, version, canonical_name, canonical_revision }
    }

    /// Of those few that share nothing.
    pub(super) fn plain(labels: &BTreeMap<String, String>, workload_name: &str) -> Self {
        let first = |keys: &[&str]| {
            let values = keys.iter().filter_map(|key| labels.get(*key));
            values.map(String::as_str).find(|value| !value.is_empty())
        };
        let canonical_name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
            .unwrap_or(workload_name);
        let canonical_revision =
            first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"])
                .unwrap_or("latest");
        let app = first(&["app", "app.kubernetes.io/name"]).unwrap_or(canonical_name);
        let version = first(&["version", "app.kubernetes.io/version"]).unwrap_or(canonical_revision);
        let [app, version, canonical_name, canonical_revision] =
            [app, version, canonical_name, canonical_revision].map(Arc::from);
        Self { app, version, canonical_name, canonical_revision }
    }
}

/// The uid that a kubelet knows a pod by, in cgroups and to runtimes. Of one that it has from a file, the API server only has a
/// likeness with a uid of its own.
fn uid_on_node(meta: &Meta) -> Option<&str> {
    let of_file = meta.annotations.get(MIRROR).and_then(|_| meta.annotations.get(FILE_HASH));
    of_file.map(String::as_str).or(meta.uid.as_deref())
}

fn service_account(spec: &PodSpec) -> &str {
    let named = [&spec.service_account_name, &spec.service_account].into_iter().flatten();
    named.map(String::as_str).find(|name| !name.is_empty()).unwrap_or("default")
}

/// A pod without a `Ready` condition was written by hand; an address is all that it can have to show.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.is_none_or(|condition| condition.status == "True")
}

fn named_ports(spec: &PodSpec) -> Vec<(Box<str>, u16)> {
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| Some((port.name.as_deref()?.into(), valid(port.container_port)?))).collect()
}

fn addresses(object: &Object, pod: &Pod, report: &mut Report) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let texts = status.pod_ip.iter().chain(status.pod_ips.iter().flatten().map(|ip| &ip.ip));
    let mut ips = Vec::new();
    for text in texts.filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>().map(canonical_ip) {
            Ok(ip) if ips.contains(&ip) => {}
            Ok(ip) => ips.push(ip),
            Err(_) => report.warning(object, "status.podIPs", format!("\"{text}\" is not an IP address")),
        }
    }
    ips
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const FILE_HASH: &str = "kubernetes.io/config.hash";
const INBOUND_BYPASS: &str = "ambient.istio.io/bypass-inbound-capture";
const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
