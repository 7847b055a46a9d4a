//! `meshctl completion`.

use std::process::ExitCode;

use anyhow::Result;
use clap_complete::Shell;

/// Print what makes a shell complete this command line's words.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl completion bash > /etc/bash_completion.d/meshctl")]
pub(crate) struct Args {
    /// For which shell.
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: &Args, command: &mut clap::Command) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "meshctl", &mut script);
    crate::emit(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
