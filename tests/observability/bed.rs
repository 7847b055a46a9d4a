//! What nodes tell: Bookinfo on two of them, read at layer 7 because a Telemetry of its namespace asks for traces.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::bed::Bed;
use mesh_tests::collector::{Logged, Taken};
use mesh_tests::http::{Request, fetch};
use mesh_tests::waypoint::{self, Source};

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
    - {name: tcp, envoyTcpAls: {service: zipkin.tracing.svc.cluster.local, port: 4317}}
    - {name: otel, envoyOtelAls: {service: zipkin.tracing.svc.cluster.local, port: 4317, logFormat: {text: '%BYTES_RECEIVED% %UPSTREAM_CLUSTER%'}}}
---
{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: echo, namespace: default},
  spec: {selector: {matchLabels: {app: echo}}, accessLogging: [{providers: [{name: tcp}, {name: envoy}]}]}}
---
{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: sleep, namespace: default},
  spec: {selector: {matchLabels: {app: sleep}}, accessLogging: [{providers: [{name: otel}, {name: envoy}]}]}}
---
{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: all, namespace: default},
  spec: {tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: httpbin, namespace: default, labels: {istio.io/use-waypoint: way}},
  spec: {selector: {app: httpbin}, ports: [{name: http, port: 8000, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: httpbin, namespace: default, labels: {app: httpbin}}, spec: {
  nodeName: node-2, containers: [{name: c, image: none, command: [httpbin]}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: httpbin, namespace: default}, spec: {hosts: [httpbin],
  http: [{match: [{uri: {prefix: /broken}}], fault: {abort: {httpStatus: 503, percentage: {value: 100}}},
  route: [{destination: {host: httpbin}}]}, {route: [{destination: {host: httpbin}}]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: echo, namespace: default}, spec: {selector: {app: echo},
  ports: [{name: tcp, port: 9000}, {name: tcp-nobody, port: 9001}, {name: grpc, port: 9002}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: echo, namespace: default, labels: {app: echo}}, spec: {nodeName: node-2,
  containers: [{name: tcp, image: none, command: [netprobe, greet, --port, '9000', --word, one]},
  {name: grpc, image: none, command: [netprobe, who, --port, '9002']}]}}
---
";

/// What the bed's client does while somebody looks: requests that are answered in every way, connections that are and that
/// are not taken, calls, and something outside of the mesh.
const TRAFFIC: &str = "
for i in 1 2 3; do
  getent hosts www.example.com > /dev/null
  curl -s -m 2 -o /dev/null http://productpage:9080/productpage
  curl -s -m 2 -o /dev/null http://productpage:9080/nothing
  curl -s -m 2 -o /dev/null http://httpbin:8000/get
  curl -s -m 2 -o /dev/null http://httpbin:8000/broken
  echo world | curl -s -m 2 -o /dev/null telnet://echo:9000
  echo world | curl -s -m 0.5 -o /dev/null telnet://echo:9001
  netprobe call http://echo:9002 > /dev/null
  curl -s -m 2 -o /dev/null http://OUTSIDE:15021/healthz/ready
done
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
    let way = ("default", "way");
    bed.apply(&(waypoint::gateway(way, "") + &waypoint::pod(&bed, Source::Control, way, "node-1")?))?;
    bed.wait_ready(Duration::from_secs(30), |_| ()).context("with a waypoint")?;
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
    through_a_waypoint(&bed)?;
    connections_are_told(&bed)?;
    crate::meshctl::answers(&bed).context("meshctl")?;
    dashboards(&bed)
}

/// The waypoint and the node behind it tell of the same request, one after the other.
fn through_a_waypoint(bed: &Bed) -> Result<()> {
    let sleep = bed.pod("default/sleep")?;
    let until = Instant::now() + Duration::from_secs(20);
    let mut number = 0;
    loop {
        number += 1;
        let mark = format!("way-{number}");
        sleep.exec(&["curl", "-s", "-o", "/dev/null", &format!("http://httpbin:8000/anything/{mark}")])?;
        std::thread::sleep(Duration::from_secs(2));
        let all = taken(bed)?;
        let about = |span: &&Taken| span.tags.get("http.url").is_some_and(|url| url.ends_with(&mark));
        let by = |service: &str| all.iter().filter(about).find(|span| span.service == service);
        if let (Some(way), Some(end)) = (by("way.default"), by("httpbin.default")) {
            ensure!(way.kind == "SERVER" && end.kind == "SERVER", "{way:#?} {end:#?}");
            ensure!(way.trace == end.trace && way.id != end.id, "{way:#?} {end:#?}");
            ensure!(end.parent == way.id, "{way:#?} {end:#?}");
            return Ok(());
        }
        let ours: Vec<_> = all.iter().filter(about).collect();
        ensure!(Instant::now() < until, "no two spans: {ours:#?}");
    }
}

/// Services of access logs are told of connections by both ends, each by what its own Telemetry names.
fn connections_are_told(bed: &Bed) -> Result<()> {
    let (sleep, echo) = (bed.pod("default/sleep")?, bed.pod("default/echo")?);
    sleep.exec(&["sh", "-c", "echo world | curl -s -m 2 -o /dev/null telnet://echo:9000"])?;
    let until = Instant::now() + Duration::from_secs(15);
    let at = (bed.pod("tracing/collector")?.ip(), 9411).into();
    loop {
        let ask = || fetch(at, &Request::get("/logged"), Duration::from_secs(5));
        let all: Vec<Logged> = serde_json::from_slice(&bed.node("node-1")?.run_in_netns(ask)??.body)?;
        let server = all.iter().find(|it| it.by == "tcp" && it.says["cluster"] == "inbound|9000||");
        let client = all.iter().find(|it| it.body == "6 outbound|9000||echo.default.svc.cluster.local");
        if let (Some(server), Some(client)) = (server, client) {
            ensure!(server.cluster == "echo.default" && server.log == "tcp_envoy_accesslog", "{server:#?}");
            ensure!(server.node.starts_with(&format!("sidecar~{}~echo.default", echo.ip())), "{server:#?}");
            ensure!(server.says["peer"].ends_with("/ns/default/sa/sleep"), "{server:#?}");
            ensure!(server.says["received"] == "6" && server.says["sent"] != "0", "{all:#?}");
            ensure!(server.says["client"].starts_with(&format!("{}:", sleep.ip())), "{server:#?}");
            ensure!(client.cluster == "sleep.default", "{client:#?}");
            ensure!(all.iter().filter(|it| it.by == "tcp").count() == 1, "one entry a connection: {all:#?}");
            return Ok(());
        }
        ensure!(Instant::now() < until, "not both ends have told: {all:#?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What Kiali asks the control plane for beside its metrics.
fn kiali(bed: &Bed) -> Result<()> {
    let control = bed.control()?;
    let version = control.debug("/version")?;
    let numbers: Vec<_> = version.split('-').next().unwrap_or_default().split('.').collect();
    let is_version = numbers.len() == 3 && numbers.iter().all(|part| part.parse::<u32>().is_ok());
    ensure!(is_version && version.ends_with("-Clean"), "{version}");
    let services: Vec<serde_json::Value> = serde_json::from_str(&control.debug("/debug/registryz")?)?;
    let reviews = services.iter().find(|it| it["hostname"] == "reviews.default.svc.cluster.local");
    let reviews = reviews.with_context(|| format!("{services:#?}"))?;
    let own = &reviews["Attributes"];
    ensure!(own["Name"] == "reviews" && own["Namespace"] == "default", "{reviews}");
    ensure!(reviews["ports"][0]["port"] == 9080, "{reviews}");
    Ok(())
}

fn dashboards(bed: &Bed) -> Result<()> {
    let node = bed.node("node-1")?;
    kiali(bed)?;
    let way = bed.pod("default/way-pod")?;
    check_metrics(&node.metrics()?).context("a node")?;
    check_metrics(&bed.control()?.debug("/metrics")?).context("the control plane")?;
    let waypoint = way.exec(&["curl", "-s", "http://127.0.0.1:15020/metrics"])?;
    let waypoint = String::from_utf8_lossy(&waypoint.stdout).into_owned();
    ensure!(waypoint.contains("istio_build{component=\"proxy\""), "{waypoint}");
    check_metrics(&waypoint).context("a waypoint")?;
    let mut targets = vec!["127.0.0.1:15014".to_owned(), format!("{}:15020", way.ip())];
    for name in ["node-1", "node-2"] {
        targets.push(format!("{}:15020", bed.node(name)?.ips()[0]));
    }
    let prometheus = Prometheus::start(&node, &targets)?;
    // It begins to scrape after some seconds, and what was counted before has no rate.
    prometheus.wait(&node, "query", &format!("sum(up) == {}", targets.len()))?;
    let traffic = TRAFFIC.replace("OUTSIDE", &node.ips()[0].to_string());
    bed.pod("default/sleep")?.exec(&["sh", "-c", &traffic])?;
    // Something that everybody has to be told.
    bed.apply("{apiVersion: v1, kind: Service, metadata: {name: late, namespace: default}, spec: {ports: [{port: 1}]}}")?;
    for query in QUERIES {
        prometheus.wait(&node, "query", query)?;
    }
    prometheus.wait(&node, "query_exemplars", "istio_request_duration_milliseconds_bucket")?;
    crate::dashboards::have_answers(&prometheus, &node)
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
    "sum(pilot_xds_pushes) by (type) > 0",
    "sum(pilot_k8s_reg_events{type=\"Pods\",event=\"add\"}) > 0",
    "sum(pilot_k8s_cfg_events) by (type, event)",
    "sum(pilot_push_triggers{type=\"service\"}) > 0",
    "histogram_quantile(0.5, sum(pilot_xds_push_time_bucket) by (le))",
    "histogram_quantile(0.5, sum(pilot_xds_config_size_bytes_bucket) by (le))",
    "sum(pilot_total_xds_rejects) by (type)",
    "galley_validation_passed + galley_validation_failed + pilot_total_xds_internal_errors",
    "process_open_fds",
    "sum(rate(process_cpu_seconds_total[1m]))",
];
