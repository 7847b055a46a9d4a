//! Hosts in the one form that rules are asked about.
//!
//! `Secret.test`, `secret.test.`, `secret.test:8080` and `secret.test` are one host to the server behind us, so they have to
//! be one to every rule: a rule about `secret.test` that another spelling escapes is none. Routes and policies therefore ask
//! about a [`Host`], never about the text that came.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::net::canonical_ip;

/// The host of a request in its normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host<'a> {
    /// A name in lower case, without the dot at its end.
    Name(Cow<'a, str>),
    /// An address; IPv4 in IPv6 is IPv4.
    Address(IpAddr),
}

impl<'a> Host<'a> {
    /// The host that `authority` names, whatever its spelling, and its port, if it has one. Allocates only for letters in
    /// upper case.
    pub fn of(authority: &'a str) -> (Self, Option<u16>) {
        let (host, port) = split_port(authority);
        let port = port.and_then(|port| port.get(1..)).and_then(|port| port.parse().ok());
        let host = host.strip_suffix('.').unwrap_or(host);
        let may_be_address = host.starts_with(|c: char| c == '[' || c.is_ascii_digit()) || host.contains(':');
        if may_be_address && let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return (Self::Address(canonical_ip(address)), port);
        }
        let is_lower = !host.bytes().any(|byte| byte.is_ascii_uppercase());
        let name = if is_lower { Cow::Borrowed(host) } else { Cow::Owned(host.to_ascii_lowercase()) };
        (Self::Name(name), port)
    }
}

/// An authority and, if it has one, its port with the colon. An IPv6 address keeps its brackets.
pub fn split_port(authority: &str) -> (&str, Option<&str>) {
    let Some(colon) = authority.rfind(':') else { return (authority, None) };
    let (host, port) = authority.split_at(colon);
    // The last colon of a bare or bracketed IPv6 address is no separator.
    let is_port = port.bytes().skip(1).all(|byte| byte.is_ascii_digit());
    let is_host = !host.contains(':') || host.ends_with(']');
    if is_port && is_host { (host, Some(port)) } else { (authority, None) }
}

#[cfg(test)]
mod tests;
