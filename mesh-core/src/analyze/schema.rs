//! What parsing has found, under Istio's codes; and objects that are there twice.

use std::collections::{HashMap, HashSet};

use super::{Code, Message};
use crate::resource::networking::VirtualServiceSpec;
use crate::resource::{Level, Object, ObjectKey, Origin, Parsed, Spec, never_used};

/// Adds what parsing says. What `messages` say already under a code of its own is not said again.
pub(super) fn analyze(parsed: &Parsed, messages: &mut Vec<Message>) {
    let mut said: HashSet<(Origin, String)> = messages
        .iter()
        .filter(|message| message.code == Code::ServiceEntryAddressesRequired)
        .map(|message| (message.origin.clone(), message.field.clone()))
        .collect();
    for object in &parsed.objects {
        if let Spec::VirtualService(spec) = &object.spec {
            let fields = unreachable(object, spec, messages);
            said.extend(fields.into_iter().map(|field| (object.origin.clone(), field)));
        }
    }
    twice(&parsed.objects, messages);
    let keys = keys(parsed);
    for finding in &parsed.findings {
        let code = match finding.level {
            Level::Info => continue,
            Level::Warning => Code::SchemaWarning,
            Level::Error => Code::SchemaValidationError,
        };
        let field = (finding.origin.clone(), in_object(&finding.field).to_owned());
        if finding.level == Level::Warning && said.contains(&field) {
            continue;
        }
        messages.push(Message {
            code,
            key: keys.get(&finding.origin).cloned().flatten(),
            origin: finding.origin.clone(),
            field: finding.field.clone(),
            reason: finding.reason.clone(),
            hint: finding.hint.clone(),
        });
    }
}

/// Matches that earlier rules leave nothing to are ineffective, rules without any other unreachable. Returns the fields
/// that parsing has named.
fn unreachable(object: &Object, spec: &VirtualServiceSpec, messages: &mut Vec<Message>) -> Vec<String> {
    let problems = never_used(spec);
    let mut by_rule: HashMap<&str, Vec<_>> = HashMap::new();
    for problem in &problems {
        let rule = problem.0.split_once(".match[").map_or(problem.0.as_str(), |(rule, _)| rule);
        by_rule.entry(rule).or_default().push(problem);
    }
    let http =
        spec.http.iter().enumerate().map(|(at, rule)| (format!("spec.http[{at}]"), rule.matches.len()));
    let tls = spec.tls.iter().enumerate().map(|(at, rule)| (format!("spec.tls[{at}]"), rule.matches.len()));
    let tcp = spec.tcp.iter().enumerate().map(|(at, rule)| (format!("spec.tcp[{at}]"), rule.matches.len()));
    if problems.is_empty() {
        return Vec::new();
    }
    for (rule, matches) in http.chain(tls).chain(tcp) {
        let Some(found) = by_rule.get(rule.as_str()) else { continue };
        for (field, reason, hint) in found.iter().filter(|(field, ..)| *field != rule) {
            let message = Message::new(Code::VirtualServiceIneffectiveMatch, object, field, reason);
            messages.push(Message { hint: hint.clone(), ..message });
        }
        let whole = found.iter().find(|(field, ..)| *field == rule);
        let reason = match whole {
            Some((_, reason, _)) => reason.as_str(),
            None if found.len() == matches => "never used: earlier rules take all that its matches ask for",
            None => continue,
        };
        let message = Message::new(Code::VirtualServiceUnreachableRule, object, &rule, reason);
        messages.push(Message { hint: whole.and_then(|(.., hint)| hint.clone()), ..message });
    }
    problems.into_iter().map(|(field, ..)| field).collect()
}

/// Of two objects with one name only the first is used.
fn twice(objects: &[Object], messages: &mut Vec<Message>) {
    let mut first: HashMap<ObjectKey, &Origin> = HashMap::new();
    for object in objects {
        let key = object.key();
        match first.get(&key) {
            Some(origin) => {
                let reason = format!("{key} is already defined in {origin}");
                let message = Message::new(Code::SchemaValidationError, object, "metadata.name", reason);
                messages.push(message.hint("remove one of them: only the first counts"));
            }
            None => _ = first.insert(key, &object.origin),
        }
    }
}

/// Which object a document holds, if it holds one only.
fn keys(parsed: &Parsed) -> HashMap<Origin, Option<ObjectKey>> {
    let objects = parsed.objects.iter().map(|object| (&object.origin, Some(object.key())));
    let rejected = parsed.rejected.iter().map(|rejected| (&rejected.origin, rejected.key.clone()));
    let mut keys = HashMap::new();
    for (origin, key) in objects.chain(rejected) {
        keys.entry(origin.clone()).and_modify(|key| *key = None).or_insert(key);
    }
    keys
}

/// A field without its place in a `List`.
fn in_object(field: &str) -> &str {
    let mut rest = field;
    while let Some((_, after)) = rest.strip_prefix("items[").and_then(|item| item.split_once("].")) {
        rest = after;
    }
    rest
}
