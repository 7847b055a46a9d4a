//! Resources as users write them, and what they compile to.

use std::time::{Duration, Instant};

use super::*;
use crate::resource::{Finding, Level, Object, SourceFile, parse};

fn objects(yaml: &str) -> Vec<Object> {
    let parsed = parse(&SourceFile { name: "test.yaml", text: yaml });
    let errors: Vec<_> = parsed.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?}\n{yaml}");
    parsed.objects
}

fn compiled(yaml: &str) -> Compiled {
    compile(&objects(yaml), &CompileOptions { node: "node1".to_owned(), ..CompileOptions::default() })
}

fn snapshot(yaml: &str) -> Snapshot {
    compiled(yaml).snapshot
}

/// A pod document. `meta`, `spec` and `status` are the insides of YAML flow mappings and end with a comma if they
/// are not empty.
fn pod(name: &str, meta: &str, spec: &str, status: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{{meta}name: {name}, namespace: {namespace}}}, \
         spec: {{{spec}nodeName: node1, containers: [{{name: c, image: i, ports: [{{name: web, containerPort: 8080}}]}}]}}, \
         status: {{{status}phase: Running}}}}\n"
    )
}

/// A running pod with an address and labels.
fn running(name: &str, ip: &str, labels: &str) -> String {
    let status = format!("podIP: '{ip}', conditions: [{{type: Ready, status: 'True'}}], ");
    pod(name, &format!("labels: {{{labels}}}, "), "", &status)
}

fn service(name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

fn slice(name: &str, ports: &str, endpoints: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let of = name.split_once('-').map_or(name, |(service, _)| service);
    let kind = if endpoints.contains("::") { "IPv6" } else { "IPv4" };
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: {namespace}, \
         labels: {{kubernetes.io/service-name: {of}}}}}, addressType: {kind}, ports: [{ports}], endpoints: [{endpoints}]}}\n"
    )
}

fn namespace(name: &str, labels: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}\n")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The endpoints of the only service's port, as text.
fn endpoints(yaml: &str, port: usize) -> Vec<String> {
    let snapshot = snapshot(yaml);
    let service = snapshot.services().next().unwrap();
    service.ports[port].endpoints.iter().map(|endpoint| endpoint.addr.to_string()).collect()
}

fn only_pod(yaml: &str) -> Workload {
    (**snapshot(yaml).workloads().next().unwrap()).clone()
}

fn has_finding(findings: &[Finding], level: Level, field: &str, reason: &str) -> bool {
    findings.iter().any(|f| f.level == level && f.field == field && f.reason.contains(reason))
}

#[test]
fn the_default_knows_nothing() {
    let empty = Snapshot::default();
    assert!(!empty.is_loaded());
    assert!(!empty.policies().is_loaded());
    assert_eq!(empty.resolve(at("10.0.0.1:80")), Target::External);
    let nothing = snapshot("");
    assert!(nothing.is_loaded() && nothing.policies().is_loaded());
    assert_eq!(nothing.trust_domain().as_str(), "cluster.local");
}

