//! Tests of other suites that rows of the table refer to: they are held to exist, and what came of them is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::registry::{self, Proof, Suite};

/// What came of tests that somebody else has run just now.
pub(crate) struct Outcomes(BTreeMap<String, String>);

impl Outcomes {
    /// As the file says that [`VARIABLE`] names: a line is a suite, a test, and `ok` or `FAILED`.
    pub(crate) fn read() -> Self {
        let text =
            std::env::var_os(VARIABLE).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let line =
            |line: &str| line.rsplit_once(' ').map(|(test, outcome)| (test.to_owned(), outcome.to_owned()));
        Self(text.lines().filter_map(line).collect())
    }

    /// What came of one of them.
    pub(crate) fn of(&self, suite: Suite, name: &str) -> String {
        match self.0.get(&format!("{} {name}", suite.name())).map(String::as_str) {
            Some("ok") => "pass".to_owned(),
            Some(_) => "FAIL".to_owned(),
            None => format!("by {}", suite.name()),
        }
    }
}

/// Suite and name of all of them.
pub(crate) fn names() -> BTreeSet<(&'static str, &'static str)> {
    let proofs = registry::all().flat_map(|advisory| advisory.shown);
    let named = proofs.filter_map(|proof| match proof {
        Proof::In(suite, name) => Some((suite.name(), *name)),
        _ => None,
    });
    named.collect()
}

/// Whether every test that the table names is one of its suite.
pub(crate) fn all_exist() -> Result<()> {
    let mut missing = Vec::new();
    for suite in Suite::ALL {
        let wanted: Vec<_> = names().into_iter().filter(|(of, _)| *of == suite.name()).collect();
        if wanted.is_empty() {
            continue;
        }
        let there = list(suite)?;
        let lost = wanted.into_iter().filter(|(_, name)| !there.contains(*name));
        missing.extend(lost.map(|(suite, name)| format!("{suite} {name}")));
    }
    ensure!(missing.is_empty(), "the table names tests that do not exist: {}", missing.join(", "));
    Ok(())
}

fn list(suite: Suite) -> Result<BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The words that `cargo xtask test` selects by, so that nothing is compiled anew.
    command.args([
        "test",
        "--quiet",
        "--workspace",
        "--exclude=mesh-ebpf",
        suite.selection(),
        "--",
        "--list",
    ]);
    let output = command.output().context("cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the tests of {} cannot be listed: {said}", suite.name());
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Names a file with what came of tests elsewhere.
const VARIABLE: &str = "MESH_SECURITY_OUTCOMES";
