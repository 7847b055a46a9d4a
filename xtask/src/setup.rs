//! `cargo xtask setup`: installs what building and testing need.
//!
//! [`plan`] decides from facts alone; this file gathers the facts and carries the decisions out. Nothing is installed
//! that is there already, everything is announced before it is done, and the other verbs call [`ensure`] for the
//! parts they need, so that nobody has to know about this one.

mod envoy;
mod helm;
mod plan;
mod schemas;
mod wheel;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use self::plan::{Action, Facts};
use crate::{
    shell::{self, must, print, say},
    toolchain::{self, Machine, find_program},
};

/// Install what building and testing need; what is there already is left alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask setup --check")]
pub(crate) struct Args {
    /// Only list what is missing; exit code 1 if anything is.
    #[arg(long)]
    check: bool,
}

/// Things that are needed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Compiler and linker of the kernel programs.
    Ebpf,
    /// What tests, demo and benches run beside our own binaries.
    Tools,
    /// The browser that the mesh page is tested with.
    Browser,
    /// What manifests are held against: what Kubernetes says of the form of its objects, and Helm.
    Manifests,
    /// Those that the bench of layer 7 compares the gateway with, and their load.
    Peers,
    /// What only `check` uses.
    Audit,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let parts = [Part::Ebpf, Part::Tools, Part::Manifests, Part::Browser];
    if args.check {
        return Ok(list(&parts));
    }
    ensure(&parts)?;
    say("everything that building and testing need is installed");
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing of some parts. Quick and silent if nothing is.
pub(crate) fn ensure(parts: &[Part]) -> Result<()> {
    let mut apt = Apt::default();
    for part in parts {
        // An installed compiler decides which linker fits, so each action is followed by a new look.
        let mut last = None;
        while let Some(action) = next_action(*part, &mut apt)? {
            if last.as_ref() == Some(&action) {
                bail!("{}: this went well, and yet did not help; see above", action.describe());
            }
            carry_out(&action)?;
            last = Some(action);
        }
    }
    Ok(())
}

fn list(parts: &[Part]) -> ExitCode {
    let facts = Facts::gather();
    let missing: Vec<String> = parts.iter().flat_map(|part| plan::missing(*part, &facts)).collect();
    for line in &missing {
        print(format_args!("missing: {line}"));
    }
    if missing.is_empty() {
        print("nothing is missing");
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

fn next_action(part: Part, apt: &mut Apt) -> Result<Option<Action>> {
    let mut facts = Facts::gather();
    if plan::missing(part, &facts).is_empty() {
        return Ok(None);
    }
    // What is built from LLVM that is here already needs no package, and perhaps nobody here may install any.
    let without_apt = plan::next(part, &facts);
    if part == Part::Ebpf && matches!(without_apt, Ok(Some(Action::Crate { .. }))) {
        return without_apt.map_err(anyhow::Error::msg);
    }
    if facts.apt {
        apt.look(&mut facts)?;
    }
    plan::next(part, &facts).map_err(anyhow::Error::msg)
}

fn carry_out(action: &Action) -> Result<()> {
    say(action.describe());
    match action {
        Action::Packages(names) => install(names),
        Action::Nightly => {
            let rustup = find_program("rustup").context("rustup was there a moment ago")?;
            must(Command::new(rustup).args(plan::NIGHTLY))
        }
        Action::Crate { name, version, feature, llvm } => {
            let mut install = shell::cargo();
            // Where host builds go and with which flags is no business of a tool.
            toolchain::clean(&mut install);
            install.args(["install", name, "--version", version, "--locked", "--force"]);
            if let Some(feature) = feature {
                install.args(["--no-default-features", "--features", feature]);
            }
            if let Some(prefix) = llvm {
                install.env("LLVM_PREFIX", prefix);
            }
            must(&mut install)
        }
        Action::Envoy => envoy::install(plan::ENVOY),
        Action::Helm => helm::install(plan::HELM),
        Action::Schemas => schemas::install(plan::SCHEMAS),
    }
}

/// Debian's package manager, and what it has told us.
#[derive(Debug, Default)]
struct Apt {
    updated: bool,
}

impl Apt {
    /// Adds to the facts which of the packages that might be wanted can be had, and in which version.
    fn look(&mut self, facts: &mut Facts) -> Result<()> {
        if !self.updated {
            say("something is missing: refreshing the package lists (apt-get update)");
            must(apt_get()?.arg("update"))?;
            self.updated = true;
        }
        let names = plan::optional_packages();
        let policy = shell::read(Command::new("apt-cache").arg("policy").args(&names).env("LC_ALL", "C"))?;
        facts.offered = plan::candidates(&policy);
        Ok(())
    }
}

fn install(names: &[String]) -> Result<()> {
    must(apt_get()?.args(["install", "-y", "--no-install-recommends"]).args(names))?;
    for service in ["nginx", "haproxy", "redis-server", "containerd"] {
        if names.iter().any(|name| name.starts_with(service)) && Path::new("/run/systemd/system").is_dir() {
            say(format_args!(
                "turning off {service}, which its package has started: only the program is wanted"
            ));
            must(shell::as_root("systemctl")?.args(["disable", "--now", service]))?;
        }
    }
    Ok(())
}

fn apt_get() -> Result<Command> {
    let mut apt = shell::as_root("env")?;
    // sudo may drop the variable, and a package that asks a question would wait for ever.
    apt.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-q",
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]);
    Ok(apt)
}

impl Facts {
    /// Looks at this machine.
    fn gather() -> Self {
        Self {
            machine: Machine::probe(),
            rustup: find_program("rustup").is_some(),
            apt: find_program("apt-get").is_some(),
            offered: std::collections::BTreeMap::default(),
            llvm: installed_llvm(),
            programs: plan::PROGRAMS.into_iter().filter(|name| has_program(name)).collect(),
            envoy: envoy::installed(),
            helm: helm::installed(),
            schemas: schemas::installed(),
        }
    }
}

/// Whether a program is there, be it only in root's directories: users often do not have those in `PATH`.
fn has_program(name: &str) -> bool {
    let for_root = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
    find_program(name).is_some() || for_root.iter().any(|dir| Path::new(dir).join(name).is_file())
}

fn installed_llvm() -> Vec<(u32, PathBuf)> {
    let named = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let ours = plan::LLVM_VERSIONS.map(|version| PathBuf::from(format!("/usr/lib/llvm-{version}")));
    let prefixes = named.into_iter().chain(ours).filter(|prefix| prefix.join("bin/llvm-config").is_file());
    prefixes.filter_map(|prefix| Some((llvm_version(&prefix)?, prefix))).collect()
}

fn llvm_version(prefix: &Path) -> Option<u32> {
    let output = Command::new(prefix.join("bin/llvm-config")).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.split('.').next()?.parse().ok()
}
