//! Meshes of any size, as a cluster would describe them: ten pods to a service, a slice for each service, a hundred
//! services to a namespace, a policy for every tenth service.
//!
//! Made object by object, so that a mesh of 100,000 pods is nowhere in memory but where it is measured.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{
            Container, ContainerPort, HTTPGetAction, Node, NodeSpec, ObjectReference, Pod, PodCondition,
            PodIP, PodSpec, PodStatus, Probe, Service, ServicePort, ServiceSpec,
        },
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use mesh_core::resource::{Meta, Object, ObjectKey, ObjectStatus, Origin, SourceFile, Spec, parse};
use serde_json::{Value, json};

/// How large a mesh is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// Pods; a tenth as many services.
    pub pods: u32,
    /// Nodes that they run on, in turn.
    pub nodes: u32,
}

impl fmt::Display for Crowd {
    /// `<pods>x<nodes>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.pods, self.nodes)
    }
}

impl FromStr for Crowd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not <pods>x<nodes>");
        let (pods, nodes) = text.split_once('x').ok_or_else(wrong)?;
        let number = |text: &str| text.parse().ok().filter(|number| *number > 0).ok_or_else(wrong);
        Ok(Self { pods: number(pods)?, nodes: number(nodes)? })
    }
}

impl Crowd {
    /// Everything, with all pods ready.
    pub fn objects(self) -> impl Iterator<Item = Object> {
        let written = self.written();
        let written = written.flat_map(|text| parse(&SourceFile { name: "crowd", text: &text }).objects);
        written.chain(self.made())
    }

    /// What users write.
    fn written(self) -> impl Iterator<Item = String> {
        let services = self.pods.div_ceil(PODS_PER_SERVICE);
        let namespaces = services.div_ceil(SERVICES_PER_NAMESPACE);
        let policies = (0..services).step_by(SERVICES_PER_POLICY);
        std::iter::once(MESH_WIDE.to_owned())
            .chain((0..namespaces).map(namespace_text))
            .chain(policies.map(policy_text))
    }

    /// What the cluster makes.
    fn made(self) -> impl Iterator<Item = Object> {
        let services = self.pods.div_ceil(PODS_PER_SERVICE);
        let nodes = (0..self.nodes).map(node);
        let services = (0..services).flat_map(move |index| [service(index), self.slice(index, None)]);
        let pods = (0..self.pods).map(move |index| self.pod(index, true));
        nodes.chain(services).chain(pods)
    }

    /// What a cluster says when one pod becomes ready, or is it no more: the pod, and the slice of its service.
    pub fn endpoint(self, index: u32, ready: bool) -> [Object; 2] {
        let unready = (!ready).then_some(index);
        [self.pod(index, ready), self.slice(index / PODS_PER_SERVICE, unready)]
    }

    /// [`Self::objects`] as an API server keeps them.
    pub(super) fn manifests(self) -> impl Iterator<Item = Value> {
        let written = self.written().filter_map(|text| serde_yaml_ng::from_str(&text).ok());
        written.chain(self.made().map(|object| manifest(&object)))
    }

    /// The slice of [`Self::endpoint`] as an API server keeps it. The pod says the same in a moment of its own, which would
    /// be a change of its own: whoever follows both may be told once or twice.
    pub(super) fn slice_manifest(self, index: u32, ready: bool) -> Value {
        let [_, slice] = self.endpoint(index, ready);
        manifest(&slice)
    }

    /// The name under which nodes are told of a pod.
    pub fn uid(index: u32) -> String {
        let (namespace, name) = (namespace_of(index / PODS_PER_SERVICE), pod_name(index));
        format!("Kubernetes//Pod/{namespace}/{name}")
    }

    fn pod(self, index: u32, ready: bool) -> Object {
        let service = index / PODS_PER_SERVICE;
        let (app, hash) = (app(service), hash(service));
        let labels = labels(&[
            ("app", &app),
            ("app.kubernetes.io/part-of", &namespace_of(service)),
            ("pod-template-hash", &hash),
            ("version", "v1"),
        ]);
        let owner = OwnerReference {
            controller: Some(true),
            kind: "ReplicaSet".to_owned(),
            name: format!("{app}-{hash}"),
            ..OwnerReference::default()
        };
        let meta = meta("Pod", (&namespace_of(service), &pod_name(index)), labels, index);
        let pod = Pod {
            metadata: ObjectMeta { owner_references: Some(vec![owner]), ..ObjectMeta::default() },
            spec: Some(PodSpec {
                node_name: Some(node_name(index % self.nodes)),
                service_account_name: Some(app),
                containers: vec![container()],
                ..PodSpec::default()
            }),
            status: Some(status(pod_ip(index), ready)),
        };
        object(meta, Spec::Pod(Box::new(pod)))
    }

