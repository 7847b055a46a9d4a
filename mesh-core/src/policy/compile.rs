//! Policy resources → [`Policy`], one at a time. Which workloads a policy is for is decided where workloads are.

use std::collections::BTreeMap;
use std::sync::Arc;

use self::authorization::RuleCompiler;
pub(crate) use self::peer_authentication::{Inherited, mutual_tls};
use super::PolicyName;
pub(crate) use super::matcher::TrustDomains;
use super::rule::{Effect, Policy, Scope};
use crate::model::Report;
use crate::resource::Object;
use crate::resource::security::{Action, AuthorizationPolicySpec, WorkloadSelector};

mod authorization;
mod peer_authentication;

/// The name that decisions give for an object.
pub(crate) fn name_of(object: &Object) -> Arc<PolicyName> {
    Arc::new(PolicyName {
        namespace: Arc::clone(&object.meta.namespace),
        name: Arc::clone(&object.meta.name),
    })
}

/// The labels that a selector asks for, unless it selects everything.
pub(crate) fn labels(selector: Option<&WorkloadSelector>) -> Option<&BTreeMap<String, String>> {
    selector.map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
}

/// Compiles an AuthorizationPolicy; `None` if it is none for workloads. Policies of `root_namespace` apply
/// everywhere.
pub(crate) fn authorization(
    object: &Object,
    spec: &AuthorizationPolicySpec,
    (root_namespace, trust_domains): (&str, TrustDomains<'_>),
    report: &mut Report,
) -> Option<Policy> {
    if has_targets(spec) {
        let reason = "policies with targetRefs are enforced by waypoints and gateways, not by nodes";
        let hint = "use a selector to protect the workloads of services that are bound to none";
        report.warning_with_hint(object, "spec.targetRefs", reason, hint);
        // What there is to say about its rules is the same wherever they are in force.
        targeted(object, spec, trust_domains, report);
        return None;
    }
    let effect = effect(object, spec, report);
    let scope = match labels(spec.selector.as_ref()) {
        Some(_) => Scope::Listed,
        None if *object.meta.namespace == *root_namespace => Scope::Mesh,
        None => Scope::Namespace,
    };
    Some(compiled((object, spec), (effect, scope), trust_domains, report))
}

/// Whether a policy names what it is for.
pub(crate) fn has_targets(spec: &AuthorizationPolicySpec) -> bool {
    spec.target_ref.is_some() || !spec.target_refs.is_empty()
}

/// Compiles an AuthorizationPolicy that has targets. No workload lists it.
pub(crate) fn targeted(
    object: &Object,
    spec: &AuthorizationPolicySpec,
    trust_domains: TrustDomains<'_>,
    report: &mut Report,
) -> Policy {
    let effect = effect(object, spec, report);
    compiled((object, spec), (effect, Scope::Listed), trust_domains, report)
}

fn compiled(
    (object, spec): (&Object, &AuthorizationPolicySpec),
    (effect, scope): (Effect, Scope),
    trust_domains: TrustDomains<'_>,
    report: &mut Report,
) -> Policy {
    let dry_run = is_dry_run(object, effect, report);
    let mut compiler = RuleCompiler::new(object, effect, trust_domains, report);
    let rules =
        spec.rules.iter().enumerate().filter_map(|(index, rule)| compiler.rule(index, rule)).collect();
    let selector = labels(spec.selector.as_ref()).cloned().map(Arc::new);
    let provider = spec.provider.as_ref().filter(|_| effect == Effect::Custom);
    let provider = provider.map(|provider| provider.name.as_str().into());
    Policy { name: name_of(object), effect, dry_run, scope, selector, provider, rules }
}

fn effect(object: &Object, spec: &AuthorizationPolicySpec, report: &mut Report) -> Effect {
    let effect = match spec.action {
        Action::Allow => Effect::Allow,
        Action::Deny => Effect::Deny,
        Action::Custom => {
            let reason = "external authorizers are not supported yet: what the rules match is denied";
            report.warning(object, "spec.action", reason);
            Effect::Custom
        }
        Action::Audit => Effect::Audit,
    };
    if effect != Effect::Allow && spec.rules.is_empty() {
        report.warning(object, "spec.rules", "without rules the policy never matches");
    }
    effect
}

fn is_dry_run(object: &Object, effect: Effect, report: &mut Report) -> bool {
    let Some(value) = object.meta.annotations.get(DRY_RUN) else {
        return false;
    };
    let field = format!("metadata.annotations.{DRY_RUN}");
    match value.as_str() {
        // What Go's `strconv.ParseBool` takes, because Istio reads it with that.
        "1" | "t" | "T" | "true" | "TRUE" | "True" if matches!(effect, Effect::Custom | Effect::Audit) => {
            report.warning(object, field, "is for ALLOW and DENY only, and has no meaning here");
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

/// Asks for a policy to be noted and not enforced.
pub(crate) const DRY_RUN: &str = "istio.io/dry-run";
