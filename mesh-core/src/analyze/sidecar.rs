//! Sidecars that are for the same workloads: each workload gets one.

use std::collections::HashMap;

use super::conflict::{Claim, Conflicts};
use super::index::{Index, by_age};
use super::workloads::Labels;
use super::{Code, Message};
use crate::resource::{Object, Spec};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let mut sidecars: Vec<(&Object, Option<&Labels>)> = index
        .objects
        .iter()
        .filter_map(|object| match &object.spec {
            Spec::Sidecar(spec) => {
                let labels = spec.workload_selector.as_ref().map(|selector| &selector.labels);
                Some((object, labels.filter(|labels| !labels.is_empty())))
            }
            _ => None,
        })
        .collect();
    by_age(&mut sidecars);
    whole(&sidecars, messages);
    selected(index, &sidecars, messages);
}

fn whole(sidecars: &[(&Object, Option<&Labels>)], messages: &mut Vec<Message>) {
    let mut conflicts = Conflicts::new(Code::MultipleSidecarsWithoutWorkloadSelectors, ONE, messages);
    let mut first: HashMap<&str, Claim<'_>> = HashMap::new();
    for (object, _) in sidecars.iter().filter(|(_, selector)| selector.is_none()) {
        let claim = Claim { object, field: "spec.workloadSelector".to_owned() };
        let owner = first.entry(&object.meta.namespace).or_insert_with(|| claim.clone());
        if !owner.is_of(object) {
            conflicts.tell([&claim, owner], |other| format!("{other} is for the whole namespace as well"));
        }
    }
}

fn selected(index: &Index<'_>, sidecars: &[(&Object, Option<&Labels>)], messages: &mut Vec<Message>) {
    let mut conflicts = Conflicts::new(Code::ConflictingSidecarWorkloadSelectors, ONE, messages);
    let mut first = HashMap::new();
    for (object, labels) in sidecars.iter().filter_map(|(object, selector)| Some((object, (*selector)?))) {
        let claim = Claim { object, field: "spec.workloadSelector".to_owned() };
        for workload in index.workloads.select(Some(&object.meta.namespace), labels) {
            let owner = first.entry(std::ptr::from_ref(workload)).or_insert_with(|| claim.clone());
            if !owner.is_of(object) {
                conflicts
                    .tell([&claim, owner], |other| format!("{other} selects some of the same workloads"));
            }
        }
    }
}

const ONE: &str = "a workload gets one Sidecar only, the oldest";
