//! Access logs at services that take them.

use std::io::Read as _;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::collector::Logged;

use crate::gateway::{Stand, mark, telemetry};
use crate::process::wait;

fn is(entry: &Logged, wanted: &[(&str, &str)]) -> Result<()> {
    for (name, value) in wanted {
        ensure!(entry.says.get(*name).map(String::as_str) == Some(value), "{name}: {entry:#?}");
    }
    Ok(())
}

#[test]
fn records_reach_opentelemetry_in_the_formats_of_their_providers() -> Result<()> {
    let stand = Stand::start(
        "{tracing: [{providers: [{name: otlp-grpc}], randomSamplingPercentage: 100}], accessLogging: [{providers: [{name: otel}, {name: plain}]}]}",
    )?;
    let mark = mark();
    stand.ask(&format!("/{mark}"), &[("x-who", "ann"), ("user-agent", "tester")])?;
    let entries = stand.collector.wait_logged(2, |it| it.body.contains(&mark))?;
    ensure!(entries.len() == 2 && entries.iter().all(|it| it.by == "otlp"), "{entries:#?}");
    let (own, plain): (Vec<_>, Vec<_>) = entries.iter().partition(|it| it.log == "shop");
    let (own, plain) = (own[0], plain[0]);
    ensure!(own.body == format!("GET /{mark} 200"), "{own:#?}");
    is(own, &[("who", "ann"), ("code", "200"), ("odd", "-")])?;
    ensure!(own.says.len() == 3, "what nobody can tell is nothing: {own:#?}");
    ensure!(own.cluster == "istio-ingressgateway.istio-system", "{own:#?}");
    ensure!(own.node.starts_with("router~") && own.node.contains("istio-system"), "{own:#?}");
    ensure!(plain.log == "otel_envoy_accesslog" && plain.says.is_empty(), "{plain:#?}");
    ensure!(plain.body.contains(&format!("\"GET /{mark} HTTP/1.1\" 200 - via_upstream")), "{plain:#?}");
    ensure!(plain.body.contains("\"tester\"") && !plain.body.ends_with('\n'), "{plain:#?}");
    let about = |url: &String| url.contains(&mark);
    let span = stand.collector.wait(1, |it| it.tags.get("http.url").is_some_and(about))?.remove(0);
    ensure!(own.trace == span.trace && own.span == span.id, "{own:#?} {span:#?}");
    wait(Duration::from_secs(5), || {
        stand.gateway.metric("mesh_log_entries_sent_total").is_ok_and(|it| it >= 2)
    })?;
    ensure!(stand.gateway.sum("mesh_log_entries_dropped_total", &[])? == 0);
    ensure!(!stand.gateway.access_log().contains(&mark), "those that are named are all there are");
    Ok(())
}

#[test]
fn entries_of_requests_have_what_was_sent_on_and_the_path_that_was_asked_for() -> Result<()> {
    let stand = Stand::start("{accessLogging: [{providers: [{name: als}]}]}")?;
    let mark = mark();
    stand.ask(&format!("/old/{mark}"), &[])?;
    stand.ask(&format!("/as-it-is/{mark}"), &[])?;
    let about = |it: &Logged| it.says.get("path").is_some_and(|it| it.contains(&mark));
    let mut entries = stand.collector.wait_logged(2, about)?;
    entries.sort_by(|one, other| other.says["path"].cmp(&one.says["path"]));
    let paths =
        [(format!("/new/{mark}"), format!("/old/{mark}")), (format!("/as-it-is/{mark}"), String::new())];
    for ((path, asked), (entry, host)) in
        paths.iter().zip(entries.iter().zip(["other.example", "shop.example"]))
    {
        is(entry, &[("path", path), ("original_path", asked), ("authority", host)])?;
    }
    Ok(())
}

