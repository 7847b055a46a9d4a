//! What is told, and what is not worth telling.

use std::time::Duration;

use mesh_core::resource::Spec;
use mesh_source::kubernetes::status::{Condition, Status};
use mesh_tests::apiserver::{ApiServer, Fault, Refusal, Resource, Settings};
use serde_json::{Value, json};

use super::{Follower, define_policies, hasty, key, keys, pod, policy, server};
use crate::api::Cluster;
use crate::stage::soon;

/// A cluster with the mesh's kinds, and a namespace of the test in it.
async fn cluster() -> (Cluster, String) {
    let cluster = Cluster::any().await;
    cluster.kinds().await;
    let namespace = cluster.namespace().await;
    (cluster, namespace)
}

#[tokio::test]
async fn everything_first_and_then_the_news() {
    let (cluster, a) = cluster().await;
    cluster.put(&pod(&a, "p", "1")).await;
    cluster.put(&policy(&a, "strict", "STRICT")).await;
    let mut follower = Follower::of(cluster, &[&a], None);
    follower.synced().await;
    let log = follower.log();
    assert_eq!(log.last().map(String::as_str), Some("synced"));
    for expected in
        [format!("+Pod {a}/p"), format!("+PeerAuthentication {a}/strict"), format!("+Namespace {a}")]
    {
        assert_eq!(log.iter().filter(|line| **line == expected).count(), 1, "{expected} in {log:?}");
    }
    follower.server.put(&pod(&a, "q", "1")).await;
    follower.until("the Pod", |seen| seen.has("Pod", &a, "q")).await;
    follower.server.put(&pod(&a, "p", "2")).await;
    follower.until("its label", |seen| seen.label("Pod", &a, "p") == Some("2")).await;
    follower.server.remove("Pod", &a, "p").await;
    follower.until("its end", |seen| !seen.has("Pod", &a, "p")).await;
    // A Pod is told when it is made, and when it has its status.
    let mut log = follower.log();
    log.dedup();
    assert_eq!(log, [format!("+Pod {a}/q"), format!("+Pod {a}/p"), format!("-Pod {a}/p")]);
}

#[tokio::test]
async fn changes_come_in_order() {
    let (cluster, a) = cluster().await;
    cluster.put(&pod(&a, "p", "start")).await;
    let mut follower = Follower::of(cluster, &[&a], None);
    follower.synced().await;
    follower.log();
    let mut labels = Vec::new();
    for number in 0..100 {
        follower.server.put(&pod(&a, "p", &number.to_string())).await;
    }
    while labels.last().map(String::as_str) != Some("99") {
        let batch = follower.changes.next().await.expect("running");
        for change in batch.into_iter().filter(|change| follower.seen.concerns(change)) {
            let mesh_source::Change::Apply(object) = change else { unreachable!("nothing else has changed") };
            labels.push(object.meta.labels["l"].clone());
        }
    }
    let expected: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(labels, expected);
}

#[tokio::test]
async fn what_means_nothing_to_the_mesh_is_not_told() {
    let (cluster, a) = cluster().await;
    cluster.put(&pod(&a, "p", "1")).await;
    cluster.put(&policy(&a, "strict", "STRICT")).await;
    let mut follower = Follower::of(cluster, &[&a], None);
    follower.synced().await;
    follower.log();
    let mut busy = pod(&a, "p", "1");
    busy["status"]["containerStatuses"] = json!([{
        "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 7,
    }]);
    follower.server.put(&busy).await;
    let mut reviewed = policy(&a, "strict", "STRICT");
    reviewed["status"] = json!({"conditions": []});
    follower.server.put(&reviewed).await;
    follower.for_a_moment().await;
    assert_eq!(follower.log(), Vec::<String>::new());
    // Ended Pods are none of ours.
    let mut ended = pod(&a, "job", "1");
    ended["status"]["phase"] = json!("Succeeded");
    follower.server.put(&ended).await;
    let mut ending = pod(&a, "p", "1");
    ending["status"]["phase"] = json!("Failed");
    follower.server.put(&ending).await;
    let ends = |seen: &super::Seen| !seen.has("Pod", &a, "p") && !seen.has("Pod", &a, "job");
    follower.until("their end", ends).await;
}

/// A policy that no schema finds fault with, and that cannot be obeyed.
fn block(namespace: &str, name: &str, block: &str) -> Value {
    let source = json!({"ipBlocks": [block]});
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"rules": [{"from": [{"source": source}]}]},
    })
}

