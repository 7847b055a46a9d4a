//! The control plane in a cluster: what is written there reaches who follows it, tokens of that cluster are proof, and of
//! two replicas one writes. In any cluster (see [`crate::real`]) but where the server has to fail or to tell what it was
//! asked.

use std::time::Duration;

use mesh_tests::apiserver::{Fault, Refusal};
use serde_json::{Value, json};
use tokio::time::sleep;
use tonic::Code;

use crate::api::Cluster;
use crate::control::{Control, pod, until};
use crate::stage::soon;

/// A service of the pods of its name. A real API server gives it an address, and takes none that is another's.
fn service(cluster: &Cluster, namespace: &str, name: &str) -> Value {
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
    let mut spec = json!({"type": "ClusterIP", "selector": {"app": name}, "ports": ports});
    if cluster.ours.is_some() {
        (spec["clusterIP"], spec["clusterIPs"]) = (json!("10.96.0.9"), json!(["10.96.0.9"]));
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// A policy for requests from a block of addresses.
fn policy(namespace: &str, name: &str, block: &str) -> Value {
    let source = json!({"ipBlocks": [block]});
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"rules": [{"from": [{"source": source}]}]},
    })
}

/// The condition that says what became of a policy.
async fn accepted(cluster: &Cluster, namespace: &str, name: &str) -> Option<Value> {
    let policy = cluster.read("AuthorizationPolicy", namespace, name).await?;
    let conditions = policy["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "ZtunnelAccepted").cloned()
}

async fn holder(cluster: &Cluster) -> Option<String> {
    let lease = cluster.read("Lease", &cluster.root, "mesh-control").await?;
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

#[tokio::test]
async fn what_is_written_reaches_subscribers() {
    let cluster = Cluster::mesh().await;
    let (shop, node) = (cluster.member().await, cluster.node().await);
    cluster.put(&pod((&shop, "web"), (&node, "10.0.0.1"), "web")).await;
    cluster.put(&service(&cluster, &shop, "web")).await;
    let control = Control::ready(&cluster).await;
    let mut subscriber = control.subscribe().await;
    let name = |pod: &str| format!("/Pod/{shop}/{pod}");
    subscriber.until("the pod", |it| it.knows(&name("web"))).await;
    let service = format!("{shop}/web.{shop}.svc.cluster.local");
    subscriber.until("the service", |it| it.knows(&service)).await;
    cluster.put(&pod((&shop, "db"), (&node, "10.0.0.2"), "db")).await;
    subscriber.until("the new pod", |it| it.knows(&name("db"))).await;
    cluster.remove("Pod", &shop, "db").await;
    subscriber.until("its end", |it| !it.knows(&name("db"))).await;
    assert!(subscriber.knows(&name("web")));
}

/// On the suite's own server only, as no other ends when it is told to.
#[tokio::test]
async fn an_outage_takes_nothing_away_and_what_happened_meanwhile_is_told() {
    let mut cluster = Cluster::own_mesh().await;
    let shop = cluster.member().await;
    for (name, ip) in [("web", "10.0.0.1"), ("db", "10.0.0.2")] {
        cluster.put(&pod((&shop, name), ("n1", ip), name)).await;
    }
    let control = Control::ready(&cluster).await;
    let mut subscriber = control.subscribe().await;
    let name = |pod: &str| format!("/Pod/{shop}/{pod}");
    subscriber.until("the pods", |it| it.knows(&name("web")) && it.knows(&name("db"))).await;
    let server = cluster.server();
    server.stop().await;
    server.put(&pod((&shop, "late"), ("n1", "10.0.0.3"), "late"));
    server.remove("Pod", &shop, "db");
    subscriber.listen(Duration::from_secs(10)).await;
    assert_eq!(subscriber.removed, Vec::<String>::new(), "an outage must not take anything away");
    assert!(subscriber.knows(&name("web")) && !subscriber.knows(&name("late")));
    server.start_again().await;
    subscriber.until("news", |it| it.knows(&name("late")) && !it.knows(&name("db"))).await;
    assert!(subscriber.knows(&name("web")));
    let removed: Vec<_> = subscriber.removed.iter().filter(|it| !it.ends_with(&name("db"))).collect();
    assert!(removed.is_empty(), "{removed:?}");
}

/// A token of a service account that is bound to a pod of the mesh's own namespace.
async fn token(cluster: &Cluster, pod: &str, audience: &str) -> String {
    let uid = cluster.read("Pod", &cluster.root, pod).await.expect("the pod")["metadata"]["uid"].clone();
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid});
    let spec = json!({"audiences": [audience], "boundObjectRef": bound});
    cluster.token(&cluster.root, "mesh-node", &spec).await
}

/// Two nodes with a pod of the mesh and one of a user each, and the users' namespace.
async fn two_nodes(cluster: &Cluster) -> String {
    let shop = cluster.member().await;
    for (number, name) in ["web", "db"].into_iter().enumerate() {
        let node = cluster.node().await;
        let own = format!("node-{}", number + 1);
        cluster.put(&pod((&cluster.root, &own), (&node, "10.1.0.1"), "mesh-node")).await;
        cluster.put(&pod((&shop, name), (&node, &format!("10.0.0.{number}")), name)).await;
    }
    shop
}

