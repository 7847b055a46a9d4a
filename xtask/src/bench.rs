//! `cargo xtask bench`: builds what the benches needs and becomes it.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{
    build::Profile,
    launch::{Rebuild, launch},
    setup::{self, Part},
    shell::say,
};

/// Measure side by side: each figure with its no-mesh baseline in the same run.
///
/// Needs root, through sudo where necessary.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: cargo xtask bench cross-node/http --json figures.json\nExample: cargo xtask bench l7 --quick"
)]
pub(crate) struct Args {
    /// Passed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb; returns only if it could not start.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if wants_peers(&args.args)
        && let Err(error) = setup::ensure(&[Part::Peers])
    {
        // The bench then shows who is missing beside those who are not.
        say(format_args!("not all peers could be installed: {error:#}"));
    }
    launch("bench", Profile::Release, Rebuild::Always, &args.args)
}

/// Whether a case of layer 7 is asked for, by a name that begins like theirs or by no name at all.
fn wants_peers(args: &[OsString]) -> bool {
    let mut named = false;
    let mut args = args.iter().filter_map(|arg| arg.to_str());
    while let Some(arg) = args.next() {
        match arg {
            "--list" | "--help" | "-h" => return false,
            _ if VALUED.contains(&arg) => drop(args.next()),
            _ if arg.starts_with('-') => {}
            _ if arg.starts_with("l7") || "l7".starts_with(arg) => return true,
            _ => named = true,
        }
    }
    !named
}

/// Options of the bench that are followed by a value.
const VALUED: [&str; 7] = ["--json", "--svg", "--runs", "--seconds", "--peer", "--envoy", "--node-arg"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_for_layer_7() {
        let wants =
            |line: &str| wants_peers(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        for line in ["", "--quick", "l7", "control l7/plain --json out.json", "--json out.json", "--runs 3"] {
            assert!(wants(line), "{line}");
        }
        for line in ["control", "--json l7.json cross-node", "--list", "--runs 3 node/rss"] {
            assert!(!wants(line), "{line}");
        }
    }
}
