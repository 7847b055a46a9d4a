//! All `VirtualServices`, compiled as far as that is the same for everybody.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use super::action::{Home, Shared};
use super::condition::Condition;
use super::delegate::Delegates;
use super::index::Entry;
use super::mesh::{MeshRoute, MeshRoutes};
use super::stream::{StreamTable, Streams};
use super::table::rank;
use super::{Client, GatewayServer, MatchInfo, Owners, ResourceName, Route, VirtualService, delegate};
use crate::model::Exported;
use crate::resource::ObjectKey;
use crate::resource::networking::VirtualServiceSpec;
use crate::resource::networking::virtual_service::{HttpMatch, HttpRoute, Retries};
use crate::resource::value::{ExportTo, GatewayName, Host, Port};

/// All `VirtualServices` of the mesh, in the order in which they count; tables for clients are made from it. Cheap to
/// clone: versions share what is equal, and a change costs what it says and what is delegated to it, not what there is.
#[derive(Debug, Clone, Default)]
pub struct Virtuals {
    settings: Arc<Settings>,
    services: RedBlackTreeMapSync<Arc<Place>, Arc<Virtual>>,
    /// Where each is.
    places: HashTrieMapSync<ResourceName, Arc<Place>>,
    /// Where the hosts without a wildcard stand, by name.
    named: HashTrieMapSync<Arc<str>, Arc<[Arc<Place>]>>,
    /// Those with a wildcard or an address among their hosts.
    others: RedBlackTreeMapSync<Arc<Place>, ()>,
    /// Those without hosts, which others delegate to, as they were written.
    delegates: HashTrieMapSync<ResourceName, Arc<VirtualService>>,
    /// Those that delegate to others, as they were written.
    roots: HashTrieMapSync<ResourceName, Arc<VirtualService>>,
    /// Routes of the Gateway API for services.
    routes: MeshRoutes,
}

/// Where a VirtualService stands among all: the oldest first, then by name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    created: i64,
    name: Arc<str>,
    namespace: Arc<str>,
}

/// The VirtualServices that may be about one service: what a table for it is made from.
#[derive(Debug, Clone)]
pub struct About {
    /// Its full name in lower case.
    host: Arc<str>,
    services: Box<[Arc<Virtual>]>,
    /// Of the Gateway API, which come before all VirtualServices.
    routes: Arc<[Arc<MeshRoute>]>,
}

/// What the meaning of a VirtualService depends on besides itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What short names end with after `svc`, normally `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// `defaultVirtualServiceExportTo` of `MeshConfig`: who sees those that do not say. None means everybody.
    pub export_to: Vec<ExportTo>,
    /// `defaultHttpRetryPolicy` of `MeshConfig`: how requests are tried again where no rule says.
    pub retries: Option<Retries>,
}

/// A VirtualService that has hosts.
#[derive(Debug)]
pub(super) struct Virtual {
    pub(super) name: Arc<ResourceName>,
    /// With full names.
    pub(super) hosts: Vec<Host>,
    gateways: Vec<GatewayName>,
    exported: Exported,
    rules: Vec<Rule>,
    /// Those about connections.
    pub(super) streams: Streams,
}

/// A rule, and what it asks for.
#[derive(Debug)]
struct Rule {
    route: Arc<Route>,
    /// One of them must hold.
    matches: Vec<Match>,
}

#[derive(Debug)]
struct Match {
    condition: Arc<Condition>,
    info: Arc<MatchInfo>,
    whom: Whom,
}

/// Whom a match is for: what is known of a client and of where it comes in before it says anything.
#[derive(Debug)]
pub(super) struct Whom {
    port: Option<u16>,
    source_labels: BTreeMap<String, String>,
    source_namespace: Option<Box<str>>,
    /// Instead of those of the VirtualService.
    gateways: Vec<GatewayName>,
}

/// Who a table is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Audience<'a> {
    pub(super) client: Client<'a>,
    /// The port that is asked for.
    pub(super) port: u16,
    /// The gateway that is asked; none for the mesh.
    pub(super) gateway: Option<&'a ResourceName>,
    /// For waypoints: the namespaces whose rules there are, whoever asks.
    pub(super) owners: Option<Owners<'a>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cluster_domain: "cluster.local".into(), export_to: Vec::new(), retries: None }
    }
}