#[tokio::test]
async fn a_bad_object_is_refused_alone_and_keeps_its_last_good_version() {
    let (cluster, a) = cluster().await;
    cluster.put(&block(&a, "good", "10.0.0.0/8")).await;
    cluster.put(&block(&a, "bad", "10.0.0.0.0/8")).await;
    let mut follower = Follower::of(cluster, &[&a], None);
    follower.synced().await;
    assert!(follower.seen.has("AuthorizationPolicy", &a, "good"));
    assert!(!follower.seen.has("AuthorizationPolicy", &a, "bad"));
    let said = |seen: &super::Seen, name: &str| {
        let about = mesh_source::About::Object(key("AuthorizationPolicy", &a, name));
        seen.findings.get(&about).cloned().unwrap_or_default()
    };
    let error = |name: &str| {
        format!("AuthorizationPolicy {a}/{name} Error spec.rules[0].from[0].source.ipBlocks[0]: ")
    };
    let found = said(&follower.seen, "bad");
    assert!(found.len() == 1 && found[0].starts_with(&error("bad")), "{found:?}");
    follower.server.put(&block(&a, "good", "10.0.0.0.0/8")).await;
    follower.until("a finding", |seen| !said(seen, "good").is_empty()).await;
    assert!(follower.seen.has("AuthorizationPolicy", &a, "good"));
    let kept = format!(
        "AuthorizationPolicy {a}/good Warning the last good version of AuthorizationPolicy {a}/good stays in force"
    );
    let found = said(&follower.seen, "good");
    assert!(found.len() == 2 && found[0].starts_with(&error("good")) && found[1] == kept, "{found:?}");
    follower.server.put(&block(&a, "good", "10.1.0.0/16")).await;
    follower.until("no finding", |seen| said(seen, "good").is_empty()).await;
    follower.server.remove("AuthorizationPolicy", &a, "bad").await;
    follower.until("its end", |seen| said(seen, "bad").is_empty()).await;
}

/// Of fields that a schema of the cluster does not check: only the suite's own server has none.
#[tokio::test]
async fn a_value_that_nobody_checks_is_named_with_what_was_meant() {
    let server = server();
    define_policies(&server, &["v1"]);
    server.put(&policy("a", "bad", "STRIKT"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    let said: Vec<_> = follower.seen.findings.values().flatten().collect();
    let error =
        "PeerAuthentication a/bad Error spec.mtls.mode: unknown value \"STRIKT\" (did you mean \"STRICT\"?)";
    assert_eq!(said, [error]);
}

/// On the suite's own server only, as the kinds of a cluster are there for everybody.
#[tokio::test]
async fn a_kind_is_used_when_it_comes_and_in_the_best_version_there_is() {
    let server = server();
    let mut follower = Follower::new(server);
    follower.synced().await;
    follower.server.requests();
    // An old Istio.
    define_policies(&follower.server, &["v1beta1"]);
    let mut old = policy("a", "strict", "STRICT");
    old["apiVersion"] = json!("security.istio.io/v1beta1");
    follower.server.put(&old);
    follower.until("the policy", |seen| seen.has("PeerAuthentication", "a", "strict")).await;
    // A kind that goes takes its objects along, but not at once: a server that starts up may not know better.
    follower.server.undefine("security.istio.io", "peerauthentications");
    follower.server.end_watches();
    follower.for_a_moment().await;
    follower.until("its end", |seen| !seen.has("PeerAuthentication", "a", "strict")).await;
    define_policies(&follower.server, &["v1", "v1beta1"]);
    follower.until("the policy again", |seen| seen.has("PeerAuthentication", "a", "strict")).await;
}

/// On the suite's own server only, as above.
#[tokio::test]
async fn objects_of_kinds_that_are_not_supported_are_named_and_not_read() {
    let mut follower = Follower::new(server());
    follower.synced().await;
    // The definition comes late, as those of Istio may.
    let kind = Resource::custom("extensions.istio.io", &["v1alpha1"], "WasmPlugin", "wasmplugins");
    follower.server.define(kind);
    let plugin = |name: &str, url: &str| {
        json!({
            "apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin",
            "metadata": {"name": name, "namespace": "a"}, "spec": {"url": url},
        })
    };
    let said = |seen: &super::Seen, name: &str| {
        let about = mesh_source::About::Object(key("WasmPlugin", "a", name));
        seen.findings.get(&about).cloned().unwrap_or_default()
    };
    follower.server.put(&plugin("early", "oci://a"));
    follower.until("a finding", |seen| !said(seen, "early").is_empty()).await;
    follower.server.put(&plugin("late", "oci://a"));
    follower.until("another", |seen| !said(seen, "late").is_empty()).await;
    let [line] = &said(&follower.seen, "late")[..] else { panic!("one line for each") };
    let start = "WasmPlugin a/late Warning WasmPlugin is not supported: this document has no effect (";
    assert!(line.starts_with(start), "{line}");
    // What is in it matters to nobody.
    follower.log();
    follower.server.put(&plugin("late", "oci://b"));
    follower.for_a_moment().await;
    assert_eq!(follower.log(), Vec::<String>::new());
    assert!(!follower.seen.has("WasmPlugin", "a", "late"));
    follower.server.remove("WasmPlugin", "a", "late");
    follower.until("its end", |seen| said(seen, "late").is_empty()).await;
    follower.server.undefine("extensions.istio.io", "wasmplugins");
    follower.server.end_watches();
    follower.until("the end of the kind", |seen| said(seen, "early").is_empty()).await;
    let read = |it: &String| it.starts_with("get ") && it.contains("wasmplugins");
    assert!(!follower.server.requests().iter().any(read), "only metadata is asked for");
}

#[tokio::test]
async fn who_may_not_list_what_is_not_supported_starts_all_the_same() {
    let server = server();
    server.define(Resource::custom("extensions.istio.io", &["v1alpha1"], "WasmPlugin", "wasmplugins"));
    server.fail(Fault {
        matching: "list wasmplugins".into(),
        times: usize::MAX,
        delay: Duration::ZERO,
        refusal: Some(Refusal::new(403, "Forbidden", "not yours")),
    });
    Follower::new(server).synced().await;
}

#[tokio::test]
async fn a_kind_that_is_missing_for_a_moment_loses_nothing() {
    let server = server();
    define_policies(&server, &["v1"]);
    server.put(&policy("a", "strict", "STRICT"));
    let mut pace = hasty();
    pace.gone = Duration::from_secs(30);
    let mut follower = Follower::with(server, pace);
    follower.synced().await;
    follower.log();
    follower.server.undefine("security.istio.io", "peerauthentications");
    follower.server.end_watches();
    follower.for_a_moment().await;
    define_policies(&follower.server, &["v1"]);
    follower.server.put(&policy("a", "another", "STRICT"));
    follower.until("the other policy", |seen| seen.has("PeerAuthentication", "a", "another")).await;
    assert_eq!(follower.log(), ["+PeerAuthentication a/another"]);
}

#[tokio::test]
async fn nothing_is_read_that_nobody_wants() {
    let (mut cluster, a) = cluster().await;
    cluster.root = cluster.namespace().await;
    let root = cluster.root.clone();
    let map = |namespace: &str, name: &str, value: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace},
            "data": {"mesh": value},
        })
    };
    for object in [map(&root, "istio", "trustDomain: one"), map(&a, "wanted", "x"), map(&a, "unwanted", "x")]
    {
        cluster.put(&object).await;
    }
    if let Some(server) = &cluster.ours {
        server.requests();
    }
    let mut follower = Follower::of(cluster, &[&a], None);
    follower.synced().await;
    assert!(follower.seen.has("ConfigMap", &root, "istio"));
    assert!(!follower.seen.has("ConfigMap", &a, "wanted"));
    follower.wanted.set(keys(&[key("ConfigMap", &a, "wanted"), key("ConfigMap", &a, "later")]));
    follower.until("what is wanted", |seen| seen.has("ConfigMap", &a, "wanted")).await;
    follower.server.put(&map(&a, "later", "x")).await;
    follower.until("what comes later", |seen| seen.has("ConfigMap", &a, "later")).await;
    follower.server.put(&map(&root, "istio", "trustDomain: two")).await;
    let trust_domain = |seen: &super::Seen| {
        let Some(Spec::ConfigMap(map)) = seen.get("ConfigMap", &root, "istio").map(|it| &it.spec) else {
            return String::new();
        };
        map.data.as_ref().expect("data")["mesh"].clone()
    };
    follower.until("the change", |seen| trust_domain(seen) == "trustDomain: two").await;
    follower.wanted.set(keys(&[]));
    follower.until("its end", |seen| !seen.has("ConfigMap", &a, "wanted")).await;
    assert!(follower.seen.has("ConfigMap", &root, "istio"));
    // A real server does not tell what it was asked.
    if let Some(server) = &follower.server.ours {
        let asked = server.requests();
        assert!(!asked.iter().any(|request| request.contains("unwanted")), "{asked:?}");
    }
}

