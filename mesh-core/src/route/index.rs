//! Finds the first match of a virtual host that a request meets, without looking at all of them.
//!
//! Each match is filed under the one thing about it that tells it apart best: its exact path, the start of its path,
//! and among many of one path the exact value of a header or another part. A request opens the few files it can be
//! in; each is sorted, and none is read beyond the best that was found so far. So the outcome is that of trying all
//! in order.

use std::collections::HashMap;
use std::sync::Arc;

use regex_syntax::hir::literal::{ExtractKind, Extractor};

use self::trie::Trie;
use super::condition::{Condition, Field, PathMatch};
use super::{MatchInfo, RequestView, Route};
use crate::resource::value::Regex;

mod trie;

/// A match, and the rule that it is of.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) condition: Arc<Condition>,
    pub(super) route: Arc<Route>,
    pub(super) info: Arc<MatchInfo>,
    /// Nothing is asked but the path, so that the condition need not be looked at.
    plain: bool,
}

/// The matches of a virtual host, in order.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Box<[Entry]>,
    exact: HashMap<Box<str>, File>,
    prefixes: Trie<Filed>,
    /// Of those that are compared without regard to case.
    folded: Option<Trie<Filed>>,
}

/// What is filed under a path.
#[derive(Debug)]
enum Filed {
    /// One match, for everything that starts with it: what most paths have.
    Only(u32),
    Several(Box<PathFiles>),
}

/// Matches that start with, or are, the path that leads to a node.
#[derive(Debug, Default)]
struct PathFiles {
    starting: File,
    being: File,
}

/// Matches by their number, ascending.
#[derive(Debug, Default)]
struct File {
    plain: Vec<u32>,
    keyed: Vec<Keyed>,
}

/// Matches that ask for one exact value in one place.
#[derive(Debug)]
struct Keyed {
    field: Field,
    lowest: u32,
    by_value: HashMap<Box<[u8]>, Vec<u32>>,
}

/// A search on its way.
struct Search<'s, 'r, F> {
    entries: &'s [Entry],
    request: &'s RequestView<'r>,
    /// The lowest number that matches; what is not below it need not be looked at.
    best: u32,
    looked_at: F,
}

impl Entry {
    pub(super) fn new(condition: Arc<Condition>, route: Arc<Route>, info: Arc<MatchInfo>) -> Self {
        let plain = condition.checks.is_empty() && !matches!(condition.path, PathMatch::Regex(_));
        Self { condition, route, info, plain }
    }
}

impl Index {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        let mut exact: HashMap<Box<str>, File> = HashMap::new();
        let (mut prefixes, mut folded) = (Trie::<PathFiles>::default(), None::<Trie<PathFiles>>);
        for (entry, number) in entries.iter().zip(0..) {
            let file = match &entry.condition.path {
                PathMatch::Exact(path) => exact.entry(path.clone()).or_default(),
                PathMatch::Any => &mut prefixes.entry(b"").starting,
                PathMatch::Prefix(prefix) => &mut prefixes.entry(prefix.as_bytes()).starting,
                PathMatch::Segments(path) => {
                    exact.entry(path.clone()).or_default().plain.push(number);
                    &mut prefixes.entry(format!("{path}/").as_bytes()).starting
                }
                PathMatch::Regex(regex) => &mut prefixes.entry(&literal_start(regex)).starting,
                PathMatch::ExactFolded(path) => &mut folded_at(&mut folded, path).being,
                PathMatch::PrefixFolded(prefix) => &mut folded_at(&mut folded, prefix).starting,
            };
            file.plain.push(number);
        }
        exact.values_mut().for_each(|file| file.divide(&entries));
        for files in prefixes.values_mut().chain(folded.iter_mut().flat_map(Trie::values_mut)) {
            files.starting.divide(&entries);
            files.being.divide(&entries);
        }
        let (prefixes, folded) = (prefixes.map(Filed::of), folded.map(|trie| trie.map(Filed::of)));
        Self { entries: entries.into(), exact, prefixes, folded }
    }

    /// The first match that `request` meets.
    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<&Entry> {
        self.search(request, || ())
    }

    /// As [`Self::find`]; calls `looked_at` for each match that is evaluated.
    pub(super) fn search(&self, request: &RequestView<'_>, looked_at: impl FnMut()) -> Option<&Entry> {
        let mut search = Search { entries: &self.entries, request, best: u32::MAX, looked_at };
        if let Some(file) = self.exact.get(request.path) {
            search.read(file);
        }
        for trie in [Some(&self.prefixes), self.folded.as_ref()].into_iter().flatten() {
            trie.walk(request.path.as_bytes(), |filed, is_whole| match filed {
                Filed::Only(number) => search.try_in_order(&[*number]),
                Filed::Several(files) => {
                    search.read(&files.starting);
                    if is_whole {
                        search.read(&files.being);
                    }
                }
            });
        }
        self.entries.get(usize::try_from(search.best).ok()?)
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

fn folded_at<'t>(trie: &'t mut Option<Trie<PathFiles>>, path: &str) -> &'t mut PathFiles {
    trie.get_or_insert_with(Trie::folded).entry(path.as_bytes())
}

