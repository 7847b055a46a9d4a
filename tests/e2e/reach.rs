//! A node is told what its pods can see; what they ask for by address is told besides.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bed::Bed,
    scenario::{at, dial, manifests, start},
};

/// How many workloads and services node-1 knows.
fn known(bed: &Bed) -> Result<(usize, usize)> {
    let dump: serde_json::Value = serde_json::from_str(&bed.node("node-1")?.admin("/config_dump")?)?;
    let count = |key: &str| dump[key].as_array().map_or(0, Vec::len);
    Ok((count("workloads"), count("services")))
}

/// A Sidecar that sees nothing of the mesh but one service: its node forgets the rest within a second, and learns of a
/// pod again when one of its own connects to it.
#[test]
fn a_node_learns_what_its_pods_can_see_and_ask_for() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, far) = (bed.pod("mesh/client")?, at(&bed.pod("mesh/far")?));
    let before = known(&bed)?;
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default, namespace: mesh}, \
          spec: {egress: [{hosts: ['./near.mesh.svc.cluster.local']}]}}\n---\n\
         {apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default, namespace: outside}, \
          spec: {egress: [{hosts: ['~/*']}]}}",
    )?;
    let fewer =
        |bed: &Bed| known(bed).is_ok_and(|(workloads, services)| workloads < before.0 && services == 1);
    bed.wait("the node to forget", Duration::from_secs(5), fewer)
        .with_context(|| format!("before: {before:?}, now: {:?}", known(&bed)))?;
    let dialled = dial(&client, &[&far])?;
    ensure!(dialled.served(), "by its address a pod is reached all the same: {dialled:?}");
    ensure!(known(&bed)?.0 > 0, "it was told of it");
    bed.delete("Sidecar", "mesh", "default")?;
    bed.delete("Sidecar", "outside", "default")?;
    bed.wait("everything to come back", Duration::from_secs(5), |bed| {
        known(bed).is_ok_and(|now| now == before)
    })
    .with_context(|| format!("before: {before:?}, now: {:?}", known(&bed)))?;
    Ok(())
}
