//! Which client a request comes from, as far as the proxies before us can be believed.
//!
//! Anybody can write `X-Forwarded-For`. Each proxy appends whom it got the request from, so the list is true from its
//! end as far back as proxies that are ours go, and not one entry further: `gatewayTopology.numTrustedProxies` says
//! how many those are. That an address is a private one says nothing.

use std::net::IpAddr;

use crate::net::canonical_ip;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The address.
    pub address: IpAddr,
    /// Who says so.
    pub said_by: SaidBy,
}

/// Who names the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaidBy {
    /// The connection: its other end is the client.
    Connection,
    /// A proxy that is trusted.
    Header,
}

/// The client of a request that `peer` sent through `trusted` proxies before us, of which `peer` is the last.
///
/// `values` are those of the `X-Forwarded-For` fields as they arrived, in their order. Without a trusted proxy, with
/// fewer entries than there are trusted proxies, and where the entry is no address, the client is `peer`: then it is
/// the last one who can be named.
pub fn client<'a, I>(values: I, peer: IpAddr, trusted: u32) -> Client
where
    I: IntoIterator<Item = &'a [u8], IntoIter: DoubleEndedIterator>,
{
    let connection = Client { address: canonical_ip(peer), said_by: SaidBy::Connection };
    let Some(before) = trusted.checked_sub(1).and_then(|n| usize::try_from(n).ok()) else {
        return connection;
    };
    let mut from_the_end = values.into_iter().rev().flat_map(|value| value.rsplit(|&byte| byte == b','));
    match from_the_end.nth(before).and_then(address) {
        Some(address) => Client { address, said_by: SaidBy::Header },
        None => connection,
    }
}

/// The `X-Forwarded-For` to send on: all that came, in one value, and `peer` behind it. `None` if that would be
/// longer than [`MAX_BYTES`]: then what came is dropped, and [`appended`] to nothing.
pub fn appended<'a>(values: impl IntoIterator<Item = &'a [u8]>, peer: IpAddr) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    for value in values {
        let value = value.trim_ascii();
        if !value.is_empty() {
            list.extend_from_slice(value);
            list.push(b',');
        }
        if list.len() > MAX_BYTES {
            return None;
        }
    }
    list.extend_from_slice(canonical_ip(peer).to_string().as_bytes());
    (list.len() <= MAX_BYTES).then_some(list)
}

/// How many have passed a request on, as its `X-Forwarded-For` has it.
pub fn hops<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> usize {
    let entries =
        |value: &[u8]| value.split(|&byte| byte == b',').filter(|it| !it.trim_ascii().is_empty()).count();
    values.into_iter().map(entries).sum()
}

/// The scheme that the client used, for `X-Forwarded-Proto`.
///
/// `received` is the only value that came, if there was exactly one. It is believed if a trusted proxy sent it and it
/// is a scheme; else it is what our own connection is, `tls` or not.
pub fn proto(received: Option<&[u8]>, tls: bool, trusted: u32) -> &'static str {
    match received.filter(|_| trusted > 0).map(<[u8]>::trim_ascii) {
        Some(value) if value.eq_ignore_ascii_case(b"https") => "https",
        Some(value) if value.eq_ignore_ascii_case(b"http") => "http",
        _ if tls => "https",
        _ => "http",
    }
}

/// Longest `X-Forwarded-For` that is sent on, in bytes: some two hundred proxies.
pub const MAX_BYTES: usize = 4096;

/// An entry of the list. One with a port, in brackets, or hidden (`unknown`, `_abc`) names nobody.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    Some(canonical_ip(text.parse().ok()?))
}

#[cfg(test)]
mod tests;
