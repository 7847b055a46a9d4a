//! Step 1: the nodes and the application come up. Step 2: what the mesh has taken hold of.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_common::Stat;
use serde_json::Value;

use super::access::short;
use super::console::count;
use super::kernel::Pins;
use super::tour::{Tour, time};
use crate::bed::{BedError, NodeStatus};
use crate::scenario;

/// Waits until all runs, and shows the pods.
pub(super) fn come_up(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "Every node is a network namespace with one mesh-node process, every pod a network namespace with its own \
         address and cgroup; the containers are local processes. What runs is what these manifests say:",
    );
    let (samples, network) = (tour.samples_shown(), tour.bed.status().network);
    tour.console.command(&[&format!("ls {samples}")]);
    if let Some(page) = tour.bed.status().dashboard {
        tour.console.say(&format!("What flows is shown live in a browser, from now on: http://{page}/"));
    }
    wait_ready(tour, Instant::now() + Duration::from_secs(60))?;
    scenario::captured(&tour.bed, Duration::from_secs(10))?;
    let interrupted = tour.interrupted.clone();
    tour.bed.wait("every node knows that all pods are ready", Duration::from_secs(10), |bed| {
        let nodes = bed.status().nodes;
        let informed = |node: &NodeStatus| {
            bed.node(&node.name).and_then(|n| n.admin("/config_dump")).is_ok_and(|dump| all_endpoints(&dump))
        };
        interrupted.raised() || nodes.iter().all(informed)
    })?;
    let took = time(tour.started.elapsed());
    let status = tour.bed.status();
    let ready = status.pods.iter().filter(|pod| pod.ready).count();
    let seen = format!(
        "{} ({}) and {} of {} ready after {took}",
        count(status.nodes.len(), "node"),
        format!("{network:?}").to_lowercase(),
        ready,
        count(status.pods.len(), "pod")
    );
    let rows = status.pods.iter().map(|pod| {
        let ip = pod.ip.map(|ip| ip.to_string()).unwrap_or_default();
        vec![pod.namespace.clone(), pod.name.clone(), pod.node.clone(), ip, pod.restarts.to_string()]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    tour.console.table(&["NAMESPACE", "POD", "NODE", "IP", "RESTARTS"], &rows);
    tour.check("all pods ready on all nodes, and each node's mesh-node", status.ready, &seen)
}

/// Whether a node's dump has every pod of a service among its endpoints: the bed tells nodes of readiness as a cluster
/// does, a moment after the fact.
fn all_endpoints(dump: &str) -> bool {
    let dump: Value = serde_json::from_str(dump).unwrap_or_default();
    let (Some(services), Some(workloads)) = (dump["services"].as_array(), dump["workloads"].as_array())
    else {
        return false;
    };
    let complete = |service: &Value| {
        let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
        let name = Value::from(format!("{}/{}", text("namespace"), text("name")));
        let serves = |workload: &&Value| workload["services"].as_array().is_some_and(|of| of.contains(&name));
        let endpoints = service["endpoints"].as_object().map_or(0, serde_json::Map::len);
        endpoints == workloads.iter().filter(serves).count()
    };
    !services.is_empty() && services.iter().all(complete)
}

/// In short waits, because nothing else interrupts a wait.
fn wait_ready(tour: &mut Tour, deadline: Instant) -> Result<()> {
    loop {
        tour.interrupted.check()?;
        let console = &mut tour.console;
        let waited = tour.bed.wait_ready(Duration::from_millis(300), |status| {
            let ready = status.pods.iter().filter(|pod| pod.ready).count();
            console.progress(&format!("{ready} of {} ready", count(status.pods.len(), "pod")));
        });
        match waited {
            Err(BedError::Timeout { .. }) if Instant::now() < deadline => {}
            other => return Ok(other?),
        }
    }
}

/// Shows pods, hooks and counters.
pub(super) fn captured(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "Pods of a namespace with the label istio.io/dataplane-mode=ambient belong to the mesh. Nothing is added to \
         them: no container, no iptables rule, no restart. Each has an identity and a certificate for it.",
    );
    pods(tour)?;
    untouched(tour)?;
    for node in tour.bed.status().nodes {
        hooks(tour, &node.name)?;
    }
    counters(tour)
}

