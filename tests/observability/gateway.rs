//! What a gateway tells.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::collector::{Collector, Taken};
use mesh_tests::grpc::{self, Calls, Ended};
use mesh_tests::http::{Request, Response, fetch, serve};

use crate::process::{Gateway, http, manifest, wait};

/// A gateway, a collector, and a server that answers with the headers it has seen.
pub(crate) struct Stand {
    pub(crate) gateway: Gateway,
    pub(crate) collector: Collector,
}

/// A service of this machine's own.
pub(crate) fn service(name: &str, port_name: &str, port: u16, target: u16) -> String {
    format!(
        "\n---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{ports: [{{name: {port_name}, port: {port}}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}, \
         addressType: IPv4, endpoints: [{{addresses: [127.0.0.1]}}], ports: [{{name: {port_name}, port: {target}}}]}}"
    )
}

const ROUTES: &str = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: all, namespace: shop }
spec:
  hosts: ['*']
  gateways: [edge]
  http:
  - match: [{ uri: { prefix: /broken } }]
    directResponse: { status: 503 }
  - match: [{ uri: { prefix: /old/ } }]
    rewrite: { uri: /new/, authority: other.example }
    route: [{ destination: { host: web.shop.svc.cluster.local, port: { number: 80 } } }]
  - match: [{ uri: { prefix: /mesh.test.Who } }]
    route: [{ destination: { host: who.shop.svc.cluster.local, port: { number: 80 } } }]
  - route: [{ destination: { host: web.shop.svc.cluster.local, port: { number: 80 } } }]
";

pub(crate) fn mesh(text: &str) -> String {
    let text = text.replace('\n', "\n    ");
    format!(
        "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: istio, namespace: istio-system }}\ndata:\n  mesh: |\n    {text}"
    )
}

const PROVIDERS: &str = "extensionProviders:
- {name: zipkin, zipkin: {service: zipkin.shop.svc.cluster.local, port: 9411, traceContextOption: USE_B3_WITH_W3C_PROPAGATION}}
- {name: otlp-grpc, opentelemetry: {service: otlp.shop.svc.cluster.local, port: 4317, grpc: {initialMetadata: [{name: x-tenant, value: t1}]}}}
- {name: otlp-http, opentelemetry: {service: zipkin.shop.svc.cluster.local, port: 9411, http: {path: /v1/traces, headers: [{name: x-tenant, value: t2}]}}}
- {name: file, envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {who: '%REQ(X-WHO)%', code: '%RESPONSE_CODE%'}}}}
- {name: all, envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: 'LINE %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(:SCHEME)% %REQ(:METHOD)% %RESP(CONTENT-TYPE)% %RESP(X-NONE)% %UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_HOST% %NO_SUCH(x)% %START_TIME(%Y)% %CONNECTION_TERMINATION_DETAILS%'}}}
- {name: als, envoyHttpAls: {service: logs.shop.svc.cluster.local, port: 9001, additionalRequestHeadersToLog: [X-Who, x-none]}}
- {name: otel, envoyOtelAls: {service: logs.shop.svc.cluster.local, port: 9001, logName: shop,
    logFormat: {text: '%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%', labels: {who: '%REQ(X-WHO)%', code: '%RESPONSE_CODE%', odd: '%ODD%'}}}}
- {name: plain, envoyOtelAls: {service: logs.shop.svc.cluster.local, port: 9001}}";

pub(crate) fn telemetry(spec: &str) -> String {
    format!(
        "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: mesh, namespace: istio-system}}, spec: {spec}}}"
    )
}

impl Stand {
    pub(crate) fn start(spec: &str) -> Result<Self> {
        Self::start_without(spec, (None, None))
    }

    /// With nobody at the addresses of the collectors of spans and of logs, but whoever is at these ports.
    pub(crate) fn start_without(spec: &str, (nobody, no_logs): (Option<u16>, Option<u16>)) -> Result<Self> {
        let web = TcpListener::bind("127.0.0.1:0")?;
        let port = web.local_addr()?.port();
        thread::spawn(move || {
            serve(&web, |request| {
                let headers = request.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
                Response::new(200, "text/plain", headers.collect::<String>())
            });
        });
        let collector = Collector::start()?;
        let config = [
            manifest(&http(8080)),
            ROUTES.to_owned(),
            service("web", "http", 80, port),
            service("zipkin", "http", 9411, nobody.unwrap_or(collector.http().port())),
            service("otlp", "grpc", 4317, collector.grpc().port()),
            service("logs", "grpc", 9001, no_logs.unwrap_or(collector.grpc().port())),
            mesh(PROVIDERS),
        ];
        let gateway =
            Gateway::start(&[("edge.yaml", &config.concat()), ("telemetry.yaml", &telemetry(spec))])?;
        let stand = Self { gateway, collector };
        wait(Duration::from_secs(5), || stand.ask("/", &[]).is_ok_and(|it| it.status == 200))?;
        Ok(stand)
    }

