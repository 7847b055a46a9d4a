//! Services → what is kept of them, and their records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as kube;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pods::{PodFacts, valid};
use super::{Name, Report, World};
use crate::cluster::TrafficDistribution;
use crate::model::alias::EXPORT_TO;
use crate::model::{Exported, Families, Membership, Service, ServiceKey, ServicePort};
use crate::net::canonical_ip;
use crate::resource::value::Port;
use crate::resource::{Meta, Object, Origin};

/// What is kept of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceFacts {
    pub(super) origin: Origin,
    pub(super) created: Option<i64>,
    pub(super) selector: Option<Arc<BTreeMap<String, String>>>,
    /// With all the addresses that it asks for.
    pub(super) service: Service,
    /// Whether it says which of its endpoints are preferred.
    names_distribution: bool,
    /// Whether it says who sees it.
    names_audience: bool,
    /// Its key, which every endpoint has.
    pub(super) key: Arc<ServiceKey>,
    /// For each TCP port, and each UDP port.
    targets: [Vec<TargetPort>; 2],
}

/// The ports of a service that something serves: the service's numbers and its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) tcp: BTreeSet<(u16, u16)>,
    pub(super) udp: BTreeSet<(u16, u16)>,
}

/// `targetPort`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TargetPort {
    Number(Option<u16>),
    Named(Box<str>),
}

impl ServiceFacts {
    /// `None` for what is an alias, which is told as it is.
    pub(super) fn of(object: &Object, kube: &kube::Service, report: &mut Report) -> Option<Self> {
        let spec = kube.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
        let all = || spec.ports.iter().flatten();
        let tcp: Vec<_> = all().filter(|port| is_tcp(port.protocol.as_ref())).collect();
        let udp: Vec<_> = all().filter(|port| is_udp(port.protocol.as_ref())).collect();
        let service = describe(object, kube, (&tcp, &udp), report);
        Some(Self {
            origin: object.origin.clone(),
            created: object.meta.creation_timestamp,
            selector: spec.selector.clone().filter(|selector| !selector.is_empty()).map(Arc::new),
            key: Arc::new(service.key()),
            names_distribution: annotated_distribution(&object.meta).is_some()
                || spec.traffic_distribution.is_some(),
            names_audience: object.meta.annotations.contains_key(EXPORT_TO),
            service,
            targets: [tcp, udp].map(|ports| ports.into_iter().map(TargetPort::of).collect()),
        })
    }

    /// The ports that `pod` serves if it is selected.
    pub(super) fn ports_of(&self, pod: &PodFacts) -> Served {
        self.served(|_, target| target.on(pod))
    }

    /// The ports that a WorkloadEntry serves if it is selected, which may have some by the names of the service's.
    pub(super) fn ports_of_entry(&self, own: &BTreeMap<String, Port>) -> Served {
        self.served(|port, target| {
            let named = port.name.as_deref().and_then(|name| own.get(name)).map(|port| port.get());
            let plain = if let TargetPort::Number(number) = target { *number } else { None };
            named.or(plain)
        })
    }

    fn served(&self, own: impl Fn(&ServicePort, &TargetPort) -> Option<u16>) -> Served {
        let of = |ports: &[ServicePort], targets: &[TargetPort]| {
            let all = ports.iter().zip(targets);
            all.filter_map(|(port, target)| Some((port.number, own(port, target)?))).collect()
        };
        let [tcp, udp] = &self.targets;
        Served { tcp: of(&self.service.ports, tcp), udp: of(&self.service.udp_ports, udp) }
    }

    /// The membership of whoever serves these ports.
    pub(super) fn membership(&self, served: Served) -> Membership {
        let Served { tcp, udp } = served;
        Membership {
            service: Arc::clone(&self.key),
            ports: tcp.into_iter().collect(),
            udp_ports: udp.into_iter().collect(),
        }
    }
}

impl Served {
    /// With the ports of another.
    pub(super) fn extend(&mut self, other: Self) {
        self.tcp.extend(other.tcp);
        self.udp.extend(other.udp);
    }
}

impl TargetPort {
    fn of(port: &kube::ServicePort) -> Self {
        match &port.target_port {
            None => Self::Number(valid(port.port)),
            Some(IntOrString::Int(number)) => Self::Number(valid(*number)),
            Some(IntOrString::String(name)) => Self::Named(name.as_str().into()),
        }
    }

