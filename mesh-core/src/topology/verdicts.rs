//! What policies have come to.

use std::sync::Arc;

use serde::Serialize;

use super::float;
use super::timeline::Sum;

/// A policy that lets pass and refuses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// What it is.
    pub kind: PolicyKind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Which resource a policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// Of Istio, that name.
    AuthorizationPolicy,
    /// Of Istio, that name.
    PeerAuthentication,
}

/// What a policy has come to in some time: requests where they were looked at, connections elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// What its rules have allowed.
    pub allowed: u64,
    /// What its rules have refused, and what was refused because nothing in it nor in any other that allows has matched.
    pub denied: u64,
    /// What it would have refused if it were more than tried out.
    pub would_deny: u64,
    /// What it was to note.
    pub audited: u64,
}

/// What a policy has come to in one stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictPoint {
    /// When it begins, in seconds since 1970.
    pub at: u64,
    /// How long it is.
    pub seconds: u64,
    /// See [`Verdicts::allowed`].
    pub allowed_per_second: f64,
    /// See [`Verdicts::denied`].
    pub denied_per_second: f64,
    /// See [`Verdicts::would_deny`].
    pub would_deny_per_second: f64,
    /// See [`Verdicts::audited`].
    pub audited_per_second: f64,
}

impl PolicyKind {
    /// As resources have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
        }
    }

    /// The kind of that name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::AuthorizationPolicy, Self::PeerAuthentication].into_iter().find(|kind| kind.name() == name)
    }
}

impl Verdicts {
    /// Whether it has come to nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { allowed, denied, would_deny, audited } = *self;
        [allowed, denied, would_deny, audited].into_iter().fold(0, u64::saturating_add)
    }

    /// What it has come to since it stood at `earlier`; counters that have begun anew count from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let since = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now);
        Self {
            allowed: since(self.allowed, earlier.allowed),
            denied: since(self.denied, earlier.denied),
            would_deny: since(self.would_deny, earlier.would_deny),
            audited: since(self.audited, earlier.audited),
        }
    }
}

impl Sum for Verdicts {
    fn add(&mut self, more: &Self) {
        let add = |total: &mut u64, more: u64| *total = total.saturating_add(more);
        add(&mut self.allowed, more.allowed);
        add(&mut self.denied, more.denied);
        add(&mut self.would_deny, more.would_deny);
        add(&mut self.audited, more.audited);
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

impl VerdictPoint {
    pub(super) fn of(at: u64, seconds: u64, sum: &Verdicts) -> Self {
        let per_second = |count: u64| float(count) / float(seconds.max(1));
        Self {
            at,
            seconds,
            allowed_per_second: per_second(sum.allowed),
            denied_per_second: per_second(sum.denied),
            would_deny_per_second: per_second(sum.would_deny),
            audited_per_second: per_second(sum.audited),
        }
    }
}
