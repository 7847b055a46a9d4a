//! The control plane goes away and comes back, in each of the ways in which it can: what it told stays in force, and
//! what has changed meanwhile is told in differences.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bed::{Bed, PodHandle},
    scenario::{Dialled, at, dial, eventually, manifests, pod, start},
};

use crate::scrape::counted;

/// How the control plane is away.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// Dead.
    Killed,
    /// Stopped where it stands.
    Frozen,
    /// Alive and out of reach of node-2.
    Partitioned,
}

impl Outage {
    /// One of them lasts minutes: longer than any patience there is on the way.
    const fn length(self) -> Duration {
        match self {
            Self::Killed | Self::Frozen => Duration::from_secs(10),
            Self::Partitioned => Duration::from_secs(125),
        }
    }

    fn begin(self, bed: &Bed) -> Result<()> {
        let control = bed.control()?;
        match self {
            Self::Killed => control.kill9()?,
            Self::Frozen => control.freeze()?,
            Self::Partitioned => wall(bed, "-A")?,
        }
        Ok(())
    }

    fn end(self, bed: &Bed) -> Result<()> {
        let control = bed.control()?;
        match self {
            Self::Killed => control.start()?,
            Self::Frozen => control.thaw()?,
            Self::Partitioned => wall(bed, "-D")?,
        }
        Ok(())
    }
}

/// Drops, or lets pass again, what node-2 and the control plane have to say to each other.
fn wall(bed: &Bed, verb: &str) -> Result<()> {
    let node = bed.node("node-2")?;
    for (chain, port) in [("INPUT", "--sport"), ("OUTPUT", "--dport")] {
        let words = ["iptables", verb, chain, "-p", "tcp", port, "15012", "-j", "DROP"];
        let output = node.exec(&words)?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A policy that says the same every time but for its number; it comes after the connection is allowed anyway.
pub(crate) fn churn(number: u32) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: churn, namespace: mesh}}, \
         spec: {{action: DENY, rules: [{{to: [{{operation: {{ports: [\"{}\"]}}}}]}}]}}}}",
        20_000 + number
    )
}

/// Between two edits.
const CHURN: Duration = Duration::from_millis(500);
/// Bytes of one edit to one node, at most: a policy and a rule.
const CHANGE: i64 = 800;

/// Rules of layer 7 change as well.
fn rules(number: u32) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: churn, namespace: mesh}}, \
         spec: {{hosts: [nobody], http: [{{route: [{{destination: {{host: nobody}}}}], timeout: {number}s}}]}}}}"
    )
}

/// The number of the policy that a node has in force.
pub(crate) fn churned(bed: &Bed, node: &str) -> Result<Option<u32>> {
    let dump = bed.node(node)?.admin("/config_dump")?;
    let dump: serde_json::Value = serde_json::from_str(&dump)?;
    let policies = dump["policies"].as_array().context("policies")?;
    let Some(one) = policies.iter().find(|one| one["name"] == "churn") else { return Ok(None) };
    let text = one.to_string();
    let at = text.match_indices('2').find_map(|(at, _)| text.get(at..at + 5)?.parse::<u32>().ok());
    Ok(at.filter(|number| *number >= 20_000).map(|number| number - 20_000))
}

/// Connects until told to stop; how often it worked, and how it failed.
pub(crate) fn traffic(from: &PodHandle, to: &str, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut served, mut failures) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        match dial(from, &[to]) {
            Ok(seen) if seen.served() => served += 1,
            other => failures.push(format!("{other:?}")),
        }
    }
    (served, failures)
}

/// A metric of the control plane.
fn metric(bed: &Bed, name: &str) -> Result<u64> {
    let text = bed.control()?.debug("/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name}"))?.parse()?)
}

