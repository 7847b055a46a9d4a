//! Outlier detection: endpoints that fail several times in a row are left out for a while.
//!
//! A state machine that is told how tries went and what time it is. Only endpoints that failed of late cost memory or
//! time. Follows Envoy where Istio leaves a choice.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

pub use self::shared::SharedOutliers;
use crate::balance::Health;
use crate::model::EndpointId;
use crate::resource::networking::destination_rule::OutlierDetection;
use crate::resource::value;

mod shared;

/// When an endpoint is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// Failures in a row, answers of 500 to 599 among them; absent means that they do not count. 5.
    pub consecutive_5xx: Option<NonZeroU32>,
    /// As [`Self::consecutive_5xx`], but only 502, 503 and 504; absent.
    pub consecutive_gateway: Option<NonZeroU32>,
    /// Whether failures to get an answer count apart from answers; no.
    pub split_local_origin: bool,
    /// Failures to get an answer in a row, if they count apart; 5.
    pub consecutive_local_origin: NonZeroU32,
    /// Between two looks at who may come back; 10 s.
    pub interval: Duration,
    /// How long the first time lasts; each further time lasts longer by that. 30 s.
    pub base_ejection_time: Duration,
    /// How long it can become: 300 s, or [`Self::base_ejection_time`] if that is more.
    pub max_ejection_time: Duration,
    /// Per cent of the endpoints that may be out; 10. One may be out in any case as long as another is left.
    pub max_ejection_percent: u32,
    /// Per cent of healthy endpoints below which all are used; 0, which means never.
    pub min_health_percent: u32,
    /// Answers that count as failures instead of 500 to 599; empty means these.
    pub error_codes: Box<[u16]>,
}

/// How a try went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is over and nothing was wrong: a TCP connection that was used, for example.
    Success,
    /// A connection stands. Says nothing about what is answered over it.
    Connected,
    /// An answer of this status.
    Status(u16),
    /// No connection.
    ConnectFailure,
    /// The connection or stream broke before there was an answer.
    Reset,
    /// There was no answer in time.
    Timeout,
}

/// An endpoint was left out just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    /// Why.
    pub reason: Ejection,
    /// For how long at least: it comes back with the next look after that.
    pub lasts: Duration,
}

/// Why an endpoint is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ejection {
    /// [`OutlierPolicy::consecutive_5xx`].
    Consecutive5xx,
    /// [`OutlierPolicy::consecutive_gateway`].
    ConsecutiveGateway,
    /// [`OutlierPolicy::consecutive_local_origin`].
    ConsecutiveLocalOrigin,
}

/// Which endpoints of a service are left out.
#[derive(Debug)]
pub struct Outliers {
    policy: OutlierPolicy,
    /// Sorted.
    members: Vec<EndpointId>,
    /// Those that failed of late. All are members.
    records: HashMap<EndpointId, Record>,
    ejected: usize,
    generation: u64,
    next_look: Option<Instant>,
}

#[derive(Debug, Default)]
struct Record {
    in_a_row_5xx: u32,
    in_a_row_gateway: u32,
    in_a_row_local: u32,
    ejected_at: Option<Instant>,
    back_since: Option<Instant>,
    /// Times out, less the looks at which it was well since.
    times: u32,
}

impl Outliers {
    /// Without endpoints, nothing is recorded: [`Self::set_endpoints`] comes next.
    pub fn new(policy: OutlierPolicy) -> Self {
        let (members, records) = (Vec::new(), HashMap::new());
        Self { policy, members, records, ejected: 0, generation: 0, next_look: None }
    }

    /// The policy in force.
    pub fn policy(&self) -> &OutlierPolicy {
        &self.policy
    }

    /// Goes on with another policy. Those that are out stay out, for as long as the new policy says.
    pub fn set_policy(&mut self, policy: OutlierPolicy) {
        self.policy = policy;
    }

    /// The endpoints are these now. What is known of those that stay, stays; what is known of others is forgotten.
    pub fn set_endpoints(&mut self, endpoints: impl IntoIterator<Item = EndpointId>) {
        self.members = endpoints.into_iter().collect();
        self.members.sort_unstable();
        self.members.dedup();
        let members = &self.members;
        self.records.retain(|id, _| members.binary_search(id).is_ok());
        let ejected = self.records.values().filter(|record| record.ejected_at.is_some()).count();
        self.count_ejected(ejected);
    }

