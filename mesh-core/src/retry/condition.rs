//! What counts as failed.

use super::{Answer, Failure, Request, Statuses};
use crate::resource::networking::virtual_service::RetryOn as Condition;
use crate::resource::value::Refusal;

/// What counts as failed, as a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOn {
    /// One bit for each condition.
    conditions: u32,
    /// Of real answers. Naming one implies `retriable-status-codes`.
    statuses: Statuses,
}

impl Default for RetryOn {
    /// Where the user names nothing.
    fn default() -> Self {
        Self::new(&Condition::DEFAULT)
    }
}

impl RetryOn {
    /// Those of a list.
    pub fn new(conditions: &[Condition]) -> Self {
        let status = |condition: &Condition| match condition {
            Condition::Status(status) => Some(*status),
            _ => None,
        };
        let statuses = conditions.iter().filter_map(status).collect();
        Self { conditions: conditions.iter().fold(0, |set, condition| set | bit(*condition)), statuses }
    }

    /// Reads Istio's notation, a list with commas; the empty text is the default.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        Condition::parse_list(text)
            .map(|list| if list.is_empty() { Self::default() } else { Self::new(&list) })
    }

    /// Whether `condition` is among them; a status only if it is named.
    pub fn contains(&self, condition: Condition) -> bool {
        match condition {
            Condition::Status(status) => self.statuses.contains(&status),
            other => self.has(other),
        }
    }

    pub(super) fn wants_answer(&self, answer: &Answer) -> bool {
        // Somebody's limit is not to be hit again by whoever did not ask for it.
        if answer.rate_limited {
            return self.has(Condition::RateLimited);
        }
        let status = answer.status;
        (self.has(Condition::FiveXx) && (500..600).contains(&status))
            || (self.has(Condition::GatewayError) && matches!(status, 502..=504))
            || (self.has(Condition::Retriable4xx) && status == 409)
            || self.statuses.contains(&status)
            || (self.has(Condition::RetriableHeaders) && answer.retriable_header)
            || answer.grpc_status.is_some_and(|status| self.wants_grpc(status))
    }

    pub(super) fn wants_failure(&self, failure: Failure, request: Request) -> bool {
        let connect = self.has(Condition::ConnectFailure);
        let before_request = self.has(Condition::ResetBeforeRequest) && !request.sent;
        // Answers that never come are 503 or 504 for the client.
        let any = [Condition::Reset, Condition::FiveXx, Condition::GatewayError];
        let any = before_request || any.into_iter().any(|condition| self.has(condition));
        match failure {
            Failure::Overflow | Failure::NoEndpoint => false,
            Failure::Connect => connect || any,
            Failure::Refused => self.has(Condition::RefusedStream) || any,
            // RFC 9110, 9.2.2: where it cannot do harm, it is as if there had been no connection.
            Failure::Stale => (connect && (request.idempotent || !request.sent)) || any,
            Failure::Reset | Failure::PerTryTimeout => any,
        }
    }

    fn wants_grpc(&self, status: u32) -> bool {
        match status {
            1 => self.has(Condition::Cancelled),
            4 => self.has(Condition::DeadlineExceeded),
            8 => self.has(Condition::ResourceExhausted),
            13 => self.has(Condition::Internal),
            14 => self.has(Condition::Unavailable),
            _ => false,
        }
    }

    fn has(&self, condition: Condition) -> bool {
        self.conditions & bit(condition) != 0
    }
}

fn bit(condition: Condition) -> u32 {
    let number = match condition {
        Condition::FiveXx => 0,
        Condition::GatewayError => 1,
        Condition::Reset => 2,
        Condition::ResetBeforeRequest => 3,
        Condition::ConnectFailure => 4,
        Condition::Retriable4xx => 5,
        Condition::RefusedStream => 6,
        Condition::RetriableStatusCodes | Condition::Status(_) => 7,
        Condition::RetriableHeaders => 8,
        Condition::RateLimited => 9,
        Condition::Http3PostConnectFailure => 10,
        Condition::Cancelled => 11,
        Condition::DeadlineExceeded => 12,
        Condition::Internal => 13,
        Condition::ResourceExhausted => 14,
        Condition::Unavailable => 15,
    };
    1 << number
}
