//! What policies have said: counted by policy, and the last refusals in full for whoever looks at the node.

mod counts;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::policy::{Denied, DeniedBy, Notes};
use mesh_core::topology::{PolicyId, PolicyKind, Verdicts as Told};
use prometheus_client::encoding::DescriptorEncoder;
use serde::Serialize;

use super::Reporter;
use super::event::Event;
use super::metrics::counters;
use counts::Counts;

/// What a policy has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// One of its rules has allowed something.
    Allowed,
    /// It refused something.
    Denied,
    /// Something was refused because nothing in it has matched, nor in any other policy that allows.
    Unmatched,
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
    by_policy: Counts,
    recent: Mutex<VecDeque<Refusal>>,
}

impl Reporter {
    /// Counts a refusal, by its reason and by its policy, and keeps it for a while.
    pub fn denied(&self, denied: &Denied, refusal: Refusal) {
        self.count(Event::denied(&denied.by));
        let (kind, verdict) = match &denied.by {
            DeniedBy::MutualTls { .. } => (PolicyKind::PeerAuthentication, Verdict::Denied),
            DeniedBy::NoAllowMatched { .. } => (PolicyKind::AuthorizationPolicy, Verdict::Unmatched),
            _ => (PolicyKind::AuthorizationPolicy, Verdict::Denied),
        };
        denied.by.policies().iter().for_each(|policy| self.verdicts.by_policy.add(policy, kind, verdict));
        let mut recent = self.verdicts.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(refusal);
    }

    /// Counts what is to be noted of something that was allowed, and says it in the log.
    pub fn noted(&self, notes: &Notes, client: &dyn fmt::Display, to: &dyn fmt::Display) {
        let count =
            |policy, verdict| self.verdicts.by_policy.add(policy, PolicyKind::AuthorizationPolicy, verdict);
        if let Some(policy) = &notes.allowed_by {
            count(policy, Verdict::Allowed);
        }
        if let Some(policy) = &notes.would_be_denied {
            count(policy, Verdict::WouldDeny);
            tracing::info!(%policy, %client, %to, "A dry-run policy would deny.");
        }
        if let Some(policy) = &notes.audited {
            count(policy, Verdict::Audited);
            tracing::info!(%policy, %client, %to, "An AUDIT policy has matched.");
        }
    }

    /// What policies have come to since the start, those that are told apart.
    pub fn policies(&self) -> BTreeMap<PolicyId, Told> {
        let mut told: BTreeMap<PolicyId, Told> = BTreeMap::new();
        for ((policy, kind, verdict), count) in self.verdicts.by_policy.sums() {
            let (namespace, name) = (Arc::clone(&policy.namespace), Arc::clone(&policy.name));
            let sum = told.entry(PolicyId { kind, namespace, name }).or_default();
            match verdict {
                Verdict::Allowed => sum.allowed += count,
                Verdict::Denied | Verdict::Unmatched => sum.denied += count,
                Verdict::WouldDeny => sum.would_deny += count,
                Verdict::Audited => sum.audited += count,
            }
        }
        told
    }

    /// The last refusals, the oldest first: at most [`MAX_RECENT`].
    pub fn refusals(&self) -> Vec<Refusal> {
        self.verdicts.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Unmatched => "unmatched",
            Self::WouldDeny => "would_deny",
            Self::Audited => "audited",
        }
    }
}

impl Verdicts {
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums: BTreeMap<(String, &str), u64> = BTreeMap::new();
        for ((policy, _, verdict), count) in self.by_policy.sums() {
            *sums.entry((policy.to_string(), verdict.name())).or_default() += count;
        }
        let samples = sums.iter().map(|((policy, verdict), count)| {
            (vec![("policy", policy.as_str()), ("verdict", *verdict)], *count)
        });
        counters(encoder, "mesh_policy_verdicts", "What policies have allowed, refused, or noted", samples)
    }
}

/// Refusals that are kept.
const MAX_RECENT: usize = 100;

#[cfg(test)]
mod tests {
    use mesh_core::policy::PolicyName;

    use super::*;

    fn name(text: &str) -> Arc<PolicyName> {
        Arc::new(PolicyName { namespace: "n".into(), name: text.into() })
    }

    fn reporter() -> Arc<Reporter> {
        Reporter::new(crate::report::ReportOptions::default(), Box::new(std::io::sink())).unwrap()
    }

    fn refuse(reporter: &Reporter, by: DeniedBy) {
        let refusal = Refusal {
            time: String::new(),
            source: None,
            source_address: String::new(),
            destination: String::new(),
            request: None,
            reason: by.to_string(),
        };
        reporter.denied(&by.into(), refusal);
    }

    #[test]
    fn what_was_refused_counts_with_every_policy_that_is_to_blame() {
        let reporter = reporter();
        let policies = [name("a"), name("b")].into();
        refuse(&reporter, DeniedBy::NoAllowMatched { applied: 2, policies });
        refuse(&reporter, DeniedBy::Policy { policy: name("a"), rule: 0 });
        refuse(&reporter, DeniedBy::MutualTls { policy: name("a") });
        let notes = Notes { allowed_by: Some(name("b")), audited: Some(name("c")), ..Notes::default() };
        reporter.noted(&notes, &"client", &"server");
        let told = reporter.policies();
        let of = |kind, name: &str| told[&PolicyId { kind, namespace: "n".into(), name: name.into() }];
        let policy = PolicyKind::AuthorizationPolicy;
        assert_eq!(of(policy, "a"), Told { denied: 2, ..Told::default() });
        assert_eq!(of(policy, "b"), Told { denied: 1, allowed: 1, ..Told::default() });
        assert_eq!(of(policy, "c"), Told { audited: 1, ..Told::default() });
        let other = of(PolicyKind::PeerAuthentication, "a");
        assert_eq!(other, Told { denied: 1, ..Told::default() }, "another kind of the same name");
        let mut text = String::new();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Shown(Arc::clone(&reporter))));
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = "mesh_policy_verdicts_total{policy=\"n/a\",verdict=\"denied\"} 2";
        assert_eq!(text.matches("policy=\"n/a\",verdict=\"denied\"").count(), 1, "{text}");
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn policies_that_are_told_apart_are_bounded() {
        let reporter = reporter();
        for number in 0..counts::MAX_KEYS + 100 {
            refuse(&reporter, DeniedBy::Policy { policy: name(&number.to_string()), rule: 0 });
        }
        assert_eq!(reporter.policies().len(), counts::MAX_KEYS);
    }

    #[derive(Debug)]
    struct Shown(Arc<Reporter>);

    impl prometheus_client::collector::Collector for Shown {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            self.0.verdicts.encode(&mut encoder)
        }
    }
}
