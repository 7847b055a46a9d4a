//! Waypoints: rules in a process of its own, which nodes send everything through that is bound to it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, Builder, PodHandle};
use mesh_tests::scenario::{pod, start};
use mesh_tests::waypoint::Source;

use crate::routing::{Answer, ask, ask_once, until};
use crate::scrape::Scrape;

mod bindings;
mod hostile;
mod policies;
mod sample;

/// How nodes and the waypoint come to know the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Everyone compiles it.
    Embedded,
    /// A control plane tells it.
    Wire,
}

impl Way {
    fn bed(self) -> Builder {
        let bed = Bed::builder().nodes(2).manifests(manifests());
        if self == Self::Embedded { bed.embedded() } else { bed }
    }
}

/// `shop/web` on two nodes, in versions, behind a Service; `mesh/client` on node-1 and `mesh/other` on node-2.
fn manifests() -> String {
    let mut all = String::from(
        "{apiVersion: v1, kind: Namespace, metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}}\n---\n\
         {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}\n---\n",
    );
    all += &pod("mesh", "client", "node-1", &["sleep", "infinity"]);
    all += &pod("mesh", "other", "node-2", &["sleep", "infinity"]);
    let web = [("v1", "node-1"), ("v2", "node-2")].map(|(version, node)| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web-{version}, namespace: shop, \
             labels: {{app: web, version: {version}}}}}, \
             spec: {{nodeName: {node}, serviceAccountName: web, containers: [{{name: main, image: local, \
             command: [httpbin], readinessProbe: {{httpGet: {{path: /get, port: 8080}}, periodSeconds: 1}}}}]}}}}\n---\n"
        )
    });
    all.extend(web);
    all += "{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}\n---\n";
    all + &service("")
}

/// The Service, with these labels.
fn service(labels: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop, labels: {{{labels}}}}}, \
         spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n"
    )
}

/// The Gateway, with these labels.
fn gateway(name: &str, labels: &str) -> String {
    mesh_tests::waypoint::gateway(("shop", name), labels)
}

/// A pod of the waypoint `shop/NAME` on node-2, whose namespace is captured while it is not.
fn waypoint(bed: &Bed, way: Way, name: &str) -> Result<String> {
    let source = if way == Way::Embedded { Source::Directory } else { Source::Control };
    mesh_tests::waypoint::pod(bed, source, ("shop", name), "node-2")
}

/// A bed with a waypoint that serves, to which nothing is bound.
pub(crate) fn with_waypoint(way: Way) -> Result<Bed> {
    let bed = start(way.bed())?;
    bed.apply(&gateway("way", ""))?;
    bed.apply(&waypoint(&bed, way, "way")?)?;
    let ready = bed.wait_ready(Duration::from_secs(30), |_| ());
    ready.with_context(|| bed.pod("shop/way-pod").map(|pod| pod.log()).unwrap_or_default())?;
    Ok(bed)
}

pub(crate) fn bind(bed: &Bed) -> Result<()> {
    Ok(bed.apply(&service("istio.io/use-waypoint: way"))?)
}

/// Requests of the waypoint's metrics with these labels.
fn counted(bed: &Bed, name: &str, labels: &[(&str, &str)]) -> Result<i64> {
    let output = bed.pod("shop/way-pod")?.exec(&["curl", "-s", "http://127.0.0.1:15020/metrics"])?;
    Ok(Scrape::parse(&String::from_utf8_lossy(&output.stdout))?.count(name, labels))
}

/// Waits until an answer is as wanted; what the waypoint and the nodes have said is in the error.
fn waits(bed: &Bed, from: &PodHandle, words: &[&str], wanted: impl Fn(&Answer) -> bool) -> Result<Answer> {
    until(bed, from, words, wanted).with_context(|| {
        let pod = bed.pod("shop/way-pod").map(|pod| pod.log()).unwrap_or_default();
        let nodes =
            ["node-1", "node-2"].map(|node| bed.node(node).and_then(|node| node.log()).unwrap_or_default());
        format!("the waypoint:\n{pod}\nnode-1:\n{}\nnode-2:\n{}", nodes[0], nodes[1])
    })
}

const URL: &str = "http://web.shop/headers";

/// Rules for all requests, for those with a header, and for those of some clients.
const RULES: &str = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop}, \
     spec: {hosts: [web], http: [\
     {match: [{headers: {end-user: {exact: jason}}}], fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, \
     route: [{destination: {host: web}}]}, \
     {match: [{sourceLabels: {app: other}}], headers: {request: {set: {x-from: other}}}, \
     route: [{destination: {host: web, subset: v2}}]}, \
     {match: [{sourceNamespace: nowhere}], directResponse: {status: 599}}, \
     {headers: {request: {set: {x-from: anybody}}}, route: [{destination: {host: web, subset: v1}, weight: 100}, \
     {destination: {host: web, subset: v2}, weight: 0}]}]}}\n---\n\
     {apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web, namespace: shop}, \
     spec: {host: web, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}\n---\n";

