//! Policies at a waypoint, and behind it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{self, Dialled, dial, eventually, pod};

use super::{URL, Way, bind, counted, waits, with_waypoint};
use crate::routing::Answer;

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{{spec}}}}}\n---\n"
    )
}

fn from(namespace: &str, account: &str) -> String {
    format!("rules: [{{from: [{{source: {{principals: [cluster.local/ns/{namespace}/sa/{account}]}}}}]}}]")
}

fn answers(bed: &Bed, client: &PodHandle, status: u16) -> Result<Answer> {
    waits(bed, client, &[URL], |answer| answer.status == status)
        .with_context(|| format!("{} is to get {status}", client.name()))
}

fn targets_are_enforced(way: Way) -> Result<()> {
    let bed = with_waypoint(way)?;
    let (client, other) = (bed.pod("mesh/client")?, bed.pod("mesh/other")?);
    bind(&bed)?;
    bed.wait("a request at the waypoint", Duration::from_secs(10), |bed| {
        answers(bed, &client, 200).is_ok()
            && counted(bed, "istio_requests_total", &[]).is_ok_and(|count| count > 0)
    })?;
    let gateway = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: way}]";
    let to_service = "targetRefs: [{kind: Service, name: web}]";
    bed.apply(&policy("only", &format!("{to_service}, {}", from("mesh", "client"))))?;
    let denied = answers(&bed, &other, 403)?;
    ensure!(denied.body == "RBAC: access denied", "{denied:?}");
    answers(&bed, &client, 200)?;
    bed.apply(&policy("stop", &format!("{gateway}, action: DENY, {}", from("mesh", "client"))))?;
    answers(&bed, &client, 403)?;
    bed.delete("AuthorizationPolicy", "shop", "stop")?;
    bed.delete("AuthorizationPolicy", "shop", "only")?;
    answers(&bed, &client, 200)?;
    answers(&bed, &other, 200)?;
    Ok(())
}

#[test]
fn policies_with_targets_are_enforced_at_the_waypoint() -> Result<()> {
    targets_are_enforced(Way::Wire)
}

#[test]
fn policies_with_targets_are_enforced_at_the_waypoint_embedded() -> Result<()> {
    targets_are_enforced(Way::Embedded)
}

/// A policy of the workload sees the waypoint, and keeps everybody else away.
#[test]
fn a_workload_may_let_in_its_waypoint_alone() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    let client = bed.pod("mesh/client")?;
    let pod = format!("http://{}:8080/headers", bed.pod("shop/web-v1")?.ip());
    waits(&bed, &client, &[&pod], |answer| answer.status == 200)?;
    bed.apply(&policy("only", &format!("selector: {{matchLabels: {{app: web}}}}, {}", from("shop", "way"))))?;
    waits(&bed, &client, &[&pod], |answer| answer.status == 0).context("past the waypoint")?;
    bind(&bed)?;
    answers(&bed, &client, 200)?;
    bed.apply(&policy(
        "only",
        &format!("selector: {{matchLabels: {{app: web}}}}, {}", from("mesh", "client")),
    ))?;
    answers(&bed, &client, 503).context("the workload sees no client, but the waypoint")?;
    Ok(())
}

/// What is not HTTP goes through as well, to a server that speaks first, and policies decide about it.
#[test]
fn bytes_are_carried_and_decided_about() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    let client = bed.pod("mesh/client")?;
    bed.apply(&pod("shop", "far", "node-1", &["netprobe", "serve", "--port", "7000"]))?;
    let far = scenario::service("shop", "far", "app: far");
    let far = far.replace("namespace: shop}", "namespace: shop, labels: {istio.io/use-waypoint: way}}");
    bed.apply(&far)?;
    bed.wait_ready(Duration::from_secs(20), |_| ())?;
    let to = format!("{}:80", bed.status().service_ip("shop/far")?);
    let labels =
        [("reporter", "waypoint"), ("destination_service_name", "far"), ("source_workload", "client")];
    let carried = || counted(&bed, "istio_tcp_connections_opened_total", &labels);
    bed.wait("a connection through the waypoint", Duration::from_secs(10), |_| {
        dial(&client, &[&to]).is_ok_and(|seen| seen.served()) && carried().is_ok_and(|count| count > 0)
    })?;
    // The server sees the waypoint, from whose address it was called.
    let (seen, way) = (dial(&client, &[&to])?, bed.pod("shop/way-pod")?);
    let peer: SocketAddr = seen.seen("peer").parse()?;
    ensure!([Some(way.ip()), way.ip6()].contains(&Some(peer.ip())), "{seen:?}");
    let far = "targetRefs: [{kind: Service, name: far}]";
    bed.apply(&policy("stop", &format!("{far}, action: DENY, {}", from("mesh", "client"))))?;
    eventually(&bed, &client, &to, Dialled::refused)?;
    let denied = counted(&bed, "mesh_connections_denied_total", &[("reason", "policy")])?;
    ensure!(denied > 0, "the waypoint counts what it denies");
    let log = bed.pod("shop/way-pod")?.log();
    ensure!(log.contains("response_flags=\"DENY\"") && log.contains("shop/stop"), "{log}");
    Ok(())
}