/// Ten seconds without the control plane, with traffic and edits all along: no connection fails; both nodes have the
/// newest policy within two seconds of its return, by differences; and none has ever had an older one after a newer.
fn away(outage: Outage) -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, near, to) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, at(&bed.pod("mesh/far")?));
    bed.apply(&churn(1))?;
    let has = |node: &'static str, least: u32| {
        churned(&bed, node).is_ok_and(|one| one.is_some_and(|one| one >= least))
    };
    bed.wait("the first policy", Duration::from_secs(5), |_| has("node-1", 1) && has("node-2", 1))?;
    let whole = metric(&bed, SENT)?;
    let stop = AtomicBool::new(false);
    let (runs, took, sent) = thread::scope(|scope| -> Result<_> {
        let runs = [&client, &near].map(|from| scope.spawn(|| traffic(from, &to, &stop)));
        let watch = scope.spawn(|| watch(&bed, &stop));
        let outcome = outlast(&bed, outage);
        stop.store(true, Ordering::Relaxed);
        let runs = runs.map(|run| run.join().expect("traffic does not panic"));
        watch.join().expect("watching does not panic")?;
        let (took, sent) = outcome?;
        Ok((runs, took, sent))
    })?;
    for (served, failures) in runs {
        ensure!(
            failures.is_empty(),
            "{outage:?}: {} of {served} failed: {:?}",
            failures.len(),
            failures.first()
        );
        ensure!(served > 50, "{outage:?}: only {served} connections");
    }
    ensure!(took < Duration::from_secs(2), "{outage:?}: in step {took:?} after the return");
    // One policy and what moves by itself (readiness, statuses), not the mesh; and to a node that is not cut off every
    // change as it comes.
    let changes = outage.length().as_millis() / CHURN.as_millis();
    let heard = if matches!(outage, Outage::Partitioned) { i64::try_from(changes)? * CHANGE } else { 0 };
    let most = i64::try_from(whole)? / 2 + heard;
    ensure!(i64::try_from(sent)? < most, "{outage:?}: {sent} bytes since it went, {whole} for everything");

    // And it is obeyed.
    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: stop, namespace: mesh}, \
         spec: {action: DENY, rules: [{to: [{operation: {ports: [\"7000\"]}}]}]}}",
    )?;
    eventually(&bed, &client, &to, Dialled::refused)?;
    Ok(())
}

/// Edits while the control plane is away; how long both nodes take after its return, and the bytes that this cost.
fn outlast(bed: &Bed, outage: Outage) -> Result<(Duration, u64)> {
    // A new process counts from nothing.
    let before = if matches!(outage, Outage::Killed) { 0 } else { metric(bed, SENT)? };
    outage.begin(bed)?;
    let end = Instant::now() + outage.length();
    let mut number = 1;
    while Instant::now() < end {
        number += 1;
        bed.apply(&churn(number))?;
        bed.apply(&rules(number))?;
        thread::sleep(CHURN);
    }
    let has = churned(bed, "node-2")?;
    ensure!(has == Some(1), "{outage:?}: node-2 has heard of {has:?} meanwhile");
    let back = Instant::now();
    outage.end(bed)?;
    let all = |bed: &Bed| {
        ["node-1", "node-2"].iter().all(|node| churned(bed, node).is_ok_and(|has| has == Some(number)))
    };
    bed.wait("the newest policy on both nodes", Duration::from_secs(15), all)?;
    let took = back.elapsed();
    Ok((took, metric(bed, SENT)? - before))
}

/// Until told to stop: what each node has in force never falls back.
fn watch(bed: &Bed, stop: &AtomicBool) -> Result<()> {
    let mut last = [0; 2];
    while !stop.load(Ordering::Relaxed) {
        for (last, node) in last.iter_mut().zip(["node-1", "node-2"]) {
            let now = churned(bed, node)?.unwrap_or(0);
            ensure!(now >= *last, "{node} had the policy {last} and then {now}");
            *last = now;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn nobody_misses_a_killed_control_plane() -> Result<()> {
    away(Outage::Killed)
}

#[test]
fn nobody_misses_a_frozen_control_plane() -> Result<()> {
    away(Outage::Frozen)
}

#[test]
fn nobody_misses_a_control_plane_out_of_reach() -> Result<()> {
    away(Outage::Partitioned)
}

/// A node that starts while there is no control plane goes by what it was told last: its pods are captured, policies
/// hold, and its tunnels have certificates.
#[test]
fn a_node_starts_without_a_control_plane() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, near, to) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, at(&bed.pod("mesh/far")?));
    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: only, namespace: mesh}, \
         spec: {selector: {matchLabels: {app: far}}, \
         rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]}]}}",
    )?;
    eventually(&bed, &near, &to, Dialled::refused)?;
    eventually(&bed, &client, &to, Dialled::served)?;
    bed.control()?.kill9()?;
    for name in ["node-1", "node-2"] {
        let node = bed.node(name)?;
        node.kill9()?;
        node.start()?;
        let begun = Instant::now();
        eventually(&bed, &client, &to, Dialled::served).with_context(|| {
            format!("{name} has restarted without a control plane:\n{}", node.log().unwrap_or_default())
        })?;
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(3), "{name} serves {took:?} after its start");
        ensure!(dial(&near, &[&to])?.refused(), "{name}: the policy holds");
        ensure!(!bed.control()?.is_ready(), "there is no control plane");
        let failed = [("reason", "ConnectionError")];
        counted(&node, "istio_xds_connection_terminations_total", &failed, |count| count > 0)?;
    }
    bed.control()?.start()?;
    bed.delete("AuthorizationPolicy", "mesh", "only")?;
    eventually(&bed, &near, &to, Dialled::served).context("a change after the return")?;
    Ok(())
}

