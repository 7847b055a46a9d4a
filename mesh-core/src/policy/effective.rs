//! What applies to one workload, one waypoint or one gateway, and what it comes to.

use std::sync::{Arc, OnceLock};

use serde::Serialize;

use super::index::Index;
use super::permit::MAX_NAMED;
use super::request::{Seen, Truth};
use super::rule::{Attributes, Effect, Policy, Rule};
use super::{Decision, Denied, DeniedBy, External, Notes, PolicyName};

/// Policies in the order in which they are asked.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct List {
    #[serde(serialize_with = "names")]
    policies: Vec<Arc<Policy>>,
    /// Made when it is needed first.
    #[serde(skip)]
    index: OnceLock<(Index, Vec<(usize, usize)>)>,
}

/// Everything that applies to one workload.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Effective {
    /// A policy that applies, but was not received yet. Nobody knows what it refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<Arc<PolicyName>>,
    pub(super) mutual_tls: List,
    pub(super) custom: List,
    pub(super) deny: List,
    pub(super) allow: List,
    pub(super) audit: List,
    pub(super) dry_run_deny: List,
    pub(super) dry_run_allow: List,
}

/// What a list has to say.
struct Found<'a> {
    /// The first rule that matches for certain, with its policy.
    hit: Option<(&'a Arc<Policy>, usize)>,
    /// Whether another one may.
    open: bool,
}

impl Effective {
    /// Of policies that apply, sorted by effect and name.
    pub(super) fn of(all: &[&Arc<Policy>]) -> Self {
        let select = |effects: &[Effect], dry_run: bool| {
            let wanted = all.iter().filter(|p| effects.contains(&p.effect) && p.dry_run == dry_run);
            List { policies: wanted.map(|policy| Arc::clone(policy)).collect(), index: OnceLock::new() }
        };
        Self {
            missing: None,
            mutual_tls: select(&[Effect::MutualTls], false),
            custom: select(&[Effect::Custom], false),
            deny: select(&[Effect::Deny], false),
            allow: select(&[Effect::Allow], false),
            audit: select(&[Effect::Audit], false),
            dry_run_deny: select(&[Effect::Custom, Effect::Deny], true),
            dry_run_allow: select(&[Effect::Allow], true),
        }
    }

    /// Whether there is nothing to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_none() && self.lists().iter().all(|list| list.policies.is_empty())
    }

    /// Whether anything is noted of what is allowed.
    pub(super) fn notes(&self) -> bool {
        [&self.audit, &self.dry_run_deny, &self.dry_run_allow].iter().any(|list| !list.policies.is_empty())
    }

    /// Each policy, in the order in which they are asked.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.lists().into_iter().flat_map(|list| &list.policies)
    }

    fn lists(&self) -> [&List; 7] {
        let Self { missing: _, mutual_tls, custom, deny, allow, audit, dry_run_deny, dry_run_allow } = self;
        [mutual_tls, custom, deny, allow, audit, dry_run_deny, dry_run_allow]
    }

    /// Decides. `approved` are the external authorizers that have been asked about just this, and have nothing against it.
    pub(super) fn decide(&self, a: &Attributes<'_>, approved: &[Arc<str>]) -> Decision<Notes> {
        match self.enforce(a, approved) {
            Decision::Allowed(by) => self.note(a, by),
            other => other.map(|_| Notes::default()),
        }
    }

    /// What is allowed comes with the policy that has allowed it.
    fn enforce(&self, a: &Attributes<'_>, approved: &[Arc<str>]) -> Decision<Option<&Arc<PolicyName>>> {
        let denied = |by: DeniedBy| Decision::Denied(Denied::from(by));
        let by = |(policy, rule): (&Arc<Policy>, usize)| DeniedBy::Policy {
            policy: Arc::clone(&policy.name),
            rule,
        };
        if let Some(policy) = &self.missing {
            return denied(DeniedBy::PolicyMissing { policy: Arc::clone(policy) });
        }
        if let Some((policy, _)) = self.mutual_tls.find(a).hit {
            return denied(DeniedBy::MutualTls { policy: Arc::clone(&policy.name) });
        }
        let custom = self.custom.find_unless(a, |policy| policy.is_approved(approved));
        match custom.hit {
            // Whom to ask about what, only the request tells.
            Some(_) if matches!(a.seen, Seen::Nothing) => {}
            Some((policy, rule)) => {
                return External::of(policy, rule)
                    .map_or(denied(by((policy, rule))), Decision::NeedsExternal);
            }
            None => {}
        }
        let deny = self.deny.find(a);
        if let Some(hit) = deny.hit {
            return denied(by(hit));
        }
        let allow = self.allow.find(a);
        let allowed = self.allow.policies.is_empty() || allow.hit.is_some();
        if !allowed && !allow.open {
            let names = self.allow.policies.iter().take(MAX_NAMED).map(|policy| Arc::clone(&policy.name));
            let (applied, policies) = (self.allow.policies.len(), names.collect());
            return denied(DeniedBy::NoAllowMatched { applied, policies });
        }
        if !allowed || deny.open || custom.open || custom.hit.is_some() {
            return Decision::NeedsRequest;
        }
        Decision::Allowed(allow.hit.map(|(policy, _)| &policy.name))
    }

    /// What there is to note of something that is allowed.
    fn note(&self, a: &Attributes<'_>, allowed_by: Option<&Arc<PolicyName>>) -> Decision<Notes> {
        let allowed_by = allowed_by.cloned();
        if !self.notes() {
            return Decision::Allowed(Notes { allowed_by, ..Notes::default() });
        }
        let (audit, deny, allow) =
            (self.audit.find(a), self.dry_run_deny.find(a), self.dry_run_allow.find(a));
        if audit.open || deny.open || allow.open {
            return Decision::NeedsRequest;
        }
        // Where ALLOW policies are enforced one has matched already, and another one would only allow more.
        let tried = self.dry_run_allow.policies.first();
        let tried = tried.filter(|_| self.allow.policies.is_empty() && allow.hit.is_none());
        let would_deny = deny.hit.map(|(policy, _)| policy).or(tried);
        let name = |policy: &Arc<Policy>| Arc::clone(&policy.name);
        Decision::Allowed(Notes {
            allowed_by,
            would_be_denied: would_deny.map(name),
            audited: audit.hit.map(|(policy, _)| name(policy)),
        })
    }
}

