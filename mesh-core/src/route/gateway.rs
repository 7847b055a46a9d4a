//! What the pods of a gateway listen to: all `Gateways` that select them, brought together port by port.

use std::fmt;
use std::sync::Arc;

use super::hosts::HostMap;
use super::{Client, Gateway, ResourceName, RouteTable, StreamTable, Virtuals, destination_of};
use crate::resource::networking::gateway::{Server, ServerTls, ServerTlsMode};
use crate::resource::value::{Bind, Host, Protocol, ScopedHost};

/// What a gateway's pod listens to.
#[derive(Debug, Default)]
pub struct Listeners {
    /// In the order of the oldest Gateway that has something to do with each.
    pub listeners: Vec<GatewayListener>,
    /// Servers that were left out.
    pub conflicts: Vec<Conflict>,
}

/// One socket, and all servers behind it.
#[derive(Debug)]
pub struct GatewayListener {
    /// The port of the pod; 0 for a Unix domain socket.
    pub port: u16,
    /// Where to listen; absent means on all addresses.
    pub bind: Option<Bind>,
    /// What connections begin with.
    pub protocol: ListenerProtocol,
    /// One for [`ListenerProtocol::Tcp`] and [`ListenerProtocol::Udp`], none for [`ListenerProtocol::Tunnel`].
    pub servers: Vec<GatewayServer>,
    /// Rules of all servers for [`ListenerProtocol::Http`]; empty otherwise, where [`GatewayServer::table`] has them.
    pub table: RouteTable,
    by_name: HostMap,
}

/// What connections to a listener begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenerProtocol {
    /// HTTP in plain text.
    Http,
    /// A TLS handshake, whose server name tells the servers apart.
    Tls,
    /// Bytes.
    Tcp,
    /// Datagrams, which are no connections.
    Udp,
    /// A tunnel, at a waypoint.
    Tunnel,
}

/// A server of a Gateway.
#[derive(Debug)]
pub struct GatewayServer {
    /// The Gateway that it is of.
    pub gateway: Arc<ResourceName>,
    /// Its name, or empty.
    pub name: Arc<str>,
    /// The port as the Gateway has it, which is one of the Service.
    pub port: u16,
    /// The name of the port.
    pub port_name: Arc<str>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Hosts that it serves, and whose rules may use them.
    pub hosts: Vec<ScopedHost>,
    /// Its TLS; for plain HTTP nothing but [`GatewayServer::https_redirect`].
    pub tls: Option<ServerTls>,
    /// Whether plain HTTP is answered with 301 and the same address in `https`.
    pub https_redirect: bool,
    /// Rules for the requests inside the TLS that it opens; none where it opens none, or nobody knows what is inside.
    pub table: Option<RouteTable>,
    /// Rules for its connections; none where they are opened for the requests inside, or go by their server name.
    pub streams: Option<StreamTable>,
}

/// A server that was left out because of another, or because it makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The Gateway that it is of.
    pub gateway: Arc<ResourceName>,
    /// Its place among the servers.
    pub server: usize,
    /// Why.
    pub reason: ConflictReason,
}

/// Why a server was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConflictReason {
    /// There is no port 0.
    NoPort,
    /// Connections should begin with a TLS handshake, and nothing is said about it.
    NoTls,
    /// This Gateway's server has the port, and they do not speak the same, or bytes that nothing tells apart.
    Protocol(Arc<ResourceName>),
    /// This Gateway's server has the port and the host.
    Host(Arc<ResourceName>, Host),
}

impl Listeners {
    /// What `pod` listens to, because of those of `gateways` (in any order) whose selector it meets. `target_port` knows
    /// the port of the pod that a port of its Service leads to: the same if its Service has no such port.
    pub fn of<'g>(
        gateways: impl IntoIterator<Item = &'g Gateway>,
        virtuals: &Virtuals,
        pod: Client<'_>,
        target_port: impl Fn(u16) -> u16,
    ) -> Self {
        let has = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
        let selected = gateways.into_iter().filter(|gateway| gateway.spec.selector.iter().all(has));
        let mut selected: Vec<&Gateway> = selected.collect();
        let age = |it: &Gateway| it.created.unwrap_or(i64::MAX);
        selected.sort_by(|a, b| (age(a), &a.name, &a.namespace).cmp(&(age(b), &b.name, &b.namespace)));
        let mut all = Self::default();
        for gateway in selected {
            let (namespace, name) = (Arc::clone(&gateway.namespace), Arc::clone(&gateway.name));
            let of = Arc::new(ResourceName { namespace, name });
            for (at, server) in gateway.spec.servers.iter().enumerate() {
                let port = if server.port.number == 0 { 0 } else { target_port(server.port.number) };
                if let Err(reason) = all.add(GatewayServer::of(server, &of), server.bind.as_ref(), port) {
                    all.conflicts.push(Conflict { gateway: Arc::clone(&of), server: at, reason });
                }
            }
        }
        for listener in &mut all.listeners {
            listener.fill(virtuals, pod);
        }
        all
    }

    fn add(&mut self, server: GatewayServer, bind: Option<&Bind>, port: u16) -> Result<(), ConflictReason> {
        if port == 0 && !matches!(bind, Some(Bind::Unix(_))) {
            return Err(ConflictReason::NoPort);
        }
        let protocol = server.listens()?;
        let existing = self.listeners.iter_mut().find(|it| it.port == port && it.bind.as_ref() == bind);
        let Some(listener) = existing else {
            let mut listener = GatewayListener {
                port,
                bind: bind.cloned(),
                protocol,
                servers: Vec::new(),
                table: RouteTable::default(),
                by_name: HostMap::default(),
            };
            listener.take(server);
            self.listeners.push(listener);
            return Ok(());
        };
        listener.admits(&server, protocol)?;
        listener.take(server);
        Ok(())
    }
}

