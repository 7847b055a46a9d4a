//! What is said when something is wrong: status, response flag, access log and metric, in Istio's words.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::client::{Req, get, grpc, post};
use crate::row::{Case, Row, Want, not_found, ok, row};

pub(crate) fn rows() -> Vec<Row> {
    [failures(), broken(), reports(), forwarded()].into_iter().flatten().collect()
}

fn to(host: &str) -> String {
    format!("[{{route: [{{destination: {{host: {host}}}}}]}}]")
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn failures() -> Vec<Row> {
    let connect =
        "upstream connect error or disconnect/reset before headers. reset reason: connection failure";
    let none =
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    vec![
        row("mesh/nr-no-rule")
            .http("[{match: [{uri: {prefix: /a}}], ECHO}]")
            .ask(get("/b"), not_found())
            .act(async |case| {
                let labels = [
                    ("response_flags", "NR"),
                    ("response_code", "404"),
                    ("destination_service_name", "unknown"),
                ];
                ensure!(
                    case.stand.gateway.counted("istio_requests_total", &labels, 1.0).await? >= 1.0,
                    "not counted"
                );
                Ok(())
            }),
        row("mesh/nc-no-service").http(&to("nowhere.conf.svc.cluster.local")).ask(
            get("/"),
            Want::status(503).body("").flags("NC").log("response_code_details", "cluster_not_found"),
        ),
        // A service of type ExternalName is what it leads to, with its subsets; what is nobody's is no cluster.
        row("mesh/alias")
            .http(&to("echo-alias"))
            .ask(get("/"), ok().log("upstream_cluster", "outbound|80||echo.conf.svc.cluster.local")),
        row("mesh/alias-subset")
            .http("[{route: [{destination: {host: echo-alias, subset: v2, port: {number: 80}}}]}]")
            .ask(get("/"), ok().log("upstream_cluster", "outbound|80|v2|echo.conf.svc.cluster.local")),
        row("mesh/nc-alias-of-nobody")
            .http(&to("nobodys"))
            .ask(get("/"), Want::status(503).body("").flags("NC")),
        row("mesh/nc-alias-round").http(&to("round")).ask(get("/"), Want::status(503).body("").flags("NC")),
        row("mesh/nc-no-subset").http("[{TO(v77)}]").ask(get("/"), Want::status(503).body("").flags("NC")),
        row("mesh/nc-no-port")
            .http("[{route: [{destination: {host: echo, port: {number: 81}}}]}]")
            .ask(get("/"), Want::status(503).flags("NC")),
        row("mesh/uh-no-endpoint").http(&to("ghost")).ask(
            get("/"),
            Want::status(503)
                .body("no healthy upstream")
                .flags("UH")
                .log("response_code_details", "no_healthy_upstream")
                .log("upstream_cluster", "outbound|80||ghost.conf.svc.cluster.local")
                .log("upstream_host", "null"),
        ),
        row("mesh/uh-empty-subset")
            .http("[{TO(v9)}]")
            .ask(get("/"), Want::status(503).body("no healthy upstream").flags("UH")),
        row("mesh/uf-nobody-listens")
            .http(&format!("[{{retries: {{attempts: 0}}, {}", &to("dead")[2..]))
            .ask(
                get("/"),
                Want::status(503).body(connect).flags("UF").log(
                    "response_code_details",
                    "upstream_reset_before_response_started{connection_failure}",
                ),
            ),
        row("mesh/uf-after-retries")
            .http(&to("dead"))
            .ask(get("/"), Want::status(503).body(connect).flags("UF,URX")),
        row("mesh/uc-before-the-answer").http("[{ECHO}]").ask(
            post("/", "x").orders("reset"),
            Want::status(503).body(none).flags("UC").log(
                "response_code_details",
                "upstream_reset_before_response_started{connection_termination}",
            ),
        ),
        row("mesh/ut-late").http("[{timeout: 0.2s, ECHO}]").ask(
            get("/").orders("delay=1500"),
            Want::status(504).body("upstream request timeout").flags("UT"),
        ),
        row("mesh/ur-reset-stream").http(&to("grpc")).ask(
            post("/", "x").h2().orders("reset=internal"),
            Want::status(503)
                .body("upstream connect error or disconnect/reset before headers. reset reason: remote reset")
                .flags("UR"),
        ),
        row("mesh/code-of-the-server").http("[{ECHO}]").ask(
            get("/").orders("status=500"),
            Want::status(500)
                .flags("-")
                .log("response_code_details", "via_upstream")
                .log("response_code", "500"),
        ),
    ]
}

fn broken() -> Vec<Row> {
    vec![
        row("mesh/uc-in-the-body").http("[{ECHO}]").act(async |case| {
            let sent = case.send(get("/").orders("partial; size=50000").mark(&case.id)).await;
            ensure!(sent.is_err(), "half an answer passes for a whole one");
            let line = case.stand.log(&case.id).await?;
            ensure!(line["response_code"] == 200, "{line}");
            let flags = line["response_flags"].as_str().unwrap_or_default();
            ensure!(flags == "UC" || flags == "UPE", "{line}");
            Ok(())
        }),
        row("mesh/uc-in-the-body-over-2").http("[{ECHO}]").act(async |case| {
            let sent = case.send(get("/").h2().orders("partial; size=50000").mark(&case.id)).await;
            ensure!(sent.is_err(), "half an answer passes for a whole one");
            Ok(())
        }),
        row("mesh/uc-chunked-body").http("[{ECHO}]").act(async |case| {
            let sent = case.send(get("/").orders("partial; chunked; size=50000").mark(&case.id)).await;
            ensure!(sent.is_err(), "half an answer passes for a whole one");
            Ok(())
        }),
        row("mesh/dc-client-leaves").http("[{ECHO}]").act(async |case| {
            leave(&case, get("/")).await?;
            let line = case.stand.log(&case.id).await?;
            ensure!(line["response_flags"] == "DC" && line["response_code"] == 0, "{line}");
            ensure!(line["response_code_details"] == "downstream_remote_disconnect", "{line}");
            Ok(())
        }),
        row("mesh/dc-leaves-over-2").http("[{ECHO}]").act(async |case| {
            leave(&case, get("/").h2()).await?;
            ensure!(case.stand.log(&case.id).await?["response_flags"] == "DC", "another flag");
            Ok(())
        }),
    ]
}

/// A client that goes away while its request is under way.
async fn leave(case: &Case, request: Req) -> Result<()> {
    let answered = case.send(request.orders("delay=1500").mark(&case.id));
    let seen = async {
        while case.seen(&case.id).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        reply = answered => bail!("it was answered: {}", reply?),
        () = seen => Ok(()),
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn reports() -> Vec<Row> {
    vec![
        row("mesh/log-of-a-request")
            .http("[{name: cart, TO(v1)}]")
            .ask(
                post("/a?b=c", "12345").with("x-request-id", "id-of-the-row").orders("body=1234567"),
                ok().log("method", "POST")
                    .log("path", "/a?b=c")
                    .log("protocol", "HTTP/1.1")
                    .log("response_code", "200")
                    .log("response_flags", "-")
                    .log("response_code_details", "via_upstream")
                    .log("bytes_received", "5")
                    .log("bytes_sent", "7")
                    .log("authority", "mesh-log-of-a-request.test")
                    .log("request_id", "id-of-the-row")
                    .log("route_name", "cart")
                    .log("x_forwarded_for", "127.0.0.1")
                    .log("upstream_cluster", "outbound|80|v1|echo.conf.svc.cluster.local"),
            )
            .act(async |case| {
                let line = case.stand.log(&format!("{}#0", case.id)).await?;
                let host = line["upstream_host"].as_str().unwrap_or_default();
                ensure!(host.starts_with("127.") && host.contains(':'), "{line}");
                Ok(())
            }),
        row("mesh/metric-of-a-request")
            .service("echo", "subsets: []")
            .http(&to("mesh-metric-of-a-request"))
            .ask(get("/"), ok())
            .ask(get("/").orders("status=418"), Want::status(418))
            .act(async |case| {
                let service = ("destination_service", "mesh-metric-of-a-request.conf.svc.cluster.local");
                for (code, count) in [("200", 1.0), ("418", 1.0)] {
                    let labels = [
                        service,
                        ("response_code", code),
                        ("reporter", "source"),
                        ("request_protocol", "http"),
                        ("destination_workload_namespace", "conf"),
                        ("source_workload", "istio-ingressgateway"),
                    ];
                    let found = case.stand.gateway.counted("istio_requests_total", &labels, count).await?;
                    ensure!((found - count).abs() < 0.1, "{found} with {code}");
                }
                let durations = case
                    .stand
                    .gateway
                    .counted("istio_request_duration_milliseconds_count", &[service], 2.0)
                    .await?;
                ensure!((durations - 2.0).abs() < 0.1, "{durations} durations");
                Ok(())
            }),
        row("mesh/metric-of-a-failure")
            .service("ghost", "subsets: []")
            .http(&to("mesh-metric-of-a-failure"))
            .ask(get("/"), Want::status(503))
            .act(async |case| {
                let labels = [
                    ("destination_service_name", "mesh-metric-of-a-failure"),
                    ("response_flags", "UH"),
                    ("response_code", "503"),
                ];
                ensure!(
                    case.stand.gateway.counted("istio_requests_total", &labels, 1.0).await? >= 1.0,
                    "not counted"
                );
                Ok(())
            }),
        row("mesh/metric-not-by-host").http("[{ECHO}]").act(async |case| {
            for number in 0..50 {
                case.send(get("/").to(&format!("made-up-{number}.example"))).await?;
            }
            let text = case
                .stand
                .gateway
                .metric("istio_requests_total", &[("destination_service", "made-up-7.example")])
                .await?;
            ensure!(text == 0.0, "strangers make series");
            Ok(())
        }),
        row("mesh/log-is-one-line").http("[{ECHO}]").act(async |case| {
            let token = "quote\" back\\slash";
            let reply = case.send(get("/%0a").with("user-agent", token)).await?;
            ensure!(reply.status == 400 || reply.status == 200, "{reply}");
            let reply = case.send(get("/x").with("user-agent", "tab\there \"and\" \\ there")).await?;
            ensure!(reply.status == 200, "{reply}");
            for _ in 0..100 {
                if case.stand.gateway.all_logs_with("user_agent", "tab\there \"and\" \\ there") > 0 {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::bail!("the line cannot be read")
        }),
    ]
}

fn forwarded() -> Vec<Row> {
    vec![
        row("mesh/forwarded-for-is-appended").http("[{ECHO}]").ask(
            get("/").with("x-forwarded-for", "1.2.3.4"),
            ok().seen("h:x-forwarded-for", "1.2.3.4,127.0.0.1"),
        ),
        row("mesh/request-id-of-strangers").http("[{ECHO}]").act(async |case| {
            let reply =
                case.send(get("/").with("x-forwarded-for", "1.2.3.4").with("x-request-id", "chosen")).await?;
            let id = reply.seen()?.header("x-request-id").context("no id")?;
            ensure!(id != "chosen", "strangers choose ids");
            Ok(())
        }),
        row("mesh/trace-context-is-kept").http("[{ECHO}]").ask(
            get("/")
                .with("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
                .with("b3", "0")
                .with("x-b3-traceid", "1"),
            ok().seen("h:traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
                .seen("h:b3", "0")
                .seen("h:x-b3-traceid", "1"),
        ),
        row("mesh/grpc-keeps-its-headers").http(&to("grpc")).act(async |case| {
            case.send(
                grpc("/s/m")
                    .with("grpc-timeout", "5S")
                    .with("grpc-encoding", "gzip")
                    .with("x-bin-bin", "AAEC")
                    .mark(&case.id),
            )
            .await?;
            let seen = case.seen(&case.id);
            let seen = seen.first().context("nothing came")?;
            for (name, value) in
                [("grpc-timeout", "5S"), ("grpc-encoding", "gzip"), ("x-bin-bin", "AAEC"), ("te", "trailers")]
            {
                ensure!(seen.header(name).as_deref() == Some(value), "{name}: {seen:?}");
            }
            Ok(())
        }),
    ]
}
