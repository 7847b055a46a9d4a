//! The schemas that Kubernetes publishes of its objects, a directory for each of its minor versions, out of a package of
//! the Python package index: manifests are held against them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::wheel::Wheel;

/// Where suite `kubernetes` looks for them: beside the directory of its own program.
const PACKAGE: Wheel = Wheel { package: "kubernetes-validate", directory: "schemas", stamp: "version" };

/// Where the package has them.
const INSIDE: &str = "kubernetes_validate/kubernetes-json-schema";

/// The version that is there, if one is.
pub(super) fn installed() -> Option<String> {
    PACKAGE.installed()
}

/// Fetches and unpacks a version. Of each version of Kubernetes there are two directories; the one where nothing may be in
/// an object that its schema does not have is kept.
pub(super) fn install(version: &str) -> Result<()> {
    PACKAGE.install(version, |unpacked: &Path, directory| {
        let inside = unpacked.join(INSIDE);
        for entry in fs::read_dir(&inside).with_context(|| format!("the package has no {INSIDE}"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(minor) = name.strip_suffix(".0-local-strict") else { continue };
            let to = directory.join(minor);
            let _ = fs::remove_dir_all(&to);
            fs::rename(entry.path(), to)?;
        }
        Ok(())
    })
}
