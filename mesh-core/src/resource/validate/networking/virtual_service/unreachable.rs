//! Rules that can never be used because an earlier one takes all they ask for. They stay legal, as in Istio, but say so.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::ops::Bound;

use super::super::super::super::networking::virtual_service::{HttpMatch, HttpRoute, TcpRoute, TlsRoute};
use super::super::super::super::tree::{Path, quote};
use super::super::super::super::value::StringMatch;
use super::Report;

pub(super) fn http(path: Path<'_>, routes: &[HttpRoute], report: &mut Report<'_>) {
    let mut seen = Seen::default();
    let mut prefixes = Prefixes::default();
    for (index, route) in routes.iter().enumerate() {
        let anonymous = |request: &HttpMatch| HttpMatch { name: String::new(), ..request.clone() };
        let requests: Vec<_> = route.matches.iter().map(anonymous).collect();
        if !seen.route(path, index, &requests, report) {
            continue;
        }
        for (number, request) in route.matches.iter().enumerate() {
            if let Some((other, prefix)) = prefixes.covering(request) {
                let reason = format!("never used: rule {other} takes all of prefix {} first", quote(prefix));
                report.warning(path.at(index).key("match").at(number), reason);
            }
        }
        for request in &route.matches {
            prefixes.insert(request, index);
        }
    }
}

pub(super) fn tls(path: Path<'_>, routes: &[TlsRoute], report: &mut Report<'_>) {
    let mut seen = Seen::default();
    for (index, route) in routes.iter().enumerate() {
        seen.route(path, index, &route.matches, report);
    }
}

pub(super) fn tcp(path: Path<'_>, routes: &[TcpRoute], report: &mut Report<'_>) {
    let mut seen = Seen::default();
    for (index, route) in routes.iter().enumerate() {
        seen.route(path, index, &route.matches, report);
    }
}

/// What earlier rules ask for.
#[derive(Default)]
struct Seen {
    /// The first rule without conditions.
    catch_all: Option<usize>,
    /// The rule that first asked for something; two conditions are the same if they are shown the same.
    conditions: HashMap<String, usize>,
}

impl Seen {
    /// Takes note of a rule; `false` if it has been said that it is never used.
    fn route<M: Debug>(
        &mut self,
        path: Path<'_>,
        index: usize,
        matches: &[M],
        report: &mut Report<'_>,
    ) -> bool {
        if let Some(other) = self.catch_all {
            let reason = format!("never used: rule {other} has no match and takes everything");
            report.warning_with(path.at(index), reason, "move the rule without match to the end");
            return false;
        }
        if matches.is_empty() {
            self.catch_all = Some(index);
        }
        let mut used = matches.is_empty();
        for (number, condition) in matches.iter().enumerate() {
            match self.conditions.entry(format!("{condition:?}")) {
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(index);
                    used = true;
                }
                std::collections::hash_map::Entry::Occupied(entry) => {
                    let reason = format!("never used: rule {} asks for the same first", entry.get());
                    report.warning(path.at(index).key("match").at(number), reason);
                }
            }
        }
        used
    }
}

/// Prefixes of paths that earlier rules take whole. None of them begins with another, so the last one that is not
/// behind a path is the only one that can be its prefix.
#[derive(Default)]
struct Prefixes<'a>(BTreeMap<&'a str, usize>);

impl<'a> Prefixes<'a> {
    /// The rule, and its prefix, that takes all that `request` asks for.
    fn covering(&self, request: &HttpMatch) -> Option<(usize, &'a str)> {
        let path = match &request.uri {
            Some(StringMatch::Exact(path) | StringMatch::Prefix(path)) if !request.ignore_uri_case => {
                path.as_str()
            }
            _ => return None,
        };
        // The same once more is found by comparison.
        self.covers(path).filter(|(_, prefix)| *prefix != path || !request.is_only_about_uri())
    }

    fn insert(&mut self, request: &'a HttpMatch, rule: usize) {
        match &request.uri {
            Some(StringMatch::Prefix(prefix))
                if request.is_only_about_uri()
                    && !request.ignore_uri_case
                    && self.covers(prefix).is_none() =>
            {
                // A shorter prefix takes over from those that begin with it.
                let longer = self
                    .0
                    .range(prefix.as_str()..)
                    .take_while(|(other, _)| other.starts_with(prefix.as_str()));
                for other in longer.map(|(other, _)| *other).collect::<Vec<_>>() {
                    self.0.remove(other);
                }
                self.0.insert(prefix, rule);
            }
            _ => {}
        }
    }

    fn covers(&self, path: &str) -> Option<(usize, &'a str)> {
        let (prefix, rule) = self.0.range::<str, _>((Bound::Unbounded, Bound::Included(path))).next_back()?;
        path.starts_with(prefix).then_some((*rule, *prefix))
    }
}
