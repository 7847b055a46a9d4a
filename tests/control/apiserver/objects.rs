//! The life of an object.

use serde_json::json;

use crate::api::Cluster;

#[tokio::test]
async fn an_object_is_created_read_and_deleted() {
    let cluster = Cluster::any().await;
    let maps = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await);
    let made = cluster.post(&maps, &json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).await.expect(201);
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let metadata = &made["metadata"];
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(metadata[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {made}");
    }
    let one = format!("{maps}/m");
    assert_eq!(cluster.get(&one).await.expect(200), made);
    assert_eq!(cluster.post(&maps, &json!({"metadata": {"name": "m"}})).await.refused(409), "AlreadyExists");
    cluster.delete(&one).await.expect(200);
    assert_eq!(cluster.get(&one).await.refused(404), "NotFound");
    assert_eq!(cluster.delete(&one).await.refused(404), "NotFound");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let cluster = Cluster::any().await;
    let maps = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await);
    let elsewhere = "/api/v1/namespaces/no-such-namespace/configmaps";
    let named = |name: &str| json!({"metadata": {"name": name}});
    for (path, body, status, reason) in [
        (elsewhere, named("m"), 404, "NotFound"),
        (&maps, named("Upper"), 422, "Invalid"),
        (&maps, named("-m"), 422, "Invalid"),
        (&maps, json!({"metadata": {}}), 422, "Invalid"),
        (&maps, json!({"metadata": {"name": "m", "namespace": "other"}}), 400, "BadRequest"),
        (&maps, json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "m"}}), 400, "BadRequest"),
        ("/api/v1/configmaps", named("m"), 405, "MethodNotAllowed"),
        ("/api/v1/no-such-things", named("m"), 404, "NotFound"),
    ] {
        assert_eq!(cluster.post(path, &body).await.refused(status), reason, "{path} {body}");
    }
    cluster.post(&maps, &named("m")).await.expect(201);
    assert_eq!(cluster.update(&format!("{maps}/m"), &named("other")).await.refused(400), "BadRequest");
}

#[tokio::test]
async fn names_are_generated() {
    let cluster = Cluster::any().await;
    let maps = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await);
    let made = cluster.post(&maps, &json!({"metadata": {"generateName": "m-"}})).await.expect(201);
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("m-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn finalizers_delay_the_end() {
    let cluster = Cluster::any().await;
    let maps = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await);
    let one = format!("{maps}/m");
    let object = json!({"metadata": {"name": "m", "finalizers": ["mesh.test/wait"]}});
    cluster.post(&maps, &object).await.expect(201);
    cluster.delete(&one).await.expect(200);
    let waiting = cluster.get(&one).await.expect(200);
    assert!(waiting["metadata"]["deletionTimestamp"].is_string(), "{waiting}");
    cluster.patch(&one, "merge-patch+json", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(cluster.get(&one).await.refused(404), "NotFound");
}

#[tokio::test]
async fn deletion_can_depend_on_what_is_deleted() {
    let cluster = Cluster::any().await;
    let maps = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await);
    let one = format!("{maps}/m");
    let made = cluster.post(&maps, &json!({"metadata": {"name": "m"}})).await.expect(201);
    let on = |field: &str, value: &str| json!({"preconditions": {field: value}});
    assert_eq!(cluster.delete_with(&one, &on("uid", "another")).await.refused(409), "Conflict");
    assert_eq!(cluster.delete_with(&one, &on("resourceVersion", "1")).await.refused(409), "Conflict");
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    cluster.delete_with(&one, &on("uid", uid)).await.expect(200);
}

#[tokio::test]
async fn many_are_deleted_by_selector() {
    let cluster = Cluster::any().await;
    let maps = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await);
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let object = json!({"metadata": {"name": name, "labels": {"l": label}}});
        cluster.post(&maps, &object).await.expect(201);
    }
    cluster.delete(&format!("{maps}?labelSelector=l%3Dx")).await.expect(200);
    let left = cluster.get(&format!("{maps}?labelSelector=l")).await.expect(200);
    let names: Vec<_> =
        left["items"].as_array().expect("items").iter().map(|it| &it["metadata"]["name"]).collect();
    assert_eq!(names, ["b"]);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let cluster = Cluster::any().await;
    let maps = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await);
    let dry = format!("{maps}?dryRun=All");
    let made = cluster.post(&dry, &json!({"metadata": {"name": "m"}})).await.expect(201);
    assert_eq!(made["metadata"]["name"], "m");
    assert_eq!(cluster.get(&format!("{maps}/m")).await.refused(404), "NotFound");
}

#[tokio::test]
async fn custom_resources_come_and_go() {
    let cluster = Cluster::any().await;
    let (group, namespace) = (cluster.define_things().await, cluster.namespace().await);
    let found = cluster.get_soon(&format!("/apis/{group}")).await;
    let versions: Vec<_> =
        found["versions"].as_array().expect("versions").iter().map(|it| &it["version"]).collect();
    assert_eq!(versions, ["v1", "v1beta1"]);
    let things = format!("/apis/{group}/v1/namespaces/{namespace}/things");
    let body = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": "t"}, "spec": {"a": 1},
    });
    cluster.post(&things, &body).await.expect(201);
    // The same object in both versions.
    let beta = format!("/apis/{group}/v1beta1/namespaces/{namespace}/things/t");
    let seen = cluster.get(&beta).await.expect(200);
    assert_eq!((&seen["apiVersion"], &seen["spec"]["a"]), (&json!(format!("{group}/v1beta1")), &json!(1)));
    let definition = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{group}");
    let defined = cluster.get(&definition).await.expect(200);
    let conditions = defined["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().any(|it| it["type"] == "Established" && it["status"] == "True"), "{defined}");
    cluster.delete(&definition).await.expect(200);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while cluster.get(&things).await.status != 404 {
        assert!(tokio::time::Instant::now() < deadline, "{things} is still served");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
