//! The express path: connections between pods of one node that the kernel makes by itself.

mod logs;
mod shortcut;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, Builder, Inbound, PodHandle, Process};
use mesh_tests::scenario::{Dialled, at, at6, dial, eventually, logged, manifests, service, start};

use crate::scrape::{Scrape, counted};

fn bed(inbound: Inbound) -> Result<(Bed, PodHandle, PodHandle)> {
    let bed = start(Bed::builder().nodes(2).inbound(inbound).manifests(manifests()))?;
    let (client, near) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?);
    until_taken(&bed, &client, &at(&near))?;
    Ok((bed, client, near))
}

/// Has nodes carry everything themselves: for beds that look at how they do.
pub(crate) fn disabled(builder: Builder) -> Builder {
    builder.mesh_arg("--express-path").mesh_arg("disabled")
}

/// Waits until connections of a client to a place of its own node take it.
pub(crate) fn until_taken(bed: &Bed, client: &PodHandle, to: &str) -> Result<()> {
    Ok(bed.wait("the express path", Duration::from_secs(5), |bed| {
        let before = taken(bed).unwrap_or(0);
        dial(client, &[to]).is_ok_and(|seen| seen.served()) && taken(bed).is_ok_and(|now| now > before)
    })?)
}

/// Connects that took the express path on the client's node.
fn taken(bed: &Bed) -> Result<i64> {
    stat(bed, "express")
}

fn stat(bed: &Bed, name: &str) -> Result<i64> {
    Ok(Scrape::of(&bed.node("node-1")?)?.count("mesh_ebpf_events_total", &[("event", name)]))
}

fn deny(port: u16) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: closed, namespace: mesh}}, \
         spec: {{selector: {{matchLabels: {{app: near}}}}, action: DENY, rules: [{{\
         from: [{{source: {{principals: [cluster.local/ns/mesh/sa/client]}}}}], \
         to: [{{operation: {{ports: ['{port}']}}}}]}}]}}}}"
    )
}

fn pods_reach_each_other(inbound: Inbound) -> Result<()> {
    let (bed, client, near) = bed(inbound)?;
    let far = bed.pod("mesh/far")?;
    let dropped = stat(&bed, "dropped_ingress")?;
    for (to, express) in [(at(&near), 1), (at6(&near), 1), (at(&far), 0)] {
        let before = taken(&bed)?;
        let seen = dial(&client, &[&to])?;
        ensure!(seen.served(), "{to}: {seen:?}");
        ensure!(taken(&bed)? - before == express, "{to} took the other path");
        let name = seen.sockname.clone().unwrap_or_default();
        ensure!(seen.peername.as_deref() == Some(&*to) && seen.seen("peer") == name, "{to}: {seen:?}");
    }
    let mapped = dial(&client, &["--mapped", &at(&near)])?;
    ensure!(mapped.served(), "an IPv4 address from an IPv6 socket: {mapped:?}");
    // Nobody listens there.
    let refused = dial(&client, &[&format!("{}:7999", near.ip())])?;
    ensure!(refused.error.as_deref() == Some("ConnectionRefused"), "{refused:?}");
    logged(&bed, "node-1", &["response_flags=\"CONNECT\"", "nobody accepts connections there"])?;
    ensure!(stat(&bed, "dropped_ingress")? == dropped, "the guard stood in the way");
    Ok(())
}

#[test]
fn pods_of_a_node_reach_each_other_past_the_proxy() -> Result<()> {
    pods_reach_each_other(Inbound::SkLookup)
}

#[test]
fn the_same_with_steering_by_tc() -> Result<()> {
    pods_reach_each_other(Inbound::Tc)
}

