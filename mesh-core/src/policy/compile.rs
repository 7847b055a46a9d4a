//! Policy resources → [`PolicySet`]: every policy is compiled once, then every workload gets the list of those that
//! apply to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use self::authorization::RuleCompiler;
use self::peer_authentication::Modes;
use super::matcher::TrustDomains;
use super::rule::{Effect, Effective, Policy};
use super::{PolicyName, PolicySet};
use crate::id::TrustDomain;
use crate::model::{Report, SelectorIndex, Workload};
use crate::resource::security::{Action, AuthorizationPolicySpec, WorkloadSelector};
use crate::resource::{Object, Spec};

mod authorization;
mod peer_authentication;

/// What policies are compiled from.
pub(crate) struct PolicyInput<'a> {
    /// `PeerAuthentications` and `AuthorizationPolicies`; others are passed over.
    pub(crate) objects: &'a [&'a Object],
    /// All workloads that decisions will be asked for.
    pub(crate) workloads: &'a [Arc<Workload>],
    /// Policies of this namespace apply everywhere.
    pub(crate) root_namespace: &'a str,
    /// The mesh's own trust domain.
    pub(crate) trust_domain: &'a TrustDomain,
    /// Its other names.
    pub(crate) trust_domain_aliases: &'a [TrustDomain],
}

impl PolicySet {
    /// Compiles a set that is loaded.
    pub(crate) fn compile(input: &PolicyInput<'_>, report: &mut Report) -> Self {
        let authorization = Authorization::compile(input, report);
        let modes = Modes::compile(input, report);
        let mut shared: HashMap<_, Arc<Effective>> = HashMap::new();
        let mut by_workload = HashMap::with_capacity(input.workloads.len());
        for workload in input.workloads {
            let key = (authorization.applying_to(workload), modes.applying_to(workload));
            let effective = shared.entry(key).or_insert_with_key(|(indices, levels)| {
                Arc::new(authorization.effective(indices, modes.resolve(*levels)))
            });
            by_workload.insert(Arc::clone(&workload.uid), Arc::clone(effective));
        }
        Self { loaded: true, policies: authorization.policies, by_workload }
    }
}

/// The name that decisions give for an object.
fn name_of(object: &Object) -> Arc<PolicyName> {
    Arc::new(PolicyName {
        namespace: Arc::clone(&object.meta.namespace),
        name: Arc::clone(&object.meta.name),
    })
}

/// The labels that a selector asks for, unless it selects everything.
fn labels(selector: Option<&WorkloadSelector>) -> Option<&BTreeMap<String, String>> {
    selector.map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
}

/// All `AuthorizationPolicies`, and where they apply.
struct Authorization<'a> {
    /// In order of precedence and name; everything else refers to them by index.
    policies: Vec<Arc<Policy>>,
    /// Without a selector, by namespace; [`EVERYWHERE`] for the root namespace's.
    by_namespace: HashMap<&'a str, Vec<usize>>,
    by_selector: SelectorIndex<'a>,
}

impl<'a> Authorization<'a> {
    fn compile(input: &PolicyInput<'a>, report: &mut Report) -> Self {
        let mut compiled: Vec<_> = input
            .objects
            .iter()
            .filter_map(|object| match &object.spec {
                Spec::AuthorizationPolicy(spec) => {
                    Some((compile_policy(object, spec, input, report)?, *object, spec))
                }
                _ => None,
            })
            .collect();
        compiled.sort_by(|(a, ..), (b, ..)| (a.effect, &a.name).cmp(&(b.effect, &b.name)));
        let mut by_namespace: HashMap<_, Vec<_>> = HashMap::new();
        let mut by_selector = SelectorIndex::default();
        for (index, (_, object, spec)) in compiled.iter().enumerate() {
            let namespace = &*object.meta.namespace;
            let namespace = if namespace == input.root_namespace { EVERYWHERE } else { namespace };
            match labels(spec.selector.as_ref()) {
                Some(labels) => by_selector.insert(namespace, labels, index),
                None => by_namespace.entry(namespace).or_default().push(index),
            }
        }
        let policies = compiled.into_iter().map(|(policy, ..)| Arc::new(policy)).collect();
        Self { policies, by_namespace, by_selector }
    }

    /// Indices of the policies that apply to `workload`, ascending.
    fn applying_to(&self, workload: &Workload) -> Vec<usize> {
        let mut indices = Vec::new();
        for namespace in [EVERYWHERE, &workload.namespace] {
            indices.extend(self.by_namespace.get(namespace).into_iter().flatten());
            indices.extend(self.by_selector.matching(namespace, &workload.labels));
        }
        indices.sort_unstable();
        indices
    }

    fn effective(&self, indices: &[usize], mutual_tls: super::rule::MutualTls) -> Effective {
        let select = |denies: bool, dry_run: bool| {
            let policies = indices.iter().filter_map(|index| self.policies.get(*index));
            let wanted = policies.filter(|p| (p.effect != Effect::Allow) == denies && p.dry_run == dry_run);
            wanted.map(Arc::clone).collect()
        };
        Effective {
            mutual_tls,
            deny: select(true, false),
            allow: select(false, false),
            dry_run_deny: select(true, true),
            dry_run_allow: select(false, true),
        }
    }
}

/// `None` if the policy takes no part in decisions.
fn compile_policy(
    object: &Object,
    spec: &AuthorizationPolicySpec,
    input: &PolicyInput<'_>,
    report: &mut Report,
) -> Option<Policy> {
    if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
        let reason =
            "policies with targetRefs are for waypoints and gateways and are not enforced by the node";
        report.warning_with_hint(
            object,
            "spec.targetRefs",
            reason,
            "use a selector to protect the workloads",
        );
        return None;
    }
    let effect = match spec.action {
        Action::Allow => Effect::Allow,
        Action::Deny => Effect::Deny,
        Action::Custom => {
            let reason = "external authorizers are not supported yet: what the rules match is denied";
            report.warning(object, "spec.action", reason);
            Effect::Custom
        }
        Action::Audit => {
            report.warning(object, "spec.action", "AUDIT is not recorded yet and changes no decision");
            return None;
        }
    };
    if effect != Effect::Allow && spec.rules.is_empty() {
        report.warning(object, "spec.rules", "without rules the policy never matches");
    }
    let trust_domains = TrustDomains { own: input.trust_domain, aliases: input.trust_domain_aliases };
    let dry_run = is_dry_run(object, effect, report);
    let mut compiler = RuleCompiler::new(object, effect, trust_domains, report);
    let rules =
        spec.rules.iter().enumerate().filter_map(|(index, rule)| compiler.rule(index, rule)).collect();
    Some(Policy { name: name_of(object), effect, dry_run, rules })
}

fn is_dry_run(object: &Object, effect: Effect, report: &mut Report) -> bool {
    let Some(value) = object.meta.annotations.get(DRY_RUN) else {
        return false;
    };
    let field = format!("metadata.annotations.{DRY_RUN}");
    match value.as_str() {
        // What Go's `strconv.ParseBool` takes, because Istio reads it with that.
        "1" | "t" | "T" | "true" | "TRUE" | "True" if effect == Effect::Custom => {
            report.warning(object, field, "has no meaning for CUSTOM; the policy is enforced");
            false
        }
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => {
            report.warning(object, field, "is neither \"true\" nor \"false\"; the policy is enforced");
            false
        }
    }
}

/// No namespace has an empty name.
const EVERYWHERE: &str = "";
const DRY_RUN: &str = "istio.io/dry-run";
