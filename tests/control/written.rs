//! What the control plane writes back: conditions on policies and services, addresses of hosts; and what it says where it
//! does nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_tests::apiserver::{ApiServer, Fault, Resource};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api::Cluster;
use crate::control::{Control, until};

/// The suite's own server, which tells what it was asked, with what comes with the mesh and the Gateway API's Gateways,
/// which waypoints are.
async fn installed() -> Cluster {
    let cluster = Cluster::own_mesh().await;
    let server = ours(&cluster);
    server.define(Resource::custom("gateway.networking.k8s.io", &["v1"], "Gateway", "gateways"));
    server.put(&namespace("shop"));
    cluster
}

fn ours(cluster: &Cluster) -> &ApiServer {
    cluster.ours.as_ref().expect("the suite's own")
}

fn namespace(name: &str) -> Value {
    let labels = json!({"istio.io/dataplane-mode": "ambient", "kubernetes.io/metadata.name": name});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn service(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "type": "ClusterIP", "ports": [{"port": 80}]},
        "status": {"conditions": [{"type": "Other", "status": "True"}]},
    })
}

fn entry(name: &str, hosts: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"hosts": hosts, "resolution": "DNS", "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}]},
    })
}

/// `TYPE=STATUS/REASON` of each condition, in the order in which they stand.
fn conditions(server: &ApiServer, kind: &str, name: &str) -> Vec<String> {
    let object = server.read(kind, "shop", name).expect("the object");
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |it: &Value| format!("{}={}/{}", it["type"], it["status"], it["reason"]).replace('"', "");
    conditions.iter().map(text).collect()
}

/// `HOST VALUE` of each of a ServiceEntry's addresses.
fn addresses(server: &ApiServer, name: &str) -> Vec<String> {
    let object = server.read("ServiceEntry", "shop", name).expect("the entry");
    let addresses = object["status"]["addresses"].as_array().cloned().unwrap_or_default();
    addresses.iter().map(|it| format!("{} {}", it["host"], it["value"]).replace('"', "")).collect()
}

fn writes(requests: &[String], what: &str) -> usize {
    requests.iter().filter(|request| request.starts_with(&format!("patch {what}/status "))).count()
}

#[tokio::test]
async fn a_policy_with_targets_does_not_pass_for_enforced() {
    let cluster = installed().await;
    let server = ours(&cluster);
    let policy = |kind: &str, group: &str, spec: &Value, status: &Value| {
        server.put(&json!({
            "apiVersion": format!("{group}.istio.io/v1"), "kind": kind,
            "metadata": {"name": "p", "namespace": "shop"}, "spec": spec, "status": status,
        }));
    };
    let kinds = [
        ("AuthorizationPolicy", "security"),
        ("RequestAuthentication", "security"),
        ("Telemetry", "telemetry"),
    ];
    let targets = json!({"targetRefs": [{"kind": "Service", "name": "web", "group": ""}]});
    // As it was said by who did not know better.
    let before = json!({"conditions": [
        {"type": "ZtunnelAccepted", "status": "True", "reason": "UnsupportedValue"},
        {"type": "Other", "status": "True", "reason": "Fine"},
    ]});
    policy(kinds[0].0, kinds[0].1, &targets, &before);
    for (kind, group) in &kinds[1..] {
        policy(kind, group, &targets, &json!({}));
    }
    let _control = Control::ready(&cluster).await;
    let said = |kind: &str, what: &str| conditions(server, kind, "p").iter().any(|it| it == what);
    for (kind, _) in kinds {
        until(kind, || said(kind, "WaypointAccepted=False/TargetNotFound")).await;
    }
    let expected = ["Other=True/Fine", "WaypointAccepted=False/TargetNotFound"];
    assert_eq!(conditions(server, "AuthorizationPolicy", "p"), expected);
    server.put(&service("web", &json!({"istio.io/use-waypoint": "way"})));
    for (kind, _) in kinds {
        until(kind, || said(kind, "WaypointAccepted=False/AncestorNotBound")).await;
    }
    let policy_now = server.read("AuthorizationPolicy", "shop", "p").expect("the policy");
    let message = policy_now["status"]["conditions"][1]["message"].as_str().expect("text").to_owned();
    assert!(message.starts_with("not enforced: Service shop/web is not bound"), "{message}");
    // Nodes enforce it once it selects.
    for (kind, group) in kinds {
        let status = server.read(kind, "shop", "p").expect("the policy")["status"].clone();
        policy(kind, group, &json!({}), &status);
    }
    until("the other condition", || said("AuthorizationPolicy", "ZtunnelAccepted=True/Accepted")).await;
    for (kind, _) in kinds {
        until(kind, || !conditions(server, kind, "p").iter().any(|it| it.starts_with("Waypoint"))).await;
    }
}

