//! `ServiceEntries`: addresses where nothing else tells connections apart, and agreement about ports.

use std::collections::HashMap;

use super::hosts::exported;
use super::index::{Index, by_age};
use super::{Code, Message};
use crate::resource::networking::ServiceEntrySpec;
use crate::resource::value::Protocol;
use crate::resource::{Object, Spec, quote};

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
    let mut first = First::new();
    for (object, entry) in entries {
        let scopes = exported(&entry.export_to, &object.meta.namespace);
        let scopes: Vec<_> = scopes.map_or(vec![None], |names| names.into_iter().map(Some).collect());
        let ports = entry.ports.iter().enumerate();
        let pairs = ports.flat_map(|port| entry.hosts.iter().map(move |host| (port, host)));
        let conflicts = pairs.filter_map(|((at, port), host)| {
            let key = |scope| (scope, host.to_string(), port.number.get());
            // What everybody sees is seen by one namespace as well.
            let everywhere = first.get(&key(None)).copied();
            let own = scopes.iter().map(|scope| *first.entry(key(*scope)).or_insert((object, port.protocol)));
            let mut known: Vec<_> = own.chain(everywhere).collect();
            known.retain(|(_, protocol)| *protocol != port.protocol);
            known.first().map(|(other, _)| (at, host, *other))
        });
        // All are looked at, for those that come later; one is told.
        if let Some((at, host, other)) = conflicts.collect::<Vec<_>>().first() {
            let host = quote(&host.to_string());
            let reason = format!("{} says something else about this port of {host}", other.key());
            let field = format_args!("spec.ports[{at}].protocol");
            messages.push(Message::new(Code::ConflictingServiceEntryProtocol, object, field, reason));
        }
    }
}

/// Who has first said what a port of a host speaks, by the namespace that sees it; none for all.
type First<'a> = HashMap<(Option<&'a str>, String, u16), (&'a Object, Option<Protocol>)>;

/// Switches the mesh's own addresses off, by `false`.
const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";
