//! `bench`: side-by-side figures, each with its no-mesh baseline in the same run.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use mesh_tests::bench::{self, Case, Plan};

/// Measure the mesh beside the same pods without it. Needs root.
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    after_help = "Example: bench cross-node/http --json figures.json\nExample: bench same-node cross-node --svg figures.svg\nExample: bench --quick node/rss\n\n\
                  Exit code: 0 if everything was measured and every must holds."
)]
struct Cli {
    /// Cases, or what their names begin with; all without any.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print the names of all cases and end.
    #[arg(long)]
    list: bool,
    /// Write the figures to a file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture of the rates as well.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Rounds of each case.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Seconds of load for each system in each round.
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// One round of one second: whether it works, not how fast.
    #[arg(long, conflicts_with_all = ["runs", "seconds"])]
    quick: bool,
    /// Another mesh's proxy to measure in the same run; ztunnel must have been built with `--features testing`.
    #[arg(long, value_name = "ztunnel=PATH", value_parser = bench::parse_peer)]
    peer: Option<PathBuf>,
    /// The Envoy to compare gateways with, instead of the one that `cargo xtask bench` installs.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// An argument for every mesh-node of a node, as in --node-arg=--express-path=disabled. May be given several times.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    node_arg: Vec<String>,
    /// Be one of the processes that a bench consists of.
    #[arg(long, hide = true, value_name = "PART")]
    part: Option<bench::control::Part>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(&mut io::stderr(), &format!("Error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    if let Some(part) = cli.part {
        return part.run().map(|()| ExitCode::SUCCESS);
    }
    let cases = Case::select(&cli.names).map_err(|reason| anyhow!(reason))?;
    if cli.list {
        for case in cases {
            say(&mut io::stdout(), &case.to_string());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &cli.json {
        // Better now than after a quarter of an hour.
        fs::write(file, "[]\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let (runs, seconds) = if cli.quick { (1, 1) } else { (usize::from(cli.runs), cli.seconds) };
    let plan = Plan { cases, runs, seconds, ztunnel: cli.peer, envoy: cli.envoy, node_args: cli.node_arg };
    let outcome = bench::run(&plan, &mut |text| say(&mut io::stderr(), text))?;
    say(&mut io::stdout(), outcome.tables().trim_end());
    if let Some(file) = &cli.json {
        let text = serde_json::to_string_pretty(&outcome.rows)? + "\n";
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &cli.svg {
        let machine = bench::Machine::here().context("the machine's name for the picture")?;
        let svg = bench::chart(&outcome.rows, &machine)
            .context("no picture: no rate has anything to be compared with")?;
        fs::write(file, svg).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if outcome.disturbed > 0 {
        let (disturbed, turns) = (outcome.disturbed, outcome.turns);
        let text = format!(
            "Others were busy on this machine during {disturbed} of {turns} turns: do not rely on the figures."
        );
        say(&mut io::stderr(), &text);
    }
    for failure in &outcome.failures {
        say(&mut io::stderr(), &format!("Error: {failure}"));
    }
    if outcome.missed > 0 {
        let text = format!("Error: {} of what must be so is not, or was not measured.", outcome.missed);
        say(&mut io::stderr(), &text);
    }
    let good = outcome.failures.is_empty() && outcome.missed == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A closed pipe (`bench | head`) is no reason to fail.
fn say(out: &mut dyn Write, text: &str) {
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
