//! `cargo xtask build`: the eBPF object and all binaries.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    setup::{self, Part},
    shell, workspace,
};

/// Build the eBPF object and all binaries into target/debug or target/release.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask build --release")]
pub(crate) struct Args {
    /// Build for use instead of for debugging.
    #[arg(long)]
    release: bool,
}

/// How cargo is to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// `target/debug`.
    Debug,
    /// `target/release`.
    Release,
}

impl Profile {
    /// Name of the directory that cargo puts the binaries into.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Part::Ebpf])?;
    let profile = if args.release { Profile::Release } else { Profile::Debug };
    Ok(shell::exit_code(shell::run(&mut command(profile))?))
}

/// The command that builds all binaries. The kernel programs come with the node, whose build script builds them.
pub(crate) fn command(profile: Profile) -> Command {
    let mut cargo = shell::cargo();
    cargo.current_dir(workspace::root()).args(["build", "--workspace", "--bins"]);
    cargo.args(["--exclude", "mesh-ebpf", "--exclude", "xtask"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cargo
}

/// The command that builds what users run, without the programs of tests.
pub(crate) fn programs(profile: Profile) -> Command {
    let mut cargo = shell::cargo();
    cargo.current_dir(workspace::root()).args(["build", "--bins"]);
    cargo.args(["--package", "mesh-control", "--package", "mesh-node", "--package", "meshctl"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cargo
}

/// The command that builds the CNI plugin anew, linked to nothing: agents copy it to the node, whose libraries may be others.
pub(crate) fn plugin(profile: Profile) -> Command {
    let mut cargo = shell::cargo();
    cargo.current_dir(workspace::root()).args(["rustc", "--package", "mesh-node", "--bin", PLUGIN]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cargo.args(["--", "-C", "target-feature=+crt-static"]);
    cargo
}

/// The CNI plugin.
pub(crate) const PLUGIN: &str = "mesh-cni";
