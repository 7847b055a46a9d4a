//! Keys of certificates in a cluster: a token says which pod asks, and only pods that a Gateway selects are told what it names.

use std::time::Duration;

use mesh_proto::names::ResourceType;
use serde_json::{Value, json};

use crate::api::Cluster;
use crate::control::{Control, Subscriber, pod};

/// A token as a kubelet gives it to a pod.
async fn token(cluster: &Cluster, namespace: &str, pod: &str) -> String {
    let uid = cluster.read("Pod", namespace, pod).await.expect("the pod")["metadata"]["uid"].clone();
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid});
    cluster.token(namespace, "edge", &json!({"audiences": ["istio-ca"], "boundObjectRef": bound})).await
}

/// A pod of the account `edge`.
async fn put(cluster: &Cluster, (namespace, name): (&str, &str), node: &str, labels: Value) {
    let mut pod = pod((namespace, name), (node, "10.0.0.1"), "edge");
    pod["metadata"]["labels"] = labels;
    cluster.put(&pod).await;
}

/// Somebody who asks for keys as the gateway `edge`.
async fn ask(control: &Control, namespace: &str, token: &str) -> Subscriber {
    let gateway = format!("{namespace}/edge");
    control.follow(ResourceType::Credential, &[("GATEWAY", &gateway), ("NAMESPACE", namespace)], token).await
}

#[tokio::test]
async fn a_pod_has_the_keys_of_gateways_that_select_it() {
    let cluster = Cluster::mesh().await;
    let (shop, node) = (cluster.member().await, cluster.node().await);
    cluster
        .put(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "edge", "namespace": shop}}))
        .await;
    let server = json!({
        "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"],
        "tls": {"mode": "SIMPLE", "credentialName": "shop-cert"},
    });
    cluster
        .put(&json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": "edge", "namespace": shop},
            "spec": {"selector": {"istio": "edge"}, "servers": [server]},
        }))
        .await;
    cluster
        .put(&json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "shop-cert", "namespace": shop}, "data": {"tls.crt": "YQ==", "tls.key": "YQ=="},
        }))
        .await;
    put(&cluster, (&shop, "edge-1"), &node, json!({"istio": "edge"})).await;
    // It has the same account, and says the same of itself.
    put(&cluster, (&shop, "app"), &node, json!({"app": "shop"})).await;
    let control = Control::ready(&cluster).await;
    let name = format!("{shop}/shop-cert");
    let mut edge = ask(&control, &shop, &token(&cluster, &shop, "edge-1").await).await;
    edge.until("the key", |it| it.knows(&name)).await;
    let mut app = ask(&control, &shop, &token(&cluster, &shop, "app").await).await;
    app.listen(Duration::from_secs(2)).await;
    assert!(app.has.is_empty(), "{:?}", app.has.keys());
    let log = control.log();
    assert!(
        log.contains("Keys of its namespace are not told to a gateway") && log.contains("of pod app"),
        "{log}"
    );
    let metrics = control.get("/metrics").await.expect("metrics");
    assert!(metrics.contains("mesh_control_keys_withheld_total 1"), "{metrics}");
    // A token that is bound to nothing says no more than the account.
    let unbound = cluster.token(&shop, "edge", &json!({"audiences": ["istio-ca"]})).await;
    let mut unknown = ask(&control, &shop, &unbound).await;
    unknown.listen(Duration::from_secs(1)).await;
    assert!(unknown.has.is_empty(), "no pod is called edge: {:?}", unknown.has.keys());
    // What is selected from now on is told at once, and what is not any more has to give the key up.
    put(&cluster, (&shop, "app"), &node, json!({"istio": "edge"})).await;
    app.until("the key", |it| it.knows(&name)).await;
    put(&cluster, (&shop, "app"), &node, json!({"app": "shop"})).await;
    app.until("its end", |it| !it.knows(&name)).await;
    assert!(edge.knows(&name));
}
