//! Pods → workloads.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{CompileOptions, Inputs, Report};
use crate::id::{SpiffeId, TrustDomain};
use crate::model::Workload;
use crate::net::canonical_ip;
use crate::resource::Object;

pub(super) use self::probes::{number, valid};

mod enrol;
mod owner;
mod probes;

/// The workloads on their way to becoming immutable.
pub(super) struct Pods<'a> {
    /// Sorted by uid.
    pub(super) workloads: Vec<Workload>,
    /// The pod of each workload, for what services need of it.
    pub(super) sources: Vec<&'a Pod>,
    /// Which workload owns an address.
    pub(super) by_ip: HashMap<IpAddr, usize>,
    /// Which workload is (namespace, name).
    pub(super) by_name: HashMap<(&'a str, &'a str), usize>,
}

/// What telemetry wants to know about a node.
#[derive(Default)]
struct Locality<'a> {
    region: &'a str,
    zone: &'a str,
}

pub(super) fn compile<'a>(
    inputs: &Inputs<'a>,
    options: &CompileOptions,
    trust_domain: &TrustDomain,
    report: &mut Report,
) -> Pods<'a> {
    let localities: HashMap<&str, Locality<'_>> =
        inputs.nodes.iter().map(|(node, _)| (&*node.meta.name, locality(node))).collect();
    let compiler =
        Compiler { inputs, options, trust_domain, localities, cluster: options.cluster.as_str().into() };
    // Sorted by (namespace, name), which is not quite the order of uids: `/` sorts after `-` and `.`.
    let mut pods: Vec<_> = inputs
        .pods
        .iter()
        .filter(|(_, pod)| !has_ended(pod))
        .filter_map(|(object, pod)| Some((compiler.workload(object, pod, report)?, *object, *pod)))
        .collect();
    pods.sort_by(|(a, ..), (b, ..)| a.uid.cmp(&b.uid));
    let by_name = pods.iter().enumerate();
    let by_name =
        by_name.map(|(i, (_, object, _))| ((&*object.meta.namespace, &*object.meta.name), i)).collect();
    let by_ip = owners_of_addresses(&pods, report);
    let (workloads, sources) = pods.into_iter().map(|(workload, _, pod)| (workload, pod)).unzip();
    Pods { workloads, sources, by_ip, by_name }
}

struct Compiler<'a, 'b> {
    inputs: &'b Inputs<'a>,
    options: &'b CompileOptions,
    trust_domain: &'b TrustDomain,
    localities: HashMap<&'a str, Locality<'a>>,
    cluster: Arc<str>,
}

impl Compiler<'_, '_> {
    fn workload(&self, object: &Object, pod: &Pod, report: &mut Report) -> Option<Workload> {
        let meta = &object.meta;
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let account = service_account(spec);
        let identity = match SpiffeId::new(self.trust_domain, &meta.namespace, account) {
            Ok(identity) => identity,
            Err(error) => {
                report.error(object, "spec.serviceAccountName", format!("the pod's identity {error}"));
                return None;
            }
        };
        let node = spec.node_name.as_deref().filter(|node| !node.is_empty());
        let unknown = Locality::default();
        let locality = node.and_then(|node| self.localities.get(node)).unwrap_or(&unknown);
        let (workload_name, workload_type) = owner::of(pod, meta);
        let names = Names::of(&meta.labels, &workload_name);
        Some(Workload {
            uid: format!("{}//Pod/{}/{}", self.cluster, meta.namespace, meta.name).into(),
            name: Arc::clone(&meta.name),
            namespace: Arc::clone(&meta.namespace),
            node: node.map(Arc::from),
            ips: addresses(object, pod, report),
            identity,
            enrolled: enrol::is_enrolled(object, spec, self.inputs, &self.options.root_namespace),
            labels: meta.labels.clone(),
            app: names.app.into(),
            version: names.version.into(),
            canonical_name: names.canonical_name.into(),
            canonical_revision: names.canonical_revision.into(),
            workload_name,
            workload_type,
            service_account: account.into(),
            cluster: Arc::clone(&self.cluster),
            region: locality.region.into(),
            zone: locality.zone.into(),
            probe_ports: probes::ports(spec),
            host_network: spec.host_network.unwrap_or_default(),
            services: Vec::new(),
            pod_uid: meta.uid.as_deref().map(Arc::from),
            inbound_bypass: meta.annotations.get(INBOUND_BYPASS).is_some_and(|value| value == "true"),
        })
    }
}

/// The names that telemetry groups by.
struct Names<'a> {
    app: &'a str,
    version: &'a str,
    canonical_name: &'a str,
    canonical_revision: &'a str,
}

impl<'a> Names<'a> {
    fn of(labels: &'a BTreeMap<String, String>, workload_name: &'a str) -> Self {
        let first = |keys: &[&str]| {
            let values = keys.iter().filter_map(|key| labels.get(*key));
            values.map(String::as_str).find(|value| !value.is_empty())
        };
        let canonical_name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
            .unwrap_or(workload_name);
        let canonical_revision =
            first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"])
                .unwrap_or("latest");
        Self {
            app: first(&["app", "app.kubernetes.io/name"]).unwrap_or(canonical_name),
            version: first(&["version", "app.kubernetes.io/version"]).unwrap_or(canonical_revision),
            canonical_name,
            canonical_revision,
        }
    }
}

/// An ended pod's address may long belong to another.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn service_account(spec: &PodSpec) -> &str {
    let named = [&spec.service_account_name, &spec.service_account].into_iter().flatten();
    named.map(String::as_str).find(|name| !name.is_empty()).unwrap_or("default")
}

fn locality(node: &Object) -> Locality<'_> {
    let label = |key| node.meta.labels.get(key).map_or("", String::as_str);
    Locality { region: label("topology.kubernetes.io/region"), zone: label("topology.kubernetes.io/zone") }
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

/// Two pods report the same address for a moment when it is handed on: it belongs to the newer one, unless that one
/// is about to end.
fn owners_of_addresses(pods: &[(Workload, &Object, &Pod)], report: &mut Report) -> HashMap<IpAddr, usize> {
    let mut owners: HashMap<IpAddr, usize> = HashMap::with_capacity(pods.len());
    let rank = |index: usize| {
        let (_, object, pod) = pods[index];
        (pod.metadata.deletion_timestamp.is_none(), object.meta.creation_timestamp)
    };
    for (index, (workload, ..)) in pods.iter().enumerate().filter(|(_, (pod, ..))| !pod.host_network) {
        for ip in &workload.ips {
            let Some(&rival) = owners.get(ip) else {
                owners.insert(*ip, index);
                continue;
            };
            let (winner, loser) = if rank(index) > rank(rival) { (index, rival) } else { (rival, index) };
            owners.insert(*ip, winner);
            let (winner, loser) = (&pods[winner], &pods[loser]);
            let owner = format!("{}/{}", winner.0.namespace, winner.0.name);
            report.warning(loser.1, "status.podIPs", format!("{ip} belongs to Pod {owner}, which is newer"));
        }
    }
    owners
}

const INBOUND_BYPASS: &str = "ambient.istio.io/bypass-inbound-capture";
