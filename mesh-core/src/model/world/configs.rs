//! Resources that travel as they are, and the labels that come with workloads because of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::World;
use crate::model::{Config, Record, RecordKey};
use crate::resource::networking::VirtualServiceSpec;
use crate::resource::{Object, ObjectKey, Spec};

/// The labels that subsets tell endpoints apart by, Gateways their pods, and rules at waypoints who asks. Only these are
/// told of every workload.
#[derive(Debug, Default)]
pub(super) struct SubsetLabels {
    /// By `DestinationRule`, `Gateway` or `VirtualService`.
    keys: BTreeMap<ObjectKey, BTreeSet<String>>,
    /// How many of them use a key.
    used: BTreeMap<String, usize>,
}

impl SubsetLabels {
    /// Notes the keys that an object uses, none if it is gone. Returns those that came into use or fell out of it.
    fn set(&mut self, user: &ObjectKey, keys: BTreeSet<String>) -> Vec<String> {
        let mut changed = Vec::new();
        for key in &keys {
            let count = self.used.entry(key.clone()).or_default();
            *count += 1;
            if *count == 1 {
                changed.push(key.clone());
            }
        }
        let old = if keys.is_empty() { self.keys.remove(user) } else { self.keys.insert(user.clone(), keys) };
        for key in old.unwrap_or_default() {
            let count = self.used.entry(key.clone()).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.used.remove(&key);
                changed.push(key);
            }
        }
        changed
    }

    /// Those of `labels` that matter.
    pub(super) fn pick(&self, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let used = labels.iter().filter(|(key, _)| self.used.contains_key(*key));
        used.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl World {
    /// Takes note of a resource that travels, or that it is gone.
    pub(super) fn put_config(&mut self, key: &ObjectKey, object: Option<&Object>) {
        self.note_labels(key, object);
        if matches!(key.kind, "Gateway" | "DestinationRule") {
            self.note_credentials(key, object);
        }
        let config = object.and_then(Config::of).map(|config| Record::Config(Arc::new(config)));
        self.emit(RecordKey::Config(Arc::new(key.clone())), config);
    }

    pub(super) fn note_labels(&mut self, key: &ObjectKey, object: Option<&Object>) {
        let keys = match object.map(|object| &object.spec) {
            Some(Spec::DestinationRule(rule)) => {
                let labels = rule.subsets.iter().flat_map(|subset| subset.labels.keys());
                labels.cloned().collect()
            }
            Some(Spec::Gateway(gateway)) => gateway.selector.keys().cloned().collect(),
            Some(Spec::RateLimit(limit)) => {
                let labels = limit.selector.iter().flat_map(|selector| selector.match_labels.keys());
                labels.cloned().collect()
            }
            Some(Spec::Telemetry(spec)) => {
                let labels = spec.selector.iter().flat_map(|selector| selector.match_labels.keys());
                labels.cloned().collect()
            }
            Some(Spec::RequestAuthentication(spec)) => {
                let labels = spec.selector.iter().flat_map(|selector| selector.match_labels.keys());
                labels.cloned().collect()
            }
            Some(Spec::WorkloadGroup(group)) if group.probe.is_some() => {
                let labels = group.metadata.labels.keys().chain(group.template.labels.keys());
                labels.cloned().collect()
            }
            Some(Spec::VirtualService(rules)) => source_labels(rules),
            _ => BTreeSet::new(),
        };
        let changed = self.subset_labels.set(key, keys);
        if !changed.is_empty() {
            let has = |labels: &BTreeMap<String, String>| changed.iter().any(|key| labels.contains_key(key));
            let pods = self.pods.iter().filter(|(_, pod)| has(&pod.labels)).map(|(name, _)| name.clone());
            self.dirty.pods.extend(pods.collect::<Vec<_>>());
        }
    }
}

/// A node knows all labels of its own pods; a waypoint is asked by everybody's.
fn source_labels(rules: &VirtualServiceSpec) -> BTreeSet<String> {
    let requests = rules.http.iter().flat_map(|rule| &rule.matches).map(|it| &it.source_labels);
    let tls = rules.tls.iter().flat_map(|rule| &rule.matches).map(|it| &it.source_labels);
    let tcp = rules.tcp.iter().flat_map(|rule| &rule.matches).map(|it| &it.source_labels);
    requests.chain(tls).chain(tcp).flat_map(BTreeMap::keys).cloned().collect()
}
