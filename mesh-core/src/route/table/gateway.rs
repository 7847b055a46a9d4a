//! Tables for the ports of gateways: there all VirtualServices for a host count, the oldest first.

use std::collections::HashMap;

use super::{RouteTable, VirtualHost};
use crate::resource::value::Host;
use crate::route::index::Entry;
use crate::route::virtuals::{Audience, shared};
use crate::route::{Client, GatewayServer, ResourceName, Virtuals};

impl RouteTable {
    /// Rules for requests to `servers` of one listener, on a pod that is `client`. A VirtualService is for a server if it
    /// names its Gateway, the pod sees it, and they share a host that its namespace may use there.
    pub fn for_gateway(virtuals: &Virtuals, client: Client<'_>, servers: &[&GatewayServer]) -> Self {
        let mut edge = Edge::default();
        for server in servers {
            edge.serve(virtuals, client, server);
        }
        edge.into_table()
    }
}

/// A table in the making.
#[derive(Default)]
struct Edge<'a> {
    /// Rules of one VirtualService for one Gateway and port.
    sources: Vec<Vec<Entry>>,
    by_origin: HashMap<(&'a ResourceName, &'a ResourceName, u16), usize>,
    hosts: Vec<Served>,
    by_name: HashMap<Host, usize>,
}

/// A host, and what there is for it.
struct Served {
    host: Host,
    /// Places in [`Edge::sources`].
    sources: Vec<usize>,
    to_https: bool,
}

impl<'a> Edge<'a> {
    fn serve(&mut self, virtuals: &'a Virtuals, client: Client<'_>, server: &'a GatewayServer) {
        let audience = Audience { client, port: server.port, gateway: Some(&server.gateway), owners: None };
        for it in virtuals.seen_by(audience) {
            let hosts = shared(server, it);
            if hosts.is_empty() {
                continue;
            }
            let origin = (&*server.gateway, &*it.name, server.port);
            let source = *self.by_origin.entry(origin).or_insert_with(|| {
                self.sources.push(it.entries(audience));
                self.sources.len() - 1
            });
            if self.sources.get(source).is_none_or(Vec::is_empty) {
                continue;
            }
            for host in hosts {
                let served = self.host(host);
                if !served.sources.contains(&source) {
                    served.sources.push(source);
                }
                served.to_https |= server.https_redirect;
            }
        }
        // A host is sent to `https` whether there are rules for it or not.
        for host in server.hosts.iter().filter(|_| server.https_redirect) {
            self.host(&host.host).to_https = true;
        }
    }

    fn host(&mut self, host: &Host) -> &mut Served {
        let at = *self.by_name.entry(host.clone()).or_insert_with(|| {
            self.hosts.push(Served { host: host.clone(), sources: Vec::new(), to_https: false });
            self.hosts.len() - 1
        });
        self.hosts.get_mut(at).expect("hosts are never taken out")
    }

    /// Hosts with the same rules share them.
    fn into_table(self) -> RouteTable {
        let mut table = RouteTable::default();
        let mut made: HashMap<(&[usize], bool), usize> = HashMap::new();
        for Served { host, sources, to_https } in &self.hosts {
            let at = *made.entry((sources, *to_https)).or_insert_with(|| {
                let entries = sources.iter().filter_map(|at| self.sources.get(*at)).flatten().cloned();
                let (last, first): (Vec<_>, Vec<_>) =
                    entries.partition(|entry| entry.condition.is_catch_all());
                let entries = first.into_iter().chain(last).collect();
                table.add(VirtualHost { to_https: *to_https, ..VirtualHost::new(entries) })
            });
            table.hosts.insert(host, at);
        }
        table
    }
}
