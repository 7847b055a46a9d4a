//! Namespaces, and what they say for the objects in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::services::annotated_distribution;
use super::{Name, World};
use crate::cluster::TrafficDistribution;
use crate::resource::Meta;

/// What is kept of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamespaceFacts {
    pub(super) labels: BTreeMap<String, String>,
    /// Which endpoints are preferred of services that do not say.
    distribution: Option<TrafficDistribution>,
}

impl NamespaceFacts {
    pub(super) fn of(meta: &Meta) -> Self {
        let distribution = annotated_distribution(meta).and_then(TrafficDistribution::parse);
        Self { labels: meta.labels.clone(), distribution }
    }
}

impl World {
    pub(super) fn put_namespace(&mut self, name: &Arc<str>, facts: Option<NamespaceFacts>) {
        if self.namespaces.get(name) == facts.as_ref() {
            return;
        }
        let before = self.distribution_in(name);
        self.namespaces.remove(name);
        self.namespaces.extend(facts.map(|facts| (Arc::clone(name), facts)));
        if self.distribution_in(name) != before {
            let own = |at: &&Name| at.namespace == *name;
            self.dirty.services.extend(self.services.keys().filter(own).cloned());
            self.mark_entries_of(name);
        }
        self.mark_namespace(name);
        self.mark_workload_entries_of(Some(name));
        self.select_namespaces();
    }

    /// Which endpoints are preferred in a namespace of services that do not say.
    pub(super) fn distribution_in(&self, namespace: &str) -> Option<TrafficDistribution> {
        self.namespaces.get(namespace)?.distribution
    }
}
