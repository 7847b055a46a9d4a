//! What is not HTTP stays bytes, and what leaves HTTP gets through.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{Dialled, dial, eventually, pod, start};
use mesh_tests::tool::ClientReport;

use super::{ask_once, sample, until};
use crate::scrape::{Scrape, counted};

#[test]
fn only_requests_with_rules_are_looked_into() -> Result<()> {
    let raw = pod("default", "raw", "node-2", &["netprobe", "serve", "--port", "7000"]);
    let service = "{apiVersion: v1, kind: Service, metadata: {name: raw, namespace: default}, spec: {selector: {app: raw}, \
                   ports: [{name: tcp, port: 80, targetPort: 7000}, {name: http, port: 81, targetPort: 7000}, \
                   {name: own, port: 82, targetPort: 7000}]}}\n";
    let sleep = sample("bookinfo/sleep.yaml")?.replace("  containers:", "  nodeName: node-1\n  containers:");
    let (namespace, httpbin) = (sample("bookinfo/namespace.yaml")?, sample("httpbin/httpbin.yaml")?);
    let manifests = [namespace.as_str(), &sleep, &httpbin, &raw, service].join("\n---\n");
    let bed = start(Bed::builder().nodes(2).manifests(manifests))?;
    let sleep = bed.pod("default/sleep")?;
    bytes_stay_bytes(&bed, &sleep).context("bytes")?;
    http2(&bed, &sleep).context("HTTP/2")?;
    websocket(&bed, &sleep).context("WebSocket")
}

fn bytes_stay_bytes(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    let vip = bed.status().service_ip("default/raw")?;
    let to = |port: u16| format!("{vip}:{port}");
    for port in [80, 81, 82] {
        eventually(bed, sleep, &to(port), Dialled::served)?;
    }
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: raw, namespace: default}, \
         spec: {hosts: [raw], http: [{route: [{destination: {host: raw}}], timeout: 5s}]}}",
    )?;
    // The port that says it carries HTTP is held to its word; one that says nothing carries what comes.
    let seen = eventually(bed, sleep, &to(81), |seen| !seen.served())?;
    ensure!(seen.greeting.starts_with("HTTP/1.1 400"), "{seen:?}");
    for port in [80, 82] {
        let seen = dial(sleep, &[&to(port), "--bytes", "100000"])?;
        ensure!(seen.served() && seen.received == 100_000, "{port}: {seen:?}");
    }
    let node = bed.node("node-1")?;
    let service = [("destination_service_name", "raw"), ("source_workload", "sleep"), ("reporter", "source")];
    // Connections of bytes are counted as such.
    counted(&node, "istio_tcp_connections_opened_total", &service, |connections| connections >= 5)?;
    let requests = Scrape::of(&node)?.count("istio_requests_total", &service);
    ensure!(requests <= 1, "they are no requests: {requests}");
    bed.delete("VirtualService", "default", "raw")?;
    eventually(bed, sleep, &to(81), Dialled::served)?;
    Ok(())
}

/// The client speaks HTTP/2 without having asked; the pod understands HTTP/1 only.
fn http2(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: httpbin, namespace: default}, \
         spec: {hosts: [httpbin], http: [{route: [{destination: {host: httpbin}}], \
         headers: {request: {set: {x-rule: \"yes\"}}}}]}}",
    )?;
    let ruled = |answer: &super::Answer| answer.body.contains("\"x-rule\":\"yes\"");
    until(bed, sleep, &["http://httpbin:8000/anything/1"], ruled)?;
    let upload = "x".repeat(100_000);
    let words = ["--http2-prior-knowledge", "-d", &upload, "http://httpbin:8000/anything/2"];
    let answer = ask_once(sleep, &words)?;
    ensure!(answer.status == 200 && ruled(&answer) && answer.body.contains(&upload), "{answer:?}");
    let version = sleep.exec(&[
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_version}",
        "--http2-prior-knowledge",
        "http://httpbin:8000/get",
    ])?;
    ensure!(version.stdout == b"2", "{version:?}");
    Ok(())
}

fn websocket(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    let vip = bed.status().service_ip("default/httpbin")?;
    let hello = "GET /websocket/echo HTTP/1.1\r\nHost: httpbin:8000\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let to = format!("{vip}:8000");
    let output = sleep.exec(&[
        "testbed",
        "tool",
        "client",
        &to,
        "--send",
        hello,
        "--bytes",
        "1000000",
        "--half-close",
        "--timeout",
        "5000",
    ])?;
    let report: ClientReport = serde_json::from_slice(&output.stdout).context("the client's report")?;
    let (head, _) = report.text.split_once("\r\n\r\n").with_context(|| report.text.clone())?;
    ensure!(
        head.starts_with("HTTP/1.1 101 ") && head.to_lowercase().contains("upgrade: websocket"),
        "{head}"
    );
    let echoed = report.received - u64::try_from(head.len() + 4)?;
    ensure!(echoed == 1_000_000 && report.end == "eof", "{echoed} bytes, {}", report.end);
    bed.wait("the exchange in the log", Duration::from_secs(3), |bed| {
        let log = bed.node("node-1").and_then(|node| node.log()).unwrap_or_default();
        log.contains("\"GET /websocket/echo HTTP/1.1\" 101 ")
    })?;
    Ok(())
}