#[test]
fn entries_of_requests_reach_envoys_service_of_access_logs() -> Result<()> {
    let stand = Stand::start(
        "{accessLogging: [{providers: [{name: als}, {name: file}], filter: {expression: \"request.path != '/'\"}}]}",
    )?;
    let mark = mark();
    let headers = [("x-who", "ann"), ("user-agent", "tester"), ("x-request-id", "id-1")];
    stand.ask(&format!("/{mark}"), &headers)?;
    stand.ask(&format!("/broken/{mark}"), &[])?;
    let mut entries =
        stand.collector.wait_logged(2, |it| it.says.get("path").is_some_and(|it| it.contains(&mark)))?;
    // Threads of the gateway send for themselves.
    entries.sort_by_key(|it| it.says["path"].starts_with("/broken"));
    let [good, broken] = &entries[..] else { anyhow::bail!("one entry a request: {entries:#?}") };
    ensure!(good.by == "http" && good.log == "http_envoy_accesslog", "{good:#?}");
    ensure!(good.node.starts_with("router~"), "{good:#?}");
    is(
        good,
        &[
            ("version", "2"),
            ("method", "1"),
            ("scheme", "http"),
            ("authority", "shop.example"),
            ("path", &format!("/{mark}")),
            ("user_agent", "tester"),
            ("headers", "{\"x-who\": \"ann\"}"),
            ("code", "200"),
            ("details", "via_upstream"),
            ("cluster", "outbound|80||web.shop.svc.cluster.local"),
            ("flags", ""),
            ("peer", ""),
        ],
    )?;
    ensure!(
        good.says["upstream"].starts_with("127.0.0.1:") && good.says["client"].starts_with("127."),
        "{good:#?}"
    );
    ensure!(good.says["bytes"].parse::<u32>()? > 10 && !good.says["id"].is_empty(), "{good:#?}");
    is(broken, &[("code", "503"), ("headers", "{}"), ("cluster", "")])?;
    ensure!(stand.gateway.access_log().contains("\"who\":\"ann\""), "the proxy's own log goes on");
    let all = stand.collector.logged();
    ensure!(all.iter().all(|it| it.says.get("path").is_none_or(|it| it != "/")), "filtered out: {all:#?}");
    stand.gateway.write("telemetry.yaml", &telemetry("{accessLogging: [{disabled: true}]}"))?;
    wait(Duration::from_secs(5), || {
        let mark = self::mark();
        stand.ask(&format!("/{mark}"), &[]).is_ok() && {
            thread::sleep(Duration::from_millis(1_500));
            !format!("{:?}", stand.collector.logged()).contains(&mark)
        }
    })
}

const DEAD: &str = "{accessLogging: [{providers: [{name: als}, {name: otel}]}]}";

#[test]
fn a_service_of_logs_that_is_gone_costs_nobody_anything() -> Result<()> {
    let stand = Stand::start_without(DEAD, (None, Some(1)))?;
    wait(Duration::from_secs(10), || {
        let dropped = stand.gateway.sum("mesh_log_entries_dropped_total", &["reason=\"delivery\""]);
        stand.ask("/", &[]).is_ok_and(|it| it.status == 200) && dropped.is_ok_and(|it| it > 0)
    })?;
    ensure!(stand.gateway.metric("mesh_log_entries_sent_total")? == 0);
    Ok(())
}

/// Somebody who takes connections and says nothing, ever.
fn stuck() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        let mut all = Vec::new();
        while let Ok((mut tcp, _)) = listener.accept() {
            all.push(thread::spawn(move || while tcp.read(&mut [0; 4_096]).is_ok_and(|it| it > 0) {}));
        }
    });
    Ok(port)
}

#[test]
fn what_finds_no_room_before_a_service_of_logs_that_is_stuck_is_dropped_and_counted() -> Result<()> {
    let stand = Stand::start_without(DEAD, (None, Some(stuck()?)))?;
    let (start, mut slowest) = (Instant::now(), Duration::ZERO);
    for _ in 0..REQUESTS {
        let asked = Instant::now();
        ensure!(stand.ask("/broken", &[])?.status == 503);
        slowest = slowest.max(asked.elapsed());
    }
    // Nobody has waited for a delivery, which takes as long as it may: 5 s.
    ensure!(slowest < Duration::from_secs(2), "{slowest:?} of {:?}", start.elapsed());
    wait(Duration::from_secs(5), || {
        stand.gateway.sum("mesh_log_entries_dropped_total", &["reason=\"queue\""]).is_ok_and(|it| it > 0)
    })?;
    ensure!(stand.ask("/", &[])?.status == 200);
    Ok(())
}

/// More than wait for two services at two threads of a gateway, deliveries under way among them.
const REQUESTS: usize = 4_000;
