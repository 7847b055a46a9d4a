//! `cargo xtask build`: the eBPF object and all binaries.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{
    setup::{self, Part},
    shell,
    toolchain::cargo_home,
    workspace,
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

/// The command that builds what users run, without the programs of tests, from what Cargo.lock says and nothing else.
pub(crate) fn programs(profile: Profile) -> Command {
    let mut cargo = anywhere();
    cargo.args(["build", "--bins", "--locked"]);
    cargo.args(["--package", "mesh-control", "--package", "mesh-node", "--package", "meshctl"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cargo
}

/// The command that builds the CNI plugin anew, linked to nothing: agents copy it to the node, whose libraries may be others.
pub(crate) fn plugin(profile: Profile) -> Command {
    let mut cargo = anywhere();
    cargo.args(["rustc", "--locked", "--package", "mesh-node", "--bin", PLUGIN]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cargo.args(["--", "-C", "target-feature=+crt-static"]);
    cargo
}

/// A cargo that puts no name of a directory of this machine into what it builds: the same source comes to the same programs,
/// wherever it is. What a user has set for all builds holds as well.
fn anywhere() -> Command {
    let mut cargo = shell::cargo();
    cargo.current_dir(workspace::root());
    let set = |name: &str| env::var(name).unwrap_or_default();
    let mut rust: Vec<String> = set("RUSTFLAGS").split_whitespace().map(str::to_owned).collect();
    let mut c = set("CFLAGS");
    for (from, to) in places() {
        rust.push(format!("--remap-path-prefix={}={to}", from.display()));
        // Compilers of C are told in one line, in which a blank ends a name.
        if !from.display().to_string().contains(' ') {
            c = format!("{c} -ffile-prefix-map={}={to}", from.display());
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rust.join("\x1f")).env("CFLAGS", c.trim_start());
    // Whatever asks for the time is told the same one.
    cargo.env("SOURCE_DATE_EPOCH", "0");
    cargo
}

/// Directories of this machine that compilers hear of, and what is said in their place. Of several that fit the last one holds.
pub(crate) fn places() -> Vec<(PathBuf, &'static str)> {
    let cargo = cargo_home().map(|home| (home, "/cargo"));
    let target = env::var_os("CARGO_TARGET_DIR").map(|target| (PathBuf::from(target), "/mesh/target"));
    cargo.into_iter().chain([(workspace::root(), "/mesh")]).chain(target).collect()
}

/// The CNI plugin.
pub(crate) const PLUGIN: &str = "mesh-cni";
