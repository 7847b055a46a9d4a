//! All `VirtualServices`, compiled as far as that is the same for everybody.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::action::{Home, Shared};
use super::condition::Condition;
use super::index::Entry;
use super::stream::Streams;
use super::table::rank;
use super::{Client, GatewayServer, MatchInfo, ResourceName, Route, VirtualService, delegate};
use crate::model::Exported;
use crate::resource::networking::VirtualServiceSpec;
use crate::resource::networking::virtual_service::{HttpMatch, HttpRoute};
use crate::resource::value::{ExportTo, GatewayName, Host, Port};

/// All `VirtualServices` of the mesh, in the order in which they count. Made once for each version of them; tables for
/// clients are made from it.
#[derive(Debug, Default)]
pub struct Virtuals {
    services: Vec<Virtual>,
    /// Where the hosts without a wildcard stand, by name.
    named: HashMap<Arc<str>, Vec<usize>>,
    /// Those with a wildcard or an address among their hosts.
    others: Vec<usize>,
    cluster_domain: Arc<str>,
}

/// What the meaning of a VirtualService depends on besides itself.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// What short names end with after `svc`, normally `cluster.local`.
    pub cluster_domain: &'a str,
    /// `defaultVirtualServiceExportTo` of `MeshConfig`: who sees those that do not say. None means everybody.
    pub export_to: &'a [ExportTo],
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
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self { cluster_domain: "cluster.local", export_to: &[] }
    }
}

impl Virtuals {
    /// Compiles `services`, which may come in any order.
    pub fn of<'v>(services: impl IntoIterator<Item = &'v VirtualService>, settings: &Settings<'_>) -> Self {
        let mut services: Vec<&VirtualService> = services.into_iter().collect();
        let age = |it: &VirtualService| it.created.unwrap_or(i64::MAX);
        services.sort_by(|a, b| (age(a), &a.name, &a.namespace).cmp(&(age(b), &b.name, &b.namespace)));
        let delegates = delegate::Delegates::of(&services, settings);
        let shared = Shared::default();
        let mut virtuals = Self { cluster_domain: settings.cluster_domain.into(), ..Self::default() };
        for service in services.into_iter().filter(|service| !service.spec.is_delegate()) {
            virtuals.add(Virtual::of(service, &delegates, settings, &shared));
        }
        virtuals
    }

    /// Those that are for `audience`, in order.
    pub(super) fn seen_by(&self, audience: Audience<'_>) -> impl Iterator<Item = &Virtual> {
        self.services.iter().filter(move |it| it.is_seen_by(audience))
    }

    /// Those about the service `host` that are for `audience`: the most specific host first, then the oldest.
    pub(super) fn by_specificity(
        &self,
        host: &str,
        audience: Audience<'_>,
    ) -> impl Iterator<Item = &Virtual> {
        let seen = self.about(host).filter(|it| it.is_seen_by(audience));
        let mut about: Vec<_> = seen.filter_map(|it| Some((specificity(it, host)?, it))).collect();
        // Stable: of equals the oldest stays first.
        about.sort_by_key(|(specificity, _)| std::cmp::Reverse(*specificity));
        about.into_iter().map(|(_, it)| it)
    }

    /// Those with a host that may be or cover `host`, in order.
    fn about(&self, host: &str) -> impl Iterator<Item = &Virtual> {
        let named = self.named.get(host).map(Vec::as_slice).unwrap_or_default();
        let mut all: Vec<usize> = named.iter().chain(&self.others).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().filter_map(|at| self.services.get(at))
    }

    /// All matches there are, what stands behind catch-alls included.
    #[cfg(test)]
    pub(super) fn entries_of_all(&self) -> Vec<Entry> {
        let rules = self.services.iter().flat_map(|service| &service.rules);
        let entry = |route: &Arc<Route>, it: &Match| {
            Entry::new(Arc::clone(&it.condition), Arc::clone(route), Arc::clone(&it.info))
        };
        rules.flat_map(|rule| rule.matches.iter().map(|it| entry(&rule.route, it))).collect()
    }

    pub(super) fn cluster_domain(&self) -> &str {
        &self.cluster_domain
    }

    fn add(&mut self, service: Virtual) {
        let at = self.services.len();
        for host in &service.hosts {
            match host {
                Host::Name(name) => self.named.entry(Arc::clone(name)).or_default().push(at),
                Host::Any | Host::Suffix(_) | Host::Address(_) => self.others.push(at),
            }
        }
        self.services.push(service);
    }
}

impl Virtual {
    fn of(
        service: &VirtualService,
        delegates: &delegate::Delegates<'_>,
        settings: &Settings<'_>,
        shared: &Shared,
    ) -> Self {
        let VirtualService { namespace, name, spec, .. } = service;
        let name = ResourceName { namespace: Arc::clone(namespace), name: Arc::clone(name) };
        let name = Arc::new(name);
        let rules = delegates.rules(service).into_iter().filter_map(|(rule, namespace)| {
            let home = Home { name: &name, namespace, cluster_domain: settings.cluster_domain, shared };
            Rule::of(&rule, home)
        });
        let home = Home { name: &name, namespace, cluster_domain: settings.cluster_domain, shared };
        let streams = Streams::of(spec, home);
        Self {
            rules: rules.collect(),
            streams,
            hosts: spec.hosts.iter().map(|host| host.qualified(namespace, settings.cluster_domain)).collect(),
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
        self.exported.is_to(audience.client.namespace) && self.is_at(&self.gateways, audience.gateway)
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
pub(super) fn exported(spec: &VirtualServiceSpec, namespace: &Arc<str>, settings: &Settings<'_>) -> Exported {
    let given = Some(spec.export_to.as_slice()).filter(|given| !given.is_empty());
    let given = given.unwrap_or(settings.export_to);
    if given.is_empty() || given.contains(&ExportTo::All) {
        return Exported::Everywhere;
    }
    let names = given.iter().filter_map(|to| match to {
        ExportTo::All | ExportTo::Nobody => None,
        ExportTo::Own => Some(Arc::clone(namespace)),
        ExportTo::Namespace(name) => Some(Arc::clone(name)),
    });
    Exported::To(names.collect())
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