impl Filed {
    fn of(files: PathFiles) -> Self {
        let PathFiles { starting, being } = &files;
        let only = being.is_empty() && starting.keyed.is_empty();
        match starting.plain.as_slice() {
            [number] if only => Self::Only(*number),
            _ => Self::Several(Box::new(files)),
        }
    }
}

impl File {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.keyed.is_empty()
    }

    /// Divides a file that is too long to be read in one go.
    fn divide(&mut self, entries: &[Entry]) {
        if self.plain.len() <= SHORT {
            return;
        }
        let variety = Variety::of(&self.plain, entries);
        let mut places: HashMap<&Field, usize> = HashMap::new();
        for number in std::mem::take(&mut self.plain) {
            let Some((field, value)) = variety.key(number, entries) else {
                self.plain.push(number);
                continue;
            };
            let place = *places.entry(field).or_insert_with(|| {
                self.keyed.push(Keyed { field: field.clone(), lowest: number, by_value: HashMap::new() });
                self.keyed.len() - 1
            });
            if let Some(keyed) = self.keyed.get_mut(place) {
                keyed.by_value.entry(value.as_bytes().into()).or_default().push(number);
            }
        }
    }
}

/// How many different values the matches of a file ask for, by place.
struct Variety<'e>(HashMap<&'e Field, usize>);

impl<'e> Variety<'e> {
    fn of(numbers: &[u32], entries: &'e [Entry]) -> Self {
        let mut values: HashMap<&Field, std::collections::HashSet<&str>> = HashMap::new();
        for (field, value) in numbers.iter().flat_map(|number| keys(*number, entries)) {
            values.entry(field).or_default().insert(value);
        }
        Self(values.into_iter().map(|(field, values)| (field, values.len())).collect())
    }

    /// The place that tells a match apart from most others, and its value there.
    fn key(&self, number: u32, entries: &'e [Entry]) -> Option<(&'e Field, &'e str)> {
        let variety = |field: &Field| self.0.get(field).copied().unwrap_or_default();
        // Of equals the first, so that the outcome does not depend on chance.
        keys(number, entries).rev().max_by_key(|(field, _)| variety(field))
    }
}

/// Places where a match asks for exactly one value.
fn keys(number: u32, entries: &[Entry]) -> impl DoubleEndedIterator<Item = (&Field, &str)> {
    let entry = usize::try_from(number).ok().and_then(|number| entries.get(number));
    let checks = entry.map_or(&[][..], |entry| &entry.condition.checks);
    checks.iter().filter_map(|check| Some((&check.field, check.only()?)))
}

impl<F: FnMut()> Search<'_, '_, F> {
    fn read(&mut self, file: &File) {
        self.try_in_order(&file.plain);
        for keyed in &file.keyed {
            if keyed.lowest < self.best
                && let Some(value) = keyed.field.value(self.request)
                && let Some(numbers) = keyed.by_value.get(&*value)
            {
                self.try_in_order(numbers);
            }
        }
    }

    fn try_in_order(&mut self, numbers: &[u32]) {
        for number in numbers {
            if *number >= self.best {
                return;
            }
            (self.looked_at)();
            let entry = usize::try_from(*number).ok().and_then(|number| self.entries.get(number));
            if entry.is_some_and(|entry| entry.plain || entry.condition.holds_beyond_path(self.request)) {
                self.best = *number;
                return;
            }
        }
    }
}

/// What every path begins with that the expression matches; nothing where that is not plain to see.
fn literal_start(regex: &Regex) -> Vec<u8> {
    let Ok(compiled) = regex.compiled() else { return Vec::new() };
    let parser = regex_syntax::ParserBuilder::new().utf8(false).build().parse(compiled.as_str());
    let Ok(tree) = parser else { return Vec::new() };
    let literals = Extractor::new().kind(ExtractKind::Prefix).extract(&tree);
    literals.longest_common_prefix().unwrap_or_default().to_vec()
}

/// Matches that are read one by one rather than looked up.
const SHORT: usize = 8;
