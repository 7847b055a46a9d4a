use super::*;
use crate::model::{CompileOptions, compile};
use crate::resource::{Level, SourceFile, parse};

/// `shop/web`, a Service; `shop/db`, a ServiceEntry of `db.example` with the WorkloadEntry `vm` and an endpoint that is
/// listed.
fn snapshot(more: &str) -> Snapshot {
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, spec: {{clusterIP: 10.0.0.1, \
         selector: {{app: vm}}, ports: [{{port: 80}}]}}}}\n---\n\
         {{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: db, namespace: shop}}, spec: \
         {{hosts: [db.example], resolution: STATIC, ports: [{{name: tcp, number: 80}}], \
         workloadSelector: {{labels: {{app: vm}}}}}}}}\n---\n\
         {{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: other, namespace: shop}}, spec: \
         {{hosts: [other.example], resolution: STATIC, ports: [{{name: tcp, number: 80}}], \
         endpoints: [{{address: 192.0.2.9, labels: {{app: vm}}}}]}}}}\n---\n\
         {{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: vm, namespace: shop}}, spec: \
         {{address: 192.0.2.1, labels: {{app: vm, size: big}}}}}}\n{more}"
    );
    let parsed = parse(&SourceFile { name: "t.yaml", text: &text });
    let errors: Vec<_> = parsed.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    compile(&parsed.objects, &CompileOptions::default()).snapshot
}

fn check(name: &str, created: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: policy.mesh.internal/v1alpha1, kind: HealthCheck, metadata: {{name: {name}, namespace: shop{created}}}, \
         spec: {{{spec}}}}}\n"
    )
}

fn group(labels: &str, probe: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: WorkloadGroup, metadata: {{name: vms, namespace: shop}}, \
         spec: {{metadata: {{labels: {{{labels}}}}}, template: {{}}, probe: {{{probe}}}}}}}\n"
    )
}

/// How the first endpoint of a host is asked.
fn asked(snapshot: &Snapshot, host: &str) -> Option<Check> {
    let service = snapshot.service_by_host(&host.into(), "shop").unwrap();
    let endpoint = service.ports[0].endpoints.first().expect("an endpoint");
    let checks = Checks::of(snapshot);
    let check = checks.of_endpoint(service, endpoint).map(|check| Check::clone(check));
    assert_eq!(checks.concerns(service, 0), check.is_some());
    check
}

const WEB: &str = "web.shop.svc.cluster.local";
const SERVICE: &str = "targetRefs: [{kind: Service, name: web}]";

#[test]
fn a_check_is_for_whom_it_names() {
    let entry = "targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: db}], tcp: {}";
    let snapshot = snapshot(&check("c", "", entry));
    assert_eq!(asked(&snapshot, WEB), None);
    assert_eq!(asked(&snapshot, "other.example"), None);
    let check = asked(&snapshot, "db.example").unwrap();
    assert_eq!((&*check.by, &check.ask), ("HealthCheck shop/c", &Ask::Tcp));
    assert_eq!((check.port, check.cover), (None, Cover::AsTraffic));
    assert_eq!((check.interval.as_secs(), check.timeout.as_secs()), (10, 1));
    assert_eq!((check.healthy, check.unhealthy), (1, 3));
}

#[test]
fn the_oldest_check_has_the_say() {
    let at = |time: &str| format!(", creationTimestamp: '{time}'");
    let spec = |port: u16| format!("{SERVICE}, tcp: {{}}, port: {port}");
    let checks = [
        check("a", &at("2024-01-02T00:00:00Z"), &spec(2)),
        check("b", &at("2024-01-01T00:00:00Z"), &spec(1)),
        check("c", &at("2024-01-03T00:00:00Z"), &spec(3)),
    ];
    assert_eq!(asked(&snapshot(&checks.concat()), WEB).unwrap().port, Some(1));
}

#[test]
fn what_is_asked_is_what_is_written() {
    let http = format!("{SERVICE}, http: {{path: '/live', host: a.example, expectedStatuses: ['204']}}");
    let asked_so = asked(&snapshot(&check("c", "", &http)), WEB).unwrap();
    let expected = vec![StatusRange { first: 204, last: 204 }];
    let ask =
        Ask::Http { path: "/live".into(), host: Some("a.example".into()), headers: Vec::new(), expected };
    assert_eq!(asked_so.ask, ask);
    let plain = asked(&snapshot(&check("c", "", &format!("{SERVICE}, http: {{}}"))), WEB).unwrap();
    let Ask::Http { path, host: None, expected, .. } = &plain.ask else { panic!("{plain:?}") };
    assert_eq!((&**path, &expected[..]), ("/", &[SUCCESS][..]));
}

#[test]
fn a_probe_is_for_the_entries_of_its_group() {
    let probe = "httpGet: {path: ready, port: 8080, scheme: HTTPS, httpHeaders: [{name: A, value: b}]}, \
                 initialDelaySeconds: 4, periodSeconds: 5, timeoutSeconds: 2, successThreshold: 6, failureThreshold: 7";
    let snapshot = snapshot(&group("app: vm", probe));
    assert_eq!(asked(&snapshot, "other.example"), None, "nobody's WorkloadEntry");
    for host in [WEB, "db.example"] {
        let check = asked(&snapshot, host).unwrap();
        let Ask::Http { path, headers, expected, .. } = &check.ask else { panic!("{check:?}") };
        assert_eq!((&**path, &expected[..]), ("/ready", &[NO_FAILURE][..]));
        assert_eq!(headers, &[("A".to_owned(), "b".to_owned())]);
        assert_eq!((check.port, check.cover), (Some(8080), Cover::Anybody));
        let times = [check.delay, check.interval, check.timeout].map(|time| time.as_secs());
        assert_eq!((times, check.healthy, check.unhealthy), ([4, 5, 2], 6, 7));
    }
}

#[test]
fn a_group_knows_its_entries_by_all_of_its_labels() {
    let tcp = "tcpSocket: {port: 1}";
    for (labels, probe, is_its) in [
        ("app: vm, size: big", tcp, true),
        ("app: vm, size: small", tcp, false),
        // Of nobody, or of everybody: who can tell.
        ("", tcp, false),
        ("app: vm", "exec: {command: ['true']}", false),
    ] {
        let snapshot = snapshot(&group(labels, probe));
        assert_eq!(asked(&snapshot, WEB).is_some(), is_its, "{labels}, {probe}");
    }
}

#[test]
fn a_check_comes_before_a_probe() {
    let both =
        [group("app: vm", "grpc: {port: 5, service: s}"), check("c", "", &format!("{SERVICE}, tcp: {{}}"))];
    let snapshot = snapshot(&both.concat());
    assert_eq!(asked(&snapshot, WEB).unwrap().ask, Ask::Tcp);
    let probe = asked(&snapshot, "db.example").unwrap();
    assert_eq!((probe.ask, probe.cover), (Ask::Grpc { service: "s".into() }, Cover::Plain));
}
