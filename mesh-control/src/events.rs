//! What came from the sources, counted: by kind, and whether it was new, different or gone; and what of it changed what
//! subscribers are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts by kind and by what happened. There are as many as there are kinds.
#[derive(Debug, Default)]
pub struct Events {
    counts: Mutex<Counts>,
}

/// Of one sort each, by labels.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Of what services are made from, by type and event.
    pub registry: BTreeMap<(&'static str, &'static str), u64>,
    /// Of all other resources, by kind and event.
    pub config: BTreeMap<(&'static str, &'static str), u64>,
    /// Changes of what subscribers are told, by the sort of resources that brought them.
    pub triggers: BTreeMap<&'static str, u64>,
}

impl Events {
    /// A resource of this kind is `add`ed, `update`d or `delete`d.
    pub fn saw(&self, kind: &'static str, event: &'static str) {
        let mut counts = self.counts();
        let counted = match REGISTRY.iter().find(|(it, _)| *it == kind) {
            Some((_, name)) => counts.registry.entry((name, event)),
            None => counts.config.entry((kind, event)),
        };
        *counted.or_default() += 1;
    }

    /// Resources of these kinds have changed what subscribers are told.
    pub fn triggered(&self, kinds: &BTreeSet<&'static str>) {
        let sorts: BTreeSet<_> = kinds.iter().map(|kind| sort(kind)).collect();
        let mut counts = self.counts();
        sorts.into_iter().for_each(|sort| *counts.triggers.entry(sort).or_default() += 1);
    }

    /// All of them, as they are now.
    pub fn shown(&self) -> Counts {
        self.counts().clone()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What Istio calls a change of this kind.
fn sort(kind: &str) -> &'static str {
    match kind {
        "Pod" | "EndpointSlice" | "WorkloadEntry" => "endpoint",
        "Service" | "ServiceEntry" => "service",
        _ => "config",
    }
}

/// Kinds that services are made from, and what Istio calls them.
const REGISTRY: [(&str, &str); 5] = [
    ("Pod", "Pods"),
    ("Service", "Services"),
    ("EndpointSlice", "EndpointSlice"),
    ("Node", "Nodes"),
    ("Namespace", "Namespaces"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_called_as_istio_calls_them() {
        let events = Events::default();
        for (kind, event) in
            [("Pod", "add"), ("Pod", "add"), ("Service", "delete"), ("VirtualService", "update")]
        {
            events.saw(kind, event);
        }
        events.triggered(&BTreeSet::from(["Pod", "WorkloadEntry", "Gateway"]));
        let counts = events.shown();
        assert_eq!(counts.registry, [(("Pods", "add"), 2), (("Services", "delete"), 1)].into());
        assert_eq!(counts.config, [(("VirtualService", "update"), 1)].into());
        assert_eq!(counts.triggers, [("config", 1), ("endpoint", 1)].into());
    }
}
