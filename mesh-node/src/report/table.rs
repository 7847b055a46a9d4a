//! The connections that are open now.
//!
//! Sharded by thread: a data thread inserts into and removes from a shard it (nearly) has to itself, and a reader of
//! the whole table holds a shard's lock only while it copies a few hundred references.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where an entry sits, for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    shard: usize,
    place: usize,
}

/// A bag of shared entries.
#[derive(Debug)]
pub(super) struct Table<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
}

#[derive(Debug)]
struct Shard<T> {
    places: Vec<Option<Arc<T>>>,
    free: Vec<usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        let shards = std::array::from_fn(|_| Mutex::new(Shard { places: Vec::new(), free: Vec::new() }));
        Self { shards }
    }
}

impl<T> Table<T> {
    /// Puts an entry into the calling thread's shard.
    pub(super) fn insert(&self, entry: Arc<T>) -> Slot {
        let shard = MY_SHARD.with(|mine| *mine);
        let mut guard = self.shard(shard);
        let place = if let Some(place) = guard.free.pop() {
            if let Some(free) = guard.places.get_mut(place) {
                *free = Some(entry);
            }
            place
        } else {
            guard.places.push(Some(entry));
            guard.places.len() - 1
        };
        Slot { shard, place }
    }

    /// Takes an entry out, from any thread. Each slot is to be removed once.
    pub(super) fn remove(&self, slot: Slot) -> Option<Arc<T>> {
        let mut guard = self.shard(slot.shard);
        let entry = guard.places.get_mut(slot.place)?.take()?;
        guard.free.push(slot.place);
        Some(entry)
    }

    /// Calls `f` with every entry that was there all the time; one that comes or goes meanwhile may be missed.
    pub(super) fn for_each(&self, mut f: impl FnMut(&Arc<T>)) {
        let mut batch = Vec::with_capacity(BATCH);
        for shard in 0..SHARDS {
            let mut from = 0;
            while self.copy(shard, &mut from, &mut batch) {
                batch.drain(..).for_each(|entry| f(&entry));
            }
        }
    }

    /// Copies the next places of a shard; false at its end.
    fn copy(&self, shard: usize, from: &mut usize, batch: &mut Vec<Arc<T>>) -> bool {
        let guard = self.shard(shard);
        let Some(rest) = guard.places.get(*from..).filter(|rest| !rest.is_empty()) else { return false };
        batch.extend(rest.iter().take(BATCH).flatten().cloned());
        *from += BATCH.min(rest.len());
        true
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Shard<T>> {
        let shard = self.shards.get(shard).expect("slots are made with shards that exist");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MY_SHARD: usize = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
}

/// More than the data threads of most machines, so that threads rarely share.
const SHARDS: usize = 32;
/// References copied under one hold of a shard's lock: some microseconds.
const BATCH: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(table: &Table<u32>) -> Vec<u32> {
        let mut all = Vec::new();
        table.for_each(|entry| all.push(**entry));
        all.sort_unstable();
        all
    }

    #[test]
    fn holds_what_was_put_in_and_not_taken_out() {
        let table = Table::default();
        let slots: Vec<_> = (0..1_000).map(|n| table.insert(Arc::new(n))).collect();
        assert_eq!(contents(&table), (0..1_000).collect::<Vec<_>>());
        for (n, slot) in slots.iter().enumerate().filter(|(n, _)| n % 3 == 0) {
            assert_eq!(table.remove(*slot).as_deref(), u32::try_from(n).ok().as_ref());
            assert!(table.remove(*slot).is_none(), "once only");
        }
        assert_eq!(contents(&table), (0..1_000).filter(|n| n % 3 != 0).collect::<Vec<_>>());
        let places = table.shards.iter().map(|shard| shard.lock().unwrap().places.len()).sum::<usize>();
        for n in 0..300 {
            table.insert(Arc::new(n));
        }
        let after = table.shards.iter().map(|shard| shard.lock().unwrap().places.len()).sum::<usize>();
        assert_eq!(after, places, "places are used again");
    }

    #[test]
    fn threads_share_it() {
        let table = Table::default();
        let come_and_go = |n: u32| {
            let slot = table.insert(Arc::new(n));
            assert!(n.is_multiple_of(2) || table.remove(slot).is_some());
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mine = thread * 10_000..thread * 10_000 + 2_000;
                scope.spawn(move || mine.for_each(come_and_go));
            }
            (0..50).for_each(|_| table.for_each(|_| ()));
        });
        assert_eq!(contents(&table).len(), 4_000);
    }
}
