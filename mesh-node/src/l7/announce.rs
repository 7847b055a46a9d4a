//! The PROXY protocol: a new connection begins with who the client is, before anything else, TLS included.
//!
//! Invariant: a connection that began so carries requests of that client only.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mesh_core::cluster::ProxyProtocolVersion;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::site::Facts;

/// Tells the server whose connection it is. `to` is where it goes, for clients whose own destination is not known.
pub async fn announce(
    io: &mut (impl AsyncWrite + Unpin),
    version: ProxyProtocolVersion,
    facts: &Facts,
    to: SocketAddr,
) -> io::Result<()> {
    io.write_all(&header(version, facts.peer, facts.local.unwrap_or(to))).await?;
    io.flush().await
}

fn header(version: ProxyProtocolVersion, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from_ip, to_ip) = same_family(from.ip().to_canonical(), to.ip().to_canonical());
    let ports = (from.port(), to.port());
    match version {
        ProxyProtocolVersion::V1 => {
            let family = if from_ip.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {from_ip} {to_ip} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        ProxyProtocolVersion::V2 => {
            let mut addresses = Vec::with_capacity(36);
            for ip in [from_ip, to_ip] {
                match ip {
                    IpAddr::V4(ip) => addresses.extend(ip.octets()),
                    IpAddr::V6(ip) => addresses.extend(ip.octets()),
                }
            }
            addresses.extend(ports.0.to_be_bytes());
            addresses.extend(ports.1.to_be_bytes());
            let (family, length): (u8, u16) = if from_ip.is_ipv4() { (TCP4, 12) } else { (TCP6, 36) };
            let mut header = SIGNATURE.to_vec();
            header.extend([COMMAND_PROXY, family]);
            header.extend(length.to_be_bytes());
            header.extend(addresses);
            header
        }
    }
}

/// The header has one family for both.
fn same_family(from: IpAddr, to: IpAddr) -> (IpAddr, IpAddr) {
    let mapped = |ip: IpAddr| -> Ipv6Addr {
        match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        }
    };
    if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (mapped(from).into(), mapped(to).into()) }
}

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of somebody.
const COMMAND_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_the_protocol_has_them() {
        let header =
            |version, from: &str, to: &str| header(version, from.parse().unwrap(), to.parse().unwrap());
        let v1 =
            |from: &str, to: &str| String::from_utf8(header(ProxyProtocolVersion::V1, from, to)).unwrap();
        assert_eq!(v1("10.0.0.1:1234", "10.0.0.2:80"), "PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\r\n");
        assert_eq!(v1("[::ffff:10.0.0.1]:1", "10.0.0.2:80"), "PROXY TCP4 10.0.0.1 10.0.0.2 1 80\r\n");
        assert_eq!(v1("[fd00::1]:1", "[fd00::2]:80"), "PROXY TCP6 fd00::1 fd00::2 1 80\r\n");
        assert_eq!(v1("10.0.0.1:1", "[fd00::2]:80"), "PROXY TCP6 ::ffff:10.0.0.1 fd00::2 1 80\r\n");
        let v2 = header(ProxyProtocolVersion::V2, "10.0.0.1:256", "10.0.0.2:80");
        assert_eq!(v2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x01\0\0\x50");
        let v2 = header(ProxyProtocolVersion::V2, "[fd00::1]:256", "[fd00::2]:80");
        assert_eq!((v2[13], &v2[14..16], v2.len()), (0x21, &[0, 36][..], 16 + 36));
    }
}
