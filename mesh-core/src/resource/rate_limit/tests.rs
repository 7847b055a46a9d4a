use super::super::rows::{assert_rows, yaml};
use super::super::{Level, Spec};
use super::LimitKey;

fn limit(spec: &str) -> String {
    format!(
        "{{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {{name: l, namespace: shop}}, spec: {{{spec}}}}}"
    )
}

#[test]
fn limits_are_read() {
    let parsed = yaml(&limit(
        "targetRefs: [{kind: Service, name: web}], rules: [{name: users, match: [{uri: {prefix: /api}}], \
         by: [identity, 'header:X-User'], requests: 10, per: 1m, burst: 20, maxKeys: 5}, {requests: 3}], \
         connections: {count: 7, by: [address]}",
    ));
    assert!(parsed.findings.is_empty(), "{:#?}", parsed.findings);
    let Spec::RateLimit(spec) = &parsed.objects[0].spec else { panic!("{:?}", parsed.objects) };
    let [users, all] = &spec.rules[..] else { panic!("{spec:?}") };
    assert_eq!((users.requests, users.per().as_secs(), users.burst), (10, 60, Some(20)));
    assert_eq!(users.by.len(), 2);
    assert!(matches!(&users.by[1], LimitKey::Header(name) if name.as_str() == "x-user"));
    assert_eq!((all.requests, all.per().as_secs(), all.burst), (3, 1, None));
    assert!(parsed.objects[0].spec_json.is_some(), "it travels");
}

#[test]
fn what_is_wrong_is_named() {
    let web = |rest: &str| format!("targetRefs: [{{kind: Service, name: web}}], {rest}");
    let edge = |rest: &str| {
        format!("targetRefs: [{{kind: Gateway, group: gateway.networking.k8s.io, name: edge}}], {rest}")
    };
    let rule = |rule: &str| web(&format!("rules: [{{{rule}}}]"));
    let global = |global: &str| web(&format!("global: {{{global}}}"));
    let error = Level::Error;
    let rows = [
        ("rules: [{requests: 1}]".to_owned(), error, "spec", "nobody's"),
        (web("rules: []"), error, "spec", "limits nothing"),
        ("selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: web}], rules: [{requests: 1}]".to_owned(), error, "spec", "only one of"),
        ("targetRefs: [{kind: Pod, name: web}], rules: [{requests: 1}]".to_owned(), error, "spec.targetRefs[0].kind", "cannot attach"),
        ("targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: w}], rules: [{requests: 1}]".to_owned(), error, "spec.targetRefs[0].kind", "one Gateway"),
        (rule("per: 1s"), error, "spec.rules[0]", "requests is required"),
        (rule("requests: 0"), error, "spec.rules[0].requests", "0 is not between 1"),
        (rule("requests: 1, per: 25h"), error, "spec.rules[0].per", "longer than a day"),
        (rule("requests: 1, per: 0s"), error, "spec.rules[0].per", "shorter than 1ms"),
        (rule("requests: 1, burst: 1001"), error, "spec.rules[0].burst", "1001 is not between 1 and 1000"),
        (rule("requests: 1, by: [address], maxKeys: 0"), error, "spec.rules[0].maxKeys", "0 is not"),
        (rule("requests: 1, maxKeys: 5"), Level::Warning, "spec.rules[0].maxKeys", "no effect"),
        (rule("requests: 1, by: [user]"), error, "spec.rules[0].by[0]", "nothing called"),
        (rule("requests: 1, by: ['header::path']"), error, "spec.rules[0].by[0]", "is no header"),
        (rule("requests: 1, match: [{}]"), error, "spec.rules[0].match[0]", "must ask for something"),
        (rule("requests: 1, match: [{uri: {regex: '('}}]"), error, "spec.rules[0].match[0].uri.regex", ""),
        (rule("requests: 1, rate: 5"), error, "spec.rules[0].rate", "unknown field"),
        (web("rules: [{name: a, requests: 1}, {name: a, requests: 2}]"), error, "spec.rules[1].name", "same name"),
        (web("connections: {count: 1, by: [host]}"), error, "spec.connections.by[0]", "of requests"),
        (global("service: '*', port: 1, domain: d, descriptors: [{entries: [{key: a, value: b}]}]"), error, "spec.global.service", "no name"),
        (global("service: rls, port: 1, domain: d, descriptors: []"), error, "spec.global.descriptors", "nothing would"),
        (global("service: rls, port: 1, domain: d, descriptors: [{entries: [{key: a}]}]"), error, "spec.global.descriptors[0].entries[0]", "exactly one"),
        (global("service: rls, port: 1, domain: d, descriptors: [{entries: [{key: a, value: b, from: host}]}]"), error, "spec.global.descriptors[0].entries[0]", "exactly one"),
        (global("service: rls, port: 1, domain: d, timeout: 11s, descriptors: [{entries: [{key: a, from: host}]}]"), error, "spec.global.timeout", "longer than 10s"),
        (global("service: rls, port: 1, domain: d, onFailure: MAYBE, descriptors: [{entries: [{key: a, from: host}]}]"), error, "spec.global.onFailure", "unknown"),
        (web("requestBody: {maxBytes: 0}"), error, "spec.requestBody.maxBytes", "0 is not"),
        (web("requestBody: {maxBytes: 20000000, buffer: true}"), error, "spec.requestBody.maxBytes", "and 16777216"),
        (web("connections: {count: 0}"), error, "spec.connections.count", "0 is not"),
        (web("openConnections: [{max: 1}]"), error, "spec.openConnections", "not about those to a Service"),
        (web("eachConnection: {maxRequests: 1}"), error, "spec.eachConnection", "not about those to a Service"),
        (edge("eachConnection: {}"), error, "spec.eachConnection", "says nothing"),
        (edge("eachConnection: {maxRequests: 0}"), error, "spec.eachConnection.maxRequests", "0 is not between 1"),
        (edge("eachConnection: {maxConcurrentStreams: 1001}"), error, "spec.eachConnection.maxConcurrentStreams", "and 1000"),
        (edge("eachConnection: {maxDuration: 25h}"), error, "spec.eachConnection.maxDuration", "1s and 24h"),
        (edge("eachConnection: {maxDuration: 999ms}"), error, "spec.eachConnection.maxDuration", "1s and 24h"),
        (edge("eachConnection: {idleTimeout: 2h}"), error, "spec.eachConnection.idleTimeout", "1s and 1h"),
        (edge("openConnections: [{max: 0}]"), error, "spec.openConnections[0].max", "0 is not between 1"),
        (edge("openConnections: [{max: 1, by: [path]}]"), error, "spec.openConnections[0].by[0]", "of requests"),
    ];
    let rows: Vec<_> =
        rows.iter().map(|(spec, level, field, reason)| (spec.as_str(), *level, *field, *reason)).collect();
    assert_rows(limit, &rows);
}