#[test]
fn a_workload_says_who_and_where_it_is() {
    let yaml = [
        "---\n{apiVersion: v1, kind: Node, metadata: {name: node1, labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z1}}}\n",
        &pod(
            "app/web-1",
            "",
            "serviceAccountName: web, ",
            "podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], ",
        ),
    ];
    let snapshot = snapshot(&yaml.concat());
    let web = snapshot.workload_by_ip(ip("10.0.0.1")).unwrap();
    assert_eq!(&*web.uid, "Kubernetes//Pod/app/web-1");
    assert_eq!(web.identity.uri(), "spiffe://cluster.local/ns/app/sa/web");
    assert_eq!(web.ips, [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!((&*web.region, &*web.zone, web.node.as_deref()), ("r1", "z1", Some("node1")));
    assert_eq!((&*web.service_account, &*web.cluster), ("web", "Kubernetes"));
    for same in ["fd00::1", "::ffff:10.0.0.1"] {
        assert!(Arc::ptr_eq(web, snapshot.workload_by_ip(ip(same)).unwrap()));
    }
    assert!(Arc::ptr_eq(web, snapshot.workload_by_uid("Kubernetes//Pod/app/web-1").unwrap()));
    assert_eq!(only_pod(&running("app/a", "10.0.0.1", "")).identity.service_account(), "default");
}

#[test]
fn enrolment() {
    let ambient = "istio.io/dataplane-mode: ambient";
    let injected = "istio-injection: enabled";
    let cases: &[(&str, &str, &str, &str, bool)] = &[
        // Namespace, its labels, the pod's labels, the pod's other metadata.
        ("app", "", "", "", false),
        ("app", ambient, "", "", true),
        ("app", ambient, "istio.io/dataplane-mode: none", "", false),
        ("app", ambient, "istio.io/dataplane-mode: other", "", true),
        ("app", "", ambient, "", true),
        ("app", "istio.io/dataplane-mode: none", ambient, "", true),
        ("app", injected, "", "", true),
        ("app", "istio-injection: disabled", "", "", false),
        ("app", injected, "istio.io/dataplane-mode: none", "", false),
        ("app", injected, "istio-injection: disabled", "", false),
        ("app", injected, "sidecar.istio.io/inject: 'false'", "", false),
        ("app", injected, "sidecar.istio.io/inject: 'true'", "", true),
        ("app", injected, "", "annotations: {sidecar.istio.io/inject: 'false'}, ", false),
        ("app", "istio-injection: enabled, istio.io/dataplane-mode: none", "", "", false),
        ("app", ambient, "sidecar.istio.io/inject: 'false'", "", true),
        ("app", ambient, "", "annotations: {sidecar.istio.io/status: '{}'}, ", false),
        ("app", ambient, ambient, "annotations: {sidecar.istio.io/status: '{}'}, ", false),
        ("istio-system", ambient, "", "", false),
        ("kube-system", ambient, "", "", false),
        ("kube-system", injected, "", "", false),
        ("kube-system", "", ambient, "", true),
    ];
    for (name, namespace_labels, labels, meta, enrolled) in cases {
        let pod = pod(&format!("{name}/a"), &format!("labels: {{{labels}}}, {meta}"), "", "");
        let yaml = namespace(name, namespace_labels) + &pod;
        assert_eq!(only_pod(&yaml).enrolled, *enrolled, "{yaml}");
    }
    let host = pod("app/a", &format!("labels: {{{ambient}}}, "), "hostNetwork: true, ", "");
    assert!(!only_pod(&(namespace("app", ambient) + &host)).enrolled);
    let bypass =
        format!("labels: {{{ambient}}}, annotations: {{ambient.istio.io/bypass-inbound-capture: 'true'}}, ");
    let bypass = only_pod(&pod("app/a", &bypass, "", ""));
    assert!(bypass.enrolled && bypass.inbound_bypass && !bypass.accepts_tunnel());
}

#[test]
fn names_for_telemetry() {
    let owner = |kind: &str, name: &str| {
        format!(
            "ownerReferences: [{{apiVersion: apps/v1, kind: {kind}, name: {name}, uid: u, controller: true}}], "
        )
    };
    let hashed = "labels: {pod-template-hash: 7d4c8}, ";
    let cases = [
        (owner("ReplicaSet", "web-v1-7d4c8") + hashed, "web-v1", WorkloadType::Deployment),
        (owner("ReplicaSet", "web-v1-7d4c8"), "p-1", WorkloadType::Pod),
        (owner("ReplicaSet", "web-v1-other") + hashed, "p-1", WorkloadType::Pod),
        (owner("StatefulSet", "db"), "db", WorkloadType::StatefulSet),
        (owner("DaemonSet", "agent"), "agent", WorkloadType::DaemonSet),
        (owner("Job", "once"), "once", WorkloadType::Job),
        (owner("Rollout", "new"), "p-1", WorkloadType::Pod),
        (String::new(), "p-1", WorkloadType::Pod),
    ];
    for (meta, name, kind) in cases {
        let workload = only_pod(&pod("app/p-1", &meta, "", ""));
        assert_eq!((&*workload.workload_name, workload.workload_type), (name, kind), "{meta}");
        assert_eq!(&*workload.canonical_name, name);
        assert_eq!((&*workload.canonical_revision, &*workload.version), ("latest", "latest"));
    }
    // Labels, and canonical name, canonical revision, app and version.
    let cases = [
        ("app: a, version: v", ["a", "v", "a", "v"]),
        (
            "app: a, app.kubernetes.io/name: k, version: v, app.kubernetes.io/version: kv",
            ["k", "kv", "a", "v"],
        ),
        (
            "app: a, service.istio.io/canonical-name: c, service.istio.io/canonical-revision: r",
            ["c", "r", "a", "r"],
        ),
        ("service.istio.io/canonical-name: c, version: v", ["c", "v", "c", "v"]),
        ("app: ''", ["p", "latest", "p", "latest"]),
    ];
    for (labels, expected) in cases {
        let w = only_pod(&running("app/p", "10.0.0.1", labels));
        assert_eq!([&*w.canonical_name, &*w.canonical_revision, &*w.app, &*w.version], expected, "{labels}");
    }
}

#[test]
fn probe_ports() {
    let yaml = "
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: node1,
  initContainers: [
    {name: once, image: i, readinessProbe: {tcpSocket: {port: 1}}},
    {name: sidecar, image: i, restartPolicy: Always, startupProbe: {tcpSocket: {port: 15}}}],
  containers: [
    {name: a, image: i, ports: [{name: health, containerPort: 8081}], livenessProbe: {httpGet: {port: health}},
     readinessProbe: {httpGet: {port: 9000, host: elsewhere}}},
    {name: b, image: i, livenessProbe: {grpc: {port: 50051}}, readinessProbe: {httpGet: {port: 8081}},
     startupProbe: {exec: {command: [x]}}}]}}";
    assert_eq!(only_pod(yaml).probe_ports, [15, 8081, 50051]);
}

