//! `cargo xtask bench`: builds what the benches needs and becomes it.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{
    build::Profile,
    launch::{Rebuild, launch},
};

/// Measure side by side: each figure with its no-mesh baseline in the same run.
///
/// Needs root, through sudo where necessary.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench cross-node/http --json figures.json")]
pub(crate) struct Args {
    /// Passed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb; returns only if it could not start.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    launch("bench", Profile::Release, Rebuild::Always, &args.args)
}
