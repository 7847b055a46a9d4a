//! Which endpoint of a service a connection or request goes to.
//!
//! Pure: load, randomness, time and the endpoints that were tried before are arguments, so every choice can be replayed.
//! [`choose`] is for services without rules; with a DestinationRule it is a [`Balancer`] over [`Candidates`].

pub use self::balancer::{Balancer, PickContext};
pub use self::candidates::{Candidate, Candidates, Placement};
use self::draw::below;
pub use self::hash::{Affinity, HashInput, Issued, hash_bytes, hash_ip, hash_key};
pub use self::settings::{
    Algorithm, Cookie, HashPolicy, HashSource, HashTable, MAX_MAGLEV, MAX_RING, Settings, Warmup,
};
use crate::model::{Endpoint, EndpointId};

mod balancer;
mod candidates;
mod draw;
mod hash;
pub mod locality;
mod priority;
mod rotation;
mod settings;
mod table;

/// What is known about the endpoints' load.
pub trait Load {
    /// Connections or requests on their way to `id` at the moment, as far as the caller counts them.
    fn outstanding(&self, id: EndpointId) -> u32;
}

/// What is known about the endpoints' health.
pub trait Health {
    /// Changes whenever [`Self::is_ejected`] does for anybody.
    fn generation(&self) -> u64;
    /// Whether `id` is left out at the moment.
    fn is_ejected(&self, id: EndpointId) -> bool;
}

/// Where nobody is ever left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AllWell;

impl Health for AllWell {
    fn generation(&self) -> u64 {
        0
    }

    fn is_ejected(&self, _: EndpointId) -> bool {
        false
    }
}

impl<F: Fn(EndpointId) -> u32> Load for F {
    fn outstanding(&self, id: EndpointId) -> u32 {
        self(id)
    }
}

/// Chooses an endpoint; `None` only if there is none at all.
///
/// Without `affinity`: of two different endpoints drawn with `seed`, the one with less outstanding. That is as good
/// as looking at all of them, and does not send every node's next connection to the same one. With `affinity` (a
/// hash of the client): always the same endpoint, and if one goes away only its own clients move (rendezvous
/// hashing). `tried` endpoints are chosen only if nothing else is left; ending the retries is the caller's decision.
///
/// Does not allocate. Takes constant time, but linear if there is affinity or something was tried.
pub fn choose<'a>(
    endpoints: &'a [Endpoint],
    load: &impl Load,
    seed: u64,
    tried: &[EndpointId],
    affinity: Option<u64>,
) -> Option<&'a Endpoint> {
    if tried.is_empty() || endpoints.iter().all(|endpoint| tried.contains(&endpoint.id)) {
        return match affinity {
            Some(client) => by_affinity(endpoints.iter(), client),
            None => least_of_two(endpoints.len(), seed, load, |index| endpoints.get(index)),
        };
    }
    let untried = || endpoints.iter().filter(|endpoint| !tried.contains(&endpoint.id));
    match affinity {
        Some(client) => by_affinity(untried(), client),
        None => least_of_two(untried().count(), seed, load, |index| untried().nth(index)),
    }
}

/// The finaliser of `SplitMix64` (Steele, Lea and Flood 2014): spreads every input bit over all output bits.
pub(crate) fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn by_affinity<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, client: u64) -> Option<&'a Endpoint> {
    // The id breaks ties, so that the order of the endpoints has no say.
    endpoints.max_by_key(|endpoint| (mix(mix(client) ^ endpoint.id.hash64()), endpoint.id))
}

fn least_of_two<'a>(
    count: usize,
    seed: u64,
    load: &impl Load,
    nth: impl Fn(usize) -> Option<&'a Endpoint>,
) -> Option<&'a Endpoint> {
    if count <= 1 {
        return nth(0);
    }
    let first = below(count, mix(seed));
    // Drawn from the others: skipping over `first` keeps it uniform.
    let other = below(count - 1, mix(mix(seed)));
    let other = if other >= first { other + 1 } else { other };
    let (first, other) = (nth(first)?, nth(other)?);
    if load.outstanding(other.id) < load.outstanding(first.id) { Some(other) } else { Some(first) }
}

/// As an index.
fn index(endpoint: u32) -> usize {
    usize::try_from(endpoint).expect("a usize has at least 32 bits")
}

#[cfg(test)]
mod tests;
