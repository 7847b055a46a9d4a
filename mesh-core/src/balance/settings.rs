//! How endpoints are chosen, as data.

use std::time::Duration;

use crate::resource::networking::destination_rule as spec;
use crate::resource::value;

/// How endpoints are chosen. The default is Istio's: the less busy of two.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The way of choosing.
    pub algorithm: Algorithm,
    /// New endpoints get less at first. Only with [`Algorithm::RoundRobin`] and [`Algorithm::LeastRequest`].
    pub warmup: Option<Warmup>,
    /// Per cent of healthy endpoints below which all are used, well or not; 0 means never.
    pub min_health_percent: u32,
}

/// A way of choosing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The less busy of two drawn by lot.
    #[default]
    LeastRequest,
    /// By lot.
    Random,
    /// In turn.
    RoundRobin,
    /// None: the connection goes to the address that the client asked for.
    Passthrough,
    /// By a hash of something of the request.
    Hash(HashPolicy),
}

/// Chooses by a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashPolicy {
    /// What is hashed; absent if the user named nothing, and then it is by lot.
    pub source: Option<HashSource>,
    /// How a hash becomes an endpoint.
    pub table: HashTable,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashSource {
    /// A header, in lower case.
    Header(Box<str>),
    /// A cookie.
    Cookie(Cookie),
    /// A parameter of the query.
    QueryParameter(Box<str>),
    /// The address of the client.
    SourceIp,
}

/// A cookie that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// Its name.
    pub name: Box<str>,
    /// The path it is made for; empty leaves it to the client.
    pub path: Box<str>,
    /// How long it lives if it has to be made: zero until the browser closes; absent means that none is made.
    pub ttl: Option<Duration>,
    /// Name and value of further attributes; the value is empty for those that have none.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
}

/// How a hash becomes an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashTable {
    /// A ring with at least so many places, and less than twice as many; at most [`MAX_RING`] can be asked for.
    Ring(u32),
    /// A Maglev table of so many places, a prime of 2..=[`MAX_MAGLEV`].
    Maglev(u32),
}

/// New endpoints get less at first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmup {
    /// Until an endpoint gets its full share.
    pub duration: Duration,
    /// The share it begins with, 0..=1; 0.1.
    pub minimum: f64,
    /// Bends the curve from there, above 0; 1, a straight line.
    pub aggression: f64,
}

impl Settings {
    pub(crate) fn new(balancer: Option<&spec::LoadBalancer>, min_health_percent: u32) -> Self {
        let Some(balancer) = balancer else { return Self { min_health_percent, ..Self::default() } };
        let (algorithm, warms_up) = match balancer.balance() {
            spec::Balance::LeastRequest => (Algorithm::LeastRequest, true),
            spec::Balance::RoundRobin => (Algorithm::RoundRobin, true),
            spec::Balance::Random => (Algorithm::Random, false),
            spec::Balance::Passthrough => (Algorithm::Passthrough, false),
            spec::Balance::Hash(hash) => (Algorithm::Hash(HashPolicy::new(hash)), false),
        };
        let warmup = Warmup::new(balancer).filter(|_| warms_up);
        Self { algorithm, warmup, min_health_percent }
    }

    /// What a request is hashed by, if it is.
    pub fn hash_source(&self) -> Option<&HashSource> {
        match &self.algorithm {
            Algorithm::Hash(policy) => policy.source.as_ref(),
            _ => None,
        }
    }
}

impl HashPolicy {
    fn new(hash: &spec::ConsistentHash) -> Self {
        let size = |size: u64, max: u32| u32::try_from(size).unwrap_or(max).min(max);
        let table = match hash.algorithm() {
            spec::HashAlgorithm::Ring(minimum) => HashTable::Ring(size(minimum, MAX_RING)),
            spec::HashAlgorithm::Maglev(places) => HashTable::Maglev(size(places, MAX_MAGLEV).max(2)),
        };
        Self { source: hash.key().map(HashSource::new), table }
    }
}

impl HashSource {
    fn new(key: spec::HashKey<'_>) -> Self {
        match key {
            spec::HashKey::Header(name) => Self::Header(name.to_ascii_lowercase().into()),
            spec::HashKey::Cookie(cookie) => Self::Cookie(Cookie::new(cookie)),
            spec::HashKey::QueryParameter(name) => Self::QueryParameter(name.into()),
            spec::HashKey::SourceIp => Self::SourceIp,
        }
    }
}

impl Cookie {
    fn new(cookie: &spec::HttpCookie) -> Self {
        let attributes = cookie.attributes.iter();
        Self {
            name: cookie.name.as_str().into(),
            path: cookie.path.as_str().into(),
            ttl: cookie.ttl.map(|ttl| ttl.get().unwrap_or_default()),
            attributes: attributes.map(|it| (it.name.as_str().into(), it.value.as_str().into())).collect(),
        }
    }
}

impl Warmup {
    fn new(balancer: &spec::LoadBalancer) -> Option<Self> {
        let detail = balancer.warmup.as_ref();
        let duration = detail.and_then(|warmup| warmup.duration).or(balancer.warmup_duration_secs);
        let percent = detail.and_then(|warmup| warmup.minimum_percent).unwrap_or(10.0);
        let aggression = detail.and_then(|warmup| warmup.aggression).filter(|it| *it > 0.0);
        Some(Self {
            duration: duration.map(value::Duration::get)?,
            minimum: percent.clamp(0.0, 100.0) / 100.0,
            aggression: aggression.unwrap_or(1.0),
        })
    }

    /// The share of an endpoint of this age: 0..=1. As Envoy's slow start.
    pub fn share(&self, age: Duration) -> f64 {
        if age >= self.duration {
            return 1.0;
        }
        let progress = age.as_secs_f64() / self.duration.as_secs_f64();
        progress.powf(1.0 / self.aggression).max(self.minimum)
    }
}

/// Places that a ring can be asked to have, Envoy's limit.
pub const MAX_RING: u32 = 8 * 1024 * 1024;
/// Places that a Maglev table can have, Envoy's limit.
pub const MAX_MAGLEV: u32 = 5_000_011;
