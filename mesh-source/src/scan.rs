//! One look at the directory: which files are there, which of them changed, and what they amount to.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_core::resource::{Finding, Level, ObjectKey, Origin};

use crate::directory::Loaded;
use crate::file::{Known, Stamp};

/// Whether there is time to wait for files that seem to be in the middle of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Look again soon.
    Left,
    /// Take what is there.
    Over,
}

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing new.
    Unchanged,
    /// Something to publish.
    Changed,
    /// Somebody is writing: nothing to publish yet, worth another look soon.
    Unsettled,
}

/// Remembers every file between scans.
#[derive(Debug)]
pub(crate) struct Scanner {
    directory: PathBuf,
    /// By name, which is the order in which objects count.
    files: BTreeMap<OsString, Known>,
    /// What is wrong with the directory as a whole.
    trouble: Option<String>,
    /// Whether anything changed since the last [`Outcome::Changed`].
    dirty: bool,
    generation: u64,
}

/// Names and stamps; no stamp where a name leads nowhere.
type Listing = BTreeMap<OsString, Option<Stamp>>;

impl Scanner {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, files: BTreeMap::new(), trouble: None, dirty: false, generation: 0 }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads what changed.
    pub(crate) fn scan(&mut self, patience: Patience) -> Outcome {
        let mut settled = true;
        match list(&self.directory) {
            Ok(listing) => {
                settled &= self.read(&listing, patience);
                // Whoever wrote while we read has made a mixture of old and new.
                settled &= list(&self.directory).is_ok_and(|after| after == listing);
            }
            Err(error) => {
                settled = false;
                if patience == Patience::Over {
                    self.set_trouble(Some(format!(
                        "cannot be listed: {error}; what was read last stays in force"
                    )));
                }
            }
        }
        if !settled && patience == Patience::Left {
            return Outcome::Unsettled;
        }
        if std::mem::take(&mut self.dirty) { Outcome::Changed } else { Outcome::Unchanged }
    }

    /// All files as they are known now.
    pub(crate) fn load(&mut self) -> Loaded {
        self.generation += 1;
        let mut loaded = Loaded { generation: self.generation, ..Loaded::default() };
        let mut seen: HashMap<ObjectKey, &Origin> = HashMap::new();
        if let Some(reason) = &self.trouble {
            let file = Arc::from(self.directory.to_string_lossy());
            loaded.findings.push(error(Origin { file, document: 0 }, "", reason.clone()));
        }
        for known in self.files.values() {
            loaded.findings.extend(known.findings().cloned());
            for object in known.objects() {
                match seen.entry(object.key()) {
                    Entry::Vacant(entry) => {
                        entry.insert(&object.origin);
                        loaded.objects.push(object.clone());
                    }
                    Entry::Occupied(entry) => {
                        let reason = format!("{} is already defined in {}", entry.key(), entry.get());
                        let mut finding = error(object.origin.clone(), "metadata.name", reason);
                        finding.hint = Some("the first by file name and document counts".into());
                        loaded.findings.push(finding);
                    }
                }
            }
        }
        // What is kept of the past must not stand in the way of what a user has written since, in whatever file.
        for object in self.files.values().flat_map(Known::kept) {
            if let Entry::Vacant(entry) = seen.entry(object.key()) {
                entry.insert(&object.origin);
                loaded.objects.push(object.clone());
            }
        }
        loaded
    }

    /// Brings all files up to `listing`; whether all of them held still.
    fn read(&mut self, listing: &Listing, patience: Patience) -> bool {
        let mut settled = true;
        let count = self.files.len();
        self.files.retain(|name, _| listing.contains_key(name));
        self.dirty |= self.files.len() != count;
        for (name, stamp) in listing.iter().take(MAX_FILES) {
            let path = self.directory.join(name);
            let known = self.files.entry(name.clone()).or_insert_with(|| Known::new(&name.to_string_lossy()));
            match known.refresh(&path, *stamp, patience) {
                Outcome::Unchanged => {}
                Outcome::Changed => self.dirty = true,
                Outcome::Unsettled => settled = false,
            }
        }
        let excess = listing.len() > MAX_FILES;
        let reason =
            || format!("has {} files, of which only the first {MAX_FILES} by name are read", listing.len());
        self.set_trouble(excess.then(reason));
        settled
    }

    fn set_trouble(&mut self, trouble: Option<String>) {
        self.dirty |= self.trouble != trouble;
        self.trouble = trouble;
    }
}

/// The files that count.
fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_source(&name) {
            continue;
        }
        // Not the entry's own metadata: links are followed.
        match std::fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) => {
                listing.insert(name, Some(Stamp::of(&metadata)));
            }
            Err(_) => {
                listing.insert(name, None);
            }
        }
    }
    Ok(listing)
}

/// Whether a name is that of YAML or JSON, and not an editor's temporary or lock file.
fn is_source(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let visible = !matches!(bytes.first(), None | Some(b'.' | b'#' | b'~'));
    visible && [".yaml", ".yml", ".json"].iter().any(|end| bytes.ends_with(end.as_bytes()))
}

fn error(origin: Origin, field: &str, reason: String) -> Finding {
    Finding { origin, level: Level::Error, field: field.into(), reason, hint: None }
}

/// Files per directory; enough for a cluster with one object per file, and a bound on the time of a scan.
const MAX_FILES: usize = 10_000;

#[cfg(test)]
mod tests;
