//! Which of a rule's blocks applies.

use std::num::NonZeroU32;

use super::*;
use crate::balance::Algorithm;

const HOST: &str = "reviews.book.svc.cluster.local";

/// The balancer, connections, 5xx in a row, and whether there is TLS, a tunnel, the PROXY protocol and a budget.
fn summary(policy: &ClusterPolicy) -> String {
    let algorithm = match &policy.balance.algorithm {
        Algorithm::LeastRequest => "least",
        Algorithm::Random => "random",
        Algorithm::RoundRobin => "turn",
        Algorithm::Passthrough => "pass",
        Algorithm::Hash(_) => "hash",
    };
    let connections = match policy.pool.limits.connections {
        u32::MAX => "any".to_owned(),
        number => number.to_string(),
    };
    let outliers = policy.outlier.as_ref().and_then(|it| it.consecutive_5xx).map_or(0, NonZeroU32::get);
    let flags = [
        (policy.tls != TlsPolicy::Mesh, "tls"),
        (policy.tunnel.is_some(), "tunnel"),
        (policy.proxy_protocol.is_some(), "proxy"),
        (policy.retry_budget.is_some(), "budget"),
    ];
    let flags = flags.into_iter().filter(|(is, _)| *is).map(|(_, name)| name.to_owned());
    let words: Vec<_> =
        [algorithm.to_owned(), connections, outliers.to_string()].into_iter().chain(flags).collect();
    words.join(" ")
}

const EVERYTHING: &str = "host: reviews
trafficPolicy:
  loadBalancer: {simple: RANDOM}
  connectionPool: {tcp: {maxConnections: 1}}
  outlierDetection: {consecutive5xxErrors: 7}
  tls: {mode: DISABLE}
  retryBudget: {}
  proxyProtocol: {}
  portLevelSettings:
  - port: {number: 81}
    loadBalancer: {simple: PASSTHROUGH}
subsets:
- name: bare
- name: some
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, tunnel: {targetHost: x.com, targetPort: 1}}
- name: ports
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 2}}
    portLevelSettings:
    - port: {number: 80}
      tls: {mode: SIMPLE}";

#[test]
fn what_is_more_particular_overrides() {
    let rules = rules(&rule("book", "a", EVERYTHING));
    let cases = [
        ("top level", None, 80, "random 1 7 tls proxy budget"),
        ("the empty name is no subset", Some(""), 80, "random 1 7 tls proxy budget"),
        ("a port replaces four blocks", None, 81, "pass any 0 proxy budget"),
        ("a subset inherits", Some("bare"), 80, "random 1 7 tls proxy budget"),
        ("a subset inherits from the port", Some("bare"), 81, "pass any 0 proxy budget"),
        ("a subset overrides blocks", Some("some"), 80, "turn 1 7 tls tunnel proxy budget"),
        ("and those of the port", Some("some"), 81, "turn any 0 tunnel proxy budget"),
        ("a subset's port replaces all four", Some("ports"), 80, "least any 0 tls proxy budget"),
        ("a subset's other ports", Some("ports"), 81, "pass 2 0 proxy budget"),
    ];
    for (id, subset, port, expected) in cases {
        let policy = policy_for_port(&rules, ("book", HOST, port), subset);
        assert_eq!(summary(&policy), expected, "{id}");
    }
}

#[test]
fn nothing_is_written_and_everything_is_default() {
    let policy = policy(&Rules::default(), "book", HOST, None);
    assert_eq!(summary(&policy), "least any 0");
    assert_eq!((policy.subset_labels.clone(), names(&policy)), (None, String::new()));
    assert!(policy.selects(&labels("any=thing")));
}

#[test]
fn subsets_select_by_all_of_their_labels() {
    let rules = rules(&rule(
        "book",
        "a",
        "host: reviews\nsubsets:\n- {name: v1, labels: {version: v1, app: reviews}}\n- {name: all}",
    ));
    let v1 = policy(&rules, "book", HOST, Some("v1"));
    assert!(v1.selects(&labels("version=v1,app=reviews,more=x")));
    assert!(!v1.selects(&labels("version=v1")));
    assert!(!v1.selects(&labels("version=v2,app=reviews")));
    let all = policy(&rules, "book", HOST, Some("all"));
    assert!(all.selects(&labels("")) && all.subset_labels.is_some());
}

#[test]
fn an_unknown_subset_is_nowhere() {
    let rules = rules(&rule("book", "a", "host: reviews\nsubsets: [{name: v1}]"));
    let client = Client { namespace: "book", labels: &BTreeMap::new() };
    let resolved = |host, subset| {
        resolve(&rules, &client, &Destination::new("book", host, 80), subset).map(|policy| policy.rules.len())
    };
    assert_eq!(resolved(HOST, Some("v1")), Ok(1));
    let unknown = resolved(HOST, Some("v2")).unwrap_err();
    assert_eq!(unknown.to_string(), "no DestinationRule defines the subset v2");
    assert_eq!(resolved("ratings.book.svc.cluster.local", Some("v1")), Err(UnknownSubset("v1".into())));
}

#[test]
fn rules_for_one_host_count_as_one() {
    let text = [
        rule("book", "b", "host: reviews\nsubsets:\n- {name: v1, labels: {version: one}}"),
        rule(
            "book",
            "a",
            "host: reviews.book.svc.cluster.local\ntrafficPolicy: {loadBalancer: {simple: RANDOM}}\n\
             subsets:\n- {name: v1, labels: {version: other}}\n- {name: v2, labels: {version: two}}",
        ),
        rule("book", "c", "host: reviews\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"),
    ];
    let rules = rules(&text.concat());
    let version =
        |subset| policy(&rules, "book", HOST, Some(subset)).subset_labels.unwrap()["version"].clone();
    assert_eq!((version("v1"), version("v2")), ("one".to_owned(), "two".to_owned()));
    assert_eq!(summary(&policy(&rules, "book", HOST, Some("v1"))), "random any 0");
    assert_eq!(names(&policy(&rules, "book", HOST, None)), "book/b book/a book/c");
}

#[test]
fn age_decides_and_then_the_name() {
    let mut all = Rules::default();
    for (name, created) in [("c", Some(5)), ("b", Some(5)), ("z", Some(1)), ("y", None)] {
        let mut one = DestinationRule::clone(&parsed(&rule("book", name, "host: reviews"))[0]);
        one.created = created;
        all.insert(Arc::new(one));
    }
    assert_eq!(names(&policy(&all, "book", HOST, None)), "book/y book/z book/b book/c");
}

#[test]
fn the_mesh_has_defaults_for_two_blocks() {
    let text = [
        rule("book", "a", "host: reviews\ntrafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}"),
        rule(
            "book",
            "b",
            "host: ratings\ntrafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}",
        ),
    ];
    let mut rules = rules(&text.concat());
    let text = "defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 9}}, \
                outlierDetection: {consecutive5xxErrors: 3}}";
    let origin = crate::resource::Origin { file: "mesh".into(), document: 1 };
    let (config, _) = crate::resource::mesh_config::MeshConfig::parse(text, &origin);
    rules.set_defaults(Arc::new(Defaults::new(&config, "istio-system", "cluster.local")));
    let summary = |host| summary(&policy(&rules, "book", host, None));
    assert_eq!(summary("reviews.book.svc.cluster.local"), "least 1 3");
    assert_eq!(summary("ratings.book.svc.cluster.local"), "least 9 3 tls");
    assert_eq!(summary("details.book.svc.cluster.local"), "least 9 3");
}
