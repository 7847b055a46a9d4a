//! Rules about connections: where TCP goes from a pod, by who it is and by the server name that its TLS asks for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{Dialled, dial, eventually, logged, pod, start};

use crate::scrape::Scrape;

const RULES: &str = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: raw, namespace: default}, \
     spec: {host: raw, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}\n---\n\
     {apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: raw, namespace: default}, \
     spec: {hosts: [raw], tls: [{match: [{sniHosts: [raw], port: 443}], route: [{destination: {host: raw, subset: v1}}]}], \
     tcp: [{match: [{sourceLabels: {app: first}}], route: [{destination: {host: raw, subset: v1}}]}, \
     {match: [{port: 80}, {port: 443}], route: [{destination: {host: raw, subset: v2}}]}]}}";

const DENY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: not-first, namespace: default}, \
     spec: {selector: {matchLabels: {app: raw}}, action: DENY, \
     rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/first]}}]}]}}";

#[test]
fn connections_go_where_rules_say() -> Result<()> {
    let raw = |name: &str, version: &str, node: &str| {
        let app = format!("app: raw, version: {version}");
        pod("default", name, node, &["netprobe", "serve", "--port", "7000"])
            .replace(&format!("app: {name}"), &app)
    };
    let client = |name: &str| pod("default", name, "node-1", &["sleep", "infinity"]);
    let service = "{apiVersion: v1, kind: Service, metadata: {name: raw, namespace: default}, spec: {selector: {app: raw}, \
                   ports: [{name: tcp, port: 80, targetPort: 7000}, {name: tls-names, port: 443, targetPort: 7000}]}}";
    let namespace = super::sample("bookinfo/namespace.yaml")?;
    let (one, two) = (raw("raw-1", "v1", "node-1"), raw("raw-2", "v2", "node-2"));
    let manifests =
        [namespace, one + &two + &client("first") + &client("second"), service.to_owned()].join("\n---\n");
    let bed = start(Bed::builder().nodes(2).manifests(manifests))?;
    let (first, second) = (bed.pod("default/first")?, bed.pod("default/second")?);
    let to = format!("{}:80", bed.status().service_ip("default/raw")?);
    eventually(&bed, &first, &to, Dialled::served)?;
    bed.apply(RULES)?;
    for (client, pod) in [(&first, "raw-1"), (&second, "raw-2")] {
        goes_to(&bed, client, &to, pod).with_context(|| format!("{} to {pod}", client.name()))?;
    }
    both_ends_count(&bed)?;
    by_server_name(&bed, &second)?;
    a_policy_cuts(&bed, &first, &to)
}

/// Once the rule holds, every connection goes there and carries what it should.
fn goes_to(bed: &Bed, client: &PodHandle, to: &str, pod: &str) -> Result<()> {
    let ip = bed.pod(&format!("default/{pod}"))?.ip().to_string();
    let (begun, mut in_a_row) = (Instant::now(), 0);
    // Without the rule half of them go there as well.
    while in_a_row < 12 {
        ensure!(begun.elapsed() < Duration::from_secs(5), "not in 5 s");
        in_a_row = if dial(client, &[to])?.seen("local").starts_with(&ip) { in_a_row + 1 } else { 0 };
    }
    for _ in 0..10 {
        let seen = dial(client, &[to, "--bytes", "100000"])?;
        ensure!(seen.served() && seen.received == 100_000, "{seen:?}");
        ensure!(seen.seen("local").starts_with(&ip), "{}", seen.greeting);
        let own = client.ip().to_string();
        ensure!(seen.seen("peer").starts_with(&own), "the pod sees its client: {}", seen.greeting);
    }
    Ok(())
}

fn both_ends_count(bed: &Bed) -> Result<()> {
    for (node, pod, reporter) in [
        ("node-1", "raw-1", "source"),
        ("node-1", "raw-1", "destination"),
        ("node-1", "raw-2", "source"),
        ("node-2", "raw-2", "destination"),
    ] {
        let labels =
            [("destination_workload", pod), ("reporter", reporter), ("destination_service_name", "raw")];
        let labels = if reporter == "source" { &labels[..] } else { &labels[..2] };
        bed.wait("the bytes in the metrics", Duration::from_secs(5), |bed| {
            let scrape = bed.node(node).ok().and_then(|node| Scrape::of(&node).ok());
            scrape.is_some_and(|scrape| scrape.count("istio_tcp_sent_bytes_total", labels) >= 1_000_000)
        })
        .with_context(|| format!("{reporter} of {pod}"))?;
    }
    Ok(())
}

fn by_server_name(bed: &Bed, client: &PodHandle) -> Result<()> {
    let vip = bed.status().service_ip("default/raw")?;
    // The pod speaks no TLS: it is enough that it was reached.
    let resolve = |name: &str| format!("{name}:443:{vip}");
    client.exec(&["curl", "-sk", "--max-time", "5", "--resolve", &resolve("raw"), "https://raw/"])?;
    logged(bed, "node-1", &["src.workload=\"second\"", "dst.workload=\"raw-1\"", "direction=\"outbound\""])
}

/// A connection that a rule has led to a pod of the same node is cut like any other.
fn a_policy_cuts(bed: &Bed, client: &PodHandle, to: &str) -> Result<()> {
    bed.apply(DENY)?;
    eventually(bed, client, to, Dialled::refused)?;
    logged(bed, "node-1", &["AuthorizationPolicy default/not-first", "src.workload=\"first\""])?;
    bed.delete("AuthorizationPolicy", "default", "not-first")?;
    eventually(bed, client, to, Dialled::served)?;
    Ok(())
}
