//! Addresses as they arrive from the network, brought into the one form that the rest of the code compares.

use std::net::{IpAddr, SocketAddr};

pub mod authority;

/// The address with an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) turned into the IPv4 address it means. Sockets on
/// `[::]` report IPv4 peers in mapped form; everything that looks addresses up or matches them goes through this.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(addr.ip()), addr.port())
}

/// As [`canonical`], without a port.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
