//! Services that Kubernetes does not know: `ServiceEntries` for what is outside, at an address, behind a name, or wherever
//! clients go anyway.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle, Process};
use mesh_tests::scenario::{Dialled, dial, eventually, logged, manifests, start};

/// An entry of namespace `mesh`.
fn entry(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: mesh}}, \
         spec: {{{spec}}}}}"
    )
}

/// The address of a node in the network that is none of the pods'.
fn outside(bed: &Bed, node: &str) -> Result<String> {
    let ip = bed.node(node)?.ips().into_iter().find(std::net::IpAddr::is_ipv4);
    Ok(ip.with_context(|| format!("an IPv4 address of {node}"))?.to_string())
}

fn serve(bed: &Bed, node: &str) -> Result<Process> {
    Ok(bed.node(node)?.spawn(&["netprobe", "serve", "--port", "7100"])?)
}

#[test]
fn a_service_entry_leads_out_of_the_mesh() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let client = bed.pod("mesh/client")?;
    let (one, two) = (outside(&bed, "node-1")?, outside(&bed, "node-2")?);
    let _servers = (serve(&bed, "node-1")?, serve(&bed, "node-2")?);
    // Both endpoints get their share, on the port of their own.
    let port = "ports: [{name: tcp-any, number: 80, protocol: TCP, targetPort: 7100}]";
    bed.apply(&entry(
        "static",
        &format!(
            "hosts: [db.example], addresses: [192.0.2.10], resolution: STATIC, {port}, \
             endpoints: [{{address: {one}}}, {{address: {two}, ports: {{tcp-any: 7100}}}}]"
        ),
    ))?;
    reaches_all(&bed, &client, "192.0.2.10:80", &[&one, &two])?;
    logged(&bed, "node-1", &["dst.service=\"db.example\"", "direction=\"outbound\""])?;
    // Nobody's.
    let other = dial(&client, &["192.0.2.10:81", "--timeout", "500"])?;
    ensure!(!other.served(), "{other:?}");
    Ok(())
}

/// Reads the peer's address of each connection until all have been seen.
fn reaches_all(bed: &Bed, client: &PodHandle, to: &str, all: &[&str]) -> Result<()> {
    eventually(bed, client, to, Dialled::served)?;
    let mut missing: Vec<&str> = all.to_vec();
    for _ in 0..40 {
        let seen = dial(client, &[to])?;
        ensure!(seen.served(), "{seen:?}");
        missing.retain(|ip| !seen.seen("local").starts_with(ip));
        if missing.is_empty() {
            return Ok(());
        }
    }
    anyhow::bail!("{missing:?} was never reached through {to}")
}

/// Under `REGISTRY_ONLY` only what an entry names is to be reached, at the address that clients have of it.
#[test]
fn without_resolution_clients_go_where_they_want() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let client = bed.pod("mesh/client")?;
    let two = outside(&bed, "node-2")?;
    let _server = serve(&bed, "node-2")?;
    let to = format!("{two}:7100");
    // What nobody knows passes.
    eventually(&bed, &client, &to, Dialled::served)?;
    bed.apply(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, \
         data: {mesh: \"outboundTrafficPolicy: {mode: REGISTRY_ONLY}\"}}",
    )?;
    eventually(&bed, &client, &to, Dialled::refused)?;
    bed.apply(&entry(
        "none",
        &format!(
            "hosts: [api.example], addresses: [{two}], ports: [{{name: tcp, number: 7100, protocol: TCP}}]"
        ),
    ))?;
    eventually(&bed, &client, &to, Dialled::served)?;
    bed.delete("ServiceEntry", "mesh", "none")?;
    eventually(&bed, &client, &to, Dialled::refused)?;
    Ok(())
}

/// The node asks a server of DNS, and follows it when the answer changes.
#[test]
fn names_are_followed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (hosts, conf) = (directory.path().join("hosts"), directory.path().join("resolv.conf"));
    fs::write(&conf, "")?;
    let conf_path = conf.to_str().context("a path in UTF-8")?;
    let builder =
        Bed::builder().nodes(2).mesh_arg("--resolv-conf").mesh_arg(conf_path).manifests(manifests());
    let bed = start(builder)?;
    let client = bed.pod("mesh/client")?;
    let (one, two) = (outside(&bed, "node-1")?, outside(&bed, "node-2")?);
    let _servers = (serve(&bed, "node-1")?, serve(&bed, "node-2")?);
    fs::write(&hosts, format!("{one} db.example\n"))?;
    let listen = format!("--listen-address={one}");
    let added = format!("--addn-hosts={}", hosts.display());
    let words = [
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        &listen,
        &added,
    ];
    let words = [&words[..], &["--local-ttl=1", "--user=root", "--pid-file="]].concat();
    let dns = bed.node("node-1")?.spawn(&words)?;
    fs::write(&conf, format!("nameserver {one}\n"))?;
    bed.apply(&entry(
        "dns",
        "hosts: [db.example], addresses: [192.0.2.11], resolution: DNS, \
         ports: [{name: tcp, number: 80, protocol: TCP, targetPort: 7100}]",
    ))?;
    reaches_all(&bed, &client, "192.0.2.11:80", &[&one])?;
    fs::write(&hosts, format!("{two} db.example\n"))?;
    let reread = std::process::Command::new("kill").args(["-HUP", &dns.pid().to_string()]).status()?;
    ensure!(reread.success());
    bed.wait("the new address", Duration::from_secs(10), |_| {
        dial(&client, &["192.0.2.11:80"]).is_ok_and(|seen| seen.seen("local").starts_with(&two))
    })?;
    // The server is gone: what it said last holds.
    drop(dns);
    std::thread::sleep(Duration::from_secs(3));
    let seen = dial(&client, &["192.0.2.11:80"])?;
    ensure!(seen.served() && seen.seen("local").starts_with(&two), "{seen:?}");
    Ok(())
}
