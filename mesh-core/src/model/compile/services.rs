//! Services and `EndpointSlices` → services with endpoints.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{self as kube, Container, Pod};
use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};

use super::pods::{Pods, number, valid};
use super::{Inputs, Report, SelectorIndex};
use crate::model::{Endpoint, Service, ServicePort, Workload};
use crate::net::canonical_ip;
use crate::resource::Object;

/// A service whose endpoints still wait for the workloads to be complete.
pub(super) struct Draft<'a> {
    object: &'a Object,
    /// Its ports have no endpoints yet.
    service: Service,
    /// For each port.
    candidates: Vec<Vec<Candidate<'a>>>,
}

/// Something that serves a port, ready or not.
struct Candidate<'a> {
    addr: SocketAddr,
    /// Index of its workload.
    pod: Option<usize>,
    node: Option<&'a str>,
    eligible: bool,
}

/// Finds out who serves what, and tells the workloads (`Workload::services`). The result is in order of namespace and
/// name.
pub(super) fn draft<'a>(inputs: &Inputs<'a>, pods: &mut Pods<'a>, report: &mut Report) -> Vec<Draft<'a>> {
    let slices = slices_by_service(inputs);
    let members = members_by_selector(inputs, pods, &slices);
    let mut drafts = Vec::with_capacity(inputs.services.len());
    for (index, (object, kube)) in inputs.services.iter().enumerate() {
        let Some(spec) = kube.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))
        else {
            // It is an alias in DNS, nothing more.
            continue;
        };
        let ports: Vec<_> =
            spec.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_ref())).collect();
        let service = describe(object, kube, &ports, report);
        let candidates = match slices.get(&(&*object.meta.namespace, &*object.meta.name)) {
            Some(slices) => from_slices(&service, slices, pods, report),
            None => from_pods(&service, &ports, members.get(&index).map_or(&[], Vec::as_slice), pods),
        };
        join(&service, &candidates, pods);
        drafts.push(Draft { object, service, candidates });
    }
    drafts
}

/// Chooses the endpoints that may be chosen on `node`.
pub(super) fn finish<'a>(
    drafts: Vec<Draft<'a>>,
    workloads: &[Arc<Workload>],
    node: &str,
) -> Vec<(Service, &'a Object)> {
    let finish = |Draft { object, mut service, candidates }: Draft<'a>| {
        let on_this_node = |candidate: &&Candidate<'_>| candidate.node == Some(node);
        for (port, candidates) in service.ports.iter_mut().zip(&candidates) {
            let eligible = candidates.iter().filter(|candidate| candidate.eligible);
            let eligible = eligible.filter(|candidate| !service.local_only || on_this_node(candidate));
            let endpoint = |candidate: &Candidate<'_>| {
                let workload = candidate.pod.and_then(|pod| workloads.get(pod)).map(Arc::clone);
                Endpoint::new(candidate.addr, workload)
            };
            port.endpoints = eligible.map(endpoint).collect();
            // An endpoint may be in two slices while it moves from one to the other.
            port.endpoints.sort_by_key(|endpoint| (endpoint.addr, endpoint.workload.is_none()));
            port.endpoints.dedup_by_key(|endpoint| endpoint.id);
        }
        (service, object)
    };
    drafts.into_iter().map(finish).collect()
}

type SlicesByService<'a> = HashMap<(&'a str, &'a str), Vec<(&'a Object, &'a EndpointSlice)>>;

fn slices_by_service<'a>(inputs: &Inputs<'a>) -> SlicesByService<'a> {
    let mut slices = SlicesByService::new();
    for (object, slice) in &inputs.slices {
        if let Some(service) = object.meta.labels.get("kubernetes.io/service-name") {
            slices.entry((&object.meta.namespace, service)).or_default().push((object, slice));
        }
    }
    slices
}

