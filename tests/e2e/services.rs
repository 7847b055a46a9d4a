//! Services at layer 4: addresses, ports, choice of endpoints, affinity, retries.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use mesh_tests::{
    bed::{Bed, PodHandle},
    scenario::{Dialled, at, at6, dial, eventually, manifests, pod, service, start},
};

/// Dials `n` times and counts which server answered, by its own address.
fn spread(bed: &Bed, from: &PodHandle, to: &str, n: usize) -> Result<BTreeMap<String, usize>> {
    let mut servers = BTreeMap::new();
    // The node may learn of a ready endpoint a moment after the bed has.
    eventually(bed, from, to, Dialled::served)?;
    for _ in 0..n {
        let seen = dial(from, &[to])?;
        ensure!(seen.served(), "{to}: {seen:?}");
        ensure!(
            seen.peername.as_deref() == Some(to),
            "the client should see the service's address: {seen:?}"
        );
        *servers.entry(seen.seen("local").to_owned()).or_default() += 1;
    }
    Ok(servers)
}

fn vip(bed: &Bed, name: &str) -> Result<String> {
    Ok(format!("{}:80", bed.status().service_ip(name)?))
}

#[test]
fn cluster_ips_lead_to_ready_endpoints() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let client = bed.pod("mesh/client")?;
    let near = spread(&bed, &client, &vip(&bed, "mesh/near")?, 4)?;
    ensure!(near.keys().eq([&at(&bed.pod("mesh/near")?)]), "{near:?}");
    let both = spread(&bed, &client, &vip(&bed, "mesh/both")?, 40)?;
    ensure!(both.len() == 2 && both.values().all(|n| *n >= 8), "40 connections over two endpoints: {both:?}");
    Ok(())
}

#[test]
fn cluster_ips_of_ipv6_and_names() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let client = bed.pod("mesh/client")?;
    let hosts = client.exec(&["getent", "ahosts", "far.mesh.svc.cluster.local"])?;
    let names = String::from_utf8_lossy(&hosts.stdout).into_owned();
    let v6 = names.split_whitespace().find(|word| word.contains(':'));
    let Some(v6) = v6 else { anyhow::bail!("no IPv6 address for the service: {names}") };
    let seen = spread(&bed, &client, &format!("[{v6}]:80"), 2)?;
    ensure!(seen.keys().all(|local| local.starts_with('[')), "an IPv6 client is served over IPv6: {seen:?}");
    Ok(())
}

#[test]
fn a_port_the_service_does_not_have_is_refused() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let to = format!("{}:81", bed.status().service_ip("mesh/near")?);
    let seen = dial(&bed.pod("mesh/client")?, &[&to])?;
    ensure!(seen.refused(), "{seen:?}");
    let node = bed.node("node-1")?;
    bed.wait("a log line that says why", Duration::from_secs(3), |_| {
        node.log().is_ok_and(|log| log.contains("the service has no port 81"))
    })?;
    Ok(())
}

#[test]
fn headless_services_and_named_target_ports() -> Result<()> {
    let extra = "{apiVersion: v1, kind: Pod, metadata: {name: named, namespace: mesh, labels: {app: named}}, spec: \
                 {nodeName: node-2, containers: [{name: main, image: local, command: [netprobe, serve, --port, \"7070\"], \
                 ports: [{name: talk, containerPort: 7070}], readinessProbe: {tcpSocket: {port: talk}, periodSeconds: 1}}]}}\n---\n\
                 {apiVersion: v1, kind: Service, metadata: {name: named, namespace: mesh}, spec: \
                 {selector: {app: named}, ports: [{name: tcp, port: 80, targetPort: talk}]}}\n---\n\
                 {apiVersion: v1, kind: Service, metadata: {name: bare, namespace: mesh}, spec: \
                 {clusterIP: None, selector: {app: named}, ports: [{name: tcp, port: 7070}]}}\n";
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + extra))?;
    let (client, named) = (bed.pod("mesh/client")?, bed.pod("mesh/named")?);
    let own = format!("{}:7070", named.ip());
    let through = spread(&bed, &client, &vip(&bed, "mesh/named")?, 2)?;
    ensure!(through.keys().eq([&own]), "{through:?}");
    let hosts = client.exec(&["getent", "ahostsv4", "bare.mesh.svc.cluster.local"])?;
    let answer = String::from_utf8_lossy(&hosts.stdout).into_owned();
    ensure!(answer.contains(&named.ip().to_string()), "a headless name leads to the pods: {answer}");
    spread(&bed, &client, &own, 1)?;
    Ok(())
}

