//! How often each policy has said what, counted by every thread for itself.
//!
//! Every connection and every request that a policy has allowed is counted: what has been counted once by a thread is found
//! by it again without a lock, and no other thread writes the counter. The map with its lock is asked when a thread
//! meets a policy for the first time, and by whoever wants the sums.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::policy::PolicyName;
use mesh_core::topology::PolicyKind;

use super::Verdict;
use crate::report::thread::ThreadNumber;

/// What was said, and by whom.
pub(super) type Key = (Arc<PolicyName>, PolicyKind, Verdict);

/// See the module. At most [`MAX_KEYS`] are told apart.
#[derive(Debug)]
pub(super) struct Counts {
    /// Tells the caches of the threads which counts they cache.
    id: u64,
    known: Mutex<BTreeMap<Key, Shards>>,
}

/// By the number of the thread that writes it.
type Shards = BTreeMap<usize, Arc<Shard>>;

/// What one thread has counted. Has cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

/// What a thread remembers: a policy by the address of its name.
struct Cache {
    counts: u64,
    thread: ThreadNumber,
    entries: HashMap<(usize, PolicyKind, Verdict), Remembered>,
}

/// The address stays the name's own as long as the name is held. Of what there was no room for there is no counter.
type Remembered = (Arc<PolicyName>, Option<Arc<Shard>>);

impl Default for Counts {
    fn default() -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), known: Mutex::default() }
    }
}

impl Counts {
    /// Counts one. A thread that is ending has no cache any more; what it says then is not counted.
    pub(super) fn add(&self, policy: &Arc<PolicyName>, kind: PolicyKind, verdict: Verdict) {
        let _ = CACHE.try_with(|cache| {
            let cache = &mut *cache.borrow_mut();
            if cache.counts != self.id || cache.entries.len() >= CACHE_CAPACITY {
                cache.entries.clear();
                cache.counts = self.id;
            }
            let known = (Arc::as_ptr(policy).addr(), kind, verdict);
            let (_, shard) = cache.entries.entry(known).or_insert_with(|| {
                let key = (Arc::clone(policy), kind, verdict);
                (Arc::clone(policy), self.shard(key, &cache.thread))
            });
            if let Some(Shard(count)) = shard.as_deref() {
                count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            }
        });
    }

    /// How often, all threads together.
    pub(super) fn sums(&self) -> Vec<(Key, u64)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |shards: &Shards| shards.values().map(|it| it.0.load(Ordering::Relaxed)).sum();
        known.iter().map(|(key, shards)| (key.clone(), sum(shards))).collect()
    }

    /// The counter of a thread; none beyond the limit.
    fn shard(&self, key: Key, thread: &ThreadNumber) -> Option<Arc<Shard>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = known.len() < MAX_KEYS || known.contains_key(&key);
        has_room.then(|| Arc::clone(known.entry(key).or_default().entry(thread.get()).or_default()))
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { counts: 0, thread: ThreadNumber::take(), entries: HashMap::new() }
    }
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Policies that are told apart, by verdict: they come and go, and those beyond are in the totals.
pub(super) const MAX_KEYS: usize = 1_000;
/// Entries of one thread's cache. A new configuration has new names, those of the one before go with the next clearing.
const CACHE_CAPACITY: usize = 2_048;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const ALLOWED: (PolicyKind, Verdict) = (PolicyKind::AuthorizationPolicy, Verdict::Allowed);

    fn name(text: &str) -> Arc<PolicyName> {
        Arc::new(PolicyName { namespace: "n".into(), name: text.into() })
    }

    fn sum(counts: &Counts) -> u64 {
        counts.sums().into_iter().map(|(_, count)| count).sum()
    }

    #[test]
    fn what_was_met_before_is_counted_without_a_lock() {
        let counts = Arc::new(Counts::default());
        let (met, meets) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        let thread = std::thread::spawn({
            let counts = Arc::clone(&counts);
            move || {
                let policy = name("a");
                let add = || counts.add(&policy, ALLOWED.0, ALLOWED.1);
                add();
                met.send(()).unwrap();
                goes.recv().unwrap();
                (0..1_000).for_each(|_| add());
                met.send(()).unwrap();
            }
        });
        meets.recv().unwrap();
        let held = counts.known.lock().unwrap();
        go.send(()).unwrap();
        let counted = meets.recv_timeout(Duration::from_secs(10));
        drop(held);
        assert!(counted.is_ok(), "it has waited for the lock");
        thread.join().unwrap();
        assert_eq!(sum(&counts), 1_001);
    }

    #[test]
    fn threads_and_configurations_that_come_and_go_lose_nothing_and_leave_few_counters() {
        let counts = Arc::new(Counts::default());
        for _ in 0..20 {
            let pair = [(); 2].map(|()| {
                let counts = Arc::clone(&counts);
                std::thread::spawn(move || {
                    // Names of the same text at different addresses, as each configuration has its own.
                    let names: Vec<_> = (0..10).map(|_| name("a")).collect();
                    names.iter().for_each(|name| counts.add(name, ALLOWED.0, ALLOWED.1));
                })
            });
            pair.into_iter().for_each(|thread| thread.join().unwrap());
        }
        assert_eq!(sum(&counts), 400);
        let shards: Vec<_> = counts.known.lock().unwrap().values().map(Shards::len).collect();
        assert!(
            matches!(*shards, [few] if few < 40),
            "{shards:?} counters of 40 threads, no two of them at once"
        );
    }

    #[test]
    fn a_cache_that_is_cleared_finds_its_counters_again() {
        let counts = Counts::default();
        let names: Vec<_> = (0..CACHE_CAPACITY + 10).map(|_| name("a")).collect();
        names.iter().for_each(|name| counts.add(name, ALLOWED.0, ALLOWED.1));
        assert_eq!(sum(&counts), names.len() as u64);
        assert_eq!(counts.known.lock().unwrap().values().map(Shards::len).sum::<usize>(), 1);
    }
}
