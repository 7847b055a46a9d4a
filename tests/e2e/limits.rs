//! Limits of requests and connections in a time, at nodes and at waypoints.

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{Dialled, dial, eventually, pod, start};

use crate::routing::{Answer, ask, ask_once, sample, until};
use crate::scrape::{Scrape, counted};
use crate::waypoint;

/// How many of so many requests were let through; the others must have been told that they are too many.
fn passing(from: &PodHandle, count: usize, words: &[&str]) -> Result<usize> {
    let (mut passed, many) = (0, format!("{}?n=[1-{count}]", words[0]));
    for answer in ask(from, &[&[many.as_str()], &words[1..]].concat())? {
        ensure!([200, 429].contains(&answer.status), "{words:?}: {answer:?}");
        passed += usize::from(answer.status == 200);
    }
    Ok(passed)
}

fn head(from: &PodHandle, words: &[&str]) -> Result<String> {
    let output = from.exec(&[&["curl", "-si", "--max-time", "10"], words].concat())?;
    Ok(String::from_utf8_lossy(&output.stdout).to_lowercase())
}

/// The sample, as its reader tries it.
#[test]
fn the_sample_does_what_it_says() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(sample("rate-limit/httpbin.yaml")?))?;
    let (client, other) = (bed.pod("default/client")?, bed.pod("default/other")?);
    let url = "http://httpbin/get";
    let first = head(&client, &[url])?;
    ensure!(first.contains(" 200") && first.contains("x-ratelimit-limit: 10"), "{first}");
    ensure!(first.contains("x-ratelimit-remaining: 9"), "{first}");
    // A tenth of a minute brings one more, should this take so long.
    let passed = passing(&client, 20, &[url])?;
    ensure!((9..=12).contains(&passed), "{passed}");
    let refused = head(&client, &[url])?;
    let told = refused.contains(" 429")
        && refused.contains("retry-after: ")
        && refused.contains("local_rate_limited");
    ensure!(told || refused.contains("x-ratelimit-remaining: 0"), "{refused}");
    let passed = passing(&other, 12, &[url])?;
    ensure!((10..=12).contains(&passed), "each identity has its own: {passed}");
    let node = bed.node(&client.status().node.clone())?;
    let labels = [("response_flags", "RL"), ("response_code", "429"), ("source_workload", "client")];
    counted(&node, "istio_requests_total", &labels, |count| count >= 8)?;
    strangers(&bed).context("from outside the mesh")?;
    users(&bed).context("users.yaml")?;
    connections(&bed, &client, &other).context("connections.yaml")
}

/// Who is in no mesh has nobody on its side who counts: the server's node does.
fn strangers(bed: &Bed) -> Result<()> {
    bed.apply(
        "{apiVersion: v1, kind: Namespace, metadata: {name: plain, labels: {istio.io/dataplane-mode: none}}}",
    )?;
    bed.apply(&pod("plain", "stranger", "node-1", &["sleep", "infinity"]))?;
    bed.wait_ready(std::time::Duration::from_secs(20), |_| ())?;
    let stranger = bed.pod("plain/stranger")?;
    let httpbin = bed.pod("default/httpbin")?;
    let url = format!("http://{}:8080/get", httpbin.ip());
    let first = head(&stranger, &[&url])?;
    ensure!(first.contains(" 200") && first.contains("x-ratelimit-limit: 10"), "{first}");
    let passed = passing(&stranger, 20, &[&url])?;
    ensure!((9..=12).contains(&passed), "{passed}");
    let node = bed.node(&httpbin.status().node.clone())?;
    let labels = [("reporter", "destination"), ("response_flags", "RL"), ("response_code", "429")];
    counted(&node, "istio_requests_total", &labels, |count| count >= 8)?;
    // Those of the mesh are counted where they are, and by whom they are.
    let own = Scrape::of(&node)?
        .count("istio_requests_total", &[("reporter", "destination"), ("source_workload", "client")]);
    ensure!(own == 0, "counted twice: {own}");
    // Whom policy refuses is not listened to first.
    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: default}, \
         spec: {mtls: {mode: STRICT}}}",
    )?;
    bed.wait("a stranger that gets no answer", std::time::Duration::from_secs(5), |_| {
        head(&stranger, &[&url]).is_ok_and(|answer| answer.is_empty())
    })?;
    bed.delete("PeerAuthentication", "default", "strict")?;
    Ok(())
}

