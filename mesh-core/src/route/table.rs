//! The rules for one kind of client, by the host that is asked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::action::ClusterRef;
use super::condition::Condition;
use super::hosts::HostMap;
use super::index::{Entry, Index};
use super::virtuals::{Audience, Virtual};
use super::{About, Client, MatchInfo, Owners, RequestView, Route, Settings, Virtuals};
use crate::resource::value::Host;

mod gateway;
mod scopes;

pub(crate) use self::scopes::{Attached, Scope};

/// Rules for requests of one kind of client to one port. Never changes; picking does not allocate.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HostMap,
    virtual_hosts: Vec<VirtualHost>,
}

/// What a table says about a request.
#[derive(Debug, Clone, Copy)]
pub enum Picked<'t> {
    /// This rule is for it, because of this match.
    Route(&'t Arc<Route>, &'t Arc<MatchInfo>),
    /// It came in plain text to a host that is for `https` only: 301 to [`super::https_location`].
    ToHttps,
    /// The host has rules, and none is for it: 404.
    NoRoute,
    /// The host is one of another listener of the port, whose connections begin otherwise: 421.
    Misdirected,
    /// The table does not know the host. In the mesh the request goes where it was going; at a gateway: 404.
    NoHost,
}

/// A service of the registry that speaks HTTP on the port of a table.
#[derive(Debug, Clone, Copy)]
pub struct ServiceName<'a> {
    /// Its full name in lower case; that of a ServiceEntry may be a wildcard.
    pub host: &'a str,
    /// The full names of services that are aliases of it.
    pub aliases: &'a [Arc<str>],
    /// Its own addresses, which clients may use for its name.
    pub addresses: &'a [IpAddr],
    /// Whether requests are to reach it by their host, also if no rule is about it: nothing else tells that they are for it.
    pub by_host: bool,
}

/// Rules for a set of hosts.
#[derive(Debug)]
pub(super) struct VirtualHost {
    pub(super) index: Index,
    /// Requests in plain text are sent to `https`.
    pub(super) to_https: bool,
    /// Where to look next if no rule is for a request.
    pub(super) next: Option<usize>,
    /// Requests should have come by another listener.
    pub(super) misdirected: bool,
}

impl RouteTable {
    /// Rules for requests that `client` sends to port `port` of whatever address, whichever of `services` they are for: all
    /// that have that port and that it sees. As in Istio's sidecars: the host that is asked for decides, rules for a host
    /// that is no service work on port 80 only, and of several VirtualServices for one service the most specific host, then
    /// the oldest is used. A service that no VirtualService is about is not in the table, unless it is known by its host
    /// alone. Hosts that `elsewhere` holds for are services that clients know by their addresses: rules about those are left
    /// out.
    ///
    /// `None` if there is nothing to decide.
    pub fn for_mesh(
        virtuals: &Virtuals,
        client: Client<'_>,
        port: u16,
        services: &[ServiceName<'_>],
        elsewhere: &dyn Fn(&str) -> bool,
    ) -> Option<Self> {
        let audience = Audience { client, port, gateway: None, owners: None };
        let mut mesh = Mesh::new(services, audience, elsewhere);
        virtuals.seen_by(audience).for_each(|it| mesh.offer(it));
        let table = mesh.into_table(virtuals.settings());
        Some(table).filter(|table| !table.virtual_hosts.is_empty())
    }

    /// Rules for requests that `client` sends to `port` of the service that `about` is for, whatever the requests say about
    /// their host: for whoever knows the service from the address.
    ///
    /// `None` if no VirtualService is about it, and no route of the Gateway API.
    pub fn for_service(about: &About, client: Client<'_>, port: u16) -> Option<Self> {
        Self::about(about, Audience { client, port, gateway: None, owners: None })
    }

    /// [`Self::for_service`] at a waypoint, where the rules of `owners` are in force for all clients, whoever they are
    /// exported to; `client` is the workload that the request is from.
    pub fn for_waypoint(about: &About, client: Client<'_>, port: u16, owners: Owners<'_>) -> Option<Self> {
        Self::about(about, Audience { client, port, gateway: None, owners: Some(owners) })
    }

    fn about(about: &About, audience: Audience<'_>) -> Option<Self> {
        let of_virtuals = || {
            let mut entries = about.by_specificity(audience).map(|it| it.entries(audience));
            entries.find(|it| !it.is_empty())
        };
        let entries = about.of_routes(audience.client, audience.port).or_else(of_virtuals)?;
        let mut table = Self::default();
        let at = table.add(VirtualHost::new(entries));
        table.hosts.insert(&Host::Any, at);
        Some(table)
    }

    /// The rule for `request`.
    pub fn pick(&self, request: &RequestView<'_>) -> Picked<'_> {
        let host = self.hosts.find(request.authority).and_then(|at| self.virtual_hosts.get(at));
        match host {
            None => Picked::NoHost,
            Some(host) if host.to_https && request.scheme != "https" => Picked::ToHttps,
            Some(host) if host.misdirected => Picked::Misdirected,
            Some(host) => self.pick_at(host, request),
        }
    }

    fn pick_at<'t>(&'t self, mut host: &'t VirtualHost, request: &RequestView<'_>) -> Picked<'t> {
        loop {
            if let Some(entry) = host.index.find(request) {
                return Picked::Route(&entry.route, &entry.info);
            }
            match host.next.and_then(|at| self.virtual_hosts.get(at)) {
                Some(next) => host = next,
                None => return Picked::NoRoute,
            }
        }
    }

