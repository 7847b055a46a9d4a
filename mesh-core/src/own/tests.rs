use super::*;
use crate::model::{CompileOptions, compile};
use crate::resource::{SourceFile, parse};

fn objects(yaml: &str) -> Vec<Object> {
    let parsed = parse(&SourceFile { name: "t.yaml", text: yaml });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    parsed.objects
}

fn seen(name: &str, yaml: &str) -> Sightings {
    let (namespace, name) = name.split_once('/').unwrap();
    let mut sightings = Sightings::of(namespace, name, []);
    objects(yaml).iter().for_each(|object| sightings.apply(object));
    sightings
}

fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: { name: edge, namespace: shop, labels: { from: pod } }
spec:
  serviceAccountName: edge-sa
  containers: [{ name: c, image: i, ports: [{ name: web, containerPort: 8080 }] }]
";
const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: edge, namespace: shop, labels: { from: nowhere } }
spec:
  selector: { matchLabels: { from: deployment } }
  template:
    metadata: { labels: { from: deployment, app: edge } }
    spec: { containers: [{ name: c, image: i, ports: [{ name: tls, containerPort: 8443 }] }] }
";
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: edge, namespace: shop }
spec:
  selector: { from: service }
  ports:
  - { name: http, port: 80, targetPort: 8080 }
  - { name: https, port: 443, targetPort: tls }
  - { name: same, port: 15443 }
  - { name: quic, port: 8000, targetPort: 9000, protocol: UDP }
";
const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  gatewayClassName: istio
  infrastructure: { labels: { from: gateway } }
  listeners: [{ name: http, port: 80, protocol: HTTP }]
";

#[test]
fn what_knows_better_comes_first() {
    let all = [GATEWAY, SERVICE, DEPLOYMENT, POD].join("---\n");
    let mut sightings = seen("shop/edge", &all);
    for (known_by, from, kind) in [
        (KnownBy::Pod, "pod", "Pod"),
        (KnownBy::Deployment, "deployment", "Deployment"),
        (KnownBy::Service, "service", "Service"),
        (KnownBy::KubernetesGateway, "gateway", "KubernetesGateway"),
    ] {
        let own = sightings.own();
        assert_eq!((own.known_by, own.labels.get("from").map(String::as_str)), (known_by, Some(from)));
        sightings.remove(&ObjectKey { kind, namespace: "shop".into(), name: "edge".into() });
    }
    assert_eq!(sightings.own().known_by, KnownBy::Convention);
}

#[test]
fn a_pod_knows_its_account_and_a_gateway_of_kubernetes_its_name() {
    assert_eq!(&*seen("shop/edge", POD).own().service_account, "edge-sa");
    let own = seen("shop/edge", GATEWAY).own();
    assert_eq!(own.labels.get("gateway.networking.k8s.io/gateway-name").unwrap(), "edge");
    assert_eq!(&*own.service_account, "default");
}

#[test]
fn without_anything_the_labels_are_those_of_istio() {
    let own = seen("istio-system/istio-ingressgateway", POD).own();
    let expected = labels(&[("app", "istio-ingressgateway"), ("istio", "ingressgateway")]);
    assert_eq!((own.labels, own.known_by), (expected, KnownBy::Convention));
    let own = Sightings::of("a", "edge", [("istio".to_owned(), "mine".to_owned())]).own();
    assert_eq!(own.labels, labels(&[("app", "edge"), ("istio", "mine")]));
}

#[test]
fn ports_lead_where_the_services_that_select_it_say() {
    let selecting = SERVICE.replace("from: service", "from: deployment");
    let other = selecting.replace("name: edge,", "name: another,").replace("8080", "1234");
    let own = seen("shop/edge", &[DEPLOYMENT, &other, &selecting].join("---\n")).own();
    let expected = BTreeMap::from([(80, 8080), (443, 8443), (15443, 15443)]);
    assert_eq!(own.ports, expected, "its namesake wins, and UDP is none of it");
    assert_eq!((own.target_port(80), own.target_port(9)), (8080, 9));
    assert_eq!(own.udp_ports, BTreeMap::from([(8000, 9000)]));
    assert_eq!((own.udp_target_port(8000), own.udp_target_port(80)), (9000, 80));
    let own = seen("shop/edge", &[DEPLOYMENT, SERVICE].join("---\n")).own();
    assert!(own.ports.is_empty(), "the Service selects others");
    let elsewhere = selecting.replace("namespace: shop", "namespace: other");
    assert!(seen("shop/edge", &[DEPLOYMENT, &elsewhere].join("---\n")).own().ports.is_empty());
}

#[test]
fn a_control_plane_tells_of_its_pods() {
    let running = POD.replace("from: pod", "from: pod, istio: edge")
        + "status: { phase: Running, podIP: 10.0.0.1, podIPs: [{ ip: 10.0.0.1 }] }\n";
    let service = SERVICE.replace("from: service", "from: pod").replace("targetPort: tls", "targetPort: web");
    let snapshot =
        compile(&objects(&[&running, &*service].join("---\n")), &CompileOptions::default()).snapshot;
    let own = Sightings::of("shop", "edge", []).own_in(&snapshot);
    assert_eq!((&*own.service_account, own.target_port(80)), ("edge-sa", 8080));
    let unknown = Sightings::of("shop", "other", []).own_in(&snapshot);
    assert_eq!(unknown, Sightings::of("shop", "other", []).own());
}

#[test]
fn a_waypoint_is_known_by_the_pods_that_say_they_are_its() {
    let pod = "
apiVersion: v1
kind: Pod
metadata: { name: edge-1, namespace: shop, labels: { gateway.networking.k8s.io/gateway-name: edge } }
spec: { serviceAccountName: edge-runs, containers: [{name: c, image: i}] }
status: { podIP: 10.0.0.1 }
";
    let own = seen("shop/edge", &[DEPLOYMENT, pod].join("---")).own();
    assert_eq!((own.known_by, &*own.service_account), (KnownBy::GatewayPod, "edge-runs"));
    assert_eq!(seen("shop/edge", &[POD, pod].join("---")).own().known_by, KnownBy::Pod);
    assert_eq!(seen("shop/other", pod).own().known_by, KnownBy::Convention);
    let mut sightings = seen("shop/edge", pod);
    sightings.remove(&ObjectKey { kind: "Pod", namespace: "shop".into(), name: "edge-1".into() });
    assert_eq!(sightings.own().known_by, KnownBy::Convention);
    // Where resources are not seen, the pod is an endpoint of what stands for the waypoint.
    let gateway = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }
";
    let objects = objects(&[gateway, pod].join("---"));
    let snapshot = compile(&objects, &CompileOptions::default()).snapshot;
    assert_eq!(&*Sightings::of("shop", "edge", []).own_in(&snapshot).service_account, "edge-runs");
}

#[test]
fn an_account_that_is_given_comes_before_what_is_seen() {
    let mut sightings = Sightings::of("shop", "edge", []).with_account(Some("door"));
    assert_eq!(&*sightings.own().service_account, "door");
    objects(POD).iter().for_each(|object| sightings.apply(object));
    assert_eq!(&*sightings.own().service_account, "door");
    let seen = Sightings::of("shop", "edge", []).with_account(None);
    assert_eq!(&*seen.own().service_account, "default");
}