    /// The slice of a service, of which at most one endpoint is not ready.
    fn slice(self, service: u32, unready: Option<u32>) -> Object {
        let (namespace, app) = (namespace_of(service), app(service));
        let first = service * PODS_PER_SERVICE;
        let endpoint = |index: u32| Endpoint {
            addresses: vec![pod_ip(index).to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(unready != Some(index)),
                ..EndpointConditions::default()
            }),
            node_name: Some(node_name(index % self.nodes)),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some(namespace.clone()),
                name: Some(pod_name(index)),
                ..ObjectReference::default()
            }),
            ..Endpoint::default()
        };
        let port = EndpointPort {
            name: Some("http".to_owned()),
            port: Some(8080),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        };
        let slice = EndpointSlice {
            address_type: "IPv4".to_owned(),
            endpoints: Some((first..self.pods.min(first + PODS_PER_SERVICE)).map(endpoint).collect()),
            ports: Some(vec![port]),
            ..EndpointSlice::default()
        };
        let labels = labels(&[("kubernetes.io/service-name", &app)]);
        let meta = meta("EndpointSlice", (&namespace, &format!("{app}-x7k2p")), labels, service);
        object(meta, Spec::EndpointSlice(slice))
    }
}

fn service(index: u32) -> Object {
    let app = app(index);
    let meta = meta("Service", (&namespace_of(index), &app), BTreeMap::new(), index);
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: 80,
        target_port: Some(IntOrString::String("http".to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    let vip = Ipv4Addr::from_bits(VIPS.to_bits() + index + 1).to_string();
    let spec = ServiceSpec {
        cluster_ip: Some(vip.clone()),
        cluster_ips: Some(vec![vip]),
        ip_families: Some(vec!["IPv4".to_owned()]),
        ports: Some(vec![port]),
        selector: Some(labels(&[("app", &app)])),
        ..ServiceSpec::default()
    };
    object(meta, Spec::Service(Box::new(Service { spec: Some(spec), ..Service::default() })))
}

fn node(index: u32) -> Object {
    let zone = format!("region-1-{}", index % 3);
    let labels =
        labels(&[("topology.kubernetes.io/region", "region-1"), ("topology.kubernetes.io/zone", &zone)]);
    let networks = (index == 0).then(|| vec![format!("{PODS}/8")]);
    let spec = NodeSpec { pod_cidrs: networks, ..NodeSpec::default() };
    let node = Node { spec: Some(spec), ..Node::default() };
    object(meta("Node", ("", &node_name(index)), labels, index), Spec::Node(Box::new(node)))
}

fn container() -> Container {
    let action = HTTPGetAction { port: IntOrString::String("http".to_owned()), ..HTTPGetAction::default() };
    let port =
        ContainerPort { name: Some("http".to_owned()), container_port: 8080, ..ContainerPort::default() };
    Container {
        name: "app".to_owned(),
        ports: Some(vec![port]),
        readiness_probe: Some(Probe { http_get: Some(action), ..Probe::default() }),
        ..Container::default()
    }
}

fn status(ip: Ipv4Addr, ready: bool) -> PodStatus {
    let condition = PodCondition {
        type_: "Ready".to_owned(),
        status: if ready { "True" } else { "False" }.to_owned(),
        ..PodCondition::default()
    };
    PodStatus {
        phase: Some("Running".to_owned()),
        pod_ip: Some(ip.to_string()),
        pod_ips: Some(vec![PodIP { ip: ip.to_string() }]),
        conditions: Some(vec![condition]),
        ..PodStatus::default()
    }
}

fn namespace_text(index: u32) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: team-{index}, labels: {{istio.io/dataplane-mode: ambient}}}}}}"
    )
}

fn policy_text(service: u32) -> String {
    let (namespace, app) = (namespace_of(service), app(service));
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {app}, namespace: {namespace}}}, \
         spec: {{selector: {{matchLabels: {{app: {app}}}}}, \
         rules: [{{from: [{{source: {{namespaces: [{namespace}]}}}}]}}]}}}}"
    )
}