impl Virtuals {
    /// None yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), ..Self::default() }
    }

    /// Those of `services`, which may come in any order.
    pub fn of<'v>(services: impl IntoIterator<Item = &'v VirtualService>, settings: &Settings) -> Self {
        let mut virtuals = Self::new(settings.clone());
        virtuals.update(services.into_iter().map(|it| (it.key(), Some(it.clone()))));
        virtuals
    }

    /// What their meaning depends on besides themselves.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes in VirtualServices that are new or different, and takes out those that are gone.
    pub fn update(&mut self, changes: impl IntoIterator<Item = (ResourceName, Option<VirtualService>)>) {
        let (mut dirty, mut delegates) = (BTreeMap::new(), HashSet::new());
        for (name, service) in changes {
            self.take_out(&name);
            if self.delegates.remove_mut(&name) {
                delegates.insert(name.clone());
            }
            self.roots.remove_mut(&name);
            dirty.remove(&name);
            let Some(service) = service.map(Arc::new) else { continue };
            if service.spec.is_delegate() {
                delegates.insert(name.clone());
                self.delegates.insert_mut(name, service);
                continue;
            }
            if delegate::wanted_by(&service).next().is_some() {
                self.roots.insert_mut(name.clone(), Arc::clone(&service));
            }
            dirty.insert(name, service);
        }
        if !delegates.is_empty() {
            let touched =
                |it: &Arc<VirtualService>| delegate::wanted_by(it).any(|it| delegates.contains(&it));
            let roots = self.roots.iter().filter(|(_, root)| touched(root));
            dirty.extend(roots.map(|(name, root)| (name.clone(), Arc::clone(root))));
        }
        let shared = Shared::default();
        for (name, service) in dirty {
            self.take_out(&name);
            self.put(name, &service, &shared);
        }
    }

    /// Those that are for `audience`, in order.
    pub(super) fn seen_by(&self, audience: Audience<'_>) -> impl Iterator<Item = &Virtual> {
        self.services.values().map(|it| &**it).filter(move |it| it.is_seen_by(audience))
    }

    /// Those with a host that may be or cover the service `host`, a full name in lower case; in order.
    pub fn about(&self, host: &str) -> About {
        let named = self.named.get(host).map(|places| &**places).unwrap_or_default();
        let mut all: Vec<_> = named.iter().chain(self.others.keys()).collect();
        all.sort_unstable();
        all.dedup();
        let services = all.into_iter().filter_map(|at| self.services.get(at)).cloned();
        About { host: host.into(), services: services.collect(), routes: self.routes.about(host) }
    }

    /// Without VirtualServices; routes of the Gateway API stay.
    #[must_use]
    pub fn cleared(&self, settings: Settings) -> Self {
        Self { routes: self.routes.clone(), ..Self::new(settings) }
    }

    /// Adds, replaces or takes out a route of the Gateway API.
    pub fn set_route(&mut self, key: &Arc<ObjectKey>, route: Option<MeshRoute>) {
        self.routes.set(key, route);
    }

    /// The routes of the Gateway API that refer to something in one of these namespaces.
    pub fn routes_referring_to(&self, namespaces: &BTreeSet<Arc<str>>) -> Vec<Arc<ObjectKey>> {
        self.routes.referring_to(namespaces)
    }

    /// All matches there are, what stands behind catch-alls included.
    #[cfg(test)]
    pub(super) fn entries_of_all(&self) -> Vec<Entry> {
        let rules = self.services.values().flat_map(|service| &service.rules);
        let entry = |route: &Arc<Route>, it: &Match| {
            Entry::new(Arc::clone(&it.condition), Arc::clone(route), Arc::clone(&it.info))
        };
        rules.flat_map(|rule| rule.matches.iter().map(|it| entry(&rule.route, it))).collect()
    }

    fn put(&mut self, name: ResourceName, service: &VirtualService, shared: &Shared) {
        let compiled = Virtual::of(service, &self.delegates, &self.settings, shared);
        let created = service.created.unwrap_or(i64::MAX);
        let place = Place { created, name: Arc::clone(&name.name), namespace: Arc::clone(&name.namespace) };
        let place = Arc::new(place);
        for host in &compiled.hosts {
            match host {
                Host::Name(host) => {
                    let known = self.named.get(host).map(|places| &**places).unwrap_or_default();
                    let others = known.iter().filter(|it| **it != place).cloned();
                    let places = others.chain([Arc::clone(&place)]).collect();
                    self.named.insert_mut(Arc::clone(host), places);
                }
                Host::Any | Host::Suffix(_) | Host::Address(_) => {
                    self.others.insert_mut(Arc::clone(&place), ());
                }
            }
        }
        self.services.insert_mut(Arc::clone(&place), Arc::new(compiled));
        self.places.insert_mut(name, place);
    }

    fn take_out(&mut self, name: &ResourceName) {
        let Some(place) = self.places.get(name).cloned() else { return };
        self.places.remove_mut(name);
        self.others.remove_mut(&place);
        let Some(old) = self.services.get(&place).cloned() else { return };
        self.services.remove_mut(&place);
        for host in &old.hosts {
            let Host::Name(host) = host else { continue };
            let known = self.named.get(host).map(|places| &**places).unwrap_or_default();
            let rest: Arc<[_]> = known.iter().filter(|it| **it != place).cloned().collect();
            if rest.is_empty() {
                self.named.remove_mut(host);
            } else {
                self.named.insert_mut(Arc::clone(host), rest);
            }
        }
    }
}

