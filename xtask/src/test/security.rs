//! The suite `security`: its own tests, and the table of what came of others that it names.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::{Context as _, Result, bail};

use super::{Args, Report, Run, Suite, Tally, run_runs, test_command};
use crate::{
    build::{self, Profile},
    setup::{self, Part},
    shell,
    workspace::{self, Workspace},
};

/// Runs it. Tests of other suites that `earlier` has not run are run first, unless a filter asks for a few of its own.
pub(super) fn run(workspace: &Workspace, args: &Args, earlier: &[Report], tally: &mut Tally) -> Result<()> {
    setup::ensure(&[Part::Ebpf])?;
    shell::must(&mut build::command(Profile::Debug)).context("the binaries under test do not build")?;
    let runs = Suite::Security.runs(workspace)?;
    let mut outcomes = String::new();
    if args.filter.is_empty() {
        for (suite, tests) in named(&runs)? {
            let suite: Suite = suite.parse().map_err(anyhow::Error::msg)?;
            if let Some(report) = earlier.iter().find(|report| report.suite == suite) {
                note(suite, &tests, &report.tally, &mut outcomes);
                continue;
            }
            let filter = ["--exact".to_owned()].into_iter().chain(tests.iter().cloned()).collect();
            let mut own = Tally::default();
            let ended = super::run_suite(suite, workspace, &of(args, suite, filter), &mut own);
            note(suite, &tests, &own, &mut outcomes);
            tally.add(&own);
            ended?;
        }
    }
    let path = workspace::root().join("target/security-outcomes.txt");
    fs::write(&path, outcomes).with_context(|| path.display().to_string())?;
    run_runs(Suite::Security, &runs, args, &[(OUTCOMES, path.as_os_str())], tally)
}

/// The same call for some tests of another suite.
fn of(args: &Args, suite: Suite, filter: Vec<String>) -> Args {
    Args { suites: vec![suite], timeout: args.timeout, strict: args.strict, filter }
}

/// The tests of other suites that its table names, by suite.
fn named(runs: &[Run]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for run in runs {
        let mut command = test_command(run);
        let output = command.args(["--quiet", "--", "--elsewhere"]).output().context("cargo")?;
        if !output.status.success() {
            bail!("its table cannot be read: {}", String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8(output.stdout).context("its table")?;
        for (suite, test) in text.lines().filter_map(|line| line.split_once(' ')) {
            named.entry(suite.to_owned()).or_default().push(test.to_owned());
        }
    }
    Ok(named)
}

/// Writes down what came of `tests`.
fn note(suite: Suite, tests: &[String], tally: &Tally, outcomes: &mut String) {
    for test in tests {
        let outcome = match (tally.has_passed(test), tally.failures.contains(test)) {
            (_, true) => "FAILED",
            (true, false) => "ok",
            (false, false) => continue,
        };
        let _ = writeln!(outcomes, "{} {test} {outcome}", suite.name());
    }
}

/// Names the file with what came of tests elsewhere.
const OUTCOMES: &str = "MESH_SECURITY_OUTCOMES";
