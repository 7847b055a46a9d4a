//! Everything a contributor runs, behind `cargo xtask`: one file for each verb.
//!
//! Progress goes to standard error, so that the output of the programs started here stays theirs; their exit codes
//! are passed on. Verbs install what they themselves need before they start: see [`setup`].
#![forbid(unsafe_code)]

mod bench;
mod build;
mod check;
mod crds;
mod dashboards;
mod demo;
mod fuzz;
mod generated;
mod image;
mod launch;
mod manifests;
mod setup;
mod shell;
mod test;
mod testbed;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Set up, build, check, test and try the mesh.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "Start with `cargo xtask setup`, then `cargo xtask test`."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Setup(setup::Args),
    Build(build::Args),
    Check(check::Args),
    Crds(crds::Args),
    Dashboards(dashboards::Args),
    Test(test::Args),
    Demo(demo::Args),
    Testbed(testbed::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
    Image(image::Args),
    Manifests(manifests::Args),
}

fn main() -> ExitCode {
    match run(&Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            shell::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup(args) => setup::run(args),
        Verb::Build(args) => build::run(args),
        Verb::Check(args) => Ok(check::run(args)),
        Verb::Crds(args) => crds::run(args),
        Verb::Dashboards(args) => dashboards::run(args),
        Verb::Test(args) => test::run(args),
        Verb::Demo(args) => demo::run(args),
        Verb::Testbed(args) => testbed::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Fuzz(args) => fuzz::run(args),
        Verb::Image(args) => image::run(args),
        Verb::Manifests(args) => manifests::run(args),
    }
}
