//! Services that Kubernetes does not know: `ServiceEntries` for what is outside, at an address, behind a name, or wherever
//! clients go anyway.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle, Process};
use mesh_tests::scenario::{Dialled, captured, dial, eventually, logged, manifests, pod, start};

use super::gateway::gateway_pod;
use super::until;
use crate::dns::DNSMASQ;
use crate::scrape::counted;

/// An entry of namespace `mesh`.
pub(super) fn entry(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: mesh}}, \
         spec: {{{spec}}}}}"
    )
}

/// The address of a node in the network that is none of the pods'.
pub(super) fn outside(bed: &Bed, node: &str) -> Result<String> {
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
    // Those who do not see it go where the address leads without it.
    let stranger = "{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {istio.io/dataplane-mode: ambient}}}\n---\n";
    bed.apply(&format!("{stranger}{}", pod("other", "stranger", "node-1", &["sleep", "infinity"])))?;
    captured(&bed, Duration::from_secs(20))?;
    let stranger = bed.pod("other/stranger")?;
    reaches_all(&bed, &stranger, "192.0.2.10:80", &[&one, &two])?;
    bed.apply(&entry(
        "static",
        &format!(
            "hosts: [db.example], addresses: [192.0.2.10], resolution: STATIC, exportTo: ['.'], {port}, \
             endpoints: [{{address: {one}}}]"
        ),
    ))?;
    bed.wait("the end of what it saw", Duration::from_secs(10), |_| {
        dial(&stranger, &["192.0.2.10:80", "--timeout", "500"]).is_ok_and(|seen| !seen.served())
    })?;
    ensure!(dial(&client, &["192.0.2.10:80"])?.served());
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
         data: {mesh: \"{accessLogFile: /dev/stdout, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\"}}",
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

/// Any address of a network: on to where clients want without resolution, else to the endpoints.
#[test]
fn networks_lead_to_entries() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, two) = (bed.pod("mesh/client")?, outside(&bed, "node-2")?);
    let _server = serve(&bed, "node-2")?;
    bed.apply(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, \
         data: {mesh: \"{accessLogFile: /dev/stdout, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\"}}",
    )?;
    let to = format!("{two}:7100");
    eventually(&bed, &client, &to, Dialled::refused)?;
    let none = format!(
        "hosts: [net.example], addresses: [{two}/24], ports: [{{name: tcp, number: 7100, protocol: TCP}}]"
    );
    bed.apply(&entry("none", &none))?;
    let seen = eventually(&bed, &client, &to, Dialled::served)?;
    ensure!(seen.seen("local").starts_with(&two), "{seen:?}");
    logged(&bed, "node-1", &["dst.service=\"net.example\"", "direction=\"outbound\""])?;
    bed.apply(&entry(
        "static",
        &format!(
            "hosts: [wide.example], addresses: [198.51.100.0/24], resolution: STATIC, \
             ports: [{{name: tcp, number: 80, protocol: TCP, targetPort: 7100}}], endpoints: [{{address: {two}}}]"
        ),
    ))?;
    eventually(&bed, &client, "198.51.100.77:80", Dialled::served)?;
    let other = dial(&client, &["198.51.101.77:80", "--timeout", "500"])?;
    ensure!(!other.served(), "{other:?}");
    bed.delete("ServiceEntry", "mesh", "none")?;
    eventually(&bed, &client, &to, Dialled::refused)?;
    Ok(())
}

/// Of pods that serve a ServiceEntry only those that it names are reached, with rules about it and without.
#[test]
fn names_of_an_entry_are_those_of_its_servers() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let client = bed.pod("mesh/client")?;
    let named = |account: &str| {
        let spec = format!(
            "hosts: [named.example], addresses: [192.0.2.50], location: MESH_INTERNAL, resolution: STATIC, \
             ports: [{{name: tcp, number: 80, protocol: TCP, targetPort: 7000}}], \
             workloadSelector: {{labels: {{app: far}}}}, \
             subjectAltNames: ['spiffe://cluster.local/ns/mesh/sa/{account}']"
        );
        bed.apply(&entry("named", &spec))
    };
    named("far")?;
    eventually(&bed, &client, "192.0.2.50:80", Dialled::served)?;
    named("near")?;
    eventually(&bed, &client, "192.0.2.50:80", Dialled::refused)?;
    let refused = "spiffe://cluster.local/ns/mesh/sa/far is none of the subjectAltNames";
    logged(&bed, "node-1", &[refused])?;
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: named, namespace: mesh}, \
         spec: {host: named.example, trafficPolicy: {connectionPool: {tcp: {maxConnections: 77}}}}}",
    )?;
    named("far")?;
    eventually(&bed, &client, "192.0.2.50:80", Dialled::served)?;
    named("near")?;
    eventually(&bed, &client, "192.0.2.50:80", Dialled::refused)?;
    // What the rule asks for counts more.
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: far, namespace: mesh}, \
                spec: {host: far, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, \
                subjectAltNames: ['spiffe://cluster.local/ns/mesh/sa/ACCOUNT']}}}}";
    let vip = format!("{}:80", bed.status().service_ip("mesh/far")?);
    bed.apply(&rule.replace("ACCOUNT", "near"))?;
    eventually(&bed, &client, &vip, Dialled::refused)?;
    bed.apply(&rule.replace("ACCOUNT", "far"))?;
    eventually(&bed, &client, &vip, Dialled::served)?;
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
    let words = [&DNSMASQ[..], &["--local-ttl=1", &listen, &added]].concat();
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

