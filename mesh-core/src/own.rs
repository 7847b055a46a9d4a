//! Who a gateway or a waypoint is: a process that is told its name has to find out its labels, its service account and
//! what its Service's ports lead to.
//!
//! A Pod of the name knows best, then one that says it is of the Gateway of that name, then the Deployment whose pods it is one of, then the Service that selects it, then the
//! Gateway of Kubernetes that such a process is made for. If there is none of them, it has the labels that gateways of
//! Istio have by convention, so that Gateways written for these select it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, PodSpec, Service as KubeService, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::{Membership, ServiceKey, Snapshot};
use crate::resource::mesh_config::ProxyConfig;
use crate::resource::mesh_config::proxy::Topology;
use crate::resource::{Object, ObjectKey, Spec};

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The name it was told.
    pub name: Arc<str>,
    /// Its labels, by which Gateways select it and rules know it.
    pub labels: BTreeMap<String, String>,
    /// Where the labels are from.
    pub known_by: KnownBy,
    /// Its service account.
    pub service_account: Arc<str>,
    /// The TCP ports of its Services, and its own that each leads to.
    pub ports: BTreeMap<u16, u16>,
    /// The same of UDP.
    pub udp_ports: BTreeMap<u16, u16>,
    /// What its own annotation `proxy.istio.io/config` says of the proxies before it; it comes before what `MeshConfig`
    /// says of all. A number that is wrong in it is 0, so that nobody is believed by mistake.
    pub topology: Option<Topology>,
}

/// Where the labels of a process are from. Ordered: what knows better comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KnownBy {
    /// A Pod of its name.
    Pod,
    /// A Pod of the Gateway of Kubernetes of its name.
    GatewayPod,
    /// A Deployment of its name.
    Deployment,
    /// A Service of its name.
    Service,
    /// A Gateway of Kubernetes of its name.
    KubernetesGateway,
    /// Nothing of its name is known.
    Convention,
}

/// What is seen of the resources that a process of some name is known by.
#[derive(Debug, Clone)]
pub struct Sightings {
    namespace: Arc<str>,
    name: Arc<str>,
    /// Given by hand; they come before all others.
    given: BTreeMap<String, String>,
    /// The service account, if it is given by hand.
    account: Option<Arc<str>>,
    /// Of each kind the one of the name.
    candidates: BTreeMap<KnownBy, Candidate>,
    /// Pods of the Gateway of the name.
    pods: BTreeMap<Arc<str>, Candidate>,
    /// Those of the namespace that select anything, by name.
    services: BTreeMap<Arc<str>, ServicePorts>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    labels: BTreeMap<String, String>,
    service_account: Option<Arc<str>>,
    /// Ports of its containers that have names.
    named_ports: BTreeMap<String, u16>,
    topology: Option<Topology>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ServicePorts {
    selector: BTreeMap<String, String>,
    ports: Vec<(u16, Target)>,
    udp_ports: Vec<(u16, Target)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Number(u16),
    Named(String),
}

impl Sightings {
    /// Nothing has been seen of `namespace/name` yet, which has the labels of `given` in any case.
    pub fn of(namespace: &str, name: &str, given: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            given: given.into_iter().collect(),
            account: None,
            candidates: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
        }
    }

    /// Has this service account, whatever is seen.
    #[must_use]
    pub fn with_account(self, account: Option<&str>) -> Self {
        Self { account: account.map(Arc::from), ..self }
    }

    /// Takes note of a resource that is new or different.
    pub fn apply(&mut self, object: &Object) {
        if object.meta.namespace != self.namespace {
            return;
        }
        if let Spec::Service(service) = &object.spec {
            let ports = ServicePorts::of(service);
            match ports {
                Some(ports) => drop(self.services.insert(Arc::clone(&object.meta.name), ports)),
                None => drop(self.services.remove(&object.meta.name)),
            }
        }
        if matches!(object.spec, Spec::Pod(_)) {
            let ours = object.meta.labels.get(GATEWAY_NAME).is_some_and(|name| **name == *self.name);
            match Candidate::of(object).filter(|_| ours) {
                Some(candidate) => drop(self.pods.insert(Arc::clone(&object.meta.name), candidate)),
                None => drop(self.pods.remove(&object.meta.name)),
            }
        }
        if object.meta.name == self.name
            && let Some(known_by) = KnownBy::of(object.meta.kind)
        {
            match Candidate::of(object) {
                Some(candidate) => drop(self.candidates.insert(known_by, candidate)),
                None => drop(self.candidates.remove(&known_by)),
            }
        }
    }

