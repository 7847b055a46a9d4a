//! What is reached at addresses that are nobody's.

use crate::route::{Client, Outside, OutsideName};

use super::Snapshot;

impl Snapshot {
    /// What `client` reaches on `port` of addresses that [`super::Target::External`] is about, by what it says there. Looks at
    /// all `ServiceEntries`: worth keeping until [`Self::config_generation`] or [`Self::entry_generation`] changes.
    pub fn outside(&self, client: Client<'_>, port: u16) -> Outside {
        let aliases = self.aliases_seen_by(client.namespace);
        let of = |host: &str| {
            let own = aliases.iter().filter(|(_, real)| **real == *host);
            own.map(|(alias, _)| alias.clone()).collect()
        };
        let mut entries: Vec<_> = self
            .entries_by_host
            .keys()
            .filter_map(|host| self.service_by_host(host, client.namespace))
            .filter(|service| service.entry.is_some())
            .filter_map(|service| {
                let port = service.ports.iter().find(|it| it.number == port)?;
                Some(OutsideName {
                    host: service.hostname.clone(),
                    declared: port.declared(),
                    has_address: service.has_addresses(),
                    passthrough: service.is_passthrough(),
                    aliases: of(&service.hostname),
                })
            })
            .collect();
        entries.sort_unstable_by(|a, b| a.host.cmp(&b.host));
        let is_service = |host: &str| {
            let service = self.service_by_host(&host.into(), client.namespace);
            service.is_some_and(|service| service.entry.is_none())
        };
        Outside::new(self.virtuals(), client, port, &entries, &is_service)
    }

    /// A number that differs between two snapshots of a [`super::Mirror`] if the hosts, ports or addresses of their
    /// `ServiceEntries` do.
    pub fn entry_generation(&self) -> u64 {
        self.entry_generation
    }
}
