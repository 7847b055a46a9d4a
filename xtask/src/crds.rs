//! `cargo xtask crds`: the `CustomResourceDefinitions` in `deploy/crds`, written from the types that read the resources.
//!
//! This program depends on nothing of ours, so the types speak through a program of their own, which is built first.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{
    generated::{Files, Generated},
    shell, workspace,
};

/// Write the `CustomResourceDefinitions` of the kinds that the mesh reads.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask crds --check")]
pub(crate) struct Args {
    /// Write nothing; fail if something would have changed.
    #[arg(long)]
    check: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    generated()?.settle(args.check)
}

/// The definitions as the types say them.
pub(crate) fn generated() -> Result<Generated> {
    Ok(Generated { directory: "deploy/crds", verb: "crds", wanted: wanted()? })
}

fn wanted() -> Result<Files> {
    let mut cargo = shell::cargo();
    cargo.current_dir(workspace::root());
    cargo.args(["run", "--quiet", "--package", "mesh-core", "--features", "schema", "--bin", "crds"]);
    let text = shell::read(&mut cargo)?;
    serde_json::from_str(&text).context("the definitions are not what was agreed on")
}
