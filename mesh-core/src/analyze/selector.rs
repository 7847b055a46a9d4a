//! Selectors that select nothing, or nothing that the object can do anything to.

use super::index::Index;
use super::workloads::{Labels, show};
use super::{Code, Message};
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for object in index.objects {
        if let Some(selection) = Selection::of(object) {
            messages.extend(selection.judge(index, object));
        }
    }
}

/// Which workloads an object is for.
struct Selection<'a> {
    field: &'static str,
    /// Absent means all of the namespace.
    labels: Option<&'a Labels>,
    /// Whether in the root namespace it is for the whole mesh.
    mesh_wide: bool,
    /// Whether it does something to the workloads, which only works for those in the mesh.
    acts: bool,
}

impl<'a> Selection<'a> {
    fn of(object: &'a Object) -> Option<Self> {
        let (field, labels) = match &object.spec {
            Spec::AuthorizationPolicy(policy) => {
                if policy.target_ref.is_some() || !policy.target_refs.is_empty() {
                    return None;
                }
                ("spec.selector", policy.selector.as_ref().map(|selector| &selector.match_labels))
            }
            Spec::RequestAuthentication(policy) => {
                if policy.target_ref.is_some() || !policy.target_refs.is_empty() {
                    return None;
                }
                ("spec.selector", policy.selector.as_ref().map(|selector| &selector.match_labels))
            }
            Spec::Telemetry(telemetry) => {
                if telemetry.target_ref.is_some() || !telemetry.target_refs.is_empty() {
                    return None;
                }
                ("spec.selector", telemetry.selector.as_ref().map(|selector| &selector.match_labels))
            }
            Spec::RateLimit(limit) => ("spec.selector", Some(&limit.selector.as_ref()?.match_labels)),
            Spec::PeerAuthentication(policy) => {
                ("spec.selector", policy.selector.as_ref().map(|selector| &selector.match_labels))
            }
            Spec::Sidecar(sidecar) => {
                ("spec.workloadSelector", sidecar.workload_selector.as_ref().map(|selector| &selector.labels))
            }
            Spec::DestinationRule(rule) => {
                ("spec.workloadSelector", Some(&rule.workload_selector.as_ref()?.match_labels))
            }
            Spec::ServiceEntry(entry) => {
                ("spec.workloadSelector", Some(&entry.workload_selector.as_ref()?.labels))
            }
            _ => return None,
        };
        Some(Self {
            field,
            labels: labels.filter(|labels| !labels.is_empty()),
            mesh_wide: has_targets(object),
            acts: matches!(
                object.spec,
                Spec::AuthorizationPolicy(_) | Spec::PeerAuthentication(_) | Spec::Sidecar(_)
            ),
        })
    }

    fn judge(&self, index: &Index<'_>, object: &Object) -> Option<Message> {
        let namespace = &*object.meta.namespace;
        let is_root = namespace == index.options.root_namespace;
        let Some(labels) = self.labels else {
            let is_policy = matches!(object.spec, Spec::AuthorizationPolicy(_));
            let is_told = index.workloads.any(None) && !index.has_unknown_workloads();
            if is_policy && is_told && !is_root && !index.workloads.any(Some(namespace)) {
                let reason = format!("there is no workload in namespace {namespace}");
                return Some(Message::new(
                    Code::NoMatchingWorkloadsFound,
                    object,
                    "metadata.namespace",
                    reason,
                ));
            }
            let is_outside = index.workloads.any(Some(namespace)) && !index.workloads.any_in_mesh(namespace);
            return (self.acts && is_outside && !is_root).then(|| self.outside(object, "of its namespace"));
        };
        if is_root && matches!(object.spec, Spec::PeerAuthentication(_)) {
            let reason = "a selector in the root namespace selects nothing";
            let message = Message::new(Code::IneffectivePolicy, object, self.field, reason);
            return Some(message.hint("write it in the namespace of the workloads"));
        }
        let scope = (!(is_root && self.mesh_wide)).then_some(namespace);
        let mut selected = index.workloads.select(scope, labels).peekable();
        if selected.peek().is_none() {
            let reason = format!("no workload has the labels {}", quote(&show(labels)));
            // As Istio has it: a Sidecar refers to its workloads, a policy may wait for some.
            let code = match object.spec {
                Spec::Sidecar(_) => Code::ReferencedResourceNotFound,
                _ => Code::NoMatchingWorkloadsFound,
            };
            let message = Message::new(code, object, self.field, reason);
            return (!index.has_unknown_workloads()).then_some(message);
        }
        if self.acts && !selected.any(|workload| workload.in_mesh) {
            return Some(self.outside(object, "that it selects"));
        }
        if has_targets(object) && index.workloads.has_gateways() {
            let mut selected = index.workloads.select(scope, labels);
            selected.find(|workload| workload.is_gateway()).map(|_| self.gateway(object))
        } else {
            None
        }
    }

    fn outside(&self, object: &Object, which: &str) -> Message {
        let reason = format!("has no effect: all workloads {which} are outside the mesh");
        let message = Message::new(Code::IneffectivePolicy, object, self.field, reason);
        let hint = "enrol them by the label istio.io/dataplane-mode=ambient on the namespace";
        Message { field: self.labels.map_or(String::new(), |_| message.field.clone()), ..message }.hint(hint)
    }

    fn gateway(&self, object: &Object) -> Message {
        let reason = "selects pods of a Gateway of Kubernetes by label";
        Message::new(Code::IneffectiveSelector, object, self.field, reason)
            .hint("name the Gateway in spec.targetRefs")
    }
}

/// Whether objects of this kind can name a Gateway in place of selecting its pods. They are also those that are for the
/// whole mesh in the root namespace.
fn has_targets(object: &Object) -> bool {
    matches!(
        object.spec,
        Spec::AuthorizationPolicy(_)
            | Spec::RequestAuthentication(_)
            | Spec::Telemetry(_)
            | Spec::RateLimit(_)
    )
}
