//! Enrolment by label, at runtime, without a restart of the pod.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_common::ABI;
use mesh_tests::{
    bed::{Bed, Network},
    scenario::{Dialled, at, captured, dial, eventually, manifests, start},
};

pub(crate) fn label(namespace: &str, mode: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{istio.io/dataplane-mode: {mode}}}}}}}"
    )
}

pub(crate) fn capture_of(bed: &Bed, node: &str, pod: &str) -> String {
    let dump = bed.node(node).and_then(|node| node.admin("/config_dump")).unwrap_or_default();
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap_or_default();
    dump["workloadState"][format!("Kubernetes//Pod/{pod}")]["state"].as_str().unwrap_or("absent").to_owned()
}

#[test]
fn a_label_enrols_and_its_removal_releases() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let stranger = bed.pod("outside/stranger")?;
    let far = at(&bed.pod("mesh/far")?);
    let before = stranger.status().restarts;
    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: mesh}, \
         spec: {mtls: {mode: STRICT}}}",
    )?;
    eventually(&bed, &stranger, &far, Dialled::refused)?;
    for _ in 0..3 {
        bed.apply(&label("outside", "ambient"))?;
        eventually(&bed, &stranger, &far, Dialled::served)?;
        bed.apply(&label("outside", "none"))?;
        eventually(&bed, &stranger, &far, Dialled::refused)?;
    }
    ensure!(bed.pod("outside/stranger")?.status().restarts == before, "the pod was restarted");
    bed.wait("no trace of the pod's capture", Duration::from_secs(3), |bed| {
        let uid = stranger.status().uid.clone();
        let links = std::fs::read_dir(format!("/sys/fs/bpf/mesh-{}/node-1/{ABI}/link", bed.name()));
        links.is_ok_and(|mut all| {
            !all.any(|link| link.is_ok_and(|link| link.file_name().to_string_lossy().contains(&uid)))
        })
    })?;
    Ok(())
}

#[test]
fn a_pod_label_beats_its_namespace_and_the_alias_works() -> Result<()> {
    let opted_out =
        manifests().replace("labels: {app: near", "labels: {istio.io/dataplane-mode: none, app: near");
    let bed = start(Bed::builder().nodes(2).manifests(opted_out))?;
    ensure!(capture_of(&bed, "node-1", "mesh/near") == "absent", "a pod that opted out is captured");
    ensure!(capture_of(&bed, "node-1", "mesh/client") == "captured");
    bed.apply(
        "{apiVersion: v1, kind: Namespace, metadata: {name: outside, labels: {istio-injection: enabled}}}",
    )?;
    bed.wait("capture by the alias", Duration::from_secs(3), |bed| {
        capture_of(bed, "node-1", "outside/stranger") == "captured"
    })?;
    Ok(())
}

/// As documented: connections that are older than enrolment are reset in both directions, and new ones are captured.
#[test]
fn older_connections_are_reset_on_enrolment() -> Result<()> {
    let plain = manifests().replace("istio.io/dataplane-mode: ambient", "istio.io/dataplane-mode: none");
    let bed = Bed::builder().nodes(2).manifests(plain).start()?;
    let (client, far) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?);
    let mut held = client.spawn(&["netprobe", "hold", &at(&far), "--count", "3"])?;
    held.line(Duration::from_secs(5))?;
    bed.apply(&label("mesh", "ambient"))?;
    for _ in 0..3 {
        let line = held.line(Duration::from_secs(5))?;
        // Linux tells the local end of a connection that was ended from outside "aborted", and the other end "reset".
        ensure!(line.ends_with("ConnectionAborted") || line.ends_with("ConnectionReset"), "{line}");
    }
    captured(&bed, Duration::from_secs(5))?;
    let seen = dial(&client, &[&at(&far)])?;
    ensure!(seen.served(), "{seen:?}");
    Ok(())
}

/// Enrolled and released again and again under traffic, no new connection is lost for good.
#[test]
fn new_connections_survive_changes_of_enrolment() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let stranger = bed.pod("outside/stranger")?;
    let far = at(&bed.pod("mesh/far")?);
    let mut slowest = Duration::ZERO;
    for round in 0..6 {
        bed.apply(&label("outside", if round % 2 == 0 { "ambient" } else { "none" }))?;
        let until = Instant::now() + Duration::from_millis(800);
        while Instant::now() < until {
            let began = Instant::now();
            let seen = dial(&stranger, &[&far])?;
            slowest = slowest.max(began.elapsed());
            // A connection in flight at the very moment of enrolment is older than it, and reset.
            let end = seen.error.as_deref().unwrap_or(&seen.end);
            let reset = ["ConnectionReset", "ConnectionAborted"].contains(&end);
            ensure!(seen.served() || reset, "round {round}: {seen:?}");
        }
    }
    ensure!(slowest < Duration::from_millis(2500), "a connection took {slowest:?}");
    Ok(())
}

#[test]
fn bridged_networks_work_the_same() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).network(Network::Bridged).manifests(manifests()))?;
    let client = bed.pod("mesh/client")?;
    for server in ["mesh/near", "mesh/far"] {
        let seen = dial(&client, &[&at(&bed.pod(server)?)])?;
        ensure!(seen.served(), "{server}: {seen:?}");
    }
    let stranger = bed.pod("outside/stranger")?;
    let seen = dial(&stranger, &[&at(&bed.pod("mesh/near")?)])?;
    ensure!(seen.served(), "from outside: {seen:?}");
    bed.wait("each identity in the log", Duration::from_secs(3), |bed| {
        let log = bed.node("node-2").and_then(|node| node.log()).unwrap_or_default();
        log.contains("spiffe://cluster.local/ns/mesh/sa/client")
    })
    .context("node-2")?;
    Ok(())
}