    pub(super) fn add(&mut self, host: VirtualHost) -> usize {
        self.virtual_hosts.push(host);
        self.virtual_hosts.len() - 1
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.virtual_hosts.iter().flat_map(|host| host.index.entries())
    }
}

impl VirtualHost {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        Self { index: Index::new(entries), to_https: false, next: None, misdirected: false }
    }

    /// All requests go to one service.
    fn of_service(host: &str, port: u16, settings: &Settings) -> Self {
        let to = ClusterRef { host: host.into(), subset: None, port: Some(port) };
        let route = Arc::new(Route::by_default(to, settings));
        let info = route.unmatched();
        let condition = Arc::new(Condition::any());
        Self::new(vec![Entry::new(condition, route, Arc::new(info))])
    }
}

/// A table for clients in the mesh, in the making.
struct Mesh<'a, 's> {
    services: &'a [ServiceName<'s>],
    elsewhere: &'a dyn Fn(&str) -> bool,
    audience: Audience<'a>,
    by_host: HashMap<&'s str, usize>,
    /// For each service, how specific the host is that it is reached by, and the virtual host.
    best: Vec<Option<(usize, usize)>>,
    /// Hosts that are no service, in order, with their virtual hosts.
    plain: Vec<(Host, usize)>,
    virtual_hosts: Vec<VirtualHost>,
}