    pub(crate) fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        let mut request = Request::get(path);
        request.headers.push("host", "shop.example");
        for (name, value) in headers {
            request.headers.push(*name, *value);
        }
        fetch(self.gateway.at(8080), &request, Duration::from_secs(5)).context(path.to_owned())
    }

    /// The headers that the server has seen.
    fn seen(&self, path: &str, headers: &[(&str, &str)]) -> Result<Vec<(String, String)>> {
        let text = self.ask(path, headers)?.text();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(a, b)| (a.to_lowercase(), b.to_owned()))
            .collect())
    }

    /// Waits for the span of the request with this mark in its path.
    fn span(&self, mark: &str) -> Result<Taken> {
        let spans =
            self.collector.wait(1, |span| span.tags.get("http.url").is_some_and(|url| url.contains(mark)))?;
        ensure!(spans.len() == 1, "one span a request: {spans:#?}");
        spans.into_iter().next().context("a span")
    }
}

fn header<'a>(seen: &'a [(String, String)], name: &str) -> Option<&'a str> {
    seen.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// A mark that no other request of this process has.
pub(crate) fn mark() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("mark-{}-", NEXT.fetch_add(1, Ordering::Relaxed))
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

#[test]
fn spans_reach_zipkin_and_carry_on_the_trace_that_came() -> Result<()> {
    let stand = Stand::start(
        "{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100, customTags: {who: {header: {name: x-who, defaultValue: nobody}}, fixed: {literal: {value: v}}, route: {formatter: {value: '%RESPONSE_CODE%/%PROTOCOL%'}}}}]}",
    )?;
    let mark = mark();
    let seen = stand.seen(&format!("/{mark}"), &[("user-agent", "tester"), ("x-who", "ann")])?;
    let span = stand.span(&mark)?;
    ensure!(span.by == "zipkin" && span.kind == "CLIENT" && span.parent.is_empty(), "{span:#?}");
    ensure!(span.service == "istio-ingressgateway.istio-system", "{span:#?}");
    ensure!(span.name == "web.shop.svc.cluster.local:80/*", "{span:#?}");
    ensure!(
        header(&seen, "x-b3-traceid") == Some(&span.trace) && header(&seen, "x-b3-spanid") == Some(&span.id),
        "{seen:?} {span:#?}"
    );
    ensure!(header(&seen, "x-b3-sampled") == Some("1"), "{seen:?}");
    let traceparent = format!("00-{}-{}-01", span.trace, span.id);
    ensure!(header(&seen, "traceparent") == Some(&traceparent), "{seen:?}");
    let id = header(&seen, "x-request-id").context("an id")?;
    ensure!(id.get(14..15) == Some("9"), "the id says that it is traced: {id}");
    for (name, value) in [
        ("component", "proxy"),
        ("http.method", "GET"),
        ("http.protocol", "HTTP/1.1"),
        ("http.status_code", "200"),
        ("user_agent", "tester"),
        ("guid:x-request-id", id),
        ("response_flags", "-"),
        ("upstream_cluster", "outbound|80||web.shop.svc.cluster.local"),
        ("istio.canonical_service", "istio-ingressgateway"),
        ("istio.namespace", "istio-system"),
        ("istio.mesh_id", "cluster.local"),
        ("istio.cluster_id", "Kubernetes"),
        ("who", "ann"),
        ("fixed", "v"),
        ("route", "200/HTTP/1.1"),
    ] {
        ensure!(span.tags.get(name).map(String::as_str) == Some(value), "{name}: {:#?}", span.tags);
    }
    ensure!(
        span.headers.get("b3").map(String::as_str) == Some("0"),
        "deliveries are not traced: {:?}",
        span.headers
    );
    let mark = self::mark();
    let parent = format!("{TRACE}-{PARENT}-1");
    let seen = stand.seen(&format!("/{mark}"), &[("b3", &parent)])?;
    let span = stand.span(&mark)?;
    ensure!(span.trace == TRACE && span.parent == PARENT && span.id != PARENT, "{span:#?}");
    let single = format!("{TRACE}-{}-1-{PARENT}", span.id);
    ensure!(header(&seen, "b3") == Some(&single), "{seen:?}");
    ensure!(span.tags["who"] == "nobody", "{span:#?}");
    Ok(())
}

