use super::*;
use crate::model::{CompileOptions, Mirror, Record, RecordKey, World};
use crate::resource::{SourceFile, parse};

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
";
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, namespace: shop, labels: {app: reviews, version: v1}}
spec: {nodeName: n2, containers: [{name: a, image: a}]}
status: {podIP: 10.0.0.1}
";

fn objects(text: &str) -> Vec<Object> {
    let parsed = parse(&SourceFile { name: "f.yaml", text });
    assert_eq!(parsed.rejected, [], "{:?}", parsed.findings);
    parsed.objects
}

#[test]
fn a_resource_is_the_same_after_its_journey() {
    let rule = objects(RULE).remove(0);
    let config = Config::of(&rule).unwrap();
    let read = Config::read("DestinationRule", ("shop", "reviews"), None, config.text()).unwrap();
    assert_eq!(read, config);
    let other = Config::read("DestinationRule", ("shop", "reviews"), Some(1), config.text()).unwrap();
    assert_ne!(other, config);
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    let bad = Config::read("DestinationRule", ("shop", "reviews"), None, "{\"host\":\"a\",\"hots\":\"a\"}")
        .unwrap_err();
    assert!(bad.contains("unknown field") && bad.contains("spec.hots"), "{bad}");
    let bad = Config::read("Widget", ("shop", "reviews"), None, "{}").unwrap_err();
    assert_eq!(bad, "Widget is no kind that is known here");
    let bad = Config::read("PeerAuthentication", ("shop", "reviews"), None, "{}").unwrap_err();
    assert_eq!(bad, "PeerAuthentication does not travel");
}

#[test]
fn other_nodes_know_the_labels_that_subsets_ask_for_and_no_others() {
    let mut world = World::new(CompileOptions::default());
    let mut mirror = Mirror::new("n1");
    let pod = objects(POD).remove(0);
    let rule = objects(RULE).remove(0);
    let mut labels = |world: &mut World| {
        for (key, record) in world.commit() {
            match record {
                Some(record) => mirror.apply(record),
                None => mirror.remove(&key),
            }
        }
        let snapshot = mirror.snapshot();
        let workload = snapshot.workload_by_uid("Kubernetes//Pod/shop/reviews-1").unwrap();
        let labels: Vec<_> = workload.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        (labels, snapshot.configs().count())
    };
    world.upsert(&pod);
    assert_eq!(labels(&mut world), (vec![], 0));
    world.upsert(&rule);
    assert_eq!(labels(&mut world), (vec!["version=v1".to_owned()], 1));
    world.remove(&rule.key());
    assert_eq!(labels(&mut world), (vec![], 0));
}

#[test]
fn a_resource_that_says_the_same_is_not_told_again() {
    let mut world = World::new(CompileOptions::default());
    let rule = objects(RULE).remove(0);
    world.upsert(&rule);
    let told = world.commit();
    assert!(told.iter().any(|(key, record)| {
        matches!(key, RecordKey::Config(_)) && matches!(record, Some(Record::Config(_)))
    }));
    world.upsert(&rule);
    assert_eq!(world.commit(), []);
}
