//! One run of one case of traffic through one system.

use std::process::Output;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{
    case::{Load, Place, Traffic},
    figures::{Metric, Sample},
    manifests,
    output::{self, Requests},
    process,
    stand::{Port, SERVERS, Stand, System},
};

/// Runs the load for some seconds and measures.
pub(super) fn run(stand: &Stand, system: System, traffic: Traffic, seconds: u64) -> Result<Sample> {
    let load = words(stand, system, traffic, seconds)?;
    // A load that hangs is an outcome, not a reason to hang as well.
    let patience = (seconds + 20).to_string();
    let mut words = vec!["timeout", "--kill-after=5", &patience];
    words.extend(load.iter().map(String::as_str));
    let client = stand.client(system)?;
    let pids = stand.proxies(system)?;
    let before = process::cpu_seconds(&pids)?;
    let output = client.exec(&words)?;
    // Which processes they are now: one that has died and come back would seem to have used next to nothing.
    ensure!(stand.proxies(system)? == pids, "a proxy has died during the run\n{}", shown(&words, &output));
    let used = (!pids.is_empty()).then_some(process::cpu_seconds(&pids)? - before);
    if !output.status.success() {
        bail!("{}", shown(&words, &output));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let wrong = |reason: String| anyhow!("{reason}\n{}", shown(&words, &output));
    match traffic.load {
        Load::Bulk => {
            let bulk = output::iperf3(&text).map_err(wrong)?;
            let mut sample = vec![(Metric::Gbps, bulk.bits_per_second / 1e9)];
            sample.extend(used.map(|used| (Metric::CpuPerGb, used / (bulk.bytes / 1e9))));
            Ok(sample)
        }
        Load::Http => requests(Metric::Rps, output::wrk(&text).map_err(wrong)?, used)
            .with_context(|| shown(&words, &output)),
        Load::Connect | Load::ConnectToThree => {
            requests(Metric::Cps, output::client(&text).map_err(wrong)?, used)
                .with_context(|| shown(&words, &output))
        }
    }
}

fn requests(rate: Metric, seen: Requests, used: Option<f64>) -> Result<Sample> {
    ensure!(seen.errors <= seen.count * TOLERABLE_ERRORS, "{} of {} failed", seen.errors, seen.count);
    let mut sample = vec![
        (rate, seen.per_second),
        (Metric::P50, seen.p50_us),
        (Metric::P99, seen.p99_us),
        (Metric::Errors, seen.errors),
    ];
    sample.extend(used.map(|used| (Metric::CpuPer1k, used / (seen.count / 1e3))));
    Ok(sample)
}

/// The words of the program that makes the load.
pub(super) fn words(stand: &Stand, system: System, traffic: Traffic, seconds: u64) -> Result<Vec<String>> {
    let (port, count) = match traffic.load {
        Load::Bulk => (Port::Bulk, 1),
        Load::Http | Load::Connect => (Port::Http, 1),
        Load::ConnectToThree => (Port::Http, SERVERS),
    };
    let servers = stand.servers(system, traffic.place, (port, count))?;
    let server = servers.first().context("there is no server")?;
    let concurrency = traffic.concurrency;
    let load = match traffic.load {
        Load::Bulk => format!(
            "iperf3 --client {} --port {} --time {seconds} --parallel {concurrency} --json",
            server.ip(),
            server.port()
        ),
        Load::Http => format!(
            "wrk --threads 1 --connections {concurrency} --duration {seconds}s --timeout 5s --latency http://{server}/"
        ),
        Load::Connect | Load::ConnectToThree => {
            let servers = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            format!("netprobe load --connections {concurrency} --seconds {seconds} {servers}")
        }
    };
    let mut words: Vec<String> = load.split(' ').map(str::to_owned).collect();
    if traffic.place == Place::Service && traffic.load == Load::Http {
        // Rules for a service are found by its name.
        words.extend(["--header".to_owned(), format!("Host: {}", manifests::service_host(system))]);
    }
    Ok(words)
}

/// A command with all it has said, for the text of an error.
fn shown(words: &[&str], output: &Output) -> String {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let status = match output.status.code() {
        Some(124) => "was ended because it hung".to_owned(),
        _ => output.status.to_string(),
    };
    format!("`{}`: {status}\n{}\n{}", words.join(" "), said(&output.stdout), said(&output.stderr))
}

/// The part of all requests that may fail without the run counting as failed. They are reported in any case.
pub(super) const TOLERABLE_ERRORS: f64 = 0.01;
