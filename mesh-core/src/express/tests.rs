use super::*;
use crate::model::{CompileOptions, compile};
use crate::resource::{Level, SourceFile, parse};

/// Pods `app/a` (10.0.0.1), `app/b` (10.0.0.2) and `app/c` (10.0.0.3, `fd00::3`) of one node, `app/d` (10.0.0.4) that is
/// not enrolled; the service `app/b` with b's port 8080, `app/bc` with b and c, `app/bd` with b and d.
fn world(yaml: &str) -> Snapshot {
    let pod = |name: &str, last: u8, mode: &str, more: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: app,\n  labels: {{app: {name}, istio.io/dataplane-mode: {mode}}}}},\n  spec: {{nodeName: node1, serviceAccountName: {name}, containers: [{{name: c, image: i}}]}},\n  status: {{podIP: 10.0.0.{last}, podIPs: [{{ip: 10.0.0.{last}}}{more}]}}}}\n"
        )
    };
    let service = |name: &str, ip: u8, lasts: &[u8]| {
        let endpoints: Vec<String> = lasts
            .iter()
            .map(|last| format!("{{addresses: [10.0.0.{last}], conditions: {{ready: true}}}}"))
            .collect();
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: app}},\n  spec: {{clusterIP: 10.96.0.{ip}, selector: {{none: such}}, ports: [{{port: 80, targetPort: 8080}}]}}}}\n---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-1, namespace: app,\n  labels: {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{port: 8080}}],\n  endpoints: [{}]}}\n",
            endpoints.join(", ")
        )
    };
    let text = [
        pod("a", 1, "ambient", ""),
        pod("b", 2, "ambient", ""),
        pod("c", 3, "ambient", ", {ip: 'fd00::3'}"),
        pod("d", 4, "none", ""),
        service("b", 1, &[2]),
        service("bc", 2, &[2, 3]),
        service("bd", 3, &[2, 4]),
        "---\n{apiVersion: v1, kind: Node, metadata: {name: node1}, spec: {podCIDRs: [10.0.0.0/24]}}\n"
            .to_owned(),
        yaml.to_owned(),
    ]
    .concat();
    let parsed = parse(&SourceFile { name: "test.yaml", text: &text });
    let errors: Vec<_> = parsed.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    compile(&parsed.objects, &CompileOptions::default()).snapshot
}

fn planned(snapshot: &Snapshot) -> Plan {
    plan(snapshot, &pods(snapshot), |_, _, _| true)
}

/// The captured ones.
fn pods(snapshot: &Snapshot) -> Vec<Arc<Workload>> {
    ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        .map(|ip| Arc::clone(snapshot.workload_by_ip(ip.parse().unwrap()).unwrap()))
        .to_vec()
}

fn uid(name: &str) -> Arc<str> {
    format!("Kubernetes//Pod/app/{name}").into()
}

/// `yes`, `no`, or nothing.
fn verdict(plan: &Plan, source: &str, ip: &str, port: Option<u16>) -> &'static str {
    let question = Question { source: uid(source), ip: ip.parse().unwrap(), port };
    plan.verdicts.get(&question).map_or("", |verdict| if verdict.allowed { "yes" } else { "no" })
}

fn backends(plan: &Plan, source: &str, ip: &str) -> Vec<String> {
    let question = Question { source: uid(source), ip: ip.parse().unwrap(), port: Some(80) };
    let found = plan.backends.get(&question).map(Vec::as_slice).unwrap_or_default();
    found.iter().map(|(at, _)| at.to_string()).collect()
}

#[test]
fn pods_of_a_node_reach_each_other_and_nobody_else() {
    let plan = planned(&world(""));
    assert_eq!(verdict(&plan, "a", "10.0.0.2", None), "yes");
    assert_eq!(verdict(&plan, "b", "10.0.0.1", None), "yes");
    for (ip, why) in [
        ("10.0.0.1", "itself"),
        ("10.0.0.4", "not enrolled"),
        ("fd00::3", "no address of that family to come from"),
        ("10.96.0.1", "a service"),
    ] {
        assert_eq!(verdict(&plan, "a", ip, None), "", "{why}");
    }
}

#[test]
fn policies_stand_port_by_port() {
    let plan = planned(&world(
        "---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: b, namespace: app},\n  spec: {selector: {matchLabels: {app: b}}, action: DENY, rules: [\n    {from: [{source: {principals: [cluster.local/ns/app/sa/a]}}], to: [{operation: {ports: ['8080']}}]}]}}\n",
    ));
    assert_eq!(verdict(&plan, "a", "10.0.0.2", None), "yes");
    assert_eq!(verdict(&plan, "a", "10.0.0.2", Some(8080)), "no");
    assert_eq!(verdict(&plan, "c", "10.0.0.2", Some(8080)), "", "it is as all the others are");
    assert!(backends(&plan, "a", "10.96.0.1").is_empty(), "the proxy says why");
    assert_eq!(backends(&plan, "c", "10.96.0.1"), ["10.0.0.2:8080"]);
}

#[test]
fn what_has_to_be_looked_at_is_left_to_the_proxy() {
    let policy = |annotations: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy,\n  metadata: {{name: b, namespace: app{annotations}}}, spec: {{selector: {{matchLabels: {{app: b}}}}, {spec}}}}}\n"
        )
    };
    let cases = [
        policy(", annotations: {istio.io/dry-run: 'true'}", "action: DENY, rules: [{}]"),
        policy("", "action: CUSTOM, provider: {name: p}, rules: [{}]"),
    ];
    for case in cases {
        let plan = planned(&world(&case));
        assert_eq!(verdict(&plan, "a", "10.0.0.2", None), "", "{case}");
        assert_eq!(verdict(&plan, "a", "10.0.0.3", None), "yes", "{case}");
        assert!(backends(&plan, "a", "10.96.0.1").is_empty(), "{case}");
    }
}

