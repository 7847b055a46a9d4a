//! The control plane in a cluster: what is written there reaches who follows it, tokens of that cluster are proof, and of
//! two replicas one writes.

use std::time::Duration;

use http::Method;
use kube::config::AuthInfo;
use kube::{Client, Config};
use mesh_tests::apiserver::{ApiServer, Fault, Refusal, Resource};
use serde_json::{Value, json};
use tokio::time::sleep;
use tonic::Code;

use crate::api::send;
use crate::control::{Control, cluster, namespace, pod, until};

/// Somebody who may do everything.
pub(crate) fn admin(server: &ApiServer) -> Client {
    let mut config = Config::new(server.url().parse().expect("a URL"));
    config.default_retry = false;
    config.auth_info = AuthInfo { token: Some("admin".to_owned().into()), ..AuthInfo::default() };
    Client::try_from(config).expect("a client")
}

fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "type": "ClusterIP", "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    })
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

/// The condition that says what became of a policy.
fn accepted(server: &ApiServer, name: &str) -> Option<Value> {
    let policy = server.read("AuthorizationPolicy", "shop", name)?;
    let conditions = policy["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "ZtunnelAccepted").cloned()
}

fn holder(server: &ApiServer) -> Option<String> {
    let lease = server.read("Lease", "istio-system", "mesh-control")?;
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

#[tokio::test]
async fn what_is_written_reaches_subscribers_also_after_an_outage() {
    let mut server = cluster();
    server.put(&namespace("shop"));
    server.put(&pod(("shop", "web"), ("n1", "10.0.0.1"), "web"));
    server.put(&service("shop", "web"));
    let control = Control::ready(&server).await;
    let mut subscriber = control.subscribe().await;
    subscriber.until("the pod", |it| it.knows("/Pod/shop/web")).await;
    subscriber.until("the service", |it| it.knows("shop/web.shop.svc.cluster.local")).await;
    // Through the API, as users do.
    let client = admin(&server);
    let pods = "/api/v1/namespaces/shop/pods";
    let body = pod(("shop", "db"), ("n1", "10.0.0.2"), "db").to_string().into_bytes();
    send(&client, Method::POST, pods, "application/json", body).await.expect(201);
    let status = json!({"status": pod(("shop", "db"), ("n1", "10.0.0.2"), "db")["status"]});
    let (path, body) = (format!("{pods}/db/status"), status.to_string().into_bytes());
    send(&client, Method::PATCH, &path, "application/merge-patch+json", body).await.expect(200);
    subscriber.until("the new pod", |it| it.knows("/Pod/shop/db")).await;

    server.stop().await;
    server.put(&pod(("shop", "late"), ("n1", "10.0.0.3"), "late"));
    server.remove("Pod", "shop", "db");
    subscriber.listen(Duration::from_secs(10)).await;
    assert_eq!(subscriber.removed, Vec::<String>::new(), "an outage must not take anything away");
    assert!(subscriber.knows("/Pod/shop/web") && !subscriber.knows("/Pod/shop/late"));
    server.start_again().await;
    subscriber.until("news", |it| it.knows("/Pod/shop/late") && !it.knows("/Pod/shop/db")).await;
    assert!(subscriber.knows("/Pod/shop/web"));
    let removed: Vec<_> = subscriber.removed.iter().filter(|name| !name.ends_with("/Pod/shop/db")).collect();
    assert!(removed.is_empty(), "{removed:?}");
}

/// A token of a service account that is bound to a pod of the mesh's own namespace.
async fn token(server: &ApiServer, pod: &str, audience: &str) -> String {
    let uid = server.read("Pod", "istio-system", pod).expect("the pod")["metadata"]["uid"].clone();
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid});
    let spec = json!({"spec": {"audiences": [audience], "boundObjectRef": bound}}).to_string().into_bytes();
    let path = "/api/v1/namespaces/istio-system/serviceaccounts/mesh-node/token";
    let made = send(&admin(server), Method::POST, path, "application/json", spec).await.expect(201);
    made["status"]["token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_token_gets_the_certificates_of_its_node_and_no_others() {
    let mut server = cluster();
    server.put(&namespace("shop"));
    server.put(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "mesh-node", "namespace": "istio-system"},
    }));
    for (name, node) in [("node-1", "n1"), ("node-2", "n2")] {
        server.put(&pod(("istio-system", name), (node, "10.1.0.1"), "mesh-node"));
    }
    server.put(&pod(("shop", "web"), ("n1", "10.0.0.1"), "web"));
    server.put(&pod(("shop", "db"), ("n2", "10.0.0.2"), "db"));
    let control = Control::ready(&server).await;
    let [web, db] = ["web", "db"].map(|name| format!("spiffe://cluster.local/ns/shop/sa/{name}"));
    let good = token(&server, "node-1", "istio-ca").await;
    let answer = control.certificate(&good, Some(&web)).await.expect("a certificate");
    assert!(answer.cert_chain.len() >= 2, "leaf and roots");
    let code =
        async |token: &str, id: &str| control.certificate(token, Some(id)).await.map_err(|it| it.code());
    assert_eq!(code(&good, &db).await.err(), Some(Code::PermissionDenied));
    assert!(code(&token(&server, "node-2", "istio-ca").await, &db).await.is_ok());
    let foreign = token(&server, "node-1", "somebody-else").await;
    assert_eq!(code(&foreign, &web).await.err(), Some(Code::Unauthenticated));
    assert_eq!(code("made-up", &web).await.err(), Some(Code::Unauthenticated));
    // One question for each token, however often it is shown.
    server.requests();
    for _ in 0..5 {
        assert!(code(&good, &web).await.is_ok());
    }
    let asked = server.requests().iter().filter(|it| it.contains("tokenreviews")).count();
    assert!(asked <= 1, "{asked} reviews of one token");
    let unseen = token(&server, "node-1", "istio-ca").await;
    server.stop().await;
    assert_eq!(code(&unseen, &web).await.err(), Some(Code::Unavailable));
    let log = control.log();
    for outcome in ["not_on_node", "unauthenticated", "unavailable"] {
        assert!(log.contains(outcome), "no line about {outcome} in the audit log:\n{log}");
    }
}

