//! `ServiceEntries`: addresses where nothing else tells connections apart, and agreement about ports.

use std::collections::HashMap;

use super::conflict::{Claim, Conflicts};
use super::hosts::exported;
use super::index::{Index, by_age};
use super::{Code, Message};
use crate::resource::networking::ServiceEntrySpec;
use crate::resource::value::Protocol;
use crate::resource::{Object, ObjectKey, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let mut entries: Vec<_> = index
        .objects
        .iter()
        .filter_map(|object| match &object.spec {
            Spec::ServiceEntry(entry) => Some((object, &**entry)),
            _ => None,
        })
        .collect();
    for (object, entry) in &entries {
        addresses(object, entry, messages);
    }
    by_age(&mut entries);
    protocols(&entries, messages);
}

/// The mesh makes an address up unless it is told not to.
fn addresses(object: &Object, entry: &ServiceEntrySpec, messages: &mut Vec<Message>) {
    let allocates = object.meta.labels.get(AUTO_ALLOCATE).is_none_or(|value| value != "false");
    if allocates || !entry.addresses.is_empty() {
        return;
    }
    for (at, port) in entry.ports.iter().enumerate() {
        if matches!(port.protocol, None | Some(Protocol::Tcp)) {
            let reason = format!("port {} is TCP, which is only told apart by address", port.number);
            let field = format_args!("spec.ports[{at}]");
            let message = Message::new(Code::ServiceEntryAddressesRequired, object, field, reason);
            messages.push(message.hint(format!("add spec.addresses, or remove the label {AUTO_ALLOCATE}")));
        }
    }
}

/// One port of one host speaks one protocol, wherever it is seen.
fn protocols<'a>(entries: &[(&'a Object, &'a ServiceEntrySpec)], messages: &mut Vec<Message>) {
    let hint = "clients get whichever comes first: say the same in both";
    let mut conflicts = Conflicts::new(Code::ConflictingServiceEntryProtocol, hint, messages);
    let mut first = First::new();
    for (object, entry) in entries {
        let scopes = exported(&entry.export_to, &object.meta.namespace);
        let scopes: Vec<_> = scopes.map_or(vec![None], |names| names.into_iter().map(Some).collect());
        let ports = entry.ports.iter().enumerate();
        for ((at, port), host) in ports.flat_map(|port| entry.hosts.iter().map(move |host| (port, host))) {
            let own = (port.protocol, Claim { object, field: format!("spec.ports[{at}].protocol") });
            let key = |scope| (scope, host.to_string(), port.number.get());
            for scope in &scopes {
                first.entry(key(*scope)).or_insert_with(|| own.clone());
            }
            // What everybody sees is seen by one namespace as well.
            let known = scopes.iter().copied().chain([None]).filter_map(|scope| first.get(&key(scope)));
            let mut others =
                known.filter(|(protocol, claim)| *protocol != port.protocol && !claim.is_of(object));
            if let Some((_, other)) = others.next() {
                let host = quote(&host.to_string());
                let reason = |other: &ObjectKey| {
                    format!("{other} says something else about port {} of {host}", port.number)
                };
                conflicts.tell([&own.1, other], reason);
            }
        }
    }
}

/// Who has first said what a port of a host speaks, by the namespace that sees it; none for all.
type First<'a> = HashMap<(Option<&'a str>, String, u16), (Option<Protocol>, Claim<'a>)>;

/// Switches the mesh's own addresses off, by `false`.
const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";
