//! Paths of the command line into objects.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use mesh_core::resource::{Parsed, SourceFile, parse};

/// What there was to read.
#[derive(Debug, Default)]
pub(in crate::cmd) struct Input {
    pub(in crate::cmd) parsed: Parsed,
    /// How many files that was.
    pub(super) files: usize,
    /// Directories within directories that were left out.
    pub(super) skipped: Vec<PathBuf>,
}

/// Reads all of `paths`, in their order; directories by name. A path that cannot be read fails the whole: an analysis
/// of half of it would say things that are not true.
pub(in crate::cmd) fn all(paths: &[PathBuf], recursive: bool) -> Result<Input> {
    let mut input = Input::default();
    for path in paths {
        if path == Path::new("-") {
            let text = text(io::stdin().lock()).context("standard input")?;
            input.add("stdin", &text);
        } else if fs::metadata(path).with_context(|| path.display().to_string())?.is_dir() {
            input.directory(path, recursive, 0)?;
        } else {
            input.file(path)?;
        }
    }
    Ok(input)
}

impl Input {
    fn directory(&mut self, directory: &Path, recursive: bool, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            bail!("{}: more than {MAX_DEPTH} directories deep", directory.display());
        }
        let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.with_context(|| directory.display().to_string())?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // Links to directories are not followed: one could lead in a circle.
            let kind = entry.file_type().with_context(|| path.display().to_string())?;
            match kind.is_dir() {
                _ if is_hidden(&path) => {}
                true if recursive => self.directory(&path, recursive, depth + 1)?,
                true => self.skipped.push(path),
                false if has_extension(&path) && !path.is_dir() => self.file(&path)?,
                false => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let text = File::open(path).map_err(anyhow::Error::from).and_then(text);
        self.add(&name, &text.with_context(|| path.display().to_string())?);
        Ok(())
    }

    fn add(&mut self, name: &str, text: &str) {
        self.files += 1;
        self.parsed.append(parse(&SourceFile { name, text }));
    }
}

fn text(reader: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        bail!("is larger than {} MiB", MAX_FILE >> 20);
    }
    String::from_utf8(bytes).context("is not UTF-8 text")
}

/// Editors' temporary and lock files.
fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(['.', '#', '~'])
}

fn has_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["json", "yaml", "yml"].iter().any(|known| extension == *known))
}

/// Bytes per file: as many as the mesh reads of one.
const MAX_FILE: u64 = 16 << 20;
/// Directories within each other; more are a mistake.
const MAX_DEPTH: usize = 64;

#[cfg(test)]
mod tests;
