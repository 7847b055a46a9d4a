//! Routes of the Gateway API whose parents are Services: rules for requests and connections of clients in the mesh.
//!
//! A route of the Service's own namespace is for everybody. One of another namespace is for clients of that namespace, and
//! takes the place of the Service's own there. Where there is a route, `VirtualServices` have no say.

use std::collections::BTreeSet;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use super::index::Entry;
use super::{ApiRules, Client, StreamRoute, StreamTable};
use crate::resource::ObjectKey;
use crate::resource::value::Host;

/// A route that has Services for parents.
#[derive(Debug)]
pub struct MeshRoute {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its parents; never none.
    pub parents: Vec<Parent>,
    /// What it says.
    pub rules: MeshRules,
    /// Other namespaces that it names something of: what they permit makes a difference.
    pub refers_to: BTreeSet<Arc<str>>,
}

/// What a route says.
#[derive(Debug)]
pub enum MeshRules {
    /// About requests.
    Requests(ApiRules),
    /// About connections.
    Connections(MeshStreams),
}

/// What a route says about connections.
#[derive(Debug)]
pub struct MeshStreams {
    /// `metadata.creationTimestamp`, seconds since the Unix epoch; the oldest route comes first, then the first by name.
    pub created: Option<i64>,
    /// Only those whose TLS asks for one of these names; none means all.
    pub names: Vec<Host>,
    /// Where they go; `None` for a rule that leads nowhere.
    pub route: Option<Arc<StreamRoute>>,
}

/// A Service that a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its full name.
    pub host: Arc<str>,
    /// Only this port of it.
    pub port: Option<u16>,
}

/// All such routes. Cheap to clone; a change costs what it is about.
#[derive(Debug, Clone, Default)]
pub(super) struct MeshRoutes {
    by_name: HashTrieMapSync<Arc<ObjectKey>, Arc<MeshRoute>>,
    by_service: HashTrieMapSync<Arc<str>, Arc<[Arc<MeshRoute>]>>,
}

impl MeshRoute {
    /// Whether it is for clients of its own namespace only.
    pub(super) fn is_of_consumers(&self) -> bool {
        self.parents.iter().any(|parent| parent.namespace != self.namespace)
    }
}

impl MeshRoutes {
    /// Adds or replaces a route, or takes it out.
    pub(super) fn set(&mut self, key: &Arc<ObjectKey>, route: Option<MeshRoute>) {
        if let Some(old) = self.by_name.get(key).cloned() {
            self.by_name.remove_mut(key);
            for host in hosts(&old) {
                let known = self.by_service.get(host).map(|it| &**it).unwrap_or_default();
                let rest: Arc<[_]> = known.iter().filter(|it| !Arc::ptr_eq(it, &old)).cloned().collect();
                if rest.is_empty() {
                    self.by_service.remove_mut(host);
                } else {
                    self.by_service.insert_mut(Arc::clone(host), rest);
                }
            }
        }
        let Some(new) = route.map(Arc::new) else { return };
        for host in hosts(&new) {
            let known = self.by_service.get(host).map(|it| &**it).unwrap_or_default();
            let all = known.iter().cloned().chain([Arc::clone(&new)]).collect();
            self.by_service.insert_mut(Arc::clone(host), all);
        }
        self.by_name.insert_mut(Arc::clone(key), new);
    }

    /// The routes that refer to something in one of these namespaces.
    pub(super) fn referring_to(&self, namespaces: &BTreeSet<Arc<str>>) -> Vec<Arc<ObjectKey>> {
        let referring = self.by_name.iter().filter(|(_, route)| !route.refers_to.is_disjoint(namespaces));
        referring.map(|(key, _)| Arc::clone(key)).collect()
    }

    /// Those for a service.
    pub(super) fn about(&self, host: &str) -> Arc<[Arc<MeshRoute>]> {
        self.by_service.get(host).cloned().unwrap_or_default()
    }
}

/// The rules of `routes`, which are about the service `host`, for requests of `client` to `port` of it; `None` if none of
/// them is for these.
pub(super) fn entries(
    routes: &[Arc<MeshRoute>],
    host: &str,
    client: Client<'_>,
    port: u16,
) -> Option<Vec<Entry>> {
    let rules = applicable(routes, (host, port), client, |rules| match rules {
        MeshRules::Requests(rules) => Some(rules),
        MeshRules::Connections(_) => None,
    });
    (!rules.is_empty()).then(|| ApiRules::merge(rules))
}

/// The same for connections: those by name, and those for all others.
pub(super) fn streams(
    routes: &[Arc<MeshRoute>],
    host: &str,
    client: Client<'_>,
    port: u16,
) -> Option<StreamTable> {
    let mut rules = applicable(routes, (host, port), client, |rules| match rules {
        MeshRules::Requests(_) => None,
        MeshRules::Connections(rules) => rules.route.as_ref().map(|route| (rules, route)),
    });
    let place = |(rules, route): &(&MeshStreams, &Arc<StreamRoute>)| {
        let name = &route.virtual_service;
        (rules.created.unwrap_or(i64::MAX), Arc::clone(&name.namespace), Arc::clone(&name.name))
    };
    rules.sort_by_cached_key(place);
    if rules.is_empty() {
        return None;
    }
    let named = rules
        .iter()
        .flat_map(|(rules, route)| rules.names.iter().map(|name| (name.clone(), Arc::clone(route))));
    let others = rules.iter().filter(|(rules, _)| rules.names.is_empty()).map(|(_, route)| Arc::clone(route));
    Some(StreamTable::of_routes(named, others))
}

/// What the routes that are for a client and a port say of one kind: those of consumers, if there are any.
fn applicable<'r, T>(
    routes: &'r [Arc<MeshRoute>],
    (host, port): (&str, u16),
    client: Client<'_>,
    of_kind: impl Fn(&'r MeshRules) -> Option<T>,
) -> Vec<T> {
    let is_for = |parent: &&Parent| *parent.host == *host && parent.port.is_none_or(|own| own == port);
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    for route in routes {
        let mut parents = route.parents.iter().filter(is_for);
        let Some(parent) = parents.next() else { continue };
        if parent.namespace == route.namespace {
            own.extend(of_kind(&route.rules));
        } else if *route.namespace == *client.namespace {
            theirs.extend(of_kind(&route.rules));
        }
    }
    if theirs.is_empty() { own } else { theirs }
}

/// The services that a route is about, each once.
fn hosts(route: &MeshRoute) -> BTreeSet<&Arc<str>> {
    route.parents.iter().map(|parent| &parent.host).collect()
}