#[test]
fn session_affinity_keeps_a_client_at_its_endpoint() -> Result<()> {
    let sticky =
        service("mesh", "sticky", "serves: \"yes\"").replace("spec: {", "spec: {sessionAffinity: ClientIP, ");
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + &sticky))?;
    let seen = spread(&bed, &bed.pod("mesh/client")?, &vip(&bed, "mesh/sticky")?, 20)?;
    ensure!(seen.len() == 1, "one client, one endpoint: {seen:?}");
    Ok(())
}

#[test]
fn internal_traffic_policy_local_stays_on_the_node() -> Result<()> {
    let local = service("mesh", "local", "serves: \"yes\"")
        .replace("spec: {", "spec: {internalTrafficPolicy: Local, ");
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + &local))?;
    let seen = spread(&bed, &bed.pod("mesh/client")?, &vip(&bed, "mesh/local")?, 12)?;
    ensure!(seen.keys().eq([&at(&bed.pod("mesh/near")?)]), "{seen:?}");
    Ok(())
}

/// Its own node's come first, and others take over where there are none.
#[test]
fn traffic_distribution_prefers_what_is_near() -> Result<()> {
    let of = |name: &str, selector: &str| {
        service("mesh", name, selector).replace("spec: {", "spec: {trafficDistribution: PreferSameNode, ")
    };
    let services = of("around", "serves: \"yes\"") + &of("away", "app: far");
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + &services))?;
    let client = bed.pod("mesh/client")?;
    for (service, only) in [("mesh/around", "mesh/near"), ("mesh/away", "mesh/far")] {
        let seen = spread(&bed, &client, &vip(&bed, service)?, 20)?;
        let only = bed.pod(only)?;
        // Of a pod with two addresses either may be used.
        ensure!(seen.keys().all(|to| *to == at(&only) || *to == at6(&only)), "{service}: {seen:?}");
    }
    Ok(())
}

/// An endpoint that is listed as ready but does not answer costs a retry, not the connection.
#[test]
fn a_failed_connect_is_tried_elsewhere() -> Result<()> {
    let dead = pod("mesh", "dead", "node-2", &["sleep", "infinity"])
        .replace("{app: dead", "{app: dead, serves: \"yes\"");
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + &dead))?;
    bed.wait("three endpoints", Duration::from_secs(5), |bed| {
        let dump = bed.node("node-1").and_then(|node| node.admin("/config_dump")).unwrap_or_default();
        let dead = bed.pod("mesh/dead").map(|pod| format!("\"address\": \"{}\"", pod.ip()));
        dead.is_ok_and(|dead| dump.contains(&dead))
    })?;
    let seen = spread(&bed, &bed.pod("mesh/client")?, &vip(&bed, "mesh/both")?, 30)?;
    ensure!(seen.len() == 2, "{seen:?}");
    Ok(())
}

#[test]
fn half_closed_connections_carry_on_through_capture_and_tunnel() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let client = bed.pod("mesh/client")?;
    for server in ["mesh/near", "mesh/far"] {
        let to = at(&bed.pod(server)?);
        let seen = dial(&client, &[&to, "--say", "AFTER_EOF 3000000", "--bytes", "2000000"])?;
        let whole = seen.served()
            && seen.start.starts_with("2000000;")
            && seen.received == 3_000_000 + "2000000;".len();
        ensure!(whole, "client ends first, {server}: {seen:?}");
        let seen = dial(&client, &[&to, "--say", "FIN_FIRST 3000000", "--bytes", "2000000"])?;
        ensure!(seen.served() && seen.received == 3_000_000, "server ends first, {server}: {seen:?}");
        let seen = dial(&client, &[&to, "--say", "RESET 1000"])?;
        ensure!(seen.end == "ConnectionReset", "a reset stays a reset, {server}: {seen:?}");
    }
    Ok(())
}

#[test]
fn what_is_not_of_the_mesh_is_passed_through() -> Result<()> {
    let outside = pod("outside", "elsewhere", "node-2", &["netprobe", "serve", "--port", "7000"])
        + &service("outside", "elsewhere", "app: elsewhere");
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + &outside))?;
    let client = bed.pod("mesh/client")?;
    let own = client.ip().to_string();
    for to in [at(&bed.pod("outside/elsewhere")?), vip(&bed, "outside/elsewhere")?] {
        let seen = eventually(&bed, &client, &to, Dialled::served)?;
        ensure!(seen.seen("peer").starts_with(&own), "{to}: {seen:?}");
    }
    Ok(())
}

/// An address of the pod network that no pod has is refused: it might be an enrolled pod that is too new to be known.
#[test]
fn unknown_addresses_of_the_pod_network_are_refused() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let seen = dial(&bed.pod("mesh/client")?, &["10.244.2.250:7000"])?;
    ensure!(seen.refused(), "{seen:?}");
    Ok(())
}
