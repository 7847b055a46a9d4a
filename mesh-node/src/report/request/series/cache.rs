//! What a thread remembers of the label sets it has met.
//!
//! A table of fixed size whose places are found by hash, eight for each hash; a newcomer takes one of the eight. A look-up
//! compares addresses, a few small values and the texts of identities, and allocates nothing.

use std::cell::RefCell;
use std::sync::Arc;

use mesh_core::id::SpiffeId;
use mesh_core::model::{Service, Workload};

use super::{Counted, Kind, Shard};
use crate::report::request::Perspective;
use crate::report::request::labels::{GrpcStatus, Outcome};
use crate::report::thread::ThreadNumber;
use crate::report::{PseudoService, Told};

/// Uses this thread's cache, which is emptied first if it is another map's or of an earlier epoch. A thread that is
/// ending has none any more; its requests are not counted.
pub(super) fn with<T: Default>(map: u64, epoch: u64, use_it: impl FnOnce(&mut Cache) -> T) -> T {
    let outcome = CACHE.try_with(|cache| {
        let cache = &mut *cache.borrow_mut();
        if (cache.map, cache.epoch) != (map, epoch) {
            cache.clear();
            (cache.map, cache.epoch) = (map, epoch);
        }
        use_it(cache)
    });
    outcome.unwrap_or_default()
}

pub(super) struct Cache {
    map: u64,
    epoch: u64,
    thread: ThreadNumber,
    /// By place; those of one set share a line of the processor's cache.
    hashes: Vec<u64>,
    /// By place.
    entries: Vec<Option<Entry>>,
    /// Moves on with each newcomer, so that they do not all replace the same one of a set.
    next_victim: usize,
}

/// A Telemetry's metrics, which of their groups, and the values of labels.
type KnownShape = (Arc<Told>, usize, Box<[Option<String>]>);

/// A thread's counters, and what the key of them points to: addresses stay valid as long as the entry lives.
pub(super) struct Entry {
    pub(super) shard: Arc<Shard>,
    /// Whether the cap left no series of their own to these labels.
    pub(super) overflow: bool,
    small: u64,
    source: Option<Arc<Workload>>,
    destination: Option<Arc<Workload>>,
    service: Option<Arc<Service>>,
    source_identity: Option<SpiffeId>,
    destination_identity: Option<SpiffeId>,
    /// How its metrics differ from the usual, and the values of labels.
    shape: Option<KnownShape>,
}

impl Cache {
    fn new() -> Self {
        Self {
            map: 0,
            epoch: 0,
            thread: ThreadNumber::take(),
            hashes: Vec::new(),
            entries: Vec::new(),
            next_victim: 0,
        }
    }

    fn clear(&mut self) {
        self.hashes.clear();
        self.entries.clear();
    }

    /// The entry of a request's labels; made with what `make` finds for this thread's number if there is none.
    pub(super) fn find_or_insert(
        &mut self,
        counted: Counted<'_, '_>,
        make: impl FnOnce(usize) -> (Arc<Shard>, bool),
    ) -> &Entry {
        let small = small(counted);
        let hash = hash(counted, small);
        let set = usize::try_from(hash >> (u64::BITS - SET_BITS)).unwrap_or_default() * WAYS;
        let place = self.find(set, hash, |entry| entry.is(counted, small)).unwrap_or_else(|| {
            let (shard, overflow) = make(self.thread.get());
            self.insert(set, hash, Entry::new(counted, small, (shard, overflow)))
        });
        self.entries.get(place).and_then(Option::as_ref).expect("the place was just found or filled")
    }

    fn find(&self, set: usize, hash: u64, is: impl Fn(&Entry) -> bool) -> Option<usize> {
        let hashes = self.hashes.get(set..set + WAYS)?;
        let same = hashes.iter().enumerate().filter(|(_, known)| **known == hash);
        same.map(|(way, _)| set + way)
            .find(|place| self.entries.get(*place).and_then(Option::as_ref).is_some_and(&is))
    }

    fn insert(&mut self, set: usize, hash: u64, entry: Entry) -> usize {
        self.hashes.resize(PLACES, 0);
        self.entries.resize_with(PLACES, || None);
        let free = (set..set + WAYS).find(|place| self.entries.get(*place).is_some_and(Option::is_none));
        let place = free.unwrap_or_else(|| {
            self.next_victim = self.next_victim.wrapping_add(1);
            set + self.next_victim % WAYS
        });
        if let (Some(known), Some(slot)) = (self.hashes.get_mut(place), self.entries.get_mut(place)) {
            *known = hash;
            *slot = Some(entry);
        }
        place
    }
}