#[tokio::test]
async fn two_replicas_have_one_leader_who_writes_and_is_followed() {
    let server = cluster();
    server.put(&namespace("shop"));
    server.put(&policy("open", &json!({"rules": [{}]})));
    server.put(&policy("bad", &json!({"rulez": []})));
    let mut first = Control::ready(&server).await;
    until("a leader", || holder(&server).is_some()).await;
    let leader = holder(&server).expect("a leader");
    let second = Control::ready(&server).await;
    until("statuses", || accepted(&server, "open").is_some() && accepted(&server, "bad").is_some()).await;
    let (open, bad) = (accepted(&server, "open").expect("one"), accepted(&server, "bad").expect("one"));
    assert_eq!((&open["status"], &open["reason"]), (&json!("True"), &json!("Accepted")));
    assert_eq!(open["observedGeneration"], 1);
    assert_eq!((&bad["status"], &bad["reason"]), (&json!("False"), &json!("Invalid")));
    assert!(bad["message"].as_str().is_some_and(|text| text.contains("spec.rulez")), "{bad}");
    // Both have seen it, and one has said so.
    sleep(Duration::from_secs(2)).await;
    let requests = server.requests();
    let written = |name: &str| {
        let write = format!("patch authorizationpolicies/status shop/{name}");
        requests.iter().filter(|request| **request == write).count()
    };
    assert_eq!((written("open"), written("bad")), (1, 1), "{requests:?}");
    assert_eq!(holder(&server), Some(leader.clone()));
    first.terminate().await;
    until("another leader", || holder(&server).is_some_and(|it| it != leader)).await;
    server.put(&policy("late", &json!({"rules": [{}]})));
    until("a status from the new leader", || accepted(&server, "late").is_some()).await;
    drop(second);
}

