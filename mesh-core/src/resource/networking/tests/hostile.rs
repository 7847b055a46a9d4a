//! Documents that are built to cost time.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{document, yaml};

/// `line` again and again, as much as one document may hold.
fn full(head: &str, line: impl Fn(usize) -> String) -> String {
    let mut text = head.to_owned();
    for number in 0.. {
        let next = line(number);
        if text.len() + next.len() > 1_000_000 {
            break;
        }
        text.push_str(&next);
    }
    text
}

fn flow(kind: &str, list: &str, item: impl Fn(usize) -> String) -> String {
    let items = full("", |number| format!("{},", item(number)));
    document(kind, &list.replace("LIST", &format!("[{items}]")))
}

#[test]
fn a_document_costs_bounded_time() {
    let mut slow = String::new();
    for (name, text) in routes().into_iter().chain(texts()).chain(others()) {
        let start = Instant::now();
        let parsed = yaml(&text);
        let took = start.elapsed();
        assert!(parsed.findings.iter().all(|finding| finding.to_string().len() < 2_000), "{name}");
        assert!(parsed.findings.len() <= 51, "{name}: {}", parsed.findings.len());
        if took > LIMIT {
            writeln!(slow, "{name} took {took:?}").expect("String takes all");
        }
    }
    assert!(slow.is_empty(), "{slow}");
}

type Case = (&'static str, String);

/// Rules, and expressions in them.
fn routes() -> Vec<Case> {
    let nested = "(".repeat(400) + &")".repeat(400);
    let repeated = format!("{}a{}", "(".repeat(90), "{9})".repeat(90));
    let classes = r"\\pL".repeat(250);
    let vs = "hosts: [a]\nhttp: LIST";
    let route = |rest: &str| format!("{{{rest},route: [{{destination: {{host: a}}}}]}}");
    vec![
        ("routes", flow("VirtualService", vs, |_| route("name: a"))),
        ("prefixes", flow("VirtualService", vs, |n| route(&format!("match: [{{uri: {{prefix: /{n}}}}}]")))),
        (
            "growing prefixes",
            flow("VirtualService", vs, |n| {
                route(&format!("match: [{{uri: {{prefix: /{}}}}}]", "a".repeat(n)))
            }),
        ),
        ("same matches", flow("VirtualService", vs, |_| route("match: [{uri: {exact: /}}]"))),
        ("small expressions", flow("VirtualService", vs, |_| route("match: [{uri: {regex: \"\\\\w\"}}]"))),
        (
            "many classes",
            flow("VirtualService", vs, |_| route(&format!("match: [{{uri: {{regex: \"{classes}\"}}}}]"))),
        ),
        ("any case", flow("VirtualService", vs, |_| route("match: [{uri: {regex: \"(?i)\\\\pL+\"}}]"))),
        (
            "repetitions",
            flow("VirtualService", vs, |_| route(&format!("match: [{{uri: {{regex: '{repeated}'}}}}]"))),
        ),
        (
            "repeated classes",
            flow("VirtualService", vs, |_| route("match: [{uri: {regex: '(\\pL{30}){30}'}}]")),
        ),
        (
            "groups",
            flow("VirtualService", vs, |_| route(&format!("match: [{{uri: {{regex: '{nested}'}}}}]"))),
        ),
        ("wrong values", flow("VirtualService", vs, |_| "{timeout: 5}".to_owned())),
        (
            "expressions and wrong values",
            flow("VirtualService", vs, |_| {
                "{timeout: 5, match: [{uri: {regex: \"(?i)\\\\pL+\"}}]}".to_owned()
            }),
        ),
    ]
}

/// Hosts, and values that are long.
fn texts() -> Vec<Case> {
    vec![
        ("hosts", flow("VirtualService", "hosts: LIST\nhttp: []", |n| format!("h{n}"))),
        (
            "nested hosts",
            flow("VirtualService", "hosts: LIST\nhttp: []", |n| format!("'*.{}b'", "a.".repeat(n % 100))),
        ),
        (
            "server names",
            flow("VirtualService", "hosts: ['*.b', '*.x.c', c]\ntls: [{match: [{sniHosts: LIST}]}]", |n| {
                format!("h{n}.a")
            }),
        ),
        ("gateways", flow("VirtualService", "hosts: [a]\ngateways: LIST", |n| format!("g{n}.a"))),
        (
            "headers",
            document(
                "VirtualService",
                &full("hosts: [a]\nhttp:\n- headers:\n    request:\n      set:", |n| {
                    format!("\n        h{n}: '%%'")
                }),
            ),
        ),
        ("long value", rule("headers: {request: {set: {a: 'LONG'}}}", &"%A%".repeat(300_000))),
        ("open variables", rule("headers: {request: {set: {a: 'LONG'}}}", &"%A(".repeat(300_000))),
        ("long host", document("VirtualService", &format!("hosts: ['{}']", "a.".repeat(450_000)))),
        ("long duration", rule("timeout: 'LONG'", &"1s".repeat(450_000))),
        ("long expression", rule("match: [{uri: {regex: 'LONG'}}]", &"a".repeat(900_000))),
        ("long retryOn", rule("retries: {attempts: 1, retryOn: 'LONG'}", &"5xx,".repeat(220_000))),
    ]
}

/// A VirtualService with one rule.
fn rule(part: &str, long: &str) -> String {
    document("VirtualService", &format!("hosts: [a]\nhttp: [{{{}}}]", part.replace("LONG", long)))
}

/// The other kinds.
fn others() -> Vec<Case> {
    vec![
        ("subsets", flow("DestinationRule", "host: a\nsubsets: LIST", |n| format!("{{name: s{n}}}"))),
        (
            "ports",
            flow("DestinationRule", "host: a\ntrafficPolicy: {portLevelSettings: LIST}", |_| {
                "{tls: {}}".into()
            }),
        ),
        (
            "localities",
            flow(
                "DestinationRule",
                "host: a\ntrafficPolicy: {loadBalancer: {localityLbSetting: {distribute: LIST}}}",
                |n| format!("{{from: r{n}/z, to: {{'*': 100}}}}"),
            ),
        ),
        (
            "servers",
            flow("Gateway", "servers: LIST", |n| {
                format!("{{port: {{number: 1, name: p{n}, protocol: HTTP}}, hosts: ['*']}}")
            }),
        ),
        (
            "endpoints",
            flow("ServiceEntry", "hosts: [a.b]\nresolution: STATIC\nendpoints: LIST", |_| {
                "{address: 1.1.1.1}".into()
            }),
        ),
        ("egress", flow("Sidecar", "egress: [{hosts: LIST}]", |n| format!("n{n}/*"))),
        (
            "selector",
            document("Sidecar", &full("workloadSelector:\n  labels:", |n| format!("\n    k{n}: '*'"))),
        ),
    ]
}

/// For 1 MB, on a build that is not optimised and a machine that does other things as well; an optimised build takes
/// less than a second for each.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
