//! Which routes are attached to which listeners.

use super::listeners::host;
use super::{GROUP, Gateway, Listener, Name, Owner, OwnerKind, Resources, Route};
use crate::resource::gateway_api::{Hostname, ParentRef};
use crate::resource::value::Host;

/// A route at a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The listener's place among those of its Gateway.
    pub listener: usize,
    /// The hosts that both are for; never none.
    pub hosts: Vec<Host>,
}

/// Why a route is attached to nothing of a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejected {
    /// It has no listener of that name and port.
    NoMatchingParent,
    /// None of these lets it in.
    NotAllowedByListeners,
    /// None of these is for any of its hosts.
    NoMatchingListenerHostname,
    /// A route of another kind, which comes before it, has one of its hosts on each of these. The API asks for a status
    /// without naming a reason.
    HostnameConflict,
    /// None of its rules can be used.
    UnsupportedValue,
}

impl<'a> Resources<'a> {
    /// The Gateway that `parent` of `route` names, or whose listeners it does that are of a ListenerSet; `None` if it is
    /// none of ours.
    pub fn gateway_of(&self, route: &Route<'a>, parent: &ParentRef) -> Option<Gateway<'a>> {
        let owner = owner_of(route, parent)?;
        match owner.kind {
            OwnerKind::Gateway => self.gateway(owner.name),
            OwnerKind::ListenerSet => self.gateway(self.sets.get(&owner.name)?.gateway()?),
        }
    }

    /// Where `route` is attached at the Gateway that [`Self::gateway_of`] finds for `parent`, and whose `listeners` these
    /// are. Those of a ListenerSet are there for whoever names the ListenerSet, and nobody else.
    pub fn attach(
        &self,
        route: &Route<'a>,
        parent: &ParentRef,
        listeners: &[Listener<'a>],
    ) -> Result<Vec<Attachment>, Rejected> {
        let mut best = Rejected::NoMatchingParent;
        let mut attached = Vec::new();
        let owner = owner_of(route, parent);
        for (number, listener) in listeners.iter().enumerate() {
            let spec = listener.spec;
            if owner != Some(listener.owner)
                || parent.section_name.as_ref().is_some_and(|name| *name != spec.name)
                || parent.port.is_some_and(|port| port != spec.port)
            {
                continue;
            }
            best = best.max(Rejected::NotAllowedByListeners);
            if !self.lets_in(route, listener) {
                continue;
            }
            best = best.max(Rejected::NoMatchingListenerHostname);
            let hosts = common(route, spec.hostname.as_ref());
            if !hosts.is_empty() {
                attached.push(Attachment { listener: number, hosts });
            }
        }
        match attached.is_empty() {
            true => Err(best),
            false if route.is_all_faulty() => Err(Rejected::UnsupportedValue),
            false => Ok(attached),
        }
    }

    fn lets_in(&self, route: &Route<'a>, listener: &Listener<'a>) -> bool {
        let same = route.namespace() == listener.owner.name.0;
        let namespaces = &listener.spec.allowed_routes.namespaces;
        listener.fault.is_none()
            && listener.kinds.contains(&route.kind())
            && namespaces.admit(same, &self.labels(route.namespace()))
    }
}

/// The hosts that a route and a listener are both for: of two that overlap, the narrower.
fn common(route: &Route<'_>, listener: Option<&Hostname>) -> Vec<Host> {
    let of_listener = || listener.map_or(Host::Any, host);
    if route.hostnames().is_empty() {
        return vec![of_listener()];
    }
    let narrower = |own: &Hostname| match listener {
        None => Some(host(own)),
        Some(other) => own.intersection(other).map(host),
    };
    let mut hosts: Vec<Host> = route.hostnames().iter().filter_map(narrower).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// Whose listeners a parent means.
fn owner_of<'s>(route: &Route<'s>, parent: &'s ParentRef) -> Option<Owner<'s>> {
    let name: Name<'s> = (parent.namespace.as_deref().unwrap_or(route.namespace()), &parent.name);
    let kind = [OwnerKind::Gateway, OwnerKind::ListenerSet].into_iter();
    let kind = kind.filter(|_| *parent.group == *GROUP).find(|kind| *parent.kind == *kind.name())?;
    Some(Owner { kind, name })
}