#[test]
fn spans_reach_opentelemetry_by_grpc_and_by_http() -> Result<()> {
    for (provider, tenant) in [("otlp-grpc", "t1"), ("otlp-http", "t2")] {
        let stand = Stand::start(&format!(
            "{{tracing: [{{providers: [{{name: {provider}}}], randomSamplingPercentage: 100}}]}}"
        ))?;
        let mark = mark();
        let traceparent = format!("00-{TRACE}-{PARENT}-01");
        let seen =
            stand.seen(&format!("/{mark}"), &[("traceparent", &traceparent), ("tracestate", "a=b")])?;
        let span = stand.span(&mark)?;
        ensure!(
            span.by == provider && span.trace == TRACE && span.parent == PARENT && span.kind == "CLIENT",
            "{span:#?}"
        );
        let wanted = format!("00-{TRACE}-{}-01", span.id);
        ensure!(
            header(&seen, "traceparent") == Some(&wanted) && header(&seen, "tracestate") == Some("a=b"),
            "{seen:?}"
        );
        ensure!(header(&seen, "x-b3-traceid").is_none(), "nobody speaks B3: {seen:?}");
        ensure!(span.headers.get("x-tenant").map(String::as_str) == Some(tenant), "{span:#?}");
        ensure!(span.duration > 0, "{span:#?}");
        let mark = self::mark();
        ensure!(stand.ask(&format!("/broken/{mark}"), &[])?.status == 503);
        ensure!(stand.span(&mark)?.tags.get("error").map(String::as_str) == Some("true"));
        wait(Duration::from_secs(5), || {
            stand.gateway.metric("mesh_spans_sent_total").is_ok_and(|it| it >= 2)
        })?;
        ensure!(stand.gateway.sum("mesh_spans_dropped_total", &[])? == 0);
    }
    Ok(())
}

#[test]
fn what_came_decided_stays_decided() -> Result<()> {
    let stand = Stand::start("{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 0}]}")?;
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let mark = mark();
    // Strangers cannot have a gateway trace what nobody wants traced.
    let seen = stand.seen("/plain", &[("x-envoy-force-trace", "true")])?;
    ensure!(header(&seen, "x-b3-sampled") == Some("0"), "{seen:?}");
    stand.ask(&format!("/{mark}"), &[("traceparent", &sampled)])?;
    ensure!(stand.span(&mark)?.trace == TRACE);
    stand.gateway.write(
        "telemetry.yaml",
        &telemetry("{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]}"),
    )?;
    let mark = self::mark();
    wait(Duration::from_secs(3), || {
        stand.seen("/now", &[]).is_ok_and(|seen| header(&seen, "x-b3-sampled") == Some("1"))
    })?;
    let seen = stand.seen(&format!("/no-{mark}"), &[("b3", &format!("{TRACE}-{PARENT}-0"))])?;
    ensure!(header(&seen, "b3") == Some(&format!("{TRACE}-{PARENT}-0")), "left as it came: {seen:?}");
    stand.ask(&format!("/yes-{mark}"), &[])?;
    stand.span(&format!("yes-{mark}"))?;
    let all = stand.collector.taken();
    ensure!(all.iter().all(|span| !span.tags["http.url"].contains(&format!("no-{mark}"))), "{all:#?}");
    Ok(())
}

#[test]
fn a_collector_that_is_gone_costs_nobody_anything() -> Result<()> {
    let stand = Stand::start_without(
        "{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]}",
        (Some(1), None),
    )?;
    wait(Duration::from_secs(10), || {
        stand.ask("/", &[]).is_ok_and(|it| it.status == 200)
            && stand.gateway.sum("mesh_spans_dropped_total", &["reason=\"delivery\""]).is_ok_and(|it| it > 0)
    })
}

