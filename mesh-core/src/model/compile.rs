//! Resources → [`Snapshot`].
//!
//! Invariant: nothing a resource says can make this fail or panic; what cannot be used is a finding. No output
//! depends on the order of a hash map.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service as KubeService};
use k8s_openapi::api::discovery::v1::EndpointSlice;

pub(crate) use self::report::Report;
pub(crate) use self::selector::SelectorIndex;
use super::cidr::CidrSet;
use super::{Service, Snapshot, Workload};
use crate::id::TrustDomain;
use crate::policy::{PolicyInput, PolicySet};
use crate::resource::{Finding, Object, ObjectKey, Spec};

mod mesh_config;
mod pods;
mod report;
mod selector;
mod services;

/// What the compiler needs to know besides the resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileOptions {
    /// The name of the node that the snapshot is for; empty where there is none (gateways).
    pub node: String,
    /// The trust domain if `MeshConfig` sets none.
    pub trust_domain: TrustDomain,
    /// The namespace of mesh-wide configuration, normally `istio-system`.
    pub root_namespace: String,
    /// The cluster's name as telemetry shows it, normally `Kubernetes`.
    pub cluster: String,
}

/// What [`compile`] returns.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The model.
    pub snapshot: Snapshot,
    /// What does not mean what its author may think, in the order of the resources.
    pub findings: Vec<Finding>,
}

impl Default for CompileOptions {
    /// No node, Istio's defaults for the rest.
    fn default() -> Self {
        Self {
            node: String::new(),
            trust_domain: TrustDomain::default(),
            root_namespace: "istio-system".to_owned(),
            cluster: "Kubernetes".to_owned(),
        }
    }
}

/// Compiles all resources of the mesh. Deterministic: the order of `objects` only decides which of two definitions
/// of the same object is used (the later one, as with `kubectl apply`).
pub fn compile(objects: &[Object], options: &CompileOptions) -> Compiled {
    let mut report = Report::default();
    let inputs = Inputs::group(objects, &mut report);
    let mesh = mesh_config::compile(&inputs, options, &mut report);
    let mut pods = pods::compile(&inputs, options, &mesh.trust_domain, &mut report);
    let drafts = services::draft(&inputs, &mut pods, &mut report);
    let workloads: Vec<_> = pods.workloads.into_iter().map(Arc::new).collect();
    let services = services::finish(drafts, &workloads, &options.node);
    let policies = PolicySet::compile(
        &PolicyInput {
            objects: &inputs.policies,
            workloads: &workloads,
            root_namespace: &options.root_namespace,
            trust_domain: &mesh.trust_domain,
            trust_domain_aliases: &mesh.aliases,
        },
        &mut report,
    );
    let mut snapshot = Snapshot {
        loaded: true,
        trust_domain: mesh.trust_domain,
        trust_domain_aliases: mesh.aliases,
        access_log_file: mesh.access_log_file,
        node: options.node.as_str().into(),
        by_ip: index_by_ip(&workloads, &pods.by_ip),
        by_uid: workloads.iter().map(|workload| (Arc::clone(&workload.uid), Arc::clone(workload))).collect(),
        workloads,
        pod_network: pod_network(&inputs, &mut report),
        policies,
        ..Snapshot::default()
    };
    index_services(&mut snapshot, services, &mut report);
    Compiled { snapshot, findings: report.into_findings(objects) }
}

/// The objects by kind, each object once.
#[derive(Default)]
struct Inputs<'a> {
    namespaces: HashMap<&'a str, (&'a Object, &'a Namespace)>,
    nodes: Vec<(&'a Object, &'a Node)>,
    pods: Vec<(&'a Object, &'a Pod)>,
    services: Vec<(&'a Object, &'a KubeService)>,
    slices: Vec<(&'a Object, &'a EndpointSlice)>,
    config_maps: Vec<(&'a Object, &'a k8s_openapi::api::core::v1::ConfigMap)>,
    /// Both kinds of policy.
    policies: Vec<&'a Object>,
}

