//! `cargo xtask fuzz`: what reads bytes of strangers, for as long as somebody wants.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    setup::{self, Part},
    shell, workspace,
};

/// Feed what reads bytes of strangers with inputs that somebody has meddled with. Prints a table.
///
/// An input that breaks something is kept in `tests/fuzz/failures` and is run first from then on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask fuzz --seconds 60 path headers")]
pub(crate) struct Args {
    /// Parts of names of targets; without one, all of them.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
    /// Where chance begins: the same one gives the same inputs. By the clock unless told.
    #[arg(long)]
    seed: Option<u64>,
    /// Built for speed, without checks of overflow.
    #[arg(long)]
    release: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Part::Ebpf])?;
    let mut cargo = shell::cargo();
    cargo.current_dir(workspace::root()).args(["test", "--workspace", "--exclude=mesh-ebpf", "--test=fuzz"]);
    if args.release {
        cargo.arg("--release");
    }
    cargo.args(["--", "--seconds", &args.seconds.to_string()]);
    if let Some(seed) = args.seed {
        cargo.args(["--seed", &seed.to_string()]);
    }
    Ok(shell::exit_code(shell::run(cargo.args(&args.targets))?))
}
