//! PeerAuthentication and AuthorizationPolicy: the checks of Istio's schemas and of its validating webhook.

use std::collections::BTreeMap;

use super::super::Meta;
use super::super::security::{
    Action, AuthorizationPolicySpec, Condition, Operation, PeerAuthenticationSpec, PolicyTargetReference,
    Rule, Source, WorkloadSelector,
};
use super::super::strict::did_you_mean;
use super::super::tree::quote;
use super::{Report, child, is_dns_label};

pub(super) fn peer_authentication(spec: &PeerAuthenticationSpec, report: &mut Report<'_>) {
    if let Some(selector) = &spec.selector {
        self::selector(selector, report);
    }
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    if !spec.port_level_mtls.is_empty() && !selects {
        let reason = "needs a selector: ports are those of a workload, not of a namespace";
        report.error_with("spec.portLevelMtls", reason, "add spec.selector.matchLabels");
    }
    if spec.port_level_mtls.contains_key(&0) {
        report.error("spec.portLevelMtls.0", "port 0 is not between 1 and 65535");
    }
}

pub(super) fn authorization_policy(spec: &AuthorizationPolicySpec, meta: &Meta, report: &mut Report<'_>) {
    targets(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, meta, report);
    let action = match spec.action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Audit => "AUDIT",
        Action::Custom => "CUSTOM",
    };
    if matches!(spec.action, Action::Deny | Action::Custom) && spec.rules.is_empty() {
        let reason = format!("a {action} policy without rules would never match");
        report.error_with(
            "spec.rules",
            reason,
            format!("write \"rules: [{{}}]\" to make {action} match everything"),
        );
    }
    let provider = spec.provider.as_ref().map(|provider| provider.name.as_str());
    match (spec.action, provider) {
        (Action::Custom, None) => report.error("spec.provider.name", "required for CUSTOM, but missing"),
        (_, Some("")) => report.error("spec.provider.name", "required, but missing"),
        (Action::Custom, Some(_)) | (_, None) => {}
        (_, Some(_)) => report.error("spec.provider", format!("is for CUSTOM policies, this is {action}")),
    }
    at_most(512, "spec.rules", spec.rules.len(), report);
    for (index, rule) in spec.rules.iter().enumerate() {
        self::rule(&format!("spec.rules[{index}]"), rule, report);
    }
}

/// `action` is that of an AuthorizationPolicy, the only kind that can be tried out.
pub(super) fn annotations(meta: &Meta, action: Option<Action>, report: &mut Report<'_>) {
    if let Some(value) = meta.annotations.get(DRY_RUN) {
        let field = child("metadata.annotations", DRY_RUN);
        if !matches!(action, Some(Action::Allow | Action::Deny)) {
            report.error(field, "is only for ALLOW and DENY policies of kind AuthorizationPolicy");
        } else if !BOOLEANS.contains(&value.as_str()) {
            report.error_with(
                field,
                format!("{} is not a boolean", quote(value)),
                "write \"true\" or \"false\"",
            );
        }
    }
    for key in meta.annotations.keys().filter(|key| key.starts_with("internal.istio.io/")) {
        report.error(child("metadata.annotations", key), "is reserved for internal use");
    }
}

pub(super) fn selector(selector: &WorkloadSelector, report: &mut Report<'_>) {
    if selector.match_labels.is_empty() {
        let hint = "remove the selector if all workloads are meant";
        report.warning_with("spec.selector", "a selector without labels selects every workload", hint);
    }
    match_labels("spec.selector.matchLabels", &selector.match_labels, report);
}

/// Labels that a selector asks for.
pub(super) fn match_labels(field: &str, labels: &BTreeMap<String, String>, report: &mut Report<'_>) {
    for (key, value) in labels {
        if key.is_empty() {
            report.error(child(field, key), "a label key must not be empty");
        } else if key.contains('*') || value.contains('*') {
            report.error(child(field, key), "labels are compared for equality; there are no wildcards");
        } else {
            super::labels(field, [(key, value)], report);
        }
    }
}

