//! Routes of the Gateway API that are attached to nothing, or lead nowhere: what their status says on an API server, for those
//! who have none, or look elsewhere.

use super::index::Index;
use super::{Code, Message};
use crate::gateway_api::{Condition, Facts, GROUP, Resources, Route};
use crate::resource::quote;

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let resources = Resources::of(index.objects);
    if resources.routes().is_empty() {
        return;
    }
    let mut facts = Facts::default();
    for object in index.objects {
        facts.apply(object);
    }
    let report = resources.report(&facts);
    for route in resources.routes() {
        parents(index, route, messages);
        let statuses = report.routes.get(&route.object.key()).into_iter().flatten();
        for status in statuses {
            let at = route.parents().iter().position(|it| it == status.parent).unwrap_or_default();
            let wrong = || status.conditions.iter().filter(|it| !it.holds);
            messages.extend(wrong().filter(|it| it.sort == ACCEPTED).map(|it| unattached(route, at, it)));
            // It is said of each parent, and is the same for all: what is said twice is shown once.
            let nowhere = wrong().filter(|it| it.sort == RESOLVED);
            messages.extend(nowhere.filter_map(|it| unresolved(index, route, it)));
        }
    }
}

/// Gateways that are not there; those of somebody else's are none of our business.
fn parents(index: &Index<'_>, route: &Route<'_>, messages: &mut Vec<Message>) {
    for (at, parent) in route.parents().iter().enumerate() {
        let kind = match (&*parent.group, &*parent.kind) {
            (GROUP, "Gateway") => "KubernetesGateway",
            (GROUP, "ListenerSet") => "ListenerSet",
            _ => continue,
        };
        let namespace = parent.namespace.as_deref().unwrap_or(route.namespace());
        if !index.exists(kind, namespace, &parent.name) {
            let shown = quote(&format!("{namespace}/{}", parent.name));
            let reason = format!("there is no {} {shown}", parent.kind);
            let field = format_args!("spec.parentRefs[{at}].name");
            let message = Message::new(Code::ReferencedResourceNotFound, route.object, field, reason);
            messages.push(message.hint("name one of this namespace, or write its namespace as well"));
        }
    }
}

fn unattached(route: &Route<'_>, at: usize, condition: &Condition) -> Message {
    let code = match condition.reason {
        "NoMatchingParent" => Code::ReferencedResourceNotFound,
        _ => Code::SchemaWarning,
    };
    let reason = format!("the route is not attached: {}", condition.message);
    Message::new(code, route.object, format_args!("spec.parentRefs[{at}]"), reason)
}

/// Nothing, if it is only that a Service was refused.
fn unresolved(index: &Index<'_>, route: &Route<'_>, condition: &Condition) -> Option<Message> {
    let is_refused = route.backends().any(|backend| {
        let namespace = backend.namespace.as_deref().unwrap_or(route.namespace());
        index.is_refused("Service", namespace, &backend.name)
    });
    let reason = condition.message.clone();
    let message = Message::new(Code::ReferencedResourceNotFound, route.object, "spec.rules", reason);
    (!is_refused).then_some(message)
}

/// Conditions of routes.
const ACCEPTED: &str = "Accepted";
const RESOLVED: &str = "ResolvedRefs";
