//! Sidecars that are for the same workloads: each workload gets one.

use std::collections::HashMap;

use super::index::{Index, by_age};
use super::workloads::Labels;
use super::{Code, Message};
use crate::resource::{Object, Spec};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let mut sidecars: Vec<(&Object, Option<&Labels>)> = index
        .objects
        .iter()
        .filter_map(|object| match &object.spec {
            Spec::Sidecar(spec) => Some((object, spec.workload_selector.as_ref().map(|it| &it.labels))),
            _ => None,
        })
        .collect();
    by_age(&mut sidecars);
    let mut whole: HashMap<&str, &Object> = HashMap::new();
    let mut owners = HashMap::new();
    for (object, selector) in sidecars {
        let namespace = &*object.meta.namespace;
        let Some(labels) = selector.filter(|labels| !labels.is_empty()) else {
            let first = *whole.entry(namespace).or_insert(object);
            if first.key() != object.key() {
                let code = Code::MultipleSidecarsWithoutWorkloadSelectors;
                let reason = format!("{} is for all workloads of the namespace already", first.key());
                messages.push(Message::new(code, object, "spec.workloadSelector", reason).hint(ONE));
            }
            continue;
        };
        let mut other = None;
        for workload in index.workloads.select(Some(namespace), labels) {
            let owner: &Object = owners.entry(std::ptr::from_ref(workload)).or_insert(object);
            other = other.or((owner.key() != object.key()).then_some(owner));
        }
        if let Some(other) = other {
            let code = Code::ConflictingSidecarWorkloadSelectors;
            let reason = format!("{} selects some of the same workloads", other.key());
            messages.push(Message::new(code, object, "spec.workloadSelector", reason).hint(ONE));
        }
    }
}

const ONE: &str = "a workload gets one Sidecar only, the oldest";
