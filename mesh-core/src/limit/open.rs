//! How many connections may be open at a time, and what one of them may do.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::rule::Caller;
use crate::resource::ObjectKey;
use crate::resource::rate_limit::{EachConnection, LimitKey, OpenLimit};
use crate::resource::value;

/// A limit of connections that are open at a time.
#[derive(Debug)]
pub(super) struct OpenRule {
    max: u32,
    counts: Arc<Counts>,
}

/// Connections that are open, by what tells them apart. Nothing is kept of those that have ended, so there are never more
/// counts than connections.
#[derive(Debug)]
struct Counts {
    by: Vec<LimitKey>,
    /// As in other limits: nobody outside can foresee a key.
    hasher: RandomState,
    open: Mutex<HashMap<u64, u32>>,
}

/// The places that a connection has taken; free again when dropped.
#[derive(Debug, Default)]
#[must_use = "the places are free again as soon as this is dropped"]
pub struct Held(Vec<(Arc<Counts>, u64)>);

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// The RateLimit, for logs.
    by: String,
    max: u32,
}

/// What a connection may do, of all that is said about it. `None`: nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Each {
    /// Requests, one after the other or at a time.
    pub requests: Option<u32>,
    /// How long it may be there.
    pub duration: Option<Duration>,
    /// How long it may be there without a request.
    pub idle: Option<Duration>,
    /// Requests at a time.
    pub streams: Option<u32>,
}

impl OpenRule {
    /// What rules of `before` have counted in the same way goes on: their connections are still there.
    pub(super) fn new(limit: &OpenLimit, before: &[Self]) -> Self {
        let same = before.iter().find(|it| it.counts.by == limit.by);
        let counts = same.map_or_else(|| Arc::new(Counts::new(&limit.by)), |it| Arc::clone(&it.counts));
        Self { max: limit.max, counts }
    }

    /// Takes a place and adds it to `held`; how many there are at most if none is left.
    pub(super) fn take(&self, caller: &Caller<'_>, held: &mut Held) -> Result<(), u32> {
        let key = self.counts.key(caller);
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.entry(key) {
            Entry::Occupied(count) if *count.get() >= self.max => return Err(self.max),
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            Entry::Vacant(place) => _ = place.insert(1),
        }
        drop(open);
        held.0.push((Arc::clone(&self.counts), key));
        Ok(())
    }
}

impl Counts {
    fn new(by: &[LimitKey]) -> Self {
        Self { by: by.to_vec(), hasher: RandomState::new(), open: Mutex::default() }
    }

    fn key(&self, caller: &Caller<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        self.by.iter().for_each(|key| caller.hash_by(key, &mut hasher));
        hasher.finish()
    }

    fn give_back(&self, key: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = open.entry(key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|(counts, key)| counts.give_back(key));
    }
}

impl Full {
    pub(super) fn new(by: &ObjectKey, max: u32) -> Self {
        Self { by: format!("{}/{}", by.namespace, by.name), max }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RateLimit {} allows {} open connections at a time", self.by, self.max)
    }
}

impl Each {
    /// The less of both.
    pub(super) fn and(self, other: &EachConnection) -> Self {
        let time = |time: Option<value::Duration>| time.map(value::Duration::get);
        Self {
            requests: least(self.requests, other.max_requests),
            duration: least(self.duration, time(other.max_duration)),
            idle: least(self.idle, time(other.idle_timeout)),
            streams: least(self.streams, other.max_concurrent_streams),
        }
    }
}

fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}
