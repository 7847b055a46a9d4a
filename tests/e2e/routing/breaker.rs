//! What is too much is refused at once, and who fails is left out.

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{captured, logged, start};

use super::{Answer, apply, ask, ask_at_once, ask_once, bookinfo, sample, statuses, until};
use crate::scrape::{Scrape, counted};
use std::time::Duration;

#[test]
fn breakers_and_outliers_of_the_sample() -> Result<()> {
    let manifests = [&sample("bookinfo/namespace.yaml")?, &clients()?, &sample("httpbin/httpbin.yaml")?];
    let bed = start(Bed::builder().nodes(2).manifests(manifests.map(String::as_str).join("---\n")))?;
    let sleep = bed.pod("default/sleep")?;
    overflow(&bed, &sleep).context("what is too much")?;
    one_connection_serves_all(&bed, &sleep).context("one connection")?;
    outlier(&bed, &sleep).context("a pod that fails")
}

/// `sleep` and `sleep-2` without the rest of Bookinfo.
fn clients() -> Result<String> {
    let all = bookinfo()?;
    let documents = all.split("---\n").filter(|text| text.contains("name: sleep"));
    Ok(documents.collect::<Vec<_>>().join("---\n"))
}

fn overflow(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    apply(bed, "httpbin/circuit-breaker.yaml")?;
    let mut answers = Vec::new();
    let overflows = bed.wait("an overflow", Duration::from_secs(5), |_| {
        answers = ask_at_once(sleep, &["http://httpbin:8000/delay/0.3?n=[1-6]"]).unwrap_or_default();
        answers.iter().any(|answer| answer.status == 503)
    });
    overflows.with_context(|| format!("{answers:?}"))?;
    let seen = statuses(&answers);
    ensure!(seen.keys().eq([&200, &503]) && seen[&200] >= 2, "one is served, one waits: {seen:?}");
    let fast = |answer: &&Answer| answer.overloaded == "true" && answer.time < 0.2;
    let refused = answers.iter().filter(|answer| answer.status == 503);
    ensure!(refused.clone().count() == refused.filter(fast).count(), "refused at once: {answers:?}");
    let labels = [
        ("source_workload", "sleep"),
        ("destination_service_name", "httpbin"),
        ("response_code", "503"),
        ("response_flags", "UO"),
    ];
    let refused = i64::try_from(seen[&503])?;
    counted(&bed.node("node-1")?, "istio_requests_total", &labels, |count| count >= refused)?;
    logged(bed, "node-1", &["GET /delay/0.3", " 503 UO "])?;
    // Each client has breakers of its own, and what was never sent says nothing of the pod.
    for client in [sleep, &bed.pod("default/sleep-2")?] {
        let answer = ask_once(client, &["http://httpbin:8000/get"])?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    nothing_was_cut(bed)
}

/// A connection that has served its number of requests is ended, not torn down: no node takes it for a failure.
fn nothing_was_cut(bed: &Bed) -> Result<()> {
    let node = bed.pod("default/httpbin")?.status().node.clone();
    let labels = [("reporter", "destination"), ("destination_workload", "httpbin")];
    let closed = |flags: Option<&str>| -> Result<i64> {
        let flags = flags.map(|flags| ("response_flags", flags));
        let labels: Vec<_> = labels.into_iter().chain(flags).collect();
        Ok(Scrape::of(&bed.node(&node)?)?.count("istio_tcp_connections_closed_total", &labels))
    };
    bed.wait("connections to end", Duration::from_secs(3), |_| closed(None).is_ok_and(|all| all >= 4))?;
    let (all, well) = (closed(None)?, closed(Some("-"))?);
    ensure!(all == well, "{well} of {all} ended well");
    Ok(())
}

/// A connection that is kept serves whoever comes next, whatever thread has it, and whichever endpoint is meant.
fn one_connection_serves_all(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    let second = sample("httpbin/httpbin.yaml")?;
    let second =
        second.split("---\n").find(|text| text.contains("kind: Deployment")).context("a deployment")?;
    bed.apply(
        &second
            .replace("name: httpbin\nspec:", "name: httpbin-v2\nspec:")
            .replace("version: v1", "version: v2"),
    )?;
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: httpbin, namespace: default}, \
         spec: {host: httpbin, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}, loadBalancer: {simple: ROUND_ROBIN}}}}",
    )?;
    bed.wait_ready(Duration::from_secs(10), |_| ())?;
    captured(bed, Duration::from_secs(10))?;
    let url = "http://httpbin:8000/hostname";
    until(bed, sleep, &[url], |answer| answer.status == 200 && answer.body.contains("httpbin-v2"))?;
    let mut slowest = 0.0;
    for _ in 0..20 {
        let answer = ask_once(sleep, &[url, "--max-time", "5"])?;
        ensure!(answer.status == 200, "{answer:?}");
        slowest = f64::max(slowest, answer.time);
    }
    ensure!(slowest < 1.0, "nobody waits for a connection that does nothing: {slowest} s");
    Ok(())
}

/// The pod is beside its client: with outlier detection, others are used in so far as the nearest are not well.
fn outlier(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    bed.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: broken, namespace: default, labels: {app: httpbin, version: v3}}, \
         spec: {nodeName: node-1, containers: [{name: c, image: local, command: [httpbin, --always, \"500\"], \
         ports: [{containerPort: 8080}], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}]}}",
    )?;
    bed.wait_ready(Duration::from_secs(10), |_| ())?;
    let url = "http://httpbin:8000/hostname?n=[1-60]";
    bed.wait("failures", Duration::from_secs(5), |_| {
        ask(sleep, &[url]).is_ok_and(|answers| statuses(&answers).contains_key(&500))
    })?;
    apply(bed, "httpbin/circuit-breaker.yaml")?;
    let mut seen = statuses(&[]);
    let healed = bed.wait("the broken pod to be left out", Duration::from_secs(5), |_| {
        seen = ask(sleep, &[url]).map(|answers| statuses(&answers)).unwrap_or_default();
        seen.keys().eq([&200])
    });
    healed.with_context(|| format!("{seen:?}"))?;
    let answers = ask(sleep, &[url])?;
    ensure!(statuses(&answers).keys().eq([&200]), "it stays left out: {:?}", statuses(&answers));
    logged(bed, "node-1", &["outbound|8000||httpbin.default.svc.cluster.local", "Left out an endpoint"])
}
