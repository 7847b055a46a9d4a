use clap::Parser as _;
use serde_json::json;

use super::*;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn asked(words: &[&str]) -> Args {
    Line::try_parse_from([&["config"], words].concat()).expect("a good line").args
}

fn shown(words: &[&str], dump: &Value) -> String {
    let args = asked(words);
    table(args.what, dump, &args).expect("a table")
}

fn dump() -> Value {
    json!({
        "workloads": [
            {"namespace": "default", "name": "reviews-v1", "workloadIps": ["10.0.0.5"], "node": "node-1",
             "protocol": "HBONE", "waypoint": "default/shop", "uid": "a", "status": "Healthy",
             "services": ["default/reviews"]},
            {"namespace": "default", "name": "reviews-v2", "workloadIps": ["10.0.0.7"], "node": "node-1",
             "protocol": "HBONE", "uid": "b", "status": "Unhealthy", "services": ["default/reviews"]},
            {"namespace": "default", "name": "reviews-v3", "workloadIps": ["10.0.0.8"], "node": "node-1",
             "protocol": "HBONE", "uid": "c", "status": "Unhealthy", "services": ["default/reviews"]},
            {"namespace": "other", "name": "plain", "workloadIps": ["10.0.0.6", "fd00::6"], "node": "",
             "protocol": "TCP"},
        ],
        "services": [{"namespace": "default", "name": "reviews", "vips": ["/10.96.0.3"],
            "endpoints": {"a": {}, "b": {}}}],
        "policies": [{"namespace": "default", "name": "deny\u{1b}[31m", "action": "Deny", "scope": "Namespace"}],
        "certificates": [
            {"identity": "spiffe://a/ns/b/sa/c", "state": "Valid", "certChain": [{"serialNumber": "0a",
             "validFrom": "2026-01-01T00:00:00Z", "expirationTime": "2026-01-02T00:00:00Z"}]},
            {"identity": "spiffe://a/ns/b/sa/d", "state": "Pending", "certChain": []},
        ],
        "workloadState": {"x": {
            "info": {"name": "reviews-v1", "namespace": "default"},
            "connections": {
                "inbound": [{"src": "10.0.0.9:4000", "originalDst": "10.0.0.5:9080", "actualDst": "10.0.0.5:9080",
                    "protocol": "TCP", "express": true, "service": null}],
                "outbound": [{"src": "10.0.0.5:5000", "originalDst": "10.0.0.7:9080",
                    "actualDst": "10.0.0.7:15008", "protocol": "HBONE", "service": "ratings.default"}],
            },
        }},
    })
}

#[test]
fn columns_are_those_that_people_know() {
    let dump = dump();
    assert_eq!(
        shown(&["workload"], &dump),
        "NAMESPACE  POD NAME    ADDRESS            NODE    WAYPOINT      PROTOCOL\n\
         default    reviews-v1  10.0.0.5           node-1  default/shop  HBONE\n\
         default    reviews-v2  10.0.0.7           node-1  None          HBONE\n\
         default    reviews-v3  10.0.0.8           node-1  None          HBONE\n\
         other      plain       10.0.0.6,fd00::6  None    None          TCP\n"
            .replace("ADDRESS            ", "ADDRESS           ")
            .replace("10.0.0.5           ", "10.0.0.5          ")
            .replace("10.0.0.7           ", "10.0.0.7          ")
            .replace("10.0.0.8           ", "10.0.0.8          ")
    );
    assert_eq!(
        shown(&["services"], &dump),
        "NAMESPACE  SERVICE NAME  SERVICE VIP  WAYPOINT  ENDPOINTS\n\
         default    reviews       10.96.0.3    None      1/3\n"
    );
    let connections = shown(&["connection"], &dump);
    assert!(
        connections.contains("Inbound    10.0.0.5:9080  10.0.0.9:4000   None             express"),
        "{connections}"
    );
    assert!(
        connections.contains("Outbound   10.0.0.5:5000  10.0.0.7:15008  ratings.default  HBONE"),
        "{connections}"
    );
    let certificates = shown(&["cert"], &dump);
    let lines: Vec<_> = certificates
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).collect::<Vec<_>>())
        .collect();
    let head =
        ["CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"];
    assert_eq!(lines[0], head);
    // Its day is long over.
    let old = [
        "spiffe://a/ns/b/sa/c",
        "Leaf",
        "Available",
        "false",
        "0a",
        "2026-01-02T00:00:00Z",
        "2026-01-01T00:00:00Z",
    ];
    assert_eq!(lines[1], old);
    assert_eq!(lines[2], ["spiffe://a/ns/b/sa/d", "Leaf", "Initializing", "false"]);
}

#[test]
fn names_write_nothing_on_the_terminal_but_themselves() {
    let policies = shown(&["policy"], &dump());
    assert!(policies.contains("deny [31m") && !policies.contains('\u{1b}'), "{policies}");
}