/// The pods of services that have no slices, by index of the service.
fn members_by_selector(
    inputs: &Inputs<'_>,
    pods: &Pods<'_>,
    slices: &SlicesByService<'_>,
) -> HashMap<usize, Vec<usize>> {
    let mut selectors = SelectorIndex::default();
    for (index, (object, service)) in inputs.services.iter().enumerate() {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let has_slices = slices.contains_key(&(&*object.meta.namespace, &*object.meta.name));
        if let Some(selector) = selector.filter(|_| !has_slices) {
            selectors.insert(&object.meta.namespace, selector, index);
        }
    }
    let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
    for (index, pod) in pods.workloads.iter().enumerate() {
        for service in selectors.matching(&pod.namespace, &pod.labels) {
            members.entry(service).or_default().push(index);
        }
    }
    members
}

fn describe(
    object: &Object,
    kube: &kube::Service,
    ports: &[&kube::ServicePort],
    report: &mut Report,
) -> Service {
    let default = kube::ServiceSpec::default();
    let spec = kube.spec.as_ref().unwrap_or(&default);
    let (namespace, name) = (&object.meta.namespace, &object.meta.name);
    let port = |port: &&kube::ServicePort| {
        // A number out of range was an error when the resource was parsed; 0 is no destination.
        let number = valid(port.port).unwrap_or_default();
        let app_protocol = port.app_protocol.as_deref().map(Arc::from);
        ServicePort { number, name: port.name.as_deref().map(Arc::from), app_protocol, endpoints: Vec::new() }
    };
    Service {
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
        hostname: format!("{name}.{namespace}.svc.cluster.local").into(),
        vips: vips(object, kube, report),
        ports: ports.iter().map(port).collect(),
        session_affinity: affinity(spec),
        local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
        headless: spec.cluster_ip.as_deref() == Some("None"),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
    }
}

/// Cluster addresses, and those of load balancers that nodes answer for themselves.
fn vips(object: &Object, service: &kube::Service, report: &mut Report) -> Vec<IpAddr> {
    let spec = service.spec.iter();
    let cluster = spec.flat_map(|spec| spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()));
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let ingress = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let texts = cluster.chain(ingress.filter_map(|ingress| ingress.ip.as_ref()));
    let mut vips = Vec::new();
    for text in texts.filter(|text| !text.is_empty() && *text != "None") {
        match text.parse() {
            Ok(ip) => vips.push(canonical_ip(ip)),
            Err(_) => report.warning(object, "spec.clusterIPs", format!("\"{text}\" is not an IP address")),
        }
    }
    vips.sort_unstable();
    vips.dedup();
    vips
}

fn affinity(spec: &kube::ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds =
        config.and_then(|config| config.timeout_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    Some(seconds.map_or(DEFAULT_AFFINITY, Duration::from_secs))
}

fn from_slices<'a>(
    service: &Service,
    slices: &[(&'a Object, &'a EndpointSlice)],
    pods: &Pods<'_>,
    report: &mut Report,
) -> Vec<Vec<Candidate<'a>>> {
    let mut candidates: Vec<Vec<_>> = service.ports.iter().map(|_| Vec::new()).collect();
    for (object, slice) in slices.iter().filter(|(_, slice)| slice.address_type != "FQDN") {
        let found = from_slice(service, object, slice, pods, report);
        for (port, candidates) in service.ports.iter().zip(&mut candidates) {
            let Some(number) = slice_port(slice, port.name.as_deref()) else { continue };
            candidates.extend(found.iter().map(|found| found.at(number)));
        }
    }
    candidates
}

/// An endpoint of a slice, before it is known which port it is wanted for.
struct Found<'a> {
    ip: IpAddr,
    pod: Option<usize>,
    node: Option<&'a str>,
    eligible: bool,
}

impl<'a> Found<'a> {
    fn at(&self, port: u16) -> Candidate<'a> {
        let addr = SocketAddr::new(self.ip, port);
        Candidate { addr, pod: self.pod, node: self.node, eligible: self.eligible }
    }
}

