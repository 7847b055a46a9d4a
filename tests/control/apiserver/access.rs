//! Who asks, what he may do, and who has a say in it.

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use crate::api::{Cluster, send, unique};
use crate::hook::Hook;

/// A service account of a fresh namespace, and a token of it.
async fn account(cluster: &Cluster, spec: &Value) -> (String, String) {
    let namespace = cluster.namespace().await;
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    cluster.post(&accounts, &json!({"metadata": {"name": "sa"}})).await.expect(201);
    let token = cluster.post(&format!("{accounts}/sa/token"), &json!({"spec": spec})).await.expect(201);
    assert!(token["status"]["expirationTimestamp"].is_string(), "{token}");
    (namespace, token["status"]["token"].as_str().expect("a token").to_owned())
}

async fn review(cluster: &Cluster, token: &str, audiences: &[&str]) -> Value {
    let mut spec = json!({"token": token});
    if !audiences.is_empty() {
        spec["audiences"] = json!(audiences);
    }
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
    let answer = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    answer.expect(201)["status"].clone()
}

#[tokio::test]
async fn tokens_say_who_their_owner_is() {
    let cluster = Cluster::any().await;
    let (namespace, token) =
        account(&cluster, &json!({"audiences": ["mesh-ca"], "expirationSeconds": 600})).await;
    let status = review(&cluster, &token, &["mesh-ca", "other"]).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["audiences"], json!(["mesh-ca"]));
    assert_eq!(status["user"]["username"], format!("system:serviceaccount:{namespace}:sa"));
    assert!(status["user"]["uid"].is_string());
    let groups = status["user"]["groups"].as_array().expect("groups");
    for group in
        ["system:serviceaccounts", "system:authenticated", &format!("system:serviceaccounts:{namespace}")]
    {
        assert!(groups.contains(&json!(group)), "{group}: {status}");
    }
    // For somebody else it is worth nothing, nor is one that nobody has made.
    for (token, audience) in [(token.as_str(), "other"), ("made-up", "mesh-ca")] {
        let status = review(&cluster, token, &[audience]).await;
        assert_ne!(status["authenticated"], true, "{status}");
        assert!(status["error"].is_string(), "{status}");
    }
    // Nor is it for the API server itself, for which it was not made.
    let client = cluster.client_of(&token);
    let answer = send(&client, Method::GET, "/api/v1/namespaces", "application/json", Vec::new()).await;
    assert_eq!(answer.refused(401), "Unauthorized");
}

#[tokio::test]
async fn tokens_are_bound_to_pods() {
    let cluster = Cluster::any().await;
    let namespace = cluster.namespace().await;
    let node = cluster.node().await;
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    cluster.post(&accounts, &json!({"metadata": {"name": "sa"}})).await.expect(201);
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let containers = json!([{"name": "c", "image": "i"}]);
    let spec = json!({"serviceAccountName": "sa", "nodeName": node, "containers": containers});
    let pod = cluster.post(&pods, &json!({"metadata": {"name": "p"}, "spec": spec})).await.expect(201);
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid});
    let spec = json!({"audiences": ["mesh-ca"], "boundObjectRef": bound});
    let made = cluster.post(&format!("{accounts}/sa/token"), &json!({"spec": spec})).await.expect(201);
    let token = made["status"]["token"].as_str().expect("a token");
    let status = review(&cluster, token, &["mesh-ca"]).await;
    for (what, value) in [("pod-name", "p"), ("pod-uid", uid), ("node-name", &node)] {
        let key = format!("authentication.kubernetes.io/{what}");
        assert_eq!(status["user"]["extra"][&key], json!([value]), "{status}");
    }
    let options = json!({"gracePeriodSeconds": 0});
    cluster.delete_with(&format!("{pods}/p"), &options).await.expect(200);
    let mut status = Value::Null;
    for _ in 0..100 {
        status = review(&cluster, token, &["mesh-ca"]).await;
        if status["authenticated"] != true {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
    panic!("the token has outlived its Pod: {status}");
}

#[tokio::test]
async fn tokens_that_are_too_short_lived_are_not_made() {
    let cluster = Cluster::any().await;
    let accounts = format!("/api/v1/namespaces/{}/serviceaccounts", cluster.namespace().await);
    cluster.post(&accounts, &json!({"metadata": {"name": "sa"}})).await.expect(201);
    let answer =
        cluster.post(&format!("{accounts}/sa/token"), &json!({"spec": {"expirationSeconds": 60}})).await;
    assert_eq!(answer.refused(422), "Invalid");
    let answer = cluster.post(&format!("{accounts}/none/token"), &json!({"spec": {}})).await;
    assert_eq!(answer.refused(404), "NotFound");
}

#[tokio::test]
async fn a_bad_token_is_not_nobody() {
    let cluster = Cluster::any().await;
    let client = cluster.client_of("made-up");
    let answer = send(&client, Method::GET, "/api/v1/namespaces", "application/json", Vec::new()).await;
    assert_eq!(answer.refused(401), "Unauthorized");
}

#[tokio::test]
async fn roles_allow() {
    let cluster = Cluster::any().await;
    let (namespace, token) = account(&cluster, &json!({})).await;
    let client = cluster.client_of(&token);
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let ask = async |method: Method, path: String| {
        send(&client, method, &path, "application/json", Vec::new()).await.status
    };
    let answer = send(&client, Method::GET, &maps, "application/json", Vec::new()).await;
    assert_eq!(answer.refused(403), "Forbidden");
    let access = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let rules = json!([
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["m"], "verbs": ["get"]},
    ]);
    cluster
        .post(&format!("{access}/roles"), &json!({"metadata": {"name": "r"}, "rules": rules}))
        .await
        .expect(201);
    let binding = json!({
        "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": namespace}],
    });
    cluster.post(&format!("{access}/rolebindings"), &binding).await.expect(201);
    for _ in 0..100 {
        if ask(Method::GET, maps.clone()).await == 200 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    for (method, path, status) in [
        (Method::GET, maps.clone(), 200),
        (Method::GET, format!("{maps}/m"), 404),
        (Method::GET, format!("{maps}/n"), 403),
        (Method::GET, format!("{maps}?watch=1"), 403),
        (Method::DELETE, format!("{maps}/m"), 403),
        (Method::GET, "/api/v1/configmaps".into(), 403),
        (Method::GET, format!("/api/v1/namespaces/{namespace}/secrets"), 403),
        (Method::GET, "/apis".into(), 200),
    ] {
        assert_eq!(ask(method.clone(), path.clone()).await, status, "{method} {path}");
    }
}