#[test]
fn a_pod_of_the_host_network_that_asks_to_be_captured_is_told_why_not() {
    let asks = "labels: {istio.io/dataplane-mode: ambient}, ";
    let compiled = compiled(&pod("app/host", asks, "hostNetwork: true, ", ""));
    let field = "metadata.labels[\"istio.io/dataplane-mode\"]";
    assert!(has_finding(&compiled.findings, Level::Warning, field, "hostNetwork"));
    for (meta, spec) in [("", "hostNetwork: true, "), (asks, "")] {
        let compiled = self::compiled(&pod("app/a", meta, spec, ""));
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
    }
}

#[test]
fn a_pod_of_a_file_has_the_uid_that_its_kubelet_gave_it() {
    let mirror =
        "annotations: {kubernetes.io/config.mirror: ab12, kubernetes.io/config.hash: ab12}, uid: u-1, ";
    let other = "annotations: {kubernetes.io/config.hash: ab12}, uid: u-1, ";
    for (meta, uid) in [(mirror, "ab12"), (other, "u-1"), ("uid: u-1, ", "u-1")] {
        assert_eq!(only_pod(&pod("app/a", meta, "", "")).pod_uid.as_deref(), Some(uid), "{meta}");
    }
}

#[test]
fn which_pods_count() {
    let yaml = [
        pod("app/ended", "", "", "podIP: 10.0.0.1, ").replace("Running", "Succeeded"),
        pod("app/failed", "", "", "podIP: 10.0.0.2, ").replace("Running", "Failed"),
        pod("app/far", "", "", "podIP: 10.0.0.3, ").replace("node1", "node2"),
        pod("app/host", "", "hostNetwork: true, ", "podIP: 10.0.0.4, "),
        pod("app/pending", "", "", "").replace("Running", "Pending"),
        running("app/here", "10.0.0.5", ""),
    ];
    let snapshot = snapshot(&yaml.concat());
    let names: Vec<_> = snapshot.workloads().map(|workload| &*workload.name).collect();
    assert_eq!(names, ["far", "here", "host", "pending"]);
    let local: Vec<_> = snapshot.local_pods().map(|workload| &*workload.name).collect();
    assert_eq!(local, ["here", "pending"]);
    assert!(snapshot.workload_by_ip(ip("10.0.0.1")).is_none());
    assert!(snapshot.workload_by_ip(ip("10.0.0.4")).is_none(), "a node's address is nobody's");
    assert!(snapshot.workload_by_uid("Kubernetes//Pod/app/host").is_some());
}

#[test]
fn an_address_belongs_to_the_newer_pod() {
    let meta = |second: u8| format!("creationTimestamp: '2024-01-01T00:00:0{second}Z', ");
    let old = pod("app/old", &meta(1), "", "podIP: 10.0.0.1, ");
    let new = pod("app/new", &meta(2), "", "podIP: 10.0.0.1, ");
    let ending =
        pod("app/z", &(meta(3) + "deletionTimestamp: '2024-01-01T00:01:00Z', "), "", "podIP: 10.0.0.1, ");
    let compiled = compiled(&[old, new, ending].concat());
    assert_eq!(&*compiled.snapshot.workload_by_ip(ip("10.0.0.1")).unwrap().name, "new");
    assert_eq!(compiled.snapshot.workloads().count(), 3);
    assert!(has_finding(&compiled.findings, Level::Warning, "status.podIPs", "belongs to Pod app/new"));
}