    /// Takes note of a resource that is gone.
    pub fn remove(&mut self, key: &ObjectKey) {
        if key.namespace != self.namespace {
            return;
        }
        match key.kind {
            "Service" => drop(self.services.remove(&key.name)),
            "Pod" => drop(self.pods.remove(&key.name)),
            _ => {}
        }
        if key.name == self.name
            && let Some(known_by) = KnownBy::of(key.kind)
        {
            self.candidates.remove(&known_by);
        }
    }

    /// Who the process is, from what was seen.
    pub fn own(&self) -> Own {
        let named = self.candidates.iter().map(|(known_by, candidate)| (*known_by, candidate));
        let pods = self.pods.values().map(|candidate| (KnownBy::GatewayPod, candidate));
        let (known_by, candidate) = match named.chain(pods).min_by_key(|(known_by, _)| *known_by) {
            Some((known_by, candidate)) => (known_by, candidate.clone()),
            None => (KnownBy::Convention, Candidate::by_convention(&self.name)),
        };
        let mut labels = candidate.labels;
        labels.extend(self.given.clone());
        let (mut ports, mut udp_ports) = (BTreeMap::new(), BTreeMap::new());
        let add = |all: &mut BTreeMap<u16, u16>, more: &[(u16, Target)]| {
            for (number, target) in more {
                if let Some(target) = target.on(&candidate.named_ports) {
                    all.entry(*number).or_insert(target);
                }
            }
        };
        // Its namesake is the most likely to be meant where two Services disagree.
        let (namesake, others): (Vec<_>, Vec<_>) =
            self.services.iter().partition(|(name, _)| **name == self.name);
        for (_, service) in namesake.into_iter().chain(others).filter(|(_, it)| it.selects(&labels)) {
            add(&mut ports, &service.ports);
            add(&mut udp_ports, &service.udp_ports);
        }
        Own {
            namespace: Arc::clone(&self.namespace),
            name: Arc::clone(&self.name),
            labels,
            known_by,
            service_account: self
                .account
                .clone()
                .or(candidate.service_account)
                .unwrap_or_else(|| "default".into()),
            ports,
            udp_ports,
            topology: candidate.topology,
        }
    }

    /// Who the process is where the resources themselves are not seen: from what a control plane tells of its pods.
    pub fn own_in(&self, snapshot: &Snapshot) -> Own {
        let mut own = self.own();
        let waypoint = ServiceKey::of_waypoint(&self.namespace, &self.name);
        let pods = snapshot.workloads().filter(|pod| pod.namespace == self.namespace);
        let (named, of_name): (Vec<_>, Vec<_>) = pods
            .filter(|pod| {
                let run = |one: &Membership| *one.service == waypoint;
                pod.name == self.name || pod.workload_name == self.name || pod.services.iter().any(run)
            })
            .partition(|pod| pod.name == self.name);
        let known_by = if named.is_empty() { KnownBy::Deployment } else { KnownBy::Pod };
        let Some(pod) = named.first().or(of_name.first()) else { return own };
        own.service_account = self.account.as_ref().unwrap_or(&pod.service_account).clone();
        own.ports = pod.services.iter().flat_map(|one| one.ports.iter().copied()).collect();
        own.udp_ports = pod.services.iter().flat_map(|one| one.udp_ports.iter().copied()).collect();
        // A control plane tells only labels that somebody asks about. Without any it may not be one of ours.
        if !pod.labels.is_empty() {
            own.known_by = known_by;
            own.labels = pod.labels.clone();
            own.labels.extend(self.given.clone());
        }
        own
    }
}

impl Own {
    /// The port of the process that a TCP port of its Service leads to: the same if its Services have no such port.
    pub fn target_port(&self, port: u16) -> u16 {
        self.ports.get(&port).copied().unwrap_or(port)
    }

