//! What is told in parts, late or twice.

use super::*;
use crate::id::SpiffeId;
use crate::model::{CompileOptions, World};
use crate::policy::{Connection, DeniedBy};
use crate::resource::{SourceFile, parse};

const YAML: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: app, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: app, labels: {app: web}, uid: u1}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.1}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: app}, spec: {selector: {matchLabels: {app: web}}, rules: [{}]}}
";

fn records() -> Vec<Record> {
    let mut world = World::new(CompileOptions::default());
    let parsed = parse(&SourceFile { name: "t.yaml", text: YAML });
    parsed.objects.iter().for_each(|object| world.upsert(object));
    world.commit().into_iter().filter_map(|(_, record)| record).collect()
}

fn decide(mirror: &mut Mirror) -> Result<(), DeniedBy> {
    let snapshot = mirror.snapshot();
    let workload = snapshot.workload_by_uid("Kubernetes//Pod/app/a").unwrap();
    let peer = SpiffeId::parse("spiffe://cluster.local/ns/x/sa/y").unwrap();
    let connection = Connection {
        peer: Some(&peer),
        source_ip: "10.0.0.9".parse().unwrap(),
        destination: "10.0.0.1:80".parse().unwrap(),
        encrypted: true,
    };
    snapshot.policies().authorize(workload, &connection).map(drop).map_err(|denied| denied.by)
}

#[test]
fn a_policy_that_is_listed_but_unknown_closes_the_workload() {
    let mut mirror = Mirror::new("n1");
    let (policies, others): (Vec<_>, Vec<_>) =
        records().into_iter().partition(|record| matches!(record, Record::Policy(_)));
    others.into_iter().for_each(|record| mirror.apply(record));
    let key = Arc::new(PolicyName { namespace: "app".into(), name: "p".into() });
    assert_eq!(decide(&mut mirror), Err(DeniedBy::PolicyMissing { policy: Arc::clone(&key) }));
    policies.into_iter().for_each(|record| mirror.apply(record));
    assert_eq!(decide(&mut mirror), Ok(()));
    // Withdrawn before the workload that lists it is told anew: it stays in force until then.
    mirror.remove(&RecordKey::Policy(Arc::clone(&key)));
    assert_eq!(decide(&mut mirror), Ok(()));
    let unlisted = mirror.workloads.values().next().unwrap();
    let unlisted = Workload { policies: Vec::new(), ..Workload::clone(unlisted) };
    mirror.apply(Record::Workload(Arc::new(unlisted)));
    assert_eq!(decide(&mut mirror), Ok(()));
    assert!(mirror.snapshot().policies().is_empty());
}

/// Elsewhere nobody is told when that workload stops to list it.
#[test]
fn what_only_workloads_of_other_nodes_list_goes_at_once() {
    let mut mirror = Mirror::new("n2");
    records().into_iter().for_each(|record| mirror.apply(record));
    assert_eq!(mirror.snapshot().policies().len(), 1);
    mirror.remove(&RecordKey::Policy(Arc::new(PolicyName { namespace: "app".into(), name: "p".into() })));
    assert!(mirror.snapshot().policies().is_empty());
}

#[test]
fn only_its_own_node_knows_the_pod_behind_a_workload() {
    let uid = |mirror: &mut Mirror| {
        records().into_iter().for_each(|record| mirror.apply(record));
        let snapshot = mirror.snapshot();
        let workload = snapshot.workload_by_uid("Kubernetes//Pod/app/a").unwrap();
        (workload.pod_uid.clone(), workload.enrolled, snapshot.local_pods().count())
    };
    assert_eq!(uid(&mut Mirror::new("n1")), (Some("u1".into()), true, 1));
    assert_eq!(uid(&mut Mirror::new("n2")), (None, true, 0));
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let mut mirror = Mirror::new("n1");
    records().into_iter().for_each(|record| mirror.apply(record));
    let before = mirror.snapshot();
    let keys: Vec<_> = mirror.keys().collect();
    keys.iter().for_each(|key| mirror.remove(key));
    let after = mirror.snapshot();
    assert_eq!((before.workload_count(), after.workload_count()), (1, 0));
    assert!(before.workload_by_ip("10.0.0.1".parse().unwrap()).is_some());
    assert!(after.workload_by_ip("10.0.0.1".parse().unwrap()).is_none());
    assert_eq!(mirror.keys().count(), 0);
}
