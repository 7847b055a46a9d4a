//! Who a request says it is for, at ports for this machine alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `authority` names this machine: `localhost` or a loopback address, with or without a port.
pub fn is_named_by(authority: &str) -> bool {
    let host = without_port(authority);
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inside.parse::<Ipv6Addr>().is_ok_and(|ip| IpAddr::V6(ip).to_canonical().is_loopback());
    }
    host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// The host of `host`, `host:port` or `[v6]:port`, brackets kept.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.contains("::") => host,
        Some((host, _)) if host.ends_with(']') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_brackets_are_no_part_of_a_name() {
        for here in ["localhost", "LocalHost:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]"] {
            assert!(is_named_by(here), "{here}");
        }
        for elsewhere in ["", "localhost.", "localhost:a", "127.0.0.1.test", "::1", "[::2]", "localhost:1:1"]
        {
            assert!(!is_named_by(elsewhere), "{elsewhere}");
        }
    }
}