fn rules_are_enforced(way: Way) -> Result<()> {
    let bed = with_waypoint(way)?;
    let (client, other) = (bed.pod("mesh/client")?, bed.pod("mesh/other")?);
    waits(&bed, &client, &[URL], |answer| answer.status == 200).context("without a waypoint")?;
    ensure!(counted(&bed, "istio_requests_total", &[])? == 0, "nothing is bound");
    bed.apply(RULES)?;
    bind(&bed)?;
    let through = [("reporter", "waypoint"), ("response_code", "200"), ("source_workload", "client")];
    bed.wait("a request at the waypoint", Duration::from_secs(10), |bed| {
        let _ = ask_once(&client, &[URL]);
        counted(bed, "istio_requests_total", &through).is_ok_and(|count| count > 0)
    })?;
    // Nobody but the waypoint acts on rules now: had the node done so as well, there would be two of its series.
    let before = node_requests(&bed)?;
    let all = ask(&client, &[&format!("{URL}?n=[1-40]")])?;
    let good = |answer: &&Answer| {
        answer.status == 200
            && answer.body.contains("web-v1")
            && answer.body.contains("\"x-from\":\"anybody\"")
    };
    ensure!(all.iter().filter(good).count() == 40, "{all:?}");
    let aborted = ask_once(&client, &[URL, "-H", "end-user: jason"])?;
    ensure!(aborted.status == 418, "{aborted:?}");
    let from_other =
        |answer: &Answer| answer.body.contains("web-v2") && answer.body.contains("\"x-from\":\"other\"");
    waits(&bed, &other, &[URL], from_other).context("sourceLabels")?;
    ensure!(node_requests(&bed)? == before, "a node has acted on requests");
    // Who sent it is known by its certificate, and the waypoint's own is what the server's node sees.
    let labels = [
        ("reporter", "waypoint"),
        ("source_principal", "spiffe://cluster.local/ns/mesh/sa/other"),
        ("destination_service_name", "web"),
        ("connection_security_policy", "mutual_tls"),
    ];
    ensure!(counted(&bed, "istio_requests_total", &labels)? > 0, "source by certificate");
    let labels = [
        ("reporter", "destination"),
        ("destination_workload", "web-v2"),
        ("source_principal", "spiffe://cluster.local/ns/shop/sa/way"),
    ];
    let seen = Scrape::of(&bed.node("node-2")?)?.count("istio_tcp_connections_opened_total", &labels);
    ensure!(seen > 0, "the server's node has seen the waypoint");
    // A change of the rules takes effect there.
    bed.apply(&RULES.replace("httpStatus: 418", "httpStatus: 429"))?;
    waits(&bed, &client, &[URL, "-H", "end-user: jason"], |answer| answer.status == 429)?;
    // What only nodes may do goes on: without its label the service is reached directly.
    bed.apply(&service(""))?;
    bed.wait("the end of the binding", Duration::from_secs(10), |bed| {
        let before = node_requests(bed).unwrap_or_default();
        ask_once(&client, &[URL]).is_ok_and(|answer| answer.status == 200)
            && node_requests(bed).is_ok_and(|now| now > before)
    })?;
    Ok(())
}

/// Requests that nodes have reported as such.
fn node_requests(bed: &Bed) -> Result<i64> {
    let of = |node: &str| anyhow::Ok(Scrape::of(&bed.node(node)?)?.count("istio_requests_total", &[]));
    Ok(of("node-1")? + of("node-2")?)
}

#[test]
fn rules_are_enforced_at_the_waypoint() -> Result<()> {
    rules_are_enforced(Way::Wire)
}

#[test]
fn rules_are_enforced_at_the_waypoint_embedded() -> Result<()> {
    rules_are_enforced(Way::Embedded)
}

/// What is bound to a waypoint that is not there, not ready, or lets nobody in, is not reached.
#[test]
fn a_waypoint_that_is_missing_or_unready_closes_the_way() -> Result<()> {
    let bed = start(Way::Wire.bed())?;
    let client = bed.pod("mesh/client")?;
    waits(&bed, &client, &[URL], |answer| answer.status == 200)?;
    let closed = |why: &str| -> Result<()> {
        let complaint = "Refused a connection that has to go through a waypoint";
        bed.wait(why, Duration::from_secs(10), |bed| {
            let answered = ask_once(&client, &[URL]).is_ok_and(|answer| answer.status != 0);
            let log = bed.node("node-1").and_then(|node| node.log()).unwrap_or_default();
            let says = |word: &str| log.lines().any(|line| line.contains(word) && line.contains(why));
            !answered && says(complaint) && says("response_flags=\"UH\"")
        })?;
        Ok(())
    };
    bind(&bed)?;
    closed("there is no Gateway of this name")?;
    bed.apply(&gateway("way", ""))?;
    closed("no pod of it is")?;
    let unavailable = Scrape::of(&bed.node("node-1")?)?.count("mesh_waypoint_unavailable_total", &[]);
    ensure!(unavailable >= 2, "{unavailable} were counted");
    bed.apply(&waypoint(&bed, Way::Wire, "way")?)?;
    bed.wait_ready(Duration::from_secs(30), |_| ())?;
    waits(&bed, &client, &[URL], |answer| answer.status == 200).context("ready")?;
    bed.apply(
        &gateway("way", "").replace("from: All", "from: Selector, selector: {matchLabels: {no: body}}"),
    )?;
    closed("does not admit namespace shop")?;
    bed.apply(&gateway("way", ""))?;
    waits(&bed, &client, &[URL], |answer| answer.status == 200).context("admitted again")?;
    bed.delete("Pod", "shop", "way-pod")?;
    waits(&bed, &client, &[URL], |answer| answer.status == 0).context("its pod has gone")?;
    // A waypoint that is for other traffic leaves this alone.
    bed.apply(&gateway("way", "istio.io/waypoint-for: workload"))?;
    waits(&bed, &client, &[URL], |answer| answer.status == 200).context("for other traffic")?;
    Ok(())
}
