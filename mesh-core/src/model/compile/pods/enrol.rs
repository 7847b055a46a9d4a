//! Which pods are captured: Istio's ambient labels, and its sidecar labels as an alias, so that a cluster that used
//! sidecars enrols without an edit.

use k8s_openapi::api::core::v1::PodSpec;

use crate::model::compile::Inputs;
use crate::resource::Object;

pub(super) fn is_enrolled(pod: &Object, spec: &PodSpec, inputs: &Inputs<'_>, root_namespace: &str) -> bool {
    // A pod in the node's network has no traffic of its own to capture; one with a sidecar has it captured already.
    if spec.host_network.unwrap_or_default() || pod.meta.annotations.contains_key("sidecar.istio.io/status") {
        return false;
    }
    match pod.meta.labels.get(MODE).map(String::as_str) {
        Some("ambient") => true,
        Some("none") => false,
        _ => !is_system(&pod.meta.namespace, root_namespace) && by_namespace(pod, inputs),
    }
}

fn by_namespace(pod: &Object, inputs: &Inputs<'_>) -> bool {
    let Some((namespace, _)) = inputs.namespaces.get(&*pod.meta.namespace) else {
        return false;
    };
    match namespace.meta.labels.get(MODE).map(String::as_str) {
        Some("ambient") => true,
        Some("none") => false,
        _ => {
            namespace.meta.labels.get(INJECTION).is_some_and(|v| v == "enabled")
                && !opts_out_of_injection(pod)
        }
    }
}

/// The ways to say no to a sidecar; the annotation is the older form of the label.
fn opts_out_of_injection(pod: &Object) -> bool {
    let inject = pod.meta.labels.get(INJECT).or_else(|| pod.meta.annotations.get(INJECT));
    inject.is_some_and(|v| v == "false") || pod.meta.labels.get(INJECTION).is_some_and(|v| v == "disabled")
}

/// Capturing what the mesh itself or the cluster needs to start would be a circle.
fn is_system(namespace: &str, root_namespace: &str) -> bool {
    namespace == root_namespace || namespace == "istio-system" || namespace == "kube-system"
}

const MODE: &str = "istio.io/dataplane-mode";
const INJECTION: &str = "istio-injection";
const INJECT: &str = "sidecar.istio.io/inject";