    fn on(&self, pod: &PodFacts) -> Option<u16> {
        match self {
            Self::Number(number) => *number,
            Self::Named(name) => {
                let named = pod.named_ports.iter().find(|(known, _)| known == name);
                named.map(|(_, port)| *port).or_else(|| name.parse().ok().and_then(valid))
            }
        }
    }
}

impl World {
    /// The service's record, as things are.
    pub(super) fn service(&self, name: &Name, report: &mut Report) -> Option<Service> {
        let facts = self.services.get(name)?;
        let mut service = facts.service.clone();
        if !facts.names_audience {
            let default = &self.mesh.text.config().default_service_export_to;
            service.exported = Exported::of(&[], default, &service.namespace);
        }
        if !facts.names_distribution {
            service.traffic_distribution = self.distribution_in(&service.namespace);
        }
        // Of two services with the same address the older one keeps it, whoever else claims it.
        service.vips.retain(|vip| match self.vip_claims.owner(*vip) {
            Some(owner) if owner != name => {
                let reason = format!("{vip} belongs to Service {owner}, which is older");
                report.warning_at(&facts.origin, "spec.clusterIPs", reason);
                false
            }
            _ => true,
        });
        // Slices say exactly which addresses are endpoints.
        let slices = self.slices_by_service.get(name).into_iter().flatten();
        let families = slices.filter_map(|slice| Some(self.slices.get(slice)?.families));
        if let Some(families) = families.reduce(union) {
            service.families = families;
        }
        self.secure_ports(name, &mut service.ports);
        service.waypoint = self.waypoint_of("Service", name);
        Some(service)
    }
}

/// The fully qualified host name of a Service.
pub(in crate::model) fn hostname(name: &str, namespace: &str) -> Arc<str> {
    format!("{name}.{namespace}.svc.cluster.local").into()
}

/// Which endpoints of a service are preferred: by Istio's annotation, else by the field of Kubernetes.
fn distribution(object: &Object, field: Option<&str>) -> Option<TrafficDistribution> {
    annotated_distribution(&object.meta).or(field).and_then(TrafficDistribution::parse)
}

/// Istio's annotation, of Services, `ServiceEntries` and namespaces.
pub(super) fn annotated_distribution(meta: &Meta) -> Option<&str> {
    meta.annotations.get(TRAFFIC_DISTRIBUTION).map(String::as_str)
}

fn union(a: Families, b: Families) -> Families {
    if a == b { a } else { Families::Any }
}

fn describe(
    object: &Object,
    kube: &kube::Service,
    (tcp, udp): (&[&kube::ServicePort], &[&kube::ServicePort]),
    report: &mut Report,
) -> Service {
    let default = kube::ServiceSpec::default();
    let spec = kube.spec.as_ref().unwrap_or(&default);
    let (namespace, name) = (&object.meta.namespace, &object.meta.name);
    let port = |port: &&kube::ServicePort| {
        // A number out of range was an error when the resource was parsed; 0 is no destination.
        let number = valid(port.port).unwrap_or_default();
        let app_protocol = port.app_protocol.as_deref().map(Arc::from);
        let name = port.name.as_deref().map(Arc::from);
        ServicePort { number, name, app_protocol, tls: None, endpoints: Vec::new() }
    };
    Service {
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
        hostname: hostname(name, namespace),
        vips: vips(object, kube, report),
        ports: tcp.iter().map(port).collect(),
        udp_ports: udp.iter().map(port).collect(),
        session_affinity: affinity(spec),
        local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
        traffic_distribution: distribution(object, spec.traffic_distribution.as_deref()),
        headless: spec.cluster_ip.as_deref() == Some("None"),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        families: match spec.ip_families.as_deref() {
            Some([family]) if family == "IPv4" => Families::V4,
            Some([family]) if family == "IPv6" => Families::V6,
            _ => Families::Any,
        },
        exported: object
            .meta
            .annotations
            .get(EXPORT_TO)
            .map_or(Exported::Everywhere, |text| Exported::parse(text, namespace)),
        entry: None,
        waypoint: None,
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

/// Kubernetes' default protocol is TCP.
pub(super) fn is_tcp(protocol: Option<&String>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// Whether it is UDP.
pub(super) fn is_udp(protocol: Option<&String>) -> bool {
    protocol.is_some_and(|protocol| protocol == "UDP")
}

/// As `trafficDistribution`, for those that Kubernetes does not let have it.
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
/// Kubernetes' default for `timeoutSeconds`.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);