    /// As [`Self::target_port`], for UDP.
    pub fn udp_target_port(&self, port: u16) -> u16 {
        self.udp_ports.get(&port).copied().unwrap_or(port)
    }
}

impl KnownBy {
    fn of(kind: &str) -> Option<Self> {
        match kind {
            "Pod" => Some(Self::Pod),
            "Deployment" => Some(Self::Deployment),
            "Service" => Some(Self::Service),
            "KubernetesGateway" => Some(Self::KubernetesGateway),
            _ => None,
        }
    }
}

impl fmt::Display for KnownBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "Pod",
            Self::GatewayPod => "Pod of the Gateway",
            Self::Deployment => "Deployment",
            Self::Service => "Service",
            Self::KubernetesGateway => "Gateway of Kubernetes",
            Self::Convention => "convention",
        })
    }
}

impl Candidate {
    fn of(object: &Object) -> Option<Self> {
        let bare =
            |labels| Self { labels, service_account: None, named_ports: BTreeMap::new(), topology: None };
        match &object.spec {
            Spec::Pod(pod) => {
                let topology = topology(&object.meta.annotations);
                Some(Self { topology, ..Self::of_pod(object.meta.labels.clone(), pod.spec.as_ref()) })
            }
            Spec::Deployment(deployment) => {
                let template = &deployment.spec.template;
                let meta = template.metadata.clone().unwrap_or_default();
                let topology = meta.annotations.as_ref().and_then(topology);
                let pod = Self::of_pod(meta.labels.unwrap_or_default(), template.spec.as_ref());
                Some(Self { topology, ..pod })
            }
            Spec::Service(service) => {
                let selector = service.spec.as_ref()?.selector.clone()?;
                (!selector.is_empty()).then(|| bare(selector))
            }
            Spec::KubernetesGateway(gateway) => {
                let mut labels = gateway.infrastructure.labels.clone();
                labels.insert(GATEWAY_NAME.to_owned(), object.meta.name.to_string());
                Some(bare(labels))
            }
            _ => None,
        }
    }

    fn of_pod(labels: BTreeMap<String, String>, spec: Option<&PodSpec>) -> Self {
        let account = spec.and_then(|spec| spec.service_account_name.as_deref());
        let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        Self {
            labels,
            service_account: account.filter(|name| !name.is_empty()).map(Arc::from),
            named_ports: containers.iter().flat_map(named_ports).collect(),
            topology: None,
        }
    }

    /// The labels of Istio's own gateways: `app` is their name, `istio` is it without `istio-`.
    fn by_convention(name: &str) -> Self {
        let short = name.strip_prefix("istio-").unwrap_or(name);
        let labels = [("app", name), ("istio", short)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self { labels: labels.into(), service_account: None, named_ports: BTreeMap::new(), topology: None }
    }
}

impl ServicePorts {
    fn of(service: &KubeService) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let selector = spec.selector.clone().filter(|selector| !selector.is_empty())?;
        let port = |port: &ServicePort| {
            let number = valid(port.port)?;
            let target = match &port.target_port {
                None => Target::Number(number),
                Some(IntOrString::Int(target)) => Target::Number(valid(*target)?),
                Some(IntOrString::String(name)) => Target::Named(name.clone()),
            };
            Some((number, target))
        };
        let of = |protocol: &str| {
            let all = spec.ports.iter().flatten();
            all.filter(|it| it.protocol.as_deref().unwrap_or("TCP") == protocol).filter_map(port).collect()
        };
        Some(Self { selector, ports: of("TCP"), udp_ports: of("UDP") })
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Target {
    fn on(&self, named: &BTreeMap<String, u16>) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Named(name) => named.get(name).copied().or_else(|| name.parse().ok().and_then(valid)),
        }
    }
}

fn topology(annotations: &BTreeMap<String, String>) -> Option<Topology> {
    ProxyConfig::of_annotation(annotations.get(ProxyConfig::ANNOTATION)?).gateway_topology
}

fn named_ports(container: &Container) -> impl Iterator<Item = (String, u16)> {
    let ports = container.ports.iter().flatten();
    ports.filter_map(|port| Some((port.name.clone()?, valid(port.container_port)?)))
}

fn valid(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// What the pods of a Gateway of Kubernetes have its name in.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

#[cfg(test)]
mod tests;