/// What a policy is for: the three ways to say so exclude each other.
pub(super) fn targets(
    selector: Option<&WorkloadSelector>,
    target_ref: Option<&PolicyTargetReference>,
    target_refs: &[PolicyTargetReference],
    meta: &Meta,
    report: &mut Report<'_>,
) {
    let present =
        [selector.is_some(), target_ref.is_some(), !target_refs.is_empty()].into_iter().filter(|is| *is);
    if present.count() > 1 {
        report.error("spec", "only one of selector, targetRef and targetRefs may be given");
    }
    if let Some(selector) = selector {
        self::selector(selector, report);
    }
    if let Some(target) = target_ref {
        self::target("spec.targetRef", target, meta, report);
    }
    at_most(16, "spec.targetRefs", target_refs.len(), report);
    for (index, target) in target_refs.iter().enumerate() {
        self::target(&format!("spec.targetRefs[{index}]"), target, meta, report);
    }
}

fn target(field: &str, target: &PolicyTargetReference, meta: &Meta, report: &mut Report<'_>) {
    if target.name.is_empty() {
        report.error(format_args!("{field}.name"), "required, but missing");
    }
    let known = [
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "GatewayClass"),
        ("", "Service"),
        ("networking.istio.io", "ServiceEntry"),
    ];
    let group = if target.group == "core" { "" } else { target.group.as_str() };
    if target.kind.is_empty() {
        report.error(format_args!("{field}.kind"), "required, but missing");
    } else if !known.contains(&(group, target.kind.as_str())) {
        let reason =
            format!("a policy cannot attach to {} of group {}", quote(&target.kind), quote(&target.group));
        let expected = known.iter().find(|(_, kind)| *kind == target.kind);
        match expected {
            Some((group, _)) => {
                report.error_with(format_args!("{field}.group"), reason, format!("group is {group:?}"));
            }
            None => report.error_with(
                format_args!("{field}.kind"),
                reason,
                "one of Gateway, GatewayClass, Service, ServiceEntry",
            ),
        }
    }
    let elsewhere = target.namespace.as_deref().filter(|ns| !ns.is_empty() && **ns != *meta.namespace);
    if elsewhere.is_some() {
        report.error(format_args!("{field}.namespace"), "a policy cannot attach to another namespace");
    }
}

fn rule(field: &str, rule: &Rule, report: &mut Report<'_>) {
    at_most(512, &format!("{field}.from"), rule.from.len(), report);
    for (index, from) in rule.from.iter().enumerate() {
        source(&format!("{field}.from[{index}].source"), &from.source, report);
    }
    for (index, to) in rule.to.iter().enumerate() {
        operation(&format!("{field}.to[{index}].operation"), &to.operation, report);
    }
    for (index, when) in rule.when.iter().enumerate() {
        condition(&format!("{field}.when[{index}]"), when, report);
    }
}

fn source(field: &str, source: &Source, report: &mut Report<'_>) {
    if *source == Source::default() {
        let hint = "remove the entry, or use principals: [\"*\"] for any authenticated peer";
        report.error_with(field, "must restrict something", hint);
    }
    let texts = [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
    ];
    for (name, values) in texts {
        patterns(field, name, values, report);
    }
    let blocks = [
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ];
    for (name, values) in blocks {
        for (index, value) in values.iter().enumerate() {
            report.block(format_args!("{field}.{name}[{index}]"), value);
        }
    }
    for (name, values) in [("principals", &source.principals), ("notPrincipals", &source.not_principals)] {
        for (index, value) in values.iter().enumerate().filter(|(_, value)| value.starts_with("spiffe://")) {
            let hint = format!("write {}", quote(value.trim_start_matches("spiffe://")));
            let reason = "never matches: principals are compared without spiffe://";
            report.warning_with(format_args!("{field}.{name}[{index}]"), reason, hint);
        }
    }
    service_accounts(field, source, report);
}

fn service_accounts(field: &str, source: &Source, report: &mut Report<'_>) {
    let lists =
        [("serviceAccounts", &source.service_accounts), ("notServiceAccounts", &source.not_service_accounts)];
    for (name, values) in lists {
        at_most(16, &format!("{field}.{name}"), values.len(), report);
        for (index, value) in values.iter().enumerate() {
            let (namespace, account) = value.split_once('/').unwrap_or(("x", value));
            let valid =
                is_dns_label(namespace) && account.len() <= 253 && account.split('.').all(is_dns_label);
            if !valid {
                let reason = format!("{} is not a service account", quote(value));
                let hint = "write NAMESPACE/NAME or NAME; there are no wildcards";
                report.error_with(format_args!("{field}.{name}[{index}]"), reason, hint);
            }
        }
    }
    let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
    let others = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
    if accounts && others.into_iter().any(|list| !list.is_empty()) {
        report.error(field, "serviceAccounts cannot be combined with principals or namespaces");
    }
}

