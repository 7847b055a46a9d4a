//! Where connections go whose bytes are passed on as they are: the `tls` and `tcp` rules of VirtualServices.
//!
//! As in Istio: of the `tls` rules, those for the most specific server name count; then come the `tcp` rules, in the
//! order of the VirtualServices and within them in the user's; the first that matches is used. `TLSRoutes` and `TCPRoutes` of a
//! Service come before all VirtualServices.

use std::net::IpAddr;
use std::sync::Arc;

use super::action::Home;
use super::hosts::HostMap;
use super::virtuals::{Audience, Virtual, Whom, shared};
use super::{About, Client, Forward, GatewayServer, Owners, ResourceName, Virtuals};
use crate::resource::networking::VirtualServiceSpec;
use crate::resource::networking::virtual_service::{L4Match, RouteDestination, TlsMatch};
use crate::resource::value::{Host, Subnet};

/// Rules for connections of one kind of client to one port. Never changes; picking does not allocate.
#[derive(Debug, Default)]
pub struct StreamTable {
    /// Places in `named`.
    by_name: HostMap,
    named: Vec<Vec<Entry>>,
    others: Vec<Entry>,
}

/// A connection, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub struct StreamView<'a> {
    /// The server name that its TLS asks for, if it is TLS that is not opened here, and asks for one.
    pub server_name: Option<&'a str>,
    /// The address that the client asked for.
    pub destination: IpAddr,
}

/// What is done with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRoute {
    /// The VirtualService that it is of.
    pub virtual_service: Arc<ResourceName>,
    /// Where it goes.
    pub forward: Forward,
}

#[derive(Debug, Clone)]
struct Entry {
    subnets: Arc<[Subnet]>,
    route: Arc<StreamRoute>,
}

/// The rules of one VirtualService.
#[derive(Debug, Default)]
pub(super) struct Streams {
    tls: Vec<Rule>,
    tcp: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    route: Arc<StreamRoute>,
    /// One of them must hold.
    matches: Vec<Match>,
}

#[derive(Debug)]
struct Match {
    server_names: Vec<Host>,
    subnets: Arc<[Subnet]>,
    whom: Whom,
}

impl StreamTable {
    /// Rules for connections that `client` makes to `port` of the service that `about` is for. Of several VirtualServices
    /// the most specific host counts, then the oldest.
    ///
    /// `None` if none has any.
    pub fn for_service(about: &About, client: Client<'_>, port: u16) -> Option<Self> {
        Self::about(about, Audience { client, port, gateway: None, owners: None })
    }

    /// [`Self::for_service`] at a waypoint, where the rules of `owners` are in force for all clients.
    pub fn for_waypoint(about: &About, client: Client<'_>, port: u16, owners: Owners<'_>) -> Option<Self> {
        Self::about(about, Audience { client, port, gateway: None, owners: Some(owners) })
    }

    fn about(about: &About, audience: Audience<'_>) -> Option<Self> {
        let of_routes = about.streams_of_routes(audience.client, audience.port);
        let mut virtuals = about.by_specificity(audience);
        of_routes.or_else(|| {
            virtuals.find_map(|it| {
                let mut table = Self::default();
                table.add_tls(it, audience);
                table.add_tcp(it, audience);
                table.has_rules().then_some(table)
            })
        })
    }

    /// Rules for connections to `server`, on a pod that is `client`: for TLS that is not opened there, the `tls` rules
    /// of all VirtualServices that name the Gateway and share a host with the server; for all others the `tcp` rules.
    pub fn for_gateway(virtuals: &Virtuals, client: Client<'_>, server: &GatewayServer) -> Self {
        let audience = Audience { client, port: server.port, gateway: Some(&server.gateway), owners: None };
        let mut table = Self::default();
        for it in virtuals.seen_by(audience).filter(|it| !shared(server, it).is_empty()) {
            if server.passes_tls() { table.add_tls(it, audience) } else { table.add_tcp(it, audience) }
        }
        table
    }

    /// Rules for connections that ask for names, each with what is done, and for all others; of equals the first is used.
    pub(crate) fn of_routes(
        named: impl IntoIterator<Item = (Host, Arc<StreamRoute>)>,
        others: impl IntoIterator<Item = Arc<StreamRoute>>,
    ) -> Self {
        let entry = |route| Entry { subnets: Arc::default(), route };
        let mut table = Self { others: others.into_iter().map(entry).collect(), ..Self::default() };
        for (name, route) in named {
            table.name(&name).push(entry(route));
        }
        table
    }

