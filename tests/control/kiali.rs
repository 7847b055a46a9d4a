//! What Kiali asks the control plane for, in the forms of Istio's.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_proto::names::ResourceType;
use serde_json::Value;

use crate::control::manifests;
use crate::discovery::{app, over};
use crate::plane::{Plane, until};
use crate::subscriber::Subscriber;

/// The only proxy in `/debug/syncz`.
fn only(plane: &Plane) -> Result<Value> {
    let all: Vec<Value> = serde_json::from_str(&plane.get("/debug/syncz")?).context("a list")?;
    ensure!(all.len() == 1, "one proxy: {all:#?}");
    all.into_iter().next().context("one proxy")
}

/// As Kiali judges a kind of configuration.
fn judged(proxy: &Value, kind: &str) -> &'static str {
    match (proxy.get(format!("{kind}_sent")), proxy.get(format!("{kind}_acked"))) {
        (None, _) => "NOT_SENT",
        (sent, acked) if sent == acked => "Synced",
        _ => "Stale",
    }
}

#[tokio::test]
async fn how_far_proxies_are_is_told_as_istio_tells_it() -> Result<()> {
    let plane = over(&[("a.yaml", app("a", "n1", "10.1.0.1", 80))])?;
    ensure!(plane.get("/debug/syncz")?.trim() == "[]", "a list, if of nobody");
    let mut subscriber = Subscriber::plain(&plane, "n1").await?;
    let kinds: Vec<_> = ResourceType::ALL.into_iter().filter(|kind| *kind != ResourceType::Config).collect();
    subscriber.ask(&kinds).await?;
    subscriber.told().await?;
    let is = |kind: &str, wanted: &str| only(&plane).is_ok_and(|proxy| judged(&proxy, kind) == wanted);
    until(Duration::from_secs(2), || is("cluster", "Synced") && is("listener", "Synced")).await?;
    let proxy = only(&plane)?;
    for (field, value) in
        [("cluster_id", "Kubernetes"), ("proxy", "ztunnel-abcde.istio-system"), ("proxy_type", "ztunnel")]
    {
        ensure!(proxy[field] == value, "{field}: {proxy:#}");
    }
    ensure!(proxy["istio_version"].as_str().is_some_and(|it| !it.is_empty()), "{proxy:#}");
    ensure!(judged(&proxy, "endpoint") == "Synced" && judged(&proxy, "route") == "NOT_SENT", "{proxy:#}");
    let text = proxy.as_object().context("an object")?.values().all(Value::is_string);
    ensure!(text, "all of it is text there: {proxy:#}");
    // What is not answered is behind until it is.
    plane.write("a.yaml", &app("a", "n1", "10.1.0.1", 81))?;
    let response = subscriber.next().await?;
    ensure!(is("cluster", "Stale") && is("listener", "Synced"), "{:#}", only(&plane)?);
    subscriber.take(&response)?;
    subscriber.answer(&response, None).await?;
    subscriber.told().await?;
    until(Duration::from_secs(2), || is("cluster", "Synced")).await.context("in step again")
}

#[test]
fn what_kiali_looks_for_in_a_cluster_is_in_the_manifests() {
    let control: Vec<Value> = manifests("manifests/mesh-control.yaml");
    let of = |all: &[Value], kind: &str, name: &str| {
        let found = all.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("{kind} {name}")).clone()
    };
    let deployment = control.iter().find(|it| it["kind"] == "Deployment").expect("a Deployment");
    for labels in [&deployment["metadata"]["labels"], &deployment["spec"]["template"]["metadata"]["labels"]] {
        assert_eq!((&labels["app"], &labels["istio.io/rev"]), (&"istiod".into(), &"default".into()));
    }
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"], "discovery");
    let variables = container["env"].as_array().expect("variables");
    assert!(variables.iter().any(|it| it["name"] == "CLUSTER_ID"), "{variables:?}");
    let service = of(&control, "Service", "istiod");
    assert_eq!(service["metadata"]["labels"]["app"], "istiod");
    let ports = service["spec"]["ports"].as_array().expect("ports");
    assert!(ports.iter().any(|it| it["name"] == "http-monitoring" && it["port"] == 15014), "{ports:?}");
    let nodes = manifests("manifests/mesh-node.yaml");
    let pods = &of(&nodes, "DaemonSet", "mesh-node")["spec"]["template"];
    assert_eq!(
        pods["metadata"]["labels"]["app"], "ztunnel",
        "how what they tell of connections is told from the rest"
    );
    let config = manifests("manifests/config.yaml");
    let mesh = of(&config, "ConfigMap", "istio");
    assert!(mesh["data"]["mesh"].is_string() && mesh["data"]["meshNetworks"].is_string(), "{mesh:#}");
    let injector = of(&config, "ConfigMap", "istio-sidecar-injector");
    assert!(injector["data"]["config"].is_string() && injector["data"]["values"].is_string(), "{injector:#}");
}