#[test]
fn resolve_finds_the_target() {
    let yaml = [
        "---\n{apiVersion: v1, kind: Node, metadata: {name: node1}, spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24, 'fd00::/64']}}\n",
        &running("app/a", "10.0.0.1", "app: a"),
        &service(
            "app/s",
            "clusterIPs: [10.96.0.1, 'fd96::1'], clusterIP: 10.96.0.1, selector: {app: a}, ports: [{name: x, port: 80, targetPort: 8080}, {name: y, port: 81, targetPort: web}, {name: u, port: 53, protocol: UDP}]",
        ),
    ];
    let snapshot = snapshot(&yaml.concat());
    let service = snapshot.services().next().unwrap();
    let to = |port| Target::Service { service: Arc::clone(service), port };
    let workload = Arc::clone(snapshot.workload_by_ip(ip("10.0.0.1")).unwrap());
    assert_eq!(&*service.hostname, "s.app.svc.cluster.local");
    let services: Vec<_> = workload.services.iter().map(|one| one.service.to_string()).collect();
    assert_eq!(services, ["app/s.app.svc.cluster.local"]);
    assert_eq!(service.ports[1].endpoints[0].workload.as_ref(), Some(&workload));
    assert_eq!((service.ports.len(), service.udp_ports.len()), (2, 1));
    assert_eq!(service.udp_ports[0].endpoints[0].addr.to_string(), "10.0.0.1:53");
    let cases = [
        ("10.96.0.1:80", to(0)),
        ("[::ffff:10.96.0.1]:81", to(1)),
        ("[fd96::1]:80", to(0)),
        ("10.96.0.1:82", Target::ServiceWithoutPort(Arc::clone(service))),
        ("10.96.0.1:53", Target::ServiceWithoutPort(Arc::clone(service))),
        ("10.0.0.1:80", Target::Workload { workload: Arc::clone(&workload), addr: at("10.0.0.1:80") }),
        ("[::ffff:10.0.0.1]:9", Target::Workload { workload, addr: at("10.0.0.1:9") }),
        ("10.0.0.2:80", Target::UnknownInPodNetwork),
        ("[fd00::2]:80", Target::UnknownInPodNetwork),
        ("10.0.1.2:80", Target::External),
        ("93.184.216.34:443", Target::External),
    ];
    for (addr, target) in cases {
        assert_eq!(snapshot.resolve(at(addr)), target, "{addr}");
    }
}

#[test]
fn endpoints_come_from_slices() {
    let svc =
        service("app/s", "clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: admin, port: 81}]");
    let first = slice(
        "app/s-1",
        "{name: http, port: 8080}, {name: admin, port: 9090}, {name: dns, port: 53, protocol: UDP}",
        "{addresses: [10.0.0.3], conditions: {ready: true}}, {addresses: [10.0.0.2], conditions: {ready: false}}, \
         {addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.0.0.1]}",
    );
    let second =
        slice("app/s-2", "{name: http, port: 8081}", "{addresses: [10.0.0.9]}, {addresses: [127.0.0.2]}");
    let twice = slice("app/s-3", "{name: http, port: 8080}", "{addresses: [10.0.0.3]}");
    let foreign = slice("other/s-4", "{name: http, port: 8080}", "{addresses: [10.0.0.66]}");
    let yaml = [svc.clone(), first.clone(), second, twice, foreign].concat();
    let expected = ["10.0.0.1:8080", "10.0.0.3:8080", "10.0.0.9:8081", "127.0.0.2:8081"];
    assert_eq!(endpoints(&yaml, 0), expected);
    assert_eq!(endpoints(&yaml, 1), ["10.0.0.1:9090", "10.0.0.3:9090"]);
    // The same number and even the same name of UDP are another port.
    let both = yaml
        .replace("{name: admin, port: 81}", "{name: admin, port: 81}, {name: dns, port: 80, protocol: UDP}");
    assert_eq!(endpoints(&both, 0), expected);
    assert_eq!(endpoints(&both, 1), ["10.0.0.1:9090", "10.0.0.3:9090"]);
    let both = snapshot(&both);
    let of_both = both.services().find(|it| *it.name == *"s").unwrap();
    let [udp] = of_both.udp_ports.as_slice() else { panic!("{:?}", of_both.udp_ports) };
    let addresses: Vec<_> = udp.endpoints.iter().map(|it| it.addr.to_string()).collect();
    assert_eq!((udp.number, addresses), (80, vec!["10.0.0.1:53".to_owned(), "10.0.0.3:53".to_owned()]));
    let early = svc.replace("clusterIP:", "publishNotReadyAddresses: true, clusterIP:") + &first;
    assert_eq!(endpoints(&early, 0), ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]);
    // Without a name on either side.
    let unnamed = service("app/s", "clusterIP: 10.96.0.1, ports: [{port: 80}]");
    assert_eq!(
        endpoints(&(unnamed + &slice("app/s-1", "{port: 8080}", "{addresses: [10.0.0.1]}")), 0),
        ["10.0.0.1:8080"]
    );
    // IPv6.
    let v6 = svc + &slice("app/s-1", "{name: http, port: 8080}", "{addresses: ['fd00::1']}");
    assert_eq!(endpoints(&v6, 0), ["[fd00::1]:8080"]);
}

