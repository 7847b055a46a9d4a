//! Which virtual host an authority means: the exact one, else the longest wildcard, else that for all.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::http;
pub(super) use crate::http::host::split_port;
use crate::resource::value::Host;

/// Virtual hosts by name.
#[derive(Debug, Default)]
pub(super) struct HostMap {
    exact: HashMap<Box<str>, usize>,
    addresses: HashMap<IpAddr, usize>,
    /// By what follows the star.
    suffixes: HashMap<Box<str>, usize>,
    /// Lengths of the suffixes, the longest first.
    lengths: Vec<usize>,
    any: Option<usize>,
}

impl HostMap {
    /// Gives `host` to a virtual host. Nothing happens if it has been given before.
    pub(super) fn insert(&mut self, host: &Host, to: usize) {
        match host {
            Host::Any => _ = self.any.get_or_insert(to),
            Host::Address(address) => _ = self.addresses.entry(address.to_canonical()).or_insert(to),
            Host::Name(name) => self.insert_name(name, to),
            Host::Suffix(suffix) => {
                self.suffixes.entry(lower(suffix)).or_insert(to);
                if let Err(place) = self.lengths.binary_search_by(|length| suffix.len().cmp(length)) {
                    self.lengths.insert(place, suffix.len());
                }
            }
        }
    }

    /// As [`Self::insert`], for a name that holds no wildcard.
    pub(super) fn insert_name(&mut self, name: &str, to: usize) {
        self.exact.entry(lower(name.strip_suffix('.').unwrap_or(name))).or_insert(to);
    }

    /// As [`Self::insert`], for an address.
    pub(super) fn insert_address(&mut self, address: IpAddr, to: usize) {
        self.addresses.entry(address.to_canonical()).or_insert(to);
    }

    /// The virtual host of exactly `host`.
    pub(super) fn get(&self, host: &Host) -> Option<usize> {
        match host {
            Host::Any => self.any,
            Host::Address(address) => self.addresses.get(&address.to_canonical()).copied(),
            Host::Name(name) => self.exact.get(name.strip_suffix('.').unwrap_or(name)).copied(),
            Host::Suffix(suffix) => self.suffixes.get(&**suffix).copied(),
        }
    }

    /// Whether it holds a wildcard.
    pub(super) fn has_wildcards(&self) -> bool {
        self.any.is_some() || !self.suffixes.is_empty()
    }

    /// The virtual host that a request for `authority` is for, in whatever spelling. Allocates only for letters in upper case.
    pub(super) fn find(&self, authority: &str) -> Option<usize> {
        match http::host::Host::of(authority).0 {
            http::host::Host::Address(address) => self.addresses.get(&address).copied().or(self.any),
            http::host::Host::Name(host) if host.len() > LONGEST => self.any,
            http::host::Host::Name(host) => self.find_lower(&host),
        }
    }

    fn find_lower(&self, host: &str) -> Option<usize> {
        let ending = || {
            let lengths = self.lengths.iter().filter(|length| **length < host.len());
            let mut endings = lengths.filter_map(|length| host.get(host.len() - length..));
            endings.find_map(|ending| self.suffixes.get(ending))
        };
        self.exact.get(host).or_else(ending).copied().or(self.any)
    }
}

fn lower(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into()
}

/// Bytes of a name in DNS; a longer one is no host's.
const LONGEST: usize = 255;

#[cfg(test)]
mod tests;
