//! Updates, patches, server-side apply, status and generations.

use serde_json::{Value, json};

use crate::api::Cluster;

async fn maps(cluster: &Cluster) -> String {
    format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await)
}

/// A thing with this spec; returns the path of it.
async fn thing(cluster: &Cluster, spec: &Value) -> (String, String) {
    let (group, namespace) = (cluster.define_things().await, cluster.namespace().await);
    let things = format!("/apis/{group}/v1/namespaces/{namespace}/things");
    let api_version = format!("{group}/v1");
    let body = json!({
        "apiVersion": api_version, "kind": "Thing", "metadata": {"name": "t"}, "spec": spec,
        "status": {"early": true},
    });
    cluster.post(&things, &body).await.expect(201);
    (format!("{things}/t"), api_version)
}

#[tokio::test]
async fn a_stale_update_is_a_conflict() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    let one = format!("{maps}/m");
    let first =
        cluster.post(&maps, &json!({"metadata": {"name": "m"}, "data": {"k": "1"}})).await.expect(201);
    let mut second = first.clone();
    second["data"]["k"] = json!("2");
    let stored = cluster.update(&one, &second).await.expect(200);
    assert_ne!(stored["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(cluster.update(&one, &second).await.refused(409), "Conflict");
    let stale =
        json!({"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"k": "3"}});
    assert_eq!(cluster.patch(&one, "merge-patch+json", &stale).await.refused(409), "Conflict");
    // Without a version, whoever comes last wins.
    let blind = json!({"metadata": {"name": "m"}, "data": {"k": "4"}});
    assert_eq!(cluster.update(&one, &blind).await.expect(200)["data"]["k"], "4");
    // What is the server's stays the server's.
    let mut forged = blind.clone();
    forged["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    assert_eq!(cluster.update(&one, &forged).await.refused(422), "Invalid");
    forged["metadata"]["uid"] = json!("another");
    assert_eq!(cluster.update(&one, &forged).await.refused(409), "Conflict");
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_none() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    let one = format!("{maps}/m");
    let made = cluster.post(&maps, &json!({"metadata": {"name": "m"}, "data": {"k": "1"}})).await.expect(201);
    let again = cluster.update(&one, &made).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let patched = cluster.patch(&one, "merge-patch+json", &json!({"data": {"k": "1"}})).await.expect(200);
    assert_eq!(patched["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn leases_insist_on_a_version_and_are_created_by_updates() {
    let cluster = Cluster::any().await;
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", cluster.namespace().await);
    let one = format!("{leases}/l");
    let body = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15},
    });
    let made = cluster.update(&one, &body).await.expect(201);
    assert_eq!(cluster.update(&one, &body).await.refused(422), "Invalid");
    let mut next = made.clone();
    next["spec"]["holderIdentity"] = json!("b");
    cluster.update(&one, &next).await.expect(200);
    assert_eq!(cluster.update(&one, &next).await.refused(409), "Conflict");
}

#[tokio::test]
async fn patches_are_what_their_types_say() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    let one = format!("{maps}/m");
    let object = json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}});
    cluster.post(&maps, &object).await.expect(201);
    let merged = json!({"data": {"a": null, "c": "3"}});
    let merged = cluster.patch(&one, "merge-patch+json", &merged).await.expect(200);
    assert_eq!(merged["data"], json!({"b": "2", "c": "3"}));
    let operations = json!([
        {"op": "test", "path": "/data/b", "value": "2"},
        {"op": "remove", "path": "/data/b"},
        {"op": "add", "path": "/data/x~1y", "value": "z"},
        {"op": "replace", "path": "/data/c", "value": "4"},
    ]);
    // `/` cannot stand in a key of a ConfigMap, so this goes to annotations.
    let operations: Value =
        serde_json::from_str(&operations.to_string().replace("/data/x~1y", "/metadata/annotations"))
            .expect("JSON");
    let mut operations = operations;
    operations[2]["value"] = json!({"x/y": "z"});
    let patched = cluster.patch(&one, "json-patch+json", &operations).await.expect(200);
    assert_eq!(patched["data"], json!({"c": "4"}));
    let last = json!([{"op": "remove", "path": "/metadata/annotations/x~1y"}]);
    let patched = cluster.patch(&one, "json-patch+json", &last).await.expect(200);
    assert!(patched["metadata"]["annotations"].get("x/y").is_none(), "{patched}");
    let failing = json!([{"op": "test", "path": "/data/c", "value": "5"}]);
    assert_eq!(cluster.patch(&one, "json-patch+json", &failing).await.refused(422), "Invalid");
    assert_eq!(cluster.patch(&one, "json", &json!({})).await.status, 415);
    assert_eq!(
        cluster.patch(&format!("{maps}/none"), "merge-patch+json", &json!({})).await.refused(404),
        "NotFound"
    );
}