#[tokio::test]
async fn a_service_is_told_of_its_waypoint_until_it_asks_for_none() {
    let cluster = installed().await;
    let server = ours(&cluster);
    let (asks, nothing) = (json!({"istio.io/use-waypoint": "way"}), json!({}));
    server.put(&service("web", &asks));
    server.put(&service("plain", &nothing));
    let mut external = entry("db", &["db.example"]);
    external["metadata"]["labels"] = asks.clone();
    server.put(&external);
    let control = Control::ready(&cluster).await;
    let not_ready = "istio.io/WaypointBound=False/WaypointIsNotReady";
    let bound = |kind: &str, name: &str| conditions(server, kind, name).iter().any(|it| it == not_ready);
    until("the condition", || bound("Service", "web") && bound("ServiceEntry", "db")).await;
    assert_eq!(conditions(server, "Service", "web"), ["Other=True/null", not_ready]);
    let message = |name: &str| {
        let service = server.read("Service", "shop", name).expect("the service");
        service["status"]["conditions"][1]["message"].as_str().unwrap_or_default().to_owned()
    };
    assert!(message("web").contains("there is no Gateway"), "{}", message("web"));
    let listener = json!({"name": "mesh", "port": 15008, "protocol": "HBONE"});
    server.put(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "way", "namespace": "shop"},
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [listener]},
    }));
    until("another message", || message("web").contains("it has no address and no pod that is")).await;
    let labels = json!({"gateway.networking.k8s.io/gateway-name": "way"});
    server.put(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "way-1", "namespace": "shop", "labels": labels},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}]},
    }));
    until("another reason", || message("web").contains("Successfully attached to waypoint shop/way")).await;
    // The label of the namespace counts for the other as well, which says that it wants none; then nobody asks.
    let mut shop = namespace("shop");
    shop["metadata"]["labels"]["istio.io/use-waypoint"] = json!("way");
    server.put(&shop);
    let accepted = ["Other=True/null", "istio.io/WaypointBound=True/WaypointAccepted"];
    until("the namespace's", || conditions(server, "Service", "plain") == accepted).await;
    let mut plain = server.read("Service", "shop", "plain").expect("the service");
    plain["metadata"]["labels"] = json!({"istio.io/use-waypoint": "none"});
    server.put(&plain);
    until("its end", || conditions(server, "Service", "plain") == ["Other=True/null"]).await;
    // Also when it was said by a process that has ended since.
    drop(control);
    server.put(&namespace("shop"));
    for (kind, name) in [("Service", "web"), ("ServiceEntry", "db")] {
        let mut object = server.read(kind, "shop", name).expect("the object");
        object["metadata"]["labels"] = json!({});
        server.put(&object);
    }
    let _next = Control::ready(&cluster).await;
    let asked = |kind: &str, name: &str| {
        conditions(server, kind, name).iter().any(|it| it.starts_with("istio.io/WaypointBound"))
    };
    until("the end of all", || !asked("Service", "web") && !asked("ServiceEntry", "db")).await;
    assert_eq!(conditions(server, "Service", "web"), ["Other=True/null"]);
    // Of services that have nothing to do with waypoints nothing is written, nor read.
    server.put(&service("other", &nothing));
    sleep(Duration::from_secs(2)).await;
    let requests = server.requests();
    assert!(!requests.iter().any(|it| it.ends_with("shop/other")), "{requests:?}");
}