async fn refusal(control: &Control, token: &str, id: &str) -> Option<Code> {
    control.certificate(token, Some(id)).await.err().map(|it| it.code())
}

#[tokio::test]
async fn a_token_gets_the_certificates_of_its_node_and_no_others() {
    let cluster = Cluster::mesh().await;
    let shop = two_nodes(&cluster).await;
    let control = Control::ready(&cluster).await;
    let [web, db] = ["web", "db"].map(|name| format!("spiffe://cluster.local/ns/{shop}/sa/{name}"));
    let good = token(&cluster, "node-1", "istio-ca").await;
    let answer = control.certificate(&good, Some(&web)).await.expect("a certificate");
    assert!(answer.cert_chain.len() >= 2, "leaf and roots");
    assert_eq!(refusal(&control, &good, &db).await, Some(Code::PermissionDenied));
    assert_eq!(refusal(&control, &token(&cluster, "node-2", "istio-ca").await, &db).await, None);
    let foreign = token(&cluster, "node-1", "somebody-else").await;
    assert_eq!(refusal(&control, &foreign, &web).await, Some(Code::Unauthenticated));
    assert_eq!(refusal(&control, "made-up", &web).await, Some(Code::Unauthenticated));
    let log = control.log();
    for outcome in ["not_on_node", "unauthenticated"] {
        assert!(log.contains(outcome), "no line about {outcome} in the audit log:\n{log}");
    }
}

/// On the suite's own server only, as no other tells what it was asked, or ends when it is told to.
#[tokio::test]
async fn one_token_is_one_question_and_no_answer_is_no_yes() {
    let mut cluster = Cluster::own_mesh().await;
    let shop = two_nodes(&cluster).await;
    let control = Control::ready(&cluster).await;
    let web = format!("spiffe://cluster.local/ns/{shop}/sa/web");
    let good = token(&cluster, "node-1", "istio-ca").await;
    cluster.server().requests();
    for _ in 0..5 {
        assert_eq!(refusal(&control, &good, &web).await, None);
    }
    let requests = cluster.server().requests();
    let asked = requests.iter().filter(|it| it.contains("tokenreviews")).count();
    assert_eq!(asked, 1, "reviews of one token");
    let unseen = token(&cluster, "node-1", "istio-ca").await;
    cluster.server().stop().await;
    assert_eq!(refusal(&control, &unseen, &web).await, Some(Code::Unavailable));
    let log = control.log();
    assert!(log.contains("unavailable"), "no line about it in the audit log:\n{log}");
}

#[tokio::test]
async fn two_replicas_have_one_leader_who_writes_and_is_followed() {
    let cluster = Cluster::mesh().await;
    let shop = cluster.member().await;
    cluster.put(&policy(&shop, "open", "10.0.0.0/8")).await;
    cluster.put(&policy(&shop, "bad", "10.0.0.0.0/8")).await;
    let mut first = Control::ready(&cluster).await;
    soon("a leader", async || holder(&cluster).await.is_some()).await;
    let leader = holder(&cluster).await.expect("a leader");
    let second = Control::ready(&cluster).await;
    for name in ["open", "bad"] {
        soon("a status", async || accepted(&cluster, &shop, name).await.is_some()).await;
    }
    let state = async |name: &str| {
        let policy = cluster.read("AuthorizationPolicy", &shop, name).await.expect("the policy");
        policy["metadata"]["resourceVersion"].clone()
    };
    let written = [state("open").await, state("bad").await];
    let open = accepted(&cluster, &shop, "open").await.expect("one");
    let bad = accepted(&cluster, &shop, "bad").await.expect("one");
    assert_eq!((&open["status"], &open["reason"]), (&json!("True"), &json!("Accepted")));
    assert_eq!(open["observedGeneration"], 1);
    assert_eq!((&bad["status"], &bad["reason"]), (&json!("False"), &json!("Invalid")));
    assert!(bad["message"].as_str().is_some_and(|text| text.contains("ipBlocks[0]")), "{bad}");
    // Both have seen it, and one has said so.
    sleep(Duration::from_secs(2)).await;
    assert_eq!([state("open").await, state("bad").await], written);
    if let Some(server) = &cluster.ours {
        let requests = server.requests();
        for name in ["open", "bad"] {
            let write = format!("patch authorizationpolicies/status {shop}/{name}");
            // Besides the fixture, which writes no status here.
            assert_eq!(requests.iter().filter(|it| **it == write).count(), 1, "{name}: {requests:?}");
        }
    }
    assert_eq!(holder(&cluster).await, Some(leader.clone()));
    first.terminate().await;
    soon("another leader", async || holder(&cluster).await.is_some_and(|it| it != leader)).await;
    cluster.put(&policy(&shop, "late", "10.0.0.0/8")).await;
    soon("a status from the new leader", async || accepted(&cluster, &shop, "late").await.is_some()).await;
    drop(second);
}