#[tokio::test]
async fn strategic_merges_know_the_keys_of_lists() {
    let cluster = Cluster::any().await;
    let pods = format!("/api/v1/namespaces/{}/pods", cluster.namespace().await);
    let container = |name: &str, image: &str| json!({"name": name, "image": image});
    let spec = json!({"containers": [container("a", "one"), container("b", "two")]});
    cluster.post(&pods, &json!({"metadata": {"name": "p"}, "spec": spec})).await.expect(201);
    let patch = json!({"spec": {"containers": [container("b", "three")]}});
    let patched = cluster.patch(&format!("{pods}/p"), "strategic-merge-patch+json", &patch).await.expect(200);
    let images: Vec<_> =
        patched["spec"]["containers"].as_array().expect("containers").iter().map(|it| &it["image"]).collect();
    let mut images: Vec<_> = images.into_iter().filter_map(Value::as_str).collect();
    images.sort_unstable();
    assert_eq!(images, ["one", "three"]);
    // Nobody knows the keys of a custom resource's lists.
    let (one, _) = thing(&cluster, &json!({})).await;
    assert_eq!(cluster.patch(&one, "strategic-merge-patch+json", &json!({})).await.status, 415);
}

#[tokio::test]
async fn fields_have_owners() {
    let cluster = Cluster::any().await;
    let one = format!("{}/m", maps(&cluster).await);
    let wish = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
    cluster.apply(&one, "alice", &wish(json!({"a": "1", "b": "2"}))).await.expect(201);
    let both = cluster.apply(&one, "bob", &wish(json!({"c": "3"}))).await.expect(200);
    assert_eq!(both["data"], json!({"a": "1", "b": "2", "c": "3"}));
    let managers: Vec<_> = both["metadata"]["managedFields"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|it| &it["manager"])
        .collect();
    assert!(managers.contains(&&json!("alice")) && managers.contains(&&json!("bob")), "{managers:?}");
    // Somebody else's field is a conflict, unless both want the same.
    let answer = cluster.apply(&one, "bob", &wish(json!({"a": "9", "c": "3"}))).await;
    let causes = answer.body["details"]["causes"].clone();
    assert_eq!(answer.refused(409), "Conflict");
    assert_eq!(
        (&causes[0]["reason"], &causes[0]["field"]),
        (&json!("FieldManagerConflict"), &json!(".data.a"))
    );
    cluster.apply(&one, "bob", &wish(json!({"a": "1", "c": "3"}))).await.expect(200);
    // What one of two owners gives up stays; what the last gives up goes.
    let still = cluster.apply(&one, "alice", &wish(json!({}))).await.expect(200);
    assert_eq!(still["data"], json!({"a": "1", "c": "3"}));
    // Force takes it away.
    cluster.apply(&one, "alice", &wish(json!({"b": "2"}))).await.expect(200);
    let forced = cluster
        .patch(
            &format!("{one}?fieldManager=alice&force=true"),
            "apply-patch+yaml",
            &wish(json!({"a": "7", "b": "2"})),
        )
        .await
        .expect(200);
    assert_eq!(forced["data"], json!({"a": "7", "b": "2", "c": "3"}));
    let answer = cluster.apply(&one, "bob", &wish(json!({"a": "1", "c": "3"}))).await;
    assert_eq!(answer.refused(409), "Conflict");
}

