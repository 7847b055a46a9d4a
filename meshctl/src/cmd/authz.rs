//! `meshctl authz`: what policies say, and why.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

mod check;
mod place;
mod show;

pub(super) use self::check::normalization;

/// Ask policies what they say of a connection or of a request, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl authz check default/ratings-v1 --method GET --path /ratings/0")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Check(args) => check::run(args),
    }
}
