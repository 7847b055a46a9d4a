//! Requests, case by case, on policies as users write them.

use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::*;
use crate::authn::Claims;
use crate::policy::{Decision, External, Host, Question, Request, Seen};

/// What `app/web` at port 80 makes of `METHOD AUTHORITY PATH`, then headers as `name=value` and a token as JSON, from `a/x`.
fn ask(snapshot: &Snapshot, request: &str, approved: &[&str]) -> String {
    let mut words = request.split(' ');
    let mut next = || words.next().unwrap();
    let (method, authority, path) = (next(), next(), next());
    let (mut headers, mut claims) = (HeaderMap::new(), None);
    for word in words {
        if word.starts_with('{') {
            let token: Value = serde_json::from_str(word).unwrap();
            claims = Some(Claims::verified(token.as_object().unwrap().clone(), &[]));
        } else {
            let (name, value) = word.split_once('=').unwrap();
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
    }
    let host = Host::of(authority);
    let request = Request {
        method,
        host: (authority != "-").then_some(&host),
        path,
        headers: &headers,
        remote_ip: "203.0.113.7".parse().unwrap(),
        server_name: None,
        claims: claims.as_ref(),
    };
    asked(snapshot, Seen::Request(&request), approved)
}

fn asked(snapshot: &Snapshot, seen: Seen<'_>, approved: &[&str]) -> String {
    let peer = SpiffeId::new(&TrustDomain::default(), "a", "x").unwrap();
    let connection = Connection {
        peer: Some(&peer),
        source_ip: "10.0.0.9".parse().unwrap(),
        destination: "10.0.0.1:80".parse().unwrap(),
        encrypted: true,
    };
    let workload = snapshot.workload_by_ip("10.0.0.1".parse().unwrap()).unwrap();
    let approved: Vec<Arc<str>> = approved.iter().map(|&name| name.into()).collect();
    let question = Question { connection: &connection, seen, approved: &approved };
    match snapshot.policies().decide(workload, &question) {
        Decision::Allowed(permit) => match (permit.dry_run_denied(), &permit.notes().audited) {
            (Some(name), _) => format!("ok, but {name}"),
            (None, Some(name)) => format!("ok, see {name}"),
            (None, None) => "ok".to_owned(),
        },
        Decision::Denied(denied) => denied.by.details(),
        Decision::NeedsRequest => "request".to_owned(),
        Decision::NeedsExternal(External { provider, policy, rule }) => {
            format!("{provider} for {policy}:{rule}")
        }
    }
}

const NONE: &str = "rbac_access_denied_matched_policy[none]";
const MATCHED: &str = "rbac_access_denied_matched_policy[ns[app]-policy[p]-rule[0]]";

/// A rule that must (not) match requests, whether it allows or denies.
pub(super) fn check_rule(rule: &str, matching: &[&str], others: &[&str]) {
    let allow = world(&authz("app/p", &format!("{{rules: [{rule}]}}"))).snapshot;
    let deny = world(&authz("app/p", &format!("{{action: DENY, rules: [{rule}]}}"))).snapshot;
    for (requests, allowed, denied) in [(matching, "ok", MATCHED), (others, NONE, "ok")] {
        for request in requests {
            assert_eq!(ask(&allow, request, &[]), allowed, "{rule}: {request}");
            assert_eq!(ask(&deny, request, &[]), denied, "{rule}: {request}");
        }
    }
}

#[test]
fn operations() {
    let to = |operation: &str| format!("{{to: [{{operation: {{{operation}}}}}]}}");
    check_rule(&to("methods: [GET]"), &["GET a /"], &["POST a /", "get a /", "GETS a /"]);
    check_rule(&to("notMethods: [GET]"), &["POST a /"], &["GET a /"]);
    check_rule(
        &to("paths: [/admin]"),
        &["GET a /admin"],
        &["GET a /admin/", "GET a /Admin", "GET a /x/admin"],
    );
    check_rule(
        &to("paths: [/admin*, '*.php']"),
        &["GET a /admin/x", "GET a /a.php"],
        &["GET a /adm", "GET a /php"],
    );
    check_rule(&to("paths: ['/v1/{*}/x']"), &["GET a /v1/a/x"], &["GET a /v1/a/b/x", "GET a /v1//x"]);
    check_rule(
        &to("notPaths: ['/public/{**}']"),
        &["GET a /private", "GET a /public"],
        &["GET a /public/a/b"],
    );
    check_rule(
        &to("hosts: [Secret.com]"),
        &["GET SECRET.com. /", "GET secret.com:8080 /"],
        &["GET x.com /", "GET - /"],
    );
    check_rule(&to("notHosts: [a.com]"), &["GET b.com /", "GET - /"], &["GET A.com:80 /"]);
    check_rule(&to("ports: ['80'], methods: [GET]"), &["GET a /"], &["POST a /"]);
    check_rule(&to("ports: ['81'], methods: [GET]"), &[], &["GET a /"]);
    check_rule(
        "{to: [{operation: {methods: [GET], paths: [/a]}}, {operation: {methods: [PUT], paths: [/b]}}]}",
        &["GET a /a", "PUT a /b"],
        &["GET a /b", "PUT a /a"],
    );
}

#[test]
fn sources_and_conditions() {
    let ann =
        r#"{"iss":"i","sub":"ann","aud":["app","b"],"azp":"cli","scope":"write","deep":{"roles":["r"]}}"#;
    let ann = &*format!("GET a / {ann}");
    let from = |source: &str| format!("{{from: [{{source: {{{source}}}}}]}}");
    check_rule(&from("requestPrincipals: [i/ann]"), &[ann], &["GET a /"]);
    check_rule(&from("requestPrincipals: ['*']"), &[ann], &["GET a /", r#"GET a / {"sub":"ann"}"#]);
    check_rule(&from("notRequestPrincipals: ['*']"), &["GET a /", r#"GET a / {"sub":"ann"}"#], &[ann]);
    check_rule(&from("remoteIpBlocks: [203.0.113.0/24]"), &["GET a /"], &[]);
    check_rule(&from("notRemoteIpBlocks: [203.0.113.0/24]"), &[], &["GET a /"]);
    check_rule(&from("namespaces: [a], requestPrincipals: [i/*]"), &[ann], &["GET a /"]);
    let when = |key: &str, value: &str| format!("{{when: [{{key: '{key}', values: ['{value}']}}]}}");
    check_rule(&when("request.auth.audiences", "app"), &[ann], &["GET a /"]);
    check_rule(&when("request.auth.presenter", "cli"), &[ann], &["GET a /"]);
    check_rule(&when("request.auth.claims[scope]", "write"), &[ann], &["GET a /"]);
    check_rule(&when("request.auth.claims[deep][roles]", "r*"), &[ann], &["GET a /"]);
    check_rule(&when("request.auth.claims[none]", "*"), &[], &[ann, "GET a /"]);
    check_rule(
        &when("request.headers[X-Role]", "admin"),
        &["GET a / x-role=admin"],
        &["GET a / x-role=user", "GET a /"],
    );
    check_rule(&when("request.headers[host]", "A.com"), &["GET a.COM:80 /"], &["GET b.com /"]);
    check_rule(&when("remote.ip", "203.0.113.7"), &["GET a /"], &[]);
    check_rule(&when("connection.sni", "a.com"), &[], &["GET a /"]);
    check_rule(
        "{when: [{key: 'request.headers[x]', notValues: [v]}]}",
        &["GET a /", "GET a / x=w"],
        &["GET a / x=v"],
    );
}

/// A value among several neither opens nor hides anything.
#[test]
fn several_values_of_a_header() {
    let rule = |list: &str| format!("{{when: [{{key: 'request.headers[x]', {list}: [good]}}]}}");
    let both = "GET a / x=good x=bad";
    for (list, allow, deny) in [("values", NONE, MATCHED), ("notValues", NONE, MATCHED)] {
        let rule = rule(list);
        let snapshot = world(&authz("app/p", &format!("{{rules: [{rule}]}}"))).snapshot;
        assert_eq!(ask(&snapshot, both, &[]), allow, "{list}");
        let snapshot = world(&authz("app/p", &format!("{{action: DENY, rules: [{rule}]}}"))).snapshot;
        assert_eq!(ask(&snapshot, both, &[]), deny, "{list}");
    }
}

/// What nobody has looked at yet is neither refused where a request may still be allowed, nor let through where one may be refused.
#[test]
fn a_connection_is_decided_when_enough_is_known() {
    let allow = |rule: &str| authz("app/p", &format!("{{rules: [{rule}]}}"));
    let deny = |rule: &str| authz("app/p", &format!("{{action: DENY, rules: [{rule}]}}"));
    let get = "{to: [{operation: {methods: [GET]}}]}";
    let other = "{from: [{source: {namespaces: [b]}}], to: [{operation: {methods: [GET]}}]}";
    let sni = "{when: [{key: connection.sni, values: [a.com]}]}";
    for (yaml, nothing, unread, bytes, named) in [
        (allow(get), "request", NONE, NONE, NONE),
        (allow(other), NONE, NONE, NONE, NONE),
        (allow("{}"), "ok", "ok", "ok", "ok"),
        (allow(&format!("{get}, {{from: [{{source: {{namespaces: [a]}}}}]}}")), "ok", "ok", "ok", "ok"),
        (deny(get), "request", MATCHED, MATCHED, MATCHED),
        (deny(other), "ok", "ok", "ok", "ok"),
        (allow(sni), "request", NONE, NONE, "ok"),
        (deny(sni), "request", MATCHED, "ok", MATCHED),
        (
            dry_run("app/p", &format!("{{action: DENY, rules: [{get}]}}")),
            "request",
            "ok, but app/p",
            "ok, but app/p",
            "ok, but app/p",
        ),
    ] {
        let snapshot = world(&yaml).snapshot;
        let ask = |seen| asked(&snapshot, seen, &[]);
        assert_eq!(ask(Seen::Nothing), nothing, "{yaml}");
        assert_eq!(ask(Seen::Unread), unread, "{yaml}");
        assert_eq!(ask(Seen::Bytes { server_name: None }), bytes, "{yaml}");
        assert_eq!(ask(Seen::Bytes { server_name: Some("a.com") }), named, "{yaml}");
    }
}

#[test]
fn custom_is_asked_first_and_then_the_others() {
    let custom = |name: &str, provider: &str, path: &str| {
        let rule = format!("{{to: [{{operation: {{paths: [{path}]}}}}]}}");
        authz(name, &format!("{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{rule}]}}"))
    };
    let deny = authz("app/p", "{action: DENY, rules: [{to: [{operation: {paths: [/x/deny]}}]}]}");
    let yaml = [custom("app/a", "opa", "/x/*"), custom("app/b", "other", "/x/two"), deny].concat();
    let snapshot = world(&yaml).snapshot;
    assert_eq!(ask(&snapshot, "GET a /y", &[]), "ok");
    assert_eq!(ask(&snapshot, "GET a /x/deny", &[]), "opa for app/a:0");
    assert_eq!(ask(&snapshot, "GET a /x/deny", &["opa"]), MATCHED);
    assert_eq!(ask(&snapshot, "GET a /x/one", &["opa"]), "ok");
    assert_eq!(ask(&snapshot, "GET a /x/two", &["opa"]), "other for app/b:0");
    assert_eq!(ask(&snapshot, "GET a /x/two", &["opa", "other"]), "ok");
    assert_eq!(ask(&snapshot, "GET a /x/one", &["other"]), "opa for app/a:0");
    assert_eq!(asked(&snapshot, Seen::Nothing, &[]), "request");
    // Bytes are nothing to ask with, so far.
    assert_eq!(asked(&snapshot, Seen::Unread, &[]), "opa for app/a:0");
    let everything = world(&authz("app/p", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}")).snapshot;
    assert_eq!(asked(&everything, Seen::Nothing, &[]), "request");
    assert_eq!(ask(&everything, "GET a /", &[]), "opa for app/p:0");
}

#[test]
fn audit_is_noted_and_changes_nothing() {
    let audit = authz("app/see", "{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}");
    let deny = authz("app/p", "{action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}");
    let snapshot = world(&[audit, deny].concat()).snapshot;
    assert_eq!(ask(&snapshot, "GET a /", &[]), "ok, see app/see");
    assert_eq!(ask(&snapshot, "POST a /", &[]), "ok");
    assert_eq!(ask(&snapshot, "GET a /no", &[]), MATCHED);
}

#[test]
fn what_cannot_be_understood_fails_closed() {
    for (rule, field, reason) in [
        (
            "{to: [{operation: {paths: ['/a/{**}/{*}']}}]}",
            "spec.rules[0].to[0].operation.paths",
            "no path template",
        ),
        (
            "{when: [{key: 'experimental.envoy.filters.x', values: [a]}]}",
            "spec.rules[0].when[0].values",
            "no filter",
        ),
        (
            "{when: [{key: 'request.headers[a b]', values: [a]}]}",
            "spec.rules[0].when[0].values",
            "no name of a header",
        ),
        (
            "{when: [{key: 'request.auth.claims[a][]', values: [a]}]}",
            "spec.rules[0].when[0].values",
            "no name of a claim",
        ),
    ] {
        let allow = authz("app/p", &format!("{{rules: [{rule}]}}"));
        assert_eq!(ask(&world(&allow).snapshot, "GET a /a/b/c", &[]), NONE, "{rule}");
        warns(&allow, field, reason);
        let deny = authz("app/p", &format!("{{action: DENY, rules: [{rule}]}}"));
        assert_eq!(ask(&world(&deny).snapshot, "GET a /a/b/c", &[]), MATCHED, "{rule}");
        warns(&deny, field, reason);
    }
}

#[test]
fn the_dump_shows_what_is_asked_of_requests() {
    let rule = "{to: [{operation: {paths: ['/a/{*}'], hosts: [A.com]}}], when: [{key: 'request.headers[X]', values: [v]}]}";
    let dump =
        serde_json::to_value(world(&authz("app/p", &format!("{{rules: [{rule}]}}"))).snapshot.policies())
            .unwrap();
    let groups = &dump["policies"][0]["rules"][0]["groups"];
    assert_eq!(groups[0][0][0], json!({"negated": false, "host": ["a.com"]}));
    assert_eq!(groups[0][0][1], json!({"negated": false, "path": ["/a/{*}"]}));
    assert_eq!(groups[1][0][0], json!({"negated": false, "header": {"name": "x", "values": ["v"]}}));
}

#[test]
fn an_explanation_names_what_did_not_match() {
    let rule = "{from: [{source: {namespaces: [b]}}, {source: {principals: ['*/sa/y']}}],
        to: [{operation: {methods: [GET], paths: [/a/*]}}], when: [{key: 'request.headers[x]', notValues: [v]}]}";
    let allow = authz(
        "app/p",
        &format!("{{rules: [{rule}, {{to: [{{operation: {{ports: ['80'], paths: [/b]}}}}]}}]}}"),
    );
    let snapshot = world(&allow).snapshot;
    let explain = |seen| {
        let peer = SpiffeId::new(&TrustDomain::default(), "a", "x").unwrap();
        let connection = Connection {
            peer: Some(&peer),
            source_ip: "10.0.0.9".parse().unwrap(),
            destination: "10.0.0.1:80".parse().unwrap(),
            encrypted: true,
        };
        let workload = snapshot.workload_by_ip("10.0.0.1".parse().unwrap()).unwrap();
        let question = Question { connection: &connection, seen, approved: &[] };
        serde_json::to_value(snapshot.policies().explain(workload, &question).unwrap()).unwrap()
    };
    let mut headers = HeaderMap::new();
    headers.insert("x", "v".parse().unwrap());
    let (host, remote_ip) = (Host::of("h"), "10.0.0.9".parse().unwrap());
    let request = Request {
        method: "GET",
        host: Some(&host),
        path: "/b",
        headers: &headers,
        remote_ip,
        server_name: None,
        claims: None,
    };
    let explained = explain(Seen::Request(&request));
    let because = [
        "source.namespace is a, and must be one of b",
        "source.principal is cluster.local/ns/a/sa/x, and must be one of */sa/y",
        "the path is /b, and must be one of /a/*",
        "request.headers[x] is v, and must be none of v",
    ];
    let expected = json!([{"policy": "app/p", "effect": "ALLOW", "dryRun": false, "matches": "yes", "rules": [
        {"index": 0, "matches": "no", "because": because}, {"index": 1, "matches": "yes", "because": []},
    ]}]);
    assert_eq!(explained, expected);
    let explained = explain(Seen::Nothing);
    assert_eq!(
        explained[0]["rules"][1]["because"][0],
        "the path is not known before there is a request, and must be one of /b"
    );
    assert_eq!(explained[0]["matches"], "open");
}
