//! Starting one of our own binaries as root: what `demo`, `testbed` and `bench` have in common.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Profile},
    setup::{self, Part},
    shell,
    workspace::{Depth, Workspace},
};

/// When to build before starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// Always: the user wants to see the tree as it is.
    Always,
    /// Only if the binary is not there: it talks to something that is running already, perhaps from older sources.
    IfAbsent,
}

/// Sets up, builds all binaries (the one started here starts others) and becomes `binary`. Returns only on failure.
pub(crate) fn launch(
    binary: &str,
    profile: Profile,
    rebuild: Rebuild,
    args: &[OsString],
) -> Result<ExitCode> {
    let workspace = Workspace::load(Depth::Ours)?;
    if workspace.with_target("bin", binary).is_empty() {
        bail!("this tree has no binary `{binary}` yet");
    }
    let program = workspace.target_dir.join(profile.directory()).join(binary);
    if rebuild == Rebuild::Always || !program.is_file() {
        setup::ensure(&[Part::Ebpf, Part::Tools])?;
        shell::must(&mut build::command(profile))?;
    }
    let error = shell::as_root(&program)?.args(args).exec();
    Err(error).with_context(|| format!("{} does not start", program.display()))
}