impl<'a> Inputs<'a> {
    fn group(objects: &'a [Object], report: &mut Report) -> Self {
        let mut inputs = Self::default();
        for object in last_definitions(objects, report) {
            match &object.spec {
                Spec::Namespace(namespace) => {
                    inputs.namespaces.insert(&object.meta.name, (object, namespace));
                }
                Spec::Node(node) => inputs.nodes.push((object, node)),
                Spec::Pod(pod) => inputs.pods.push((object, pod)),
                Spec::Service(service) => inputs.services.push((object, service)),
                Spec::EndpointSlice(slice) => inputs.slices.push((object, slice)),
                Spec::ConfigMap(map) => inputs.config_maps.push((object, map)),
                Spec::PeerAuthentication(_) | Spec::AuthorizationPolicy(_) => inputs.policies.push(object),
                // A Deployment's pods are objects of their own; a service account is only ever named. The rest is
                // read and checked, and the user has been told that it is not enforced yet.
                Spec::ServiceAccount(_)
                | Spec::Deployment(_)
                | Spec::Gateway(_)
                | Spec::VirtualService(_)
                | Spec::DestinationRule(_)
                | Spec::ServiceEntry(_)
                | Spec::WorkloadEntry(_)
                | Spec::WorkloadGroup(_)
                | Spec::Sidecar(_)
                | Spec::ProxyConfig(_)
                | Spec::RequestAuthentication(_)
                | Spec::Telemetry(_)
                | Spec::GatewayClass(_)
                | Spec::KubernetesGateway(_)
                | Spec::HttpRoute(_)
                | Spec::GrpcRoute(_)
                | Spec::TlsRoute(_)
                | Spec::TcpRoute(_)
                | Spec::ReferenceGrant(_)
                | Spec::BackendTlsPolicy(_)
                | Spec::Secret(_) => {}
            }
        }
        inputs
    }
}

/// The objects in order of kind, namespace and name; of equal ones the last.
fn last_definitions<'a>(objects: &'a [Object], report: &mut Report) -> Vec<&'a Object> {
    let mut last: HashMap<ObjectKey, &Object> = HashMap::with_capacity(objects.len());
    for object in objects {
        if let Some(earlier) = last.insert(object.key(), object) {
            let reason =
                format!("{} is defined again in {}, which is used instead", object.key(), object.origin);
            report.warning(earlier, "metadata.name", reason);
        }
    }
    let mut unique: Vec<_> = last.into_values().collect();
    unique.sort_by(|a, b| {
        let key = |object: &'a Object| (object.meta.kind, &*object.meta.namespace, &*object.meta.name);
        key(a).cmp(&key(b))
    });
    unique
}

fn index_by_ip(
    workloads: &[Arc<Workload>],
    by_ip: &HashMap<IpAddr, usize>,
) -> HashMap<IpAddr, Arc<Workload>> {
    by_ip.iter().filter_map(|(ip, index)| Some((*ip, Arc::clone(workloads.get(*index)?)))).collect()
}

fn pod_network(inputs: &Inputs<'_>, report: &mut Report) -> CidrSet {
    let mut set = CidrSet::default();
    for (object, node) in &inputs.nodes {
        let Some(spec) = &node.spec else { continue };
        let unique: BTreeSet<_> = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr).collect();
        for text in unique {
            match text.parse::<IpNet>() {
                Ok(network) => set.insert(network),
                Err(_) => report.warning(object, "spec.podCIDRs", format!("\"{text}\" is not a network")),
            }
        }
    }
    set
}

/// Of two services with the same address the older one keeps it, whoever else claims it.
fn index_services(snapshot: &mut Snapshot, services: Vec<(Service, &Object)>, report: &mut Report) {
    let services: Vec<_> =
        services.into_iter().map(|(service, object)| (Arc::new(service), object)).collect();
    let mut by_age: Vec<_> = services.iter().collect();
    by_age.sort_by_key(|(_, object)| object.meta.creation_timestamp);
    for (service, object) in by_age {
        for vip in &service.vips {
            if let Some(owner) = snapshot.by_vip.get(vip) {
                let owner = format!("{}/{}", owner.namespace, owner.name);
                report.warning(
                    object,
                    "spec.clusterIPs",
                    format!("{vip} belongs to Service {owner}, which is older"),
                );
                continue;
            }
            snapshot.by_vip.insert(*vip, Arc::clone(service));
            for (index, port) in service.ports.iter().enumerate() {
                snapshot.by_vip_port.insert((*vip, port.number), (Arc::clone(service), index));
            }
        }
    }
    snapshot.services = services.into_iter().map(|(service, _)| service).collect();
}