impl<'a, 's> Mesh<'a, 's> {
    fn new(
        services: &'a [ServiceName<'s>],
        audience: Audience<'a>,
        elsewhere: &'a dyn Fn(&str) -> bool,
    ) -> Self {
        Self {
            services,
            elsewhere,
            audience,
            by_host: services.iter().enumerate().map(|(at, service)| (service.host, at)).collect(),
            best: vec![None; services.len()],
            plain: Vec::new(),
            virtual_hosts: Vec::new(),
        }
    }

    /// Takes note of a VirtualService; older ones have been before.
    fn offer(&mut self, it: &Virtual) {
        let (mut reached, mut plain) = (Vec::new(), Vec::new());
        for host in &it.hosts {
            let before = reached.len();
            match host {
                Host::Name(name) => reached.extend(self.by_host.get(&**name).map(|at| (*at, usize::MAX))),
                Host::Any | Host::Suffix(_) => {
                    let covered = self.services.iter().enumerate().filter(|(_, it)| host.matches(it.host));
                    reached.extend(covered.map(|(at, _)| (at, rank(host))));
                }
                Host::Address(_) => {}
            }
            let is_elsewhere = matches!(host, Host::Name(name) if (self.elsewhere)(name));
            if reached.len() == before && !is_elsewhere {
                plain.push(host);
            }
        }
        if reached.is_empty() && (plain.is_empty() || self.audience.port != PLAIN_PORT) {
            return;
        }
        let entries = it.entries(self.audience);
        if entries.is_empty() {
            return;
        }
        let virtual_host = self.virtual_hosts.len();
        self.virtual_hosts.push(VirtualHost::new(entries));
        for (service, rank) in reached {
            if let Some(best) = self.best.get_mut(service)
                && best.is_none_or(|(other, _)| rank > other)
            {
                *best = Some((rank, virtual_host));
            }
        }
        self.plain.extend(plain.into_iter().map(|host| (host.clone(), virtual_host)));
    }

    /// Names are given away in this order: to services by their full names, to hosts that are none, to services by
    /// other names.
    fn into_table(self, settings: &Settings) -> RouteTable {
        let mut table = RouteTable { hosts: HostMap::default(), virtual_hosts: self.virtual_hosts };
        let services = || self.services.iter().zip(&self.best);
        let known = || services().filter_map(|(service, best)| Some((service, (*best)?.1)));
        for (service, to) in known() {
            match Host::parse(service.host) {
                Ok(host) => table.hosts.insert(&host, to),
                Err(_) => table.hosts.insert_name(service.host, to),
            }
            service.addresses.iter().for_each(|address| table.hosts.insert_address(*address, to));
        }
        self.plain.iter().for_each(|(host, to)| table.hosts.insert(host, *to));
        let aliases = |service| aliases(service, &settings.cluster_domain, self.audience.client.namespace);
        for (service, to) in known() {
            aliases(service).iter().for_each(|alias| table.hosts.insert_name(alias, to));
        }
        let wild = table.hosts.has_wildcards();
        let unruled = services().filter(|(_, best)| best.is_none()).map(|(service, _)| service);
        for service in unruled {
            // A wildcard is not for services that have a name of their own, even if no rule is about them.
            let names = aliases(service).into_iter().chain([service.host.to_owned()]);
            let is_in = |name: &String| service.by_host || (wild && table.hosts.find(name).is_some());
            let own: Vec<_> = names.filter(is_in).collect();
            if own.is_empty() {
                continue;
            }
            let to = table.add(VirtualHost::of_service(service.host, self.audience.port, settings));
            for name in own {
                match Host::parse(&name) {
                    Ok(host) => table.hosts.insert(&host, to),
                    Err(_) => table.hosts.insert_name(&name, to),
                }
            }
            let addresses = service.addresses.iter().filter(|_| service.by_host);
            addresses.for_each(|address| table.hosts.insert_address(*address, to));
        }
        table
    }
}

pub(super) fn rank(host: &Host) -> usize {
    match host {
        Host::Name(_) | Host::Address(_) => usize::MAX,
        Host::Suffix(suffix) => suffix.len(),
        Host::Any => 0,
    }
}

/// The other names by which clients of `namespace` know a service.
fn aliases(service: &ServiceName<'_>, cluster_domain: &str, namespace: &str) -> Vec<String> {
    let of_alias = |alias: &Arc<str>| {
        let shorter = shorter(alias, cluster_domain, namespace);
        shorter.into_iter().chain([alias.to_string()])
    };
    let own = shorter(service.host, cluster_domain, namespace);
    own.into_iter().chain(service.aliases.iter().flat_map(of_alias)).collect()
}

/// The shorter names of a service of Kubernetes.
fn shorter(host: &str, cluster_domain: &str, namespace: &str) -> Vec<String> {
    let name = host.strip_suffix(cluster_domain).and_then(|name| name.strip_suffix(".svc."));
    let Some((name, of)) = name.and_then(|name| name.split_once('.')) else { return Vec::new() };
    let short = (of == namespace).then(|| name.to_owned());
    short.into_iter().chain([format!("{name}.{of}"), format!("{name}.{of}.svc")]).collect()
}

/// The only port of the mesh where rules for hosts that are no service apply.
const PLAIN_PORT: u16 = 80;
