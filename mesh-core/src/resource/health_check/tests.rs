use super::super::rows::{assert_rows, yaml};
use super::super::{Level, Spec};
use super::StatusRange;

fn check(spec: &str) -> String {
    format!(
        "{{apiVersion: policy.mesh.internal/v1alpha1, kind: HealthCheck, metadata: {{name: c, namespace: shop}}, spec: {{{spec}}}}}"
    )
}

#[test]
fn checks_are_read() {
    let parsed = yaml(&check(
        "targetRefs: [{kind: Service, name: web}, {kind: ServiceEntry, group: networking.istio.io, name: db}], \
         http: {path: '/live?all=1', host: web.example, expectedStatuses: ['200', '204-206']}, port: 9000, \
         interval: 2s, timeout: 500ms, healthyThreshold: 2, unhealthyThreshold: 4",
    ));
    assert!(parsed.findings.is_empty(), "{:#?}", parsed.findings);
    let Spec::HealthCheck(spec) = &parsed.objects[0].spec else { panic!("{:?}", parsed.objects) };
    let http = spec.http.as_ref().unwrap();
    assert_eq!(http.path, "/live?all=1");
    assert_eq!(
        http.expected_statuses,
        [StatusRange { first: 200, last: 200 }, StatusRange { first: 204, last: 206 }]
    );
    assert_eq!((spec.healthy_threshold, spec.unhealthy_threshold), (Some(2), Some(4)));
    assert!(parsed.objects[0].spec_json.is_some(), "it travels");
    for way in ["tcp: {}", "grpc: {}", "grpc: {service: a.B}"] {
        let parsed = yaml(&check(&format!("targetRefs: [{{kind: Service, name: web}}], {way}")));
        assert!(parsed.findings.is_empty(), "{way}: {:#?}", parsed.findings);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let web = |rest: &str| format!("targetRefs: [{{kind: Service, name: web}}], {rest}");
    let error = Level::Error;
    let rows = [
        ("tcp: {}".to_owned(), error, "spec.targetRefs", "nobody's"),
        (
            "targetRefs: [{kind: Pod, name: web}], tcp: {}".to_owned(),
            error,
            "spec.targetRefs[0].kind",
            "cannot attach",
        ),
        (
            "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: w}], tcp: {}".to_owned(),
            error,
            "spec.targetRefs[0].kind",
            "has no endpoints",
        ),
        (web("port: 1"), error, "spec", "exactly one of"),
        (web("tcp: {}, http: {}"), error, "spec", "exactly one of"),
        (web("http: {path: live}"), error, "spec.http.path", "begin with /"),
        (web("http: {path: '/a b'}"), error, "spec.http.path", "space"),
        (web("http: {host: '*.example'}"), error, "spec.http.host", "no name"),
        (web("http: {expectedStatuses: ['99']}"), error, "spec.http.expectedStatuses[0]", "no status"),
        (web("http: {expectedStatuses: ['300-200']}"), error, "spec.http.expectedStatuses[0]", "no status"),
        (
            web("http: {expectedStatuses: ['101']}"),
            error,
            "spec.http.expectedStatuses[0]",
            "never the last word",
        ),
        (web("tcp: {}, port: 0"), error, "spec.port", ""),
        (web("tcp: {}, interval: 99ms"), error, "spec.interval", "shorter than 100ms"),
        (web("tcp: {}, interval: 61m"), error, "spec.interval", "longer than 1h"),
        (web("tcp: {}, timeout: 61s"), error, "spec.timeout", "longer than 1m"),
        (web("tcp: {}, healthyThreshold: 0"), error, "spec.healthyThreshold", "0 is not between"),
        (web("tcp: {}, unhealthyThreshold: 101"), error, "spec.unhealthyThreshold", "101 is not between"),
        (web("tcp: {}, retries: 1"), error, "spec.retries", "unknown field"),
        (web("grpc: {service: \"a\\nb\"}"), error, "spec.grpc.service", "printable"),
    ];
    let rows: Vec<_> =
        rows.iter().map(|(spec, level, field, reason)| (spec.as_str(), *level, *field, *reason)).collect();
    assert_rows(check, &rows);
}
