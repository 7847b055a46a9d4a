//! Which listeners a Gateway has: its own, and those that ListenerSets add to it.

use std::collections::{BTreeMap, BTreeSet};

use super::{GROUP, Gateway, ListenerSet, Name, Resources, RouteKind, place};
use crate::resource::gateway_api::{self as api, Hostname, Protocol, TlsMode};
use crate::resource::value::{Host, Port};

/// A listener of a Gateway.
#[derive(Debug)]
pub struct Listener<'a> {
    /// What it says.
    pub spec: &'a api::Listener,
    /// Whose it is.
    pub owner: Owner<'a>,
    /// The kinds of routes that may attach, in the order in which the protocol has them.
    pub kinds: Vec<RouteKind>,
    /// Whether it asks for kinds that are none, or do not fit its protocol.
    pub has_invalid_kinds: bool,
    /// Why it serves nothing.
    pub fault: Option<ListenerFault>,
}

/// An object that has listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner<'a> {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its namespace and name.
    pub name: Name<'a>,
}

/// The kinds of objects that have listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    /// Gateway.
    Gateway,
    /// ListenerSet.
    ListenerSet,
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

impl<'a> Resources<'a> {
    /// The listeners of a Gateway, those that come before others first: its own in their order, then those of the
    /// ListenerSets that it takes, the oldest first.
    pub fn listeners(&self, gateway: &Gateway<'a>) -> Vec<Listener<'a>> {
        let own = gateway.owner();
        let mut all = All::default();
        gateway.spec.listeners.iter().for_each(|spec| all.add(own, spec));
        let adds = |set: &&ListenerSet<'_>| set.gateway() == Some(gateway.name()) && self.takes(gateway, set);
        let mut sets: Vec<_> = self.sets.values().filter(adds).collect();
        sets.sort_by_cached_key(|set| place(set.object));
        for set in sets {
            let owner = Owner { kind: OwnerKind::ListenerSet, name: set.name() };
            set.spec.listeners.iter().for_each(|spec| all.add(owner, spec));
        }
        all.listeners
    }

    /// Whether a Gateway lets a ListenerSet that names it add listeners.
    pub fn takes(&self, gateway: &Gateway<'a>, set: &ListenerSet<'a>) -> bool {
        let namespace = set.name().0;
        let same = namespace == gateway.name().0;
        gateway.spec.allowed_listeners.namespaces.admit(same, &self.labels(namespace))
    }
}

impl Listener<'_> {
    /// The hosts that it is for.
    pub fn host(&self) -> Host {
        self.spec.hostname.as_ref().map_or(Host::Any, host)
    }
}

impl OwnerKind {
    /// As `kind:` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
        }
    }
}

/// Listeners, and what each port is taken by: a Gateway may have thousands of them.
#[derive(Default)]
struct All<'a> {
    listeners: Vec<Listener<'a>>,
    ports: BTreeMap<Port, (Transport, BTreeSet<Option<&'a Hostname>>)>,
    /// Those of UDP, which are in the way of nobody else's.
    udp_ports: BTreeSet<Port>,
}

impl<'a> All<'a> {
    fn add(&mut self, owner: Owner<'a>, spec: &'a api::Listener) {
        let (kinds, has_invalid_kinds) = kinds(spec);
        let fault = self.take(spec).err();
        self.listeners.push(Listener { spec, owner, kinds, has_invalid_kinds, fault });
    }

    fn take(&mut self, spec: &'a api::Listener) -> Result<(), ListenerFault> {
        if spec.protocol == Protocol::Udp {
            let is_first = self.udp_ports.insert(spec.port);
            return if is_first { Ok(()) } else { Err(ListenerFault::ProtocolConflict) };
        }
        let own = transport(&spec.protocol).ok_or(ListenerFault::UnsupportedProtocol)?;
        let Some((transport, hosts)) = self.ports.get_mut(&spec.port) else {
            self.ports.insert(spec.port, (own, BTreeSet::from([spec.hostname.as_ref()])));
            return Ok(());
        };
        if *transport != own || own == Transport::Tcp {
            return Err(ListenerFault::ProtocolConflict);
        }
        if hosts.insert(spec.hostname.as_ref()) { Ok(()) } else { Err(ListenerFault::HostnameConflict) }
    }
}

pub(super) fn host(name: &Hostname) -> Host {
    // The API's names are a subset of ours, but for labels of more than 63 characters, which no client can ask for.
    Host::parse(name).unwrap_or_else(|_| Host::Name(std::sync::Arc::from(&**name)))
}

/// What tells the listeners of one TCP port apart.
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

/// The kinds that may attach to a listener, and whether it names others.
fn kinds(spec: &api::Listener) -> (Vec<RouteKind>, bool) {
    let terminates = spec.tls.as_ref().is_none_or(|tls| tls.mode == TlsMode::Terminate);
    let fitting: &[RouteKind] = match spec.protocol {
        Protocol::Http | Protocol::Https => &[RouteKind::Http, RouteKind::Grpc],
        Protocol::Tls if terminates => &[RouteKind::Tls, RouteKind::Tcp],
        Protocol::Tls => &[RouteKind::Tls],
        Protocol::Tcp => &[RouteKind::Tcp],
        Protocol::Udp => &[RouteKind::Udp],
        Protocol::Hbone | Protocol::Other(_) => &[],
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
