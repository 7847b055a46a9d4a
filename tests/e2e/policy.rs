//! Who may connect to whom, and how soon a change of it holds.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::{
    bed::Bed,
    scenario::{Dialled, at, dial, eventually, logged, manifests, start},
};

use crate::express::disabled;

fn two_nodes() -> Result<Bed> {
    start(Bed::builder().nodes(2).manifests(manifests()))
}

fn strict(namespace: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
         metadata: {{name: default, namespace: {namespace}}}, spec: {{mtls: {{mode: STRICT}}}}}}"
    )
}

fn authorization(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
         metadata: {{name: {name}, namespace: mesh}}, spec: {spec}}}"
    )
}

#[test]
fn permissive_admits_the_outside_and_strict_refuses_it() -> Result<()> {
    let bed = two_nodes()?;
    let (client, stranger) = (bed.pod("mesh/client")?, bed.pod("outside/stranger")?);
    let servers = [at(&bed.pod("mesh/near")?), at(&bed.pod("mesh/far")?)];
    for server in &servers {
        let seen = dial(&stranger, &[server])?;
        ensure!(seen.served(), "PERMISSIVE: {seen:?}");
        let ip = stranger.ip().to_string();
        ensure!(seen.seen("peer").starts_with(&ip), "the server should see the stranger's address: {seen:?}");
    }
    bed.apply(&strict("istio-system"))?;
    for server in &servers {
        eventually(&bed, &stranger, server, Dialled::refused)?;
        let seen = dial(&client, &[server])?;
        ensure!(seen.served(), "the mesh itself under STRICT: {seen:?}");
    }
    logged(&bed, "node-2", &["STRICT", "istio-system/default", "policy"])?;
    Ok(())
}

#[test]
fn allow_admits_whom_it_names_and_deny_comes_first() -> Result<()> {
    let bed = two_nodes()?;
    let (client, near) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?);
    let far = at(&bed.pod("mesh/far")?);
    bed.apply(&authorization(
        "only-client",
        "{selector: {matchLabels: {app: far}}, \
         rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}], to: [{operation: {ports: [\"7000\"]}}]}]}",
    ))?;
    eventually(&bed, &near, &far, Dialled::refused)?;
    let seen = dial(&client, &[&far])?;
    ensure!(seen.served(), "the caller that is named: {seen:?}");

    let network = client.ip();
    bed.apply(&authorization(
        "not-from-there",
        &format!("{{action: DENY, rules: [{{from: [{{source: {{ipBlocks: [\"{network}/32\"]}}}}]}}]}}"),
    ))?;
    eventually(&bed, &client, &far, Dialled::refused)?;
    logged(&bed, "node-2", &["mesh/not-from-there"])?;

    bed.delete("AuthorizationPolicy", "mesh", "not-from-there")?;
    bed.delete("AuthorizationPolicy", "mesh", "only-client")?;
    eventually(&bed, &client, &far, Dialled::served)?;
    eventually(&bed, &near, &far, Dialled::served)?;
    Ok(())
}

#[test]
fn the_same_policies_hold_on_the_same_node() -> Result<()> {
    let bed = two_nodes()?;
    let (client, far) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?);
    let near = at(&bed.pod("mesh/near")?);
    bed.apply(&authorization(
        "only-far",
        "{selector: {matchLabels: {app: near}}, \
         rules: [{from: [{source: {serviceAccounts: [mesh/far]}}]}]}",
    ))?;
    eventually(&bed, &client, &near, Dialled::refused)?;
    let seen = dial(&far, &[&near])?;
    ensure!(seen.served(), "the caller that is named: {seen:?}");
    Ok(())
}

#[test]
fn layer_7_attributes_fail_closed_both_ways() -> Result<()> {
    let bed = two_nodes()?;
    let client = bed.pod("mesh/client")?;
    let far = at(&bed.pod("mesh/far")?);
    bed.apply(&authorization(
        "l7-deny",
        "{action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]}",
    ))?;
    eventually(&bed, &client, &far, Dialled::refused)?;
    bed.delete("AuthorizationPolicy", "mesh", "l7-deny")?;
    eventually(&bed, &client, &far, Dialled::served)?;
    bed.apply(&authorization("l7-allow", "{rules: [{to: [{operation: {methods: [GET]}}]}]}"))?;
    eventually(&bed, &client, &far, Dialled::refused)?;
    Ok(())
}

#[test]
fn a_dry_run_policy_refuses_nobody_and_is_heard() -> Result<()> {
    let bed = two_nodes()?;
    let client = bed.pod("mesh/client")?;
    let far = at(&bed.pod("mesh/far")?);
    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: try, namespace: mesh, \
         annotations: {istio.io/dry-run: \"true\"}}, spec: {action: DENY, rules: [{}]}}",
    )?;
    bed.wait("the dry run in the log", Duration::from_secs(5), |bed| {
        let served = dial(&client, &[&far]).is_ok_and(|seen| seen.served());
        let log = bed.node("node-2").and_then(|node| node.log()).unwrap_or_default();
        served && log.contains("dry-run")
    })?;
    Ok(())
}

/// Connections that policy no longer allows are cut within a second, as a reset; others go on.
#[test]
fn a_change_cuts_live_connections() -> Result<()> {
    // On the express path the kernel ends the client's own socket, and says so.
    a_change_cuts(&two_nodes()?, "ConnectionAborted")
}

/// The same where the node carries connections between its own pods as well.
#[test]
fn a_change_cuts_live_connections_of_the_proxy() -> Result<()> {
    a_change_cuts(&start(disabled(Bed::builder().nodes(2).manifests(manifests())))?, "ConnectionReset")
}

/// The same where connections travel as streams of HTTP/2.
#[test]
fn a_change_cuts_live_connections_over_hbone() -> Result<()> {
    let builder = Bed::builder().nodes(2).manifests(manifests());
    a_change_cuts(&start(builder.mesh_arg("--tunnel-protocol").mesh_arg("hbone"))?, "ConnectionAborted")
}

/// `near` is how connections within a node end.
fn a_change_cuts(bed: &Bed, near: &str) -> Result<()> {
    let (client, far) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?);
    for server in ["mesh/near", "mesh/far"] {
        let server = bed.pod(server)?;
        let app = server.name().rsplit('/').next().unwrap_or_default().to_owned();
        let mut cut = client.spawn(&["netprobe", "hold", &at(&server), "--count", "5"])?;
        let mut kept = far.spawn(&["netprobe", "hold", &at(&server), "--count", "5"])?;
        for held in [&mut cut, &mut kept] {
            ensure!(held.line(Duration::from_secs(5))?.starts_with("holding"), "connections are held");
        }
        let changed = Instant::now();
        bed.apply(&authorization(
            &format!("cut-{app}"),
            &format!(
                "{{action: DENY, selector: {{matchLabels: {{app: {app}}}}}, \
                 rules: [{{from: [{{source: {{principals: [\"*/sa/client\"]}}}}]}}]}}"
            ),
        ))?;
        for _ in 0..5 {
            let line = cut.line(Duration::from_secs(3))?;
            let reset = if app == "near" { near } else { "ConnectionReset" };
            ensure!(line.ends_with(reset), "{app}: {line}");
        }
        let took = changed.elapsed();
        ensure!(took < Duration::from_secs(1), "{app}: cut after {took:?}");
        ensure!(
            kept.line(Duration::from_millis(300)).is_err(),
            "{app}: an allowed connection was cut as well"
        );
    }
    Ok(())
}