#[test]
fn a_slice_names_pods_in_their_nodes_network() {
    let yaml = [
        pod("app/host", "", "hostNetwork: true, ", "podIP: 192.168.0.1, "),
        running("app/victim", "10.0.0.1", ""),
        pod("app/liar", "", "hostNetwork: true, ", "podIP: 192.168.0.1, "),
        service("app/s", "clusterIP: 10.96.0.1, ports: [{port: 80}]"),
        slice(
            "app/s-1",
            "{port: 80}",
            "{addresses: [192.168.0.1], targetRef: {kind: Pod, name: host, namespace: app}}, \
          {addresses: [10.0.0.1], targetRef: {kind: Pod, name: liar, namespace: app}}",
        ),
    ];
    let snapshot = snapshot(&yaml.concat());
    let endpoints = &snapshot.services().next().unwrap().ports[0].endpoints;
    let names: Vec<_> = endpoints.iter().map(|e| &*e.workload.as_ref().unwrap().name).collect();
    assert_eq!(names, ["victim", "host"], "an address in the pods' network tells whose it is, not the slice");
}

#[test]
fn without_slices_pods_are_selected() {
    let yaml = [
        running("app/a", "10.0.0.1", "app: a, tier: x"),
        running("app/b", "10.0.0.2", "app: a, tier: x").replace("status: 'True'", "status: 'False'"),
        running("app/c", "10.0.0.3", "app: a, tier: x"),
        pod("app/d", "labels: {app: a, tier: x}, ", "", "podIP: 10.0.0.4, "),
        running("app/e", "10.0.0.5", "app: a"),
        running("other/f", "10.0.0.6", "app: a, tier: x"),
        pod(
            "app/g",
            "deletionTimestamp: '2024-01-01T00:00:00Z', labels: {app: a, tier: x}, ",
            "",
            "podIP: 10.0.0.7, ",
        ),
    ]
    .concat();
    let svc = |spec: &str| {
        service("app/s", &format!("clusterIP: 10.96.0.1, selector: {{app: a, tier: x}}, {spec}"))
    };
    let ports = "ports: [{name: a, port: 80}, {name: b, port: 81, targetPort: 9000}, {name: c, port: 82, targetPort: web}, {name: d, port: 83, targetPort: none}]";
    let yaml = yaml + &svc(ports);
    assert_eq!(endpoints(&yaml, 0), ["10.0.0.1:80", "10.0.0.3:80", "10.0.0.4:80"]);
    assert_eq!(endpoints(&yaml, 1), ["10.0.0.1:9000", "10.0.0.3:9000", "10.0.0.4:9000"]);
    assert_eq!(endpoints(&yaml, 2), ["10.0.0.1:8080", "10.0.0.3:8080", "10.0.0.4:8080"]);
    assert!(endpoints(&yaml, 3).is_empty());
    let early = yaml.replace("clusterIP:", "publishNotReadyAddresses: true, clusterIP:");
    assert_eq!(endpoints(&early, 0).len(), 4);
    // A slice, even an empty one, is the API server's word.
    assert!(endpoints(&(yaml + &slice("app/s-1", "{name: a, port: 80}", "")), 0).is_empty());
}

#[test]
fn local_services_only_have_local_endpoints() {
    let yaml = service("app/s", "clusterIP: 10.96.0.1, internalTrafficPolicy: Local, ports: [{port: 80}]")
        + &slice(
            "app/s-1",
            "{port: 80}",
            "{addresses: [10.0.0.1], nodeName: node1}, {addresses: [10.0.0.2], nodeName: node2}, {addresses: [10.0.0.3]}",
        );
    assert_eq!(endpoints(&yaml, 0), ["10.0.0.1:80"]);
    assert!(snapshot(&yaml).services().next().unwrap().local_only);
}