/// A webhook with a say in the `ConfigMap`s of a namespace; returns the path of its configuration, and its name.
async fn hook_for(cluster: &Cluster, namespace: &str, hook: &Hook) -> (String, String) {
    let name = unique("w");
    let configuration = json!({
        "metadata": {"name": name},
        "webhooks": [{
            "name": format!("{name}.mesh.test"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail",
            "clientConfig": {"url": format!("https://{}/check", hook.address), "caBundle": hook.ca_bundle},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                "operations": ["CREATE", "UPDATE"],
            }],
        }],
    });
    let configurations = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    cluster.post(configurations, &configuration).await.expect(201);
    let path = format!("{configurations}/{name}");
    cluster.made.lock().expect("no panic").push(path.clone());
    (path, name)
}

/// Posts until the answer has this status: a server takes a moment to hear of its webhooks.
async fn post_until(cluster: &Cluster, path: &str, body: &Value, status: u16) -> Value {
    for _ in 0..100 {
        let answer = cluster.post(path, body).await;
        if answer.status == status {
            return answer.body;
        }
        sleep(Duration::from_millis(100)).await;
    }
    cluster.post(path, body).await.expect(status)
}

#[tokio::test]
async fn webhooks_have_a_say() {
    let cluster = Cluster::any().await;
    let namespace = cluster.namespace().await;
    let hook = Hook::start("localhost", |request| {
        let bad = request["object"]["data"]["bad"].is_string();
        if bad { Err("it is bad".into()) } else { Ok(()) }
    })
    .await;
    let (configuration, name) = hook_for(&cluster, &namespace, &hook).await;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let bad = json!({"metadata": {"name": "m"}, "data": {"bad": "yes"}});
    post_until(&cluster, &format!("{maps}?dryRun=All"), &bad, 403).await;
    let refused = cluster.post(&maps, &bad).await.expect(403);
    let message = format!("admission webhook \"{name}.mesh.test\" denied the request: it is bad");
    assert_eq!(refused["message"], message);
    assert_eq!(cluster.get(&format!("{maps}/m")).await.refused(404), "NotFound");
    cluster.post(&maps, &json!({"metadata": {"name": "m"}, "data": {"good": "yes"}})).await.expect(201);
    let patch = json!({"data": {"bad": "yes"}});
    cluster.patch(&format!("{maps}/m"), "merge-patch+json", &patch).await.expect(403);
    let asked = hook.asked();
    let last = asked.last().expect("it was asked");
    assert_eq!((&last["operation"], &last["name"]), (&json!("UPDATE"), &json!("m")));
    assert_eq!(last["namespace"], namespace);
    assert_eq!(last["oldObject"]["data"], json!({"good": "yes"}));
    assert_eq!(last["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    cluster.delete(&configuration).await.expect(200);
}

#[tokio::test]
async fn it_is_its_owner_s_choice_whether_a_webhook_must_answer() {
    let cluster = Cluster::any().await;
    let namespace = cluster.namespace().await;
    let hook = Hook::start("localhost", |_| Ok(())).await;
    let (configuration, _) = hook_for(&cluster, &namespace, &hook).await;
    drop(hook);
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let object = json!({"metadata": {"name": "m"}});
    let refused = post_until(&cluster, &format!("{maps}?dryRun=All"), &object, 500).await;
    assert_eq!(refused["reason"], "InternalError");
    let ignore = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    cluster.patch(&configuration, "json-patch+json", &ignore).await.expect(200);
    post_until(&cluster, &maps, &object, 201).await;
    cluster.delete(&configuration).await.expect(200);
}
