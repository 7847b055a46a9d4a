//! What a proxy is to do, said once: each generator of this bench turns the same description into the configuration
//! of its program, so that nobody has less to do than another.

use std::net::{Ipv4Addr, SocketAddr};

/// Routes, where they lead, and what is done on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteTable {
    /// Whose requests are known; anything else is answered with 404.
    pub(super) hosts: Vec<Host>,
    /// Where routes lead; [`Route::service`] counts from 0.
    pub(super) services: Vec<Service>,
    /// What the services speak. Proxies keep their connections.
    pub(super) upstream: Upstream,
    /// What is done beside routing; with none only `x-forwarded-for` is added.
    pub(super) extras: Option<Extras>,
}

/// A virtual host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// Its name as in `Host`, without a port.
    pub(super) name: String,
    /// None of them is a prefix of another, so that their order does not matter.
    pub(super) routes: Vec<Route>,
}

/// Requests whose paths begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Unlike that of any other route; the value of `x-route` where there are [`Extras`].
    pub(super) name: String,
    /// Of the path, with a slash at both ends.
    pub(super) prefix: String,
    /// Position in [`RouteTable::services`].
    pub(super) service: usize,
}

/// One endpoint behind a name. Each has an address of its own, so that nobody can share connections between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// A DNS label.
    pub(super) name: String,
    /// On the loopback interface.
    pub(super) address: SocketAddr,
}

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upstream {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without encryption.
    Grpc,
    /// Bytes: a route leads there by its port alone.
    Tcp,
}

/// What a gateway in use does for every request: the header `x-route` is set to the route's name, a request id is
/// made, metrics are kept for each route, and a line of access log is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extras {
    /// Request headers that services do not get to see.
    pub(super) removed: Vec<&'static str>,
    /// Headers that are set in each answer.
    pub(super) answered: Vec<(&'static str, &'static str)>,
    /// How often a request is tried again that has met no server, or 503.
    pub(super) retries: u32,
    /// How long a request may take, in seconds.
    pub(super) timeout_s: u32,
}

/// A request that a table knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) host: &'a str,
    pub(super) path: String,
    pub(super) route: &'a str,
}

impl RouteTable {
    /// One host, one route, one service.
    pub(super) fn plain() -> Self {
        Self::sized(1, 1)
    }

    /// One host and one service that speaks gRPC.
    pub(super) fn grpc() -> Self {
        let mut table = Self::plain();
        table.upstream = Upstream::Grpc;
        for service in &mut table.services {
            service.address.set_port(GRPC_PORT);
        }
        for route in table.hosts.iter_mut().flat_map(|host| &mut host.routes) {
            GRPC_PREFIX.clone_into(&mut route.prefix);
        }
        table
    }

    /// One service that is reached by the port, whatever is said to it.
    pub(super) fn tcp() -> Self {
        let mut table = Self { upstream: Upstream::Tcp, ..Self::plain() };
        table.services.iter_mut().for_each(|service| service.address.set_port(TCP_PORT));
        table
    }

    /// 50 hosts with 10 routes each, and everything that [`Extras`] are.
    pub(super) fn realistic() -> Self {
        let extras = Extras {
            removed: vec![REMOVED],
            answered: vec![("x-served-by", "gateway"), ("x-frame-options", "DENY")],
            retries: 2,
            timeout_s: 10,
        };
        Self { extras: Some(extras), ..Self::sized(50, 10) }
    }

    /// Some hosts, each with a service of its own and as many routes to it.
    pub(super) fn sized(hosts: u8, routes: u8) -> Self {
        let host = |index: u8| Host {
            name: format!("host-{index}.example"),
            routes: (0..routes)
                .map(|route| Route {
                    name: format!("route-{index}-{route}"),
                    prefix: format!("/r{route}/"),
                    service: usize::from(index),
                })
                .collect(),
        };
        let service = |index: u8| Service {
            name: format!("service-{index}"),
            address: (Ipv4Addr::new(127, 0, 1, index.saturating_add(1)), HTTP_PORT).into(),
        };
        let services = (0..hosts).map(service).collect();
        Self { hosts: (0..hosts).map(host).collect(), services, upstream: Upstream::Http1, extras: None }
    }

    /// The same hosts and routes over so many services.
    pub(super) fn over(mut self, services: usize) -> Self {
        self.services.truncate(services);
        for route in self.hosts.iter_mut().flat_map(|host| &mut host.routes) {
            route.service %= services;
        }
        self
    }

    /// A request for each route, in an order in which neighbours have little in common.
    pub(super) fn targets(&self) -> Vec<Target<'_>> {
        let all: Vec<Target<'_>> = self.routes().map(|(host, route)| Target::new(host, route)).collect();
        let count = all.len();
        // A prime that divides no count in use, so that every route has its turn.
        (0..count).filter_map(|turn| all.get(turn * 7919 % count).cloned()).collect()
    }

    /// Every route with its host.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&Host, &Route)> {
        self.hosts.iter().flat_map(|host| host.routes.iter().map(move |route| (host, route)))
    }

    /// The name of a route's service.
    pub(super) fn service_of(&self, route: &Route) -> &str {
        self.services.get(route.service).map_or("", |service| service.name.as_str())
    }
}

impl<'a> Target<'a> {
    fn new(host: &'a Host, route: &'a Route) -> Self {
        Self { host: &host.name, path: format!("{}item", route.prefix), route: &route.name }
    }
}

/// A header that clients send and [`RouteTable::realistic`] takes away.
pub(super) const REMOVED: &str = "x-internal";

/// Where the origin serves HTTP/1.1, on every service's address. Below the ports that Linux gives to clients.
pub(super) const HTTP_PORT: u16 = 21080;

/// Where the origin serves gRPC.
pub(super) const GRPC_PORT: u16 = 21081;

/// Where the origin takes bytes.
pub(super) const TCP_PORT: u16 = 21082;

/// The path of the origin's gRPC service.
pub(super) const GRPC_PREFIX: &str = "/bench.Echo/";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn tables_have_what_they_promise() {
        let realistic = RouteTable::realistic();
        assert_eq!((realistic.hosts.len(), realistic.routes().count()), (50, 500));
        assert_eq!(RouteTable::sized(100, 100).routes().count(), 10_000);
        let grpc = RouteTable::grpc();
        assert_eq!(grpc.services.first().map(|service| service.address.port()), Some(GRPC_PORT));
        assert_eq!(grpc.targets().first().map(|target| target.path.as_str()), Some("/bench.Echo/item"));
    }

    #[test]
    fn every_route_has_its_turn() {
        for table in [RouteTable::plain(), RouteTable::realistic(), RouteTable::sized(100, 100)] {
            let targets = table.targets();
            let routes: BTreeSet<&str> = targets.iter().map(|target| target.route).collect();
            assert_eq!((routes.len(), targets.len()), (table.routes().count(), table.routes().count()));
        }
    }

    #[test]
    fn services_share_no_address() {
        let table = RouteTable::sized(100, 1);
        let addresses: BTreeSet<SocketAddr> = table.services.iter().map(|service| service.address).collect();
        assert_eq!(addresses.len(), 100);
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    }
}