#[test]
fn the_mesh_says_who_sees_services_that_do_not_say() {
    let mesh = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, \
                data: {mesh: \"defaultServiceExportTo: ['.']\"}}\n";
    let plain = service("app/s", "clusterIP: 10.96.0.1, ports: [{port: 80}]");
    let own = Exported::To(std::iter::once(Arc::from("app")).collect());
    let public = |yaml: &str| {
        yaml.replacen("metadata: {", "metadata: {annotations: {networking.istio.io/exportTo: '*'}, ", 1)
    };
    for (yaml, expected) in [
        (plain.clone(), Exported::Everywhere),
        (plain.clone() + mesh, own.clone()),
        (public(&plain) + mesh, Exported::Everywhere),
    ] {
        assert_eq!(snapshot(&yaml).services().next().unwrap().exported, expected, "{yaml}");
    }
    // Whatever came first.
    let mut world = World::new(CompileOptions::default());
    let mut mirror = Mirror::new("node1");
    for object in objects(&plain).iter().chain(&objects(mesh)) {
        world.upsert(object);
        world.commit().into_iter().filter_map(|(_, record)| record).for_each(|it| mirror.apply(it));
    }
    assert_eq!(mirror.snapshot().services().next().unwrap().exported, own);
}

#[test]
fn owners_say_which_endpoints_are_preferred() {
    use crate::cluster::TrafficDistribution::{PreferSameNode, PreferSameZone};
    let annotated = |value: &str| format!("networking.istio.io/traffic-distribution: {value}");
    for (field, annotation, expected) in [
        ("PreferClose", String::new(), Some(PreferSameZone)),
        ("PreferSameZone", String::new(), Some(PreferSameZone)),
        ("PreferSameNode", String::new(), Some(PreferSameNode)),
        ("PreferSameNode", annotated("PreferClose"), Some(PreferSameZone)),
        ("PreferSameNode", annotated("Any"), None),
    ] {
        let yaml = service(
            "app/s",
            &format!("clusterIP: 10.96.0.1, trafficDistribution: {field}, ports: [{{port: 80}}]"),
        );
        let yaml = yaml.replacen("metadata: {", &format!("metadata: {{annotations: {{{annotation}}}, "), 1);
        let snapshot = snapshot(&yaml);
        let service = snapshot.services().next().unwrap();
        assert_eq!(service.traffic_distribution, expected, "{field} {annotation}");
    }
}

/// What does not say has it from its namespace, also when that changes its mind.
#[test]
fn namespaces_say_which_endpoints_are_preferred() {
    use crate::cluster::TrafficDistribution::{PreferSameNode, PreferSameZone};
    let annotation = |value: &str| format!("networking.istio.io/traffic-distribution: {value}");
    let namespace = |value: &str| {
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: app, annotations: {{{value}}}}}}}\n")
    };
    let own = |name: &str, annotation: &str, field: &str| {
        let spec = format!("clusterIP: None, {field}ports: [{{port: 80}}]");
        let yaml = service(&format!("app/{name}"), &spec);
        yaml.replacen("metadata: {", &format!("metadata: {{annotations: {{{annotation}}}, "), 1)
    };
    let entry = |name: &str, annotation: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: app, \
             annotations: {{{annotation}}}}}, spec: {{hosts: [{name}.example], resolution: STATIC, \
             ports: [{{name: tcp, number: 80}}]}}}}\n"
        )
    };
    let rest = [
        own("silent", "", ""),
        own("field", "", "trafficDistribution: PreferSameZone, "),
        own("annotated", &annotation("Any"), ""),
        entry("entry", ""),
        entry("other", &annotation("PreferSameZone")),
        service("elsewhere/s", "clusterIP: None, ports: [{port: 80}]"),
    ];
    let objects = |namespace: &str| objects(&[namespace.to_owned(), rest.concat()].concat());
    let mut world = World::new(CompileOptions::default());
    let mut mirror = Mirror::new("");
    objects(&namespace(&annotation("PreferSameNode"))).iter().for_each(|object| world.upsert(object));
    let mut now = |world: &mut World| {
        for (key, record) in world.commit() {
            match record {
                Some(record) => mirror.apply(record),
                None => mirror.remove(&key),
            }
        }
        let snapshot = mirror.snapshot();
        let all = snapshot.services().map(|it| (it.name.to_string(), it.traffic_distribution));
        all.collect::<std::collections::BTreeMap<_, _>>()
    };
    let seen = now(&mut world);
    for (name, expected) in [
        ("silent", Some(PreferSameNode)),
        ("field", Some(PreferSameZone)),
        ("annotated", None),
        ("entry.example", Some(PreferSameNode)),
        ("other.example", Some(PreferSameZone)),
        ("s", None),
    ] {
        assert_eq!(seen[name], expected, "{name}");
    }
    world.upsert(&objects(&namespace("")).remove(0));
    let seen = now(&mut world);
    assert_eq!([seen["silent"], seen["entry.example"]], [None, None]);
    assert_eq!(seen["other.example"], Some(PreferSameZone));
}

