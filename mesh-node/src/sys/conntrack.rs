//! Connection tracking of the kernel (`NETLINK_NETFILTER`).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use super::netlink::{Netlink, attribute, nested};

/// Makes connection tracking of the calling thread's network namespace forget a TCP connection. Returns whether it knew of it.
///
/// # Errors
/// What the kernel says; `EINVAL` or `EOPNOTSUPP` where it has no connection tracking.
pub fn forget(client: SocketAddr, server: SocketAddr) -> io::Result<bool> {
    let family = if client.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // `struct nfgenmsg`: family, version, resource.
    let mut body = vec![u8::try_from(family).unwrap_or_default(), 0, 0, 0];
    nested(&mut body, CTA_TUPLE_ORIG, |tuple| {
        nested(tuple, CTA_TUPLE_IP, |ip| {
            for (kind, address) in [(SOURCE, client.ip()), (DESTINATION, server.ip())] {
                match address {
                    IpAddr::V4(v4) => attribute(ip, kind, &v4.octets()),
                    IpAddr::V6(v6) => attribute(ip, kind + V6, &v6.octets()),
                }
            }
        });
        nested(tuple, CTA_TUPLE_PROTO, |proto| {
            attribute(proto, CTA_PROTO_NUM, &[IPPROTO_TCP]);
            attribute(proto, CTA_PROTO_SRC_PORT, &client.port().to_be_bytes());
            attribute(proto, CTA_PROTO_DST_PORT, &server.port().to_be_bytes());
        });
    });
    match Netlink::open(libc::NETLINK_NETFILTER)?.confirm(DELETE, &body) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `NFNL_SUBSYS_CTNETLINK`, `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const SOURCE: u16 = 1;
const DESTINATION: u16 = 2;
/// What the kinds of IPv6 addresses are more than those of IPv4.
const V6: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const IPPROTO_TCP: u8 = 6;
