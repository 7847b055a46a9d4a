//! The kernel programs on a real kernel: what an application sees of capture, in every shape a connection can have.

mod maps;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_common::ABI;
use mesh_tests::{
    bed::{Bed, Inbound},
    scenario::{at, at6, dial, manifests, start},
};

fn bed(inbound: Inbound) -> Result<Bed> {
    start(Bed::builder().nodes(2).inbound(inbound).manifests(manifests()))
}

/// Every way to connect is captured, and neither end notices.
fn every_shape(inbound: Inbound) -> Result<()> {
    let bed = bed(inbound)?;
    let client = bed.pod("mesh/client")?;
    for (server, port) in [("mesh/near", 45_678), ("mesh/far", 45_679)] {
        let server = bed.pod(server)?;
        let (v4, v6) = (at(&server), at6(&server));
        let own_port = format!("{}:{port}", client.ip());
        let shapes: [(&str, &[&str]); 8] = [
            ("IPv4", &[&v4]),
            ("IPv6", &[&v6]),
            ("IPv4-mapped", &[&v4, "--mapped"]),
            ("non-blocking", &[&v4, "--nonblocking"]),
            ("non-blocking IPv6", &[&v6, "--nonblocking"]),
            ("fast open", &[&v4, "--fastopen"]),
            ("bound by the application", &[&v4, "--bind", &own_port]),
            ("multipath", &[&v4, "--mptcp"]),
        ];
        for (name, words) in shapes {
            let seen = dial(&client, words)?;
            let who = format!("{name} to {}: {seen:?}", server.name());
            ensure!(seen.served(), "not served: {who}");
            if name != "multipath" {
                // A multipath socket shows its first subflow, which the hook does not see.
                ensure!(seen.peername.as_deref() == words.first().copied(), "peer name: {who}");
            }
            let own = if words.contains(&v6.as_str()) { client.ip6().context("IPv6")? } else { client.ip() };
            let sockname: std::net::SocketAddr = seen.sockname.as_deref().context("a name")?.parse()?;
            ensure!(sockname.ip() == own, "own name: {who}");
            ensure!(seen.seen("peer") == sockname.to_string(), "the server's view: {who}");
            ensure!(seen.seen("accepted") == sockname.to_string(), "accept's view: {who}");
            ensure!(seen.seen("local") == words[0], "the server's own name: {who}");
        }
    }
    // Lines are written by a thread of their own.
    let carried =
        |bed: &Bed| bed.node("node-1")?.log().map(|log| log.matches("direction=\"outbound\"").count());
    bed.wait("a log line of each connection", Duration::from_secs(5), |bed| carried(bed).ok() == Some(2 * 8))
        .with_context(|| format!("{:?} connections were carried by the node", carried(&bed)))?;
    Ok(())
}

#[test]
fn every_shape_of_connect_by_sk_lookup() -> Result<()> {
    every_shape(Inbound::SkLookup)
}

#[test]
fn every_shape_of_connect_by_tc() -> Result<()> {
    every_shape(Inbound::Tc)
}

/// What does not leave the pod is not captured.
#[test]
fn connections_within_the_pod_stay_there() -> Result<()> {
    let bed = bed(Inbound::SkLookup)?;
    let near = bed.pod("mesh/near")?;
    for to in ["127.0.0.1:7000".to_owned(), "[::1]:7000".to_owned(), at(&near), at6(&near)] {
        let seen = dial(&near, &[&to])?;
        ensure!(seen.served() && seen.peername.as_deref() == Some(&to), "{to}: {seen:?}");
    }
    let log = bed.node("node-1")?.log()?;
    ensure!(!log.contains("access"), "a loopback connection was captured:\n{log}");
    Ok(())
}

/// `bpftool` prints maps with field names, and programs and links under names that explain themselves.
#[test]
fn bpftool_shows_names() -> Result<()> {
    let bed = bed(Inbound::SkLookup)?;
    let node = bed.node("node-1")?;
    let root = format!("/sys/fs/bpf/mesh-{}/node-1/{ABI}", bed.name());
    let run = |words: &[&str]| -> Result<String> {
        let output = node.exec(words)?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let pods = run(&["bpftool", "map", "dump", "pinned", &format!("{root}/map/PODS")])?;
    ensure!(pods.contains("\"ip4\"") && pods.contains("\"outbound_port\": 15001"), "{pods}");
    ensure!(pods.contains("\"dns_port\": 15053"), "{pods}");
    dial(&bed.pod("mesh/client")?, &[&at(&bed.pod("mesh/far")?)])?;
    let flows = run(&["bpftool", "map", "dump", "pinned", &format!("{root}/map/ORIGINAL_DST")])?;
    ensure!(flows.contains("\"netns\"") && flows.contains("\"port\": 7000"), "{flows}");
    for (program, name) in [("mesh_connect4", "mesh_connect4"), ("mesh_lookup", "mesh_lookup")] {
        let shown = run(&["bpftool", "prog", "show", "pinned", &format!("{root}/prog/{program}")])?;
        ensure!(shown.contains(name), "{shown}");
    }
    let links = std::fs::read_dir(format!("{root}/link"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    for hook in [
        "connect4",
        "connect6",
        "getpeername4",
        "sendmsg4",
        "sendmsg6",
        "recvmsg4",
        "recvmsg6",
        "sockops",
        "lookup_",
        "guard-in-eth0_",
        "guard-out-eth0_",
    ] {
        ensure!(links.iter().any(|link| link.starts_with(hook)), "no link {hook} in {links:?}");
    }
    Ok(())
}