fn from_slice<'a>(
    service: &Service,
    object: &Object,
    slice: &'a EndpointSlice,
    pods: &Pods<'_>,
    report: &mut Report,
) -> Vec<Found<'a>> {
    let mut found = Vec::new();
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        for text in &endpoint.addresses {
            let Ok(ip) = text.parse().map(canonical_ip) else {
                let field = format!("endpoints[{index}].addresses");
                report.warning(object, field, format!("\"{text}\" is not an IP address"));
                continue;
            };
            let pod = owner(ip, endpoint, object, pods);
            let eligible = is_eligible(endpoint, service.publish_not_ready);
            found.push(Found { ip, pod, node: endpoint.node_name.as_deref(), eligible });
        }
    }
    found
}

/// The pod behind an endpoint. The reference is only believed if the pod says the same; it is needed for pods in
/// their node's network, whose address does not tell who they are.
fn owner(ip: IpAddr, endpoint: &discovery::Endpoint, slice: &Object, pods: &Pods<'_>) -> Option<usize> {
    let referenced = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let referenced = referenced.and_then(|target| {
        let namespace = target.namespace.as_deref().unwrap_or(&slice.meta.namespace);
        pods.by_name.get(&(namespace, target.name.as_deref()?)).copied()
    });
    let confirmed = referenced.filter(|index| {
        let pod = pods.workloads.get(*index);
        pod.is_some_and(|pod| pod.host_network && pod.has_ip(ip))
    });
    confirmed.or_else(|| pods.by_ip.get(&ip).copied())
}

fn is_eligible(endpoint: &discovery::Endpoint, publish_not_ready: bool) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or_default();
    // The API defines an absent `ready` as ready.
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    !terminating && (ready || publish_not_ready)
}

/// The number behind a service's port in this slice: the names are equal, or both are absent.
fn slice_port(slice: &EndpointSlice, name: Option<&str>) -> Option<u16> {
    let name = name.unwrap_or_default();
    let mut ports = slice.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_ref()));
    let port = ports.find(|port| port.name.as_deref().unwrap_or_default() == name)?;
    port.port.and_then(valid)
}

fn from_pods<'a>(
    service: &Service,
    ports: &[&kube::ServicePort],
    members: &[usize],
    pods: &Pods<'a>,
) -> Vec<Vec<Candidate<'a>>> {
    let of_port = |port: &&kube::ServicePort| {
        let mut candidates = Vec::new();
        for (index, pod, workload) in members
            .iter()
            .filter_map(|index| Some((*index, *pods.sources.get(*index)?, pods.workloads.get(*index)?)))
        {
            let Some(number) = target_port(port, pod) else { continue };
            let eligible = is_ready(pod, service.publish_not_ready);
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let addrs = workload.ips.iter().map(|ip| SocketAddr::new(*ip, number));
            candidates.extend(addrs.map(|addr| Candidate { addr, pod: Some(index), node, eligible }));
        }
        candidates
    };
    ports.iter().map(of_port).collect()
}

fn target_port(port: &kube::ServicePort, pod: &Pod) -> Option<u16> {
    let Some(target) = &port.target_port else {
        return valid(port.port);
    };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let target = |container: &Container| number(target, container);
    containers.into_iter().find_map(target)
}

/// A pod without a `Ready` condition was written by hand; an address is all that it can have to show.
fn is_ready(pod: &Pod, publish_not_ready: bool) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    let ready = ready.is_none_or(|condition| condition.status == "True");
    pod.metadata.deletion_timestamp.is_none() && (ready || publish_not_ready)
}

/// Notes the service with every workload that is behind one of its ports.
fn join(service: &Service, candidates: &[Vec<Candidate<'_>>], pods: &mut Pods<'_>) {
    for index in candidates.iter().flatten().filter_map(|candidate| candidate.pod) {
        let Some(workload) = pods.workloads.get_mut(index) else { continue };
        let joined = |(namespace, name): &(Arc<str>, Arc<str>)| {
            (namespace, name) == (&service.namespace, &service.name)
        };
        // Services come in order, so this one can only be the last.
        if !workload.services.last().is_some_and(joined) {
            workload.services.push((Arc::clone(&service.namespace), Arc::clone(&service.name)));
        }
    }
}

/// Kubernetes' default protocol is TCP.
fn is_tcp(protocol: Option<&String>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// Kubernetes' default for `timeoutSeconds`.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);