impl About {
    /// Whether nothing of it has changed: a table that was made from one of the two is as good as one from the other.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<Virtual>, &Arc<Virtual>)| Arc::ptr_eq(one, other);
        let same_routes = self.routes.len() == other.routes.len()
            && self.routes.iter().zip(other.routes.iter()).all(|(one, other)| Arc::ptr_eq(one, other));
        self.host == other.host
            && same_routes
            && self.services.len() == other.services.len()
            && self.services.iter().zip(&other.services).all(same)
    }

    /// Whether it makes a difference to some rule who asks, by labels or namespace.
    pub fn asks_for_source(&self) -> bool {
        let asks = |whom: &Whom| whom.source_namespace.is_some() || !whom.source_labels.is_empty();
        let requests = |it: &Virtual| it.rules.iter().flat_map(|rule| &rule.matches).any(|it| asks(&it.whom));
        self.services.iter().any(|it| requests(it) || it.streams.whom().any(asks))
            || self.routes.iter().any(|route| route.is_of_consumers())
    }

    /// The rules of routes of the Gateway API for connections of `client` to `port`; `None` if there are no such routes.
    pub(super) fn streams_of_routes(&self, client: Client<'_>, port: u16) -> Option<StreamTable> {
        super::mesh::streams(&self.routes, &self.host, client, port)
    }

    /// The rules of routes of the Gateway API for requests of `client` to `port`; `None` if there are no such routes.
    pub(super) fn of_routes(&self, client: Client<'_>, port: u16) -> Option<Vec<Entry>> {
        super::mesh::entries(&self.routes, &self.host, client, port)
    }

    /// Those that are for `audience`: the one with the most specific host first, then the oldest.
    pub(super) fn by_specificity(&self, audience: Audience<'_>) -> impl Iterator<Item = &Virtual> {
        let seen = self.services.iter().map(|it| &**it).filter(|it| it.is_seen_by(audience));
        let mut about: Vec<_> = seen.filter_map(|it| Some((specificity(it, &self.host)?, it))).collect();
        // Stable: of equals the oldest stays first.
        about.sort_by_key(|(specificity, _)| std::cmp::Reverse(*specificity));
        about.into_iter().map(|(_, it)| it)
    }
}

impl VirtualService {
    /// What makes it unique.
    pub fn key(&self) -> ResourceName {
        ResourceName { namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.name) }
    }
}

impl Virtual {
    fn of(service: &VirtualService, delegates: &Delegates, settings: &Settings, shared: &Shared) -> Self {
        let VirtualService { namespace, spec, .. } = service;
        let name = Arc::new(service.key());
        let (cluster_domain, retries) = (&*settings.cluster_domain, settings.retries.as_ref());
        let rules = delegate::rules(service, delegates, settings);
        let rules = rules.into_iter().filter_map(|(rule, namespace)| {
            Rule::of(&rule, Home { name: &name, namespace, cluster_domain, retries, shared })
        });
        let home = Home { name: &name, namespace, cluster_domain, retries, shared };
        let streams = Streams::of(spec, home);
        Self {
            rules: rules.collect(),
            streams,
            hosts: spec.hosts.iter().map(|host| host.qualified(namespace, cluster_domain)).collect(),
            gateways: spec.gateways.clone(),
            exported: exported(spec, namespace, settings),
            name,
        }
    }