#[test]
fn one_may_be_asked_for_by_name_and_namespace() {
    let dump = dump();
    assert_eq!(shown(&["workload", "reviews-v1", "-n", "default"], &dump).lines().count(), 2);
    assert_eq!(shown(&["workload", "rev", "-n", "other"], &dump).lines().count(), 1);
    let args = asked(&["service", "rev", "-o", "json"]);
    assert_eq!(part(args.what, &dump, &args)[0]["name"], "reviews");
}

#[test]
fn what_is_no_dump_is_told() {
    let args = asked(&["workload"]);
    let error = table(args.what, &json!({"other": 1}), &args).expect_err("no dump");
    assert!(error.to_string().contains("is it a node"), "{error}");
}

#[test]
fn routes_say_what_they_match_and_where_they_lead() {
    let mut dump = dump();
    dump["configs"] = json!([
        {"kind": "VirtualService", "namespace": "default", "name": "reviews", "spec": {"hosts": ["reviews"], "http": [
            {"match": [{"uri": {"prefix": "/a"}, "headers": {"end-user": {"exact": "jason"}}}],
             "route": [{"destination": {"host": "reviews", "subset": "v2"}}]},
            {"route": [{"destination": {"host": "reviews", "subset": "v1"}, "weight": 90},
                       {"destination": {"host": "reviews"}, "weight": 10}]}]}},
        {"kind": "HTTPRoute", "namespace": "shop", "name": "web", "spec": {"hostnames": ["a.example"], "rules": [
            {"matches": [{"path": {"type": "Exact", "value": "/b"}}], "backendRefs": [{"name": "web", "port": 80}]}]}},
        {"kind": "DestinationRule", "namespace": "shop", "name": "none", "spec": {"host": "x"}},
    ]);
    let lines: Vec<Vec<String>> = shown(&["route"], &dump)
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned).collect())
        .collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let head = ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE", "DESTINATION", "KIND"];
    assert_eq!(lines[0], head);
    assert_eq!(lines[1], ["None", "a.example", "a.example", "Exact /b", "web.shop", "web", "HTTPRoute"]);
    assert_eq!(lines[2][3..6], ["everything", "reviews.default", "reviews/v1 (90), reviews (10)"]);
    assert_eq!(lines[3][3..6], ["headers end-user and prefix /a", "reviews.default", "reviews/v2"]);
}

#[test]
fn endpoints_say_who_is_not_well() {
    let mut dump = dump();
    dump["services"][0]["hostname"] = json!("reviews.default.svc.cluster.local");
    dump["services"][0]["endpoints"] = json!({
        "a": {"workloadUid": "a", "address": "10.0.0.5", "port": {"9080": 8080}},
        "fd00::7": {"workloadUid": "", "address": "fd00::7", "port": {"9080": 8080}},
    });
    dump["healthChecks"] = json!([{"endpoint": "[fd00::7]:8080", "standing": "unhealthy"}]);
    let text = shown(&["endpoint"], &dump);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let cluster = "outbound|9080||reviews.default.svc.cluster.local";
    assert_eq!(lines[1], ["10.0.0.5:8080", "HEALTHY", "OK", cluster]);
    assert_eq!(lines[2], ["[fd00::7]:8080", "UNHEALTHY", "FAILED", cluster]);
}

#[test]
fn listeners_are_those_of_a_gateway() {
    let mut dump = dump();
    let args = asked(&["listener"]);
    let error = table(args.what, &dump, &args).expect_err("a node");
    assert!(error.to_string().contains("inside of its pods"), "{error}");
    dump["listeners"] = json!([{"address": "0.0.0.0:443", "protocol": "TLS", "state": "failed", "error": "in use",
        "servers": [{"gateway": "shop/edge", "hosts": ["a.example", "b.example"], "tls": "Simple"}]}]);
    let text = shown(&["listener"], &dump);
    assert!(
        text.contains("0.0.0.0    443   SNI: a.example,b.example  Gateway: shop/edge  TLS       failed: in use  Simple\n"),
        "{text}"
    );
}

#[test]
fn a_certificate_is_valid_in_its_time() {
    let link = Link {
        serial_number: None,
        valid_from: "2026-01-01T00:00:00.000000Z".to_owned(),
        expiration_time: "2026-01-02T00:00:00Z".to_owned(),
    };
    let at = |seconds: u64| link.is_valid(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
    let begin = 1_767_225_600;
    assert_eq!(
        [at(begin - 1), at(begin), at(begin + 86_399), at(begin + 86_400)],
        [false, true, true, false]
    );
    let none = Link { expiration_time: "tomorrow".to_owned(), ..link };
    assert!(!none.is_valid(SystemTime::now()));
}