#[tokio::test]
async fn the_manifest_allows_all_that_is_needed() {
    let cluster = Cluster::mesh().await;
    let (a, root) = (cluster.namespace().await, cluster.root.clone());
    let token = cluster.token(&root, "mesh-control", &json!({})).await;
    cluster.put(&policy(&a, "strict", "STRICT")).await;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": root},
    });
    cluster.put(&map).await;
    let mut follower = Follower::of(cluster, &[&a], Some(&token));
    follower.synced().await;
    assert!(follower.seen.has("PeerAuthentication", &a, "strict"));
    assert!(follower.seen.has("ConfigMap", &root, "istio"));
    // As well as to lead, and to say what became of it.
    follower.lead();
    let condition = Condition {
        sort: "Accepted".into(),
        status: "True".into(),
        reason: "Test".into(),
        message: String::new(),
        observed_generation: None,
    };
    let said = Status { conditions: vec![condition], ..Status::default() };
    follower.statuses.set(key("PeerAuthentication", &a, "strict"), said);
    soon("the status", async || {
        let policy = follower.server.read("PeerAuthentication", &a, "strict").await.expect("the policy");
        policy["status"]["conditions"][0]["reason"] == "Test"
    })
    .await;
}

/// A real cluster is never followed over anything else.
#[tokio::test]
async fn a_cluster_is_followed_over_tls() {
    let settings = Settings { tls: true, ..Settings::default() };
    let server = ApiServer::start(&settings).expect("a server");
    server.put(&pod("a", "p", "1"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    assert!(follower.seen.has("Pod", "a", "p"));
}