impl Policy {
    fn is_approved(&self, approved: &[Arc<str>]) -> bool {
        self.provider.as_ref().is_some_and(|provider| approved.contains(provider))
    }
}

impl List {
    fn find(&self, attributes: &Attributes<'_>) -> Found<'_> {
        self.find_unless(attributes, |_| false)
    }

    fn find_unless(&self, attributes: &Attributes<'_>, skip: impl Fn(&Policy) -> bool) -> Found<'_> {
        if let Some(found) = self.find_listed(attributes, &skip) {
            return found;
        }
        let mut open = false;
        for policy in self.policies.iter().filter(|policy| !skip(policy)) {
            for rule in &policy.rules {
                match rule.matches(attributes, policy.effect) {
                    Truth::Yes => return Found { hit: Some((policy, rule.index)), open },
                    Truth::Open => open = true,
                    Truth::No => {}
                }
            }
        }
        Found { hit: None, open }
    }
}

impl List {
    /// Finds what matches a request, if there are so many rules that looking it up is worth it.
    fn find_listed(&self, attributes: &Attributes<'_>, skip: &impl Fn(&Policy) -> bool) -> Option<Found<'_>> {
        if !matches!(attributes.seen, Seen::Request(_)) || !self.is_long() {
            return None;
        }
        let (index, places) = self.index.get_or_init(|| {
            let rules = || {
                self.policies
                    .iter()
                    .enumerate()
                    .flat_map(|(at, it)| it.rules.iter().map(move |rule| (at, rule)))
            };
            let mut before = 0;
            let starts = self.policies.iter().map(|policy| {
                let start = before;
                before += policy.rules.len();
                start
            });
            let starts: Vec<_> = starts.collect();
            let places = rules()
                .enumerate()
                .map(|(number, (at, _))| (at, number - starts.get(at).copied().unwrap_or(0)));
            (Index::of(rules().map(|(_, rule)| rule)), places.collect())
        });
        let mut first = None;
        for number in index
            .candidates(attributes)?
            .into_iter()
            .filter_map(|list| self.first(list, (places, attributes, skip)))
        {
            first = Some(first.map_or(number, |known: usize| known.min(number)));
        }
        let hit = first.and_then(|number| self.rule(*places.get(number)?));
        Some(Found { hit: hit.map(|(policy, rule)| (policy, rule.index)), open: false })
    }

    /// The first of a list of rules that matches.
    fn first(
        &self,
        list: &[usize],
        (places, attributes, skip): (&[(usize, usize)], &Attributes<'_>, &impl Fn(&Policy) -> bool),
    ) -> Option<usize> {
        list.iter().copied().find(|number| {
            let found = places.get(*number).and_then(|place| self.rule(*place));
            found.is_some_and(|(policy, rule)| {
                !skip(policy) && rule.matches(attributes, policy.effect) == Truth::Yes
            })
        })
    }

    fn rule(&self, (policy, rule): (usize, usize)) -> Option<(&Arc<Policy>, &Rule)> {
        let policy = self.policies.get(policy)?;
        Some((policy, policy.rules.get(rule)?))
    }

    fn is_long(&self) -> bool {
        self.policies.len() >= LONG
            || self.policies.iter().map(|policy| policy.rules.len()).sum::<usize>() >= LONG
    }
}

impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.policies == other.policies
    }
}

impl Eq for List {}

/// A dump has every policy once; workloads refer to it.
fn names<S: serde::Serializer>(policies: &[Arc<Policy>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(policies.iter().map(|policy| &policy.name))
}

/// Rules from which on they are looked up, and not tried one by one. Tests try both ways.
const LONG: usize = if cfg!(test) { 2 } else { 8 };
