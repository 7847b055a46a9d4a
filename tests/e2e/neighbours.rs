//! Those the mesh shares a node with: probes, host processes, pods outside, a CNI's own programs and rules.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{
    bed::{Bed, Inbound, PodHandle},
    foreign::{Foreign, Place, Way},
    scenario::{Dialled, at, captured, dial, eventually, manifests, pod, start},
};

const STRICT: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                      metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}";

fn on_node(bed: &Bed, node: &str, words: &[&str]) -> Result<String> {
    let output = bed.node(node)?.exec(words)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn others_on_the_node_are_left_alone() -> Result<()> {
    let outside = pod("outside", "elsewhere", "node-1", &["netprobe", "serve", "--port", "7000"]);
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + &outside))?;
    let (stranger, elsewhere) = (bed.pod("outside/stranger")?, bed.pod("outside/elsewhere")?);
    let seen = dial(&stranger, &[&at(&elsewhere)])?;
    ensure!(seen.served(), "pod to pod outside the mesh: {seen:?}");
    let service = format!("{}:80", bed.status().service_ip("mesh/near")?);
    for to in [at(&bed.pod("mesh/near")?), at(&elsewhere), service] {
        let said = on_node(&bed, "node-1", &["netprobe", "dial", &to])?;
        ensure!(said.contains("accepted="), "a host process to {to}: {said}");
    }
    Ok(())
}

/// Probes of the node reach declared probe ports under STRICT; nothing else of the node does, and traffic that was
/// translated to the node's address is not taken for a probe.
fn probes(inbound: Inbound) -> Result<()> {
    let bed = start(Bed::builder().nodes(2).inbound(inbound).manifests(manifests()))?;
    let (stranger, near) = (bed.pod("outside/stranger")?, bed.pod("mesh/near")?);
    bed.apply(STRICT)?;
    eventually(&bed, &stranger, &at(&near), Dialled::refused)?;
    let said = on_node(&bed, "node-1", &["netprobe", "dial", &at(&near)])?;
    ensure!(said.contains("accepted="), "a node process to the probe port: {said}");

    let mut other = near.spawn(&["netprobe", "serve", "--port", "7001"])?;
    let unprobed = format!("{}:7001", near.ip());
    bed.wait("a server on another port", Duration::from_secs(3), |_| {
        dial(&near, &[&unprobed]).is_ok_and(|seen| seen.served())
    })?;
    let said = on_node(&bed, "node-1", &["netprobe", "dial", &unprobed])?;
    ensure!(!said.contains("accepted="), "a node process to a port without probe under STRICT: {said}");
    other.kill();

    let rule = [
        "iptables",
        "-w",
        "-t",
        "nat",
        "-I",
        "POSTROUTING",
        "-s",
        &stranger.ip().to_string(),
        "-j",
        "MASQUERADE",
    ];
    on_node(&bed, "node-1", &rule)?;
    let seen = dial(&stranger, &[&at(&near), "--timeout", "1500"])?;
    ensure!(seen.refused(), "translated to the node's address: {seen:?}");

    std::thread::sleep(Duration::from_millis(2500));
    ensure!(bed.status().unready().is_empty(), "probes should go on: {:?}", bed.status().unready());
    let metrics = bed.node("node-1")?.metrics()?;
    let passed =
        metrics.lines().find(|line| line.starts_with("mesh_ebpf_events_total{event=\"probes_passed\"}"));
    let count: u64 = passed.and_then(|line| line.rsplit(' ').next()?.parse().ok()).context("the counter")?;
    ensure!(count >= 3, "probes passed: {count}");
    Ok(())
}

#[test]
fn probes_pass_under_strict_by_sk_lookup() -> Result<()> {
    probes(Inbound::SkLookup)
}

#[test]
fn probes_pass_under_strict_by_tc() -> Result<()> {
    probes(Inbound::Tc)
}

fn v4(text: &str) -> Result<SocketAddrV4> {
    text.parse().with_context(|| format!("{text:?} is no address"))
}

