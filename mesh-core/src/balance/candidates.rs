//! The endpoints of a cluster, prepared for choosing.

use std::collections::BTreeMap;

use super::settings::{Algorithm, HashPolicy, Settings};
use super::table::{Entry, Table};
use super::{index, mix};
use crate::model::EndpointId;

/// An endpoint that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: EndpointId,
    /// Its share among the others; 0 counts as 1.
    pub weight: u32,
    /// Where it stands, from [`super::locality::priorities`]; `None` means that it is never chosen.
    pub placement: Option<Placement>,
}

/// Where an endpoint stands in a client's preferences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// 0 is the most wanted.
    pub priority: u32,
    /// Endpoints of one priority and bucket share its traffic.
    pub bucket: u32,
    /// The share of the bucket among those of its priority; the same for all of its endpoints.
    pub share: u32,
}

/// The endpoints of a cluster, prepared for choosing. Made when they change, and then shared by all threads; with a hash, making
/// it is worth milliseconds.
#[derive(Debug, Clone)]
pub struct Candidates {
    digest: u64,
    ids: Box<[EndpointId]>,
    weights: Box<[u32]>,
    groups: Box<[Group]>,
}

/// The endpoints of a priority.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) buckets: Box<[Bucket]>,
    pub(super) table: Option<Table>,
}

/// Endpoints that share a part of the traffic.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub(super) share: u32,
    /// Never empty.
    pub(super) members: Box<[u32]>,
    /// All have the same weight.
    pub(super) even: bool,
}

impl Candidate {
    /// An endpoint that is like all others.
    pub fn new(id: EndpointId) -> Self {
        Self { id, weight: 1, placement: Some(Placement::default()) }
    }
}

impl Default for Placement {
    /// Where nothing is preferred.
    fn default() -> Self {
        Self { priority: 0, bucket: 0, share: 1 }
    }
}

impl Candidates {
    /// Prepares `endpoints`, of which there are less than 2^32. What is chosen later is an index into them.
    pub fn new(settings: &Settings, endpoints: &[Candidate]) -> Self {
        let weights: Box<[u32]> = endpoints.iter().map(|endpoint| endpoint.weight.max(1)).collect();
        let mut places: BTreeMap<u32, BTreeMap<u32, (u32, Vec<u32>)>> = BTreeMap::new();
        for (at, endpoint) in (0..).zip(endpoints) {
            let Some(Placement { priority, bucket, share }) = endpoint.placement else { continue };
            let bucket = places.entry(priority).or_default().entry(bucket).or_insert((share, Vec::new()));
            bucket.1.push(at);
        }
        let ids: Box<[EndpointId]> = endpoints.iter().map(|endpoint| endpoint.id).collect();
        let groups = places.into_values().map(|buckets| {
            let buckets = buckets.into_values();
            let buckets = buckets.map(|(share, members)| Bucket::new(share, members, &weights)).collect();
            Group::new(settings, buckets, (&ids, &weights))
        });
        Self { digest: digest(endpoints), groups: groups.collect(), ids, weights }
    }

    /// How many there are, those included that are never chosen.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Their ids, in the order they were given.
    pub fn ids(&self) -> &[EndpointId] {
        &self.ids
    }

    /// Of everything that was given: it differs, but for one case in 2⁶⁴, where two lists do.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(super) fn id(&self, endpoint: u32) -> EndpointId {
        self.ids[index(endpoint)]
    }

    pub(super) fn weight(&self, endpoint: u32) -> u32 {
        self.weights[index(endpoint)]
    }
}

impl Group {
    fn new(settings: &Settings, buckets: Box<[Bucket]>, (ids, weights): (&[EndpointId], &[u32])) -> Self {
        let Algorithm::Hash(HashPolicy { table, .. }) = settings.algorithm else {
            return Self { buckets, table: None };
        };
        let mut entries = Vec::new();
        for bucket in &buckets {
            let total: u64 = bucket.members.iter().map(|member| u64::from(weights[index(*member)])).sum();
            for member in &bucket.members {
                let own = weights[index(*member)];
                let weight = if buckets.len() == 1 { own } else { part(bucket.share, own, total) };
                entries.push(Entry { endpoint: *member, hash: ids[index(*member)].hash64(), weight });
            }
        }
        Self { buckets, table: Some(Table::new(table, &entries)) }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = u32> {
        self.buckets.iter().flat_map(|bucket| bucket.members.iter().copied())
    }
}

impl Bucket {
    fn new(share: u32, members: Vec<u32>, weights: &[u32]) -> Self {
        let mut own = members.iter().map(|member| weights[index(*member)]);
        let first = own.next();
        let even = own.all(|weight| Some(weight) == first);
        Self { share, members: members.into(), even }
    }
}

/// What an endpoint gets of its bucket's share, in parts fine enough for hundreds of endpoints.
fn part(share: u32, own: u32, total: u64) -> u32 {
    let part = u64::from(share).saturating_mul(u64::from(own)).saturating_mul(FINENESS) / total.max(1);
    u32::try_from(part).unwrap_or(u32::MAX).max(1)
}

fn digest(endpoints: &[Candidate]) -> u64 {
    endpoints.iter().fold(mix(0), |digest, endpoint| {
        let placement = endpoint.placement.map_or([u32::MAX; 3], |it| [it.priority, it.bucket, it.share]);
        let parts = placement.iter().chain([&endpoint.weight]);
        let digest = mix(digest ^ endpoint.id.hash64());
        parts.fold(digest, |digest, part| mix(digest ^ u64::from(*part)))
    })
}

/// Parts that a share is divided into.
const FINENESS: u64 = 100;