impl Entry {
    fn new((facts, kind): Counted<'_, '_>, small: u64, (shard, overflow): (Arc<Shard>, bool)) -> Self {
        Self {
            shard,
            overflow,
            small,
            source: facts.source.cloned(),
            destination: facts.destination.cloned(),
            service: facts.service.cloned(),
            source_identity: facts.source_identity.cloned(),
            destination_identity: facts.destination_identity.cloned(),
            shape: kind.shape().map(|it| (Arc::clone(it.key().0), it.key().1, it.values.clone().into())),
        }
    }

    fn is(&self, (facts, kind): Counted<'_, '_>, small: u64) -> bool {
        self.small == small
            && address(self.source.as_ref()) == address(facts.source)
            && address(self.destination.as_ref()) == address(facts.destination)
            && address(self.service.as_ref()) == address(facts.service)
            && text(self.source_identity.as_ref()) == text(facts.source_identity)
            && text(self.destination_identity.as_ref()) == text(facts.destination_identity)
            && match (&self.shape, kind.shape()) {
                (None, None) => true,
                (Some((told, group, values)), Some(shape)) => {
                    Arc::ptr_eq(told, shape.key().0) && *group == shape.key().1 && **values == *shape.values
                }
                _ => false,
            }
    }
}

/// All that labels depend on but objects and identities: perspective, security, protocol, kind of service, status codes
/// and flags.
fn small((facts, what): Counted<'_, '_>) -> u64 {
    let reporter = match facts.reporter {
        Perspective::Source => 0,
        Perspective::Destination => 1,
        Perspective::Waypoint => 2,
    };
    let pseudo_service = match facts.pseudo_service {
        None => 0,
        Some(PseudoService::Passthrough) => 1,
        Some(PseudoService::BlackHole) => 2,
        Some(PseudoService::InboundPassthrough) => 3,
    };
    let outcome = Outcome::of(facts);
    let status = match outcome.grpc_status {
        GrpcStatus::Known(status) => u64::from(status),
        GrpcStatus::Unknown => 0xfe,
        GrpcStatus::Absent => 0xff,
    };
    let is_edge = u64::from(matches!(what, Kind::Edge));
    let kind = reporter | pseudo_service << 2 | u64::from(facts.encrypted) << 4 | u64::from(facts.grpc) << 5;
    kind | is_edge << 6
        | status << 8
        | u64::from(outcome.code.unwrap_or(u16::MAX)) << 16
        | u64::from(facts.flags.bits()) << 32
}

fn hash((facts, kind): Counted<'_, '_>, small: u64) -> u64 {
    let mut hash = fold(SEED, small);
    for object in [address(facts.source), address(facts.destination), address(facts.service)] {
        hash = fold(hash, object as u64);
    }
    for identity in [text(facts.source_identity), text(facts.destination_identity)] {
        hash = fold_text(hash, identity);
    }
    let Some(shape) = kind.shape() else { return hash };
    let (told, group) = shape.key();
    hash = fold(fold(hash, Arc::as_ptr(told).addr() as u64), group as u64);
    shape.values.iter().fold(hash, |hash, value| fold_text(hash, value.as_deref().unwrap_or_default()))
}

fn fold_text(hash: u64, text: &str) -> u64 {
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let hash = words.iter().fold(hash, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(fold(hash, rest.len() as u64), |hash, byte| fold(hash, u64::from(*byte)))
}

/// Multiplication spreads every bit of the word over those above it; the rotation brings the upper half, which is the
/// better mixed one, down for the next round.
fn fold(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(26) ^ word).wrapping_mul(SEED)
}

fn address<T>(object: Option<&Arc<T>>) -> usize {
    object.map_or(0, |object| Arc::as_ptr(object).addr())
}

/// Every identity has a text, so the empty one means that there is none.
fn text(identity: Option<&SpiffeId>) -> &str {
    identity.map_or("", SpiffeId::uri)
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::new(Cache::new());
}

/// Places of one set.
const WAYS: usize = 8;
/// Logarithm of the number of sets.
const SET_BITS: u32 = 8;
/// Entries of one thread's cache: a node has a few hundred pairs of workloads in use at a time, most with one or two
/// status codes.
const PLACES: usize = WAYS << SET_BITS;
/// Odd, half of its bits set, without a pattern: the golden ratio's.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
