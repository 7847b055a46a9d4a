//! Tables that make an endpoint of a hash, such that a change of the endpoints moves few hashes.

use super::settings::{HashTable, MAX_RING};
use super::{index, mix};

/// An endpoint that wants places in a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// What is found.
    pub(super) endpoint: u32,
    /// Of its id.
    pub(super) hash: u64,
    /// Its share, at least 1.
    pub(super) weight: u32,
}

/// Finds an endpoint by a hash. Depends on the endpoints only, not on their order.
#[derive(Debug, Clone)]
pub(super) enum Table {
    /// By point, ascending.
    Ring(Box<[(u64, u32)]>),
    /// By hash modulo size.
    Maglev(Box<[u32]>),
}

impl Table {
    pub(super) fn new(kind: HashTable, entries: &[Entry]) -> Self {
        match kind {
            HashTable::Ring(minimum) => Self::Ring(ring(minimum, entries)),
            HashTable::Maglev(size) => Self::Maglev(maglev(size, entries)),
        }
    }

    /// The endpoint of `hash` if it is accepted, else the next that is: the hashes of one that is left out are spread over
    /// the others, and all other hashes stay where they are.
    pub(super) fn find(&self, hash: u64, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        match self {
            Self::Ring(points) => {
                let at = points.partition_point(|(point, _)| *point < hash);
                let (before, after) = points.split_at(at);
                after.iter().chain(before).map(|(_, endpoint)| *endpoint).find(|endpoint| accept(*endpoint))
            }
            Self::Maglev(places) => {
                let size = u64::try_from(places.len()).expect("lengths fit in 64 bits");
                let at = usize::try_from(hash.checked_rem(size)?).expect("is below a length");
                let (before, after) = places.split_at(at);
                after.iter().chain(before).copied().find(|endpoint| accept(*endpoint))
            }
        }
    }
}

/// Each endpoint gets places in proportion to its weight, at [`POINTS`] each on average if there is room.
///
/// How many one gets must hardly depend on the others, or else all of them would move when one comes: so the factor only
/// goes in powers of two.
fn ring(minimum: u32, entries: &[Entry]) -> Box<[(u64, u32)]> {
    let total: u64 = entries.iter().map(|entry| u64::from(entry.weight)).sum();
    let count = u64::try_from(entries.len()).expect("lengths fit in 64 bits");
    let wanted = u64::from(minimum).max(count * POINTS).min(u64::from(MAX_RING));
    let (mut times, mut share) = (0, 0);
    while total << times < wanted && total > 0 {
        times += 1;
    }
    while total >> (share + 1) >= wanted {
        share += 1;
    }
    let places = |entry: &Entry| ((u64::from(entry.weight) << times) >> share).max(1);
    let points = |entry: &Entry| {
        let (hash, endpoint) = (entry.hash, entry.endpoint);
        (0..places(entry)).map(move |number| (mix(hash ^ mix(number)), endpoint))
    };
    let mut points: Vec<_> = entries.iter().flat_map(points).collect();
    points.sort_unstable();
    points.into()
}

/// Maglev's population (Eisenbud et al. 2016, section 3.4), with weights: in every round an endpoint takes the next free
/// place of its own permutation, if it is owed one.
fn maglev(size: u32, entries: &[Entry]) -> Box<[u32]> {
    let Some(largest) = entries.iter().map(|entry| entry.weight).max() else { return Box::default() };
    // Rounds are fair only in an order that does not depend on who else is there.
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_unstable_by_key(|entry| (entry.hash, entry.endpoint));
    let mut walks: Vec<_> = entries.iter().map(|entry| Walk::new(entry, size)).collect();
    let mut places = vec![FREE; index(size)];
    let mut free = size;
    while free > 0 {
        for walk in &mut walks {
            walk.owed += u64::from(walk.weight);
            if walk.owed < u64::from(largest) || free == 0 {
                continue;
            }
            walk.owed -= u64::from(largest);
            walk.take(&mut places);
            free -= 1;
        }
    }
    places.into()
}

/// An endpoint's way through a Maglev table.
struct Walk {
    endpoint: u32,
    weight: u32,
    owed: u64,
    at: u32,
    step: u32,
    visited: u32,
}

impl Walk {
    fn new(entry: &Entry, size: u32) -> Self {
        let below = |limit: u32, random: u64| {
            u32::try_from((u128::from(random) * u128::from(limit)) >> 64).expect("is below a u32")
        };
        Self {
            endpoint: entry.endpoint,
            weight: entry.weight,
            owed: 0,
            at: below(size, mix(entry.hash)),
            step: below(size - 1, mix(mix(entry.hash))) + 1,
            visited: 0,
        }
    }

    /// Takes the next free place; there is one.
    fn take(&mut self, places: &mut [u32]) {
        let size = u32::try_from(places.len()).expect("was made of a u32");
        while places[index(self.at)] != FREE {
            self.visited = self.visited.saturating_add(1);
            // Every step reaches every place if the size is a prime. If it is not, single steps do.
            let step = if self.visited > size { 1 } else { self.step };
            self.at =
                u32::try_from((u64::from(self.at) + u64::from(step)) % u64::from(size)).expect("is below");
        }
        places[index(self.at)] = self.endpoint;
    }
}

/// Of an endpoint on a ring, on average, as far as the ring is not asked to have more: the shares of two endpoints differ
/// by about one part in the root of this.
const POINTS: u64 = 100;
/// No endpoint: there are never so many.
const FREE: u32 = u32::MAX;

#[cfg(test)]
mod tests;
