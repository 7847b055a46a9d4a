//! `VirtualServices` for the same host in the mesh: unlike at gateways they are not merged there.

use std::collections::HashMap;

use super::conflict::{Claim, Conflicts};
use super::hosts::{CLUSTER_DOMAIN, exported};
use super::index::{Index, by_age};
use super::{Code, Message};
use crate::resource::{Spec, quote};

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
    let hint = "only one of them is used in the mesh: merge their rules into one";
    let code = Code::ConflictingMeshGatewayVirtualServiceHosts;
    let mut conflicts = Conflicts::new(code, hint, messages);
    let mut first = First::default();
    for (object, spec) in services {
        let namespace = &*object.meta.namespace;
        let scopes = exported(&spec.export_to, namespace);
        let scopes: Vec<_> = scopes.map_or(vec![None], |names| names.into_iter().map(Some).collect());
        for (at, host) in spec.hosts.iter().enumerate() {
            let name = host.qualified(namespace, CLUSTER_DOMAIN).to_string();
            let claim = Claim { object, field: format!("spec.hosts[{at}]") };
            let mut others = scopes.iter().filter_map(|scope| first.other(&name, *scope, &claim));
            if let Some(other) = others.next() {
                let shown = quote(&name);
                conflicts.tell([&claim, other], |other| format!("{shown} is also the host of {other}"));
            }
            drop(others);
            scopes.iter().for_each(|scope| first.insert(&name, *scope, &claim));
        }
    }
}

/// Who is the first to be for a host.
#[derive(Default)]
struct First<'a> {
    /// By the namespace that sees it, none for all.
    by_scope: HashMap<(Option<&'a str>, String), Claim<'a>>,
    /// Whoever sees it.
    any: HashMap<String, Claim<'a>>,
}

impl<'a> First<'a> {
    fn insert(&mut self, host: &str, scope: Option<&'a str>, claim: &Claim<'a>) {
        self.by_scope.entry((scope, host.to_owned())).or_insert_with(|| claim.clone());
        self.any.entry(host.to_owned()).or_insert_with(|| claim.clone());
    }

    /// Another object for the same host that a namespace of `scope` sees as well. What all see is seen by one, too.
    fn other(&self, host: &str, scope: Option<&'a str>, claim: &Claim<'_>) -> Option<&Claim<'a>> {
        let seen = match scope {
            None => [self.any.get(host), None],
            Some(_) => [None, scope].map(|scope| self.by_scope.get(&(scope, host.to_owned()))),
        };
        seen.into_iter().flatten().find(|other| !other.is_of(claim.object))
    }
}
