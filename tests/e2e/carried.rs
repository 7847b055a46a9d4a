//! What a node carries between two of its own pods: bytes, and requests that it reads at the client or at the server. The
//! last part of the way is the pods' own network, as without the mesh.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::bed::{Bed, Inbound, Network, PodHandle};
use mesh_tests::scenario::{at, at6, dial, logged, manifests, pod, start};

use crate::express::{disabled, forbid};

/// A page beside the client.
fn page() -> String {
    pod("mesh", "page", "node-1", &["httpbin"])
        + "{apiVersion: v1, kind: Service, metadata: {name: page, namespace: mesh}, \
           spec: {selector: {app: page}, ports: [{name: http, port: 80, targetPort: 8080}]}}\n---\n"
}

/// Has the client's node read requests for the page.
const ROUTED: &str = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: page, namespace: mesh}, \
    spec: {hosts: [page], http: [{headers: {request: {set: {x-routed: \"yes\"}}}, route: [{destination: {host: page}}]}]}}\n---\n";

/// Has the page's node read them.
const GUARDED: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: page, namespace: mesh}, \
    spec: {selector: {matchLabels: {app: page}}, action: DENY, rules: [{to: [{operation: {paths: [/secret]}}]}]}}\n---\n";

fn bed(inbound: Inbound, network: Network) -> Result<(Bed, PodHandle)> {
    let all = manifests() + &page();
    let bed = start(disabled(Bed::builder().nodes(2).inbound(inbound).network(network).manifests(all)))?;
    let client = bed.pod("mesh/client")?;
    Ok((bed, client))
}

fn status(client: &PodHandle, path: &str) -> Result<String> {
    let url = format!("http://page.mesh/{path}");
    let words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "2", &url];
    Ok(String::from_utf8_lossy(&client.exec(&words)?.stdout).into_owned())
}

fn until(bed: &Bed, client: &PodHandle, path: &str, wanted: &str) -> Result<()> {
    let mut last = String::new();
    let came = bed.wait("the answer", Duration::from_secs(8), |_| {
        last = status(client, path).unwrap_or_default();
        last == wanted
    });
    ensure!(came.is_ok(), "{path}: {last:?} in place of {wanted}");
    Ok(())
}

fn network_policies_hold((inbound, network): (Inbound, Network)) -> Result<()> {
    let (bed, client) = bed(inbound, network)?;
    let (near, page) = (bed.pod("mesh/near")?, bed.pod("mesh/page")?);
    for to in [at(&near), at6(&near)] {
        let seen = dial(&client, &[&to])?;
        ensure!(seen.served(), "{to}: {seen:?}");
        // The server is shown the client, down to its port.
        ensure!(seen.sockname.as_deref() == Some(seen.seen("peer")), "{to}: {seen:?}");
    }
    forbid(&bed, "-I", (&client, &near))?;
    for to in [at(&near), at6(&near)] {
        let seen = dial(&client, &[&to, "--timeout", "2000"])?;
        ensure!(!seen.served(), "{to} in spite of the rule: {seen:?}");
    }
    let service = format!("{}:80", bed.status().service_ip("mesh/near")?);
    ensure!(
        !dial(&client, &[&service, "--timeout", "2000"])?.served(),
        "by its service, in spite of the rule"
    );
    forbid(&bed, "-D", (&client, &near))?;
    ensure!(dial(&client, &[&at(&near)])?.served(), "without the rule");

    for (rules, where_read) in [("", "nowhere"), (ROUTED, "at the client"), (GUARDED, "at the server")] {
        bed.apply(rules)?;
        until(&bed, &client, "get", "200")?;
        if rules == GUARDED {
            until(&bed, &client, "secret", "403")?;
        }
        forbid(&bed, "-I", (&client, &page))?;
        // Also over what is open: packets of connections that are established do not pass either, once they are looked at.
        let held = bed.wait("the rule to hold", Duration::from_secs(15), |_| {
            status(&client, "get").is_ok_and(|code| code != "200")
        });
        ensure!(held.is_ok(), "requests read {where_read} pass in spite of the rule");
        forbid(&bed, "-D", (&client, &page))?;
        until(&bed, &client, "get", "200")?;
    }
    let identities = ["spiffe://cluster.local/ns/mesh/sa/client", "spiffe://cluster.local/ns/mesh/sa/near"];
    logged(&bed, "node-1", &[identities[0], identities[1], "inbound"])
}

#[test]
fn a_network_policy_sees_what_the_node_carries_within_it() -> Result<()> {
    network_policies_hold((Inbound::SkLookup, Network::Routed))
}

#[test]
fn the_same_with_steering_by_tc_and_a_bridge() -> Result<()> {
    network_policies_hold((Inbound::Tc, Network::Bridged))
}
