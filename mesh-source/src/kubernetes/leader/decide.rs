//! What to do about a Lease: a function of what was seen, who asks and when.
//!
//! Whether a Lease has run out is judged by our own clock, from the moment at which we first saw its present version:
//! the times written in it are the holder's, whose clock may be wrong by hours.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

use super::Candidate;

/// A Lease as it was seen, or that there is none.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    lease: Option<Lease>,
    /// When its present version was first seen.
    since: Instant,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Somebody else holds it.
    Wait,
    /// There is none: make it.
    Create(Lease),
    /// Renew it, or take it over. Names the version it is based on, so that it fails if that is not the present one.
    Replace(Lease),
}

/// What to do about `observed`. `now` is our clock, `wall` what is written down.
pub(super) fn decide(observed: &Observed, candidate: &Candidate, now: Instant, wall: Timestamp) -> Action {
    let Some(lease) = &observed.lease else {
        let metadata = ObjectMeta {
            name: Some(candidate.name.clone()),
            namespace: Some(candidate.namespace.clone()),
            ..ObjectMeta::default()
        };
        let spec = held_by(candidate, &LeaseSpec::default(), wall);
        return Action::Create(Lease { metadata, spec: Some(spec) });
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let free = observed.holder().is_empty() || observed.has_run_out(now);
    if observed.holder() != candidate.identity && !free {
        return Action::Wait;
    }
    let spec = Some(held_by(candidate, &spec, wall));
    Action::Replace(Lease { metadata: lease.metadata.clone(), spec })
}

impl Observed {
    /// What is seen now, after what was seen before.
    pub(super) fn next(before: Option<Self>, lease: Option<Lease>, now: Instant) -> Self {
        let version =
            |lease: &Option<Lease>| lease.as_ref().and_then(|it| it.metadata.resource_version.clone());
        match before {
            Some(before) if before.lease.is_some() && version(&before.lease) == version(&lease) => before,
            _ => Self { lease, since: now },
        }
    }

    /// Empty if nobody holds it.
    pub(super) fn holder(&self) -> &str {
        let spec = self.lease.as_ref().and_then(|lease| lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
    }

    /// The Lease without a holder, if `candidate` holds it. It runs out at once, for those who only look at times.
    pub(super) fn release(&self, candidate: &Candidate, wall: Timestamp) -> Option<Lease> {
        let mut lease = self.lease.clone().filter(|_| self.holder() == candidate.identity)?;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(wall));
        Some(lease)
    }

    fn has_run_out(&self, now: Instant) -> bool {
        let spec = self.lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let seconds = u64::try_from(seconds).unwrap_or_default();
        now.duration_since(self.since) >= Duration::from_secs(seconds)
    }
}

/// A Lease's content once `candidate` holds it.
fn held_by(candidate: &Candidate, before: &LeaseSpec, wall: Timestamp) -> LeaseSpec {
    let renewed = before.holder_identity.as_deref() == Some(candidate.identity.as_str());
    let seconds = i32::try_from(candidate.terms.lease.as_secs()).unwrap_or(i32::MAX);
    let changes = before.lease_transitions.unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(candidate.identity.clone()),
        lease_duration_seconds: Some(seconds.max(1)),
        acquire_time: if renewed { before.acquire_time.clone() } else { Some(MicroTime(wall)) },
        renew_time: Some(MicroTime(wall)),
        lease_transitions: Some(if renewed { changes } else { changes.saturating_add(1) }),
        ..before.clone()
    }
}

#[cfg(test)]
mod tests;
