//! No name is an expression: a dot in one is a dot, wherever policies ask for names (CVE-2026-39350).

use super::requests::check_rule;
use super::*;

/// A field of a source; a name in it; peers that have just that name, and peers that an expression made of it would take.
type Row = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const SOURCES: &[Row] = &[
    ("principals", "cluster.local/ns/a/sa/x.y", &["a/x.y"], &["a/xzy", "a/x-y", "a/xy"]),
    ("principals", "cluster.local/ns/a.b/sa/x", &["a.b/x"], &["azb/x", "a-b/x"]),
    ("principals", "cluster.local/ns/a/sa/x", &["a/x"], &["clusterzlocal/a/x", "cluster-local/a/x"]),
    ("principals", "*/sa/x.y", &["a/x.y", "td/b/x.y"], &["a/xzy", "td/b/x-y"]),
    ("principals", "cluster.local/ns/a/sa/x.*", &["a/x.y", "a/x."], &["a/xzy", "a/x"]),
    ("serviceAccounts", "a/x.y", &["a/x.y", "td/a/x.y"], &["a/xzy", "a/x-y", "azx.y/z"]),
    ("serviceAccounts", "x.y", &["app/x.y"], &["app/xzy", "a/x.y"]),
    ("namespaces", "a.b", &["a.b/x"], &["azb/x", "a-b/x"]),
    ("namespaces", "a.*", &["a.b/x"], &["a/x", "ab/x", "azb/x"]),
    ("namespaces", "*.b", &["a.b/x"], &["b/x", "azb/x"]),
    ("trustDomains", "td.one", &["td.one/a/x"], &["tdzone/a/x", "td-one/a/x"]),
    ("trustDomains", "*.one", &["td.one/a/x"], &["one/a/x", "tdzone/a/x"]),
];

#[test]
fn a_dot_in_the_name_of_a_peer_is_a_dot() {
    for (field, name, same, others) in SOURCES {
        check_source("", &format!("{{{field}: ['{name}']}}"), same, others);
    }
}

/// What else expressions are made of is no part of any name of a peer: it is refused, or matches nobody.
#[test]
fn an_expression_in_the_place_of_a_name_matches_nobody() {
    let peers = ["a/x", "a/x.y", "b/x", "td/a/x"];
    let is_refused = |source: &str| {
        let text = authz("app/p", &format!("{{rules: [{{from: [{{source: {source}}}]}}]}}"));
        let parsed = parse(&SourceFile { name: "policy.yaml", text: &text });
        parsed.findings.iter().any(|finding| finding.level == Level::Error)
    };
    let mut asked = 0;
    for name in [".*", ".+", "[a-z]+", "(x|y)", "x|y", "^x$", "x?", "a/.*", "a/[xy]", "**"] {
        for field in ["principals", "serviceAccounts", "namespaces", "trustDomains"] {
            let source = format!("{{{field}: ['{name}']}}");
            if !is_refused(&source) {
                check_source("", &source, &[], &peers);
                asked += 1;
            }
        }
    }
    assert!(asked > 10, "only {asked} are no errors");
}

/// A field of an operation, or a condition; a value; requests that are for it, and some that an expression made of it would take.
const REQUESTS: &[Row] = &[
    ("hosts", "a.example", &["GET a.example /"], &["GET azexample /", "GET a-example /"]),
    ("hosts", "*.example", &["GET a.example /"], &["GET azexample /", "GET example /"]),
    ("paths", "/a.b", &["GET h /a.b"], &["GET h /azb", "GET h /a/b", "GET h /a"]),
    ("paths", "/a+b", &["GET h /a+b"], &["GET h /aab", "GET h /ab"]),
    ("paths", "/(a|b)", &["GET h /(a|b)"], &["GET h /a", "GET h /b"]),
    ("paths", "/a.*", &["GET h /a.b", "GET h /a."], &["GET h /azb", "GET h /a"]),
    ("paths", "/x.y/{*}", &["GET h /x.y/a"], &["GET h /xzy/a"]),
    ("methods", "G.T", &["G.T h /"], &["GET h /", "GXT h /"]),
];

const CONDITIONS: &[Row] = &[
    ("request.headers[x-a]", "a.b", &["GET h / x-a=a.b"], &["GET h / x-a=azb", "GET h / x-a=a-b"]),
    ("request.headers[x-a]", "a.*", &["GET h / x-a=a.b"], &["GET h / x-a=azb", "GET h / x-a=a"]),
    (
        "request.auth.principal",
        "i.com/ann",
        &[r#"GET h / {"iss":"i.com","sub":"ann"}"#],
        &[r#"GET h / {"iss":"izcom","sub":"ann"}"#],
    ),
    (
        "request.auth.claims[email]",
        "ann@x.com",
        &[r#"GET h / {"email":"ann@x.com"}"#],
        &[r#"GET h / {"email":"ann@xzcom"}"#],
    ),
];

#[test]
fn a_dot_in_what_is_asked_for_is_a_dot() {
    for (field, value, same, others) in REQUESTS {
        check_rule(&format!("{{to: [{{operation: {{{field}: ['{value}']}}}}]}}"), same, others);
    }
    for (key, value, same, others) in CONDITIONS {
        check_rule(&format!("{{when: [{{key: '{key}', values: ['{value}']}}]}}"), same, others);
    }
}
