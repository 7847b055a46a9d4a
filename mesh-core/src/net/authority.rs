//! The `:authority` of a tunnel's CONNECT request.
//!
//! The peer chooses this text, and it decides where bytes go, so there is one spelling for every destination and
//! everything else is refused: names are not resolved, zones are not guessed, numbers have no leading zeros.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::canonical;

/// Why a text is not the authority of a CONNECT request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Nothing, or more than `[v6]:port` can ever need.
    #[error("is empty or longer than any address")]
    Length,
    /// No `:port` at the end.
    #[error("has no port")]
    NoPort,
    /// A port that is not 1..=65535 in plain decimal digits without leading zeros.
    #[error("has a port that is not 1 to 65535 in plain decimal")]
    Port,
    /// A host name, a zone id, user information, missing brackets, …
    #[error("has a host that is not an IPv4 address or an IPv6 address in brackets")]
    Host,
}

/// Parses `ip:port` or `[v6]:port`. An IPv4-mapped IPv6 address comes back as IPv4.
pub fn parse_connect_authority(text: &str) -> Result<SocketAddr, AuthorityError> {
    if text.is_empty() || text.len() > MAX_BYTES {
        return Err(AuthorityError::Length);
    }
    let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::NoPort)?;
    let port = parse_port(port)?;
    let ip = match host.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']').ok_or(AuthorityError::Host)?;
            IpAddr::V6(inner.parse::<Ipv6Addr>().map_err(|_| AuthorityError::Host)?)
        }
        None => IpAddr::V4(host.parse::<Ipv4Addr>().map_err(|_| AuthorityError::Host)?),
    };
    Ok(canonical(SocketAddr::new(ip, port)))
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    // `u16::from_str` takes a plus sign and leading zeros.
    if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    text.parse().map_err(|_| AuthorityError::Port)
}

/// `[` + the longest textual IPv6 address (45 bytes, with an embedded IPv4 address) + `]:65535`.
const MAX_BYTES: usize = 53;

#[cfg(test)]
mod tests;
