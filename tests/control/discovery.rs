//! What a subscriber is told, and what it is not told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_proto::names::ResourceType;
use mesh_proto::workload::{Address, address::Type};
use prost::Message as _;

use crate::plane::{Plane, until};
use crate::subscriber::{Subscriber, named};

/// A namespace in the mesh with a pod on `node`, and a service in front of it.
pub(crate) fn app(name: &str, node: &str, ip: &str, port: u16) -> String {
    let last = ip.rsplit('.').next().unwrap_or_default();
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{istio.io/dataplane-mode: ambient}}}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: {name}, labels: {{app: web}}}}, \
         spec: {{serviceAccountName: {name}, nodeName: {node}, containers: [{{name: main, image: web}}]}}, \
         status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}], \
         conditions: [{{type: Ready, status: \"True\"}}]}}}}\n---\n\
         {{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: {name}}}, \
         spec: {{clusterIP: 10.96.0.{last}, selector: {{app: web}}, ports: [{{port: {port}, targetPort: 8080}}]}}}}\n"
    )
}

/// Nobody may connect but from one namespace.
pub(crate) fn policy(namespace: &str, from: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: only, namespace: {namespace}}}, \
         spec: {{rules: [{{from: [{{source: {{namespaces: [{from}]}}}}]}}]}}}}"
    )
}

/// The name of an app's pod.
pub(crate) fn workload(name: &str) -> String {
    format!("Kubernetes//Pod/{name}/web")
}

/// The name of an app's service.
pub(crate) fn service(name: &str) -> String {
    format!("{name}/web.{name}.svc.cluster.local")
}

/// The first port of a service as it was told.
pub(crate) fn port(subscriber: &Subscriber, name: &str) -> Result<u32> {
    let bytes = subscriber.content(ResourceType::Address, &service(name))?;
    match Address::decode(bytes)?.r#type {
        Some(Type::Service(service)) => Ok(service.ports.first().context("no ports")?.service_port),
        other => anyhow::bail!("no service: {other:?}"),
    }
}

