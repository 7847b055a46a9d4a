//! Objects and their history. Every write makes a revision; nothing of the past is forgotten until it is compacted, so
//! that lists can be read page by page as of one moment and watches can begin in the past.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::status::Refusal;

/// Where an object is: its resource (`plural.group`), namespace and name, in the order of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// One revision.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) revision: u64,
    pub(super) key: Key,
    /// `None`: it was created.
    pub(super) before: Option<Arc<Value>>,
    /// `None`: it was deleted.
    pub(super) after: Option<Arc<Value>>,
}

/// An object as of a revision; none, if that deleted it.
type Version = (u64, Option<Arc<Value>>);

#[derive(Debug)]
pub(super) struct Store {
    revision: u64,
    /// Revisions below it are forgotten.
    compacted: u64,
    objects: BTreeMap<Key, Vec<Version>>,
    events: Vec<Event>,
    /// Tells watches that there is something new.
    news: watch::Sender<u64>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            compacted: 1,
            objects: BTreeMap::new(),
            events: Vec::new(),
            news: watch::Sender::new(1),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The object as it is now.
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)?.last()?.1.as_ref()
    }

    /// The objects of a resource (in a namespace, if one is named) as of a revision, those after `after` in order.
    pub(super) fn list_at<'a>(
        &'a self,
        resource: &str,
        namespace: &'a str,
        revision: u64,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let first = Key { resource: resource.into(), namespace: namespace.into(), name: String::new() };
        let resource = resource.to_owned();
        let start = after.map_or(Bound::Included(first), |key| Bound::Excluded(key.clone()));
        self.objects
            .range((start, Bound::Unbounded))
            .take_while(move |(key, _)| {
                key.resource == resource && (namespace.is_empty() || key.namespace == namespace)
            })
            .filter_map(move |(key, versions)| {
                let (_, object) = versions.iter().rev().find(|(at, _)| *at <= revision)?;
                Some((key, object.as_ref()?))
            })
    }

    /// What has happened since a revision; an error, if that is no longer known.
    pub(super) fn events_after(&self, revision: u64) -> Result<&[Event], Refusal> {
        if revision < self.compacted {
            let message = format!("too old resource version: {revision} ({})", self.compacted);
            return Err(Refusal::expired(message));
        }
        let start = self.events.partition_point(|event| event.revision <= revision);
        Ok(self.events.get(start..).unwrap_or_default())
    }

    /// Writes an object, which gets the new revision as its version.
    pub(super) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let object = Arc::new(object);
        let before = self.get(&key).cloned();
        self.record(key, before, Some(Arc::clone(&object)));
        object
    }

    /// Deletes an object; returns its last version, which carries the revision of its deletion.
    pub(super) fn delete(&mut self, key: &Key) -> Option<Arc<Value>> {
        let mut last = self.get(key)?.as_ref().clone();
        self.revision += 1;
        last["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let last = Arc::new(last);
        self.record(key.clone(), Some(Arc::clone(&last)), None);
        Some(last)
    }

    /// Forgets all history.
    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.events.clear();
        self.objects.retain(|_, versions| {
            let last = versions.pop().filter(|(_, object)| object.is_some());
            versions.clear();
            versions.extend(last);
            !versions.is_empty()
        });
    }

    fn record(&mut self, key: Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        let versions = self.objects.entry(key.clone()).or_default();
        versions.push((self.revision, after.clone()));
        self.events.push(Event { revision: self.revision, key, before, after });
        self.news.send_replace(self.revision);
    }
}
