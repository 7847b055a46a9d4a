//! Committed files that a verb of this program writes: `deploy/crds`, `deploy/dashboards`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

use crate::{
    shell::{print, say},
    workspace,
};

/// Files by name, and what is in them.
pub(crate) type Files = BTreeMap<String, String>;

/// A directory of which every file is written by a verb.
pub(crate) struct Generated {
    /// From the top of the tree.
    pub(crate) directory: &'static str,
    /// Who writes it.
    pub(crate) verb: &'static str,
    /// What belongs into it.
    pub(crate) wanted: Files,
}

impl Generated {
    /// Writes what has changed, or with `check` only says what would change, and fails if anything would.
    pub(crate) fn settle(&self, check: bool) -> Result<ExitCode> {
        if check {
            let findings = self.drift()?;
            findings.iter().for_each(print);
            return Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        let (directory, present) = (self.path(), present(&self.path())?);
        fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        for name in changed(&present, &self.wanted) {
            let path = directory.join(name);
            match self.wanted.get(name) {
                Some(text) => fs::write(&path, text),
                None => fs::remove_file(&path),
            }
            .with_context(|| format!("{} cannot be changed", path.display()))?;
            say(format_args!("{}/{name} changed", self.directory));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What the directory has that does not belong there as it is, and what is missing, a line for each file.
    pub(crate) fn drift(&self) -> Result<Vec<String>> {
        let present = present(&self.path())?;
        let Self { directory, verb, .. } = self;
        let line =
            |name: &String| format!("{directory}/{name}: not as it is generated (run `cargo xtask {verb}`)");
        Ok(changed(&present, &self.wanted).into_iter().map(line).collect())
    }

    fn path(&self) -> PathBuf {
        workspace::root().join(self.directory)
    }
}

/// Names of files that differ, or that only one side has.
fn changed<'f>(present: &'f Files, wanted: &'f Files) -> BTreeSet<&'f String> {
    let names = present.keys().chain(wanted.keys());
    names.filter(|name| present.get(*name) != wanted.get(*name)).collect()
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
