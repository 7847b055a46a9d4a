//! What nodes tell: Bookinfo on two of them, read at layer 7 because a Telemetry of its namespace asks for traces.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::bed::Bed;
use mesh_tests::collector::Taken;
use mesh_tests::http::{Request, fetch};

use crate::prometheus::{Prometheus, check_metrics};

fn sample(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

const MESH: &str = "
---
{apiVersion: v1, kind: Namespace, metadata: {name: tracing}}
---
{apiVersion: v1, kind: Service, metadata: {name: zipkin, namespace: tracing}, spec: {selector: {app: collector},
  ports: [{name: http, port: 9411}, {name: grpc, port: 4317}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: collector, namespace: tracing, labels: {app: collector}}, spec: {
  terminationGracePeriodSeconds: 0, containers: [{name: c, image: none,
  command: [testbed, tool, collector, '0.0.0.0:9411', '0.0.0.0:4317'], readinessProbe: {tcpSocket: {port: 9411}}}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - {name: zipkin, zipkin: {service: zipkin.tracing.svc.cluster.local, port: 9411}}
---
{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: all, namespace: default},
  spec: {tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]}}
";

/// What the collector has taken.
fn taken(bed: &Bed) -> Result<Vec<Taken>> {
    let at = (bed.pod("tracing/collector")?.ip(), 9411).into();
    let answer =
        bed.node("node-1")?.run_in_netns(|| fetch(at, &Request::get("/taken"), Duration::from_secs(5)))??;
    Ok(serde_json::from_slice(&answer.body)?)
}

/// The spans of one request for the page, once all have come that have to.
fn trace(bed: &Bed) -> Result<Vec<Taken>> {
    let sleep = bed.pod("default/sleep")?;
    let until = Instant::now() + Duration::from_secs(30);
    let mut number = 0;
    loop {
        number += 1;
        let mark = format!("trace-{number}");
        let url = format!("http://productpage:9080/productpage?u={mark}");
        let answer = sleep.exec(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url])?;
        let status = String::from_utf8_lossy(&answer.stdout).into_owned();
        std::thread::sleep(Duration::from_secs(2));
        let all = taken(bed)?;
        let root = all.iter().find(|span| span.parent.is_empty() && span.tags["http.url"].ends_with(&mark));
        if let Some(root) = root.filter(|_| status == "200") {
            let own: Vec<_> = all.iter().filter(|span| span.trace == root.trace).cloned().collect();
            // To the page, from it to two services, and perhaps on to the ratings: both ends of each.
            if own.len() >= 6 {
                return Ok(own);
            }
        }
        if Instant::now() > until {
            bail!("no whole trace; the last answer was {status}, spans: {all:#?}");
        }
    }
}

#[test]
fn a_trace_goes_through_all_hops_and_prometheus_answers_what_dashboards_ask() -> Result<()> {
    let manifests = [
        sample("bookinfo/namespace.yaml")?,
        sample("bookinfo/bookinfo.yaml")?,
        sample("bookinfo/sleep.yaml")?,
    ];
    let bed = Bed::builder().nodes(2).manifests(manifests.join("---\n") + MESH).start()?;
    let spans = trace(&bed)?;
    let find = |service: &str, kind: &str, name: &str| -> Result<&Taken> {
        let of = |span: &&Taken| span.service == service && span.kind == kind && span.name.starts_with(name);
        spans.iter().find(of).with_context(|| format!("{service} {kind} {name}: {spans:#?}"))
    };
    let page = "productpage.default.svc.cluster.local:9080/";
    let sent = find("sleep.default", "CLIENT", page)?;
    let took = find("productpage.default", "SERVER", page)?;
    ensure!(sent.parent.is_empty() && took.parent == sent.id, "{sent:#?} {took:#?}");
    let reviews = "reviews.default.svc.cluster.local:9080/";
    let sent_on = find("productpage.default", "CLIENT", reviews)?;
    let took_on = find("reviews.default", "SERVER", reviews)?;
    ensure!(sent_on.parent == took.id && took_on.parent == sent_on.id, "{spans:#?}");
    ensure!(took_on.tags["istio.canonical_service"] == "reviews", "{took_on:#?}");
    ensure!(took_on.tags["node_id"].starts_with("sidecar~10."), "{took_on:#?}");
    ensure!(
        sent_on.tags["upstream_cluster"] == "outbound|9080||reviews.default.svc.cluster.local",
        "{sent_on:#?}"
    );
    ensure!(
        sent.tags["guid:x-request-id"] == took_on.tags["guid:x-request-id"],
        "the id is kept: {spans:#?}"
    );
    dashboards(&bed)
}

fn dashboards(bed: &Bed) -> Result<()> {
    let sleep = bed.pod("default/sleep")?;
    let node = bed.node("node-1")?;
    let nodes = ["node-1", "node-2"].map(|name| bed.node(name).map(|node| node.ips()[0]));
    let mut targets = Vec::new();
    for ip in nodes {
        targets.push(format!("{}:15020", ip?));
    }
    check_metrics(&node.metrics()?).context("a node")?;
    check_metrics(&bed.control()?.debug("/metrics")?).context("the control plane")?;
    let prometheus = Prometheus::start(&node, &targets)?;
    // It begins to scrape after some seconds, and what was counted before has no rate.
    prometheus.wait(&node, "query", "up == 1")?;
    for _ in 0..20 {
        sleep.exec(&["curl", "-s", "-o", "/dev/null", "http://productpage:9080/productpage"])?;
        sleep.exec(&["curl", "-s", "-o", "/dev/null", "http://productpage:9080/nothing"])?;
        std::thread::sleep(Duration::from_millis(200));
    }
    for query in QUERIES {
        prometheus.wait(&node, "query", query)?;
    }
    prometheus.wait(&node, "query_exemplars", "istio_request_duration_milliseconds_bucket")
}

/// What panels of Istio's dashboards and of Kiali ask, with the values that are templates there.
const QUERIES: &[&str] = &[
    "round(sum(irate(istio_requests_total{reporter=~\"source|waypoint\"}[1m])), 0.001)",
    "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",response_code!~\"5.*\"}[1m])) / sum(rate(istio_requests_total{reporter=~\"source|waypoint\"}[1m]))",
    "label_join(sum(rate(istio_requests_total{reporter=~\"source|waypoint\",response_code=\"200\"}[1m])) by (destination_workload, destination_workload_namespace, destination_service), \"destination_workload_var\", \".\", \"destination_workload\", \"destination_workload_namespace\")",
    "histogram_quantile(0.90, sum(rate(istio_request_duration_milliseconds_bucket{reporter=\"source\"}[1m])) by (le, destination_workload, destination_workload_namespace))",
    "sum(istio_build) by (component, tag)",
    "round(sum(irate(istio_requests_total{reporter=\"destination\",connection_security_policy=\"mutual_tls\",destination_service=~\"productpage.default.svc.cluster.local\"}[5m])) by (source_workload, source_workload_namespace, response_code), 0.001)",
    "sum(irate(istio_requests_total{reporter=\"source\",destination_service=~\"reviews.default.svc.cluster.local\",response_code!~\"5.*\"}[5m]))",
    "histogram_quantile(0.95, sum(irate(istio_request_bytes_bucket{reporter=\"destination\",destination_service=~\"reviews.default.svc.cluster.local\"}[1m])) by (source_workload, source_workload_namespace, le))",
    "histogram_quantile(0.5, sum(irate(istio_response_bytes_bucket{reporter=\"source\",source_workload=~\"productpage-v1\"}[1m])) by (destination_workload, le))",
    "sum(istio_requests_total{destination_principal=~\"spiffe.*\"}) by (destination_service)",
    "sum(rate(istio_requests_total{reporter=~\"source|waypoint\"}[1m])) by (source_cluster,source_workload_namespace,source_workload,source_canonical_service,source_canonical_revision,destination_cluster,destination_service_namespace,destination_service,destination_service_name,destination_workload_namespace,destination_workload,destination_canonical_service,destination_canonical_revision,request_protocol,response_code,grpc_response_status,response_flags) > 0",
    "sum(rate(istio_requests_total{reporter=\"destination\",response_code=\"404\"}[1m])) by (destination_workload)",
    "sum(mesh_spans_sent_total) > 0",
    "process_open_fds",
    "sum(rate(process_cpu_seconds_total[1m]))",
];