fn object(meta: Meta, spec: Spec) -> Object {
    let key =
        ObjectKey { kind: meta.kind, namespace: Arc::clone(&meta.namespace), name: Arc::clone(&meta.name) };
    // Nothing here asks for the digest: what differs is found by comparing.
    Object {
        origin: Origin::in_cluster(&key),
        meta,
        spec,
        digest: 0,
        spec_json: None,
        status: ObjectStatus::default(),
    }
}

/// As an API server keeps it.
fn manifest(object: &Object) -> Value {
    let (version, spec) = match &object.spec {
        Spec::Node(node) => ("v1", serde_json::to_value(node)),
        Spec::Service(service) => ("v1", serde_json::to_value(service)),
        Spec::Pod(pod) => ("v1", serde_json::to_value(pod)),
        Spec::EndpointSlice(slice) => ("discovery.k8s.io/v1", serde_json::to_value(slice)),
        _ => unreachable!("a crowd makes nothing else"),
    };
    let mut value = spec.expect("Kubernetes' types are JSON");
    let meta = &object.meta;
    (value["apiVersion"], value["kind"]) = (version.into(), meta.kind.into());
    let metadata = &mut value["metadata"];
    (metadata["name"], metadata["labels"]) = ((*meta.name).into(), json!(meta.labels));
    if !meta.namespace.is_empty() {
        metadata["namespace"] = (*meta.namespace).into();
    }
    value
}

fn meta(
    kind: &'static str,
    (namespace, name): (&str, &str),
    labels: BTreeMap<String, String>,
    index: u32,
) -> Meta {
    Meta {
        kind,
        namespace: namespace.into(),
        name: name.into(),
        labels,
        annotations: BTreeMap::new(),
        uid: Some(format!("{:08x}-c0de-4a11-8000-{index:012x}", mix(index)).into()),
        creation_timestamp: Some(1_700_000_000),
        generation: None,
    }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The name that a Deployment's pod gets.
fn pod_name(index: u32) -> String {
    let service = index / PODS_PER_SERVICE;
    format!("{}-{}-{:05x}", app(service), hash(service), mix(index) >> 12)
}

fn hash(service: u32) -> String {
    format!("{:010x}", u64::from(mix(service)) << 4 | 5)
}

/// Different numbers stay different: both steps can be undone.
fn mix(number: u32) -> u32 {
    let mixed = number.wrapping_mul(0x9e37_79b1);
    mixed ^ (mixed >> 16)
}

fn namespace_of(service: u32) -> String {
    format!("team-{}", service / SERVICES_PER_NAMESPACE)
}

fn app(service: u32) -> String {
    format!("orders-{service}")
}

pub(super) fn node_name(index: u32) -> String {
    format!("node-{index}")
}

fn pod_ip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(PODS.to_bits() + index + 1)
}

const PODS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const VIPS: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 0);
const PODS_PER_SERVICE: u32 = 10;
const SERVICES_PER_NAMESPACE: u32 = 100;
const SERVICES_PER_POLICY: usize = 10;
const MESH_WIDE: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
    metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}";

#[cfg(test)]
mod tests {
    use mesh_core::model::{CompileOptions, Record, RecordKey, World};

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("1000x10".parse(), Ok(Crowd { pods: 1000, nodes: 10 }));
        assert_eq!(Crowd { pods: 7, nodes: 1 }.to_string(), "7x1");
        for wrong in ["", "1000", "0x1", "1x0", "ax1", "1x1x1"] {
            assert!(wrong.parse::<Crowd>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mesh_without_fault_of_which_one_endpoint_changes() {
        let crowd = Crowd { pods: 30, nodes: 3 };
        let mut world = World::new(CompileOptions::default());
        crowd.objects().for_each(|object| world.upsert(&object));
        world.commit();
        assert_eq!(world.findings(), []);
        let workloads: Vec<_> = world
            .records()
            .filter_map(|record| match record {
                Record::Workload(workload) => Some(workload),
                _ => None,
            })
            .collect();
        assert_eq!(workloads.len(), 30);
        assert!(workloads.iter().all(|one| one.enrolled && one.ready && one.services.len() == 1));
        assert!(workloads.iter().all(|one| !one.policies.is_empty() && one.node.is_some()));
        crowd.endpoint(7, false).iter().for_each(|object| world.upsert(object));
        let news = world.commit();
        let [(RecordKey::Workload(uid), Some(Record::Workload(workload)))] = &news[..] else {
            panic!("{news:?}");
        };
        assert_eq!((&**uid, workload.ready), (&*Crowd::uid(7), false));
    }
}