/// As much of the Gateway API's definition as an API server needs to keep classes.
fn gateway_classes() -> Value {
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {"spec": anything, "status": anything}});
    let version = json!({
        "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    });
    let approval = "https://github.com/kubernetes-sigs/gateway-api/pull/2466";
    json!({
        "metadata": {
            "name": "gatewayclasses.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": approval},
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Cluster", "versions": [version],
            "names": {
                "kind": "GatewayClass", "listKind": "GatewayClassList", "plural": "gatewayclasses",
                "singular": "gatewayclass",
            },
        },
    })
}

#[tokio::test]
async fn a_class_that_names_us_is_accepted_in_its_status() {
    let cluster = Cluster::mesh().await;
    cluster.define(&gateway_classes()).await;
    let [ours, theirs] = ["ours", "theirs"].map(crate::api::unique);
    let controllers = ["istio.io/gateway-controller", "example.com/gateway-controller"];
    for (name, controller) in [&ours, &theirs].into_iter().zip(controllers) {
        let others = json!([{
            "type": "SupportedVersion", "status": "True", "reason": "SupportedVersion", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]);
        let class = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": name},
            "spec": {"controllerName": controller}, "status": {"conditions": others},
        });
        cluster.put(&class).await;
    }
    let _control = Control::ready(&cluster).await;
    let conditions = async |name: &str| -> Vec<String> {
        let object = cluster.read("GatewayClass", "", name).await.expect("the class");
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().map(|it| format!("{}={}", it["type"], it["status"]).replace('"', "")).collect()
    };
    soon("the status", async || conditions(&ours).await == ["SupportedVersion=True", "Accepted=True"]).await;
    assert_eq!(conditions(&theirs).await, ["SupportedVersion=True"]);
}

/// The roots that a namespace has.
async fn root_of(cluster: &Cluster, namespace: &str) -> Option<(String, Value)> {
    let map = cluster.read("ConfigMap", namespace, "istio-ca-root-cert").await?;
    let text = map["data"]["root-cert.pem"].as_str()?.to_owned();
    Some((text, map["metadata"]["resourceVersion"].clone()))
}

#[tokio::test]
async fn every_namespace_has_the_root_certificate_of_the_moment() {
    let cluster = Cluster::mesh().await;
    let shop = cluster.member().await;
    let control = Control::ready(&cluster).await;
    for namespace in [&shop, &cluster.root, "default"] {
        soon("the root", async || root_of(&cluster, namespace).await.is_some()).await;
    }
    let (text, _) = root_of(&cluster, &shop).await.expect("the root");
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----"), "{text}");
    let new = cluster.namespace().await;
    soon("the root in a new namespace", async || {
        root_of(&cluster, &new).await.is_some_and(|(it, _)| it == text)
    })
    .await;
    // What is right is not written again.
    let before = [root_of(&cluster, &shop).await, root_of(&cluster, &new).await];
    sleep(Duration::from_secs(6)).await;
    assert_eq!([root_of(&cluster, &shop).await, root_of(&cluster, &new).await], before);
    if let Some(server) = &cluster.ours {
        let writes = server.requests().iter().filter(|it| it.starts_with("patch configmaps ")).count();
        assert_eq!(writes, 4);
    }
    // A second root is trusted everywhere before anything is signed with it.
    let begun = control.run(&["ca", "rotate", "begin"]);
    assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
    for namespace in [&shop, &new, "default"] {
        let both = async || {
            let found = root_of(&cluster, namespace).await;
            found.is_some_and(|(it, _)| it.matches("BEGIN CERTIFICATE").count() == 2)
        };
        soon("both roots", both).await;
    }
}

/// On the suite's own server only, as no other refuses when it is told to.
#[tokio::test]
async fn a_namespace_that_takes_nothing_keeps_no_other_from_its_roots() {
    let mut cluster = Cluster::own_mesh().await;
    let full = cluster.namespace().await;
    let others = [cluster.namespace().await, cluster.namespace().await];
    cluster.server().fail(Fault {
        matching: format!("patch configmaps {full}/"),
        times: usize::MAX,
        delay: Duration::ZERO,
        refusal: Some(Refusal::new(403, "Forbidden", "exceeded quota: maps")),
    });
    let control = Control::ready(&cluster).await;
    for namespace in &others {
        soon("the root", async || root_of(&cluster, namespace).await.is_some()).await;
    }
    assert_eq!(root_of(&cluster, &full).await, None);
    assert!(control.log().contains("exceeded quota"), "{}", control.log());
}

/// On the suite's own server only, as no other ends when it is told to.
#[tokio::test]
async fn an_api_server_that_is_not_there_yet_is_waited_for() {
    let mut cluster = Cluster::own_mesh().await;
    let token = cluster.token(&cluster.root, "mesh-control", &json!({})).await;
    cluster.server().stop().await;
    let mut control = Control::start_with(&cluster, &token);
    until("a word about it", || control.log().contains("There is no certificate authority yet")).await;
    sleep(Duration::from_secs(3)).await;
    cluster.server().start_again().await;
    control.until_ready().await;
    assert!(cluster.read("Secret", &cluster.root, "istio-ca-secret").await.is_some());
}
