//! Every sentence of the policies' semantics, case by case, on resources as users write them.

use super::*;
use crate::id::TrustDomain;
use crate::model::{CompileOptions, Compiled, Snapshot, Target, compile};
use crate::resource::security::{From as FromEntry, Operation, Source, To};
use crate::resource::{Level, Object, SourceFile, Spec, parse};

mod bench;
mod names;
mod property;
mod reference;
mod requests;

/// Pods `app/web` (10.0.0.1), `app/db` (10.0.0.2), `other/web` (10.0.0.3), all enrolled, and `plain/pod` (10.0.0.4).
const PODS: &str = "
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: app,
  labels: {app: web, version: v1, istio.io/dataplane-mode: ambient}},
  spec: {containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: app, labels: {app: db, istio.io/dataplane-mode: ambient}},
  spec: {containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: other,
  labels: {app: web, istio.io/dataplane-mode: ambient}},
  spec: {containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pod, namespace: plain},
  spec: {containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.4}}
---
{apiVersion: v1, kind: Node, metadata: {name: node1}, spec: {podCIDRs: [10.0.0.0/24]}}
---
{apiVersion: v1, kind: Service, metadata: {name: plain, namespace: plain},
  spec: {clusterIP: 10.96.0.1, selector: {none: such}, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: plain-1, namespace: plain,
  labels: {kubernetes.io/service-name: plain}}, addressType: IPv4, ports: [{port: 8080}],
  endpoints: [{addresses: [10.0.0.4]}, {addresses: [10.0.0.1]}, {addresses: [203.0.113.9]}]}
";

fn objects(yaml: &str) -> Vec<Object> {
    let parsed = parse(&SourceFile { name: "test.yaml", text: &format!("{PODS}{yaml}") });
    let errors: Vec<_> = parsed.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?}\n{yaml}");
    parsed.objects
}

fn world(yaml: &str) -> Compiled {
    compile(&objects(yaml), &CompileOptions::default())
}

/// A policy document; `name` is `namespace/name`.
fn doc(kind: &str, name: &str, extra: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let meta = format!("{{name: {name}, namespace: {namespace}{extra}}}");
    format!("---\n{{apiVersion: security.istio.io/v1, kind: {kind}, metadata: {meta}, spec: {spec}}}\n")
}

fn authz(name: &str, spec: &str) -> String {
    doc("AuthorizationPolicy", name, "", spec)
}

fn dry_run(name: &str, spec: &str) -> String {
    doc("AuthorizationPolicy", name, ", annotations: {istio.io/dry-run: 'true'}", spec)
}

fn peer_auth(name: &str, spec: &str) -> String {
    doc("PeerAuthentication", name, "", spec)
}

fn mesh_config(text: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{text}'}}}}\n"
    )
}

/// The outcome as text: `ok`, `ok, but NAME`, or the reason. `peer` is `trust domain/namespace/account`,
/// `namespace/account` or empty.
fn decide(snapshot: &Snapshot, peer: &str, source: &str, destination: &str) -> String {
    let parts: Vec<_> = peer.split('/').collect();
    let id = match parts[..] {
        [namespace, account] => Some(SpiffeId::new(&TrustDomain::default(), namespace, account).unwrap()),
        [domain, namespace, account] => {
            Some(SpiffeId::new(&TrustDomain::parse(domain).unwrap(), namespace, account).unwrap())
        }
        _ => None,
    };
    let destination: SocketAddr = destination.parse().unwrap();
    let workload = snapshot.workload_by_ip(destination.ip()).unwrap();
    let connection = Connection {
        peer: id.as_ref(),
        source_ip: source.parse().unwrap(),
        destination,
        encrypted: id.is_some(),
    };
    match snapshot.policies().authorize(workload, &connection) {
        Ok(permit) => {
            assert_eq!(permit.destination(), crate::net::canonical(destination));
            match permit.dry_run_denied() {
                Some(name) => format!("ok, but {name}"),
                None => "ok".to_owned(),
            }
        }
        Err(denied) => denied.to_string(),
    }
}

/// Peer, source address, destination, and the outcome's beginning.
type Case<'a> = (&'a str, &'a str, &'a str, &'a str);

