//! Kinds of which a workload gets one object only, Sidecar and Telemetry: several that are for the same workloads.

use std::collections::HashMap;

use super::conflict::{Claim, Conflicts};
use super::index::{Index, by_age};
use super::workloads::Labels;
use super::{Code, Message};
use crate::resource::{Object, Spec};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for kind in [&SIDECAR, &TELEMETRY] {
        let mut claimants: Vec<(&Object, Option<&Labels>)> = index
            .objects
            .iter()
            .filter_map(|object| Some((object, (kind.selector)(&object.spec)?)))
            .collect();
        by_age(&mut claimants);
        kind.whole(&claimants, messages);
        kind.selected(index, &claimants, messages);
    }
}

/// A kind of which a workload gets one.
struct Exclusive {
    /// Its selector, if it selects by labels at all; `Some(None)` stands for all workloads of the namespace.
    selector: fn(&Spec) -> Option<Option<&Labels>>,
    field: &'static str,
    /// What two for the same namespace, and two for the same workload, are.
    codes: [Code; 2],
    hint: &'static str,
}

impl Exclusive {
    fn whole(&self, claimants: &[(&Object, Option<&Labels>)], messages: &mut Vec<Message>) {
        let mut conflicts = Conflicts::new(self.codes[0], self.hint, messages);
        let mut first: HashMap<&str, Claim<'_>> = HashMap::new();
        for (object, _) in claimants.iter().filter(|(_, selector)| selector.is_none()) {
            let claim = Claim { object, field: self.field.to_owned() };
            let owner = first.entry(&object.meta.namespace).or_insert_with(|| claim.clone());
            if !owner.is_of(object) {
                conflicts
                    .tell([&claim, owner], |other| format!("{other} is for the whole namespace as well"));
            }
        }
    }

    fn selected(
        &self,
        index: &Index<'_>,
        claimants: &[(&Object, Option<&Labels>)],
        messages: &mut Vec<Message>,
    ) {
        let mut conflicts = Conflicts::new(self.codes[1], self.hint, messages);
        let mut first = HashMap::new();
        for (object, labels) in claimants.iter().filter_map(|(object, selector)| Some((object, (*selector)?)))
        {
            let claim = Claim { object, field: self.field.to_owned() };
            for workload in index.workloads.select(Some(&object.meta.namespace), labels) {
                let owner = first.entry(std::ptr::from_ref(workload)).or_insert_with(|| claim.clone());
                if !owner.is_of(object) {
                    conflicts
                        .tell([&claim, owner], |other| format!("{other} selects some of the same workloads"));
                }
            }
        }
    }
}

fn unless_empty(labels: &Labels) -> Option<&Labels> {
    Some(labels).filter(|labels| !labels.is_empty())
}

const SIDECAR: Exclusive = Exclusive {
    selector: |spec| match spec {
        Spec::Sidecar(spec) => {
            Some(spec.workload_selector.as_ref().and_then(|selector| unless_empty(&selector.labels)))
        }
        _ => None,
    },
    field: "spec.workloadSelector",
    codes: [Code::MultipleSidecarsWithoutWorkloadSelectors, Code::ConflictingSidecarWorkloadSelectors],
    hint: "a workload gets one Sidecar only, the oldest",
};

const TELEMETRY: Exclusive = Exclusive {
    selector: |spec| match spec {
        Spec::Telemetry(spec) if spec.target_ref.is_none() && spec.target_refs.is_empty() => {
            Some(spec.selector.as_ref().and_then(|selector| unless_empty(&selector.match_labels)))
        }
        _ => None,
    },
    field: "spec.selector",
    codes: [Code::MultipleTelemetriesWithoutWorkloadSelectors, Code::ConflictingTelemetryWorkloadSelectors],
    hint: "a workload gets one Telemetry of its namespace only, the oldest",
};
