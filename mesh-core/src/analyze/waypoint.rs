//! Whether what is to go through a waypoint can: nothing is reached past one that is asked for and is not there.

use super::index::Index;
use super::{Code, Message};
use crate::resource::{Spec, entry_path};
use crate::waypoint::Attachments;

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    // What a Gateway that was refused would have said nobody knows.
    if index.has_refused("KubernetesGateway") || index.has_refused("GatewayClass") {
        return;
    }
    let mut attachments = Attachments::new(&index.options.root_namespace);
    index.objects.iter().for_each(|object| attachments.apply(object));
    for object in index.objects {
        if !matches!(object.spec, Spec::Service(_) | Spec::ServiceEntry(_)) {
            continue;
        }
        let Some(why) = attachments.refused(&object.key()) else { continue };
        let own = object.meta.labels.contains_key(USE_WAYPOINT);
        let field = if own { entry_path("metadata.labels", USE_WAYPOINT) } else { String::new() };
        let reason = format!("connections to it are refused, because it asks for a waypoint and {why}");
        let message = Message::new(Code::ReferencedResourceNotFound, object, field, reason);
        let whose = if own { "this label" } else { "the namespace's label" };
        messages.push(message.hint(format!(
            "make the waypoint as it is asked for (`meshctl waypoint apply`), or take {whose} away"
        )));
    }
}

/// Asks for a waypoint, by its name or by `none`.
const USE_WAYPOINT: &str = "istio.io/use-waypoint";
