//! Whether a request is tried again, and when.
//!
//! Two questions in one: does the rule want it ([`RetryOn`]), and is it safe. The second has the last word: what the
//! destination may have begun to act on is only repeated if the rule says so, and a body that is gone never is.

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::condition::RetryOn;
use crate::resource::gateway_api;
use crate::resource::networking::virtual_service::{Retries, RetryOn as Condition};

mod condition;

/// How a route's requests are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first; 2.
    pub attempts: u32,
    /// For each try; absent means that only the request's own time counts.
    pub per_try_timeout: Option<Duration>,
    /// What counts as failed.
    pub on: RetryOn,
    /// Before the second try, twice that before the third and so on, up to ten times that. 25 ms.
    pub backoff: Duration,
    /// Whether a try may go to another locality; no.
    pub remote_localities: bool,
    /// Whether a try goes to another endpoint than those before; yes, but no with consistent hashing.
    pub ignore_previous_hosts: bool,
}

/// How a try went that was no success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The head of an answer came.
    Answer(Answer),
    /// There was none.
    Failed(Failure),
}

/// The head of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// `grpc-status`, of an answer that consists of a head only.
    pub grpc_status: Option<u32>,
    /// Has `x-envoy-ratelimited`.
    pub rate_limited: bool,
    /// Has one of the headers that the request named in `x-envoy-retriable-header-names`.
    pub retriable_header: bool,
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection: nothing was sent.
    Connect,
    /// The peer did not begin with it: `REFUSED_STREAM`, or a GOAWAY that leaves it out.
    Refused,
    /// A connection that had been used before ended before the first byte of an answer: the peer most likely closed it while
    /// it was idle.
    Stale,
    /// The connection or the stream broke.
    Reset,
    /// There was no answer within [`RetryPolicy::per_try_timeout`].
    PerTryTimeout,
    /// A limit of the circuit breaker is reached: another try would meet it again.
    Overflow,
    /// No endpoint: another try would find none either.
    NoEndpoint,
}

/// What is known of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Whether doing it twice is as good as once, which its method says: GET, HEAD, OPTIONS, TRACE, PUT and DELETE.
    pub idempotent: bool,
    /// Whether it can be sent again.
    pub body: Body,
    /// Whether any of it was sent in this try.
    pub sent: bool,
    /// Whether the client has the head of an answer.
    pub answered: bool,
}

/// Whether a request's body can be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Body {
    /// There is none, or all that was read of it is kept.
    Replayable,
    /// Nothing was read of it yet.
    Untouched,
    /// Something was read of it and not kept.
    Consumed,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again after this long.
    Retry(Duration),
    /// What there is goes to the client.
    Give(Reason),
}

/// Why a request is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The rule does not want it.
    NotWanted,
    /// It was tried as often as the rule says: response flag `URX`.
    Exhausted,
    /// The client has a part of the answer.
    Answered,
    /// Its body is gone.
    Consumed,
}

/// Counts requests over the time that `budgetInterval` of a retry budget says.
#[derive(Debug)]
pub struct RecentRequests {
    interval: Duration,
    began: Instant,
    current: u32,
    previous: u32,
}

impl RetryPolicy {
    /// What a route says; `None` if it says nothing, and then the mesh's default is meant. `hashes` says whether its
    /// destination is chosen by a hash.
    pub fn new(retries: Option<&Retries>, hashes: bool) -> Self {
        let Some(retries) = retries else { return Self::unset(hashes) };
        let default = Self::unset(hashes);
        Self {
            attempts: retries.attempts,
            per_try_timeout: retries.per_try_timeout.map(crate::resource::value::Duration::get),
            on: if retries.retry_on.is_empty() { default.on } else { RetryOn::new(&retries.retry_on) },
            backoff: retries.backoff.map_or(BACKOFF, crate::resource::value::Duration::get),
            remote_localities: retries.retry_remote_localities.unwrap_or(false),
            ignore_previous_hosts: retries.retry_ignore_previous_hosts.unwrap_or(!hashes),
        }
    }

