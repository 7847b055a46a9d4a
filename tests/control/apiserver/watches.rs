//! Watches.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::api::Cluster;

async fn maps(cluster: &Cluster) -> String {
    format!("/api/v1/namespaces/{}/configmaps", cluster.namespace().await)
}

/// A label that keeps what a real cluster creates by itself out of sight.
const MINE: &str = "labelSelector=mine";

async fn create(cluster: &Cluster, maps: &str, name: &str) {
    let metadata = json!({"name": name, "labels": {"mine": "yes"}});
    cluster.post(maps, &json!({"metadata": metadata})).await.expect(201);
}

async fn version(cluster: &Cluster, maps: &str) -> String {
    let list = cluster.get(&format!("{maps}?{MINE}")).await.expect(200);
    list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
}

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    create(&cluster, &maps, "before").await;
    let version = version(&cluster, &maps).await;
    create(&cluster, &maps, "a").await;
    let mut events = cluster.watch(&format!("{maps}?watch=1&{MINE}&resourceVersion={version}")).await;
    cluster.patch(&format!("{maps}/a"), "merge-patch+json", &json!({"data": {"k": "v"}})).await.expect(200);
    cluster.delete(&format!("{maps}/a")).await.expect(200);
    let (sort, added) = events.next().await.expect("an event");
    assert_eq!((sort.as_str(), &added["metadata"]["name"]), ("ADDED", &json!("a")));
    let (sort, modified) = events.next().await.expect("an event");
    assert_eq!((sort.as_str(), &modified["data"]["k"]), ("MODIFIED", &json!("v")));
    let (sort, deleted) = events.next().await.expect("an event");
    assert_eq!((sort.as_str(), &deleted["data"]["k"]), ("DELETED", &json!("v")));
    // Each has a version of its own, from which one can go on.
    let at = |object: &serde_json::Value| object["metadata"]["resourceVersion"].clone();
    assert!(at(&added) != at(&modified) && at(&modified) != at(&deleted));
    let place = at(&modified);
    let place = place.as_str().expect("a version");
    let mut events = cluster.watch(&format!("{maps}?watch=1&{MINE}&resourceVersion={place}")).await;
    assert_eq!(events.summary().await, "DELETED a");
    assert!(events.is_quiet().await);
}

#[tokio::test]
async fn a_watch_from_nowhere_begins_with_what_there_is() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    create(&cluster, &maps, "a").await;
    create(&cluster, &maps, "b").await;
    let mut events = cluster.watch(&format!("{maps}?watch=true&{MINE}")).await;
    assert_eq!([events.summary().await, events.summary().await], ["ADDED a", "ADDED b"]);
    create(&cluster, &maps, "c").await;
    assert_eq!(events.summary().await, "ADDED c");
}

#[tokio::test]
async fn what_begins_to_match_comes_and_what_ceases_to_goes() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    let version = version(&cluster, &maps).await;
    let path = format!("{maps}?watch=1&labelSelector=seen%3Dyes&resourceVersion={version}");
    let mut events = cluster.watch(&path).await;
    create(&cluster, &maps, "a").await;
    let label = |value: &str| json!({"metadata": {"labels": {"seen": value}}});
    let one = format!("{maps}/a");
    cluster.patch(&one, "merge-patch+json", &label("yes")).await.expect(200);
    assert_eq!(events.summary().await, "ADDED a");
    let changed = cluster.patch(&one, "merge-patch+json", &label("no")).await.expect(200);
    let (sort, gone) = events.next().await.expect("an event");
    assert_eq!(sort, "DELETED");
    // It shows the object as it was when it still matched, and the version at which it ceased to.
    assert_eq!(gone["metadata"]["labels"]["seen"], "yes");
    assert_eq!(gone["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);
    cluster.delete(&one).await.expect(200);
    assert!(events.is_quiet().await);
}

#[tokio::test]
async fn one_object_can_be_watched() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    let mut events = cluster.watch(&format!("{maps}?watch=1&fieldSelector=metadata.name%3Db")).await;
    create(&cluster, &maps, "a").await;
    create(&cluster, &maps, "b").await;
    assert_eq!(events.summary().await, "ADDED b");
}

#[tokio::test]
async fn a_watch_ends_in_time_and_says_where() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    let place = version(&cluster, &maps).await;
    // Something happens that this watch does not see.
    cluster.post(&maps, &json!({"metadata": {"name": "unseen"}})).await.expect(201);
    let started = Instant::now();
    let query = format!("watch=1&{MINE}&resourceVersion={place}&timeoutSeconds=5&allowWatchBookmarks=true");
    let mut events = cluster.watch(&format!("{maps}?{query}")).await;
    let mut last = String::new();
    while let Some((sort, object)) = events.next_of_any_sort().await {
        assert_eq!((sort.as_str(), &object["kind"]), ("BOOKMARK", &json!("ConfigMap")));
        last = object["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    }
    let took = started.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(12)).contains(&took), "{took:?}");
    assert!(!last.is_empty() && last != place, "{last:?} is no further than {place:?}");
    let mut events = cluster.watch(&format!("{maps}?watch=1&resourceVersion={last}")).await;
    assert!(events.is_quiet().await);
}

#[tokio::test]
async fn nobody_gets_bookmarks_unasked() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    let version = version(&cluster, &maps).await;
    let path = format!("{maps}?watch=1&resourceVersion={version}&timeoutSeconds=3&{MINE}");
    assert!(cluster.watch(&path).await.next_of_any_sort().await.is_none());
}

#[tokio::test]
async fn a_place_that_is_forgotten_is_refused() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    create(&cluster, &maps, "a").await;
    if let Some(server) = &cluster.ours {
        server.compact();
    }
    let mut events = cluster.watch(&format!("{maps}?watch=1&resourceVersion=1")).await;
    let (sort, status) = events.next_of_any_sort().await.expect("an event");
    assert_eq!((sort.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert!(["Expired", "Gone"].contains(&status["reason"].as_str().expect("a reason")), "{status}");
    assert!(events.next_of_any_sort().await.is_none());
}

#[tokio::test]
async fn a_watch_can_begin_with_a_list() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    create(&cluster, &maps, "a").await;
    create(&cluster, &maps, "b").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = cluster.watch(&format!("{maps}?{query}&{MINE}")).await;
    assert_eq!([events.summary().await, events.summary().await], ["ADDED a", "ADDED b"]);
    loop {
        let (sort, object) = events.next_of_any_sort().await.expect("an event");
        assert_eq!(sort, "BOOKMARK");
        if object["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true" {
            break;
        }
    }
    create(&cluster, &maps, "c").await;
    assert_eq!(events.summary().await, "ADDED c");
    let wrong = format!("{maps}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true");
    assert_eq!(cluster.get(&wrong).await.refused(422), "Invalid");
}

#[tokio::test]
async fn metadata_can_be_watched_alone() {
    let cluster = Cluster::any().await;
    let maps = maps(&cluster).await;
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let mut events = cluster.watch_as(&format!("{maps}?watch=1&{MINE}"), accept).await;
    create(&cluster, &maps, "a").await;
    let (sort, object) = events.next().await.expect("an event");
    assert_eq!((sort.as_str(), &object["kind"]), ("ADDED", &json!("PartialObjectMetadata")));
    cluster.patch(&format!("{maps}/a"), "merge-patch+json", &json!({"data": {"k": "v"}})).await.expect(200);
    let (sort, object) = events.next().await.expect("an event");
    assert!(sort == "MODIFIED" && object["data"].is_null(), "{object}");
}
