//! Tables for listeners of the Gateway API that share a port: a request is for the listener with the most specific host
//! and for no other, whether that one has a rule for it or not.

use std::collections::BTreeMap;

use super::{RouteTable, VirtualHost, rank};
use crate::resource::value::Host;
use crate::route::ApiRules;

/// The hosts of one listener, and the routes that are attached to it.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    /// Those that it is for.
    pub(crate) host: Host,
    /// In any order.
    pub(crate) routes: Vec<Attached<'a>>,
}

/// A route, as far as it is attached to a listener.
#[derive(Debug)]
pub(crate) struct Attached<'a> {
    /// Those of the listener's hosts that it is for; never none.
    pub(crate) hosts: Vec<Host>,
    /// What it says.
    pub(crate) rules: &'a ApiRules,
}

impl RouteTable {
    /// Rules for requests to listeners that nothing tells apart before their host is read. Requests for hosts of
    /// `elsewhere`, the other listeners of the port, should have come by those.
    ///
    /// Of the routes for a host, those that name it most exactly come first; those that name it less exactly are used
    /// for what is left.
    pub(crate) fn for_scopes(scopes: &[Scope<'_>], elsewhere: &[&Host]) -> Self {
        let hosts: Vec<&Host> = scopes.iter().map(|it| &it.host).chain(elsewhere.iter().copied()).collect();
        let mut table = Self::default();
        for (number, scope) in scopes.iter().enumerate() {
            let mut by_host: BTreeMap<&Host, Vec<&ApiRules>> = BTreeMap::new();
            by_host.entry(&scope.host).or_default();
            for route in &scope.routes {
                for host in &route.hosts {
                    by_host.entry(host).or_default().push(route.rules);
                }
            }
            by_host.retain(|host, _| owner(&hosts, host) == Some(number));
            let first = table.virtual_hosts.len();
            // In the order of the map.
            let keys: Vec<&Host> = by_host.keys().copied().collect();
            for (at, (host, rules)) in by_host.into_iter().enumerate() {
                let next = wider(&keys, at).map(|next| first + next);
                let virtual_host = VirtualHost { next, ..VirtualHost::new(ApiRules::merge(rules)) };
                let added = table.add(virtual_host);
                table.hosts.insert(host, added);
            }
        }
        for host in elsewhere {
            let added = table.add(VirtualHost { misdirected: true, ..VirtualHost::new(Vec::new()) });
            table.hosts.insert(host, added);
        }
        table
    }
}

/// Whose the requests for a host are: the first of the most specific hosts that cover it.
fn owner(hosts: &[&Host], host: &Host) -> Option<usize> {
    let covering = hosts.iter().enumerate().filter(|(_, it)| it.covers(host));
    covering.min_by_key(|(_, it)| std::cmp::Reverse(rank(it))).map(|(number, _)| number)
}

/// The most specific other host that covers the one at `at`, which are in order.
fn wider(hosts: &[&Host], at: usize) -> Option<usize> {
    let mut rest = match hosts.get(at)? {
        Host::Name(name) => &**name,
        // A wildcard does not cover itself.
        Host::Suffix(suffix) => suffix.strip_prefix('.')?,
        Host::Any => return None,
        Host::Address(_) => "",
    };
    while let Some(dot) = rest.find('.') {
        let (_, suffix) = rest.split_at(dot);
        if let Ok(found) = hosts.binary_search(&&Host::Suffix(suffix.into())) {
            return Some(found);
        }
        rest = suffix.get(1..).unwrap_or_default();
    }
    hosts.binary_search(&&Host::Any).ok()
}
