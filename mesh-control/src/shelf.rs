//! Everything there is to be told, ready to be sent: each record encoded once, with a version of its own, in the order
//! in which it changed.
//!
//! Invariant: a version is a function of the content alone, so that a subscriber that comes back, to this process or
//! to another, is sent what differs and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use mesh_core::model::{Reach, Record, RecordKey};
use mesh_proto::encode;
use mesh_proto::names::{self, ResourceType};

/// All records as they are to be told.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Of the last change; the first is 1.
    sequence: u64,
    stores: [Store; ResourceType::ALL.len()],
    by_address: HashMap<IpAddr, RecordKey>,
    /// Names of `LocalPod`s by node.
    by_node: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// What the pods of a node see.
    reaches: HashMap<Arc<str>, Arc<Reach>>,
}

/// The records of one type.
#[derive(Debug, Default)]
pub struct Store {
    /// By the sequence of their last change: whoever is told everything reads from one end to the other, hundreds of
    /// subscribers at a time.
    entries: BTreeMap<u64, Entry>,
    /// Where each name is.
    places: HashMap<Arc<str>, u64>,
    /// What went away, or changed so that some who knew it must not know it any more; as it was.
    gone: BTreeMap<u64, (Arc<str>, Record)>,
    /// What went away at or before this sequence is not remembered any more.
    forgotten: u64,
}

/// A record, ready to be sent.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// Of its content.
    pub version: Version,
    /// An encoded `Resource`.
    pub bytes: Bytes,
    /// The record itself.
    pub record: Record,
}

/// 64 bits of the content. Not a secret: equal content has to have equal versions, and that two different contents of
/// one name have the same one happens once in 2^64 changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(u64);

impl Shelf {
    /// Takes in what a compilation came to.
    pub fn apply(&mut self, news: Vec<(RecordKey, Option<Record>)>) {
        for (key, record) in news {
            self.sequence += 1;
            let name = names::name(&key);
            let store = &mut self.stores[index(ResourceType::of(&key))];
            let old = match &record {
                Some(record) => store.put(self.sequence, name, record),
                None => store.take(self.sequence, &name),
            };
            self.file_by_node(&key, old.as_ref(), record.as_ref());
            for ip in old.iter().flat_map(|old| old.record.addresses()) {
                if self.by_address.get(ip) == Some(&key) {
                    self.by_address.remove(ip);
                }
            }
            for ip in record.iter().flat_map(Record::addresses) {
                self.by_address.insert(*ip, key.clone());
            }
        }
    }

    /// Takes in what the pods of a node see from now on.
    pub fn set_reach(&mut self, node: Arc<str>, reach: Arc<Reach>) {
        self.reaches.insert(node, reach);
    }

    /// What the pods of a node see; nothing is known of a node without any.
    pub fn reach(&self, node: &str) -> Option<&Arc<Reach>> {
        self.reaches.get(node)
    }

    /// The sequence of the last change.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The records of a type.
    pub fn store(&self, kind: ResourceType) -> &Store {
        &self.stores[index(kind)]
    }

    /// Names of the `LocalPod`s of a node.
    pub fn pods_of(&self, node: Option<&str>) -> impl Iterator<Item = &Arc<str>> {
        node.and_then(|node| self.by_node.get(node)).into_iter().flatten()
    }

    fn file_by_node(&mut self, key: &RecordKey, old: Option<&Entry>, new: Option<&Record>) {
        let RecordKey::LocalPod(uid) = key else { return };
        if let Some(Record::LocalPod(old)) = old.map(|old| &old.record)
            && let Some(pods) = self.by_node.get_mut(&old.node)
        {
            pods.remove(uid);
            if pods.is_empty() {
                self.by_node.remove(&old.node);
            }
        }
        if let Some(Record::LocalPod(new)) = new {
            self.by_node.entry(Arc::clone(&new.node)).or_default().insert(Arc::clone(uid));
        }
    }

    /// The record that has this address.
    pub fn at(&self, ip: IpAddr) -> Option<&RecordKey> {
        self.by_address.get(&ip)
    }
}

impl Store {
    /// The record with this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(self.places.get(name)?)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All records, in the order of their last change.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// What changed after `sequence` and is still there, in order and with the sequence of the change.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.range(sequence + 1..).map(|(at, entry)| (*at, entry))
    }

    /// What changed last at or before `sequence`, in order.
    pub fn until(&self, sequence: u64) -> impl Iterator<Item = &Entry> {
        self.entries.range(..=sequence).map(|(_, entry)| entry)
    }

    /// What went away after `sequence`, in order, as it was; `None` if that is not known any more.
    pub fn gone_after(&self, sequence: u64) -> Option<impl Iterator<Item = (u64, &Arc<str>, &Record)>> {
        let remembered = sequence >= self.forgotten;
        let gone = self.gone.range(sequence + 1..).map(|(at, (name, record))| (*at, name, record));
        remembered.then_some(gone)
    }

    fn put(&mut self, sequence: u64, name: Arc<str>, record: &Record) -> Option<Entry> {
        let payload = encode::payload(record);
        let version = Version::of(&payload);
        let bytes = encode::resource(&name, &version.to_string(), ResourceType::of(&record.key()), payload);
        let place = self.places.insert(Arc::clone(&name), sequence);
        let old = place.and_then(|place| self.entries.remove(&place));
        if let Some(old) = old.as_ref().filter(|old| audience_differs(&old.record, record)) {
            self.remember(sequence, Arc::clone(&name), old.record.clone());
        }
        self.entries.insert(sequence, Entry { name, version, bytes, record: record.clone() });
        old
    }

    fn take(&mut self, sequence: u64, name: &str) -> Option<Entry> {
        let old = self.entries.remove(&self.places.remove(name)?)?;
        self.remember(sequence, Arc::clone(&old.name), old.record.clone());
        Some(old)
    }

    fn remember(&mut self, sequence: u64, name: Arc<str>, record: Record) {
        self.gone.insert(sequence, (name, record));
        while self.gone.len() > MAX_GONE {
            if let Some((sequence, _)) = self.gone.pop_first() {
                self.forgotten = sequence;
            }
        }
    }
}

impl Version {
    fn of(payload: &[u8]) -> Self {
        #[expect(deprecated, reason = "the one hasher of the standard library whose result is defined")]
        let mut hasher = std::hash::SipHasher::new();
        hasher.write(payload);
        Self(hasher.finish())
    }

    /// Whether `text` is this version, as a subscriber repeats it.
    pub fn is(self, text: &str) -> bool {
        u64::from_str_radix(text, 16).is_ok_and(|number| number == self.0)
    }
}

impl fmt::Display for Version {
    /// In hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Whether some who were told `old` might not be told `new`.
fn audience_differs(old: &Record, new: &Record) -> bool {
    match (old, new) {
        (Record::LocalPod(old), Record::LocalPod(new)) => old.node != new.node,
        (Record::Service(old), Record::Service(new)) => old.exported != new.exported,
        (Record::Credential(old), Record::Credential(new)) => old.readers != new.readers,
        (Record::Policy(old), Record::Policy(new)) => old.scope != new.scope,
        (Record::Config(old), Record::Config(new)) => !old.has_audience_of(new),
        (Record::Workload(old), Record::Workload(new)) => {
            !old.services.iter().map(|one| &one.service).eq(new.services.iter().map(|one| &one.service))
        }
        _ => false,
    }
}

fn index(kind: ResourceType) -> usize {
    kind as usize
}

/// Removals remembered of each type. A subscriber further behind than that begins anew, which it can do at the cost of
/// its differences.
const MAX_GONE: usize = 100_000;

#[cfg(test)]
mod tests;