/// Serial numbers of the certificates that a node has, by identity, with their ends.
fn certificates(bed: &Bed, node: &str) -> Result<Vec<(String, String)>> {
    let dump: serde_json::Value = serde_json::from_str(&bed.node(node)?.admin("/config_dump")?)?;
    let all = dump["certificates"].as_array().context("certificates")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|one| (text(&one["identity"]), text(&one["certChain"][0]["serialNumber"]))).collect())
}

/// Certificates that have ended while the control plane was away are there again soon after its return, and with them
/// every connection.
#[test]
fn certificates_that_have_ended_are_renewed() -> Result<()> {
    let short = Bed::builder().nodes(2).control_arg("--max-svid-lifetime").control_arg("8s");
    let bed = start(short.mesh_arg("--svid-lifetime").mesh_arg("8s").manifests(manifests()))?;
    let (client, to) = (bed.pod("mesh/client")?, at(&bed.pod("mesh/far")?));
    ensure!(dial(&client, &[&to])?.served(), "before");
    bed.control()?.kill9()?;
    let before = [certificates(&bed, "node-1")?, certificates(&bed, "node-2")?];
    thread::sleep(Duration::from_secs(10));
    let ended = dial(&client, &[&to, "--timeout", "1500"])?;
    ensure!(!ended.served(), "with certificates that have ended: {ended:?}");
    let back = Instant::now();
    bed.control()?.start()?;
    bed.wait("a connection", Duration::from_secs(15), |_| {
        dial(&client, &[&to]).is_ok_and(|seen| seen.served())
    })?;
    let took = back.elapsed();
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    for (node, before) in ["node-1", "node-2"].into_iter().zip(before) {
        let fresh = || certificates(&bed, node).is_ok_and(|now| now.iter().all(|one| !before.contains(one)));
        bed.wait("new certificates", Duration::from_secs(10).saturating_sub(back.elapsed()), |_| fresh())?;
    }
    Ok(())
}

/// What a node keeps on disk holds no key, and nobody but root may change it.
#[test]
fn what_a_node_keeps_on_disk_is_no_secret() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let bed =
        start(Bed::builder().nodes(1).manifests(pod("mesh", "client", "node-1", &["sleep", "infinity"])))?;
    let state = bed.layout().state.join("nodes/node-1");
    let mut kept = 0;
    for entry in fs::read_dir(&state)? {
        let entry = entry?;
        let (path, metadata) = (entry.path(), entry.metadata()?);
        let text = fs::read(&path).unwrap_or_default();
        let key = text.windows(11).any(|part| part == b"PRIVATE KEY");
        ensure!(!key, "a private key in {}", path.display());
        ensure!(metadata.permissions().mode() & 0o022 == 0, "{} may be written by others", path.display());
        kept += 1;
    }
    ensure!(kept >= 2, "the token and the journal: {kept}");
    Ok(())
}

/// Bytes of resources that the control plane has sent since it started.
const SENT: &str = "mesh_control_sent_bytes_total";
