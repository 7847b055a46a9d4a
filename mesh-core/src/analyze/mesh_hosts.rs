//! `VirtualServices` for the same host in the mesh: unlike at gateways they are not merged there.

use std::collections::HashMap;

use super::hosts::{CLUSTER_DOMAIN, exported};
use super::index::{Index, by_age};
use super::{Code, Message};
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let mut services: Vec<_> = index
        .objects
        .iter()
        .filter_map(|object| match &object.spec {
            Spec::VirtualService(spec) if spec.applies_to_mesh() => Some((object, &**spec)),
            _ => None,
        })
        .collect();
    by_age(&mut services);
    // By the namespace that sees it, none for all.
    let mut first: HashMap<(Option<&str>, String), &Object> = HashMap::new();
    for (object, spec) in services {
        let namespace = &*object.meta.namespace;
        let scopes = exported(&spec.export_to, namespace);
        let scopes = scopes.map_or(vec![None], |names| names.into_iter().map(Some).collect());
        for (at, host) in spec.hosts.iter().enumerate() {
            let name = host.qualified(namespace, CLUSTER_DOMAIN).to_string();
            let mut taken = None;
            for scope in &scopes {
                let owner = *first.entry((*scope, name.clone())).or_insert(object);
                taken = taken.or((owner.key() != object.key()).then_some(owner));
            }
            if let Some(owner) = taken {
                let code = Code::ConflictingMeshGatewayVirtualServiceHosts;
                let reason = format!("{} is already the host of {}", quote(&name), owner.key());
                let message = Message::new(code, object, format_args!("spec.hosts[{at}]"), reason);
                messages
                    .push(message.hint("only one of them is used in the mesh: merge their rules into one"));
            }
        }
    }
}