/// What a `NetworkPolicy` comes to on a node: packets from one pod to another are dropped on their way through the node's network.
pub(crate) fn forbid(bed: &Bed, verb: &str, (from, to): (&PodHandle, &PodHandle)) -> Result<()> {
    let pairs = [
        Some(("iptables", from.ip(), to.ip())),
        from.ip6().zip(to.ip6()).map(|(from, to)| ("ip6tables", from, to)),
    ];
    for (tool, from, to) in pairs.into_iter().flatten() {
        let (from, to) = (from.to_string(), to.to_string());
        let words = [tool, verb, "FORWARD", "-s", &from, "-d", &to, "-j", "DROP"];
        let output = bed.node("node-1")?.exec(&words)?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A `NetworkPolicy` between two pods of a node holds on the express path, by address and by service, in both families.
#[test]
fn a_network_policy_within_a_node_is_kept_to() -> Result<()> {
    let (bed, client, near) = bed(Inbound::SkLookup)?;
    let service = format!("{}:80", bed.status().service_ip("mesh/near")?);
    let places = [at(&near), at6(&near), service];
    forbid(&bed, "-I", (&client, &near))?;
    for to in &places {
        let seen = dial(&client, &[to, "--timeout", "2000"])?;
        ensure!(!seen.served(), "{to} in spite of the rule: {seen:?}");
    }
    ensure!(dial(&client, &[&at(&bed.pod("mesh/far")?)])?.served(), "others are not concerned");
    forbid(&bed, "-D", (&client, &near))?;
    for to in &places {
        let seen = dial(&client, &[to])?;
        ensure!(seen.served(), "{to} without the rule: {seen:?}");
    }
    Ok(())
}

#[test]
fn services_are_translated_and_nobody_sees_it() -> Result<()> {
    let (bed, client, near) = bed(Inbound::SkLookup)?;
    let service = |name: &str| Ok::<_, anyhow::Error>(format!("{}:80", bed.status().service_ip(name)?));
    let (one, both) = (service("mesh/near")?, service("mesh/both")?);
    let before = taken(&bed)?;
    let seen = dial(&client, &[&one])?;
    ensure!(seen.served() && seen.peername.as_deref() == Some(&*one), "{seen:?}");
    ensure!(seen.seen("local") == at(&near), "{seen:?}");
    ensure!(taken(&bed)? == before + 1, "it went through the proxy");
    let seen = dial(&client, &[&both])?;
    ensure!(seen.served() && taken(&bed)? == before + 1, "half of it is on another node: {seen:?}");
    Ok(())
}

#[test]
fn a_refused_connect_fails_at_once_and_is_told_with_both_names() -> Result<()> {
    let (bed, client, near) = bed(Inbound::SkLookup)?;
    bed.apply(&deny(7000))?;
    let closed = |seen: &Dialled| seen.error.as_deref() == Some("ConnectionRefused");
    eventually(&bed, &client, &at(&near), closed)?;
    let (from, to) = ("spiffe://cluster.local/ns/mesh/sa/client", "spiffe://cluster.local/ns/mesh/sa/near");
    logged(&bed, "node-1", &[from, to, "inbound", "response_flags=\"DENY\"", "mesh/closed"])?;
    let service = format!("{}:80", bed.status().service_ip("mesh/near")?);
    ensure!(dial(&client, &[&service])?.refused(), "through its service");
    // Other ports are none of the policy's business.
    bed.apply(&deny(7001))?;
    eventually(&bed, &client, &at(&near), Dialled::served).map(drop)
}

#[test]
fn express_flows_are_counted_as_all_others_are() -> Result<()> {
    let (bed, client, near) = bed(Inbound::SkLookup)?;
    let node = bed.node("node-1")?;
    let labels = [("source_workload", "client"), ("destination_workload", "near")];
    let of = |reporter: &'static str| {
        let mut all = labels.to_vec();
        all.extend([("reporter", reporter), ("connection_security_policy", "mutual_tls")]);
        all
    };
    let (source, destination) = (vec![("reporter", "source")], of("destination"));
    let both = [labels.to_vec(), source].concat();
    let before = counted(&node, "istio_tcp_connections_closed_total", &destination, |count| count > 0)?;
    let (sent, received) = ("istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total");
    let bytes = |name| Ok::<_, anyhow::Error>(Scrape::of(&node)?.count(name, &destination));
    let figures = (bytes(sent)?, bytes(received)?);
    let seen = dial(&client, &[&at(&near), "--say", "ECHO hello"])?;
    ensure!(seen.error.is_none(), "{seen:?}");
    counted(&node, "istio_tcp_connections_closed_total", &destination, |count| count == before + 1)?;
    counted(&node, "istio_tcp_connections_opened_total", &both, |count| count == before + 1)?;
    let figures = (bytes(sent)? - figures.0, bytes(received)? - figures.1);
    let answered = i64::try_from(seen.greeting.len() + 1 + seen.received)?;
    ensure!(figures.1 == answered && figures.0 > 0, "{figures:?} of {answered}: {seen:?}");
    Ok(())
}

#[test]
fn a_telemetry_is_about_express_flows_as_well() -> Result<()> {
    let (bed, client, near) = bed(Inbound::SkLookup)?;
    let node = bed.node("node-1")?;
    let labels = [("source_workload", "client"), ("destination_workload", "near")];
    let total =
        || Ok::<_, anyhow::Error>(Scrape::of(&node)?.count("istio_tcp_connections_opened_total", &labels));
    let before = total()?;
    ensure!(dial(&client, &[&at(&near)])?.served());
    counted(&node, "istio_tcp_connections_opened_total", &labels, |count| count > before)?;
    bed.apply(
        "{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: quiet, namespace: mesh}, \
         spec: {metrics: [{providers: [{name: prometheus}], overrides: [{match: {metric: ALL_METRICS}, disabled: true}]}], \
         accessLogging: [{disabled: true}]}}",
    )?;
    // Once it is in force nothing is told of a flow, though the kernel still makes it.
    bed.wait("silence", Duration::from_secs(10), |_| {
        let (Ok(counted), Ok(made)) = (total(), taken(&bed)) else { return false };
        let lines = || node.log().unwrap_or_default().matches("connection complete").count();
        let logged = lines();
        let served = dial(&client, &[&at(&near)]).is_ok_and(|seen| seen.served());
        std::thread::sleep(Duration::from_millis(1_500));
        let is_quiet = total().is_ok_and(|now| now == counted) && lines() == logged;
        served && is_quiet && taken(&bed).is_ok_and(|now| now > made)
    })?;
    Ok(())
}

#[test]
fn a_change_of_policy_cuts_open_flows_within_a_second() -> Result<()> {
    let (bed, client, near) = bed(Inbound::SkLookup)?;
    let mut held = client.spawn(&["netprobe", "hold", &at(&near)])?;
    ensure!(held.line(Duration::from_secs(5))? == "holding 1", "{}", held.errors());
    let node = bed.node("node-1")?;
    bed.wait("an express flow on the admin page", Duration::from_secs(5), |_| {
        node.admin("/connections").is_ok_and(|text| text.contains("express"))
    })?;
    bed.apply(&deny(7000))?;
    let begun = std::time::Instant::now();
    let line = held.line(Duration::from_secs(5))?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "it took {:?}: {line}", begun.elapsed());
    logged(&bed, "node-1", &["cut after a change of policy"]).context("the reason")
}

