//! Files that TLS is made from, which are looked at again and again.
//!
//! Invariant: what is in them is never shown.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Files as they were read last, and what they looked like then.
#[derive(Default)]
pub(crate) struct Files {
    known: BTreeMap<PathBuf, Known>,
}

struct Known {
    stamp: Option<Stamp>,
    content: Result<Arc<[u8]>, String>,
    /// Read so soon after it was written that it may have been written again without looking different.
    fresh: bool,
    /// Whether anybody has asked for it since the last look.
    used: bool,
}

/// What a file looks like from outside. A file that is replaced has another number, one that is written another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    number: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Files {
    /// The content of a file.
    pub(crate) fn read(&mut self, path: &str) -> Result<Arc<[u8]>, String> {
        let path = Path::new(path);
        let stamp = Stamp::of(path);
        if let Some(known) = self.known.get_mut(path).filter(|known| known.stamp == stamp && stamp.is_some())
        {
            known.used = true;
            return known.content.clone();
        }
        let known = Known::of(path, stamp);
        let content = known.content.clone();
        self.known.insert(path.to_owned(), known);
        content
    }

    /// Whether any of the files looks different from when it was read. Those that nobody needs any more are forgotten.
    pub(crate) fn have_changed(&mut self) -> bool {
        self.known.retain(|_, known| known.used);
        let mut changed = false;
        for (path, known) in &mut self.known {
            let stamp = Stamp::of(path);
            if stamp != known.stamp {
                changed = true;
            } else if known.fresh {
                let again = Known::of(path, stamp);
                changed |= again.content != known.content;
                *known = again;
            }
        }
        changed
    }

    /// Begins a round of reading, after which what was not read is forgotten.
    pub(crate) fn begin(&mut self) {
        self.known.values_mut().for_each(|known| known.used = false);
    }
}

impl Known {
    fn of(path: &Path, stamp: Option<Stamp>) -> Self {
        let content = content(path).map_err(|error| format!("the file {}: {error}", path.display()));
        Self { stamp, content, fresh: stamp.is_some_and(Stamp::is_fresh), used: true }
    }
}

impl Stamp {
    fn is_fresh(self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let last = self.modified.0.max(self.changed.0);
        u64::try_from(last).is_ok_and(|last| now.saturating_sub(last) < FRESH)
    }

    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            device: meta.dev(),
            number: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

fn content(path: &Path) -> std::io::Result<Arc<[u8]>> {
    // To open a pipe is to wait for whoever writes to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("is no file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other("is larger than a megabyte"));
    }
    Ok(bytes.into())
}

/// Seconds after a change in which another might not be seen: clocks of file systems are coarse.
const FRESH: u64 = 2;
/// Bytes of a file.
const MAX_FILE: u64 = 1 << 20;
