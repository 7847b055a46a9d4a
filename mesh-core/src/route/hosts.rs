//! Which virtual host an authority means: the exact one, else the longest wildcard, else that for all.

use std::collections::HashMap;
use std::net::IpAddr;

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

    /// The virtual host that a request for `authority` is for, which may have a port, a dot at its end, and letters of
    /// any case. Does not allocate.
    pub(super) fn find(&self, authority: &str) -> Option<usize> {
        let host = without_port(authority);
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.starts_with(|c: char| c == '[' || c == ':' || c.is_ascii_digit())
            && let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>()
        {
            return self.addresses.get(&address.to_canonical()).copied().or(self.any);
        }
        if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find_lower(host);
        }
        let mut buffer = [0; LONGEST];
        let Some(room) = buffer.get_mut(..host.len()) else { return self.any };
        room.copy_from_slice(host.as_bytes());
        room.make_ascii_lowercase();
        std::str::from_utf8(room).map_or(self.any, |host| self.find_lower(host))
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

/// An authority without its port. An IPv6 address keeps its brackets.
pub(super) fn without_port(authority: &str) -> &str {
    split_port(authority).0
}

/// An authority and, if it has one, its port with the colon.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    let Some(colon) = authority.rfind(':') else { return (authority, None) };
    let (host, port) = authority.split_at(colon);
    // The last colon of a bare or bracketed IPv6 address is no separator.
    let is_port = port.bytes().skip(1).all(|byte| byte.is_ascii_digit());
    let is_host = !host.contains(':') || host.ends_with(']');
    if is_port && is_host { (host, Some(port)) } else { (authority, None) }
}

fn lower(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into()
}

/// Bytes of a name in DNS; a longer one is no host's.
const LONGEST: usize = 255;

#[cfg(test)]
mod tests;