fn pods(tour: &mut Tour) -> Result<()> {
    let status = tour.bed.status();
    let admin = status.nodes.first().and_then(|node| node.admin.clone()).context("no admin page")?;
    tour.console.command(&[&format!("curl -s http://{admin}/state.json | jq .pods")]);
    let mut known = BTreeMap::new();
    for node in &status.nodes {
        let state = tour.admin(&node.name, "/state.json")?;
        for pod in state["pods"].as_array().context("a node without pods")? {
            let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
            let until = text(&pod["certificate"]["notAfter"]);
            let until =
                until.get("2026-".len().."2026-01-02T03:04".len()).unwrap_or("none").replace('T', " ");
            let name = format!("{}/{}", text(&pod["namespace"]), text(&pod["name"]));
            known.insert(name, (text(&pod["state"]), short(&text(&pod["identity"])), until));
        }
    }
    let mut wrong = Vec::new();
    let rows = status.pods.iter().map(|pod| {
        let enrolled = pod.namespace == "default";
        let state = known.get(&pod.full_name());
        if state.map(|(state, ..)| state.as_str()) != enrolled.then_some("captured") {
            wrong.push(pod.full_name());
        }
        let (state, identity, until) =
            state.cloned().unwrap_or(("not enrolled".into(), "-".into(), "-".into()));
        vec![pod.full_name(), state, identity, until]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let expected =
        "every pod of `default` is captured and has a valid certificate; no pod of `outside` is known";
    let certified = known.values().all(|(.., until)| until != "none");
    let seen = match wrong.as_slice() {
        [] => format!("{} of {} captured", known.len(), count(rows.len(), "pod")),
        wrong => format!("not so: {}", wrong.join(", ")),
    };
    tour.console.table(&["POD", "CAPTURE", "IDENTITY", "VALID UNTIL"], &rows);
    tour.console.say("An identity is short for spiffe://cluster.local/ns/NAMESPACE/sa/ACCOUNT.");
    tour.check(expected, wrong.is_empty() && certified, &seen)?;
    tour.console.space();
    Ok(())
}

fn untouched(tour: &mut Tour) -> Result<()> {
    let pod = tour.pod("default/productpage")?;
    tour.show_command("default/productpage", "iptables-save");
    let output = pod.exec(&["iptables-save"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rules = text.lines().filter(|line| line.starts_with("-A")).count();
    let restarts: u32 = tour.pods("default/").iter().map(|pod| pod.restarts).sum();
    let seen = format!("{}, {} in the mesh's pods", count(rules, "rule"), count(restarts, "restart"));
    let holds = output.status.success() && rules == 0 && restarts == 0;
    tour.check("no packet filter rule in an enrolled pod, and no restart", holds, &seen)?;
    tour.console.space();
    Ok(())
}

fn hooks(tour: &mut Tour, node: &str) -> Result<()> {
    let pins = Pins::of(&tour.bed, node)?;
    let links = pins.links()?;
    let enrolled = tour.pods("default/").iter().filter(|pod| pod.node == node).count();
    tour.console.command(&[&format!("ls {}/link", pins.root.display())]);
    let pods: Vec<String> = links.pods.iter().map(|(hook, pods)| format!("{hook} ({pods})")).collect();
    let guarded = ["guard-in-eth0", "guard-out-eth0"].map(|hook| links.pods.get(hook).copied().unwrap_or(0));
    let whole = ["connect4", "connect6", "sockops"].map(|hook| links.node.iter().any(|link| link == hook));
    let seen = format!(
        "{} loaded; for the node: {}; of pods: {}",
        count(pins.programs()?.len(), "program"),
        links.node.join(", "),
        pods.join(", ")
    );
    let holds = guarded == [enrolled, enrolled] && whole == [true; 3];
    tour.check(
        &format!("hooks on the node's cgroup and guards on its {enrolled} enrolled pods"),
        holds,
        &seen,
    )
}

/// One connection of an enrolled pod moves the counter by one, one of a pod outside does not.
fn counters(tour: &mut Tour) -> Result<()> {
    tour.console.space();
    tour.console.say(
        "A connect to a pod of another node goes to the node's proxy (`captured`). One between two pods of a node that needs \
         nothing but identity and policy is decided by the kernel, and goes past the proxy (`express`).",
    );
    let server = tour.pod("default/details")?.status().node.clone();
    for name in ["default/sleep", "default/productpage", "outside/client"] {
        let pod = tour.pod(name)?;
        let node = pod.status().node.clone();
        let expected = match (pod.status().namespace.as_str(), node == server) {
            ("outside", _) => None,
            (_, true) => Some((Stat::Express, "express")),
            (_, false) => Some((Stat::Captured, "captured")),
        };
        let pins = Pins::of(&tour.bed, &node)?;
        let url = details_of(tour, &pod)?;
        tour.show_command(name, &format!("curl -s {url}"));
        tour.console.command(&[&pins.counters_command()]);
        let (Some(before), fetched, Some(after)) = (
            pins.counters(&tour.bed.node(&node)?)?,
            tour.curl(&pod, &[&url])?,
            pins.counters(&tour.bed.node(&node)?)?,
        ) else {
            tour.console.say("(bpftool is not installed: the counters of the kernel programs are not shown)");
            return Ok(());
        };
        let rose = |stat: Stat| {
            let at = |counters: &BTreeMap<u64, u64>| counters.get(&(stat as u64)).copied().unwrap_or(0);
            at(&after).saturating_sub(at(&before))
        };
        let moved: Vec<String> = Stat::ALL
            .iter()
            .filter(|(stat, _)| rose(*stat) > 0)
            .map(|(stat, name)| format!("{name} +{}", rose(*stat)))
            .collect();
        let moved = if moved.is_empty() { "no counter moved".to_owned() } else { moved.join(", ") };
        let seen = format!("{}; on {node}: {moved}", fetched.outcome());
        let ways = [Stat::Express, Stat::Captured];
        let of = |way: Stat| u64::from(expected.is_some_and(|(it, _)| it as u64 == way as u64));
        let holds = fetched.good() && ways.into_iter().all(|way| rose(way) == of(way));
        let what = expected.map_or_else(
            || "an answer, and neither `captured` nor `express` rises".to_owned(),
            |(_, name)| format!("an answer, and `{name}` rises by 1"),
        );
        tour.check(&what, holds, &seen)?;
    }
    Ok(())
}

/// `details` by its name inside the mesh; outside, the name belongs to another namespace.
fn details_of(tour: &Tour, pod: &crate::bed::PodHandle) -> Result<String> {
    match pod.status().namespace.as_str() {
        "default" => Ok("http://details:9080/details/0".to_owned()),
        "outside" => {
            Ok(format!("http://{}:9080/details/0", tour.bed.status().service_ip("default/details")?))
        }
        other => bail!("nobody expects pods in {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_complete_with_all_its_pods() {
        let dump = |endpoints: &str| {
            format!(
                r#"{{"services": [{{"namespace": "a", "name": "s", "endpoints": {{{endpoints}}}}}],
                    "workloads": [{{"services": ["a/s"]}}, {{"services": ["a/s"]}}, {{"services": []}}]}}"#
            )
        };
        assert!(all_endpoints(&dump(r#""x": {}, "y": {}"#)));
        assert!(!all_endpoints(&dump(r#""x": {}"#)));
        assert!(!all_endpoints("") && !all_endpoints(r#"{"services": [], "workloads": []}"#));
    }
}
