//! `cargo xtask testbed`: builds what the test bed needs and becomes it.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{
    build::Profile,
    launch::{Rebuild, launch},
};

/// A small kubelet for one machine: nodes and pods as network namespaces, from a directory of Kubernetes YAML.
///
/// Verbs: up DIR [--nodes N], down, status, exec NS/POD -- CMD... Needs root, through sudo where necessary.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask testbed up deploy/samples/bookinfo --nodes 2\n         \
                  cargo xtask testbed exec default/productpage -- curl -s http://reviews:9080/health")]
pub(crate) struct Args {
    /// Passed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb; returns only if it could not start.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    launch("testbed", Profile::Debug, rebuild(&args.args), &args.args)
}

/// Only `up` starts something from the sources; the others talk to a bed that is running, and should answer at once.
fn rebuild(args: &[OsString]) -> Rebuild {
    let talks = args.first().is_some_and(|verb| verb == "down" || verb == "status" || verb == "exec");
    if talks { Rebuild::IfAbsent } else { Rebuild::Always }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_verbs_for_a_running_bed_skip_the_build() {
        let rebuild_for = |line: &str| rebuild(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(rebuild_for("up somewhere"), Rebuild::Always);
        assert_eq!(rebuild_for("exec default/a -- up"), Rebuild::IfAbsent);
        assert_eq!(rebuild_for("status -o json"), Rebuild::IfAbsent);
        assert_eq!(rebuild(&[]), Rebuild::Always);
    }
}
