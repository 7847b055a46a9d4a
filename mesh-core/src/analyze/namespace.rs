//! Whether namespaces say that they belong to the mesh, and say it once.

use super::index::Index;
use super::{Code, Message};
use crate::resource::{Object, Spec, entry_path};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for object in index.objects {
        if matches!(object.spec, Spec::Namespace(_)) && !index.is_system(&object.meta.name) {
            messages.extend(undecided(object));
            messages.extend(contradiction(object));
        }
    }
}

fn undecided(object: &Object) -> Option<Message> {
    let labels = &object.meta.labels;
    if labels.contains_key(MODE) || labels.contains_key(INJECTION) {
        return None;
    }
    let reason = format!("namespace {} is not enrolled: its pods stay outside the mesh", object.meta.name);
    let message = Message::new(Code::NamespaceNotInjected, object, "metadata.labels", reason);
    Some(message.hint(format!("label it {MODE}=ambient, or {MODE}=none if that is meant")))
}

fn contradiction(object: &Object) -> Option<Message> {
    let label = |name: &str| object.meta.labels.get(name).map(String::as_str);
    let (mode, injection) = (label(MODE), label(INJECTION));
    let asks = injection == Some("enabled") && mode.is_some();
    let (key, reason) = match label(REVISION) {
        Some(_) if injection == Some("enabled") || mode == Some("ambient") => {
            (REVISION, "asks for a sidecar beside another label that enrols")
        }
        _ if asks && mode == Some("none") => {
            (INJECTION, "says yes to the mesh, while istio.io/dataplane-mode says no")
        }
        _ if asks => (INJECTION, "asks for a sidecar beside istio.io/dataplane-mode, which enrols"),
        _ => return None,
    };
    let field = entry_path("metadata.labels", key);
    let message = Message::new(Code::NamespaceMultipleInjectionLabels, object, field, reason);
    Some(message.hint(format!("remove it: {MODE} is enough and counts where both are set")))
}

/// Enrols, by `ambient`, or not, by `none`.
const MODE: &str = "istio.io/dataplane-mode";
/// The sidecars' label, which enrols as well.
const INJECTION: &str = "istio-injection";
/// The sidecars' label for one of several control planes.
const REVISION: &str = "istio.io/rev";
