//! RequestAuthentication: the checks of Istio's schema and of its validating webhook.

use std::collections::BTreeSet;

use super::super::Meta;
use super::super::request_authentication::{JwtRule, KeySource, RequestAuthenticationSpec};
use super::super::tree::quote;
use super::Report;
use super::security::{at_most, targets};

pub(super) fn request_authentication(spec: &RequestAuthenticationSpec, meta: &Meta, report: &mut Report<'_>) {
    targets(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, meta, report);
    at_most(4096, "spec.jwtRules", spec.jwt_rules.len(), report);
    for (index, rule) in spec.jwt_rules.iter().enumerate() {
        jwt_rule(&format!("spec.jwtRules[{index}]"), rule, report);
    }
}

fn jwt_rule(field: &str, rule: &JwtRule, report: &mut Report<'_>) {
    if rule.issuer.as_deref() == Some("") {
        report.error_with(
            format_args!("{field}.issuer"),
            "must not be empty",
            "remove it to take any issuer",
        );
    }
    keys(field, rule, report);
    locations(field, rule, report);
    let lists = [("audiences", &rule.audiences), ("spaceDelimitedClaims", &rule.space_delimited_claims)];
    for (name, values) in lists {
        not_empty(&format!("{field}.{name}"), values, report);
    }
    at_most(64, &format!("{field}.spaceDelimitedClaims"), rule.space_delimited_claims.len(), report);
    if let Some(header) = rule.output_payload_to_header.as_deref().filter(|header| !header.is_empty()) {
        header_name(&format!("{field}.outputPayloadToHeader"), header, report);
    }
    let mut headers = BTreeSet::new();
    for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
        let field = format!("{field}.outputClaimToHeaders[{index}]");
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if output.header.is_empty() || !output.header.bytes().all(word) {
            let reason = format!("{} is not a header name", quote(&output.header));
            report.error_with(format_args!("{field}.header"), reason, "letters, digits, - and _");
        } else if !headers.insert(output.header.to_ascii_lowercase()) {
            let reason = "an earlier claim goes to the same header, which this one replaces";
            report.warning(format_args!("{field}.header"), reason);
        }
        if output.claim.is_empty() {
            report.error(format_args!("{field}.claim"), "must not be empty");
        }
    }
}

fn keys(field: &str, rule: &JwtRule, report: &mut Report<'_>) {
    if rule.jwks.is_some() && rule.jwks_uri.is_some() {
        let reason = "only one of jwks and jwksUri may be given";
        return report.error(format_args!("{field}.jwksUri"), reason);
    }
    match rule.keys() {
        KeySource::Inline(text) => key_set(&format!("{field}.jwks"), text, report),
        KeySource::Url(url) => {
            let field = format!("{field}.jwksUri");
            if url.len() > 2048 {
                report.error(&field, format!("has {} characters, the limit is 2048", url.len()));
            }
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
            if host.is_none_or(|host| host.is_empty() || host.starts_with(':')) {
                let reason = format!("{} is not a URL of a key set", quote(url));
                report.error_with(field, reason, "write https://HOST/PATH");
            }
        }
        KeySource::Issuer(_) => {}
        KeySource::Nowhere => {
            let reason = "without jwks, jwksUri and issuer there are no keys: every token is refused";
            report.warning(field, reason);
        }
    }
}

/// A JSON Web Key Set, RFC 7517, of public keys.
fn key_set(field: &str, text: &str, report: &mut Report<'_>) {
    let keys = serde_json::from_str::<serde_json::Value>(text).ok();
    let Some(keys) = keys.as_ref().and_then(|set| set.get("keys")).and_then(|keys| keys.as_array()) else {
        let hint = "write JSON: {\"keys\": [...]}";
        return report.error_with(field, "is not a JSON Web Key Set", hint);
    };
    if keys.is_empty() {
        report.warning(field, "has no keys: every token is refused");
    }
    for (index, key) in keys.iter().enumerate() {
        if key.get("kty").and_then(|kind| kind.as_str()).is_none() {
            report.error(field, format!("key {index} has no kty"));
        }
        // A symmetric key is `k`, the private part of any other is `d`.
        if key.get("d").is_some() || key.get("k").is_some() {
            report.warning(field, format!("key {index} is secret: whoever may read this can sign tokens"));
        }
    }
}

fn locations(field: &str, rule: &JwtRule, report: &mut Report<'_>) {
    for (index, header) in rule.from_headers.iter().enumerate() {
        header_name(&format!("{field}.fromHeaders[{index}].name"), &header.name, report);
    }
    for (name, values) in [("fromParams", &rule.from_params), ("fromCookies", &rule.from_cookies)] {
        not_empty(&format!("{field}.{name}"), values, report);
    }
}

fn not_empty(field: &str, values: &[String], report: &mut Report<'_>) {
    for (index, _) in values.iter().enumerate().filter(|(_, value)| value.is_empty()) {
        report.error(format_args!("{field}[{index}]"), "must not be empty");
    }
}

/// A token of RFC 9110.
fn header_name(field: &str, name: &str, report: &mut Report<'_>) {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        report.error(field, format!("{} is not a header name", quote(name)));
    }
}
