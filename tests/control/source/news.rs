//! What is told, and what is not worth telling.

use std::time::Duration;

use mesh_core::resource::Spec;
use mesh_source::kubernetes::status::Status;
use mesh_tests::apiserver::{ApiServer, Fault, Refusal, Resource, Settings, Token, User};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Follower, define_policies, hasty, key, keys, pod, policy, server};

#[tokio::test]
async fn everything_first_and_then_the_news() {
    let server = server();
    define_policies(&server, &["v1", "v1beta1"]);
    server.put(&pod("a", "p", "1"));
    server.put(&policy("a", "strict", "STRICT"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    let log = follower.log();
    assert_eq!(log.last().map(String::as_str), Some("synced"));
    for expected in ["+Pod a/p", "+PeerAuthentication a/strict", "+Namespace a", "+Namespace default"] {
        assert_eq!(log.iter().filter(|line| *line == expected).count(), 1, "{expected} in {log:?}");
    }
    follower.server.put(&pod("a", "q", "1"));
    follower.until("the Pod", |seen| seen.has("Pod", "a", "q")).await;
    follower.server.put(&pod("a", "p", "2"));
    follower.until("its label", |seen| seen.label("Pod", "a", "p") == Some("2")).await;
    follower.server.remove("Pod", "a", "p");
    follower.until("its end", |seen| !seen.has("Pod", "a", "p")).await;
    assert_eq!(follower.log(), ["+Pod a/q", "+Pod a/p", "-Pod a/p"]);
}

#[tokio::test]
async fn changes_come_in_order() {
    let server = server();
    server.put(&pod("a", "p", "start"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    follower.log();
    let mut labels = Vec::new();
    for number in 0..100 {
        follower.server.put(&pod("a", "p", &number.to_string()));
    }
    while labels.last().map(String::as_str) != Some("99") {
        let batch = follower.changes.next().await.expect("running");
        for change in batch {
            let mesh_source::Change::Apply(object) = change else { unreachable!("nothing else has changed") };
            labels.push(object.meta.labels["l"].clone());
        }
    }
    let expected: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(labels, expected);
}

#[tokio::test]
async fn what_means_nothing_to_the_mesh_is_not_told() {
    let server = server();
    define_policies(&server, &["v1"]);
    server.put(&pod("a", "p", "1"));
    server.put(&policy("a", "strict", "STRICT"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    follower.log();
    let mut busy = pod("a", "p", "1");
    busy["status"]["containerStatuses"] = json!([{
        "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 7,
    }]);
    follower.server.put(&busy);
    let mut reviewed = policy("a", "strict", "STRICT");
    reviewed["status"] = json!({"conditions": []});
    follower.server.put(&reviewed);
    // Ended Pods are none of ours.
    let mut ended = pod("a", "job", "1");
    ended["status"]["phase"] = json!("Succeeded");
    follower.server.put(&ended);
    follower.for_a_moment().await;
    assert_eq!(follower.log(), Vec::<String>::new());
    let mut ending = pod("a", "p", "1");
    ending["status"]["phase"] = json!("Failed");
    follower.server.put(&ending);
    follower.until("its end", |seen| !seen.has("Pod", "a", "p")).await;
}

#[tokio::test]
async fn a_bad_object_is_refused_alone_and_keeps_its_last_good_version() {
    let server = server();
    define_policies(&server, &["v1"]);
    server.put(&policy("a", "good", "STRICT"));
    server.put(&policy("a", "bad", "STRIKT"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    assert!(follower.seen.has("PeerAuthentication", "a", "good"));
    assert!(!follower.seen.has("PeerAuthentication", "a", "bad"));
    let said = |seen: &super::Seen, name: &str| {
        let about = mesh_source::About::Object(key("PeerAuthentication", "a", name));
        seen.findings.get(&about).cloned().unwrap_or_default()
    };
    let error = |name: &str| {
        format!(
            "PeerAuthentication a/{name} Error spec.mtls.mode: unknown value \"STRIKT\" (did you mean \"STRICT\"?)"
        )
    };
    assert_eq!(said(&follower.seen, "bad"), [error("bad")]);
    follower.server.put(&policy("a", "good", "STRIKT"));
    follower.until("a finding", |seen| !said(seen, "good").is_empty()).await;
    assert!(follower.seen.has("PeerAuthentication", "a", "good"));
    let kept =
        "PeerAuthentication a/good Warning the last good version of PeerAuthentication a/good stays in force";
    assert_eq!(said(&follower.seen, "good"), [error("good"), kept.to_owned()]);
    follower.server.put(&policy("a", "good", "DISABLE"));
    follower.until("no finding", |seen| said(seen, "good").is_empty()).await;
    follower.server.remove("PeerAuthentication", "a", "bad");
    follower.until("its end", |seen| said(seen, "bad").is_empty()).await;
}

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
    let mut follower = Follower::with(server, pace, None);
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
    let server = server();
    let map = |namespace: &str, name: &str, value: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace},
            "data": {"mesh": value},
        })
    };
    server.put(&map("istio-system", "istio", "trustDomain: one"));
    server.put(&map("a", "wanted", "x"));
    server.put(&map("a", "unwanted", "x"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    assert!(follower.seen.has("ConfigMap", "istio-system", "istio"));
    assert!(!follower.seen.has("ConfigMap", "a", "wanted"));
    follower.wanted.set(keys(&[key("ConfigMap", "a", "wanted"), key("ConfigMap", "a", "later")]));
    follower.until("what is wanted", |seen| seen.has("ConfigMap", "a", "wanted")).await;
    follower.server.put(&map("a", "later", "x"));
    follower.until("what comes later", |seen| seen.has("ConfigMap", "a", "later")).await;
    follower.server.put(&map("istio-system", "istio", "trustDomain: two"));
    let trust_domain = |seen: &super::Seen| {
        let Some(Spec::ConfigMap(map)) = seen.get("ConfigMap", "istio-system", "istio").map(|it| &it.spec)
        else {
            return String::new();
        };
        map.data.as_ref().expect("data")["mesh"].clone()
    };
    follower.until("the change", |seen| trust_domain(seen) == "trustDomain: two").await;
    follower.wanted.set(keys(&[]));
    follower.until("its end", |seen| !seen.has("ConfigMap", "a", "wanted")).await;
    assert!(follower.seen.has("ConfigMap", "istio-system", "istio"));
    let asked = follower.server.requests();
    assert!(!asked.iter().any(|request| request.contains("unwanted")), "{asked:?}");
}

#[tokio::test]
async fn the_manifest_allows_all_that_is_needed() {
    let settings = Settings { private: true, rbac: true, ..Settings::default() };
    let server = ApiServer::start(&settings).expect("a server");
    define_policies(&server, &["v1"]);
    let manifest = include_str!("../../../deploy/rbac/mesh-control.yaml");
    for document in serde_yaml_ng::Deserializer::from_str(manifest) {
        let object: Value = serde::Deserialize::deserialize(document).expect("YAML");
        server.put(&object);
    }
    server.add_token("control", Token::of(User::service_account("istio-system", "mesh-control")));
    server.put(&policy("a", "strict", "STRICT"));
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
    });
    server.put(&map);
    let mut follower = Follower::with(server, hasty(), Some("control"));
    follower.synced().await;
    assert!(follower.seen.has("PeerAuthentication", "a", "strict"));
    assert!(follower.seen.has("ConfigMap", "istio-system", "istio"));
    // As well as to lead, and to say what became of it.
    follower.lead();
    let said = Status { fields: [("said".to_owned(), json!(1))].into(), ..Status::default() };
    follower.statuses.set(key("PeerAuthentication", "a", "strict"), said);
    let mut status = Value::Null;
    for _ in 0..100 {
        status =
            follower.server.read("PeerAuthentication", "a", "strict").expect("the policy")["status"].clone();
        if status["said"] == 1 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status["said"], 1, "{:?}", follower.server.requests());
}

#[tokio::test]
async fn a_cluster_is_followed_over_tls() {
    let settings = Settings { tls: true, ..Settings::default() };
    let server = ApiServer::start(&settings).expect("a server");
    server.put(&pod("a", "p", "1"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    assert!(follower.seen.has("Pod", "a", "p"));
}
