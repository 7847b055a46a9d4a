//! Finds the selectors that select a set of labels, and the pods that a selector selects, without trying all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Name, forget};

/// Selectors (equality of labels), by namespace.
///
/// Every selector is filed under one of its labels, so that a look-up only tries selectors that share a label with
/// the workload: thousands of selectors of one namespace cost no more than those that nearly match.
#[derive(Debug)]
pub(super) struct SelectorIndex<T> {
    by_label: HashMap<Arc<str>, HashMap<Label, Vec<Entry<T>>>>,
}

type Label = (Box<str>, Box<str>);

#[derive(Debug)]
struct Entry<T> {
    selector: Arc<BTreeMap<String, String>>,
    item: T,
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self { by_label: HashMap::new() }
    }
}

impl<T: Clone + Ord> SelectorIndex<T> {
    /// Files `item` under a selector that is not empty; an empty one is never found again.
    pub(super) fn insert(&mut self, namespace: &Arc<str>, selector: Arc<BTreeMap<String, String>>, item: T) {
        if let Some(label) = label(&selector) {
            let of_namespace = self.by_label.entry(Arc::clone(namespace)).or_default();
            of_namespace.entry(label).or_default().push(Entry { selector, item });
        }
    }

    /// Takes `item` out again.
    pub(super) fn remove(&mut self, namespace: &str, selector: &BTreeMap<String, String>, item: &T) {
        let Some(of_namespace) = self.by_label.get_mut(namespace) else { return };
        let Some(label) = label(selector) else { return };
        if let Some(entries) = of_namespace.get_mut(&label) {
            entries.retain(|entry| entry.item != *item);
            if entries.is_empty() {
                of_namespace.remove(&label);
            }
        }
        if of_namespace.is_empty() {
            self.by_label.remove(namespace);
        }
    }

    /// The items in `namespace` whose selector selects `labels`, ascending.
    pub(super) fn matching(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<T> {
        let Some(of_namespace) = self.by_label.get(namespace) else { return Vec::new() };
        let candidates = labels
            .iter()
            .filter_map(|(key, value)| of_namespace.get(&(key.as_str().into(), value.as_str().into())));
        let selected = |entry: &&Entry<T>| selects(&entry.selector, labels);
        let mut items: Vec<_> =
            candidates.flatten().filter(selected).map(|entry| entry.item.clone()).collect();
        items.sort_unstable();
        items
    }
}

/// Pods by namespace and label: the other way round.
#[derive(Debug, Default)]
pub(super) struct LabelIndex(HashMap<Arc<str>, HashMap<Label, BTreeSet<Name>>>);

impl LabelIndex {
    pub(super) fn insert(&mut self, name: &Name, labels: &BTreeMap<String, String>) {
        let of_namespace = self.0.entry(Arc::clone(&name.namespace)).or_default();
        for (key, value) in labels {
            let label = (key.as_str().into(), value.as_str().into());
            of_namespace.entry(label).or_default().insert(name.clone());
        }
    }

    pub(super) fn remove(&mut self, name: &Name, labels: &BTreeMap<String, String>) {
        let Some(of_namespace) = self.0.get_mut(&name.namespace) else { return };
        for (key, value) in labels {
            forget(of_namespace, &(key.as_str().into(), value.as_str().into()), name);
        }
        if of_namespace.is_empty() {
            self.0.remove(&name.namespace);
        }
    }

    /// Those that have the rarest label of `selector`, which is not empty; in all namespaces without one.
    pub(super) fn candidates<'a>(
        &'a self,
        namespace: Option<&str>,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Name> {
        let namespaces: Vec<_> = match namespace {
            Some(namespace) => self.0.get(namespace).into_iter().collect(),
            None => self.0.values().collect(),
        };
        let rarest = |of_namespace: &'a HashMap<Label, BTreeSet<Name>>| {
            let label = |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
            let sets = selector.iter().map(|one| of_namespace.get(&label(one)));
            sets.min_by_key(|set| set.map_or(0, BTreeSet::len)).flatten()
        };
        namespaces.into_iter().filter_map(rarest).flatten()
    }
}

/// Whether all labels that `selector` asks for are among `labels`. An empty selector selects everything.
pub(super) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Labels like `app` come first in the order of the map and tell workloads apart well enough.
fn label(selector: &BTreeMap<String, String>) -> Option<Label> {
    selector.iter().next().map(|(key, value)| (key.as_str().into(), value.as_str().into()))
}
