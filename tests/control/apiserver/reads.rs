//! Lists, selectors, pages, forms and discovery.

use serde_json::{Value, json};

use crate::api::Cluster;

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().expect("items").iter().filter_map(|it| it["metadata"]["name"].as_str()).collect()
}

/// Five `ConfigMap`s of a fresh namespace; returns the path of the collection. A real cluster adds one of its own, which
/// has none of these labels.
async fn five(cluster: &Cluster) -> String {
    let maps = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await);
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "1"), ("e", "2")] {
        let metadata = json!({"name": name, "labels": {"five": "yes", "l": label}});
        cluster.post(&maps, &json!({"metadata": metadata})).await.expect(201);
    }
    maps
}

#[tokio::test]
async fn lists_carry_a_version_and_say_their_kind_once() {
    let cluster = Cluster::any().await;
    let maps = five(&cluster).await;
    let list = cluster.get(&format!("{maps}?labelSelector=five")).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert!(list["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()));
    assert_eq!(names(&list), ["a", "b", "c", "d", "e"]);
    assert!(list["items"][0]["kind"].is_null(), "{list}");
    // Custom resources repeat it.
    let (group, namespace) = (cluster.define_things().await, cluster.namespace().await);
    let things = format!("/apis/{group}/v1/namespaces/{namespace}/things");
    let body = json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": "t"}});
    cluster.post(&things, &body).await.expect(201);
    let list = cluster.get(&things).await.expect(200);
    assert_eq!((&list["kind"], &list["items"][0]["kind"]), (&json!("ThingList"), &json!("Thing")));
}

#[tokio::test]
async fn labels_select() {
    let cluster = Cluster::any().await;
    let maps = five(&cluster).await;
    for (selector, expected) in [
        ("five,l=1", vec!["a", "d"]),
        ("five,l%3D%3D1", vec!["a", "d"]),
        ("five,l!=1", vec!["b", "c", "e"]),
        ("five,l+in+(1,3)", vec!["a", "c", "d"]),
        ("five,l+notin+(1,3)", vec!["b", "e"]),
        ("five,!l", vec![]),
        ("five,!m", vec!["a", "b", "c", "d", "e"]),
    ] {
        let list = cluster.get(&format!("{maps}?labelSelector={selector}")).await.expect(200);
        assert_eq!(names(&list), expected, "{selector}");
    }
    assert_eq!(cluster.get(&format!("{maps}?labelSelector=a+b")).await.refused(400), "BadRequest");
}

#[tokio::test]
async fn fields_select() {
    let cluster = Cluster::any().await;
    let maps = five(&cluster).await;
    for (selector, expected) in
        [("metadata.name=c", vec!["c"]), ("metadata.name!=c", vec!["a", "b", "d", "e"])]
    {
        let list =
            cluster.get(&format!("{maps}?labelSelector=five&fieldSelector={selector}")).await.expect(200);
        assert_eq!(names(&list), expected, "{selector}");
    }
    assert_eq!(cluster.get(&format!("{maps}?fieldSelector=data.k=v")).await.refused(400), "BadRequest");
    let namespace = cluster.namespace().await;
    let secrets = format!("/api/v1/namespaces/{namespace}/secrets");
    for (name, sort) in [("s", "Opaque"), ("t", "mesh.test/other")] {
        cluster.post(&secrets, &json!({"metadata": {"name": name}, "type": sort})).await.expect(201);
    }
    let list = cluster.get(&format!("{secrets}?fieldSelector=type!=Opaque")).await.expect(200);
    assert_eq!(names(&list), ["t"]);
}

#[tokio::test]
async fn pages_are_of_one_moment() {
    let cluster = Cluster::any().await;
    let maps = five(&cluster).await;
    let page = |next: &str| format!("{maps}?limit=2&labelSelector=five&continue={next}");
    let first = cluster.get(&page("")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    // What happens in between is not seen.
    cluster.delete(&format!("{maps}/c")).await.expect(200);
    let metadata = json!({"name": "aa", "labels": {"five": "yes"}});
    cluster.post(&maps, &json!({"metadata": metadata})).await.expect(201);
    let next = first["metadata"]["continue"].as_str().expect("more");
    let second = cluster.get(&page(next)).await.expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let next = second["metadata"]["continue"].as_str().expect("more");
    let third = cluster.get(&page(next)).await.expect(200);
    assert_eq!(names(&third), ["e"]);
    assert_eq!(third["metadata"]["continue"].as_str().unwrap_or_default(), "");
    assert_eq!(cluster.get(&page("nonsense")).await.refused(400), "BadRequest");
}

#[tokio::test]
async fn the_rest_of_a_page_is_counted() {
    let cluster = Cluster::any().await;
    let (group, namespace) = (cluster.define_things().await, cluster.namespace().await);
    let things = format!("/apis/{group}/v1/namespaces/{namespace}/things");
    for name in ["a", "b", "c"] {
        let body = json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": name}});
        cluster.post(&things, &body).await.expect(201);
    }
    let page = cluster.get(&format!("{things}?limit=1")).await.expect(200);
    assert_eq!(page["metadata"]["remainingItemCount"], 2);
}

#[tokio::test]
async fn versions_of_the_future_are_not_there_yet() {
    let cluster = Cluster::any().await;
    let maps = five(&cluster).await;
    let answer =
        cluster.get(&format!("{maps}?resourceVersion=999999999&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!(answer.refused(504), "Timeout");
}

#[tokio::test]
async fn metadata_can_be_had_alone() {
    let cluster = Cluster::any().await;
    let maps = five(&cluster).await;
    let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let object = cluster.get_as(&format!("{maps}/a"), one).await.expect(200);
    assert_eq!(object["kind"], "PartialObjectMetadata");
    assert_eq!(object["metadata"]["labels"]["l"], "1");
    cluster.patch(&format!("{maps}/a"), "merge-patch+json", &json!({"data": {"k": "v"}})).await.expect(200);
    let found = cluster.get_as(&format!("{maps}?labelSelector=five"), list).await.expect(200);
    assert_eq!((&found["kind"], names(&found).len()), (&json!("PartialObjectMetadataList"), 5));
    assert!(found["items"].as_array().expect("items").iter().all(|it| it["data"].is_null()), "{found}");
    // Whoever cannot be served is told so, unless there is something else that he takes.
    assert_eq!(cluster.get_as(&maps, "image/png").await.status, 406);
    let either = cluster.get_as(&maps, "image/png, application/json").await.expect(200);
    assert_eq!(either["kind"], "ConfigMapList");
}

#[tokio::test]
async fn what_there_is_can_be_found_out() {
    let cluster = Cluster::any().await;
    assert!(
        cluster.get("/api").await.expect(200)["versions"].as_array().expect("a list").contains(&json!("v1"))
    );
    let groups = cluster.get("/apis").await.expect(200);
    let group =
        groups["groups"].as_array().expect("a list").iter().find(|it| it["name"] == "discovery.k8s.io");
    assert_eq!(group.expect("the group")["preferredVersion"]["version"], "v1");
    for (path, name, kind, namespaced) in [
        ("/api/v1", "pods", "Pod", true),
        ("/api/v1", "nodes", "Node", false),
        ("/apis/discovery.k8s.io/v1", "endpointslices", "EndpointSlice", true),
        ("/apis/coordination.k8s.io/v1", "leases", "Lease", true),
    ] {
        let resources = cluster.get(path).await.expect(200);
        let found = resources["resources"].as_array().expect("a list").iter().find(|it| it["name"] == name);
        let found = found.expect("the resource");
        assert_eq!((&found["kind"], &found["namespaced"]), (&json!(kind), &json!(namespaced)));
        let verbs = found["verbs"].as_array().expect("verbs");
        assert!(["get", "list", "watch"].iter().all(|verb| verbs.contains(&json!(verb))), "{found}");
    }
    assert_eq!(cluster.get("/apis/no.such.group/v1").await.status, 404);
    assert_eq!(cluster.get("/readyz").await.status, 200);
}
