//! Which listeners there are, and which routes are attached to them.

use super::{GROUP, Gateway, Name, Resources, Route, RouteKind};
use crate::resource::gateway_api::{self as api, Hostname, ParentRef, Protocol, TlsMode};
use crate::resource::value::Host;

/// A listener of a Gateway.
#[derive(Debug)]
pub struct Listener<'a> {
    /// What it says.
    pub spec: &'a api::Listener,
    /// The kinds of routes that may attach, in the order in which the protocol has them.
    pub kinds: Vec<RouteKind>,
    /// Whether it asks for kinds that are none, or do not fit its protocol.
    pub has_invalid_kinds: bool,
    /// Why it serves nothing.
    pub fault: Option<ListenerFault>,
}

/// Why a listener serves nothing, whatever is attached to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerFault {
    /// Nobody here speaks it.
    UnsupportedProtocol,
    /// An earlier listener has the port, and speaks something else there.
    ProtocolConflict,
    /// An earlier listener has the port and the host.
    HostnameConflict,
}

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
}

impl<'a> Gateway<'a> {
    /// Its listeners, in order.
    pub fn listeners(&self) -> Vec<Listener<'a>> {
        let mut all: Vec<Listener<'a>> = Vec::new();
        for spec in &self.spec.listeners {
            let (kinds, has_invalid_kinds) = kinds(spec);
            let fault = match transport(&spec.protocol) {
                None => Some(ListenerFault::UnsupportedProtocol),
                Some(own) => {
                    all.iter().filter(|it| it.fault.is_none()).find_map(|it| conflict(own, spec, it.spec))
                }
            };
            all.push(Listener { spec, kinds, has_invalid_kinds, fault });
        }
        all
    }
}

impl Listener<'_> {
    /// The hosts that it is for.
    pub fn host(&self) -> Host {
        self.spec.hostname.as_ref().map_or(Host::Any, host)
    }
}

impl<'a> Resources<'a> {
    /// The Gateway that `parent` of `route` names; `None` if it is none of ours.
    pub fn gateway_of(&self, route: &Route<'a>, parent: &ParentRef) -> Option<Gateway<'a>> {
        let name: Name<'_> = (parent.namespace.as_deref().unwrap_or(route.namespace()), &parent.name);
        let is_gateway = *parent.group == *GROUP && *parent.kind == *"Gateway";
        is_gateway.then(|| self.gateway(name)).flatten()
    }

    /// Where `route` is attached at `gateway`, which `parent` names and whose `listeners` these are.
    pub fn attach(
        &self,
        route: &Route<'a>,
        parent: &ParentRef,
        (gateway, listeners): (&Gateway<'a>, &[Listener<'a>]),
    ) -> Result<Vec<Attachment>, Rejected> {
        let mut best = Rejected::NoMatchingParent;
        let mut attached = Vec::new();
        for (number, listener) in listeners.iter().enumerate() {
            let spec = listener.spec;
            if parent.section_name.as_ref().is_some_and(|name| *name != spec.name)
                || parent.port.is_some_and(|port| port != spec.port)
            {
                continue;
            }
            best = best.max(Rejected::NotAllowedByListeners);
            if !self.lets_in(route, gateway, listener) {
                continue;
            }
            best = best.max(Rejected::NoMatchingListenerHostname);
            let hosts = common(route, spec.hostname.as_ref());
            if !hosts.is_empty() {
                attached.push(Attachment { listener: number, hosts });
            }
        }
        if attached.is_empty() { Err(best) } else { Ok(attached) }
    }

    fn lets_in(&self, route: &Route<'a>, gateway: &Gateway<'a>, listener: &Listener<'a>) -> bool {
        let same = route.namespace() == gateway.name().0;
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

fn host(name: &Hostname) -> Host {
    // The API's names are a subset of ours, but for labels of more than 63 characters, which no client can ask for.
    Host::parse(name).unwrap_or_else(|_| Host::Name(std::sync::Arc::from(&**name)))
}

/// What tells the listeners of one port apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// The host of each request.
    Http,
    /// The name in the handshake.
    Tls,
    /// Nothing.
    Tcp,
}

fn transport(protocol: &Protocol) -> Option<Transport> {
    match protocol {
        Protocol::Http => Some(Transport::Http),
        Protocol::Https | Protocol::Tls => Some(Transport::Tls),
        Protocol::Tcp => Some(Transport::Tcp),
        Protocol::Udp | Protocol::Hbone | Protocol::Other(_) => None,
    }
}

fn conflict(own: Transport, spec: &api::Listener, other: &api::Listener) -> Option<ListenerFault> {
    if spec.port != other.port {
        return None;
    }
    if transport(&other.protocol) != Some(own) || own == Transport::Tcp {
        return Some(ListenerFault::ProtocolConflict);
    }
    (spec.hostname == other.hostname).then_some(ListenerFault::HostnameConflict)
}

/// The kinds that may attach to a listener, and whether it names others.
fn kinds(spec: &api::Listener) -> (Vec<RouteKind>, bool) {
    let terminates = spec.tls.as_ref().is_none_or(|tls| tls.mode == TlsMode::Terminate);
    let fitting: &[RouteKind] = match spec.protocol {
        Protocol::Http | Protocol::Https => &[RouteKind::Http, RouteKind::Grpc],
        Protocol::Tls if terminates => &[RouteKind::Tls, RouteKind::Tcp],
        Protocol::Tls => &[RouteKind::Tls],
        Protocol::Tcp => &[RouteKind::Tcp],
        Protocol::Udp | Protocol::Hbone | Protocol::Other(_) => &[],
    };
    let wanted = &spec.allowed_routes.kinds;
    if wanted.is_empty() {
        return (fitting.to_vec(), false);
    }
    let named = |it: &api::RouteGroupKind| {
        let kind = RouteKind::named(&it.kind).filter(|_| *it.group == *GROUP);
        kind.filter(|kind| fitting.contains(kind))
    };
    let mut kinds: Vec<RouteKind> = wanted.iter().filter_map(named).collect();
    let has_invalid = kinds.len() < wanted.len();
    kinds.sort_unstable();
    kinds.dedup();
    (kinds, has_invalid)
}
