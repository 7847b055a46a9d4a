//! `cargo xtask crds`: the `CustomResourceDefinitions` in `deploy/crds`, written from the types that read the resources.
//!
//! This program depends on nothing of ours, so the types speak through a program of their own, which is built first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

use crate::{
    shell::{self, print, say},
    workspace,
};

/// Write the `CustomResourceDefinitions` of the kinds that the mesh reads.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask crds --check")]
pub(crate) struct Args {
    /// Write nothing; fail if something would have changed.
    #[arg(long)]
    check: bool,
}

/// Files by name, and what is in them.
type Files = BTreeMap<String, String>;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        let findings = drift()?;
        findings.iter().for_each(print);
        return Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let (wanted, directory) = (wanted()?, directory());
    let present = present(&directory)?;
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    for name in changed(&present, &wanted) {
        let path = directory.join(name);
        match wanted.get(name) {
            Some(text) => fs::write(&path, text),
            None => fs::remove_file(&path),
        }
        .with_context(|| format!("{} cannot be changed", path.display()))?;
        say(format_args!("{DIRECTORY}/{name} changed"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What `deploy/crds` has that the types do not say, and the other way round, a line for each file.
pub(crate) fn drift() -> Result<Vec<String>> {
    let (wanted, present) = (wanted()?, present(&directory())?);
    let line = |name: &String| format!("{DIRECTORY}/{name}: not what the types say (run `cargo xtask crds`)");
    Ok(changed(&present, &wanted).into_iter().map(line).collect())
}

/// Names of files that differ, or that only one side has.
fn changed<'f>(present: &'f Files, wanted: &'f Files) -> BTreeSet<&'f String> {
    let names = present.keys().chain(wanted.keys());
    names.filter(|name| present.get(*name) != wanted.get(*name)).collect()
}

fn wanted() -> Result<Files> {
    let mut cargo = shell::cargo();
    cargo.current_dir(workspace::root());
    cargo.args(["run", "--quiet", "--package", "mesh-core", "--features", "schema", "--bin", "crds"]);
    let text = shell::read(&mut cargo)?;
    serde_json::from_str(&text).context("the definitions are not what was agreed on")
}

fn present(directory: &Path) -> Result<Files> {
    let mut files = Files::new();
    if !directory.exists() {
        return Ok(files);
    }
    let entries =
        fs::read_dir(directory).with_context(|| format!("{} cannot be read", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        files.insert(name, text);
    }
    Ok(files)
}

fn directory() -> PathBuf {
    workspace::root().join(DIRECTORY)
}

/// Where the definitions are, from the top of the tree.
const DIRECTORY: &str = "deploy/crds";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named() {
        let files = |files: &[(&str, &str)]| -> Files {
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let present = files(&[("same", "1"), ("edited", "1"), ("stale", "1")]);
        let wanted = files(&[("same", "1"), ("edited", "2"), ("new", "1")]);
        assert_eq!(changed(&present, &wanted).into_iter().collect::<Vec<_>>(), ["edited", "new", "stale"]);
        assert!(changed(&wanted, &wanted).is_empty());
    }
}
