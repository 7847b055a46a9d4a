//! When a request is tried again.

use std::time::Duration;

use crate::resource::networking::virtual_service::{Retries, RetryOn};
use crate::resource::value;

/// When and how a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first; never 0.
    pub attempts: u32,
    /// For each try; without it only the timeout of the rule counts.
    pub per_try_timeout: Option<Duration>,
    /// Whether a try may go to another locality.
    pub remote_localities: bool,
    /// Whether a try goes to another endpoint than those before, as far as there is one. Absent means yes, but no where
    /// the destination is chosen by consistent hashing.
    pub avoid_previous: Option<bool>,
    /// Wait before the second try, doubled for every further one.
    pub backoff: Duration,
    /// A bit for each [`RetryOn`] that is no status.
    conditions: u32,
    /// With `retriable-status-codes`.
    statuses: Vec<u16>,
}

/// How a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection.
    Connect,
    /// The HTTP/2 peer did not begin with it.
    RefusedStream,
    /// The connection was lost before anything of the request was sent.
    ResetBeforeRequest,
    /// There was no complete head of an answer, for another reason.
    Reset,
    /// The try took too long.
    TryTimeout,
    /// An answer came.
    Answer {
        /// Its status.
        status: u16,
        /// `grpc-status` of its head, if it is one of gRPC without a body.
        grpc_status: Option<u8>,
        /// Whether it says that a limit was hit, in `x-envoy-ratelimited`.
        rate_limited: bool,
    },
}

impl RetryPolicy {
    /// `None` where nothing is tried again. A rule that says nothing has the default of Istio: twice, when there was no
    /// connection, the stream was refused, or gRPC says unavailable or cancelled. A 503 is not among them: it may
    /// come from the destination, which may have acted.
    pub(super) fn of(retries: Option<&Retries>) -> Option<Self> {
        let Some(retries) = retries else { return Some(Self::default()) };
        let given = Some(retries.retry_on.as_slice()).filter(|given| !given.is_empty());
        let on = given.unwrap_or(&RetryOn::DEFAULT);
        let statuses: Vec<u16> = on.iter().filter_map(|on| status(*on)).collect();
        Some(Self {
            attempts: Some(retries.attempts).filter(|attempts| *attempts > 0)?,
            per_try_timeout: retries.per_try_timeout.map(value::Duration::get),
            remote_localities: retries.retry_remote_localities.unwrap_or_default(),
            avoid_previous: retries.retry_ignore_previous_hosts,
            backoff: retries.backoff.map_or(BACKOFF, value::Duration::get),
            conditions: bits(on),
            statuses,
        })
    }

    /// Whether `condition` counts as failed.
    pub fn is_on(&self, condition: RetryOn) -> bool {
        match condition {
            RetryOn::Status(status) => self.statuses.contains(&status),
            condition => self.conditions & bit(condition) != 0,
        }
    }

    /// Statuses of answers that count as failed, besides those that the conditions name.
    pub fn statuses(&self) -> &[u16] {
        &self.statuses
    }

    /// Whether a try that failed in this way is followed by another, if there is one left.
    pub fn covers(&self, failure: Failure) -> bool {
        let any = |conditions: &[RetryOn]| conditions.iter().any(|condition| self.is_on(*condition));
        let no_answer = || any(&[RetryOn::FiveXx, RetryOn::GatewayError, RetryOn::Reset]);
        match failure {
            Failure::Connect => no_answer() || any(&[RetryOn::ConnectFailure, RetryOn::ResetBeforeRequest]),
            Failure::RefusedStream => no_answer() || any(&[RetryOn::RefusedStream]),
            Failure::ResetBeforeRequest => no_answer() || any(&[RetryOn::ResetBeforeRequest]),
            // A try that took too long is reset by the proxy.
            Failure::Reset | Failure::TryTimeout => no_answer(),
            Failure::Answer { status, grpc_status, rate_limited } => {
                self.covers_status(status)
                    || grpc_status.and_then(of_grpc).is_some_and(|condition| self.is_on(condition))
                    || (rate_limited && self.is_on(RetryOn::RateLimited))
            }
        }
    }

    fn covers_status(&self, status: u16) -> bool {
        self.statuses.contains(&status)
            || match status {
                502..=504 => self.is_on(RetryOn::FiveXx) || self.is_on(RetryOn::GatewayError),
                500..=599 => self.is_on(RetryOn::FiveXx),
                409 => self.is_on(RetryOn::Retriable4xx),
                _ => false,
            }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: Retries::UNSET,
            per_try_timeout: None,
            remote_localities: false,
            avoid_previous: None,
            backoff: BACKOFF,
            conditions: bits(&RetryOn::DEFAULT),
            statuses: Vec::new(),
        }
    }
}

fn bits(conditions: &[RetryOn]) -> u32 {
    conditions.iter().fold(0, |bits, condition| bits | bit(*condition))
}

fn bit(condition: RetryOn) -> u32 {
    1 << match condition {
        RetryOn::FiveXx => 0,
        RetryOn::GatewayError => 1,
        RetryOn::Reset => 2,
        RetryOn::ResetBeforeRequest => 3,
        RetryOn::ConnectFailure => 4,
        RetryOn::Retriable4xx => 5,
        RetryOn::RefusedStream => 6,
        // A status is one of these.
        RetryOn::RetriableStatusCodes | RetryOn::Status(_) => 7,
        RetryOn::RetriableHeaders => 8,
        RetryOn::RateLimited => 9,
        RetryOn::Http3PostConnectFailure => 10,
        RetryOn::Cancelled => 11,
        RetryOn::DeadlineExceeded => 12,
        RetryOn::Internal => 13,
        RetryOn::ResourceExhausted => 14,
        RetryOn::Unavailable => 15,
    }
}

fn status(condition: RetryOn) -> Option<u16> {
    match condition {
        RetryOn::Status(status) => Some(status),
        _ => None,
    }
}

fn of_grpc(status: u8) -> Option<RetryOn> {
    Some(match status {
        1 => RetryOn::Cancelled,
        4 => RetryOn::DeadlineExceeded,
        8 => RetryOn::ResourceExhausted,
        13 => RetryOn::Internal,
        14 => RetryOn::Unavailable,
        _ => return None,
    })
}

/// Istio's wait before the second try.
const BACKOFF: Duration = Duration::from_millis(25);
