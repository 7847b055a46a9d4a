//! Looks at all objects together for what no object alone can show: names that lead nowhere, rules that take each
//! other's place, selectors that select nothing. Messages carry Istio's codes.
//!
//! Invariants: nothing here changes what the mesh does. What follows only from another object having been refused is
//! not said a second time. Time grows with the number of objects and references, not with their product.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt;

pub use self::code::{Code, UnknownCode};
use self::index::Index;
use crate::resource::{Level, Object, ObjectKey, Origin, Parsed, one_line};

mod annotation;
mod backing;
mod claims;
mod code;
mod conflict;
mod credential;
mod deployment;
mod destination;
mod destination_rule;
mod exclusive;
mod gateway;
mod hosts;
mod index;
mod mesh_hosts;
mod namespace;
mod policy;
mod route;
mod schema;
mod selector;
mod service;
mod service_entry;
mod takeover;
mod virtual_service;
mod waypoint;
mod workloads;

/// What an analysis needs to know beside the objects.
#[derive(Debug, Clone)]
pub struct Options {
    /// Namespace of mesh-wide configuration.
    pub root_namespace: String,
    /// Whether every Secret of [`secrets`] that exists is among the objects, so that another one does not exist.
    pub secrets_are_complete: bool,
}

/// Something a user should know. `Display` is the line that tools print:
/// `FILE:DOC LEVEL [CODE] field.path: reason (hint)`, without the field where the whole document is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is about.
    pub code: Code,
    /// The object; `None` where a document could not be read that far, or holds several.
    pub key: Option<ObjectKey>,
    /// Where the object stands.
    pub origin: Origin,
    /// The path of the field, for example `spec.http[0].route[0].destination.host`; empty for the whole document.
    /// Of an object in a `List` it begins at the object.
    pub field: String,
    /// What is wrong, in one line.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Everything there is to say about `parsed`: what parsing has found wrong, and what the objects show together. By
/// file and document, the worst first; what an object's annotation `galley.istio.io/analyze-suppress` names is left out.
pub fn analyze(parsed: &Parsed, options: &Options) -> Vec<Message> {
    let index = Index::of(parsed, options);
    let mut messages = Vec::new();
    for (_, analyzer) in ANALYZERS {
        analyzer(&index, &mut messages);
    }
    schema::analyze(parsed, &mut messages);
    retain_wanted(&parsed.objects, &mut messages);
    messages.sort_by_cached_key(|it| (it.origin.clone(), Reverse(it.level()), it.code, it.field.clone()));
    messages.dedup();
    messages
}

/// The Secrets that an analysis of `parsed` would look at, be it that they exist or not.
pub fn secrets(parsed: &Parsed, options: &Options) -> BTreeSet<ObjectKey> {
    credential::secrets(&Index::of(parsed, options))
}

/// The names of all analyzers, as `meshctl analyze --list-analyzers` shows them.
pub fn analyzers() -> impl Iterator<Item = &'static str> {
    ANALYZERS.iter().map(|(name, _)| *name).chain(["schema"])
}

impl Message {
    /// How bad it is.
    pub fn level(&self) -> Level {
        self.code.level()
    }

    fn new(code: Code, object: &Object, field: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self {
            code,
            key: Some(object.key()),
            origin: object.origin.clone(),
            field: field.to_string(),
            reason: reason.into(),
            hint: None,
        }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [{}] ", self.origin, self.level(), self.code)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", one_line(&self.field))?;
        }
        f.write_str(&one_line(&self.reason))?;
        match &self.hint {
            Some(hint) => write!(f, " ({})", one_line(hint)),
            None => Ok(()),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { root_namespace: "istio-system".into(), secrets_are_complete: false }
    }
}

type Analyzer = fn(&Index<'_>, &mut Vec<Message>);

/// Takes out what users do not want to hear about an object.
fn retain_wanted(objects: &[Object], messages: &mut Vec<Message>) {
    let annotated = objects.iter().filter_map(|it| Some((it.key(), it.meta.annotations.get(SUPPRESS)?)));
    let unwanted: HashMap<ObjectKey, &String> = annotated.collect();
    messages.retain(|message| {
        let codes = message.key.as_ref().and_then(|key| unwanted.get(key));
        let is_unwanted = |code: &str| code == "*" || code.parse() == Ok(message.code);
        !codes.is_some_and(|codes| codes.split(',').map(str::trim).any(is_unwanted))
    });
}

/// Names codes, joined by commas, or `*` for all.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";

/// One row per analyzer, in no order that matters.
const ANALYZERS: &[(&str, Analyzer)] = &[
    ("annotation", annotation::analyze),
    ("credential", credential::analyze),
    ("deployment.services", deployment::analyze),
    ("destination", destination::analyze),
    ("destinationrule", destination_rule::analyze),
    ("exclusive", exclusive::analyze),
    ("gateway", gateway::analyze),
    ("namespace", namespace::analyze),
    ("policy", policy::analyze),
    ("route", route::analyze),
    ("selector", selector::analyze),
    ("service.ports", service::analyze),
    ("service.takeover", takeover::analyze),
    ("serviceentry", service_entry::analyze),
    ("virtualservice.claims", claims::analyze),
    ("virtualservice.gateways", virtual_service::analyze),
    ("virtualservice.meshhosts", mesh_hosts::analyze),
    ("waypoint", waypoint::analyze),
];

#[cfg(test)]
mod tests;
