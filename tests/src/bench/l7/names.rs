//! Answers to queries of DNS for a name of the mesh: how many a core gives, and how soon.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::subject::Subject;
use crate::bench::{
    DISTURBING, Outcome, PAUSE, Plan,
    figures::{Metric, Sample, rows},
    load::TOLERABLE_ERRORS,
    manifests,
    output::{self, Requests},
    process::{self, Disturbance},
    shown,
    stand::{Stand, System},
};

/// Measures through a pod of a bed of its own.
pub(super) fn run(plan: &Plan, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) -> Result<()> {
    tell("Starting the pods.");
    let stand = Stand::start(&[SYSTEM], None, &[])?;
    stand.bed(SYSTEM).apply(&manifests::service(SYSTEM))?;
    known(&stand)?;
    let mut samples = Vec::new();
    for round in 1..=plan.runs {
        thread::sleep(PAUSE);
        let watch = Disturbance::watch(stand.cgroups())?;
        let sample = turn(&stand, plan.seconds)?;
        let others = watch.cores()?;
        outcome.turns += 1;
        outcome.disturbed += usize::from(others > DISTURBING);
        let (case, runs, text) = (Subject::Names, plan.runs, shown(&sample, others));
        tell(&format!("{case}, round {round} of {runs}, {SYSTEM}: {text}"));
        samples.push(sample);
    }
    outcome.rows.extend(rows(Subject::Names.name(), &[(SYSTEM.to_string(), samples)]));
    tell("Ending the pods.");
    Ok(())
}

/// Waits until the name is answered. Nobody but the mesh could do so.
fn known(stand: &Stand) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (server, name) = (RESOLVER.to_owned(), manifests::service_host(SYSTEM));
        let output = stand.client(SYSTEM)?.exec(&["netprobe", "ask", &server, &name])?;
        if String::from_utf8_lossy(&output.stdout).contains("10.96.") {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{name} is not answered: {}", String::from_utf8_lossy(&output.stdout));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// As many answers as go through, and what they cost; then times, of a client that does not build up a queue.
fn turn(stand: &Stand, seconds: u64) -> Result<Sample> {
    let pid = *stand.proxies(SYSTEM)?.first().context("the client's node is down")?;
    let before = process::cpu_seconds(&[pid])?;
    let many = ask(stand, MANY, seconds)?;
    let used = process::cpu_seconds(&[pid])? - before;
    ensure!(used > 0.0, "the node has done nothing");
    let few = ask(stand, FEW, seconds)?;
    Ok(vec![
        (Metric::Rps, many.per_second),
        (Metric::RpsPerCore, many.count / used),
        (Metric::P50, few.p50_us),
        (Metric::P99, few.p99_us),
        (Metric::CpuPer1k, used / (many.count / 1e3)),
        (Metric::Errors, many.errors + few.errors),
    ])
}

fn ask(stand: &Stand, window: u16, seconds: u64) -> Result<Requests> {
    let (window, seconds, name) = (window.to_string(), seconds.to_string(), manifests::service_host(SYSTEM));
    let words = ["netprobe", "names", RESOLVER, &name, "--window", &window, "--seconds", &seconds];
    let output = stand.client(SYSTEM)?.exec(&words)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let seen = output::client(&text).map_err(|reason| anyhow!("{reason}\n{text}{errors}"))?;
    ensure!(
        seen.errors <= seen.count * TOLERABLE_ERRORS,
        "{} of {} failed:\n{text}",
        seen.errors,
        seen.count
    );
    Ok(seen)
}

const SYSTEM: System = System::Mesh;

/// Where the bed's pods believe their resolver to be.
const RESOLVER: &str = "10.96.0.10:53";

/// Queries under way, so that the node has no pause.
const MANY: u16 = 32;

/// Queries under way, so that times are not those of waiting for one's own.
const FEW: u16 = 4;
