use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};

use super::{Call, Caller, Each, Limits, Outcome, Policy, connection, each, open, request};
use crate::id::{SpiffeId, TrustDomain};
use crate::model::{CompileOptions, Snapshot, compile};
use crate::own::{Own, Sightings};
use crate::resource::{SourceFile, parse};
use crate::route::RequestView;

const ROOT: &str = "istio-system";

fn snapshot(limits: &[(&str, &str, &str)]) -> Snapshot {
    let mut text = String::from(
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.0.0.1, \
         ports: [{port: 80}]}}\n---\n\
         {apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: web, namespace: shop}, spec: \
         {hosts: [db.example], addresses: [10.0.0.2], resolution: STATIC, ports: [{name: tcp, number: 80}]}}\n",
    );
    text.extend(limits.iter().map(|(namespace, name, spec)| {
        format!(
            "---\n{{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {{name: {name}, \
             namespace: {namespace}}}, spec: {{{spec}}}}}\n"
        )
    }));
    let parsed = parse(&SourceFile { name: "t.yaml", text: &text });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    compile(&parsed.objects, &CompileOptions::default()).snapshot
}

/// A path, and headers.
type Asked<'a> = (&'a str, &'a [(&'static str, &'a str)]);

/// A request of `GET /path` with these headers and who sends it.
fn ask(
    policies: &[Arc<Policy>],
    (path, headers): (&str, &[(&'static str, &str)]),
    who: &Caller<'_>,
    now: Instant,
) -> Outcome {
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let view = RequestView {
        method: &Method::GET,
        scheme: "http",
        authority: "Web.Test:8080",
        path,
        query: None,
        headers: &headers,
        port: 80,
        claims: None,
    };
    request(policies, &Call { view, route: "first.second", caller: *who }, now)
}

fn anybody() -> Caller<'static> {
    Caller::new(None, IpAddr::from([10, 0, 0, 9]))
}

fn passes(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Over(_))
}

fn gateway(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Own {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Sightings::of(namespace, name, labels).own()
}

#[test]
fn a_limit_is_for_its_targets_and_for_nothing_else() {
    let all = "rules: [{requests: 1}], connections: {count: 1}";
    let of = |target: &str| format!("targetRefs: [{{{target}}}], {all}");
    let limits = [
        ("shop", "service", of("kind: Service, name: web")),
        ("shop", "entry", of("group: networking.istio.io, kind: ServiceEntry, name: web")),
        ("shop", "gateway", of("group: gateway.networking.k8s.io, kind: Gateway, name: edge")),
        ("shop", "selected", format!("selector: {{matchLabels: {{app: edge}}}}, {all}")),
        (ROOT, "everywhere", format!("selector: {{matchLabels: {{app: edge}}}}, {all}")),
        ("other", "elsewhere", of("kind: Service, name: web")),
    ];
    let limits: Vec<_> = limits.iter().map(|(of, name, spec)| (*of, *name, spec.as_str())).collect();
    let snapshot = snapshot(&limits);
    let limits = Limits::of(&snapshot, &Limits::default(), Instant::now());
    let names = |policies: &[Arc<Policy>]| {
        let mut names: Vec<_> = policies.iter().map(|it| it.key.name.to_string()).collect();
        names.sort();
        names.join(" ")
    };
    let service = |ip: &str| snapshot.services().find(|it| it.vips.contains(&ip.parse().unwrap())).unwrap();
    assert_eq!(names(limits.of_service(service("10.0.0.1"))), "service");
    assert_eq!(names(limits.of_service(service("10.0.0.2"))), "entry");
    assert_eq!(names(&limits.of_gateway(&gateway("shop", "edge", &[]))), "everywhere gateway selected");
    assert_eq!(names(&limits.of_gateway(&gateway("other", "edge", &[]))), "everywhere");
    let labelled = [("gateway.networking.k8s.io/gateway-name", "edge")];
    assert_eq!(names(&limits.of_gateway(&gateway("shop", "edge-7f", &labelled))), "gateway");
    let labels = BTreeMap::from([("app".to_owned(), "edge".to_owned())]);
    assert_eq!(names(&limits.of_workload("shop", &labels)), "everywhere selected");
    assert_eq!(names(&limits.of_workload("shop", &BTreeMap::new())), "");
}

/// The policies for the Service of a configuration that has one limit with these rules.
fn of_web(rules: &str, before: &Limits, epoch: Instant) -> (Limits, Vec<Arc<Policy>>) {
    let snapshot =
        snapshot(&[("shop", "l", &format!("targetRefs: [{{kind: Service, name: web}}], {rules}"))]);
    let limits = Limits::of(&snapshot, before, epoch);
    let service = snapshot.services().find(|it| it.entry.is_none()).unwrap();
    let policies = limits.of_service(service).to_vec();
    (limits, policies)
}

#[test]
fn requests_are_told_apart_as_a_rule_says() {
    let ann = SpiffeId::new(&TrustDomain::default(), "shop", "ann").unwrap();
    let bob = SpiffeId::new(&TrustDomain::default(), "shop", "bob").unwrap();
    let at = |last, id| Caller::new(id, IpAddr::from([10, 0, 0, last]));
    let plain = ("/", &[][..]);
    let user = |name: &'static str| ("/", [("x-user", name)]);
    let now = Instant::now();
    // Of two requests, one after the other, whether the second finds a count of its own.
    let cases: [(&str, Asked<'_>, Caller<'_>, Asked<'_>, Caller<'_>, bool); 10] = [
        ("", plain, anybody(), plain, anybody(), false),
        ("address", plain, at(1, None), plain, at(2, None), true),
        ("address", plain, at(1, Some(&ann)), plain, at(1, Some(&bob)), false),
        ("identity", plain, at(1, Some(&ann)), plain, at(1, Some(&bob)), true),
        ("identity", plain, at(1, Some(&ann)), plain, at(2, Some(&ann)), false),
        ("identity", plain, at(1, None), plain, at(2, None), false),
        ("path", ("/a", &[]), anybody(), ("/b", &[]), anybody(), true),
        ("host, route, method", plain, anybody(), ("/b", &[]), anybody(), false),
        ("'header:X-User'", ("/", &user("a").1), anybody(), ("/", &user("b").1), anybody(), true),
        // Whoever leaves it away gains nothing by that.
        ("'header:X-User'", plain, at(1, None), plain, at(2, None), false),
    ];
    for (by, first, who, second, other, own) in cases {
        let rules = format!("rules: [{{requests: 1, by: [{by}]}}]");
        let (_limits, policies) = of_web(&rules, &Limits::default(), now);
        assert!(passes(&ask(&policies, first, &who, now)), "{by}");
        assert_eq!(passes(&ask(&policies, second, &other, now)), own, "{by}");
        assert!(!passes(&ask(&policies, first, &who, now)), "{by}");
    }
}

#[test]
fn only_requests_that_match_count() {
    let now = Instant::now();
    for (matches, path, counts) in [
        ("{uri: {prefix: /api}}", "/api/x", true),
        ("{uri: {prefix: /api}}", "/", false),
        ("{uri: {exact: /}}, {uri: {exact: /api}}", "/api", true),
        ("{method: {exact: POST}}", "/", false),
        ("{method: {exact: GET}, authority: {prefix: Web}}", "/", true),
        ("{headers: {x-user: {exact: a}}}", "/", false),
        ("{route: first}", "/", true),
        ("{route: first.second}", "/", true),
        ("{route: fir}", "/", false),
    ] {
        let rules = format!("rules: [{{requests: 1, match: [{matches}]}}]");
        let (_limits, policies) = of_web(&rules, &Limits::default(), now);
        let first = ask(&policies, (path, &[]), &anybody(), now);
        assert_eq!(matches!(first, Outcome::Within(_)), counts, "{matches} {path}");
        assert_eq!(passes(&ask(&policies, (path, &[]), &anybody(), now)), !counts, "{matches} {path}");
    }
}

#[test]
fn what_is_refused_takes_nothing_and_says_who_refused_it() {
    let now = Instant::now();
    let rules = "rules: [{name: wide, requests: 3, per: 1h}, {name: narrow, requests: 1, per: 10s, match: [{uri: {prefix: /x}}]}]";
    let (_limits, policies) = of_web(rules, &Limits::default(), now);
    let Outcome::Within(standing) = ask(&policies, ("/x", &[]), &anybody(), now) else { panic!("refused") };
    assert_eq!((standing.limit, standing.remaining), (1, 0), "the one that is nearest to its end");
    for _ in 0..10 {
        let Outcome::Over(over) = ask(&policies, ("/x", &[]), &anybody(), now) else { panic!("passed") };
        assert_eq!((&*over.by, over.standing.next_seconds()), ("shop/l.narrow", 10));
    }
    for left in [1, 0] {
        let Outcome::Within(standing) = ask(&policies, ("/", &[]), &anybody(), now) else {
            panic!("refused")
        };
        assert_eq!(standing.remaining, left);
    }
    let Outcome::Over(over) = ask(&policies, ("/", &[]), &anybody(), now) else { panic!("passed") };
    assert_eq!(&*over.by, "shop/l.wide");
}

#[test]
fn what_was_counted_outlives_changes_of_everything_else() {
    let (now, one) = (Instant::now(), "{name: one, requests: 1, per: 1h}");
    let (limits, policies) = of_web(&format!("rules: [{one}]"), &Limits::default(), now);
    assert!(passes(&ask(&policies, ("/", &[]), &anybody(), now)));
    // Nothing has changed; another rule has come; it is gone again.
    for rules in [
        format!("rules: [{one}]"),
        format!("rules: [{{name: two, requests: 9}}, {one}]"),
        format!("rules: [{one}]"),
    ] {
        let (limits, policies) = of_web(&rules, &limits, now);
        assert!(!passes(&ask(&policies, ("/", &[]), &anybody(), now)), "{rules}");
        drop(limits);
    }
    // The limit itself has.
    let (_limits, policies) = of_web("rules: [{name: one, requests: 2, per: 1h}]", &limits, now);
    assert!(passes(&ask(&policies, ("/", &[]), &anybody(), now)));
    assert!(passes(&ask(&policies, ("/", &[]), &anybody(), now)));
    assert!(!passes(&ask(&policies, ("/", &[]), &anybody(), now)));
}

#[test]
fn the_shortest_body_counts() {
    let of = |body: &str| of_web(&format!("requestBody: {{{body}}}"), &Limits::default(), Instant::now()).1;
    let both = [of("maxBytes: 10"), of("maxBytes: 20, buffer: true")].concat();
    let limit = super::body(both.iter()).unwrap();
    assert_eq!((limit.max_bytes, limit.buffer), (10, true));
    assert_eq!(super::body(std::iter::empty()), None);
}

#[test]
fn connections_are_counted_by_who_makes_them() {
    let now = Instant::now();
    let (_limits, policies) =
        of_web("connections: {count: 2, per: 1s, by: [address]}", &Limits::default(), now);
    let at = |last| Caller::new(None, IpAddr::from([10, 0, 0, last]));
    let mapped = Caller::new(None, "::ffff:10.0.0.1".parse().unwrap());
    assert!(passes(&connection(&policies, &at(1), now)));
    assert!(passes(&connection(&policies, &mapped, now)), "the same address");
    assert!(!passes(&connection(&policies, &at(1), now)));
    assert!(passes(&connection(&policies, &at(2), now)));
    assert!(passes(&connection(&policies, &at(1), now + Duration::from_millis(500))));
    assert_eq!(ask(&policies, ("/", &[]), &anybody(), now), Outcome::Free);
}

#[test]
fn open_connections_have_places_that_are_given_back_and_outlive_a_change() {
    let edge = Sightings::of("shop", "edge", []).own();
    let gateway = "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: edge}]";
    let spec = |max: u32| format!("{gateway}, openConnections: [{{max: {max}}}, {{by: [address], max: 2}}]");
    let of = |max: u32, before: &Limits| {
        let spec = spec(max);
        Limits::of(&snapshot(&[("shop", "l", &spec)]), before, Instant::now())
    };
    let from = |last: u8| Caller::new(None, IpAddr::from([10, 0, 0, last]));
    let limits = of(3, &Limits::default());
    let policies = limits.of_gateway(&edge);
    let one = open(&policies, &from(1)).unwrap();
    let two = open(&policies, &from(1)).unwrap();
    let full = open(&policies, &from(1)).unwrap_err().to_string();
    assert_eq!(full, "RateLimit shop/l allows 2 open connections at a time");
    let three = open(&policies, &from(2)).unwrap();
    let full = open(&policies, &from(3)).unwrap_err().to_string();
    assert_eq!(full, "RateLimit shop/l allows 3 open connections at a time");
    // Who was refused by one count holds no place of another.
    drop((one, three));
    let policies = of(2, &limits).of_gateway(&edge);
    let three = open(&policies, &from(3)).unwrap();
    assert!(open(&policies, &from(4)).is_err(), "two are open, whatever the limit was when they came");
    drop((two, three));
    assert!(open(&policies, &from(4)).is_ok());
}

#[test]
fn of_what_is_said_about_each_connection_the_least_counts() {
    let edge = Sightings::of("shop", "edge", []).own();
    let gateway = "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: edge}]";
    let (one, other) = (
        format!("{gateway}, eachConnection: {{maxRequests: 7, idleTimeout: 5s}}"),
        format!("{gateway}, eachConnection: {{maxRequests: 9, maxDuration: 1h, maxConcurrentStreams: 4}}"),
    );
    let snapshot = snapshot(&[("shop", "a", &one), ("shop", "b", &other)]);
    let limits = Limits::of(&snapshot, &Limits::default(), Instant::now());
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let least = Each { requests: Some(7), duration: seconds(3_600), idle: seconds(5), streams: Some(4) };
    assert_eq!(each(&limits.of_gateway(&edge)), least);
    let waypoint = Sightings::of("shop", "other", []).own();
    assert_eq!(each(&limits.of_gateway(&waypoint)), Each::default());
}
