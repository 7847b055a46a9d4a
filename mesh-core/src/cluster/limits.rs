//! Circuit breakers: how much may be under way to a service at a time.
//!
//! One [`Admission`] is shared by all data threads. Counting is exact, so a limit of 1 means 1, on however many threads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::RetryBudget;

/// How much may be under way at a time; `u32::MAX` means any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections to all endpoints together.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests, whatever the version of HTTP.
    pub requests: u32,
    /// Requests that are retries.
    pub retries: u32,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A connection.
    Connection,
    /// A request that waits for a connection.
    Pending,
    /// A request, from its beginning to the end of its answer.
    Request,
    /// A retry, from the decision to the end of its answer.
    Retry,
}

/// A limit is reached: 503, response flag `UO`, and header `x-envoy-overloaded`. Names the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Overflow(pub Resource);

/// Counts what is under way to a service, and refuses what would be too much.
#[derive(Debug)]
pub struct Admission {
    connections: Counter,
    pending: Counter,
    requests: Counter,
    retries: Counter,
}

/// Leave for one [`Resource`]; dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping it gives the leave back"]
pub struct Ticket {
    admission: Arc<Admission>,
    resource: Resource,
}

#[derive(Debug)]
struct Counter {
    limit: AtomicU32,
    current: AtomicU32,
}

impl Default for Limits {
    /// None.
    fn default() -> Self {
        Self { connections: u32::MAX, pending: u32::MAX, requests: u32::MAX, retries: u32::MAX }
    }
}

impl Admission {
    /// Nothing is under way.
    pub fn new(limits: Limits) -> Self {
        let counter = |limit| Counter { limit: AtomicU32::new(limit), current: AtomicU32::new(0) };
        Self {
            connections: counter(limits.connections),
            pending: counter(limits.pending),
            requests: counter(limits.requests),
            retries: counter(limits.retries),
        }
    }

    /// Changes the limits. What is under way stays, even if it is too much.
    pub fn set_limits(&self, limits: Limits) {
        let all = [
            (&self.connections, limits.connections),
            (&self.pending, limits.pending),
            (&self.requests, limits.requests),
            (&self.retries, limits.retries),
        ];
        all.into_iter().for_each(|(counter, limit)| counter.limit.store(limit, Ordering::Relaxed));
    }

    /// One more of `resource`, if there may be one more. [`Self::release`] must follow; [`Self::ticket`] sees to that.
    pub fn acquire(&self, resource: Resource) -> Result<(), Overflow> {
        let counter = self.counter(resource);
        counter.acquire(counter.limit.load(Ordering::Relaxed)).ok_or(Overflow(resource))
    }

    /// One more retry. A budget counts instead of the limit: a share of the requests that are under way or wait, or of
    /// `recent`, those that [`RetryBudget::interval`] has seen, if these are more.
    pub fn acquire_retry(&self, budget: Option<&RetryBudget>, recent: u32) -> Result<(), Overflow> {
        let Some(budget) = budget else { return self.acquire(Resource::Retry) };
        let active = self.current(Resource::Request).saturating_add(self.current(Resource::Pending));
        self.retries.acquire(budget.limit(active.max(recent))).ok_or(Overflow(Resource::Retry))
    }

    /// One less of `resource`, of which there is at least one.
    pub fn release(&self, resource: Resource) {
        let previous = self.counter(resource).current.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(previous > 0, "{resource:?} was given back more often than it was taken");
    }

    /// As [`Self::acquire`], and given back when the ticket is dropped.
    pub fn ticket(self: &Arc<Self>, resource: Resource) -> Result<Ticket, Overflow> {
        self.acquire(resource)?;
        Ok(Ticket { admission: Arc::clone(self), resource })
    }

    /// As [`Self::acquire_retry`], and given back when the ticket is dropped.
    pub fn retry_ticket(
        self: &Arc<Self>,
        budget: Option<&RetryBudget>,
        recent: u32,
    ) -> Result<Ticket, Overflow> {
        self.acquire_retry(budget, recent)?;
        Ok(Ticket { admission: Arc::clone(self), resource: Resource::Retry })
    }

    /// How much of `resource` is under way.
    pub fn current(&self, resource: Resource) -> u32 {
        self.counter(resource).current.load(Ordering::Relaxed)
    }

    /// Whether the limit of `resource` is reached.
    pub fn is_open(&self, resource: Resource) -> bool {
        self.current(resource) >= self.counter(resource).limit.load(Ordering::Relaxed)
    }

    fn counter(&self, resource: Resource) -> &Counter {
        match resource {
            Resource::Connection => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Request => &self.requests,
            Resource::Retry => &self.retries,
        }
    }
}

impl Counter {
    fn acquire(&self, limit: u32) -> Option<()> {
        let more = |current: u32| Some(current + 1).filter(|_| current < limit);
        self.current.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok().map(|_| ())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.release(self.resource);
    }
}

impl Resource {
    /// As metrics and logs call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connections",
            Self::Pending => "pending_requests",
            Self::Request => "requests",
            Self::Retry => "retries",
        }
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limit of {} is reached", self.0.as_str())
    }
}

impl std::error::Error for Overflow {}

#[cfg(test)]
mod tests;
