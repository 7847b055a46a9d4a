//! Which pods are captured: Istio's ambient labels, and its sidecar labels as an alias, so that a cluster that used
//! sidecars enrols without an edit.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use crate::resource::Meta;

/// What a pod says about being captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// There is nothing to capture: its traffic is its node's, or a sidecar has it already.
    Never,
    /// By its own label.
    Always,
    /// Not by its own label; the namespace decides.
    AsItsNamespace {
        /// Unless the namespace asks for injection: the pod says no to a sidecar.
        but_not_by_injection: bool,
    },
}

impl Wish {
    pub(crate) fn of(meta: &Meta, spec: &PodSpec) -> Self {
        if spec.host_network.unwrap_or_default() || meta.annotations.contains_key("sidecar.istio.io/status") {
            return Self::Never;
        }
        match meta.labels.get(MODE).map(String::as_str) {
            Some("ambient") => Self::Always,
            Some("none") => Self::Never,
            _ => Self::AsItsNamespace { but_not_by_injection: opts_out_of_injection(meta) },
        }
    }

    /// What comes of it in `namespace`, whose labels are known if it is.
    pub(crate) fn is_enrolled(
        self,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
        root_namespace: &str,
    ) -> bool {
        let but_not_by_injection = match self {
            Self::Never => return false,
            Self::Always => return true,
            Self::AsItsNamespace { but_not_by_injection } => but_not_by_injection,
        };
        let Some(labels) = labels.filter(|_| !is_system(namespace, root_namespace)) else {
            return false;
        };
        match labels.get(MODE).map(String::as_str) {
            Some("ambient") => true,
            Some("none") => false,
            _ => labels.get(INJECTION).is_some_and(|v| v == "enabled") && !but_not_by_injection,
        }
    }
}

/// Why a pod is not captured although its own label asks for it, where it can do something about that.
pub(super) fn unheeded(meta: &Meta, spec: &PodSpec) -> Option<&'static str> {
    let asks = meta.labels.get(MODE).is_some_and(|mode| mode == "ambient");
    (asks && spec.host_network.unwrap_or_default()).then_some(
        "a pod with hostNetwork has its node's network, whose traffic is never captured: take hostNetwork off, or this label",
    )
}

/// The ways to say no to a sidecar; the annotation is the older form of the label.
fn opts_out_of_injection(meta: &Meta) -> bool {
    let inject = meta.labels.get(INJECT).or_else(|| meta.annotations.get(INJECT));
    inject.is_some_and(|v| v == "false") || meta.labels.get(INJECTION).is_some_and(|v| v == "disabled")
}

/// Capturing what the mesh itself or the cluster needs to start would be a circle.
fn is_system(namespace: &str, root_namespace: &str) -> bool {
    namespace == root_namespace || namespace == "istio-system" || namespace == "kube-system"
}

pub(super) const MODE: &str = "istio.io/dataplane-mode";
const INJECTION: &str = "istio-injection";
const INJECT: &str = "sidecar.istio.io/inject";