    /// All that a request of `audience` can match, in order; empty where there is nothing.
    pub(super) fn entries(&self, audience: Audience<'_>) -> Vec<Entry> {
        let mut entries = Vec::new();
        for rule in &self.rules {
            for it in rule.matches.iter().filter(|it| self.is_within(&it.whom, audience)) {
                let (condition, info) = (Arc::clone(&it.condition), Arc::clone(&it.info));
                let is_last = condition.is_catch_all();
                entries.push(Entry::new(condition, Arc::clone(&rule.route), info));
                if is_last {
                    return entries;
                }
            }
        }
        entries
    }

    pub(super) fn is_seen_by(&self, audience: Audience<'_>) -> bool {
        let seen = match audience.owners {
            Some(Owners { service, waypoint }) => [service, waypoint].contains(&&*self.name.namespace),
            None => self.exported.is_to(audience.client.namespace),
        };
        seen && self.is_at(&self.gateways, audience.gateway)
    }

    /// Whether a match of it is for `audience`.
    pub(super) fn is_within(&self, it: &Whom, audience: Audience<'_>) -> bool {
        let Client { namespace, labels } = audience.client;
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        it.port.is_none_or(|port| port == audience.port)
            && (it.gateways.is_empty() || self.is_at(&it.gateways, audience.gateway))
            && it.source_namespace.as_deref().is_none_or(|source| source == namespace)
            && it.source_labels.iter().all(has)
    }

    /// Whether `names`, or the mesh if there are none, has `gateway`, or the mesh if there is none.
    fn is_at(&self, names: &[GatewayName], gateway: Option<&ResourceName>) -> bool {
        let is_it = |name: &GatewayName| {
            name.resolve(&self.name.namespace) == gateway.map(|it| (&*it.namespace, &*it.name))
        };
        names.iter().any(is_it) || (names.is_empty() && gateway.is_none())
    }
}

impl Rule {
    fn of(rule: &HttpRoute, home: Home<'_>) -> Option<Self> {
        let route = Arc::new(Route::of(rule, home)?);
        let any = HttpMatch::default();
        let matches = if rule.matches.is_empty() { std::slice::from_ref(&any) } else { &rule.matches };
        let matches = matches.iter().map(|it| Match::of(it, &rule.name)).collect();
        Some(Self { route, matches })
    }
}

impl Match {
    fn of(spec: &HttpMatch, rule: &str) -> Self {
        let condition = Condition::of(spec);
        let parts = [rule, &spec.name].into_iter().filter(|part| !part.is_empty());
        let stat_prefix = Some(&*spec.stat_prefix).filter(|text| !text.is_empty());
        let info = MatchInfo {
            name: parts.collect::<Vec<_>>().join(".").into(),
            stat_prefix: stat_prefix.map(Arc::from),
            path: condition.path.matched(),
        };
        Self {
            condition: Arc::new(condition),
            info: Arc::new(info),
            whom: Whom::new(spec.port, &spec.source_labels, &spec.source_namespace, &spec.gateways),
        }
    }
}

impl Whom {
    /// Of the fields of a match of any protocol; what is empty is for everybody.
    pub(super) fn new(
        port: Option<Port>,
        source_labels: &BTreeMap<String, String>,
        source_namespace: &str,
        gateways: &[GatewayName],
    ) -> Self {
        Self {
            port: port.map(Port::get),
            source_labels: source_labels.clone(),
            source_namespace: Some(source_namespace).filter(|text| !text.is_empty()).map(Box::from),
            gateways: gateways.to_vec(),
        }
    }
}

/// Who sees a VirtualService of `namespace`.
pub(super) fn exported(spec: &VirtualServiceSpec, namespace: &Arc<str>, settings: &Settings) -> Exported {
    Exported::of(&spec.export_to, &settings.export_to, namespace)
}

/// How specific the host is by which `it` is about the service `name`; the more the larger.
fn specificity(it: &Virtual, name: &str) -> Option<usize> {
    it.hosts.iter().filter(|host| host.matches(name)).map(rank).max()
}

/// Hosts that `server` has for the namespace of `it`, as far as `it` has them too: of two that overlap, the narrower.
pub(super) fn shared<'h>(server: &'h GatewayServer, it: &'h Virtual) -> Vec<&'h Host> {
    let (own, theirs) = (&server.gateway.namespace, &it.name.namespace);
    let served = server.hosts.iter().filter(|host| host.namespace.contains(theirs, own));
    let mut shared = Vec::new();
    for served in served.map(|served| &served.host) {
        for host in &it.hosts {
            let narrower =
                if host.covers(served) { Some(served) } else { served.covers(host).then_some(host) };
            shared.extend(narrower.filter(|host| !shared.contains(host)));
        }
    }
    shared
}
