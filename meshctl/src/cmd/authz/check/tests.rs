use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

const YAML: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: ratings-v1, namespace: default}
spec:
  selector: {matchLabels: {app: ratings}}
  template: {metadata: {labels: {app: ratings}}, spec: {containers: [{name: c, image: i}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: default}
spec:
  selector: {matchLabels: {app: ratings}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/bookinfo-reviews]}}]
    to: [{operation: {methods: [GET], paths: [/ratings/*]}}]
  - when: [{key: 'request.auth.claims[role]', values: [admin]}, {key: 'request.headers[x-a]', values: [b]}]
---
{apiVersion: v1, kind: Service, metadata: {name: ratings, namespace: default}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: default}, spec: {clusterIP: 10.0.0.2, ports: [{port: 80}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only, namespace: default}
spec:
  targetRefs: [{kind: Service, name: ratings}]
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/ann]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: stop, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: way}]
  action: DENY
  rules: [{to: [{operation: {paths: [/stop]}}]}]
---
{apiVersion: v1, kind: Pod, metadata: {name: edge, namespace: default, labels: {istio: edge}}, spec: {containers: [{name: c, image: i}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: default}
spec:
  selector: {matchLabels: {istio: edge}}
  action: DENY
  rules: [{to: [{operation: {paths: [/closed]}}]}]
";

fn ask(words: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("all.yaml"), YAML).unwrap();
    let objects = parse(&SourceFile { name: "all.yaml", text: YAML }).objects;
    let pod = stand_in(&objects, "default", "ratings-v1");
    let objects: Vec<_> = objects.into_iter().chain(pod).collect();
    let snapshot = compile(&objects, &CompileOptions::default()).snapshot;
    let words: Vec<_> = words.split(' ').filter(|it| !it.is_empty()).collect();
    let pod =
        if words.first().is_some_and(|it| it.contains('/')) { &[][..] } else { &["default/ratings-v1"] };
    let args = Line::try_parse_from(["x"].iter().chain(pod).chain(&words)).unwrap().args;
    let place = Place::of(&args, &snapshot, &objects).unwrap();
    serde_json::to_value(args.ask(&snapshot, &place).unwrap()).unwrap()
}

#[test]
fn policies_with_targets_are_asked_where_they_are_enforced() {
    for (words, decision, policies) in [
        (
            "default/ratings --waypoint default/way --from default/ann --path /a",
            "allowed",
            &["only", "stop"][..],
        ),
        ("default/ratings --waypoint default/way --from default/bob --path /a", "denied", &["only", "stop"]),
        (
            "default/ratings --waypoint default/way --from default/ann --path /stop",
            "denied",
            &["only", "stop"],
        ),
        // What is for the waypoint, and what is for the other service alone.
        ("default/other --waypoint default/way --from default/bob --path /a", "allowed", &["stop"]),
        ("default/other --waypoint default/else --from default/bob --path /stop", "allowed", &[]),
        // A gateway is selected as pods are, or named.
        ("default/edge --gateway --path /a", "allowed", &["closed"]),
        ("default/edge --gateway --path /closed", "denied", &["closed"]),
        ("default/way --gateway --path /stop", "denied", &["stop"]),
    ] {
        let answer = ask(words);
        assert_eq!(answer["decision"], decision, "{words}: {answer:#}");
        let mut asked: Vec<_> =
            answer["policies"].as_array().unwrap().iter().map(|it| it["policy"].to_string()).collect();
        asked.sort();
        let named = asked.iter().zip(policies).all(|(asked, policy)| asked.contains(policy));
        assert!(named && asked.len() == policies.len(), "{words}: {asked:?}");
    }
}

#[test]
fn the_answer_says_why() {
    let reviews = "--from cluster.local/ns/default/sa/bookinfo-reviews";
    for (words, decision) in [
        (format!("{reviews} --method GET --path /ratings/0?x=1"), "allowed"),
        (format!("{reviews} --path /x/../ratings/0"), "allowed"),
        ("--from default/bookinfo-reviews --path /ratings/0".to_owned(), "allowed"),
        (format!("{reviews} --method POST --path /ratings/0"), "denied"),
        ("--method GET --path /ratings/0".to_owned(), "denied"),
        ("--claims {\"role\":[\"admin\"]} --header x-a=b".to_owned(), "allowed"),
        ("--claims {\"role\":[\"admin\"]} --header x-a=c".to_owned(), "denied"),
        (reviews.to_owned(), "needs-request"),
    ] {
        let answer = ask(&words);
        assert_eq!(answer["decision"], decision, "{words}: {answer:#}");
    }
    let answer = ask(&format!("{reviews} --method POST --path /ratings/0"));
    assert_eq!(answer["responseCodeDetails"], "rbac_access_denied_matched_policy[none]");
    let why = &answer["policies"][0]["rules"][0]["because"][0];
    assert_eq!(why, "the method is POST, and must be one of GET");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    for words in ["--header x", "--claims []", "--from-ip x", "--header a\nb=c"] {
        let line = ["x", "a/b"].into_iter().chain(words.split(' '));
        assert!(Line::try_parse_from(line).is_err(), "{words}");
    }
    let domain = Snapshot::default();
    assert!(identity("a/b/c", &domain).is_err());
    assert_eq!(identity("spiffe://td/ns/a/sa/b", &domain).unwrap().principal(), "td/ns/a/sa/b");
}
