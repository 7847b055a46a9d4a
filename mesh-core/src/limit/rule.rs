//! One rule of a limit: what it is for, what it tells apart, and what it has counted.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Rate, Standing};
use super::keyed::{Keyed, Place};
use crate::id::SpiffeId;
use crate::resource::networking::virtual_service::HttpMatch;
use crate::resource::rate_limit::{ConnectionLimit, LimitKey, RequestLimit, RequestMatch};
use crate::route::{Condition, RequestView};

/// A request, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The request.
    pub view: RequestView<'a>,
    /// The name of the rule that it goes by, with that of the match behind it; see
    /// [`crate::route::MatchInfo::name`].
    pub route: &'a str,
    /// Who sends it.
    pub caller: Caller<'a>,
}

/// Who sends something.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The proven identity.
    pub identity: Option<&'a SpiffeId>,
    /// The address.
    pub address: IpAddr,
}

/// A rule about requests.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Box<str>,
    limit: RequestLimit,
    conditions: Conditions,
    pub(super) counts: Counts,
}

/// What a request has to be like, with the rule that it goes by; none means any.
#[derive(Debug)]
pub(super) struct Conditions(Vec<(Condition, Box<str>)>);

/// The rule about connections.
#[derive(Debug)]
pub(super) struct ConnectionRule {
    limit: ConnectionLimit,
    pub(super) counts: Counts,
}

/// What a rule counts.
#[derive(Debug)]
pub(super) struct Counts {
    rate: Rate,
    by: Vec<LimitKey>,
    buckets: Buckets,
    /// Keys are kept as hashes that nobody outside can foresee. Should two be the same, they share a bucket.
    hasher: RandomState,
    epoch: Instant,
}

#[derive(Debug)]
enum Buckets {
    One(Bucket),
    Each(Keyed),
}

impl Rule {
    pub(super) fn new(limit: &RequestLimit, epoch: Instant) -> Self {
        Self {
            name: limit.name.as_str().into(),
            conditions: Conditions::of(&limit.r#match),
            counts: Counts::new(
                (limit.requests, limit.per(), limit.burst),
                (&limit.by, limit.max_keys),
                epoch,
            ),
            limit: limit.clone(),
        }
    }

    pub(super) fn is_of(&self, limit: &RequestLimit) -> bool {
        self.limit == *limit
    }

    /// Whether it is for a request.
    pub(super) fn matches(&self, call: &Call<'_>) -> bool {
        self.conditions.match_any(call)
    }
}

impl Conditions {
    pub(super) fn of(matches: &[RequestMatch]) -> Self {
        let condition = |it: &RequestMatch| {
            let RequestMatch { uri, method, authority, headers, route } = it.clone();
            let it = HttpMatch { uri, method, authority, headers, ..HttpMatch::default() };
            (Condition::of(&it), route.into())
        };
        Self(matches.iter().map(condition).collect())
    }

    pub(super) fn match_any(&self, call: &Call<'_>) -> bool {
        let holds = |(condition, route): &(Condition, Box<str>)| {
            let is_route = || {
                let rest = call.route.strip_prefix(&**route);
                route.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            is_route() && condition.holds(&call.view)
        };
        self.0.is_empty() || self.0.iter().any(holds)
    }
}

impl ConnectionRule {
    pub(super) fn new(limit: &ConnectionLimit, epoch: Instant) -> Self {
        let numbers = (limit.count, limit.per(), limit.burst);
        Self { counts: Counts::new(numbers, (&limit.by, limit.max_keys), epoch), limit: limit.clone() }
    }

    pub(super) fn is_of(&self, limit: &ConnectionLimit) -> bool {
        self.limit == *limit
    }
}

impl Counts {
    fn new(
        (count, per, burst): (u32, Duration, Option<u32>),
        (by, max_keys): (&[LimitKey], Option<u32>),
        epoch: Instant,
    ) -> Self {
        let buckets = match by {
            [] => Buckets::One(Bucket::default()),
            _ => Buckets::Each(Keyed::new(max_keys.unwrap_or(DEFAULT_KEYS))),
        };
        let rate = Rate::new(count, per, burst.unwrap_or(count));
        Self { rate, by: by.to_vec(), buckets, hasher: RandomState::new(), epoch }
    }

    /// What tells a request apart, as a number.
    pub(super) fn key_of(&self, call: &Call<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for key in &self.by {
            match key {
                LimitKey::Identity | LimitKey::Address => call.caller.hash_by(key, &mut hasher),
                LimitKey::Host => host(call.view.authority).to_ascii_lowercase().hash(&mut hasher),
                LimitKey::Route => call.route.hash(&mut hasher),
                LimitKey::Method => call.view.method.hash(&mut hasher),
                LimitKey::Path => call.view.path.hash(&mut hasher),
                LimitKey::Header(name) => {
                    let values = call.view.headers.get_all(name.as_str()).iter();
                    let mut count = 0;
                    for value in values {
                        value.as_bytes().hash(&mut hasher);
                        count += 1;
                    }
                    // None is not the same as an empty one, and one not the same as two.
                    hasher.write_u32(count);
                }
            }
        }
        hasher.finish()
    }

    /// What tells a connection apart, as a number.
    pub(super) fn key_of_connection(&self, caller: &Caller<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        self.by.iter().for_each(|key| caller.hash_by(key, &mut hasher));
        hasher.finish()
    }

    pub(super) fn take(&self, key: u64, now: Instant) -> (Place, Result<Standing, Standing>) {
        let since = now.saturating_duration_since(self.epoch);
        let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        match &self.buckets {
            Buckets::One(bucket) => (Place::Own, bucket.take(&self.rate, now)),
            Buckets::Each(keyed) => keyed.take(key, &self.rate, now),
        }
    }

    pub(super) fn give_back(&self, key: u64, place: Place) {
        match &self.buckets {
            Buckets::One(bucket) => bucket.give_back(&self.rate),
            Buckets::Each(keyed) => keyed.give_back((key, place), &self.rate),
        }
    }
}

impl Caller<'_> {
    pub(super) fn hash_by(&self, key: &LimitKey, hasher: &mut impl Hasher) {
        match key {
            LimitKey::Identity => self.identity.hash(hasher),
            LimitKey::Address => self.address.to_canonical().hash(hasher),
            _ => {}
        }
    }
}

/// A host without its port.
pub(super) fn host(authority: &str) -> &str {
    let end = authority.rfind(':').filter(|at| !authority.get(*at..).is_some_and(|rest| rest.contains(']')));
    end.and_then(|end| authority.get(..end)).unwrap_or(authority)
}

/// Counts that are kept where nothing is said.
const DEFAULT_KEYS: u32 = 10_000;
