//! One file between scans: what it said last, and what of it stays in force when it can no longer be read.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_core::resource::{self, Finding, Level, Object, ObjectKey, Origin, Parsed, SourceFile};

use crate::scan::{Outcome, Patience};

/// Tells whether a file may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Catches an edit that restores the modification time, and is always this machine's clock.
    changed: (i64, i64),
    regular: bool,
}

/// A file as of the last scan.
#[derive(Debug)]
pub(crate) struct Known {
    name: Arc<str>,
    /// `None`: whatever the file looks like, it may have changed.
    stamp: Option<Stamp>,
    /// Of the text that was parsed last.
    hash: Option<u64>,
    /// Of the documents that are there now.
    objects: Vec<Object>,
    /// Objects whose documents are broken now, as they were when they were not.
    kept: Vec<Object>,
    findings: Vec<Finding>,
    /// Documents so broken that it cannot be said which object they would be.
    unnamed: usize,
    /// Why the file cannot be read.
    trouble: Option<Finding>,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            regular: metadata.is_file(),
        }
    }

    /// Whether another change would surely show: the clock of a file system ticks every few milliseconds only, and two
    /// changes within a tick look the same.
    fn is_conclusive(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or_default();
        let nanoseconds = u64::try_from(self.changed.1).unwrap_or_default();
        let changed = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
        now.duration_since(changed).is_ok_and(|age| age > TICK)
    }
}

impl Known {
    /// A file that has not been read yet.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: Arc::from(name),
            stamp: None,
            hash: None,
            objects: Vec::new(),
            kept: Vec::new(),
            findings: Vec::new(),
            unnamed: 0,
            trouble: None,
        }
    }

    /// The objects of the documents that are there.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter()
    }

    /// The last good version of objects whose documents are broken.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Object> {
        self.kept.iter()
    }

    /// What there is to say.
    pub(crate) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.trouble.iter().chain(&self.findings)
    }

    /// Reads the file again unless `stamp` says that nothing has changed.
    pub(crate) fn refresh(&mut self, path: &Path, stamp: Option<Stamp>, patience: Patience) -> Outcome {
        if stamp.is_some() && self.stamp == stamp {
            return Outcome::Unchanged;
        }
        let now = SystemTime::now();
        let text = match read(path, stamp) {
            Ok(text) => text,
            Err(reason) => return self.fail(reason, patience),
        };
        let hash = hash(&text);
        let recovered = self.trouble.is_some();
        if self.hash == Some(hash) {
            self.trouble = None;
            self.stamp = stamp.filter(|stamp| stamp.is_conclusive(now));
            return if recovered { Outcome::Changed } else { Outcome::Unchanged };
        }
        // The first thing that a plain write does is to make the file empty.
        if text.is_empty() && patience == Patience::Left && !(self.objects.is_empty() && self.kept.is_empty())
        {
            return Outcome::Unsettled;
        }
        self.trouble = None;
        self.stamp = stamp.filter(|stamp| stamp.is_conclusive(now));
        self.hash = Some(hash);
        self.update(resource::parse(&SourceFile { name: &self.name, text: &text }));
        Outcome::Changed
    }

    /// Notes why there is no text; everything else stays as it is.
    fn fail(&mut self, reason: String, patience: Patience) -> Outcome {
        self.stamp = None;
        let reason = match self.objects.len() + self.kept.len() {
            0 => reason,
            _ => format!("{reason}; its last good version stays in force"),
        };
        let finding = self.finding(0, Level::Error, reason);
        if self.trouble.as_ref() == Some(&finding) {
            return Outcome::Unchanged;
        }
        if patience == Patience::Left {
            return Outcome::Unsettled;
        }
        self.trouble = Some(finding);
        Outcome::Changed
    }

    /// Takes over what the new text says. Objects are kept whose documents were good before and are broken now.
    fn update(&mut self, parsed: Parsed) {
        let fresh: HashSet<ObjectKey> = parsed.objects.iter().map(Object::key).collect();
        let named: HashSet<&ObjectKey> = parsed.rejected.iter().filter_map(|it| it.key.as_ref()).collect();
        let unnamed: HashSet<usize> =
            parsed.rejected.iter().filter(|it| it.key.is_none()).map(|it| it.origin.document).collect();
        // A file that breaks off in its last document probably has not been written to the end.
        let cut = unnamed.contains(&parsed.documents).then_some(parsed.documents);
        let broke = unnamed.len() > self.unnamed;
        let was_here = |object: &Object| {
            let document = object.origin.document;
            broke && (unnamed.contains(&document) || cut.is_some_and(|last| document >= last))
        };
        let mut kept = Vec::new();
        for object in std::mem::take(&mut self.kept) {
            let key = object.key();
            if !fresh.contains(&key) && (named.contains(&key) || !unnamed.is_empty()) {
                kept.push(object);
            }
        }
        for object in std::mem::take(&mut self.objects) {
            let key = object.key();
            if !fresh.contains(&key) && (named.contains(&key) || was_here(&object)) {
                kept.push(object);
            }
        }
        self.unnamed = unnamed.len();
        self.findings = parsed.findings;
        for object in &kept {
            let key = object.key();
            let rejected = parsed.rejected.iter().find(|rejected| rejected.key.as_ref() == Some(&key));
            let document = rejected.map_or(object.origin.document, |rejected| rejected.origin.document);
            let reason = format!("the last good version of {key} stays in force");
            self.findings.push(self.finding(document, Level::Warning, reason));
        }
        self.objects = parsed.objects;
        self.kept = kept;
    }

    fn finding(&self, document: usize, level: Level, reason: String) -> Finding {
        let origin = Origin { file: Arc::clone(&self.name), document };
        Finding { origin, level, field: String::new(), reason, hint: None }
    }
}

/// The text of a file, or why there is none.
fn read(path: &Path, stamp: Option<Stamp>) -> Result<String, String> {
    let stamp = stamp.ok_or("is a link that leads nowhere")?;
    if !stamp.regular {
        // A pipe would block for ever.
        return Err("is not a regular file".into());
    }
    let mut bytes = Vec::new();
    let result = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    result.map_err(|error| format!("cannot be read: {}", plain(&error)))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(format!("is larger than {} MiB", MAX_FILE >> 20));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        format!("is not UTF-8 text: byte {} is invalid", valid + 1)
    })
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::NotFound => "it has just gone".into(),
        _ => error.to_string(),
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Bytes per file; far more than a person writes, little enough to parse within a second or two.
const MAX_FILE: u64 = 16 << 20;
/// Longer than the tick of any file system's clock (10 ms at HZ=100).
const TICK: Duration = Duration::from_millis(100);
