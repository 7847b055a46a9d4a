//! What the API server has told of one kind, and what of it has been passed on.
//!
//! No I/O here: texts go in, [`Change`]s come out. The same object may be told any number of times (by every list, by
//! a watch that starts from an old place, for changes that mean nothing to the mesh); it is passed on when it differs.

use std::collections::BTreeSet;
use std::collections::hash_map::{DefaultHasher, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use mesh_core::resource::{Finding, Level, ObjectKey, Origin, ServedKind, from_json};

use super::wire::{Failure, Header, HeaderMeta};
use crate::changes::{About, Change};

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Known {
    kind: ServedKind,
    objects: HashMap<ObjectKey, Entry>,
    /// Counts lists, so that what the last one lacks can be told.
    list: u64,
    /// Where content is read on demand only: of these objects.
    wanted: Option<Arc<BTreeSet<ObjectKey>>>,
    /// Wanted objects whose latest version has not been read yet.
    unread: BTreeSet<ObjectKey>,
}

/// One of them.
#[derive(Debug, Default)]
struct Entry {
    /// The version that was told last.
    version: Box<str>,
    /// The list that told it last.
    list: u64,
    /// The digest of the version that is in force; `None` if there never was a valid one.
    applied: Option<u64>,
    /// A digest of the findings that stand; `None` if there are none.
    found: Option<u64>,
}

impl Known {
    /// Nothing yet. `wanted`: content is read on demand, and this is the demand.
    pub(super) fn new(kind: ServedKind, wanted: Option<Arc<BTreeSet<ObjectKey>>>) -> Self {
        Self { kind, objects: HashMap::new(), list: 0, wanted, unread: BTreeSet::new() }
    }

    /// A version of an object: the item of a list, or what was added or modified. Returns its version.
    pub(super) fn take(&mut self, text: &str, batch: &mut Vec<Change>) -> Result<String, Failure> {
        let (key, version) = self.header(text)?;
        let entry = self.objects.entry(key.clone()).or_default();
        entry.list = self.list;
        if *entry.version != version || version.is_empty() {
            entry.version = version.as_str().into();
            match &self.wanted {
                None => read(self.kind, &key, entry, text, batch),
                Some(wanted) if wanted.contains(&key) => drop(self.unread.insert(key)),
                Some(_) => {}
            }
        }
        Ok(version)
    }

    /// The last version of an object that was deleted. Returns the version of its deletion.
    pub(super) fn take_back(&mut self, text: &str, batch: &mut Vec<Change>) -> Result<String, Failure> {
        let (key, version) = self.header(text)?;
        self.unread.remove(&key);
        if self.objects.remove(&key).is_some_and(|entry| entry.is_told()) {
            batch.push(Change::Delete(key));
        }
        Ok(version)
    }

    /// A list begins; what is taken until [`Known::end_list`] is in it.
    pub(super) fn begin_list(&mut self) {
        self.list += 1;
    }

    /// The list is complete: what it lacks has been deleted without our knowledge.
    pub(super) fn end_list(&mut self, batch: &mut Vec<Change>) {
        let list = self.list;
        self.forget(|entry| entry.list != list, batch);
    }

    /// The kind itself is gone.
    pub(super) fn forget_all(&mut self, batch: &mut Vec<Change>) {
        self.forget(|_| true, batch);
    }

    /// Another demand: what nobody wants any more is told as deleted, what somebody wants now is to be read.
    pub(super) fn want(&mut self, wanted: &Arc<BTreeSet<ObjectKey>>, batch: &mut Vec<Change>) {
        let kind = self.kind.key();
        let before = self.wanted.replace(Arc::clone(wanted)).unwrap_or_default();
        for key in before.difference(wanted).filter(|key| key.kind == kind) {
            self.unread.remove(key);
            let Some(entry) = self.objects.get_mut(key) else { continue };
            if entry.is_told() {
                batch.push(Change::Delete(key.clone()));
            }
            (entry.applied, entry.found) = (None, None);
        }
        let new = wanted.difference(&before).filter(|key| self.objects.contains_key(key));
        self.unread.extend(new.cloned());
    }

    /// What is to be read next.
    pub(super) fn next_unread(&self) -> Option<&ObjectKey> {
        self.unread.first()
    }

    /// The content of an object that was to be read; `None` if it is gone, of which the watch will tell.
    pub(super) fn take_content(&mut self, key: &ObjectKey, text: Option<&str>, batch: &mut Vec<Change>) {
        let wanted = self.unread.remove(key);
        if let (true, Some(entry), Some(text)) = (wanted, self.objects.get_mut(key), text) {
            read(self.kind, key, entry, text, batch);
        }
    }

    fn forget(&mut self, condition: impl Fn(&Entry) -> bool, batch: &mut Vec<Change>) {
        let gone = self.objects.extract_if(|_, entry| condition(entry));
        let mut told: Vec<_> = Vec::new();
        for (key, entry) in gone {
            self.unread.remove(&key);
            if entry.is_told() {
                told.push(key);
            }
        }
        told.sort_unstable();
        batch.extend(told.into_iter().map(Change::Delete));
    }

    fn header(&self, text: &str) -> Result<(ObjectKey, String), Failure> {
        let Header { metadata } = serde_json::from_str(text).map_err(Failure::malformed)?;
        let HeaderMeta { name, namespace, resource_version } = metadata;
        if name.is_empty() {
            return Err(Failure::malformed("an object without a name"));
        }
        let namespace = if self.kind.is_namespaced() { namespace.as_str() } else { "" };
        let key = ObjectKey { kind: self.kind.key(), namespace: namespace.into(), name: name.into() };
        Ok((key, resource_version))
    }
}

impl Entry {
    /// Whether a reader knows of it.
    fn is_told(&self) -> bool {
        self.applied.is_some() || self.found.is_some()
    }
}

/// Passes on what the text says that is new.
fn read(kind: ServedKind, key: &ObjectKey, entry: &mut Entry, text: &str, batch: &mut Vec<Change>) {
    let origin = Origin::in_cluster(key);
    let received = from_json(kind, text, &origin);
    let mut findings = received.findings;
    match received.object {
        Some(object) if entry.applied == Some(object.digest) => {}
        Some(object) => {
            entry.applied = Some(object.digest);
            batch.push(Change::Apply(Arc::new(object)));
        }
        None if entry.applied.is_some() => {
            let reason = format!("the last good version of {key} stays in force");
            findings.push(Finding {
                origin,
                level: Level::Warning,
                field: String::new(),
                reason,
                hint: None,
            });
        }
        None => {}
    }
    let found = (!findings.is_empty()).then(|| digest(&findings));
    if entry.found != found {
        entry.found = found;
        batch.push(Change::Findings(About::Object(key.clone()), findings));
    }
}

fn digest(findings: &[Finding]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for finding in findings {
        finding.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
