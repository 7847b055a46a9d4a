//! `cargo xtask demo`: builds what the demo needs and becomes it.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{
    build::Profile,
    launch::{Rebuild, launch},
};

/// Show the main job on this machine: two nodes, Bookinfo, identities, encryption and policy.
///
/// Needs root, through sudo where necessary.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask demo --once\nIts own options: cargo xtask demo -- --help")]
pub(crate) struct Args {
    /// Passed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb; returns only if it could not start.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    launch("demo", Profile::Debug, Rebuild::Always, &args.args)
}
