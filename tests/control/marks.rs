//! What nodes say of their pods is written on them, for `kubectl get` and `kubectl describe`.

use mesh_proto::topology::{TopologyReport, TroubledPod};
use mesh_tests::apiserver::{ApiServer, Fault, Refusal};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::api::Cluster;
use crate::control::{Control, pod};

/// What a pod is marked with.
fn redirection(server: &ApiServer, name: &str) -> Option<String> {
    let pod = server.read("Pod", "shop", name)?;
    pod.pointer("/metadata/annotations/ambient.istio.io~1redirection")?.as_str().map(str::to_owned)
}

fn events(server: &ApiServer) -> Vec<Value> {
    server.list("Event").into_iter().filter(|event| event["source"]["component"] == "mesh-control").collect()
}

/// Reports until it is true.
async fn telling(control: &Control, report: &TopologyReport, what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "{what}:\n{}", control.log());
        control.report(report.clone()).await;
        sleep(Duration::from_millis(1100)).await;
    }
}

#[tokio::test]
async fn pods_are_marked_as_their_nodes_say() {
    let cluster = Cluster::own_mesh().await;
    let server = cluster.ours.as_ref().expect("the suite's own");
    let labels = json!({"istio.io/dataplane-mode": "ambient"});
    server.put(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}),
    );
    let mut outside = pod(("shop", "outside"), ("n1", "10.0.0.3"), "web");
    outside["metadata"]["labels"]["istio.io/dataplane-mode"] = json!("none");
    server.put(&pod(("shop", "web"), ("n1", "10.0.0.1"), "web"));
    server.put(&pod(("shop", "db"), ("n1", "10.0.0.2"), "db"));
    server.put(&pod(("shop", "far"), ("n2", "10.0.0.4"), "web"));
    server.put(&outside);
    let control = Control::ready(&cluster).await;

    let trouble = |name: &str, capture: &str, certificate: &str| TroubledPod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        capture: capture.to_owned(),
        certificate: certificate.to_owned(),
    };
    let mut report = TopologyReport { node: "n1".to_owned(), captured: 2, ..TopologyReport::default() };
    // A node is believed about its own pods.
    report.troubles = vec![trouble("far", "it is said to be broken", "")];
    telling(&control, &report, "both are marked", || {
        ["web", "db"].iter().all(|name| redirection(server, name).as_deref() == Some("enabled"))
    })
    .await;
    assert_eq!(redirection(server, "outside"), None, "it has opted out");
    assert_eq!(redirection(server, "far"), None, "its node has said nothing");
    assert!(events(server).is_empty(), "{:?}", events(server));

    report.troubles =
        vec![trouble("web", "the interface eth0 is not there", ""), trouble("db", "", "the CA refuses")];
    report.pending = 1;
    telling(&control, &report, "one is not captured any more", || redirection(server, "web").is_none()).await;
    assert_eq!(redirection(server, "db").as_deref(), Some("enabled"));
    telling(&control, &report, "two events", || events(server).len() == 2).await;
    let all = events(server);
    let found =
        |pod: &str| all.iter().find(|event| event["involvedObject"]["name"] == pod).expect("an event");
    let (web, db) = (found("web"), found("db"));
    assert_eq!((&web["reason"], &web["type"]), (&json!("MeshNotCaptured"), &json!("Warning")));
    assert_eq!(web["message"], "the interface eth0 is not there");
    assert_eq!(db["reason"], "MeshNotCertified");
    let uid = server.read("Pod", "shop", "web").expect("the pod")["metadata"]["uid"].clone();
    assert_eq!(web["involvedObject"]["uid"], uid, "kubectl describe finds them by it");

    // Once is enough: a pod that comes later is marked in a round that has looked at these again.
    server.put(&pod(("shop", "late"), ("n1", "10.0.0.5"), "web"));
    telling(&control, &report, "a later one is marked", || redirection(server, "late").is_some()).await;
    server.put(&pod(("shop", "later"), ("n1", "10.0.0.6"), "web"));
    telling(&control, &report, "and one after that", || redirection(server, "later").is_some()).await;
    assert_eq!(events(server).len(), 2, "{:?}", events(server));
    // What has passed is seen as well.
    report.troubles.clear();
    report.pending = 0;
    telling(&control, &report, "it is captured again", || redirection(server, "web").is_some()).await;
    assert_eq!(events(server).len(), 2);
}

#[tokio::test]
async fn what_is_refused_about_one_pod_keeps_no_other_from_its_mark() {
    let cluster = Cluster::own_mesh().await;
    let server = cluster.ours.as_ref().expect("the suite's own");
    let labels = json!({"istio.io/dataplane-mode": "ambient"});
    server.put(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}),
    );
    server.put(&pod(("shop", "first"), ("n1", "10.0.0.1"), "web"));
    server.put(&pod(("shop", "second"), ("n1", "10.0.0.2"), "web"));
    let refusal = Refusal::new(403, "Forbidden", "the namespace is being terminated");
    server.fail(Fault {
        matching: "create events".to_owned(),
        times: usize::MAX,
        delay: Duration::ZERO,
        refusal: Some(refusal),
    });
    let control = Control::ready(&cluster).await;
    let (namespace, name, certificate) = ("shop".to_owned(), "first".to_owned(), "the CA refuses".to_owned());
    let trouble = TroubledPod { namespace, name, certificate, capture: String::new() };
    let report =
        TopologyReport { node: "n1".to_owned(), troubles: vec![trouble], ..TopologyReport::default() };
    telling(&control, &report, "the other is marked", || redirection(server, "second").is_some()).await;
    assert!(events(server).is_empty());
}
