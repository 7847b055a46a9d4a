//! What a request is hashed by.

use std::fmt::Write;
use std::net::IpAddr;

use super::mix;
use super::settings::{Cookie, HashSource};
use crate::net::canonical_ip;

/// A request, as far as hashing looks at it.
pub trait HashInput {
    /// Calls `visit` with each value of the header of this name, which is in lower case.
    fn each_header(&self, name: &str, visit: &mut dyn FnMut(&[u8]));
    /// What follows the question mark of its target.
    fn query(&self) -> Option<&str>;
    /// The address of the client.
    fn source_ip(&self) -> Option<IpAddr>;
}

/// Where a request belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Nowhere: it lacks what is hashed, and goes anywhere.
    None,
    /// Where this hash leads.
    Hash(u64),
    /// Nowhere yet: it is to be given a cookie, see [`Cookie::issue`].
    Issue,
}

/// A cookie that the answer gives to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Where the request belongs, as all others with this cookie.
    pub hash: u64,
    /// The value of the `set-cookie` header.
    pub set_cookie: String,
}

/// Where `request` belongs. The same on every node and in every run.
pub fn hash_key(source: &HashSource, request: &impl HashInput) -> Affinity {
    match source {
        HashSource::Header(name) => header(name, request),
        HashSource::Cookie(cookie) => self::cookie(cookie, request),
        HashSource::QueryParameter(name) => {
            let value = request.query().and_then(|query| parameter(query, name));
            value.map_or(Affinity::None, |value| Affinity::Hash(hash_bytes(value.as_bytes())))
        }
        HashSource::SourceIp => {
            request.source_ip().map_or(Affinity::None, |address| Affinity::Hash(hash_ip(address)))
        }
    }
}

/// A hash of an address, for connections without requests; the same for an IPv4-mapped one.
pub fn hash_ip(address: IpAddr) -> u64 {
    match canonical_ip(address) {
        IpAddr::V4(address) => hash_bytes(&address.octets()),
        IpAddr::V6(address) => hash_bytes(&address.octets()),
    }
}

/// A hash of bytes. Not secret: who chooses the bytes can choose the hash, as with any proxy whose choice others must be
/// able to make alike.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let hash = words.fold(mix(0), |hash, word| mix(hash ^ word));
    let length = u64::try_from(bytes.len()).expect("lengths fit in 64 bits");
    mix(mix(hash ^ u64::from_le_bytes(last)) ^ length)
}

impl Cookie {
    /// A new cookie, different for different seeds. Without a [`Cookie::ttl`] it is one for the session; ask only after
    /// [`Affinity::Issue`].
    pub fn issue(&self, seed: u64) -> Issued {
        let value = format!("{:016x}", mix(seed));
        let hash = hash_bytes(value.as_bytes());
        let mut set_cookie = format!("{}=\"{value}\"", self.name);
        // Writing to a String cannot fail.
        let ttl = self.ttl.unwrap_or_default();
        if !ttl.is_zero() {
            let _ = write!(set_cookie, "; Max-Age={}", ttl.as_secs().max(1));
        }
        if !self.path.is_empty() {
            let _ = write!(set_cookie, "; Path={}", self.path);
        }
        for (name, value) in &self.attributes {
            let separator = if value.is_empty() { "" } else { "=" };
            let _ = write!(set_cookie, "; {name}{separator}{value}");
        }
        set_cookie.push_str("; HttpOnly");
        Issued { hash, set_cookie }
    }
}

/// Of all values together, in whatever order they come.
fn header(name: &str, request: &impl HashInput) -> Affinity {
    let mut found = None;
    request.each_header(name, &mut |value| {
        let hash = hash_bytes(value);
        found = Some(found.map_or(hash, |sum: u64| mix(sum).wrapping_add(mix(hash))));
    });
    found.map_or(Affinity::None, Affinity::Hash)
}

fn cookie(cookie: &Cookie, request: &impl HashInput) -> Affinity {
    let mut found = None;
    request.each_header("cookie", &mut |line| {
        let pairs = line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let mut values =
            pairs.filter_map(|pair| pair.strip_prefix(cookie.name.as_bytes())?.strip_prefix(b"="));
        found = found.or_else(|| values.next().and_then(|value| hash_cookie(unquoted(value))));
    });
    match found {
        Some(hash) => Affinity::Hash(hash),
        None if cookie.ttl.is_some() => Affinity::Issue,
        None => Affinity::None,
    }
}

/// An empty cookie is none.
fn hash_cookie(value: &[u8]) -> Option<u64> {
    Some(value).filter(|value| !value.is_empty()).map(hash_bytes)
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// As it is written: clients that write it in two ways are two clients.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(own, _)| *own == name).map(|(_, value)| value).next()
}

#[cfg(test)]
mod tests;