#[test]
fn kinds_of_services() {
    let affinity = |spec: &str| {
        let spec = format!("clusterIP: 10.96.0.1, {spec}, ports: [{{port: 80}}]");
        snapshot(&service("app/s", &spec)).services().next().unwrap().session_affinity
    };
    assert_eq!(affinity("sessionAffinity: None"), None);
    assert_eq!(affinity("sessionAffinity: ClientIP"), Some(Duration::from_secs(10_800)));
    let config = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}";
    assert_eq!(affinity(config), Some(Duration::from_secs(60)));

    let headless = snapshot(&service("app/s", "clusterIP: None, ports: [{port: 80}]"));
    let service_of = headless.services().next().unwrap();
    assert!(service_of.headless && service_of.vips.is_empty());

    let balancer = "---\n{apiVersion: v1, kind: Service, metadata: {name: s, namespace: app}, spec: {type: LoadBalancer,
        clusterIP: 10.96.0.1, ports: [{port: 80, appProtocol: http}]}, status: {loadBalancer: {ingress: [{ip: 203.0.113.1},
        {ip: 203.0.113.2, ipMode: Proxy}, {hostname: x}]}}}";
    let balancer = snapshot(balancer);
    assert_eq!(balancer.services().next().unwrap().vips, [ip("10.96.0.1"), ip("203.0.113.1")]);
    assert_eq!(balancer.services().next().unwrap().ports[0].app_protocol.as_deref(), Some("http"));
    assert!(matches!(balancer.resolve(at("203.0.113.1:80")), Target::Service { .. }));

    let alias = snapshot(&service("app/s", "type: ExternalName, externalName: example.com"));
    assert_eq!(alias.services().count(), 0);
}

#[test]
fn the_older_service_keeps_an_address() {
    let aged = |name: &str, second: u8| {
        service(name, "clusterIP: 10.96.0.1, ports: [{port: 80}]").replace(
            "metadata: {",
            &format!("metadata: {{creationTimestamp: '2024-01-01T00:00:0{second}Z', "),
        )
    };
    let compiled = compiled(&(aged("app/a", 2) + &aged("app/b", 1)));
    let Target::Service { service, .. } = compiled.snapshot.resolve(at("10.96.0.1:80")) else {
        panic!("the address is a service's");
    };
    assert_eq!(&*service.name, "b");
    assert!(has_finding(
        &compiled.findings,
        Level::Warning,
        "spec.clusterIPs",
        "Service app/b, which is older"
    ));
}

#[test]
fn identities_are_of_the_trust_domain_that_issues_them() {
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'trustDomain: td.new'}}";
    let all = objects(&format!("---\n{map}\n{}", running("app/a", "10.0.0.1", "")));
    for (issued, findings) in [("td.new", 0), ("td.other", 1)] {
        let trust_domain = Some(TrustDomain::parse(issued).unwrap());
        let compiled = compile(&all, &CompileOptions { trust_domain, ..CompileOptions::default() });
        assert_eq!(compiled.snapshot.workloads().next().unwrap().identity.trust_domain().as_str(), issued);
        assert_eq!(compiled.findings.len(), findings, "{:?}", compiled.findings);
        assert!(
            compiled
                .findings
                .iter()
                .all(|it| it.level == Level::Error && it.field == "data.mesh.trustDomain")
        );
    }
}

