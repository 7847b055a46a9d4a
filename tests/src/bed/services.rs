//! Services: their cluster IPs and their endpoints, as the controllers of a cluster would work them out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::addr;
use super::layout::digest;
use super::manifests::{Key, Objects};

/// A pod as endpoints see it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a> {
    pub(crate) key: &'a Key,
    pub(crate) manifest: &'a Pod,
    pub(crate) ips: &'a [IpAddr],
    pub(crate) node: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
}

/// A service with all that follows from it.
#[derive(Debug, Clone)]
pub(crate) struct ServiceView {
    pub(crate) key: Key,
    /// The user's object, completed.
    pub(crate) manifest: Service,
    pub(crate) vips: Vec<IpAddr>,
    /// Only backends on the same node may be used.
    pub(crate) local_only: bool,
    pub(crate) ports: Vec<PortView>,
    /// The endpoint slices made for it.
    pub(crate) slices: Vec<Value>,
    /// Addresses of a headless service, each with the pod's host name.
    pub(crate) members: Vec<(IpAddr, String)>,
}

/// A port of a service with those who serve it now.
#[derive(Debug, Clone)]
pub(crate) struct PortView {
    pub(crate) number: u16,
    /// In lower case.
    pub(crate) protocol: String,
    pub(crate) backends: Vec<Backend>,
}

/// One ready address behind a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    pub(crate) node: Option<String>,
}

/// Cluster IPs by service. They are kept while the service exists, whatever comes and goes beside it.
#[derive(Debug, Default)]
pub(crate) struct ServiceAddresses(BTreeMap<Key, Vec<IpAddr>>);

impl ServiceAddresses {
    /// Gives every service its addresses and forgets those of services that are gone.
    pub(crate) fn update(&mut self, services: &BTreeMap<Key, Service>) {
        self.0.retain(|key, _| services.contains_key(key));
        let mut taken: BTreeSet<IpAddr> = services.values().flat_map(explicit).collect();
        for (key, service) in services {
            let wanted = explicit(service);
            let families = families(service);
            let fits = |ips: &Vec<IpAddr>| ips.iter().map(IpAddr::is_ipv6).eq(families.iter().copied());
            if !wanted.is_empty() || is_headless(service) {
                self.0.insert(key.clone(), wanted);
            } else if !self.0.get(key).is_some_and(fits) {
                let all = self.0.values().flatten().copied().chain(taken.iter().copied()).collect();
                let make = |v6: &bool| addr::service(&key.namespace, &key.name, *v6, &all);
                self.0.insert(key.clone(), families.iter().map(make).collect());
            }
            taken.extend(self.0.get(key).into_iter().flatten());
        }
    }
}

/// Works out all services. Call [`ServiceAddresses::update`] first.
pub(crate) fn view(
    objects: &Objects,
    addresses: &ServiceAddresses,
    pods: &[Candidate<'_>],
) -> Vec<ServiceView> {
    let one = |(key, service): (&Key, &Service)| {
        let vips = addresses.0.get(key).cloned().unwrap_or_default();
        let foreign = objects.slices.iter().filter(|(slice, s)| is_slice_of(key, slice, s)).map(|(_, s)| s);
        view_one(key, service, vips, (pods, foreign.collect()))
    };
    objects.services.iter().map(one).collect()
}

fn view_one(
    key: &Key,
    service: &Service,
    vips: Vec<IpAddr>,
    (pods, foreign): (&[Candidate<'_>], Vec<&EndpointSlice>),
) -> ServiceView {
    let spec = service.spec.clone().unwrap_or_default();
    let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
    let selected: Vec<&Candidate<'_>> = pods.iter().filter(|pod| selects(key, &spec, pod)).collect();
    let serving = |pod: &&&Candidate<'_>| publish_not_ready || (pod.ready && !pod.terminating);
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let mut backends: Vec<Backend> =
            selected.iter().filter(serving).flat_map(|pod| backends(pod, port)).collect();
        backends.extend(foreign.iter().flat_map(|slice| foreign_backends(slice, port)));
        ports.push(PortView {
            number: u16::try_from(port.port).unwrap_or(0),
            protocol: port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
            backends,
        });
    }
    let members = selected.iter().filter(serving).flat_map(|pod| {
        let name = pod.manifest.spec.as_ref().and_then(|s| s.hostname.clone());
        let name = name.unwrap_or_else(|| pod.key.name.clone());
        pod.ips.iter().map(move |ip| (*ip, name.clone()))
    });
    let headless = is_headless(service);
    let families = families(service);
    ServiceView {
        members: members.filter(|(ip, _)| headless && families.contains(&ip.is_ipv6())).collect(),
        slices: if spec.selector.is_some() { slices(key, &spec, (&families, &selected)) } else { Vec::new() },
        manifest: completed(service, key, &vips, &families),
        local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
        key: key.clone(),
        vips,
        ports,
    }
}

fn selects(key: &Key, spec: &ServiceSpec, pod: &Candidate<'_>) -> bool {
    let Some(selector) = spec.selector.as_ref().filter(|s| !s.is_empty()) else { return false };
    let labels = pod.manifest.metadata.labels.as_ref();
    pod.key.namespace == key.namespace
        && selector.iter().all(|(name, value)| labels.and_then(|l| l.get(name)) == Some(value))
}

fn backends(pod: &Candidate<'_>, port: &ServicePort) -> Vec<Backend> {
    let Some(number) = target_port(pod.manifest, port) else { return Vec::new() };
    let make = |ip: &IpAddr| Backend { addr: (*ip, number).into(), node: Some(pod.node.to_owned()) };
    pod.ips.iter().map(make).collect()
}

fn foreign_backends(slice: &EndpointSlice, port: &ServicePort) -> Vec<Backend> {
    let named = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
        p.name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or("")
    };
    let number = slice.ports.iter().flatten().find(named).and_then(|p| p.port);
    let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { return Vec::new() };
    let mut backends = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
            continue;
        }
        for ip in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
            backends.push(Backend { addr: (ip, number).into(), node: endpoint.node_name.clone() });
        }
    }
    backends
}

