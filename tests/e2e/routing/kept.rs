//! A connection that was opened before any rule was about its service does not stay outside of the rules.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::bed::{Bed, Process};
use mesh_tests::scenario::start;

use super::{apply, bookinfo};

#[test]
fn rules_reach_connections_that_are_older_than_they() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(bookinfo()?))?;
    let sleep = bed.pod("default/sleep")?;
    let versions = |load: &mut Process, count: usize| -> Result<Vec<String>> {
        (0..count).map(|_| answer(load)).collect()
    };
    // Two a second over one connection: a pause between any two.
    let words = ["curl", "-sSN", "--rate", "2/s", "-w", "\n#%{http_code} %{num_connects}\n", ENDLESS];
    let mut load = sleep.spawn(&words)?;
    let before = versions(&mut load, 3)?;
    ensure!(before.iter().all(|it| *it == before[0]), "one connection, one pod: {before:?}");
    apply(&bed, "bookinfo/networking/destination-rule-all.yaml")?;
    let other = if before[0] == "3" { "1" } else { "3" };
    bed.apply(&format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: reviews, namespace: default}}, \
         spec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: reviews, subset: v{other}}}}}]}}]}}}}"
    ))?;
    let changed = Instant::now();
    let mut answers = Vec::new();
    while answers.iter().rev().take_while(|it| *it == other).count() < 6 {
        answers.push(answer(&mut load)?);
        ensure!(changed.elapsed() < Duration::from_secs(10), "{answers:?}");
    }
    let others = answers.iter().filter(|it| *it != other).count();
    ensure!(others <= 3, "the old way for too long: {answers:?}");
    Ok(())
}

/// The version that the next answer is from; every answer is a good one.
fn answer(load: &mut Process) -> Result<String> {
    let mut version = String::new();
    loop {
        let line = load.line(Duration::from_secs(5))?;
        if let Some((_, rest)) = line.split_once("reviews-v") {
            rest.split('-').next().unwrap_or_default().clone_into(&mut version);
        }
        if let Some(status) = line.strip_prefix('#') {
            ensure!(status.starts_with("200 "), "{status}");
            return Ok(version);
        }
    }
}

const ENDLESS: &str = "http://reviews:9080/reviews/[1-1000]";