#[test]
fn mesh_config_sets_the_trust_domain() {
    let config = |mesh: &str| {
        compiled(&format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {}\n{}",
            mesh.replace('\n', "\n    "),
            running("app/a", "10.0.0.1", "")
        ))
    };
    let good =
        config("trustDomain: td.new\ntrustDomainAliases: [z.old, a.old, td.new]\naccessLogFile: /dev/stdout");
    assert_eq!(good.snapshot.trust_domain().as_str(), "td.new");
    let aliases: Vec<_> = good.snapshot.trust_domain_aliases().iter().map(TrustDomain::as_str).collect();
    assert_eq!(aliases, ["a.old", "z.old"]);
    assert_eq!(good.snapshot.mesh().access_log_file.as_deref(), Some("/dev/stdout"));
    assert_eq!(good.snapshot.workloads().next().unwrap().identity.trust_domain().as_str(), "td.new");
    assert!(good.findings.is_empty(), "{:?}", good.findings);
    for (mesh, level, field) in [
        ("trustDomain: TD", Level::Error, "data.mesh.trustDomain"),
        ("trustDomain: [a]", Level::Error, "data.mesh.trustDomain"),
        ("trustDomainAliases: [a*]", Level::Error, "data.mesh.trustDomainAliases[0]"),
        ("trustDomainAliases: a", Level::Error, "data.mesh.trustDomainAliases"),
        ("enableAutoMtls: false", Level::Warning, "data.mesh.enableAutoMtls"),
        ("just text", Level::Error, "data.mesh"),
        ("a: [", Level::Error, "data.mesh"),
    ] {
        let compiled = config(mesh);
        assert!(has_finding(&compiled.findings, level, field, ""), "{mesh}: {:?}", compiled.findings);
        assert_eq!(compiled.snapshot.trust_domain().as_str(), "cluster.local");
    }
}

#[test]
fn the_last_definition_of_an_object_counts() {
    let compiled = compiled(&(running("app/a", "10.0.0.1", "") + &running("app/a", "10.0.0.2", "")));
    assert!(compiled.snapshot.workload_by_ip(ip("10.0.0.1")).is_none());
    assert!(compiled.snapshot.workload_by_ip(ip("10.0.0.2")).is_some());
    let [finding] = &compiled.findings[..] else { panic!("one finding: {:?}", compiled.findings) };
    assert_eq!(
        finding.to_string(),
        "test.yaml:1 Warning metadata.name: Pod app/a is defined again in test.yaml:2, which is used instead"
    );
}

#[test]
fn the_dump_is_complete_and_stable() {
    let yaml = [
        running("app/b", "10.0.0.2", "app: a"),
        running("app/a", "10.0.0.1", "app: a"),
        service("app/s", "clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80}]"),
    ];
    let dump = serde_json::to_value(snapshot(&yaml.concat())).unwrap();
    assert_eq!(dump["loaded"], true);
    assert_eq!(dump["workloads"][0]["identity"], "spiffe://cluster.local/ns/app/sa/default");
    assert_eq!(dump["workloads"][1]["name"], "b");
    assert_eq!(dump["services"][0]["ports"][0]["endpoints"][0]["workload_uid"], "Kubernetes//Pod/app/a");
    let mut reversed = objects(&yaml.concat());
    reversed.reverse();
    let options = CompileOptions { node: "node1".to_owned(), ..CompileOptions::default() };
    assert_eq!(serde_json::to_value(compile(&reversed, &options).snapshot).unwrap(), dump);
}

/// Measured in a debug build as well, so the bound is loose; a release build takes a twentieth of it.
#[test]
fn ten_thousand_pods_compile_quickly() {
    let template =
        objects(&running("app/a", "10.0.0.1", "app: a, istio.io/dataplane-mode: ambient")).remove(0);
    let kind_of = |index: usize| format!("app-{}", index % 500);
    let mut all: Vec<Object> = (0..10_000)
        .map(|index| {
            let mut object = template.clone();
            object.meta.name = format!("pod-{index}").into();
            object.meta.labels.insert("app".to_owned(), kind_of(index));
            if let crate::resource::Spec::Pod(pod) = &mut object.spec {
                let status = pod.status.as_mut().expect("the template has one");
                status.pod_ip =
                    Some(format!("10.{}.{}.{}", index / 62500, index / 250 % 250, index % 250 + 1));
            }
            object
        })
        .collect();
    for index in 0..500 {
        let spec = format!("{{selector: {{matchLabels: {{app: app-{index}}}}}, rules: [{{}}]}}");
        let (number, ip) = (index % 250, index / 250);
        let app =
            format!("clusterIP: 10.96.{ip}.{number}, selector: {{app: app-{index}}}, ports: [{{port: 80}}]");
        let policy = format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p{index}, namespace: app}}, spec: {spec}}}\n"
        );
        all.extend(objects(&(policy + &service(&format!("app/s{index}"), &app))));
    }
    let start = Instant::now();
    let compiled = compile(&all, &CompileOptions::default());
    let elapsed = start.elapsed();
    assert_eq!(compiled.snapshot.workloads().count(), 10_000);
    assert!(compiled.snapshot.services().all(|service| service.ports[0].endpoints.len() == 20));
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    let line = format!("10,000 pods, 500 services and 500 policies compiled in {elapsed:?}\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
}
