//! Active health checks made by a node for its pods.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::bed::{Bed, PodHandle, Process};
use mesh_tests::scenario::{Dialled, dial, eventually, logged, manifests, start};

use super::entries::{entry, outside};
use crate::scrape::counted;

fn serve(bed: &Bed, node: &str, port: &str) -> Result<Process> {
    Ok(bed.node(node)?.spawn(&["netprobe", "serve", "--port", port])?)
}

/// Of the endpoints of a ServiceEntry those are used at which another port, that is checked, is open.
#[test]
fn endpoints_that_fail_their_health_check_are_left_out() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let client = bed.pod("mesh/client")?;
    let (one, two) = (outside(&bed, "node-1")?, outside(&bed, "node-2")?);
    let _servers = (serve(&bed, "node-1", "7100")?, serve(&bed, "node-2", "7100")?);
    let (first, second) = (serve(&bed, "node-1", "7101")?, serve(&bed, "node-2", "7101")?);
    bed.apply(&entry(
        "checked",
        &format!(
            "hosts: [checked.example], addresses: [192.0.2.60], resolution: STATIC, \
             ports: [{{name: tcp, number: 80, protocol: TCP, targetPort: 7100}}], \
             endpoints: [{{address: {one}}}, {{address: {two}}}]"
        ),
    ))?;
    bed.apply(
        "{apiVersion: policy.mesh.internal/v1alpha1, kind: HealthCheck, metadata: {name: checked, namespace: mesh}, \
         spec: {targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: checked}], tcp: {}, port: 7101, \
         interval: 200ms, unhealthyThreshold: 2}}",
    )?;
    let to = "192.0.2.60:80";
    eventually(&bed, &client, to, Dialled::served)?;
    reaches(&bed, &client, &[&one, &two])?;
    drop(second);
    reaches(&bed, &client, &[&one])?;
    let node = bed.node("node-1")?;
    counted(&node, "mesh_health_checks_total", &[("result", "failed")], |count| count >= 2)?;
    counted(&node, "mesh_unhealthy_endpoints", &[], |count| count >= 1)?;
    let dump: serde_json::Value = serde_json::from_str(&node.admin("/config_dump")?)?;
    let of = |ip: &str| {
        let all = dump["healthChecks"].as_array().into_iter().flatten();
        let own = all.filter(|it| it["endpoint"] == format!("{ip}:7100"));
        own.map(|it| it["standing"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    ensure!(of(&two).contains(&"unhealthy".to_owned()), "{}", dump["healthChecks"]);
    ensure!(of(&one) == ["healthy"], "{}", dump["healthChecks"]);
    drop(first);
    eventually(&bed, &client, to, Dialled::refused)?;
    logged(&bed, "node-1", &["dst.service=\"checked.example\"", "no endpoint that may be used"])?;
    let second = serve(&bed, "node-2", "7101")?;
    reaches(&bed, &client, &[&two])?;
    let first = serve(&bed, "node-1", "7101")?;
    reaches(&bed, &client, &[&one, &two])?;
    // By nobody's wish nobody is asked, and all are used.
    drop((first, second));
    eventually(&bed, &client, to, Dialled::refused)?;
    bed.delete("HealthCheck", "mesh", "checked")?;
    eventually(&bed, &client, to, Dialled::served)?;
    Ok(())
}

/// Waits until just these are reached, each of them.
fn reaches(bed: &Bed, client: &PodHandle, wanted: &[&str]) -> Result<()> {
    bed.wait("those who are well", Duration::from_secs(15), |_| {
        let mut found: Vec<_> = (0..10)
            .map(|_| {
                let seen = dial(client, &["192.0.2.60:80"]).ok().filter(Dialled::served);
                let local = seen.map(|seen| seen.seen("local").to_owned()).unwrap_or_default();
                wanted.iter().position(|ip| local.starts_with(ip))
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found.len() == wanted.len() && found.iter().all(Option::is_some)
    })?;
    Ok(())
}