/// Our connect hook runs before a load balancer's at the root of the cgroup tree, whichever was attached first: an
/// enrolled pod reaches what it asked for through the mesh, a pod outside is sent elsewhere by the other.
#[test]
fn a_foreign_connect_hook_at_the_root() -> Result<()> {
    let outside = pod("outside", "elsewhere", "node-1", &["netprobe", "serve", "--port", "7000"]);
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + &outside))?;
    let (client, stranger) = (bed.pod("mesh/client")?, bed.pod("outside/stranger")?);
    let (far, elsewhere) = (at(&bed.pod("mesh/far")?), at(&bed.pod("outside/elsewhere")?));
    let service = format!("{}:80", bed.status().service_ip("mesh/far")?);
    let root = bed.layout().cgroup.clone();
    let check = |when: &str| -> Result<()> {
        let seen = dial(&client, &[&service])?;
        ensure!(seen.served() && seen.seen("local") == far, "{when}, enrolled: {seen:?}");
        let seen = dial(&stranger, &[&service])?;
        ensure!(seen.seen("local") == elsewhere, "{when}, outside (is the foreign program there?): {seen:?}");
        Ok(())
    };
    let foreign = Foreign::rewrite_connects(&root, v4(&service)?, v4(&elsewhere)?)?;
    check("attached after ours")?;
    drop(foreign);

    let node = bed.node("node-1")?;
    let pins = bed.layout().pins.display().to_string();
    node.kill9()?;
    on_node(&bed, "node-1", &["mesh-node", "cleanup", "--node", "node-1", "--pin-root", &pins])?;
    let _foreign = Foreign::rewrite_connects(&root, v4(&service)?, v4(&elsewhere)?)?;
    node.start()?;
    node.wait_ready(Duration::from_secs(5))?;
    captured(&bed, Duration::from_secs(5))?;
    check("attached before ours")
}

fn passing(pod: &PodHandle, place: Place) -> Result<[Foreign; 2]> {
    let [inwards, outwards] =
        [Way::In, Way::Out].map(|way| Foreign::pass_packets(pod.netns_path(), "eth0", way, place));
    Ok([inwards?, outwards?])
}

/// A foreign TCX program that lets everything pass, before or after ours, changes nothing where `sk_lookup` steers.
#[test]
fn foreign_tcx_programs_beside_sk_lookup() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, stranger, far) =
        (bed.pod("mesh/client")?, bed.pod("outside/stranger")?, bed.pod("mesh/far")?);
    bed.apply(STRICT)?;
    eventually(&bed, &stranger, &at(&far), Dialled::refused)?;
    for place in [Place::First, Place::Last] {
        let _foreign = (passing(&client, place)?, passing(&far, place)?);
        let seen = dial(&client, &[&at(&far)])?;
        ensure!(seen.served(), "{place:?}: {seen:?}");
        let seen = dial(&stranger, &[&at(&far)])?;
        ensure!(seen.refused(), "{place:?}, STRICT: {seen:?}");
    }
    Ok(())
}

/// Where TC steers, a foreign program after ours changes nothing, and one that ends the chain before ours ends in
/// refusal, not in plaintext: the guard on the way out still judges.
#[test]
fn foreign_tcx_programs_beside_tc() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).inbound(Inbound::Tc).manifests(manifests()))?;
    let (client, stranger, far) =
        (bed.pod("mesh/client")?, bed.pod("outside/stranger")?, bed.pod("mesh/far")?);
    bed.apply(STRICT)?;
    eventually(&bed, &stranger, &at(&far), Dialled::refused)?;
    let after = (passing(&client, Place::Last)?, passing(&far, Place::Last)?);
    let seen = dial(&client, &[&at(&far)])?;
    ensure!(seen.served(), "after ours: {seen:?}");
    drop(after);
    let _before = Foreign::pass_packets(far.netns_path(), "eth0", Way::In, Place::First)?;
    let seen = dial(&stranger, &[&at(&far), "--timeout", "1500"])?;
    ensure!(seen.refused(), "before ours, STRICT: {seen:?}");
    Ok(())
}

/// The guard and the second way to steer on kernels without TCX.
#[test]
fn clsact_instead_of_tcx() -> Result<()> {
    for inbound in [Inbound::SkLookup, Inbound::Tc] {
        let builder = Bed::builder().nodes(2).inbound(inbound).mesh_arg("--tc").mesh_arg("clsact");
        let bed = start(builder.manifests(manifests()))?;
        let (client, stranger, far) =
            (bed.pod("mesh/client")?, bed.pod("outside/stranger")?, bed.pod("mesh/far")?);
        let seen = dial(&client, &[&at(&far)])?;
        ensure!(seen.served(), "{inbound:?}: {seen:?}");
        let seen = dial(&stranger, &[&at(&far)])?;
        ensure!(seen.served(), "{inbound:?}, from outside: {seen:?}");
        let node = bed.node("node-2")?;
        node.kill9()?;
        let seen = dial(&stranger, &[&at(&far), "--timeout", "1500"])?;
        ensure!(seen.refused(), "{inbound:?}, with a dead node: {seen:?}");
        node.start()?;
        eventually(&bed, &stranger, &at(&far), Dialled::served)?;
        let shown = far.run_in_netns(|| std::fs::read_to_string("/proc/net/dev"))??;
        if !shown.contains("eth0") {
            bail!("the pod has lost its interface: {shown}");
        }
    }
    Ok(())
}