/// The number behind a service's port in one pod; `None` where the pod has no port of that name.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => container_port(pod, name),
        None => u16::try_from(port.port).ok(),
    }
}

/// The number of a pod's port with this name.
pub(crate) fn container_port(pod: &Pod, name: &str) -> Option<u16> {
    let containers = &pod.spec.as_ref()?.containers;
    let mut ports = containers.iter().flat_map(|c| c.ports.iter().flatten());
    let port = ports.find(|p| p.name.as_deref() == Some(name))?;
    u16::try_from(port.container_port).ok()
}

/// One slice for each family and each set of port numbers: named ports may differ from pod to pod.
fn slices(key: &Key, spec: &ServiceSpec, (families, pods): (&[bool], &[&Candidate<'_>])) -> Vec<Value> {
    let mut slices = Vec::new();
    for v6 in families {
        let mut groups: BTreeMap<Vec<Option<u16>>, Vec<Value>> = BTreeMap::new();
        for pod in pods {
            let ports = spec.ports.iter().flatten().map(|port| target_port(pod.manifest, port)).collect();
            let endpoints = endpoints(pod, *v6, spec.publish_not_ready_addresses.unwrap_or(false));
            groups.entry(ports).or_default().extend(endpoints);
        }
        if groups.is_empty() {
            groups.insert(Vec::new(), Vec::new());
        }
        for (ports, endpoints) in groups {
            slices.push(slice(key, spec, (*v6, &ports), &endpoints));
        }
    }
    slices
}

fn endpoints(pod: &Candidate<'_>, v6: bool, publish_not_ready: bool) -> Vec<Value> {
    let mut endpoints = Vec::new();
    for ip in pod.ips.iter().filter(|ip| ip.is_ipv6() == v6) {
        let mut endpoint = json!({
            "addresses": [ip.to_string()],
            "conditions": {
                "ready": publish_not_ready || (pod.ready && !pod.terminating),
                "serving": pod.ready,
                "terminating": pod.terminating,
            },
            "nodeName": pod.node,
            "targetRef": {"kind": "Pod", "namespace": pod.key.namespace, "name": pod.key.name, "uid": pod.uid},
        });
        if let Some(hostname) = pod.manifest.spec.as_ref().and_then(|s| s.hostname.as_ref()) {
            endpoint["hostname"] = json!(hostname);
        }
        endpoints.push(endpoint);
    }
    endpoints
}

fn slice(key: &Key, spec: &ServiceSpec, (v6, numbers): (bool, &[Option<u16>]), endpoints: &[Value]) -> Value {
    let mut ports = Vec::new();
    for (port, number) in spec.ports.iter().flatten().zip(numbers) {
        let Some(number) = number else { continue };
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let mut entry =
            json!({"name": port.name.as_deref().unwrap_or(""), "port": number, "protocol": protocol});
        if let Some(app_protocol) = &port.app_protocol {
            entry["appProtocol"] = json!(app_protocol);
        }
        ports.push(entry);
    }
    let suffix = digest(&(&key.namespace, &key.name, v6, numbers)) & 0xf_ffff;
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": key.namespace,
            "name": format!("{}-{suffix:05x}", key.name),
            "labels": {
                "kubernetes.io/service-name": key.name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": ports,
        "endpoints": endpoints,
    })
}

fn is_slice_of(service: &Key, key: &Key, slice: &EndpointSlice) -> bool {
    let name = slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
    key.namespace == service.namespace && name == Some(&service.name)
}

fn completed(service: &Service, key: &Key, vips: &[IpAddr], families: &[bool]) -> Service {
    let mut service = service.clone();
    service.metadata.namespace = Some(key.namespace.clone());
    let spec = service.spec.get_or_insert_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return service;
    }
    if let Some(first) = vips.first() {
        spec.cluster_ip = Some(first.to_string());
        spec.cluster_ips = Some(vips.iter().map(IpAddr::to_string).collect());
    }
    let names = families.iter().map(|v6| if *v6 { "IPv6" } else { "IPv4" }.to_owned());
    spec.ip_families = Some(names.collect());
    spec.ip_family_policy.get_or_insert_with(|| "SingleStack".to_owned());
    service
}

/// The addresses that the user has chosen.
fn explicit(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let list = spec.cluster_ips.iter().flatten();
    let mut ips: Vec<IpAddr> = list.chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
    let mut seen = BTreeSet::new();
    ips.retain(|ip| seen.insert(*ip));
    ips
}

fn is_headless(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return true };
    spec.cluster_ip.as_deref() == Some("None") || spec.type_.as_deref() == Some("ExternalName")
}

/// The address families of a service in order, `true` for IPv6. As in Kubernetes: the explicit ones, else those of
/// explicit addresses, else IPv4, and the other one as well if the policy asks for both.
fn families(service: &Service) -> Vec<bool> {
    let Some(spec) = &service.spec else { return vec![false] };
    let mut families: Vec<bool> = spec.ip_families.iter().flatten().map(|f| f == "IPv6").collect();
    if families.is_empty() {
        families = explicit(service).iter().map(IpAddr::is_ipv6).collect();
    }
    if families.is_empty() {
        families.push(false);
    }
    let both = matches!(spec.ip_family_policy.as_deref(), Some("PreferDualStack" | "RequireDualStack"));
    if let ([only], true) = (families.as_slice(), both) {
        families.push(!only);
    }
    families
}

#[cfg(test)]
mod tests;
