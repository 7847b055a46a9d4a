//! The watch: when to look, and whom to tell.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::resource::{Finding, Object};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::scan::{Outcome, Patience, Scanner};

/// Everything that a source holds at one moment.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// All valid objects, each once, ordered by file name and document.
    pub objects: Vec<Object>,
    /// What there is to say about the documents, in the same order.
    pub findings: Vec<Finding>,
    /// Grows by one with every change; the first is 1.
    pub generation: u64,
}

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is nothing at this path.
    #[error("the configuration directory {} does not exist", path.display())]
    Absent {
        /// As given.
        path: PathBuf,
    },
    /// There is something else at this path.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// As given.
        path: PathBuf,
    },
    /// It cannot be listed.
    #[error("the configuration directory {} cannot be read", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A watched directory: its `*.yaml`, `*.yml` and `*.json` files, but not those of its subdirectories, hidden files
/// or editors' temporary files. Symbolic links are followed, so a mounted `ConfigMap` is a directory like any other.
///
/// At most 10,000 files are read, each of at most 16 MiB.
#[derive(Debug)]
pub struct Directory {
    scanner: Scanner,
    watch: Option<RecommendedWatcher>,
    /// The directory that the watch is on, or was tried on.
    place: Option<(u64, u64)>,
    wakeups: mpsc::Receiver<()>,
    waker: mpsc::Sender<()>,
    publisher: watch::Sender<Arc<Loaded>>,
}

impl Directory {
    /// Reads `path` (blocking) and begins to watch it. The receiver holds the first [`Loaded`] at once; later ones come
    /// while [`Directory::run`] runs.
    pub fn open(path: impl AsRef<Path>) -> Result<(Self, watch::Receiver<Arc<Loaded>>), SourceError> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SourceError::Absent { path: path.to_owned() },
            _ => SourceError::Unreadable { path: path.to_owned(), source },
        })?;
        if !metadata.is_dir() {
            return Err(SourceError::NotADirectory { path: path.to_owned() });
        }
        std::fs::read_dir(path)
            .map_err(|source| SourceError::Unreadable { path: path.to_owned(), source })?;
        let (waker, wakeups) = mpsc::channel(1);
        // Watch first: what changes while the first scan runs is seen by the second.
        let (place, watch) = (place(path), watch(path, &waker));
        let mut scanner = Scanner::new(path.to_owned());
        scanner.scan(Patience::Over);
        let (publisher, receiver) = watch::channel(Arc::new(scanner.load()));
        Ok((Self { scanner, watch, place, wakeups, waker, publisher }, receiver))
    }

    /// Publishes every change until nobody listens any more. A change is published within 300 ms of its first event, and
    /// within 5 s if the kernel lost the events.
    pub async fn run(mut self) {
        loop {
            let interval = if self.watch.is_some() { RESCAN } else { POLL };
            let woken = tokio::select! {
                () = self.publisher.closed() => return,
                _ = self.wakeups.recv() => true,
                () = sleep(interval) => false,
            };
            let deadline = Instant::now() + LONGEST;
            if woken {
                self.settle(deadline).await;
            }
            self = match self.scan(deadline).await {
                Some(directory) => directory,
                None => return,
            };
            self.renew_watch();
        }
    }

    /// Waits until there has been no event for [`QUIET`].
    async fn settle(&mut self, deadline: Instant) {
        let quiet = async { while let Ok(Some(())) = timeout(QUIET, self.wakeups.recv()).await {} };
        // Reaching the deadline is as good as quiet.
        let _ = tokio::time::timeout_at(deadline, quiet).await;
    }

    /// Scans until the files hold still, or the deadline; `None` when the runtime is going away.
    async fn scan(mut self, deadline: Instant) -> Option<Self> {
        loop {
            let patience = if Instant::now() < deadline { Patience::Left } else { Patience::Over };
            let mut scanner = self.scanner;
            let scan = tokio::task::spawn_blocking(move || {
                let outcome = scanner.scan(patience);
                let loaded = (outcome == Outcome::Changed).then(|| scanner.load());
                (scanner, outcome, loaded)
            });
            let (scanner, outcome, loaded) = match scan.await {
                Ok(result) => result,
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                Err(_) => return None,
            };
            self.scanner = scanner;
            if let Some(loaded) = loaded {
                tracing::info!(
                    generation = loaded.generation,
                    objects = loaded.objects.len(),
                    findings = loaded.findings.len(),
                    "Configuration loaded."
                );
                self.publisher.send_replace(Arc::new(loaded));
            }
            if outcome != Outcome::Unsettled {
                return Some(self);
            }
            sleep(QUIET.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Follows the directory if another one has taken its place under the same name.
    fn renew_watch(&mut self) {
        let path = self.scanner.directory();
        let place = place(path);
        if place.is_some() && place != self.place {
            self.place = place;
            self.watch = watch(path, &self.waker);
            if self.watch.is_some() {
                // What changed between the scan and the new watch is seen by another scan.
                let _ = self.waker.try_send(());
            }
        }
    }
}

/// The kernel's notifications of one directory; `None` if it refuses them (inotify instances are limited).
fn watch(path: &Path, waker: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let waker = waker.clone();
    let handler = move |event: notify::Result<notify::Event>| {
        if event.as_ref().map_or(true, is_change) {
            // A full channel means that a scan is due anyway.
            let _ = waker.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(handler)
        .and_then(|mut watcher| watcher.watch(path, RecursiveMode::NonRecursive).map(|()| watcher));
    watcher
        .inspect_err(
            |error| tracing::warn!(path = %path.display(), %error, "Directory cannot be watched, so it is polled."),
        )
        .ok()
}

/// Which directory the path leads to (device and inode).
fn place(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether an event may mean new content. Reading, our own included, does not.
fn is_change(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// No event for so long means that a save is complete: editors and `ConfigMap` updates take a few milliseconds.
const QUIET: Duration = Duration::from_millis(50);
/// A stream of events delays a scan for so long at most, so that an edit takes effect within a second.
const LONGEST: Duration = Duration::from_millis(300);
/// Covers events that the kernel dropped, and files whose links lead out of the directory.
const RESCAN: Duration = Duration::from_secs(5);
/// In place of events where there are none.
const POLL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
