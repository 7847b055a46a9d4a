//! What a request asks for beside its path.

use std::borrow::Cow;

use mesh_core::topology::{Edge, Level};

/// `?namespace=A,B&window=SECONDS&level=app|workload|namespace`; what is unknown is an error, so that a slip is noticed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// Empty for all.
    pub(super) namespaces: Vec<String>,
    /// Seconds.
    pub(super) window: u64,
    pub(super) level: Level,
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self { window: WINDOW, ..Self::default() };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| format!("{name} is not UTF-8"))?;
            match name {
                "namespace" => {
                    let names = value.split(',').filter(|name| !name.is_empty());
                    query.namespaces.extend(names.map(str::to_owned));
                }
                "window" => query.window = window(&value)?,
                "level" => query.level = level(&value)?,
                other => {
                    return Err(format!("{other} is not known: there are namespace, window and level"));
                }
            }
        }
        Ok(query)
    }

    pub(super) fn wants(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|wanted| wanted == namespace)
    }

    /// If either of its ends is wanted.
    pub(super) fn wants_edge(&self, edge: &Edge) -> bool {
        let parties = [edge.source.as_deref(), edge.destination.as_deref()].into_iter().flatten();
        let mut spaces = parties.map(|party| &party.namespace);
        let service = edge.service.as_deref().map(|service| &service.namespace);
        self.namespaces.is_empty()
            || spaces.any(|namespace| self.wants(namespace))
            || service.is_some_and(|namespace| self.wants(namespace))
    }
}

/// Percent-decoded; `None` if it is no text then.
pub(super) fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let decoded = if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        };
        bytes.push(decoded);
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn window(text: &str) -> Result<u64, String> {
    let seconds = text.parse().ok().filter(|seconds| (SHORTEST..=LONGEST).contains(seconds));
    seconds.ok_or_else(|| format!("window is a number of seconds from {SHORTEST} to {LONGEST}"))
}

fn level(text: &str) -> Result<Level, String> {
    match text {
        "app" => Ok(Level::App),
        "workload" => Ok(Level::Workload),
        "namespace" => Ok(Level::Namespace),
        _ => Err("level is app, workload or namespace".to_owned()),
    }
}

const WINDOW: u64 = 60;
const SHORTEST: u64 = 10;
const LONGEST: u64 = 3_600;