    /// Takes note of a try. `Some` if the endpoint is out because of it.
    pub fn record(&mut self, id: EndpointId, outcome: Outcome, now: Instant) -> Option<Ejected> {
        if self.next_look.is_none() {
            self.next_look = Some(now + self.policy.interval);
        }
        let is_failure = self.policy.is_failure(outcome);
        if !is_failure && !self.records.contains_key(&id) {
            return None;
        }
        // Answers of endpoints that are gone may still come in.
        if is_failure && self.members.binary_search(&id).is_err() {
            return None;
        }
        let reason = self.records.entry(id).or_default().count(&self.policy, outcome)?;
        self.eject(id, reason, now)
    }

    /// Lets those come back whose time is over, once in every [`OutlierPolicy::interval`]; more calls do nothing. Whether
    /// somebody came back.
    pub fn tick(&mut self, now: Instant) -> bool {
        if self.next_look.is_some_and(|next| now < next) {
            return false;
        }
        self.next_look = Some(now + self.policy.interval);
        let policy = &self.policy;
        self.records.values_mut().for_each(|record| record.look(policy, now));
        self.records.retain(|_, record| !record.is_clean());
        let ejected = self.records.values().filter(|record| record.ejected_at.is_some()).count();
        let came_back = ejected < self.ejected;
        self.count_ejected(ejected);
        came_back
    }

    /// When [`Self::tick`] has something to do; `None` until something is recorded, and while nothing is wrong.
    pub fn next_tick(&self) -> Option<Instant> {
        self.next_look.filter(|_| !self.records.is_empty())
    }

    /// How many are out.
    pub fn ejected(&self) -> usize {
        self.ejected
    }

    /// Whether nobody failed of late: then successes need not be recorded.
    pub fn is_quiet(&self) -> bool {
        self.records.is_empty()
    }

    fn eject(&mut self, id: EndpointId, reason: Ejection, now: Instant) -> Option<Ejected> {
        if !self.may_eject() {
            return None;
        }
        let record = self.records.get_mut(&id)?;
        if record.ejected_at.is_some() {
            return None;
        }
        record.ejected_at = Some(now);
        // Once it cannot last longer, it need not be counted longer either: this is how soon it decays.
        if self.policy.lasts(record.times) < self.policy.max_ejection_time {
            record.times += 1;
        }
        let lasts = self.policy.lasts(record.times);
        self.count_ejected(self.ejected + 1);
        Some(Ejected { reason, lasts })
    }

    fn may_eject(&self) -> bool {
        let percent = usize::try_from(self.policy.max_ejection_percent).unwrap_or(usize::MAX);
        let within = (self.ejected + 1).saturating_mul(100) <= percent.saturating_mul(self.members.len());
        within || (self.ejected == 0 && self.members.len() > 1)
    }

    fn count_ejected(&mut self, ejected: usize) {
        if ejected != self.ejected {
            self.generation += 1;
        }
        self.ejected = ejected;
    }
}

impl Health for Outliers {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn is_ejected(&self, id: EndpointId) -> bool {
        self.ejected > 0 && self.records.get(&id).is_some_and(|record| record.ejected_at.is_some())
    }
}

impl Record {
    /// Counts a try; `Some` if that is one failure in a row too many.
    fn count(&mut self, policy: &OutlierPolicy, outcome: Outcome) -> Option<Ejection> {
        if policy.split_local_origin {
            match outcome {
                Outcome::ConnectFailure | Outcome::Reset | Outcome::Timeout => {
                    let reached = raise(&mut self.in_a_row_local, Some(policy.consecutive_local_origin));
                    return reached.then_some(Ejection::ConsecutiveLocalOrigin);
                }
                // Whoever answers can be reached.
                Outcome::Success | Outcome::Connected | Outcome::Status(_) => self.in_a_row_local = 0,
            }
        }
        let status = match outcome {
            Outcome::Connected => return None,
            Outcome::Success => 200,
            Outcome::Status(status) => status,
            Outcome::ConnectFailure | Outcome::Reset => 503,
            Outcome::Timeout => 504,
        };
        if !policy.is_failure(outcome) {
            (self.in_a_row_5xx, self.in_a_row_gateway) = (0, 0);
            return None;
        }
        let gateway = if matches!(status, 502..=504) {
            raise(&mut self.in_a_row_gateway, policy.consecutive_gateway)
        } else {
            self.in_a_row_gateway = 0;
            false
        };
        let any = raise(&mut self.in_a_row_5xx, policy.consecutive_5xx);
        if any { Some(Ejection::Consecutive5xx) } else { gateway.then_some(Ejection::ConsecutiveGateway) }
    }

