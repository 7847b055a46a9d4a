//! The image of the programs under test, as `cargo xtask image` makes it of those that are released.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Writes `mesh.tar` into a directory, without building anything; what is said about it.
///
/// # Errors
/// If it cannot be made.
pub fn build(directory: &Path) -> Result<String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Those of the suite's own package would have cargo build others anew.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|it| it.starts_with("CARGO_PKG_") || it.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    cargo.args(["run", "--quiet", "--package", "xtask", "--", "image", "--debug", "--no-build", "--output"]);
    let output = cargo.arg(directory).stdin(Stdio::null()).output().context("cargo does not start")?;
    ensure!(output.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
