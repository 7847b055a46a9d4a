//! Which rules of a list are worth a look for a request: most name somebody else, or paths that lie elsewhere.
//!
//! A rule is listed under the values of one thing that it cannot do without; a request finds those under its own values, and
//! the few that are listed under none. It only ever leaves out what does not match.

use std::collections::HashMap;

use super::matcher::StringMatch;
use super::request::Seen;
use super::rule::{Attributes, Clause, Group, Matcher, Rule};
use super::template::PathMatch;
use crate::id::SpiffeId;

/// Something that rules name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Axis {
    Principal,
    Namespace,
    /// The first segment of the path, where something comes behind it or nothing may.
    Segment,
}

/// The rules of a list, numbered in their order.
#[derive(Debug, Default)]
pub(super) struct Index {
    under: [HashMap<Box<str>, Vec<usize>>; AXES.len()],
    /// Under nothing.
    others: Vec<usize>,
}

impl Index {
    pub(super) fn of<'a>(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let keys: Vec<_> = rules.map(keys).collect();
        let mut counts: HashMap<(Axis, &str), usize> = HashMap::new();
        for (axis, values) in keys.iter().flatten() {
            values.iter().for_each(|value| *counts.entry((*axis, value)).or_default() += 1);
        }
        let crowd = |axis: Axis, values: &[Box<str>]| {
            values.iter().filter_map(|value| counts.get(&(axis, &**value))).max().copied().unwrap_or_default()
        };
        let mut index = Self::default();
        for (number, keys) in keys.iter().enumerate() {
            // Where the fewest others are.
            match keys.iter().min_by_key(|(axis, values)| crowd(*axis, values)) {
                None => index.others.push(number),
                Some((axis, values)) => index.put(number, *axis, values),
            }
        }
        index
    }

    fn put(&mut self, number: usize, axis: Axis, values: &[Box<str>]) {
        let Some(under) = self.under.get_mut(axis as usize) else { return };
        for value in values {
            let all = under.entry(value.clone()).or_default();
            // A rule may name one twice.
            if all.last() != Some(&number) {
                all.push(number);
            }
        }
    }

    /// The rules that may match a request, in order within each list. `None` for what is no request.
    pub(super) fn candidates<'a>(
        &'a self,
        attributes: &Attributes<'a>,
    ) -> Option<[&'a [usize]; AXES.len() + 1]> {
        let Seen::Request(request) = attributes.seen else { return None };
        let [principals, namespaces, segments] = &self.under;
        let find = |under: &'a HashMap<Box<str>, Vec<usize>>, value: Option<&str>| {
            value.and_then(|value| under.get(value)).map(Vec::as_slice).unwrap_or_default()
        };
        Some([
            find(principals, attributes.peer.map(SpiffeId::principal)),
            find(namespaces, attributes.peer.map(SpiffeId::namespace)),
            find(segments, first_segment(request.path)),
            &self.others,
        ])
    }
}

/// What a rule cannot do without, with the values of which it needs one.
fn keys(rule: &Rule) -> Vec<(Axis, Vec<Box<str>>)> {
    let of_group = |Group(alternatives): &Group| {
        AXES.map(|axis| {
            let values: Option<Vec<_>> = alternatives.iter().map(|clauses| values(axis, clauses)).collect();
            (axis, values)
        })
    };
    let all = rule.groups.iter().flat_map(of_group);
    all.filter_map(|(axis, values)| Some((axis, values?.into_iter().flatten().collect()))).collect()
}

/// The values of which an alternative needs one; `None` if it may match without any.
fn values(axis: Axis, clauses: &[Clause]) -> Option<Vec<Box<str>>> {
    clauses.iter().filter(|clause| !clause.negated).find_map(|clause| match (axis, &clause.matcher) {
        (Axis::Principal, Matcher::Principal(values)) | (Axis::Namespace, Matcher::Namespace(values)) => {
            values.iter().map(exact).collect()
        }
        (Axis::Segment, Matcher::Path(values)) => values.iter().map(segment).collect(),
        _ => None,
    })
}

fn exact(value: &StringMatch) -> Option<Box<str>> {
    match value {
        StringMatch::Exact(text) => Some(text.clone()),
        _ => None,
    }
}

/// The first segment of every path that matches, if they have one in common.
fn segment(value: &PathMatch) -> Option<Box<str>> {
    match value {
        PathMatch::Text(StringMatch::Exact(text)) => first_segment(text).map(Box::from),
        PathMatch::Text(StringMatch::Prefix(text)) => {
            let (first, _) = text.strip_prefix('/')?.split_once('/')?;
            Some(first.into())
        }
        PathMatch::Text(_) => None,
        PathMatch::Template(template) => template.first_segment().map(Box::from),
    }
}

fn first_segment(path: &str) -> Option<&str> {
    path.strip_prefix('/').map(|rest| rest.split('/').next().unwrap_or_default())
}

const AXES: [Axis; 3] = [Axis::Principal, Axis::Namespace, Axis::Segment];