#[tokio::test]
async fn updates_own_fields_too() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    let one = format!("{maps}/m");
    let object = json!({"metadata": {"name": "m"}, "data": {"a": "1"}});
    cluster.post(&format!("{maps}?fieldManager=carol"), &object).await.expect(201);
    let wish = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
    assert_eq!(cluster.apply(&one, "alice", &wish(json!({"a": "2"}))).await.refused(409), "Conflict");
    let added = cluster.apply(&one, "alice", &wish(json!({"b": "2"}))).await.expect(200);
    assert_eq!(added["data"], json!({"a": "1", "b": "2"}));
    // Who changes a field owns it from then on.
    let path = format!("{one}?fieldManager=carol");
    cluster.patch(&path, "merge-patch+json", &json!({"data": {"b": "3"}})).await.expect(200);
    assert_eq!(cluster.apply(&one, "alice", &wish(json!({"b": "2"}))).await.refused(409), "Conflict");
    assert_eq!(cluster.patch(&one, "apply-patch+yaml", &wish(json!({}))).await.refused(422), "Invalid");
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let cluster = Cluster::any().await;
    let (one, api_version) = thing(&cluster, &json!({"a": 1})).await;
    let made = cluster.get(&one).await.expect(200);
    assert_eq!((&made["metadata"]["generation"], &made["status"]), (&json!(1), &Value::Null));
    // The main path does not write status.
    let mut update = made.clone();
    update["spec"]["a"] = json!(2);
    update["status"] = json!({"x": 1});
    let updated = cluster.update(&one, &update).await.expect(200);
    assert_eq!((&updated["metadata"]["generation"], &updated["status"]), (&json!(2), &Value::Null));
    // The path of the status does not write the spec, and does not count as a change of it.
    let mut update = updated.clone();
    update["spec"]["a"] = json!(3);
    update["status"] = json!({"x": 1});
    let status = format!("{one}/status");
    let updated = cluster.update(&status, &update).await.expect(200);
    assert_eq!((&updated["spec"]["a"], &updated["status"]["x"]), (&json!(2), &json!(1)));
    assert_eq!(updated["metadata"]["generation"], 2);
    let patch = json!({"spec": {"a": 4}, "status": {"y": 2}});
    let patched = cluster.patch(&status, "merge-patch+json", &patch).await.expect(200);
    assert_eq!((&patched["spec"]["a"], &patched["status"]), (&json!(2), &json!({"x": 1, "y": 2})));
    let stale = cluster.update(&status, &update).await;
    assert_eq!(stale.refused(409), "Conflict");
    // Labels are no part of the spec.
    let labelled = json!({"apiVersion": api_version, "metadata": {"labels": {"l": "v"}}});
    let labelled = cluster.patch(&one, "merge-patch+json", &labelled).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 2);
}

#[tokio::test]
async fn conditions_are_merged_by_type() {
    let cluster = Cluster::any().await;
    let (one, api_version) = thing(&cluster, &json!({})).await;
    let status = format!("{one}/status");
    let wish = |conditions: Value| {
        json!({
            "apiVersion": api_version, "kind": "Thing", "metadata": {"name": "t"},
            "status": {"conditions": conditions},
        })
    };
    let condition = |sort: &str, status: &str| json!({"type": sort, "status": status});
    cluster.apply(&status, "alice", &wish(json!([condition("A", "True")]))).await.expect(200);
    let both = cluster.apply(&status, "bob", &wish(json!([condition("B", "True")]))).await.expect(200);
    assert_eq!(both["status"]["conditions"].as_array().map(Vec::len), Some(2));
    let answer =
        cluster.apply(&status, "bob", &wish(json!([condition("A", "False"), condition("B", "True")]))).await;
    assert_eq!(answer.refused(409), "Conflict");
    let left = cluster.apply(&status, "alice", &wish(json!([]))).await.expect(200);
    assert_eq!(left["status"]["conditions"], json!([condition("B", "True")]));
}