#[test]
fn a_service_is_decided_about_as_a_whole() {
    let snapshot = world("");
    let plan = planned(&snapshot);
    assert_eq!(backends(&plan, "a", "10.96.0.2"), ["10.0.0.2:8080", "10.0.0.3:8080"]);
    assert!(backends(&plan, "b", "10.96.0.2").is_empty(), "one of them is itself");
    assert!(backends(&plan, "a", "10.96.0.3").is_empty(), "one of them is not in the mesh");
    let ruled = super::plan(&snapshot, &pods(&snapshot), |_, service, _| &*service.name != "bc");
    assert!(backends(&ruled, "a", "10.96.0.2").is_empty(), "a rule is about it");
    assert_eq!(backends(&ruled, "a", "10.96.0.1"), ["10.0.0.2:8080"]);
}

/// A ServiceEntry may name those who serve it, and a port may carry what is counted by its name.
#[test]
fn what_the_proxy_looks_at_stays_with_it() {
    let entry = |ip: u8, port: &str, account: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: e{ip}, namespace: app}},\n  spec: {{hosts: [e{ip}.example], addresses: [192.0.2.{ip}], location: MESH_INTERNAL, resolution: STATIC,\n  ports: [{{number: 80, name: {port}, protocol: TCP, targetPort: 8080}}], workloadSelector: {{labels: {{app: b}}}},\n  subjectAltNames: ['spiffe://cluster.local/ns/app/sa/{account}']}}}}\n"
        )
    };
    let yaml = [entry(1, "tcp", "b"), entry(2, "tcp", "other")].concat();
    let mongo = entry(3, "mongo", "b").replace("protocol: TCP", "protocol: MONGO");
    let plan = planned(&world(&(yaml + &mongo)));
    assert_eq!(backends(&plan, "a", "192.0.2.1"), ["10.0.0.2:8080"]);
    assert!(backends(&plan, "a", "192.0.2.2").is_empty(), "it is not whom the entry names");
    assert!(backends(&plan, "a", "192.0.2.3").is_empty(), "commands are counted by the proxy");
}

#[test]
fn who_is_checked_is_chosen_by_the_proxy() {
    let check = "---\n{apiVersion: policy.mesh.internal/v1alpha1, kind: HealthCheck, metadata: {name: c, namespace: app},\n  spec: {targetRefs: [{kind: Service, name: b}], tcp: {}}}\n";
    let plan = planned(&world(check));
    assert!(backends(&plan, "a", "10.96.0.1").is_empty(), "who is well is known to the proxy alone");
    assert_eq!(backends(&plan, "a", "10.96.0.2"), ["10.0.0.2:8080", "10.0.0.3:8080"]);
    assert_eq!(verdict(&plan, "a", "10.0.0.2", None), "yes", "an address is no choice");
}

#[test]
fn what_a_limit_counts_is_left_to_whoever_counts() {
    let limit = |name: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {{name: {name}, namespace: app}},\n  spec: {{{spec}}}}}\n"
        )
    };
    let pod = limit("pod", "selector: {matchLabels: {app: b}}, connections: {count: 2, per: 1m}");
    let plan = planned(&world(&pod));
    assert_eq!(verdict(&plan, "a", "10.0.0.2", None), "", "its connections are counted");
    assert_eq!(verdict(&plan, "a", "10.0.0.3", None), "yes", "nobody counts these");
    assert!(backends(&plan, "a", "10.96.0.2").is_empty(), "one of its pods is counted");

    let service =
        limit("service", "targetRefs: [{kind: Service, name: b}], rules: [{name: r, requests: 2, per: 1m}]");
    let plan = planned(&world(&service));
    assert!(backends(&plan, "a", "10.96.0.1").is_empty(), "its requests are counted");
    assert_eq!(backends(&plan, "a", "10.96.0.2"), ["10.0.0.2:8080", "10.0.0.3:8080"]);
}

#[test]
fn a_pod_and_the_mesh_can_opt_out() {
    let pod = |value: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: b, namespace: app,\n  labels: {{app: b, istio.io/dataplane-mode: ambient, mesh.internal/express-path: {value}}}}},\n  spec: {{nodeName: node1, serviceAccountName: b, containers: [{{name: c, image: i}}]}},\n  status: {{podIP: 10.0.0.2, podIPs: [{{ip: 10.0.0.2}}]}}}}\n"
        )
    };
    let plan = planned(&world(&pod("disabled")));
    assert_eq!(verdict(&plan, "a", "10.0.0.2", None), "", "to it");
    assert_eq!(verdict(&plan, "b", "10.0.0.1", None), "", "from it");
    assert_eq!(verdict(&plan, "a", "10.0.0.3", None), "yes", "between others");
    assert!(backends(&plan, "a", "10.96.0.2").is_empty(), "a service that it is behind");
    assert_eq!(verdict(&planned(&world(&pod("enabled"))), "a", "10.0.0.2", None), "yes");
    let mesh = |value: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: 'expressPath: {value}'}}}}\n"
        )
    };
    assert_eq!(planned(&world(&mesh("disabled"))), Plan::default());
    assert_ne!(planned(&world(&mesh("enabled"))), Plan::default());
}
