//! What holds while things are broken: a node that is gone leaves no way around it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_common::ABI;
use mesh_tests::{
    bed::{Bed, Inbound},
    scenario::{Dialled, at, dial, eventually, manifests, start},
};

use crate::express::disabled;

const MARKER: &str = "plaintext-marker-4711";

/// Nothing that an enrolled pod sends or gets is readable on the wire, not before, not while, not after its node's
/// process is dead; the same bytes of a pod outside the mesh are, so the capture can see.
fn fails_closed(inbound: Inbound) -> Result<()> {
    let bed = start(Bed::builder().nodes(2).inbound(inbound).manifests(manifests()))?;
    let (client, stranger, far) =
        (bed.pod("mesh/client")?, bed.pod("outside/stranger")?, bed.pod("mesh/far")?);
    let to = at(&far);
    let say = ["--marker", MARKER, "--timeout", "1500"];
    let with = |to: &'_ str| [vec![to.to_owned()], say.iter().map(ToString::to_string).collect()].concat();
    let words = with(&to);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();

    let wire = bed.capture("wire")?;
    ensure!(dial(&client, &words)?.served(), "before the kill");
    bed.node("node-1")?.kill9()?;
    let out = dial(&client, &words)?;
    ensure!(out.error.as_deref() == Some("ConnectionRefused"), "outbound with a dead node: {out:?}");
    bed.node("node-2")?.kill9()?;
    let packets = wire.stop();
    ensure!(!packets.is_empty(), "the capture saw nothing at all");
    ensure!(!contains(&packets, MARKER), "plaintext of an enrolled pod on the wire");

    let wire = bed.capture("wire")?;
    let inside = dial(&stranger, &words)?;
    ensure!(inside.refused(), "inbound with a dead node: {inside:?}");
    ensure!(!contains(&wire.stop(), MARKER), "a dead node's pod took plaintext");

    let back = Instant::now();
    bed.node("node-1")?.start()?;
    bed.node("node-2")?.start()?;
    eventually(&bed, &client, &to, Dialled::served)?;
    let took = back.elapsed();
    ensure!(took < Duration::from_secs(2), "works again {took:?} after its return");

    let wire = bed.capture("wire")?;
    ensure!(dial(&stranger, &words)?.served(), "from outside, PERMISSIVE");
    ensure!(contains(&wire.stop(), MARKER), "the control experiment: this capture cannot see plaintext");
    Ok(())
}

fn contains(packets: &[Vec<u8>], marker: &str) -> bool {
    packets.iter().any(|packet| packet.windows(marker.len()).any(|window| window == marker.as_bytes()))
}

#[test]
fn a_killed_node_fails_closed_by_sk_lookup() -> Result<()> {
    fails_closed(Inbound::SkLookup)
}

#[test]
fn a_killed_node_fails_closed_by_tc() -> Result<()> {
    fails_closed(Inbound::Tc)
}

/// A new process takes over what is pinned: pods are adopted, no older connection of theirs is reset, hooks are never
/// absent in between.
#[test]
fn a_restarted_node_adopts_its_pods() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let (client, near) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?);
    let links = || -> Result<Vec<String>> {
        let all = std::fs::read_dir(format!("/sys/fs/bpf/mesh-{}/node-1/{ABI}/link", bed.name()))?;
        let mut names = all
            .map(|link| Ok(link?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let before = links()?;
    for _ in 0..3 {
        bed.node("node-1")?.kill9()?;
        ensure!(links()? == before, "links went with the process");
        bed.node("node-1")?.start()?;
        eventually(&bed, &client, &at(&near), Dialled::served)?;
        ensure!(links()? == before, "links after the restart: {:?}, before: {before:?}", links()?);
    }
    // The first pod may serve again while the other is still being taken over.
    let adopted = |bed: &Bed| {
        let log = bed.node("node-1").and_then(|node| node.log()).unwrap_or_default();
        log.matches("adopted=true").count()
    };
    let all = bed.wait("two pods, three restarts", Duration::from_secs(5), |bed| adopted(bed) >= 6);
    all.with_context(|| format!("adopted {} times", adopted(&bed)))
}

/// A pod that was released while its node was away is let go of on the node's return.
#[test]
fn enrolment_that_changed_meanwhile_is_followed() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    bed.node("node-1")?.kill9()?;
    bed.apply(
        "{apiVersion: v1, kind: Namespace, metadata: {name: mesh, labels: {istio.io/dataplane-mode: none}}}",
    )?;
    let client = bed.pod("mesh/client")?;
    let near = at(&bed.pod("mesh/near")?);
    ensure!(dial(&client, &[&near])?.refused(), "nobody may release a pod but its node");
    bed.node("node-1")?.start()?;
    eventually(&bed, &client, &near, Dialled::served)?;
    Ok(())
}

/// One hook taken away by hand does not open a way around the node: the guard stops what the hook let through.
#[test]
fn the_guard_stops_what_goes_around() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, stranger, near) =
        (bed.pod("mesh/client")?, bed.pod("outside/stranger")?, bed.pod("mesh/near")?);
    let pins = format!("/sys/fs/bpf/mesh-{}/node-1/{ABI}/link", bed.name());
    let uid = near.status().uid.clone();
    for link in std::fs::read_dir(&pins)? {
        let link = link?;
        let name = link.file_name().to_string_lossy().into_owned();
        if name.starts_with("lookup_") && name.ends_with(&uid) {
            std::fs::remove_file(link.path())?;
        }
    }
    // The kernel takes a link off its hook when it comes to it; until then the mesh is still in the way.
    eventually(&bed, &stranger, &at(&near), Dialled::refused).context("without sk_lookup")?;
    std::fs::remove_file(format!("{pins}/connect4"))?;
    let elsewhere = at(&bed.pod("mesh/far")?);
    eventually(&bed, &client, &elsewhere, Dialled::refused).context("without connect4")?;
    let metrics = bed.node("node-1")?.metrics()?;
    ensure!(metrics.contains("dropped_egress"), "the guard's drops should be in the metrics:\n{metrics}");
    Ok(())
}

/// `mesh-node cleanup` leaves nothing in the kernel, and pods talk as if there had never been a mesh.
#[test]
fn cleanup_removes_everything() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, near) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?);
    let root = format!("/sys/fs/bpf/mesh-{}", bed.name());
    for name in ["node-1", "node-2"] {
        let node = bed.node(name)?;
        node.stop(Duration::from_secs(5))?;
        ensure!(std::path::Path::new(&root).join(name).exists(), "a stopped node keeps its pods captured");
        let output = node.exec(&["mesh-node", "cleanup", "--node", name, "--pin-root", &root])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success() && said.contains("removed"), "{said}");
        ensure!(!std::path::Path::new(&root).join(name).exists(), "pins are left");
    }
    let seen = dial(&client, &[&at(&near)])?;
    ensure!(seen.served(), "{seen:?}");
    Ok(())
}
