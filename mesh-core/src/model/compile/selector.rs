//! Finds the selectors that select a set of labels without trying all of them.

use std::collections::{BTreeMap, HashMap};

/// Selectors (equality of labels), by namespace.
///
/// Every selector is filed under one of its labels, so that a look-up only tries selectors that share a label with
/// the workload: thousands of selectors of one namespace cost no more than those that nearly match.
#[derive(Debug, Default)]
pub(crate) struct SelectorIndex<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<Entry<'a>>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    selector: &'a BTreeMap<String, String>,
    item: usize,
}

impl<'a> SelectorIndex<'a> {
    /// Files `item` under a selector that is not empty; an empty one is never found again.
    pub(crate) fn insert(&mut self, namespace: &'a str, selector: &'a BTreeMap<String, String>, item: usize) {
        // Labels like `app` come first in the order of the map and tell workloads apart well enough.
        if let Some((key, value)) = selector.iter().next() {
            self.by_label.entry((namespace, key, value)).or_default().push(Entry { selector, item });
        }
    }

    /// The items in `namespace` whose selector selects `labels`, ascending.
    pub(crate) fn matching(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<usize> {
        let candidates = labels
            .iter()
            .filter_map(|(key, value)| self.by_label.get(&(namespace, key.as_str(), value.as_str())));
        let selected =
            |entry: &&Entry<'a>| entry.selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let mut items: Vec<_> = candidates.flatten().filter(selected).map(|entry| entry.item).collect();
        items.sort_unstable();
        items
    }
}
