//! What clients in the mesh reach at addresses that are nobody's, by what they say there: the host of a request, the name
//! that TLS asks for, or nothing but the port.
//!
//! As in Istio's sidecars: rules for hosts that no service has hold on port 80; a ServiceEntry is reached by its hosts
//! wherever clients believe it to be, and one that carries bytes and has no address takes all that goes to its port.

use std::sync::Arc;

use super::hosts::HostMap;
use super::table::{RouteTable, ServiceName};
use super::{Client, Virtuals};
use crate::model::Declared;
use crate::resource::value::Host;

/// What is reached on one port by one kind of client. Never changes; looking does not allocate.
#[derive(Debug, Default)]
pub struct Outside {
    requests: Option<Arc<RouteTable>>,
    /// Places in `hosts`.
    by_name: HostMap,
    hosts: Vec<Arc<str>>,
    bytes: Option<Arc<str>>,
}

/// A service of a ServiceEntry that the client sees, and what its port speaks.
#[derive(Debug, Clone)]
pub struct OutsideName {
    /// Its host, which may begin with `*`.
    pub host: Arc<str>,
    /// What the port is declared to speak.
    pub declared: Declared,
    /// Whether clients can know it by an address of its own, or by one that it was given.
    pub has_address: bool,
    /// Whether connections go to the address that the client asked for.
    pub passthrough: bool,
    /// Hosts that are aliases of it.
    pub aliases: Vec<Arc<str>>,
}

impl Outside {
    /// What `client` reaches on `port`, of `entries` that have that port; where several could be meant, the first. `elsewhere`
    /// tells which hosts are those of services that clients know by their addresses.
    pub fn new(
        virtuals: &Virtuals,
        client: Client<'_>,
        port: u16,
        entries: &[OutsideName],
        elsewhere: &dyn Fn(&str) -> bool,
    ) -> Self {
        let speaks_http =
            |it: &&OutsideName| matches!(it.declared, Declared::Http | Declared::Http2 | Declared::Nothing);
        let services: Vec<_> = entries
            .iter()
            .filter(speaks_http)
            .map(|it| ServiceName { host: &it.host, aliases: &it.aliases, addresses: &[], by_host: true })
            .collect();
        let table = RouteTable::for_mesh(virtuals, client, port, &services, elsewhere);
        let mut outside = Self { requests: table.map(Arc::new), ..Self::default() };
        for entry in entries {
            match entry.declared {
                // A name that anybody may claim must not lead to whatever address, where the entry says which are its own.
                Declared::Tls | Declared::Nothing if entry.passthrough && entry.has_address => {}
                Declared::Tls | Declared::Nothing => outside.name(entry),
                Declared::Tcp if entry.has_address => {}
                Declared::Tcp => _ = outside.bytes.get_or_insert_with(|| Arc::clone(&entry.host)),
                Declared::Http | Declared::Http2 => {}
            }
        }
        outside
    }

    /// Whether nothing that clients say makes a difference.
    pub fn is_empty(&self) -> bool {
        self.requests.is_none() && self.hosts.is_empty() && self.bytes.is_none()
    }

    /// Rules for requests.
    pub fn requests(&self) -> Option<&Arc<RouteTable>> {
        self.requests.as_ref()
    }

    /// Whether the server name of TLS makes a difference.
    pub fn asks_for_names(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// The host of the ServiceEntry that TLS for this name is for.
    pub fn of_name(&self, server_name: &str) -> Option<&Arc<str>> {
        self.hosts.get(self.by_name.find(server_name)?)
    }

    /// The host of the ServiceEntry that bytes are for which say nothing.
    pub fn of_bytes(&self) -> Option<&Arc<str>> {
        self.bytes.as_ref()
    }

    fn name(&mut self, entry: &OutsideName) {
        let at = self.hosts.len();
        match Host::parse(&entry.host) {
            Ok(host) => self.by_name.insert(&host, at),
            Err(_) => self.by_name.insert_name(&entry.host, at),
        }
        entry.aliases.iter().for_each(|alias| self.by_name.insert_name(alias, at));
        self.hosts.push(Arc::clone(&entry.host));
    }
}

#[cfg(test)]
mod tests;