impl GatewayListener {
    /// A waypoint's, on all addresses.
    pub fn for_tunnels(port: u16) -> Self {
        Self {
            port,
            bind: None,
            protocol: ListenerProtocol::Tunnel,
            servers: Vec::new(),
            table: RouteTable::default(),
            by_name: HostMap::default(),
        }
    }

    /// One of servers that do not get in each other's way, with their rules.
    pub(crate) fn of_servers(
        port: u16,
        protocol: ListenerProtocol,
        servers: Vec<GatewayServer>,
        table: RouteTable,
    ) -> Self {
        let by_name = HostMap::default();
        let mut listener = Self { port, bind: None, protocol, servers: Vec::new(), table, by_name };
        servers.into_iter().for_each(|server| listener.take(server));
        listener
    }

    /// The server for a connection whose handshake asks for `server_name`; of several the most specific. A name that
    /// says where to go counts as the host in it, for servers that go by such names. `None` if there is none for it, which
    /// ends the connection.
    pub fn server(&self, server_name: Option<&str>) -> Option<&GatewayServer> {
        let find = |name: &str| self.servers.get(self.by_name.find(name)?);
        match self.protocol {
            ListenerProtocol::Tls => {
                let name = server_name.unwrap_or_default();
                let to = destination_of(name).and_then(|to| find(&to.host));
                let to = to.filter(|server| server.goes_by_name());
                to.or_else(|| find(name).filter(|server| !server.goes_by_name()))
            }
            ListenerProtocol::Http
            | ListenerProtocol::Tcp
            | ListenerProtocol::Udp
            | ListenerProtocol::Tunnel => self.servers.first(),
        }
    }

    fn admits(&self, server: &GatewayServer, protocol: ListenerProtocol) -> Result<(), ConflictReason> {
        let first = || self.servers.first().map(|server| Arc::clone(&server.gateway));
        if self.protocol != protocol || protocol == ListenerProtocol::Tcp {
            return Err(first().map_or(ConflictReason::NoPort, ConflictReason::Protocol));
        }
        if protocol == ListenerProtocol::Http {
            return Ok(());
        }
        let taken = server.hosts.iter().find_map(|host| {
            let other = self.servers.get(self.by_name.get(&host.host)?)?;
            Some(ConflictReason::Host(Arc::clone(&other.gateway), host.host.clone()))
        });
        taken.map_or(Ok(()), Err)
    }

    fn take(&mut self, server: GatewayServer) {
        for host in &server.hosts {
            self.by_name.insert(&host.host, self.servers.len());
        }
        self.servers.push(server);
    }

    fn fill(&mut self, virtuals: &Virtuals, pod: Client<'_>) {
        match self.protocol {
            ListenerProtocol::Http => {
                let servers: Vec<&GatewayServer> = self.servers.iter().collect();
                self.table = RouteTable::for_gateway(virtuals, pod, &servers);
            }
            ListenerProtocol::Tls
            | ListenerProtocol::Tcp
            | ListenerProtocol::Udp
            | ListenerProtocol::Tunnel => {
                for server in &mut self.servers {
                    if server.opens_http() {
                        server.table = Some(RouteTable::for_gateway(virtuals, pod, &[server]));
                    } else if !server.goes_by_name() {
                        server.streams = Some(StreamTable::for_gateway(virtuals, pod, server));
                    }
                }
            }
        }
    }
}

impl ListenerProtocol {
    /// Whether its port is one of UDP: what has the same port of TCP is not in its way.
    pub fn is_udp(self) -> bool {
        self == Self::Udp
    }
}

impl GatewayServer {
    fn of(server: &Server, gateway: &Arc<ResourceName>) -> Self {
        let redirects = server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        Self {
            gateway: Arc::clone(gateway),
            name: server.name.as_str().into(),
            port: server.port.number,
            port_name: server.port.name.as_str().into(),
            protocol: server.port.protocol,
            hosts: server.hosts.clone(),
            tls: server.tls.clone(),
            https_redirect: redirects && server.port.protocol.is_http(),
            table: None,
            streams: None,
        }
    }

    fn listens(&self) -> Result<ListenerProtocol, ConflictReason> {
        match (self.protocol, &self.tls) {
            (protocol, _) if protocol.is_http() => Ok(ListenerProtocol::Http),
            (_, Some(_)) => Ok(ListenerProtocol::Tls),
            (protocol, None) if protocol.is_tls() => Err(ConflictReason::NoTls),
            _ => Ok(ListenerProtocol::Tcp),
        }
    }

    fn opens_http(&self) -> bool {
        self.protocol == Protocol::Https && self.tls.as_ref().is_some_and(ServerTls::is_terminating)
    }

    /// Whether the server name of a connection says where it goes, see [`destination_of`].
    pub fn goes_by_name(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough)
    }

    /// Whether a service of `namespace` is among its hosts.
    pub fn serves(&self, host: &str, namespace: &str) -> bool {
        let own = &self.gateway.namespace;
        self.hosts.iter().any(|it| it.namespace.contains(namespace, own) && it.host.matches(host))
    }

    /// Whether its connections are TLS that is passed on unopened.
    pub(super) fn passes_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_terminating())
    }
}

impl fmt::Display for ConflictReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => f.write_str("there is no port 0"),
            Self::NoTls => f.write_str("nothing is said about the TLS that it needs"),
            Self::Protocol(other) => {
                write!(f, "the port belongs to Gateway {other}, which speaks another protocol")
            }
            Self::Host(other, host) => write!(f, "{host} on this port belongs to Gateway {other}"),
        }
    }
}
