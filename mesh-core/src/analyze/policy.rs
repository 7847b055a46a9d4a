//! What policies name: namespaces and targets.

use std::collections::HashMap;

use super::index::{Index, by_age};
use super::{Code, Message};
use crate::resource::security::{AuthorizationPolicySpec, PolicyTargetReference};
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for object in index.objects {
        if let Spec::AuthorizationPolicy(policy) = &object.spec {
            // Where no namespace is described, none is known not to exist.
            if !index.namespaces.is_empty() {
                namespaces(index, object, policy, messages);
            }
            let single = policy.target_ref.iter().map(|target| ("spec.targetRef".to_owned(), target));
            let several = policy.target_refs.iter().enumerate();
            let several = several.map(|(at, target)| (format!("spec.targetRefs[{at}]"), target));
            messages.extend(single.chain(several).filter_map(|target| self::target(index, object, target)));
        }
        let targets = match &object.spec {
            Spec::RateLimit(limit) => Some(&limit.target_refs),
            Spec::HealthCheck(check) => Some(&check.target_refs),
            _ => None,
        };
        if let Some(targets) = targets {
            let targets = targets.iter().enumerate();
            let targets = targets.map(|(at, target)| (format!("spec.targetRefs[{at}]"), target));
            messages.extend(targets.filter_map(|target| self::target(index, object, target)));
        }
    }
    checks(index, messages);
}

/// Of several `HealthChecks` for one service the oldest has the say.
fn checks(index: &Index<'_>, messages: &mut Vec<Message>) {
    let mut all: Vec<(&Object, &[PolicyTargetReference])> = index
        .objects
        .iter()
        .filter_map(|object| match &object.spec {
            Spec::HealthCheck(check) => Some((object, check.target_refs.as_slice())),
            _ => None,
        })
        .collect();
    by_age(&mut all);
    let mut owners: HashMap<(&str, &str, &str), &Object> = HashMap::new();
    for (object, targets) in all {
        for (at, target) in targets.iter().enumerate() {
            let owner =
                owners.entry((&*object.meta.namespace, &*target.kind, &*target.name)).or_insert(object);
            if owner.key() != object.key() {
                let reason = format!("has no effect: {} is for it as well, and has the say", owner.key());
                let field = format!("spec.targetRefs[{at}]");
                messages.push(Message::new(Code::IneffectivePolicy, object, field, reason));
            }
        }
    }
}

fn namespaces(
    index: &Index<'_>,
    object: &Object,
    policy: &AuthorizationPolicySpec,
    messages: &mut Vec<Message>,
) {
    for (at, rule) in policy.rules.iter().enumerate() {
        for (number, from) in rule.from.iter().enumerate() {
            let lists =
                [("namespaces", &from.source.namespaces), ("notNamespaces", &from.source.not_namespaces)];
            for (name, entries) in lists {
                for (entry, pattern) in entries.iter().enumerate().filter(|(_, it)| !is_known(index, it)) {
                    let field = format_args!("spec.rules[{at}].from[{number}].source.{name}[{entry}]");
                    let reason = format!("there is no namespace {}", quote(pattern));
                    messages.push(Message::new(Code::ReferencedResourceNotFound, object, field, reason));
                }
            }
        }
    }
}

/// Whether a pattern (`name`, `prefix*`, `*suffix` or `*`) stands for a namespace that there is or always is.
fn is_known(index: &Index<'_>, pattern: &str) -> bool {
    if pattern == "default" || index.is_system(pattern) || index.has_refused("Namespace") {
        return true;
    }
    let mut known = index.namespaces.keys();
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(suffix), _) => known.any(|name| name.ends_with(suffix)),
        (None, Some(prefix)) => known.any(|name| name.starts_with(prefix)),
        (None, None) => index.namespaces.contains_key(pattern) || index.workloads.any(Some(pattern)),
    }
}

fn target(
    index: &Index<'_>,
    object: &Object,
    (path, target): (String, &PolicyTargetReference),
) -> Option<Message> {
    let kind = match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => "Service",
        ("networking.istio.io", "ServiceEntry") => "ServiceEntry",
        (_, "Gateway") if matches!(object.spec, Spec::RateLimit(_)) => "KubernetesGateway",
        _ => return None,
    };
    let namespace = &*object.meta.namespace;
    if index.exists(kind, namespace, &target.name) {
        return None;
    }
    let kind = &target.kind;
    let reason = format!("there is no {kind} {}", quote(&format!("{namespace}/{}", target.name)));
    Some(Message::new(Code::ReferencedResourceNotFound, object, format_args!("{path}.name"), reason))
}