/// As a request on a connection that is kept: nobody forbids it, and the next one has to follow the rules.
#[test]
fn a_rule_about_a_service_ends_its_quiet_flows_and_no_others() -> Result<()> {
    let (bed, client, near) = bed(Inbound::SkLookup)?;
    bed.apply(&service("mesh", "web", "app: near").replace("name: tcp,", "name: http,"))?;
    let web = |bed: &Bed| Ok::<_, anyhow::Error>(format!("{}:80", bed.status().service_ip("mesh/web")?));
    bed.wait("an address", Duration::from_secs(5), |bed| web(bed).is_ok())?;
    let web = web(&bed)?;
    until_taken(&bed, &client, &web)?;
    let hold = |to: &str| -> Result<Process> {
        let mut held = client.spawn(&["netprobe", "hold", to])?;
        ensure!(held.line(Duration::from_secs(5))? == "holding 1", "{}", held.errors());
        Ok(held)
    };
    let (mut to_service, mut to_pod) = (hold(&web)?, hold(&at(&near))?);
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: mesh}, \
         spec: {hosts: [web], http: [{timeout: 1s, route: [{destination: {host: web}}]}]}}",
    )?;
    let begun = std::time::Instant::now();
    let line = to_service.line(Duration::from_secs(5))?;
    ensure!(line.starts_with("ended"), "{line}");
    ensure!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    logged(&bed, "node-1", &["Ended an express flow in a quiet moment"])?;
    ensure!(
        to_pod.line(Duration::from_millis(500)).is_err(),
        "rules about a service are none about its pods"
    );
    let before = taken(&bed)?;
    ensure!(!dial(&client, &[&web])?.refused() && taken(&bed)? == before, "the next one is the proxy's");
    Ok(())
}

#[test]
fn the_mesh_can_do_without() -> Result<()> {
    let (bed, client, near) = bed(Inbound::SkLookup)?;
    bed.apply(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, \
         data: {mesh: 'expressPath: disabled'}}",
    )?;
    let passes = |bed: &Bed| -> Result<bool> {
        let before = taken(bed)?;
        let seen = dial(&client, &[&at(&near)])?;
        Ok(seen.served() && taken(bed)? == before)
    };
    bed.wait("connections through the proxy", Duration::from_secs(5), |bed| passes(bed).unwrap_or(false))?;
    ensure!(passes(&bed)?, "it comes and goes");
    Ok(())
}
