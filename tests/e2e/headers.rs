//! What strangers and peers of the mesh say of themselves in headers, where requests are read for a pod or at a waypoint.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{pod, service, start};

use crate::routing::until;

/// `mesh/client` and `mesh/near` on node-1, `mesh/far` on node-2, `outside/stranger`; requests to the servers are read.
fn bed() -> Result<Bed> {
    let mut all = String::from(
        "{apiVersion: v1, kind: Namespace, metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}}\n---\n\
         {apiVersion: v1, kind: Namespace, metadata: {name: outside}}\n---\n\
         {apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: reads, namespace: mesh}, \
          spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}}\n---\n",
    );
    all += &pod("mesh", "client", "node-1", &["sleep", "infinity"]);
    all += &pod("outside", "stranger", "node-1", &["sleep", "infinity"]);
    for (name, node) in [("near", "node-1"), ("far", "node-2")] {
        all += &pod("mesh", name, node, &["httpbin"]);
        all += &service("mesh", name, &format!("app: {name}"))
            .replace("name: tcp, ", "")
            .replace("7000", "8080");
    }
    start(Bed::builder().nodes(2).manifests(all))
}

/// What the server makes of a request with [`SPOOFED`], in lower case.
fn seen(bed: &Bed, from: &PodHandle, url: &str) -> Result<String> {
    let mut words = vec![url];
    words.extend(SPOOFED.iter().flat_map(|header| ["-H", header]));
    let answer = until(bed, from, &words, |answer| answer.status == 200)?;
    // Any other method is refused: somebody reads.
    until(bed, from, &[url, "-X", "PUT"], |answer| answer.status == 403).context("nobody reads")?;
    Ok(answer.body.to_lowercase())
}

const SPOOFED: &[&str] = &[
    "x-forwarded-client-cert: By=spiffe://spoofed;URI=spiffe://cluster.local/ns/mesh/sa/root",
    "x_forwarded_client_cert: twin",
    "x-envoy-original-path: /admin",
    "x-envoy-decorator-operation: spoofed",
    "x_envoy_internal: twin",
    "x-forwarded-for: 203.0.113.5",
    "keep-alive: hop",
    "x-own_name: kept",
];

#[test]
fn strangers_say_nothing_of_themselves_and_peers_are_named() -> Result<()> {
    let bed = bed()?;
    let (client, stranger) = (bed.pod("mesh/client")?, bed.pod("outside/stranger")?);
    for name in ["near", "far"] {
        let url = format!("http://{}:8080/headers", bed.pod(&format!("mesh/{name}"))?.ip());
        let told = seen(&bed, &stranger, &url)?;
        for gone in ["spoofed", "twin", "x-envoy-original-path", "sa/root", "hop"] {
            ensure!(!told.contains(gone), "{name}: {gone} of a stranger gets through: {told}");
        }
        ensure!(
            told.contains("203.0.113.5") && told.contains("kept"),
            "{name}: what is the workload's own: {told}"
        );
        let told = seen(&bed, &client, &url)?;
        let own = format!(
            "by=spiffe://cluster.local/ns/mesh/sa/{name};uri=spiffe://cluster.local/ns/mesh/sa/client"
        );
        ensure!(told.contains(&format!("sa/root,{own}")), "{name}: the peer is the last to be named: {told}");
        for gone in ["twin", "hop"] {
            ensure!(!told.contains(gone), "{name}: {gone} of a peer gets through: {told}");
        }
    }
    Ok(())
}

/// A waypoint names whom it was called by.
#[test]
fn a_waypoint_names_the_peer() -> Result<()> {
    let bed = crate::waypoint::with_waypoint(crate::waypoint::Way::Embedded)?;
    let client = bed.pod("mesh/client")?;
    crate::waypoint::bind(&bed)?;
    let own = "by=spiffe://cluster.local/ns/shop/sa/way;uri=spiffe://cluster.local/ns/mesh/sa/client";
    let mut last = String::new();
    bed.wait("the waypoint's word", Duration::from_secs(10), |bed| {
        let words = ["http://web.shop/headers", "-H", SPOOFED[0], "-H", SPOOFED[1]];
        last = until(bed, &client, &words, |answer| answer.status == 200)
            .map(|answer| answer.body.to_lowercase())
            .unwrap_or_default();
        last.contains(own) && !last.contains("twin")
    })
    .with_context(|| last.clone())?;
    Ok(())
}