fn operation(field: &str, operation: &Operation, report: &mut Report<'_>) {
    if *operation == Operation::default() {
        report.error_with(field, "must restrict something", "remove the entry to match every operation");
    }
    let texts = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
    ];
    for (name, values) in texts {
        patterns(field, name, values, report);
    }
    // Path templates have stars of their own.
    for (name, values) in [("paths", &operation.paths), ("notPaths", &operation.not_paths)] {
        let literal: Vec<String> =
            values.iter().map(|path| path.replace("{*}", "").replace("{**}", "")).collect();
        for (index, (value, literal)) in values.iter().zip(&literal).enumerate() {
            if value.is_empty() || literal.is_empty() == value.is_empty() {
                pattern(&format!("{field}.{name}[{index}]"), literal, report);
            }
        }
    }
    for (name, values) in [("ports", &operation.ports), ("notPorts", &operation.not_ports)] {
        for (index, value) in values.iter().enumerate() {
            port(&format!("{field}.{name}[{index}]"), value, report);
        }
    }
}

fn condition(field: &str, condition: &Condition, report: &mut Report<'_>) {
    let key = condition.key.as_str();
    if key.is_empty() {
        return report.error(format_args!("{field}.key"), "required, but missing");
    }
    let bracketed =
        |name: &str| key.strip_prefix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with(']'));
    let known = KEYS.contains(&key)
        || bracketed("request.headers[")
        || bracketed("request.auth.claims[")
        || key.starts_with("experimental.envoy.filters.");
    if !known {
        let hint = did_you_mean(key, KEYS).unwrap_or_else(|| {
            format!("one of {}, request.headers[NAME], request.auth.claims[NAME]", KEYS.join(", "))
        });
        report.error_with(format_args!("{field}.key"), format!("unknown attribute {}", quote(key)), hint);
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        report.error(field, "values or notValues is required");
    }
    for (name, values) in [("values", &condition.values), ("notValues", &condition.not_values)] {
        for (index, value) in values.iter().enumerate() {
            let field = format!("{field}.{name}[{index}]");
            match key {
                "source.ip" | "remote.ip" | "destination.ip" => report.block(field, value),
                "destination.port" => port(&field, value, report),
                _ => pattern(&field, value, report),
            }
        }
    }
}

/// Ports of rules are strings, and exact.
fn port(field: &str, value: &str, report: &mut Report<'_>) {
    let number =
        value.parse::<u16>().ok().filter(|port| *port > 0 && value.bytes().all(|b| b.is_ascii_digit()));
    if number.is_none() {
        report.error(field, format!("{} is not a port between 1 and 65535", quote(value)));
    }
}

fn patterns(field: &str, name: &str, values: &[String], report: &mut Report<'_>) {
    for (index, value) in values.iter().enumerate() {
        pattern(&format!("{field}.{name}[{index}]"), value, report);
    }
}

/// Exact, `prefix*`, `*suffix` or `*`.
fn pattern(field: &str, value: &str, report: &mut Report<'_>) {
    let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
    if value.is_empty() {
        report.error(field, "must not be empty");
    } else if inner.contains('*') {
        let hint = "write prefix*, *suffix or *";
        report.warning_with(
            field,
            format!("a second or inner * in {} is an ordinary character", quote(value)),
            hint,
        );
    }
}

pub(super) fn at_most(limit: usize, field: &str, count: usize, report: &mut Report<'_>) {
    if count > limit {
        report.error(field, format!("has {count} entries, the limit is {limit}"));
    }
}

/// Asks for a policy's outcome to be shown but not enforced.
const DRY_RUN: &str = "istio.io/dry-run";
/// What Go's `strconv.ParseBool`, and so Istio, reads as a boolean.
const BOOLEANS: &[&str] = &["1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"];
/// Attributes of `when` without a parameter.
const KEYS: &[&str] = &[
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.serviceAccount",
    "source.trustDomain",
    "source.principal",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
];
