//! A directory's [`Changes`]: what is different between one [`Loaded`] and the next.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use mesh_core::resource::{Finding, ObjectKey, Origin};
use tokio::sync::watch;

use crate::changes::{self, About, Change, Changes, Closed, Sender};
use crate::directory::{Directory, Loaded, SourceError};

/// Watches a directory and tells of every change. Made by [`Directory::changes`].
#[derive(Debug)]
pub struct DirectoryFeed {
    directory: Directory,
    loaded: watch::Receiver<Arc<Loaded>>,
    sender: Sender,
}

/// What was told last.
#[derive(Debug, Default)]
struct Told {
    /// Where each object stood, and the digest of what it said. An object that has only moved is told again, because
    /// findings about it name the place.
    objects: HashMap<ObjectKey, (u64, Origin)>,
    findings: Vec<Finding>,
    synced: bool,
}

impl Directory {
    /// Reads `path` (blocking) and begins to watch it, as [`Directory::open`] does, for a reader who wants to be told
    /// of changes. They come while [`DirectoryFeed::run`] runs, those of one edit in one batch.
    pub fn changes(path: impl AsRef<Path>) -> Result<(DirectoryFeed, Changes), SourceError> {
        let (directory, loaded) = Self::open(path)?;
        let (sender, changes) = changes::channel();
        Ok((DirectoryFeed { directory, loaded, sender }, changes))
    }
}

impl DirectoryFeed {
    /// Tells of every change until nobody listens any more.
    pub async fn run(self) {
        let Self { directory, loaded, sender } = self;
        tokio::select! {
            () = directory.run() => {}
            Closed = follow(loaded, &sender) => {}
        }
    }
}

async fn follow(mut loaded: watch::Receiver<Arc<Loaded>>, sender: &Sender) -> Closed {
    let mut told = Told::default();
    loop {
        let latest = Arc::clone(&loaded.borrow_and_update());
        if sender.send(told.diff(&latest)).await.is_err() {
            return Closed;
        }
        tokio::select! {
            () = sender.closed() => return Closed,
            changed = loaded.changed() => if changed.is_err() { return Closed },
        }
    }
}

impl Told {
    /// What is different in `loaded`, which counts as told from now on.
    fn diff(&mut self, loaded: &Loaded) -> Vec<Change> {
        let mut batch = Vec::new();
        let mut objects = HashMap::with_capacity(loaded.objects.len());
        for object in &loaded.objects {
            let key = object.key();
            let now = (object.digest, object.origin.clone());
            if self.objects.remove(&key).as_ref() != Some(&now) {
                batch.push(Change::Apply(Arc::new(object.clone())));
            }
            objects.insert(key, now);
        }
        let mut gone: Vec<_> = std::mem::replace(&mut self.objects, objects).into_keys().collect();
        // Whoever reads a log of it should find the same order every time.
        gone.sort_unstable();
        batch.extend(gone.into_iter().map(Change::Delete));
        if self.findings != loaded.findings {
            self.findings.clone_from(&loaded.findings);
            batch.push(Change::Findings(About::Source, loaded.findings.clone()));
        }
        if !self.synced {
            self.synced = true;
            batch.push(Change::Synced);
        }
        batch
    }
}

#[cfg(test)]
mod tests;
