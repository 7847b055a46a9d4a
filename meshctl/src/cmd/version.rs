//! `meshctl version`.

use std::process::ExitCode;

use anyhow::Result;

/// Print the version of this command line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl version")]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    crate::emit(concat!("client version: ", env!("CARGO_PKG_VERSION"), "\n"))?;
    Ok(ExitCode::SUCCESS)
}