#[tokio::test]
async fn a_class_that_names_us_is_accepted_in_its_status() {
    let server = cluster();
    let group = "gateway.networking.k8s.io";
    let resource = Resource::custom(group, &["v1"], "GatewayClass", "gatewayclasses");
    server.define(Resource { namespaced: false, ..resource });
    let class = |name: &str, controller: &str| {
        let others = json!([{"type": "SupportedVersion", "status": "True", "reason": "SupportedVersion"}]);
        server.put(&json!({
            "apiVersion": format!("{group}/v1"), "kind": "GatewayClass", "metadata": {"name": name},
            "spec": {"controllerName": controller}, "status": {"conditions": others},
        }));
    };
    class("istio", "istio.io/gateway-controller");
    class("nginx", "example.com/gateway-controller");
    let _control = Control::ready(&server).await;
    let conditions = |name: &str| -> Vec<String> {
        let object = server.read("GatewayClass", "", name).expect("the class");
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().map(|it| format!("{}={}", it["type"], it["status"]).replace('"', "")).collect()
    };
    until("the status", || conditions("istio") == ["SupportedVersion=True", "Accepted=True"]).await;
    assert_eq!(conditions("nginx"), ["SupportedVersion=True"]);
}

#[tokio::test]
async fn every_namespace_has_the_root_certificate_of_the_moment() {
    let server = cluster();
    server.put(&namespace("shop"));
    let control = Control::ready(&server).await;
    let root = |namespace: &str| {
        let map = server.read("ConfigMap", namespace, "istio-ca-root-cert")?;
        map["data"]["root-cert.pem"].as_str().map(str::to_owned)
    };
    let everywhere = || ["shop", "istio-system", "default"].iter().all(|it| root(it).is_some());
    until("the root in every namespace", everywhere).await;
    let text = root("shop").expect("the root");
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----"), "{text}");
    server.put(&namespace("new"));
    until("the root in a new namespace", || root("new") == Some(text.clone())).await;
    // What is right is not written again.
    sleep(Duration::from_secs(6)).await;
    let writes = server.requests();
    let writes = writes.iter().filter(|it| it.starts_with("patch configmaps ")).count();
    assert_eq!(writes, 4);
    // A second root is trusted everywhere before anything is signed with it.
    let begun = control.run(&["ca", "rotate", "begin", "--kubernetes"]);
    assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
    let both =
        |namespace: &str| root(namespace).is_some_and(|it| it.matches("BEGIN CERTIFICATE").count() == 2);
    until("both roots", || ["shop", "new", "default"].iter().all(|it| both(it))).await;
}

#[tokio::test]
async fn a_namespace_that_takes_nothing_keeps_no_other_from_its_roots() {
    let server = cluster();
    for name in ["a-full", "b", "c"] {
        server.put(&namespace(name));
    }
    server.fail(Fault {
        matching: "patch configmaps a-full/".into(),
        times: usize::MAX,
        delay: Duration::ZERO,
        refusal: Some(Refusal::new(403, "Forbidden", "exceeded quota: maps")),
    });
    let control = Control::ready(&server).await;
    let has = |name: &str| server.read("ConfigMap", name, "istio-ca-root-cert").is_some();
    until("the root in the others", || has("b") && has("c")).await;
    assert!(!has("a-full"));
    assert!(control.log().contains("exceeded quota"), "{}", control.log());
}

#[tokio::test]
async fn an_api_server_that_is_not_there_yet_is_waited_for() {
    let mut server = cluster();
    server.put(&namespace("shop"));
    server.stop().await;
    let mut control = Control::start(&server);
    until("a word about it", || control.log().contains("There is no certificate authority yet")).await;
    sleep(Duration::from_secs(3)).await;
    server.start_again().await;
    control.until_ready().await;
    assert!(server.read("Secret", "istio-system", "istio-ca-secret").is_some());
}
