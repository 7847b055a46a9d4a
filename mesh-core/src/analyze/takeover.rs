//! Rules about hosts of somebody else: what a namespace exports holds for the clients of all others, also about a Service that is
//! not its own (ISTIO-SECURITY-2026-002). That is how Istio means it, and rarely what the Service's owner knows of.

use super::hosts::{CLUSTER_DOMAIN, exported};
use super::index::Index;
use super::{Code, Message};
use crate::resource::value::{ExportTo, Host};
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for object in index.objects {
        match &object.spec {
            Spec::VirtualService(spec) if spec.applies_to_mesh() => {
                let does = "decides where clients of other namespaces end up that ask for it";
                messages.extend(takes(index, object, (&spec.hosts, &spec.export_to), does));
            }
            Spec::ServiceEntry(spec) => {
                let does = "is one more answer for clients of other namespaces that ask for it";
                messages.extend(takes(index, object, (&spec.hosts, &spec.export_to), does));
            }
            _ => {}
        }
    }
}

/// The first host of `object` that is another namespace's Service, if any client there hears of it.
fn takes(
    index: &Index<'_>,
    object: &Object,
    (hosts, export_to): (&[Host], &[ExportTo]),
    does: &str,
) -> Option<Message> {
    let own = &*object.meta.namespace;
    // Who writes there may do so for all.
    if own == index.options.root_namespace {
        return None;
    }
    let hears = exported(export_to, own).is_none_or(|all| all.iter().any(|it| *it != own && !it.is_empty()));
    let (at, owner) = hosts.iter().enumerate().filter(|_| hears).find_map(|(at, host)| {
        let owner = index.hosts.owner(&host.qualified(own, CLUSTER_DOMAIN))?;
        (*owner.meta.namespace != *own).then_some((at, owner))
    })?;
    let service = quote(&format!("{}/{}", owner.meta.namespace, owner.meta.name));
    let reason = format!("the host is the Service {service} of another namespace, and this {does}");
    let message = Message::new(Code::SchemaWarning, object, format_args!("spec.hosts[{at}]"), reason);
    Some(
        message.hint(
            "write exportTo: [.] if it is meant for clients of this namespace, or let the owner write it",
        ),
    )
}
