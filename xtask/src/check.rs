//! `cargo xtask check`: everything about the tree that a machine can judge without running it.

mod graph;
mod lexer;
mod rules;

use std::process::{Command, ExitCode, Output};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{
    crds, dashboards,
    setup::{self, Part},
    shell::{self, line_of, print, say},
    toolchain::{self, Machine, Verb, find_program},
    workspace::{self, Depth, Workspace},
};

/// Check layering, house rules, format, lints and dependencies; all of it, or the steps named.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask check\n         cargo xtask check layers rules")]
pub(crate) struct Args {
    /// The steps to run.
    #[arg(value_enum, value_name = "STEP")]
    steps: Vec<Step>,
    /// A step that could not be run is a failure.
    #[arg(long)]
    strict: bool,
}

/// One check with a result of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Who may depend on whom.
    Layers,
    /// Sizes of files, places of unsafe code, paths of one machine.
    Rules,
    /// rustfmt.
    Format,
    /// Whether the `CustomResourceDefinitions` are those of the types.
    Crds,
    /// Whether the Grafana dashboards are those that are generated.
    Dashboards,
    /// clippy over all host code.
    Lints,
    /// clippy, or at least the compiler's warnings, over the kernel programs.
    EbpfLints,
    /// Versions, licences and sources of what we depend on.
    Dependencies,
    /// Published advisories against what we depend on.
    Advisories,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// With what to show, unless the step has shown it already.
    Failed(Vec<String>),
    /// It says nothing about the tree, for this reason.
    NotRun(String),
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn needs(self) -> &'static [Part] {
        match self {
            Self::Layers | Self::Rules | Self::Format | Self::Crds | Self::Dashboards => &[],
            Self::Lints => &[Part::Ebpf],
            Self::EbpfLints => &[Part::Ebpf, Part::Audit],
            Self::Dependencies | Self::Advisories => &[Part::Audit],
        }
    }

    fn run(self) -> Result<Outcome> {
        setup::ensure(self.needs())?;
        match self {
            Self::Layers => Ok(findings(graph::judge(&Workspace::load(Depth::All)?))),
            Self::Rules => Ok(findings(rules::judge(&workspace::root())?)),
            Self::Format => cargo(&["fmt", "--all", "--check"]),
            Self::Crds => Ok(findings(crds::generated()?.drift()?)),
            Self::Dashboards => Ok(findings(dashboards::generated()?.drift()?)),
            Self::Lints => cargo(&LINTS),
            Self::EbpfLints => ebpf_lints(),
            Self::Dependencies => cargo(&["deny", "--all-features", "check", "bans", "licenses", "sources"]),
            Self::Advisories => advisories(),
        }
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> ExitCode {
    let all = Step::value_variants();
    let steps = if args.steps.is_empty() { all } else { &args.steps };
    let mut results = Vec::new();
    for step in steps {
        say(format_args!("checking {}", step.name()));
        let outcome = step.run().unwrap_or_else(|error| Outcome::Failed(vec![format!("{error:#}")]));
        if let Outcome::Failed(lines) = &outcome {
            lines.iter().for_each(print);
        }
        results.push((*step, outcome));
    }
    print("");
    for (step, outcome) in &results {
        let name = step.name();
        match outcome {
            Outcome::Passed => print(format_args!("{name:<13} ok")),
            Outcome::Failed(_) => print(format_args!("{name:<13} FAILED, see above")),
            Outcome::NotRun(reason) => print(format_args!("{name:<13} NOT RUN: {reason}")),
        }
    }
    verdict(results.iter().map(|(_, outcome)| outcome), args.strict)
}

fn verdict<'a>(mut outcomes: impl Iterator<Item = &'a Outcome>, strict: bool) -> ExitCode {
    let is_good = |outcome: &Outcome| match outcome {
        Outcome::Passed => true,
        Outcome::Failed(_) => false,
        Outcome::NotRun(_) => !strict,
    };
    if outcomes.all(is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn findings(lines: Vec<String>) -> Outcome {
    if lines.is_empty() { Outcome::Passed } else { Outcome::Failed(lines) }
}

fn cargo(args: &[&str]) -> Result<Outcome> {
    outcome_of(shell::cargo().current_dir(workspace::root()).args(args))
}

fn outcome_of(command: &mut Command) -> Result<Outcome> {
    let status = shell::run(command)?;
    Ok(if status.success() {
        Outcome::Passed
    } else {
        Outcome::Failed(vec![format!("`{}` failed: {status}", line_of(command))])
    })
}

fn ebpf_lints() -> Result<Outcome> {
    let toolchain = Machine::probe().choose().map_err(anyhow::Error::msg)?;
    let verb = if toolchain.compiler.has(toolchain::Part::Clippy) {
        Verb::Clippy
    } else {
        Verb::Build { strict: true }
    };
    let target_dir = Workspace::load(Depth::Ours)?.target_dir.join("ebpf-check");
    let endian = if cfg!(target_endian = "big") { "big" } else { "little" };
    let target = toolchain::Target::new(endian, std::env::consts::ARCH);
    outcome_of(&mut toolchain.command(verb, &workspace::root(), &target_dir, &target))
}

/// Fetching and judging are two commands, so that a database out of reach is not taken for an advisory.
fn advisories() -> Result<Outcome> {
    let deny = find_program("cargo-deny").context("cargo-deny was installed a moment ago")?;
    let mut fetch = Command::new("timeout");
    fetch.arg(FETCH_SECONDS).arg(&deny).args(["fetch", "db"]).current_dir(workspace::root());
    // Without these git asks for a name and a password where a proxy answers in the database's place.
    fetch.env("GIT_TERMINAL_PROMPT", "0");
    let output = fetch.output().context("timeout does not start")?;
    if !output.status.success() {
        return Ok(Outcome::NotRun(format!(
            "the advisory database could not be fetched: {}",
            last_error(&output)
        )));
    }
    cargo(&["deny", "--all-features", "--offline", "check", "advisories"])
}

fn last_error(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned());
    last.unwrap_or_else(|| output.status.to_string())
}

const LINTS: [&str; 11] = [
    "clippy",
    "--workspace",
    "--exclude",
    "mesh-ebpf",
    "--all-targets",
    "--features",
    "mesh-core/schema",
    "--keep-going",
    "--",
    "-D",
    "warnings",
];

/// The database is small: what has not come by then does not come.
const FETCH_SECONDS: &str = "90";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strict_fails_on_what_was_not_run() {
        let not_run = [Outcome::Passed, Outcome::NotRun("no network".to_owned())];
        assert_eq!(verdict(not_run.iter(), false), ExitCode::SUCCESS);
        assert_eq!(verdict(not_run.iter(), true), ExitCode::FAILURE);
        assert_eq!(verdict([Outcome::Failed(Vec::new())].iter(), false), ExitCode::FAILURE);
    }
}