fn check(yaml: &str, cases: &[Case<'_>]) {
    let compiled = world(yaml);
    for (peer, source, destination, expected) in cases {
        let outcome = decide(&compiled.snapshot, peer, source, destination);
        let fits = if *expected == "ok" { outcome == "ok" } else { outcome.starts_with(expected) };
        assert!(fits, "{peer:?} from {source} to {destination}: {outcome}, not {expected}\n{yaml}");
    }
}

/// A rule with this `source`, which must (not) match the peers.
fn check_source(config: &str, source: &str, matching: &[&str], others: &[&str]) {
    let allow = authz("app/p", &format!("{{rules: [{{from: [{{source: {source}}}]}}]}}"));
    let deny = authz("app/p", &format!("{{action: DENY, rules: [{{from: [{{source: {source}}}]}}]}}"));
    for (peers, allowed, denied) in [
        (matching, "ok", "AuthorizationPolicy app/p denies it, rule 0"),
        (others, "no ALLOW policy matched (1 apply)", "ok"),
    ] {
        for peer in peers {
            check(&format!("{config}{allow}"), &[(peer, "10.0.0.9", "10.0.0.1:80", allowed)]);
            check(&format!("{config}{deny}"), &[(peer, "10.0.0.9", "10.0.0.1:80", denied)]);
        }
    }
}

#[track_caller]
fn warns(yaml: &str, field: &str, reason: &str) {
    let findings = world(yaml).findings;
    let found = findings.iter().any(|finding| {
        finding.level == Level::Warning && finding.field == field && finding.reason.contains(reason)
    });
    assert!(found, "no warning about {field} in {findings:#?}");
}

#[test]
fn nothing_is_permitted_before_configuration() {
    let compiled = world("");
    let workload = compiled.snapshot.workload_by_ip("10.0.0.1".parse().unwrap()).unwrap();
    let connection = Connection {
        peer: Some(&workload.identity),
        source_ip: "10.0.0.2".parse().unwrap(),
        destination: "10.0.0.1:80".parse().unwrap(),
        encrypted: true,
    };
    assert_eq!(PolicySet::default().authorize(workload, &connection), Err(DeniedBy::NotLoaded.into()));
    assert!(compiled.snapshot.policies().authorize(workload, &connection).is_ok());
    let mut stranger = (**workload).clone();
    stranger.uid = "Kubernetes//Pod/app/gone".into();
    assert_eq!(
        compiled.snapshot.policies().authorize(&stranger, &connection),
        Err(DeniedBy::UnknownWorkload.into())
    );
    let elsewhere = Connection { destination: "10.0.0.2:80".parse().unwrap(), ..connection };
    assert_eq!(
        compiled.snapshot.policies().authorize(workload, &elsewhere),
        Err(DeniedBy::WrongDestination.into())
    );
}

#[test]
fn without_policies_everything_is_allowed() {
    check(
        "",
        &[
            ("a/b", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("", "::ffff:10.0.0.9", "[::ffff:10.0.0.1]:80", "ok"),
            ("", "fd00::9", "[fd00::1]:80", "ok"),
        ],
    );
}

#[test]
fn strict_needs_a_peer() {
    let strict = "PeerAuthentication app/default is STRICT and the connection is plaintext";
    check(
        &peer_auth("app/default", "{mtls: {mode: STRICT}}"),
        &[
            ("", "10.0.0.9", "10.0.0.1:80", strict),
            ("", "10.0.0.9", "10.0.0.2:80", strict),
            ("a/b", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("", "10.0.0.9", "10.0.0.3:80", "ok"),
        ],
    );
    for mode in ["PERMISSIVE", "DISABLE", "UNSET"] {
        let yaml = peer_auth("app/default", &format!("{{mtls: {{mode: {mode}}}}}"));
        check(&yaml, &[("", "10.0.0.9", "10.0.0.1:80", "ok")]);
    }
    warns(&peer_auth("app/d", "{mtls: {mode: DISABLE}}"), "spec.mtls.mode", "PERMISSIVE");
}

#[test]
fn narrower_levels_override_wider_ones() {
    let mesh = peer_auth("istio-system/mesh", "{mtls: {mode: STRICT}}");
    let namespace = peer_auth("app/ns", "{mtls: {mode: PERMISSIVE}}");
    let workload = peer_auth("app/db", "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}}");
    let unset = peer_auth("other/ns", "{mtls: {mode: UNSET}}");
    let empty = peer_auth("plain/ns", "{}");
    check(
        &[mesh, namespace, workload, unset, empty].concat(),
        &[
            ("", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("", "10.0.0.9", "10.0.0.2:80", "PeerAuthentication app/db is STRICT"),
            ("", "10.0.0.9", "10.0.0.3:80", "PeerAuthentication istio-system/mesh is STRICT"),
            ("", "10.0.0.9", "10.0.0.4:80", "PeerAuthentication istio-system/mesh is STRICT"),
        ],
    );
}

#[test]
fn ports_override_their_workload() {
    let select = "selector: {matchLabels: {app: web}}";
    let ports = "portLevelMtls: {8080: {mode: PERMISSIVE}, 9090: {mode: UNSET}, 7070: {mode: STRICT}}";
    let namespace = peer_auth("app/ns", "{mtls: {mode: STRICT}}");
    let inherits = peer_auth("app/web", &format!("{{{select}, {ports}}}"));
    check(
        &[namespace.clone(), inherits].concat(),
        &[
            ("", "10.0.0.9", "10.0.0.1:80", "PeerAuthentication app/web is STRICT"),
            ("", "10.0.0.9", "10.0.0.1:8080", "ok"),
            ("", "10.0.0.9", "10.0.0.1:9090", "PeerAuthentication app/web is STRICT"),
            ("", "10.0.0.9", "10.0.0.1:7070", "PeerAuthentication app/web is STRICT"),
            ("", "10.0.0.9", "10.0.0.2:8080", "PeerAuthentication app/ns is STRICT"),
        ],
    );
    let permissive = peer_auth("app/web", &format!("{{{select}, mtls: {{mode: PERMISSIVE}}, {ports}}}"));
    check(
        &[namespace, permissive].concat(),
        &[
            ("", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("", "10.0.0.9", "10.0.0.1:9090", "ok"),
            ("", "10.0.0.9", "10.0.0.1:7070", "PeerAuthentication app/web is STRICT"),
            ("a/b", "10.0.0.9", "10.0.0.1:7070", "ok"),
        ],
    );
}

#[test]
fn the_oldest_of_a_level_wins() {
    let at = |second: u32| format!(", creationTimestamp: '2024-01-01T00:00:0{second}Z'");
    let pa = |name: &str, age: u32, spec: &str| doc("PeerAuthentication", name, &at(age), spec);
    let selected =
        |mode: &str| format!("{{selector: {{matchLabels: {{app: web}}}}, mtls: {{mode: {mode}}}}}");
    // Namespace level: by age, although the name says otherwise.
    let younger = pa("app/a", 5, "{mtls: {mode: PERMISSIVE}}");
    let older = pa("app/b", 1, "{mtls: {mode: STRICT}}");
    check(
        &[younger.clone(), older.clone()].concat(),
        &[("", "10.0.0.9", "10.0.0.1:80", "PeerAuthentication app/b is STRICT")],
    );
    warns(&[younger, older].concat(), "spec", "PeerAuthentication app/b has the same scope");
    // Workload level, and equal ages: by name.
    let yaml = [pa("app/b", 3, &selected("PERMISSIVE")), pa("app/a", 3, &selected("STRICT"))].concat();
    check(&yaml, &[("", "10.0.0.9", "10.0.0.1:80", "PeerAuthentication app/a is STRICT")]);
    let yaml = [pa("app/b", 2, &selected("PERMISSIVE")), pa("app/a", 3, &selected("STRICT"))].concat();
    check(&yaml, &[("", "10.0.0.9", "10.0.0.1:80", "ok")]);
    // The mesh.
    let yaml = [
        pa("istio-system/a", 4, "{mtls: {mode: STRICT}}"),
        pa("istio-system/b", 2, "{mtls: {mode: PERMISSIVE}}"),
    ];
    check(&yaml.concat(), &[("", "10.0.0.9", "10.0.0.1:80", "ok")]);
}

#[test]
fn a_selector_in_the_root_namespace_is_ignored() {
    let yaml = peer_auth("istio-system/x", "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}");
    check(&yaml, &[("", "10.0.0.9", "10.0.0.1:80", "ok")]);
    warns(&yaml, "spec.selector", "no effect in the root namespace");
}

#[test]
fn deny_beats_allow() {
    let allow = authz("app/allow", "{rules: [{}]}");
    let deny = authz(
        "app/deny",
        "{action: DENY, rules: [{to: [{operation: {ports: ['1']}}]}, {from: [{source: {namespaces: [bad]}}]}]}",
    );
    check(
        &[allow, deny].concat(),
        &[
            ("bad/x", "10.0.0.9", "10.0.0.1:80", "AuthorizationPolicy app/deny denies it, rule 1"),
            ("good/x", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("good/x", "10.0.0.9", "10.0.0.1:1", "AuthorizationPolicy app/deny denies it, rule 0"),
            ("bad/x", "10.0.0.9", "10.0.0.3:80", "ok"),
        ],
    );
}

#[test]
fn only_deny_policies_leave_the_rest_allowed() {
    check(
        &authz("app/deny", "{action: DENY, rules: [{from: [{source: {namespaces: [bad]}}]}]}"),
        &[("good/x", "10.0.0.9", "10.0.0.1:80", "ok"), ("", "10.0.0.9", "10.0.0.1:80", "ok")],
    );
}

#[test]
fn any_allow_policy_allows() {
    let a = authz("app/a", "{rules: [{from: [{source: {namespaces: [a]}}]}]}");
    let b = authz(
        "app/b",
        "{rules: [{from: [{source: {namespaces: [b]}}]}, {from: [{source: {namespaces: [c]}}]}]}",
    );
    check(
        &[a, b].concat(),
        &[
            ("a/x", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("b/x", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("c/x", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("d/x", "10.0.0.9", "10.0.0.1:80", "no ALLOW policy matched (2 apply)"),
            ("", "10.0.0.9", "10.0.0.1:80", "no ALLOW policy matched (2 apply)"),
        ],
    );
}

#[test]
fn an_empty_spec_allows_nothing_and_an_empty_rule_everything() {
    check(
        &authz("app/nothing", "{}"),
        &[
            ("a/x", "10.0.0.9", "10.0.0.1:80", "no ALLOW policy matched (1 apply)"),
            ("a/x", "10.0.0.9", "10.0.0.3:80", "ok"),
        ],
    );
    check(&authz("app/all", "{rules: [{}]}"), &[("", "10.0.0.9", "10.0.0.1:80", "ok")]);
    check(
        &authz("app/all", "{action: DENY, rules: [{}]}"),
        &[("a/x", "10.0.0.9", "10.0.0.1:80", "AuthorizationPolicy app/all denies it, rule 0")],
    );
}

#[test]
fn scope_is_mesh_namespace_or_selector() {
    let deny =
        |name: &str, selector: &str| authz(name, &format!("{{{selector}action: DENY, rules: [{{}}]}}"));
    let web = "selector: {matchLabels: {app: web}}, ";
    let denied = "AuthorizationPolicy";
    let cases: &[(&str, &str, [&str; 4])] = &[
        ("istio-system/p", "", [denied; 4]),
        ("istio-system/p", web, [denied, "ok", denied, "ok"]),
        ("app/p", "", [denied, denied, "ok", "ok"]),
        ("app/p", web, [denied, "ok", "ok", "ok"]),
        ("app/p", "selector: {matchLabels: {app: web, version: v1}}, ", [denied, "ok", "ok", "ok"]),
        ("app/p", "selector: {matchLabels: {app: web, version: v2}}, ", ["ok"; 4]),
        ("app/p", "selector: {matchLabels: {}}, ", [denied, denied, "ok", "ok"]),
        ("elsewhere/p", web, ["ok"; 4]),
    ];
    for (name, selector, outcomes) in cases {
        let yaml = deny(name, selector);
        for (ip, outcome) in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"].iter().zip(outcomes)
        {
            check(&yaml, &[("a/x", "10.0.0.9", ip, outcome)]);
        }
    }
}

#[test]
fn principals() {
    let x = "{principals: [cluster.local/ns/a/sa/x]}";
    check_source("", x, &["a/x"], &["a/xx", "a/y", "b/x", "td/a/x", ""]);
    check_source("", "{principals: ['cluster.local/ns/a/*']}", &["a/x", "a/y"], &["ab/x", "td/a/x", ""]);
    check_source("", "{principals: ['*/sa/x']}", &["a/x", "b/x", "td/a/x"], &["a/y", "a/ax", "a/xx", ""]);
    check_source("", "{principals: ['*/ns/a/sa/x']}", &["a/x", "td/a/x"], &["b/x", ""]);
    check_source("", "{principals: ['*']}", &["a/x", "td/b/y"], &[""]);
    check_source("", "{principals: [nobody, cluster.local/ns/a/sa/x]}", &["a/x"], &["b/x"]);
    // No character but the star at an end means anything.
    check_source("", "{principals: [cluster.local/ns/a/sa/x.y]}", &["a/x.y"], &["a/xzy"]);
    check_source("", "{principals: ['cluster.local/ns/*/sa/x']}", &[], &["a/x"]);
    check_source("", "{principals: ['spiffe://cluster.local/ns/a/sa/x']}", &[], &["a/x"]);
}

#[test]
fn a_negative_match_holds_for_an_absent_identity() {
    check_source("", "{notPrincipals: ['*']}", &[""], &["a/x", "td/b/y"]);
    check_source("", "{notPrincipals: [cluster.local/ns/a/sa/x]}", &["", "a/y", "td/a/x"], &["a/x"]);
    check_source("", "{notNamespaces: [a]}", &["", "b/x"], &["a/x"]);
    check_source("", "{notServiceAccounts: [a/x]}", &["", "a/y"], &["a/x"]);
    check_source("", "{notTrustDomains: [td]}", &["", "a/x"], &["td/a/x"]);
    // All fields of a source must hold.
    check_source("", "{namespaces: [a], notPrincipals: ['*/sa/x']}", &["a/y"], &["a/x", "b/y", ""]);
    check_source("", "{principals: ['*'], notNamespaces: [a, b]}", &["c/x"], &["a/x", "b/x", ""]);
}

#[test]
fn namespaces_accounts_and_trust_domains() {
    check_source("", "{namespaces: [a]}", &["a/x", "td/a/y"], &["aa/x", "b/a", ""]);
    check_source("", "{namespaces: ['a*', '*z']}", &["a/x", "ab/x", "xyz/x"], &["ba/x", "bz-b/x", ""]);
    check_source("", "{namespaces: ['*']}", &["a/x"], &[""]);
    check_source("", "{serviceAccounts: [a/x]}", &["a/x", "td/a/x"], &["b/x", "a/y", ""]);
    check_source("", "{serviceAccounts: [x]}", &["app/x", "td/app/x"], &["a/x", ""]);
    check_source("", "{serviceAccounts: [a/x.y]}", &["a/x.y"], &["a/xzy"]);
    check_source("", "{trustDomains: [td]}", &["td/a/x"], &["a/x", "td2/a/x", ""]);
    check_source("", "{trustDomains: ['td*', '*.local']}", &["td2/a/x", "a/x"], &["x/a/x", ""]);
}

#[test]
fn aliases_expand_principals() {
    let config = mesh_config("{trustDomain: td.new, trustDomainAliases: [td.old, cluster.old]}");
    let ours = &["td.new/a/x", "td.old/a/x", "cluster.old/a/x"];
    for principal in ["td.new/ns/a/sa/x", "td.old/ns/a/sa/x", "cluster.local/ns/a/sa/x", "*.old/ns/a/sa/x"] {
        let source = format!("{{principals: ['{principal}']}}");
        check_source(&config, &source, ours, &["other/a/x", "td.new/b/x", "td.old/a/y"]);
        let source = format!("{{notPrincipals: ['{principal}']}}");
        check_source(&config, &source, &["other/a/x", "td.new/b/x", ""], ours);
    }
    check_source(&config, "{principals: ['td.old/ns/a/*']}", &["td.new/a/x", "td.old/a/z"], &["other/a/x"]);
    check_source(&config, "{principals: [other/ns/a/sa/x]}", &["other/a/x"], &["td.new/a/x"]);
    check_source(&config, "{principals: ['*.none/ns/a/sa/x']}", &["x.none/a/x"], &["td.new/a/x"]);
    // Only principals are expanded.
    check_source(&config, "{trustDomains: [td.old]}", &["td.old/a/x"], &["td.new/a/x"]);
}

#[test]
fn ip_blocks_are_about_the_direct_peer() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("10.1.0.0/16", &["10.1.2.3", "::ffff:10.1.2.3"], &["10.2.0.1", "fd00::1", "::10.1.2.3"]),
        ("10.1.2.3", &["10.1.2.3", "::ffff:a01:203"], &["10.1.2.4"]),
        ("10.1.2.3/16", &["10.1.9.9"], &["10.2.2.3"]),
        ("::ffff:10.1.0.0/112", &["10.1.2.3", "::ffff:10.1.2.3"], &["10.2.0.1"]),
        ("::ffff:10.1.2.3", &["10.1.2.3"], &["10.1.2.4"]),
        ("fd00::/8", &["fd00::1", "fdff::1"], &["fc00::1", "10.1.2.3"]),
        ("::/0", &["fd00::1"], &["10.1.2.3", "::ffff:10.1.2.3"]),
        ("0.0.0.0/0", &["10.1.2.3", "::ffff:10.1.2.3"], &["fd00::1"]),
    ];
    for (block, inside, outside) in cases {
        for (field, matching, others) in [("ipBlocks", inside, outside), ("notIpBlocks", outside, inside)] {
            let yaml =
                authz("app/p", &format!("{{rules: [{{from: [{{source: {{{field}: ['{block}']}}}}]}}]}}"));
            for ip in *matching {
                check(&yaml, &[("a/x", ip, "10.0.0.1:80", "ok")]);
            }
            for ip in *others {
                check(&yaml, &[("a/x", ip, "10.0.0.1:80", "no ALLOW policy matched")]);
            }
        }
    }
}

#[test]
fn ports() {
    let yaml = authz(
        "app/p",
        "{rules: [{to: [{operation: {ports: ['80', '443']}}, {operation: {ports: ['8080']}}]}]}",
    );
    let no = "no ALLOW";
    check(
        &yaml,
        &[
            ("", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("", "10.0.0.9", "10.0.0.1:443", "ok"),
            ("", "10.0.0.9", "10.0.0.1:8080", "ok"),
            ("", "10.0.0.9", "10.0.0.1:81", no),
        ],
    );
    let yaml = authz("app/p", "{rules: [{to: [{operation: {notPorts: ['80', '443']}}]}]}");
    check(&yaml, &[("", "10.0.0.9", "10.0.0.1:80", no), ("", "10.0.0.9", "10.0.0.1:81", "ok")]);
}

#[test]
fn conditions() {
    let cases: &[(&str, &str, &[Case<'_>])] = &[
        (
            "source.ip",
            "10.1.0.0/16",
            &[("", "10.1.0.1", "10.0.0.1:80", "y"), ("", "10.2.0.1", "10.0.0.1:80", "n")],
        ),
        (
            "source.namespace",
            "a",
            &[("a/x", "10.1.0.1", "10.0.0.1:80", "y"), ("", "10.1.0.1", "10.0.0.1:80", "n")],
        ),
        (
            "source.principal",
            "*/sa/x",
            &[
                ("a/x", "10.1.0.1", "10.0.0.1:80", "y"),
                ("a/y", "10.1.0.1", "10.0.0.1:80", "n"),
                ("", "10.1.0.1", "10.0.0.1:80", "n"),
            ],
        ),
        (
            "source.serviceAccount",
            "a/x",
            &[("a/x", "10.1.0.1", "10.0.0.1:80", "y"), ("b/x", "10.1.0.1", "10.0.0.1:80", "n")],
        ),
        (
            "source.trustDomain",
            "td",
            &[("td/a/x", "10.1.0.1", "10.0.0.1:80", "y"), ("a/x", "10.1.0.1", "10.0.0.1:80", "n")],
        ),
        (
            "destination.ip",
            "10.0.0.1/32",
            &[
                ("", "10.1.0.1", "10.0.0.1:80", "y"),
                ("", "10.1.0.1", "[::ffff:10.0.0.1]:80", "y"),
                ("", "10.1.0.1", "[fd00::1]:80", "n"),
            ],
        ),
        (
            "destination.port",
            "80",
            &[("", "10.1.0.1", "10.0.0.1:80", "y"), ("", "10.1.0.1", "10.0.0.1:81", "n")],
        ),
    ];
    for (key, value, connections) in cases {
        for (field, yes) in [("values", "y"), ("notValues", "n")] {
            let yaml =
                authz("app/p", &format!("{{rules: [{{when: [{{key: {key}, {field}: ['{value}']}}]}}]}}"));
            for (peer, source, destination, outcome) in *connections {
                let expected = if *outcome == yes { "ok" } else { "no ALLOW" };
                check(&yaml, &[(peer, source, destination, expected)]);
            }
        }
    }
}

#[test]
fn from_to_and_when_must_all_match() {
    let rule = "{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}], to: [{operation: {ports: ['80']}}],
        when: [{key: source.ip, values: [10.1.0.0/16]}, {key: source.principal, notValues: ['*/sa/bad']}]}";
    let no = "no ALLOW";
    check(
        &authz("app/p", &format!("{{rules: [{rule}]}}")),
        &[
            ("a/x", "10.1.0.1", "10.0.0.1:80", "ok"),
            ("b/x", "10.1.0.1", "10.0.0.1:80", "ok"),
            ("c/x", "10.1.0.1", "10.0.0.1:80", no),
            ("a/x", "10.1.0.1", "10.0.0.1:81", no),
            ("a/x", "10.2.0.1", "10.0.0.1:80", no),
            ("a/bad", "10.1.0.1", "10.0.0.1:80", no),
        ],
    );
}

#[test]
fn without_a_request_what_is_about_requests_fails_closed_both_ways() {
    let parts = [
        ("from", "source", "requestPrincipals: ['*']"),
        ("from", "source", "notRequestPrincipals: ['*']"),
        ("from", "source", "remoteIpBlocks: [10.0.0.0/8]"),
        ("from", "source", "notRemoteIpBlocks: [10.0.0.0/8]"),
        ("to", "operation", "hosts: [a]"),
        ("to", "operation", "notHosts: [a]"),
        ("to", "operation", "methods: [GET]"),
        ("to", "operation", "notMethods: [GET]"),
        ("to", "operation", "paths: [/admin]"),
        ("to", "operation", "notPaths: [/admin]"),
    ];
    for (list, key, part) in parts {
        let rule = format!("rules: [{{{list}: [{{{key}: {{{part}}}}}]}}]");
        let allow = authz("app/p", &format!("{{{rule}}}"));
        check(&allow, &[("a/x", "10.0.0.9", "10.0.0.1:80", "no ALLOW policy matched (1 apply)")]);
        let deny = authz("app/p", &format!("{{action: DENY, {rule}}}"));
        check(&deny, &[("a/x", "10.0.0.9", "10.0.0.1:80", "AuthorizationPolicy app/p denies it, rule 0")]);
    }
    for key in ["'request.headers[x]'", "remote.ip", "request.auth.principal", "connection.sni"] {
        let rule = format!("rules: [{{when: [{{key: {key}, values: ['10.0.0.0/8']}}]}}]");
        let allow = authz("app/p", &format!("{{{rule}}}"));
        check(&allow, &[("a/x", "10.0.0.9", "10.0.0.1:80", "no ALLOW")]);
        let deny = authz("app/p", &format!("{{action: DENY, {rule}}}"));
        check(&deny, &[("a/x", "10.0.0.9", "10.0.0.1:80", "AuthorizationPolicy")]);
    }
}

#[test]
fn layer_4_parts_beside_layer_7_still_count_for_deny() {
    let rule = "{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: ['80'], methods: [POST]}}]}";
    check(
        &authz("app/p", &format!("{{action: DENY, rules: [{rule}]}}")),
        &[
            ("a/x", "10.0.0.9", "10.0.0.1:80", "AuthorizationPolicy"),
            ("b/x", "10.0.0.9", "10.0.0.1:80", "ok"),
            ("a/x", "10.0.0.9", "10.0.0.1:81", "ok"),
        ],
    );
    // Another rule of the same ALLOW policy is not affected.
    check(
        &authz("app/p", &format!("{{rules: [{rule}, {{from: [{{source: {{namespaces: [b]}}}}]}}]}}")),
        &[("a/x", "10.0.0.9", "10.0.0.1:80", "no ALLOW"), ("b/x", "10.0.0.9", "10.0.0.1:80", "ok")],
    );
}

#[test]
fn custom_denies_and_audit_does_nothing() {
    let custom = authz(
        "app/ext",
        "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {ports: ['80']}}]}]}",
    );
    let deny = authz("app/deny", "{action: DENY, rules: [{}]}");
    check(
        &custom,
        &[
            ("a/x", "10.0.0.9", "10.0.0.1:80", "AuthorizationPolicy app/ext denies it, rule 0"),
            ("a/x", "10.0.0.9", "10.0.0.1:81", "ok"),
        ],
    );
    // CUSTOM comes before DENY.
    check(
        &[custom.clone(), deny].concat(),
        &[("a/x", "10.0.0.9", "10.0.0.1:80", "AuthorizationPolicy app/ext")],
    );
    warns(&custom, "spec.action", "external authorizers");
    let audit = authz("app/audit", "{action: AUDIT, rules: [{from: [{source: {namespaces: [b]}}]}]}");
    check(&audit, &[("a/x", "10.0.0.9", "10.0.0.1:80", "ok"), ("b/x", "10.0.0.9", "10.0.0.1:80", "ok")]);
}

#[test]
fn target_refs_are_not_for_the_node() {
    let refs = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]";
    let yaml = authz("app/p", &format!("{{action: DENY, {refs}, rules: [{{}}]}}"));
    check(&yaml, &[("a/x", "10.0.0.9", "10.0.0.1:80", "ok")]);
    warns(&yaml, "spec.targetRefs", "enforced by waypoints and gateways, not by nodes");
}

#[test]
fn dry_run_only_notes() {
    let deny = dry_run("app/try", "{action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}]}");
    check(
        &deny,
        &[("a/x", "10.0.0.9", "10.0.0.1:80", "ok, but app/try"), ("b/x", "10.0.0.9", "10.0.0.1:80", "ok")],
    );
    let allow = dry_run("app/try", "{rules: [{from: [{source: {namespaces: [a]}}]}]}");
    check(
        &allow,
        &[("a/x", "10.0.0.9", "10.0.0.1:80", "ok"), ("b/x", "10.0.0.9", "10.0.0.1:80", "ok, but app/try")],
    );
    // Another ALLOW policy would only allow more.
    let enforced = authz("app/allow", "{rules: [{from: [{source: {namespaces: [b]}}]}]}");
    check(
        &[allow, enforced].concat(),
        &[
            ("a/x", "10.0.0.9", "10.0.0.1:80", "no ALLOW policy matched (1 apply)"),
            ("b/x", "10.0.0.9", "10.0.0.1:80", "ok"),
        ],
    );
    let not = doc(
        "AuthorizationPolicy",
        "app/p",
        ", annotations: {istio.io/dry-run: 'false'}",
        "{action: DENY, rules: [{}]}",
    );
    check(&not, &[("a/x", "10.0.0.9", "10.0.0.1:80", "AuthorizationPolicy app/p")]);
}

#[test]
fn strict_comes_before_authorization_policies() {
    let strict = peer_auth("app/default", "{mtls: {mode: STRICT}}");
    let allow = authz("app/p", "{rules: [{}]}");
    let deny = authz("app/q", "{action: DENY, rules: [{}]}");
    check(&[strict.clone(), allow].concat(), &[("", "10.0.0.9", "10.0.0.1:80", "PeerAuthentication")]);
    check(
        &[strict, deny].concat(),
        &[
            ("", "10.0.0.9", "10.0.0.1:80", "PeerAuthentication"),
            ("a/x", "10.0.0.9", "10.0.0.1:80", "AuthorizationPolicy app/q"),
        ],
    );
}

/// What parsing would have refused fails closed all the same if it gets here another way.
#[test]
fn values_that_cannot_be_understood_fail_closed() {
    let text = |value: &str| vec![value.to_owned()];
    let from = |source: Source| (vec![FromEntry { source }], Vec::new());
    let to = |operation: Operation| (Vec::new(), vec![To { operation }]);
    let broken = [
        from(Source::default()),
        from(Source { ip_blocks: text("10.0.0.0/33"), ..Source::default() }),
        from(Source { not_ip_blocks: text("ten"), ..Source::default() }),
        from(Source { service_accounts: text("a/*"), ..Source::default() }),
        from(Source { not_service_accounts: text("a/b/c"), ..Source::default() }),
        to(Operation::default()),
        to(Operation { ports: text("+80"), ..Operation::default() }),
        to(Operation { not_ports: text("70000"), ..Operation::default() }),
    ];
    for (from, to) in broken {
        for (action, expected) in [("ALLOW", "no ALLOW"), ("DENY", "AuthorizationPolicy app/p denies it")] {
            let mut objects = objects(&authz("app/p", &format!("{{action: {action}, rules: [{{}}]}}")));
            let Some(Spec::AuthorizationPolicy(spec)) = objects.last_mut().map(|object| &mut object.spec)
            else {
                panic!("the policy is the last object");
            };
            (spec.rules[0].from, spec.rules[0].to) = (from.clone(), to.clone());
            let compiled = compile(&objects, &CompileOptions::default());
            let outcome = decide(&compiled.snapshot, "a/x", "10.0.0.9", "10.0.0.1:80");
            assert!(outcome.starts_with(expected), "{action} {from:?} {to:?}: {outcome}");
            assert!(!compiled.findings.is_empty());
        }
    }
}

#[test]
fn egress_is_for_what_has_no_tunnel() {
    let compiled = world("");
    let snapshot = &compiled.snapshot;
    let source = snapshot.workload_by_ip("10.0.0.1".parse().unwrap()).unwrap();
    let permit = |asked: &str, dial: &str| {
        let target = snapshot.resolve(asked.parse().unwrap());
        snapshot
            .permit_egress(source, dial.parse().unwrap(), &target)
            .map(Permit::into_destination)
            .map_err(|d| d.by)
    };
    let needs_tunnel =
        |pod: &str| Err(DeniedBy::NeedsTunnel { workload: format!("Kubernetes//Pod/{pod}").into() });
    let ok = |addr: &str| Ok(addr.parse().unwrap());
    assert_eq!(permit("8.8.8.8:53", "8.8.8.8:53"), ok("8.8.8.8:53"));
    assert_eq!(permit("[::ffff:8.8.8.8]:53", "[::ffff:8.8.8.8]:53"), ok("8.8.8.8:53"));
    assert_eq!(permit("10.0.0.4:80", "10.0.0.4:80"), ok("10.0.0.4:80"));
    assert_eq!(permit("10.96.0.1:80", "10.0.0.4:8080"), ok("10.0.0.4:8080"));
    assert_eq!(permit("10.96.0.1:80", "203.0.113.9:8080"), ok("203.0.113.9:8080"));
    assert_eq!(permit("10.0.0.2:80", "10.0.0.2:80"), needs_tunnel("app/db"));
    assert_eq!(permit("10.96.0.1:80", "10.0.0.1:8080"), needs_tunnel("app/web"));
    assert_eq!(permit("8.8.8.8:53", "10.0.0.2:80"), needs_tunnel("app/db"));
    assert_eq!(permit("8.8.8.8:53", "[::ffff:10.0.0.2]:80"), needs_tunnel("app/db"));
    assert_eq!(permit("10.0.0.77:80", "10.0.0.77:80"), Err(DeniedBy::UnknownInPodNetwork));
    assert_eq!(permit("8.8.8.8:53", "10.0.0.77:80"), Err(DeniedBy::UnknownInPodNetwork));
    assert_eq!(permit("10.0.0.77:80", "8.8.8.8:53"), Err(DeniedBy::UnknownInPodNetwork));
    assert_eq!(permit("10.96.0.1:81", "10.0.0.4:8080"), Err(DeniedBy::WrongDestination));
    assert_eq!(permit("10.96.0.1:80", "10.0.0.4:9999"), Err(DeniedBy::WrongDestination));
    assert_eq!(permit("10.96.0.1:80", "10.96.0.1:80"), Err(DeniedBy::WrongDestination));
    assert_eq!(permit("10.0.0.4:80", "8.8.8.8:53"), Err(DeniedBy::WrongDestination));
    let nothing = Snapshot::default();
    let denied = nothing.permit_egress(source, "8.8.8.8:53".parse().unwrap(), &Target::External);
    assert_eq!(denied, Err(DeniedBy::NotLoaded.into()));
    let mut stranger = (**source).clone();
    stranger.uid = "Kubernetes//Pod/app/gone".into();
    let denied = snapshot.permit_egress(&stranger, "8.8.8.8:53".parse().unwrap(), &Target::External);
    assert_eq!(denied, Err(DeniedBy::UnknownWorkload.into()));
}

#[test]
fn the_dump_shows_policies_as_written() {
    let yaml =
        authz("app/p", "{rules: [{from: [{source: {principals: ['*/sa/x'], notIpBlocks: [10.0.0.0/8]}}]}]}");
    let dump = serde_json::to_value(world(&yaml).snapshot.policies()).unwrap();
    assert_eq!(dump["policies"][0]["name"], "app/p");
    assert_eq!(dump["policies"][0]["rules"][0]["groups"][0][0][0]["principal"][0], "*/sa/x");
    assert_eq!(dump["policies"][0]["rules"][0]["groups"][0][0][1]["negated"], true);
    assert_eq!(dump["workloads"]["Kubernetes//Pod/app/web"]["allow"][0], "app/p");
}

/// Pods `app/web`, enrolled, and `plain/pod`, and what nobody knows, behind UDP port 53 of one service.
const DATAGRAMS: &str = "
---
{apiVersion: v1, kind: Service, metadata: {name: dns, namespace: plain}, spec: {clusterIP: 10.96.0.9, ports: [{port: 53, protocol: UDP}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: dns-1, namespace: plain,
  labels: {kubernetes.io/service-name: dns}}, addressType: IPv4, ports: [{port: 5353, protocol: UDP}],
  endpoints: [{addresses: [10.0.0.4]}, {addresses: [10.0.0.1]}, {addresses: [203.0.113.9]}, {addresses: [10.0.0.77]},
  {addresses: [10.96.0.1]}, {addresses: [127.0.0.5]}]}
";

fn none_of(names: &[&str]) -> DeniedBy {
    let name = |it: &&str| {
        let (namespace, name) = it.split_once('/').unwrap();
        Arc::new(PolicyName { namespace: namespace.into(), name: name.into() })
    };
    DeniedBy::NoAllowMatched { applied: names.len(), policies: names.iter().map(name).collect() }
}

#[test]
fn datagrams_of_gateways_are_asked_about_like_plain_text() {
    let ask = |policies: &str, to: &str, port: usize| {
        let snapshot = world(&format!("{DATAGRAMS}{policies}")).snapshot;
        let dns = snapshot.services().find(|it| *it.name == *"dns").unwrap().clone();
        let permit =
            snapshot.permit_datagrams("192.0.2.1".parse().unwrap(), to.parse().unwrap(), (&dns, port));
        permit.map(Permit::into_destination).map_err(|denied| denied.by)
    };
    let allowed = |policies: &str, to: &str| ask(policies, to, 0) == Ok(to.parse().unwrap());
    for fine in ["10.0.0.4:5353", "10.0.0.1:5353", "203.0.113.9:5353", "127.0.0.5:5353"] {
        assert!(allowed("", fine), "{fine}");
    }
    assert_eq!(ask("", "10.0.0.77:5353", 0), Err(DeniedBy::UnknownInPodNetwork));
    for wrong in ["10.96.0.1:5353", "10.0.0.1:53", "10.0.0.2:5353"] {
        assert_eq!(ask("", wrong, 0), Err(DeniedBy::WrongDestination), "{wrong}");
    }
    assert_eq!(ask("", "10.0.0.1:5353", 1), Err(DeniedBy::WrongDestination), "there is no such port");
    // An enrolled pod is asked about; others have no policy, and no node that would hold them to it.
    let strict = peer_auth("istio-system/default", "{mtls: {mode: STRICT}}");
    assert!(matches!(ask(&strict, "10.0.0.1:5353", 0), Err(DeniedBy::MutualTls { .. })));
    assert!(allowed(&strict, "10.0.0.4:5353"));
    let exempt = peer_auth(
        "app/web",
        "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {5353: {mode: PERMISSIVE}}}",
    );
    assert!(allowed(&(strict + &exempt), "10.0.0.1:5353"));
    let from = |block: &str| {
        authz("app/a", &format!("{{rules: [{{from: [{{source: {{ipBlocks: [{block}]}}}}]}}]}}"))
    };
    assert!(allowed(&from("192.0.2.1"), "10.0.0.1:5353"), "the address that the pod sees");
    assert_eq!(ask(&from("192.0.2.9"), "10.0.0.1:5353", 0), Err(none_of(&["app/a"])));
    let named = authz("app/a", "{rules: [{from: [{source: {principals: ['*']}}]}]}");
    assert_eq!(ask(&named, "10.0.0.1:5353", 0), Err(none_of(&["app/a"])), "nobody has proven who it is");
    let nothing = Snapshot::default();
    let dns = world(DATAGRAMS).snapshot.services().find(|it| *it.name == *"dns").unwrap().clone();
    let unknown =
        nothing.permit_datagrams("192.0.2.1".parse().unwrap(), "10.0.0.4:5353".parse().unwrap(), (&dns, 0));
    assert_eq!(unknown.unwrap_err().by, DeniedBy::NotLoaded);
}