    /// What is done with a connection; `None` if no rule is for it.
    pub fn pick(&self, connection: &StreamView<'_>) -> Option<&Arc<StreamRoute>> {
        let named = connection.server_name.and_then(|name| self.named.get(self.by_name.find(name)?));
        let mut all = named.into_iter().flatten().chain(&self.others);
        all.find(|entry| entry.is_for(connection.destination)).map(|entry| &entry.route)
    }

    /// Whether the server name of TLS makes a difference, so that it has to be read.
    pub fn asks_for_names(&self) -> bool {
        !self.named.is_empty()
    }

    fn has_rules(&self) -> bool {
        !self.named.is_empty() || !self.others.is_empty()
    }

    fn add_tls(&mut self, it: &Virtual, audience: Audience<'_>) {
        for (rule, matched) in rules(&it.streams.tls, it, audience) {
            for name in &matched.server_names {
                self.name(name).push(matched.entry(rule));
            }
        }
    }

    /// The rules for a name, which may be the first.
    fn name(&mut self, name: &Host) -> &mut Vec<Entry> {
        let at = self.by_name.get(name).unwrap_or(self.named.len());
        if at == self.named.len() {
            self.by_name.insert(name, at);
            self.named.push(Vec::new());
        }
        self.named.get_mut(at).expect("places in the map are in the list")
    }

    fn add_tcp(&mut self, it: &Virtual, audience: Audience<'_>) {
        self.others.extend(rules(&it.streams.tcp, it, audience).map(|(rule, matched)| matched.entry(rule)));
    }
}

impl Streams {
    /// Whom the rules are for.
    pub(super) fn whom(&self) -> impl Iterator<Item = &Whom> {
        let rules = self.tls.iter().chain(&self.tcp);
        rules.flat_map(|rule| &rule.matches).map(|it| &it.whom)
    }
}

/// The rules that `audience` can match, with the matches that are for it.
fn rules<'r>(
    rules: &'r [Rule],
    it: &'r Virtual,
    audience: Audience<'r>,
) -> impl Iterator<Item = (&'r Rule, &'r Match)> {
    let all = rules.iter().flat_map(|rule| rule.matches.iter().map(move |matched| (rule, matched)));
    all.filter(move |(_, matched)| it.is_within(&matched.whom, audience))
}

impl Streams {
    pub(super) fn of(spec: &VirtualServiceSpec, home: Home<'_>) -> Self {
        let tls = spec
            .tls
            .iter()
            .filter_map(|rule| Rule::of(&rule.route, rule.matches.iter().map(Match::of_tls).collect(), home));
        let any = L4Match::default();
        let tcp = spec.tcp.iter().filter_map(|rule| {
            let matches = if rule.matches.is_empty() { std::slice::from_ref(&any) } else { &rule.matches };
            Rule::of(&rule.route, matches.iter().map(Match::of_tcp).collect(), home)
        });
        Self { tls: tls.collect(), tcp: tcp.collect() }
    }
}

impl Rule {
    /// `None` for a rule that leads nowhere.
    fn of(destinations: &[RouteDestination], matches: Vec<Match>, home: Home<'_>) -> Option<Self> {
        let all = destinations.iter().map(|it| (&it.destination, it.weight));
        let forward = Forward::of_destinations(all, home)?;
        let route = StreamRoute { virtual_service: Arc::clone(home.name), forward };
        Some(Self { route: Arc::new(route), matches })
    }
}

impl Match {
    /// Names are taken as they are, as Istio does: what clients ask for in TLS is no name of Kubernetes.
    fn of_tls(spec: &TlsMatch) -> Self {
        Self {
            server_names: spec.sni_hosts.clone(),
            subnets: spec.destination_subnets.as_slice().into(),
            whom: Whom::new(spec.port, &spec.source_labels, &spec.source_namespace, &spec.gateways),
        }
    }

    fn of_tcp(spec: &L4Match) -> Self {
        Self {
            server_names: Vec::new(),
            subnets: spec.destination_subnets.as_slice().into(),
            whom: Whom::new(spec.port, &spec.source_labels, &spec.source_namespace, &spec.gateways),
        }
    }

    fn entry(&self, rule: &Rule) -> Entry {
        Entry { subnets: Arc::clone(&self.subnets), route: Arc::clone(&rule.route) }
    }
}

impl Entry {
    fn is_for(&self, destination: IpAddr) -> bool {
        self.subnets.is_empty() || self.subnets.iter().any(|subnet| subnet.contains(destination))
    }
}