#[tokio::test]
async fn hosts_without_addresses_are_given_some_and_keep_them() {
    let cluster = installed().await;
    let server = ours(&cluster);
    server.put(&entry("one", &["a.example", "b.example"]));
    server.put(&entry("two", &["a.example"]));
    let mut own = entry("own", &["own.example"]);
    own["spec"]["addresses"] = json!(["192.0.2.1"]);
    server.put(&own);
    // Two show the same address: who was made first keeps it, though it is not the first by name.
    for name in ["olden", "fresh"] {
        let mut entry = entry(name, &["x.example"]);
        let list = json!([{"host": "x.example", "value": "240.240.0.7"}, {"host": "x.example", "value": "2001:2::7"}]);
        entry["status"] = json!({ "addresses": list });
        server.put(&entry);
        // Ages are in seconds.
        sleep(Duration::from_millis(1100)).await;
    }
    let mut first = Control::ready(&cluster).await;
    let names = ["one", "two", "fresh", "olden"];
    let all = || names.map(|name| addresses(server, name));
    until("addresses", || all().map(|list| list.len()) == [4, 2, 2, 2] && all()[2] != all()[3]).await;
    let given = all();
    assert_eq!(given[3], ["x.example 240.240.0.7", "x.example 2001:2::7"]);
    let values: Vec<_> =
        given.iter().flatten().map(|line| line.split_once(' ').expect("a value").1).collect();
    assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), 10, "{given:?}");
    assert!(values.iter().all(|it| it.starts_with("240.240.") || it.starts_with("2001:2::")), "{given:?}");
    assert_eq!(addresses(server, "own"), Vec::<String>::new());
    let spec = server.read("ServiceEntry", "shop", "one").expect("the entry");
    assert_eq!(spec["metadata"]["generation"], 1, "only the status is written");

    // Nothing is written twice, neither by this process nor by the next one.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(writes(&server.requests(), "serviceentries"), 3);
    first.terminate().await;
    let second = Control::ready(&cluster).await;
    server.put(&entry("late", &["late.example"]));
    until("addresses of the late one", || addresses(server, "late").len() == 2).await;
    assert_eq!(all(), given);
    let requests = server.requests();
    assert_eq!(writes(&requests, "serviceentries"), 1, "{requests:?}");

    // Whoever has addresses of its own gives them back; whoever is gone has none, and nobody else is moved.
    server.remove("ServiceEntry", "shop", "two");
    let mut one = server.read("ServiceEntry", "shop", "one").expect("the entry");
    one["spec"]["addresses"] = json!(["192.0.2.2"]);
    server.put(&one);
    until("the end of them", || addresses(server, "one").is_empty()).await;
    assert_eq!(
        (addresses(server, "fresh"), addresses(server, "olden")),
        (given[2].clone(), given[3].clone())
    );
    drop(second);
}

#[tokio::test]
async fn what_a_host_was_given_meanwhile_is_not_taken_from_it() {
    let cluster = installed().await;
    let server = ours(&cluster);
    let _control = Control::ready(&cluster).await;
    // Between what is read and what is written another leader has written: what it gave stands.
    server.fail(Fault {
        matching: "patch serviceentries/status".into(),
        times: 1,
        delay: Duration::from_secs(1),
        refusal: None,
    });
    server.put(&entry("db", &["db.example"]));
    let asked = || server.requests().iter().any(|it| it.starts_with("get serviceentries/status shop/db"));
    until("the question", asked).await;
    sleep(Duration::from_millis(300)).await;
    let mut db = server.read("ServiceEntry", "shop", "db").expect("the entry");
    let list =
        json!([{"host": "db.example", "value": "240.240.9.9"}, {"host": "db.example", "value": "2001:2::9"}]);
    db["status"] = json!({ "addresses": list });
    server.put(&db);
    let expected = ["db.example 240.240.9.9", "db.example 2001:2::9"];
    for _ in 0..30 {
        assert_eq!(addresses(server, "db"), expected);
        sleep(Duration::from_millis(100)).await;
    }
    // And the next one does not get it as well.
    server.put(&entry("next", &["next.example"]));
    until("addresses of the next", || addresses(server, "next").len() == 2).await;
    assert!(addresses(server, "next").iter().all(|it| !it.ends_with(".9.9") && !it.ends_with("::9")));
}

#[tokio::test]
async fn what_has_no_effect_is_said_for_each_object_as_long_as_it_exists() {
    let cluster = installed().await;
    let server = ours(&cluster);
    let filter = |name: &str| {
        server.put(&json!({
            "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"configPatches": [{"applyTo": "HTTP_FILTER", "patch": {"value": {"secret": "content"}}}]},
        }));
    };
    filter("early");
    let control = Control::ready(&cluster).await;
    filter("late");
    let line = |name: &str| {
        format!("EnvoyFilter shop/{name} Warning EnvoyFilter is not supported: this document has no effect")
    };
    until("both in the log", || ["early", "late"].iter().all(|name| control.log().contains(&line(name))))
        .await;
    let findings = control.get("/debug/findings").await.expect("an answer");
    assert!(findings.contains(&line("early")) && findings.contains(&line("late")), "{findings}");
    // Another version of it is no news.
    filter("late");
    server.remove("EnvoyFilter", "shop", "early");
    let mended = || control.log().contains(&format!("Mended: {}", line("early")));
    until("its end", mended).await;
    let findings = control.get("/debug/findings").await.expect("an answer");
    assert!(!findings.contains(&line("early")) && findings.contains(&line("late")), "{findings}");
    let log = control.log();
    assert_eq!(log.matches(&line("late")).count(), 1, "{log}");
    assert!(!log.contains("content"));
}