fn two() -> [(&'static str, String); 3] {
    [
        ("a.yaml", app("a", "n1", "10.1.0.1", 80)),
        ("b.yaml", app("b", "n2", "10.2.0.2", 80)),
        ("policy.yaml", policy("a", "b")),
    ]
}

pub(crate) fn over(files: &[(&str, String)]) -> Result<Plane> {
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    Plane::start(&files, &[])
}

async fn everything(plane: &Plane, node: &str) -> Result<(Subscriber, Vec<String>)> {
    let mut subscriber = Subscriber::plain(plane, node).await?;
    // As they come is not the order in which they are asked for.
    let kinds: Vec<_> = ResourceType::ALL.into_iter().rev().collect();
    subscriber.ask(&kinds).await?;
    let told = subscriber.told().await?;
    Ok((subscriber, told))
}

#[tokio::test]
async fn what_others_refer_to_comes_first() -> Result<()> {
    let plane = over(&two())?;
    let mut subscriber = Subscriber::plain(&plane, "n1").await?;
    let kinds: Vec<_> = ResourceType::ALL.into_iter().rev().collect();
    subscriber.ask(&kinds).await?;
    let mut order = Vec::new();
    for _ in ResourceType::ALL {
        let response = subscriber.next().await?;
        let kind = ResourceType::of_url(&response.type_url).context("a type")?;
        order.push(kind);
        // There are no rules here, and keys are for gateways.
        let nothing = matches!(kind, ResourceType::Config | ResourceType::Credential);
        ensure!(response.resources.is_empty() == nothing, "{kind:?}: {}", response.resources.len());
        ensure!(response.removed_resources.is_empty(), "nothing was there that could go");
        subscriber.take(&response)?;
        subscriber.answer(&response, None).await?;
    }
    ensure!(order == ResourceType::ALL, "{order:?}");
    let pods: Vec<_> = subscriber.held.keys().filter(|(kind, _)| *kind == ResourceType::LocalPod).collect();
    ensure!(pods.len() == 1 && pods[0].1 == workload("a"), "a node hears of its own pods: {pods:?}");
    let addresses = subscriber.held.keys().filter(|(kind, _)| *kind == ResourceType::Address).count();
    ensure!(addresses == 4, "two pods, two services: {:?}", subscriber.held.keys());
    until(Duration::from_secs(2), || synced(&plane).unwrap_or(false)).await.context("shown as in step")
}

/// Whether every subscriber is shown as having all of it.
fn synced(plane: &Plane) -> Result<bool> {
    let syncz = plane.subscribers()?;
    let all = syncz["subscribers"].as_array().context("subscribers")?;
    let types: Vec<_> = all.iter().filter_map(|one| one["types"].as_array()).flatten().collect();
    Ok(!types.is_empty() && types.iter().all(|one| one["status"] == "SYNCED"))
}

#[tokio::test]
async fn a_change_costs_what_changed() -> Result<()> {
    let plane = over(&two())?;
    let (mut subscriber, _) = everything(&plane, "n1").await?;
    let (bytes, sent) = (subscriber.bytes, plane.metric("mesh_control_sent_bytes_total")?);
    plane.write("b.yaml", &app("b", "n2", "10.2.0.2", 81))?;
    let mut told = subscriber.hear(&service("b")).await?;
    told.extend(subscriber.told().await?);
    told.sort();
    // The pod's record names the ports of its services.
    ensure!(told == [format!("+{}", workload("b")), format!("+{}", service("b"))], "{told:?}");
    ensure!(port(&subscriber, "b")? == 81, "the new port");
    let cost = subscriber.bytes - bytes;
    ensure!(cost < 2_000, "{cost} bytes for one port");
    let counted = usize::try_from(plane.metric("mesh_control_sent_bytes_total")? - sent)?;
    ensure!(counted == cost, "the metric says {counted}, {cost} have come");

    plane.write(
        "unrelated.yaml",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: a}, data: {k: v}}",
    )?;
    // What says the same in other words is no change.
    plane.write("b.yaml", &format!("# again\n{}", app("b", "n2", "10.2.0.2", 81)))?;
    let told = subscriber.told().await?;
    ensure!(told.is_empty(), "nothing has changed: {told:?}");
    Ok(())
}

#[tokio::test]
async fn removals_come_last_and_in_reverse() -> Result<()> {
    let plane = over(&two())?;
    let (mut subscriber, _) = everything(&plane, "n1").await?;
    // In one step: a namespace goes and another comes.
    let replaced = format!("{}\n---\n{}", app("b", "n2", "10.2.0.2", 80), app("c", "n1", "10.1.0.3", 80));
    plane.write("b.yaml", &replaced)?;
    subscriber.hear(&service("c")).await?;
    subscriber.told().await?;
    plane.remove("a.yaml")?;
    plane.remove("policy.yaml")?;
    subscriber.hear("-").await?;
    let mut told = subscriber.told().await?;
    ensure!(
        !subscriber.held.keys().any(|(_, name)| name.starts_with("a/") || name.contains("/a/")),
        "{told:?}"
    );

    plane.write("policy.yaml", &policy("c", "b"))?;
    subscriber.hear("c/only").await?;
    plane.remove("b.yaml")?;
    plane.write("d.yaml", &(app("d", "n1", "10.1.0.4", 80) + "\n---\n" + &policy("d", "a")))?;
    told = subscriber.hear(&format!("-{}", workload("c"))).await?;
    told.extend(subscriber.told().await?);
    let turn = |wanted: &str| {
        told.iter().position(|one| one == wanted).with_context(|| format!("no {wanted} in {told:?}"))
    };
    // The policies of a pod that is added are there before it, those of one that goes are there until it is gone.
    ensure!(turn("+d/only")? < turn(&format!("+{}", workload("d")))?, "{told:?}");
    let local = told.iter().rposition(|one| *one == format!("-{}", workload("c"))).context("the pod")?;
    ensure!(turn(&format!("-{}", service("c")))? < local, "{told:?}");
    Ok(())
}