/// The two steps of the tutorials: from the client to the egress gateway, and from there out.
#[test]
fn an_egress_gateway_is_the_way_out() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, two) = (bed.pod("mesh/client")?, outside(&bed, "node-2")?);
    let _server = bed.node("node-2")?.spawn(&["httpbin", "--port", "7200"])?;
    bed.apply(&gateway_pod(&bed, ("istio-egressgateway", "egressgateway"))?)?;
    bed.wait_ready(Duration::from_secs(20), |_| ())?;
    bed.apply(&entry(
        "web",
        &format!(
            "hosts: [external.test], addresses: [192.0.2.20], resolution: STATIC, endpoints: [{{address: {two}}}], \
             ports: [{{name: http, number: 80, protocol: HTTP, targetPort: 7200}}]"
        ),
    ))?;
    let ask = ["--resolve", "external.test:80:192.0.2.20", "http://external.test/headers"];
    until(&bed, &client, &ask, |answer| answer.status == 200).context("without rules")?;
    bed.apply(OUT)?;
    let through =
        |answer: &super::Answer| answer.status == 200 && answer.body.to_lowercase().contains("x-way-out");
    let answer = until(&bed, &client, &ask, through).with_context(|| {
        let log = bed.node("node-1").and_then(|node| node.log()).unwrap_or_default();
        let gateway = bed.pod("istio-system/istio-egressgateway").map(|pod| pod.log()).unwrap_or_default();
        format!("through the gateway; node-1:\n{log}\nthe gateway:\n{gateway}")
    })?;
    ensure!(answer.body.contains("external.test"), "the host stays: {answer:?}");
    // The gateway knows who came, and the client's node whom it sent there.
    let labels = [
        ("reporter", "source"),
        ("source_workload", "client"),
        ("destination_service_name", "istio-egressgateway"),
        ("response_code", "200"),
    ];
    counted(&bed.node("node-1")?, "istio_requests_total", &labels, |sent| sent > 0)?;
    // A change at the gateway holds for the second step alone.
    bed.apply(&OUT.replace("x-way-out: gateway", "x-way-out: changed"))?;
    let changed = |answer: &super::Answer| answer.status == 200 && answer.body.contains("changed");
    until(&bed, &client, &ask, changed).context("a change of the second step")?;
    Ok(())
}

const OUT: &str = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: out, namespace: istio-system}, \
     spec: {selector: {istio: egressgateway}, \
     servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [external.test]}]}}\n---\n\
     {apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: out, namespace: mesh}, \
     spec: {hosts: [external.test], gateways: [istio-system/out, mesh], http: [\
     {match: [{gateways: [mesh], port: 80}], \
     route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]}, \
     {match: [{gateways: [istio-system/out], port: 80}], headers: {request: {set: {x-way-out: gateway}}}, \
     route: [{destination: {host: external.test, port: {number: 80}}}]}]}}";
