//! What policies have said: counted by policy, and the last refusals in full for whoever looks at the node.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::policy::{Denied, Notes, PolicyName};
use prometheus_client::encoding::DescriptorEncoder;
use serde::Serialize;

use super::Reporter;
use super::event::Event;
use super::metrics::counters;

/// What a policy has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It refused something.
    Denied,
    /// It would have, but is only tried out.
    WouldDeny,
    /// It was to be noted.
    Audited,
}

/// Something that was refused; for the owner of the mesh, never for the client.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// When, as RFC 3339 has it.
    pub time: String,
    /// The identity of the client, if it has proven any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The address of the client.
    pub source_address: String,
    /// The address that it wanted.
    pub destination: String,
    /// Method, host and path of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Which policy, and why.
    pub reason: String,
}

#[derive(Debug, Default)]
pub(super) struct Verdicts {
    by_policy: Mutex<BTreeMap<(Arc<PolicyName>, Verdict), u64>>,
    recent: Mutex<VecDeque<Refusal>>,
}

impl Reporter {
    /// Counts a refusal, by its reason and by its policy, and keeps it for a while.
    pub fn denied(&self, denied: &Denied, refusal: Refusal) {
        self.count(Event::denied(&denied.by));
        if let Some(policy) = denied.by.policy() {
            self.verdicts.count(policy, Verdict::Denied);
        }
        let mut recent = self.verdicts.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(refusal);
    }

    /// Counts what is to be noted of something that was allowed, and says it in the log.
    pub fn noted(&self, notes: &Notes, client: &dyn fmt::Display, to: &dyn fmt::Display) {
        if let Some(policy) = &notes.would_be_denied {
            self.verdicts.count(policy, Verdict::WouldDeny);
            tracing::info!(%policy, %client, %to, "A dry-run policy would deny.");
        }
        if let Some(policy) = &notes.audited {
            self.verdicts.count(policy, Verdict::Audited);
            tracing::info!(%policy, %client, %to, "An AUDIT policy has matched.");
        }
    }

    /// The last refusals, the oldest first: at most [`MAX_RECENT`].
    pub fn refusals(&self) -> Vec<Refusal> {
        self.verdicts.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::WouldDeny => "would_deny",
            Self::Audited => "audited",
        }
    }
}

impl Verdicts {
    fn count(&self, policy: &Arc<PolicyName>, verdict: Verdict) {
        let mut all = self.by_policy.lock().unwrap_or_else(PoisonError::into_inner);
        // Policies come and go; those beyond are in the totals.
        if let Some(count) = all.get_mut(&(Arc::clone(policy), verdict)) {
            *count += 1;
        } else if all.len() < MAX_POLICIES {
            all.insert((Arc::clone(policy), verdict), 1);
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all: Vec<_> = {
            let all = self.by_policy.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|((policy, verdict), count)| (policy.to_string(), *verdict, *count)).collect()
        };
        let samples = all.iter().map(|(policy, verdict, count)| {
            (vec![("policy", policy.as_str()), ("verdict", verdict.name())], *count)
        });
        counters(encoder, "mesh_policy_verdicts", "What policies have refused, or noted", samples)
    }
}

/// Refusals that are kept.
const MAX_RECENT: usize = 100;
/// Policies that are told apart in metrics, by verdict.
const MAX_POLICIES: usize = 1_000;