/// A policy goes where it decides about a pod, before that pod, and nowhere else.
#[tokio::test]
async fn policies_go_to_the_nodes_that_enforce_them() -> Result<()> {
    let plane = over(&[
        ("a.yaml", app("a", "n1", "10.1.0.1", 80)),
        ("b.yaml", app("b", "n2", "10.2.0.2", 80)),
        ("policies.yaml", format!("{}\n---\n{}", policy("a", "x"), policy("b", "x"))),
        ("mesh.yaml", policy("istio-system", "x")),
    ])?;
    let policies = |subscriber: &Subscriber| -> Vec<String> {
        let own = subscriber.held.keys().filter(|(kind, _)| *kind == ResourceType::Authorization);
        own.map(|(_, name)| name.clone()).collect()
    };
    let (mut one, _) = everything(&plane, "n1").await?;
    ensure!(policies(&one) == ["a/only", "istio-system/only"], "{:?}", policies(&one));
    let (two, _) = everything(&plane, "n2").await?;
    ensure!(policies(&two) == ["b/only", "istio-system/only"], "{:?}", policies(&two));

    plane.write("policies.yaml", &format!("{}\n---\n{}", policy("a", "x"), policy("b", "y")))?;
    let told = one.told().await?;
    ensure!(told.is_empty(), "nor does it hear of a change: {told:?}");

    let pod = app("b", "n1", "10.1.0.3", 80).replace("name: web, namespace", "name: near, namespace");
    plane.write("near.yaml", pod.split("---\n").nth(1).context("the pod")?)?;
    let mut told = one.hear("Kubernetes//Pod/b/near").await?;
    told.extend(one.told().await?);
    let turn = |wanted: &str| told.iter().position(|one| one == wanted);
    let (policy, pod) = (turn("+b/only"), turn("+Kubernetes//Pod/b/near"));
    ensure!(policy.is_some() && policy < pod, "what decides about a pod is there before it: {told:?}");

    plane.remove("near.yaml")?;
    let mut told = one.hear("-b/only").await?;
    told.extend(one.told().await?);
    let gone = |wanted: &str| told.iter().rposition(|one| one == wanted);
    let (policy, pod) = (gone("-b/only"), gone("-Kubernetes//Pod/b/near"));
    ensure!(pod.is_some() && pod < policy, "and goes after it: {told:?}");
    ensure!(policies(&one) == ["a/only", "istio-system/only"], "{:?}", policies(&one));
    Ok(())
}

#[tokio::test]
async fn a_rejection_is_shown_and_not_repeated() -> Result<()> {
    let plane = over(&two())?;
    let mut subscriber = Subscriber::plain(&plane, "n1").await?;
    subscriber.ask(&[ResourceType::Authorization]).await?;
    let response = subscriber.next().await?;
    subscriber.answer(&response, Some("a/only: no such rule")).await?;
    let shown = || -> Result<bool> {
        let syncz = plane.subscribers()?;
        let one = &syncz["subscribers"][0]["types"][0];
        Ok(one["lastRejection"] == "a/only: no such rule" && one["rejected"] == 1 && one["accepted"] == 0)
    };
    until(Duration::from_secs(2), || shown().unwrap_or(false)).await.context("the rejection is shown")?;
    ensure!(plane.metric("pilot_total_xds_rejects")? == 1, "counted");
    ensure!(plane.log().contains("no such rule"), "and in the log");
    plane.write("c.yaml", &app("c", "n1", "10.1.0.3", 80))?;
    let told = subscriber.told().await?;
    ensure!(told.is_empty(), "what was rejected is not sent again: {told:?}");
    plane.write("policy.yaml", &policy("a", "c"))?;
    let told = subscriber.hear("a/only").await?;
    ensure!(told == ["+a/only"], "but what takes its place is: {told:?}");
    Ok(())
}