#[test]
fn messages_of_grpc_are_counted_in_both_directions() -> Result<()> {
    let stand = Stand::start("{}")?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    thread::spawn(move || grpc::serve("v1", port));
    stand.gateway.write("who.yaml", service("who", "grpc", 80, port).trim_start_matches("\n---\n"))?;
    let calls = Calls {
        to: format!("http://{}", stand.gateway.at(8080)),
        method: grpc::METHOD.to_owned(),
        metadata: Vec::new(),
        count: 1,
    };
    wait(Duration::from_secs(10), || {
        grpc::call(&calls).is_ok_and(|ended| matches!(ended[..], [Ended::Answered(_)]))
    })?;
    let answered = Calls { count: 3, ..calls };
    ensure!(grpc::call(&answered)?.iter().all(|ended| matches!(ended, Ended::Answered(_))));
    for name in ["istio_request_messages_total", "istio_response_messages_total"] {
        let labels = ["request_protocol=\"grpc\"", "grpc_response_status=\"0\""];
        wait(Duration::from_secs(3), || stand.gateway.sum(name, &labels).is_ok_and(|it| it == 4))
            .with_context(|| format!("{name}: {:?}", stand.gateway.sum(name, &labels)))?;
    }
    Ok(())
}

#[test]
fn labels_of_metrics_are_what_a_telemetry_says() -> Result<()> {
    let stand = Stand::start(
        "{metrics: [{providers: [{name: prometheus}], overrides: [\
         {match: {metric: REQUEST_COUNT}, tagOverrides: {path: {value: request.url_path}, source_app: {operation: REMOVE}, odd: {value: request.nothing}}}, \
         {match: {metric: REQUEST_SIZE}, disabled: true}]}]}",
    )?;
    stand.ask("/counted?x=1", &[])?;
    wait(Duration::from_secs(3), || {
        let labels = ["path=\"/counted\"", "odd=\"unknown\"", "response_code=\"200\""];
        stand.gateway.sum("istio_requests_total", &labels).is_ok_and(|it| it == 1)
    })?;
    ensure!(stand.gateway.sum("istio_requests_total", &["source_app="])? == 0);
    ensure!(stand.gateway.sum("istio_request_duration_milliseconds_count", &["source_app=\"unknown\""])? > 0);
    ensure!(stand.gateway.sum("istio_request_duration_milliseconds_count", &["path="])? == 0);
    ensure!(stand.gateway.sum("istio_request_bytes_count", &[]).unwrap_or_default() == 0);
    Ok(())
}