    fn look(&mut self, policy: &OutlierPolicy, now: Instant) {
        match (self.ejected_at, self.back_since) {
            (Some(since), _) if now.saturating_duration_since(since) >= policy.lasts(self.times) => {
                *self = Self { back_since: Some(now), times: self.times, ..Self::default() };
            }
            (None, Some(since)) if now.saturating_duration_since(since) >= policy.interval => {
                self.times = self.times.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn is_clean(&self) -> bool {
        let counts = [self.in_a_row_5xx, self.in_a_row_gateway, self.in_a_row_local, self.times];
        self.ejected_at.is_none() && counts == [0; 4]
    }
}

impl OutlierPolicy {
    pub(super) fn new(spec: &OutlierDetection) -> Self {
        let base_ejection_time = spec.base_ejection_time.map_or(BASE_EJECTION_TIME, value::Duration::get);
        let local = spec.consecutive_local_origin_failures.and_then(NonZeroU32::new);
        let percent = Some(spec.max_ejection_percent).filter(|percent| *percent > 0);
        Self {
            consecutive_5xx: spec.consecutive_5xx_errors.map_or(Some(FIVE), NonZeroU32::new),
            consecutive_gateway: spec.consecutive_gateway_errors.and_then(NonZeroU32::new),
            split_local_origin: spec.split_external_local_origin_errors,
            consecutive_local_origin: local.unwrap_or(FIVE),
            interval: spec.interval.map_or(INTERVAL, value::Duration::get),
            base_ejection_time,
            max_ejection_time: MAX_EJECTION_TIME.max(base_ejection_time),
            max_ejection_percent: percent.unwrap_or(MAX_EJECTION_PERCENT).min(100),
            min_health_percent: spec.min_health_percent.min(100),
            error_codes: spec.outlier_detection_http_error_codes.as_slice().into(),
        }
    }

    fn is_failure(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Success | Outcome::Connected => false,
            Outcome::Status(status) if self.error_codes.is_empty() => (500..600).contains(&status),
            Outcome::Status(status) => self.error_codes.contains(&status),
            Outcome::ConnectFailure | Outcome::Reset | Outcome::Timeout => true,
        }
    }

    fn lasts(&self, times: u32) -> Duration {
        self.base_ejection_time.saturating_mul(times).min(self.max_ejection_time)
    }
}

impl Default for OutlierPolicy {
    /// That of an empty `outlierDetection`.
    fn default() -> Self {
        Self::new(&OutlierDetection::default())
    }
}

impl Outcome {
    /// What an answer with this status of gRPC is; statuses that gRPC does not know are failures of the server.
    pub fn grpc(status: u32) -> Self {
        Self::Status(match status {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            _ => 500,
        })
    }
}

impl Ejection {
    /// As metrics and logs call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOrigin => "consecutive_local_origin_failure",
        }
    }
}

/// Counts one more. Whether that is the last one; counting begins anew then.
fn raise(counter: &mut u32, limit: Option<NonZeroU32>) -> bool {
    let Some(limit) = limit else { return false };
    *counter += 1;
    let reached = *counter >= limit.get();
    if reached {
        *counter = 0;
    }
    reached
}

const FIVE: NonZeroU32 = NonZeroU32::new(5).expect("5 is not 0");
const INTERVAL: Duration = Duration::from_secs(10);
const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
/// Envoy's; Istio cannot set it.
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
const MAX_EJECTION_PERCENT: u32 = 10;

#[cfg(test)]
mod tests;