/// Many edits in a moment are a few responses with the last of them, in order.
#[tokio::test]
async fn quick_edits_are_told_together() -> Result<()> {
    let plane = over(&two())?;
    let (mut subscriber, _) = everything(&plane, "n1").await?;
    let (responses, started) = (plane.metric("pilot_xds_pushes")?, Instant::now());
    let writer = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (1..=500).try_for_each(|n| plane.write("b.yaml", &app("b", "n2", "10.2.0.2", 1000 + n)))
        });
        writer.join().expect("writing does not panic")
    });
    writer?;
    let edited = started.elapsed();
    let (mut last, end) = (80, Instant::now() + Duration::from_secs(5));
    while last < 1500 {
        ensure!(Instant::now() < end, "port {last} at last");
        let response = subscriber.next().await?;
        subscriber.take(&response)?;
        subscriber.answer(&response, None).await?;
        let now = port(&subscriber, "b")?;
        ensure!(now >= last, "{last} and then {now}");
        last = now;
    }
    let pushed = plane.metric("pilot_xds_pushes")? - responses;
    // A scan each 300 ms at most while files change, of which the service and its pod may be told apart.
    let most = 2 * (edited.as_millis() / 300 + 2);
    ensure!(u128::from(pushed) <= most, "{pushed} responses to 500 edits in {edited:?}");
    Ok(())
}

#[tokio::test]
async fn names_and_addresses_on_demand() -> Result<()> {
    let plane = over(&two())?;
    let mut subscriber = Subscriber::plain(&plane, "n1").await?;
    let kind = ResourceType::Address;
    // As a ztunnel subscribes to nothing in particular.
    subscriber.send(named(kind, &["*"], &["*"])).await?;
    let told = subscriber.told().await?;
    ensure!(told.is_empty(), "nothing was asked for: {told:?}");
    subscriber.send(named(kind, &["/10.2.0.2", "/10.96.0.1", "/10.9.9.9"], &[])).await?;
    let mut told = subscriber.told().await?;
    told.sort();
    ensure!(
        told == [format!("+{}", workload("b")), format!("+{}", service("a")), "-/10.9.9.9".to_owned()],
        "{told:?}"
    );
    let alias = &subscriber.held[&(kind, workload("b"))].aliases;
    ensure!(*alias == ["/10.2.0.2"], "under what it was asked for: {alias:?}");

    // What was asked for is followed, nothing else is.
    plane.write("a.yaml", &app("a", "n1", "10.1.0.1", 8888))?;
    plane.write("b.yaml", &app("b", "n2", "10.2.0.2", 8888))?;
    subscriber.hear(&service("a")).await?;
    subscriber.told().await?;
    let names: Vec<_> = subscriber.held.keys().map(|(_, name)| name.clone()).collect();
    ensure!(names == [workload("b"), service("a")], "{names:?}");
    ensure!(port(&subscriber, "a")? == 8888, "the new port");
    plane.remove("b.yaml")?;
    let told = subscriber.hear("-").await?;
    ensure!(told == [format!("-{}", workload("b"))], "{told:?}");
    Ok(())
}

/// One is upgraded after the other: neighbours understand each other, and who is further away is told why not and what to do.
#[tokio::test]
async fn versions_next_to_each_other_understand_each_other() -> Result<()> {
    let plane = over(&two())?;
    let own = mesh_proto::protocol::VERSION;
    for version in [own - 1, own, own + 1] {
        let mut subscriber = Subscriber::plain(&plane, "n1").await?.speaking(&version.to_string());
        subscriber.ask(&ResourceType::ALL).await?;
        ensure!(!subscriber.told().await?.is_empty(), "version {version}");
    }
    for far in ["57", "next"] {
        let mut subscriber = Subscriber::plain(&plane, "n1").await?.speaking(far);
        subscriber.ask(&ResourceType::ALL).await?;
        let status = subscriber.end().await?;
        ensure!(status.code() == tonic::Code::FailedPrecondition, "{status:?}");
        ensure!(
            status.message().starts_with(&format!("you speak version {far} of the mesh's protocol")),
            "{status:?}"
        );
    }
    Ok(())
}