#[test]
fn the_access_log_has_what_a_telemetry_wants() -> Result<()> {
    let stand = Stand::start(
        "{accessLogging: [{providers: [{name: file}], filter: {expression: \"response.code >= 400 || request.headers['x-who'] == 'ann'\"}}]}",
    )?;
    stand.ask("/quiet", &[("x-who", "bob")])?;
    stand.ask("/", &[("x-who", "ann")])?;
    stand.ask("/broken", &[("x-who", "eve")])?;
    wait(Duration::from_secs(3), || stand.gateway.access_log().contains("eve"))?;
    let log = stand.gateway.access_log();
    let mut lines: Vec<_> = log.lines().filter(|line| line.contains("who")).collect();
    // Each thread has a way of its own to the log.
    lines.sort_unstable();
    ensure!(lines == [r#"{"code":200,"who":"ann"}"#, r#"{"code":503,"who":"eve"}"#], "{log}");
    stand.gateway.write("telemetry.yaml", &telemetry("{accessLogging: [{disabled: true}]}"))?;
    wait(Duration::from_secs(3), || {
        let before = stand.gateway.access_log().len();
        stand.ask("/broken", &[]).is_ok() && {
            thread::sleep(Duration::from_millis(200));
            stand.gateway.access_log().len() == before
        }
    })
}

#[test]
fn lines_have_what_was_sent_on_and_what_was_answered() -> Result<()> {
    let stand = Stand::start(
        "{accessLogging: [{providers: [{name: all}], filter: {expression: \"response.headers['content-type'] == 'text/plain' && request.path != '/'\"}}]}",
    )?;
    stand.ask("/old/a?b=1", &[])?;
    stand.ask("/plain", &[])?;
    wait(Duration::from_secs(3), || {
        stand.gateway.access_log().lines().filter(|line| line.contains("LINE /")).count() == 2
    })
    .with_context(|| stand.gateway.access_log())?;
    let log = stand.gateway.access_log();
    let words = |path: &str| -> Result<Vec<String>> {
        let line =
            log.lines().find(|line| line.contains(&format!("LINE {path} "))).context(path.to_owned())?;
        Ok(line.split(' ').map(str::to_owned).collect())
    };
    let rewritten = words("/old/a?b=1")?;
    let expected = ["LINE", "/old/a?b=1", "/new/a?b=1", "other.example", "http", "GET", "text/plain", "-"];
    ensure!(rewritten[..8] == expected, "{rewritten:?}");
    ensure!(rewritten[8].starts_with("127.0.0.1:") && rewritten[8] != rewritten[9], "{rewritten:?}");
    ensure!(rewritten[10] == "-" && rewritten[11].starts_with("20") && rewritten[12] == "-", "{rewritten:?}");
    ensure!(words("/plain")?[2..4] == ["/plain", "shop.example"], "{log}");
    wait(Duration::from_secs(3), || stand.gateway.log().contains("%NO_SUCH(x)%"))
        .with_context(|| stand.gateway.log())
}

#[test]
fn no_tag_breaks_the_scrape() -> Result<()> {
    let tags = "{le: {value: request.path}, __name__: {value: request.path}, path: {value: request.path}}";
    let stand = Stand::start(&format!("{{metrics: [{{overrides: [{{tagOverrides: {tags}}}]}}]}}"))?;
    stand.ask("/counted", &[])?;
    wait(Duration::from_secs(3), || stand.gateway.log().contains("Prometheus keeps the name le for itself"))
        .with_context(|| stand.gateway.log())?;
    wait(Duration::from_secs(3), || {
        stand.gateway.sum("istio_requests_total", &["response_code=\"200\""]).is_ok_and(|it| it > 0)
    })?;
    ensure!(stand.gateway.sum("istio_requests_total", &["le="])? == 0);
    ensure!(stand.gateway.sum("istio_requests_total", &["__name__="])? == 0);
    let text = fetch(stand.gateway.at(15020), &Request::get("/metrics"), Duration::from_secs(5))?.text();
    let limits = text.lines().filter(|line| line.starts_with("istio_request_duration_milliseconds_bucket{"));
    ensure!(
        limits.clone().count() > 0 && limits.clone().all(|line| line.matches("le=").count() == 1),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_hundred_thousand_hosts_and_paths_make_a_bounded_number_of_series() -> Result<()> {
    let stand = Stand::start(
        "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {path: {value: request.path}, host: {value: request.host}}}]}]}",
    )?;
    thread::scope(|scope| {
        let flood = |thread: usize| {
            let stand = &stand;
            move || -> Result<()> {
                for batch in 0..FLOOD / THREADS / BATCH {
                    flood(stand, thread * FLOOD + batch * BATCH)?;
                }
                Ok(())
            }
        };
        let all: Vec<_> = (0..THREADS).map(|thread| scope.spawn(flood(thread))).collect();
        all.into_iter().try_for_each(|it| it.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
    })?;
    let text = fetch(stand.gateway.at(15020), &Request::get("/metrics"), Duration::from_secs(30))?.text();
    let series = text.lines().filter(|line| line.starts_with("istio_requests_total{")).count();
    ensure!((2_000..=3_010).contains(&series), "{series} series");
    ensure!(text.len() < 300 << 20, "{} bytes at a scrape", text.len());
    wait(Duration::from_secs(5), || {
        stand
            .gateway
            .sum("istio_requests_total", &[])
            .is_ok_and(|it| it >= u64::try_from(FLOOD).unwrap_or_default())
    })?;
    ensure!(stand.gateway.metric("mesh_label_sets_overflow_total")? > 90_000);
    Ok(())
}

/// Requests in one write, answered by nobody: the rule answers itself.
fn flood(stand: &Stand, first: usize) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let mut tcp = std::net::TcpStream::connect(stand.gateway.at(8080))?;
    let requests = (first..first + BATCH).map(|number| {
        let close = if number + 1 == first + BATCH { "connection: close\r\n" } else { "" };
        format!("GET /broken/{number}?{number} HTTP/1.1\r\nhost: h{number}.example\r\n{close}\r\n")
    });
    tcp.write_all(requests.collect::<String>().as_bytes())?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer)?;
    let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 503").count();
    ensure!(answers == BATCH, "{answers} answers of {BATCH}");
    Ok(())
}

/// Requests, each for a host and a path of its own.
const FLOOD: usize = 100_000;
const THREADS: usize = 2;
/// Requests of a connection.
const BATCH: usize = 100;