fn users(bed: &Bed) -> Result<()> {
    bed.apply(&pod("default", "third", "node-1", &["sleep", "infinity"]))?;
    bed.wait_ready(std::time::Duration::from_secs(20), |_| ())?;
    let third = bed.pod("default/third")?;
    bed.apply(&sample("rate-limit/rules/users.yaml")?)?;
    let url = "http://httpbin/status/200";
    let user = |name: &str| format!("x-user: {name}");
    until(bed, &third, &[url, "-H", &user("zoe")], |answer| answer.status == 429)?;
    // The rule of the sample itself still holds: ten in all.
    for name in ["ann", "bob"] {
        let passed = passing(&third, 5, &[url, "-H", &user(name)])?;
        ensure!(passed <= 4, "{name}: {passed}");
    }
    Ok(())
}

fn connections(bed: &Bed, client: &PodHandle, other: &PodHandle) -> Result<()> {
    let to = format!("{}:7000", bed.status().service_ip("default/raw")?);
    eventually(bed, client, &to, Dialled::served)?;
    bed.apply(&sample("rate-limit/rules/connections.yaml")?)?;
    // Two, and then none for half a minute.
    eventually(bed, client, &to, |seen| !seen.served())?;
    ensure!(!dial(client, &[&to])?.served(), "another one");
    let direct = format!("{}:7000", bed.pod("default/raw")?.ip());
    ensure!(!dial(client, &[&direct])?.served(), "by another name");
    ensure!(dial(other, &[&to])?.served(), "each identity has its own");
    let node = bed.node(&bed.pod("default/raw")?.status().node.clone())?;
    let labels = [("reporter", "destination"), ("response_flags", "RL"), ("source_workload", "client")];
    counted(&node, "istio_tcp_connections_failed_total", &labels, |count| count >= 3)?;
    counted(&node, "mesh_connections_shed_total", &[("reason", "rate")], |count| count >= 3)?;
    bed.delete("RateLimit", "default", "raw")?;
    eventually(bed, client, &to, Dialled::served)?;
    Ok(())
}

/// What is bound to a waypoint is counted there, once, whoever sends it; and the limits of the waypoint are for all.
#[test]
fn a_waypoint_counts_for_all_nodes() -> Result<()> {
    let bed = waypoint::with_waypoint(waypoint::Way::Wire)?;
    waypoint::bind(&bed)?;
    let (client, other) = (bed.pod("mesh/client")?, bed.pod("mesh/other")?);
    let (url, from) = ("http://web.shop/headers", [&client, &other]);
    for from in from {
        until(&bed, from, &[url], |answer| answer.status == 200)?;
    }
    bed.apply(
        "{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {name: web, namespace: shop}, \
         spec: {targetRefs: [{kind: Service, name: web}], rules: [{requests: 6, per: 1h}]}}",
    )?;
    let limited = |answer: &Answer| answer.status == 429;
    let spent = |from: &PodHandle| {
        until(&bed, from, &[url], limited)
            .with_context(|| bed.pod("shop/way-pod").map(|it| it.log()).unwrap_or_default())
    };
    spent(&client)?;
    // One count for both, though they are on two nodes.
    ensure!(ask_once(&other, &[url])?.status == 429, "another count");
    for node in ["node-1", "node-2"] {
        let refused =
            Scrape::of(&bed.node(node)?)?.count("istio_requests_total", &[("response_flags", "RL")]);
        ensure!(refused == 0, "{node} has counted as well");
    }
    bed.apply(
        "{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {name: web, namespace: shop}, \
         spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: way}], \
         rules: [{requests: 5, per: 1h, by: [identity]}]}}",
    )?;
    for from in [&client, &other] {
        until(&bed, from, &[url], |answer| answer.status == 200)?;
        spent(from)?;
    }
    Ok(())
}
