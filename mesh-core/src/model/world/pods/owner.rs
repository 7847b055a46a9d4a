//! What a pod belongs to, as users know it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::model::WorkloadType;
use crate::resource::Meta;

/// The workload's name and type, from the owner that controls the pod. A `ReplicaSet` is named after its Deployment
/// plus the hash that the pod carries as a label.
pub(super) fn of(pod: &Pod, meta: &Meta) -> (Arc<str>, WorkloadType) {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let controller = owners.iter().find(|owner| owner.controller == Some(true)).or(owners.first());
    let named = controller.and_then(|owner| match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = meta.labels.get("pod-template-hash").filter(|hash| !hash.is_empty())?;
            let deployment = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
            Some((deployment, WorkloadType::Deployment))
        }
        "Deployment" => Some((&*owner.name, WorkloadType::Deployment)),
        "StatefulSet" => Some((&*owner.name, WorkloadType::StatefulSet)),
        "DaemonSet" => Some((&*owner.name, WorkloadType::DaemonSet)),
        "Job" => Some((&*owner.name, WorkloadType::Job)),
        _ => None,
    });
    match named.filter(|(name, _)| !name.is_empty()) {
        Some((name, kind)) => (name.into(), kind),
        None => (Arc::clone(&meta.name), WorkloadType::Pod),
    }
}