    /// What a route of the Gateway API says, and how long a try may take; `None` means as for [`RetryPolicy::new`]. Connections
    /// that fail, break or say nothing in time are tried again besides the statuses that it names.
    pub fn of_filter(retry: Option<&gateway_api::Retry>, per_try_timeout: Option<Duration>) -> Self {
        let unset = Self { per_try_timeout, ..Self::unset(false) };
        let Some(retry) = retry else { return unset };
        let failures = [Condition::ConnectFailure, Condition::RefusedStream, Condition::Reset];
        let statuses = retry.codes.iter().map(|code| Condition::Status(*code));
        Self {
            attempts: retry.attempts.map_or(unset.attempts, std::num::NonZeroU32::get),
            on: RetryOn::new(&failures.into_iter().chain(statuses).collect::<Vec<_>>()),
            backoff: retry.backoff.map_or(unset.backoff, gateway_api::Duration::get),
            ..unset
        }
    }

    /// What holds where nobody says anything.
    fn unset(hashes: bool) -> Self {
        Self {
            attempts: Retries::UNSET,
            per_try_timeout: None,
            on: RetryOn::default(),
            backoff: BACKOFF,
            remote_localities: false,
            ignore_previous_hosts: !hashes,
        }
    }

    /// How long a try may take if the whole request has `remaining`.
    pub fn try_timeout(&self, remaining: Option<Duration>) -> Option<Duration> {
        match (self.per_try_timeout, remaining) {
            (Some(per_try), Some(remaining)) => Some(per_try.min(remaining)),
            (per_try, remaining) => per_try.or(remaining),
        }
    }

    /// How long to wait before another try when there were `tries`, the first one included: by lot, up to a limit that
    /// doubles with each try and ends at ten times [`Self::backoff`].
    pub fn backoff(&self, tries: u32, seed: u64) -> Duration {
        let doublings = tries.saturating_sub(1).min(4);
        let limit = self.backoff.saturating_mul(1 << doublings).min(self.backoff.saturating_mul(10));
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let lot = (u128::from(crate::balance::mix(seed)) * u128::from(nanos)) >> 64;
        Duration::from_nanos(u64::try_from(lot).expect("is below a u64"))
    }
}

/// Whether to try again after the `tries`-th try, the first one being 1. The circuit breaker has to be asked as well.
pub fn should_retry(
    policy: &RetryPolicy,
    attempt: &Attempt,
    tries: u32,
    request: Request,
    seed: u64,
) -> RetryDecision {
    let wanted = match attempt {
        Attempt::Answer(answer) => policy.on.wants_answer(answer),
        Attempt::Failed(failure) => policy.on.wants_failure(*failure, request),
    };
    let reason = if !wanted {
        Reason::NotWanted
    } else if request.answered {
        Reason::Answered
    } else if request.body == Body::Consumed {
        Reason::Consumed
    } else if tries > policy.attempts {
        Reason::Exhausted
    } else {
        return RetryDecision::Retry(policy.backoff(tries, seed));
    };
    RetryDecision::Give(reason)
}

impl RecentRequests {
    /// None so far.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, began: now, current: 0, previous: 0 }
    }

    /// One more.
    pub fn add(&mut self, now: Instant) {
        self.turn(now);
        self.current = self.current.saturating_add(1);
    }

    /// How many there were in the interval before `now`: all of the current one, and of the one before the part that still
    /// counts, as if it had been even.
    pub fn count(&mut self, now: Instant) -> u32 {
        self.turn(now);
        let age = now.saturating_duration_since(self.began).as_nanos();
        let all = self.interval.as_nanos().max(1);
        let left = u128::from(self.previous) * all.saturating_sub(age) / all;
        self.current.saturating_add(u32::try_from(left).unwrap_or(u32::MAX))
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.began);
        if age < self.interval {
            return;
        }
        let just_over = age < self.interval.saturating_mul(2);
        self.previous = if just_over { self.current } else { 0 };
        self.began = if just_over { self.began + self.interval } else { now };
        self.current = 0;
    }
}

/// Before the second try, Envoy's.
const BACKOFF: Duration = Duration::from_millis(25);

/// Statuses in a rule.
type Statuses = Arc<[u16]>;

#[cfg(test)]
mod tests;
