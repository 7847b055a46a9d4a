//! One bucket for each client, user or whatever else tells requests apart: as many as there is room for.
//!
//! Invariant: nobody gets more because there are many others. A bucket is forgotten only once it is full, when
//! forgetting it changes nothing; who finds no room shares one bucket with all others who find none.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::bucket::{Bucket, Rate, Standing};

/// Buckets by key. Times are as in [`Bucket`].
#[derive(Debug)]
pub struct Keyed {
    shards: Box<[Mutex<Shard>]>,
    /// Buckets that a shard has room for.
    room: usize,
    /// For those who find no room.
    crowd: Bucket,
}

/// Where a token was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A bucket of its own.
    Own,
    /// The one of those who found no room.
    Crowd,
}

#[derive(Debug, Default)]
struct Shard {
    /// When each bucket will be full.
    full_at: HashMap<u64, u64>,
    /// When it is worth looking again for buckets to forget.
    look_at: u64,
}

impl Keyed {
    /// With room for about `capacity` buckets at a time, at least for one.
    pub fn new(capacity: u32) -> Self {
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX).max(1);
        let shards = SHARDS.min(capacity);
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            room: capacity.div_ceil(shards),
            crowd: Bucket::default(),
        }
    }

    /// Takes a token for `key`; `Err` if there is none.
    pub fn take(&self, key: u64, rate: &Rate, now: u64) -> (Place, Result<Standing, Standing>) {
        let Some(shard) = self.shard(key) else { return (Place::Crowd, self.crowd.take(rate, now)) };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let known = shard.full_at.get(&key).copied();
        if known.is_none() && !shard.has_room(self.room, now) {
            drop(shard);
            return (Place::Crowd, self.crowd.take(rate, now));
        }
        let taken = rate.take(known.unwrap_or_default(), now).map(|(after, standing)| {
            shard.full_at.insert(key, after);
            standing
        });
        (Place::Own, taken)
    }

    /// Gives back a token that was taken for `key` there.
    pub fn give_back(&self, (key, place): (u64, Place), rate: &Rate) {
        if place == Place::Crowd {
            return self.crowd.give_back(rate);
        }
        let Some(shard) = self.shard(key) else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = shard.full_at.get_mut(&key) {
            *full_at = rate.give_back(*full_at);
        }
    }

    /// Buckets that are known.
    #[cfg(test)]
    fn len(&self) -> usize {
        let known = |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).full_at.len();
        self.shards.iter().map(known).sum()
    }

    fn shard(&self, key: u64) -> Option<&Mutex<Shard>> {
        let count = u64::try_from(self.shards.len()).ok()?;
        self.shards.get(usize::try_from(key.checked_rem(count)?).ok()?)
    }
}

impl Shard {
    /// Whether there is room for one more. Looking for it takes time in proportion to what is there, so that is not done
    /// for everybody who comes.
    fn has_room(&mut self, room: usize, now: u64) -> bool {
        if self.full_at.len() < room {
            return true;
        }
        if now < self.look_at {
            return false;
        }
        self.look_at = now.saturating_add(LOOK);
        self.full_at.retain(|_, full_at| *full_at > now);
        self.full_at.len() < room
    }
}

/// So that threads rarely wait for each other.
const SHARDS: usize = 16;
/// Nanoseconds between two looks for buckets to forget.
const LOOK: u64 = 10_000_000;

#[cfg(test)]
mod tests;
