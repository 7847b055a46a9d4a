//! Which addresses nodes, pods and services get.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::{BedError, Result};
use super::layout::digest;

/// An IPv4 and an IPv6 address of the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// A node's address on the wire, `192.168.77.0/24` and `fd77::/64`.
pub(crate) fn node(number: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(192, 168, 77, number),
        v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()),
    }
}

/// Host `host` of a node's pod network: `10.244.<node>.0/24` and `fd00:244:<node>::/64`. Host 1 is the gateway.
pub(crate) fn pod(node: u8, host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 244, node, host),
        v6: Ipv6Addr::new(0xfd00, 0x244, node.into(), 0, 0, 0, 0, host.into()),
    }
}

/// A node's pod networks as `spec.podCIDRs` has them.
pub(crate) fn pod_networks(node: u8) -> [String; 2] {
    let base = pod(node, 0);
    [format!("{}/24", base.v4), format!("{}/64", base.v6)]
}

/// Hands out the hosts of one node's pod network. A freed address rests until all others have been used, so that a
/// late packet of a dead pod does not reach its successor.
#[derive(Debug, Default)]
pub(crate) struct PodAddresses {
    used: BTreeSet<u8>,
    last: u8,
}

impl PodAddresses {
    /// The next free host number.
    pub(crate) fn allocate(&mut self) -> Result<u8> {
        let hosts = FIRST_HOST..=LAST_HOST;
        let after = hosts.clone().filter(|h| *h > self.last);
        let free = after.chain(hosts).find(|h| !self.used.contains(h));
        let host = free.ok_or_else(|| BedError::Environment("a node has room for 253 pods only".into()))?;
        self.used.insert(host);
        self.last = host;
        Ok(host)
    }

    /// Gives a host number back.
    pub(crate) fn free(&mut self, host: u8) {
        self.used.remove(&host);
    }
}

/// Chooses an address for a service: the same for the same name in every run, unless another service has it.
pub(crate) fn service(namespace: &str, name: &str, v6: bool, taken: &BTreeSet<IpAddr>) -> IpAddr {
    let start = digest(&(namespace, name));
    let candidates = (0..u64::from(u16::MAX)).map(|step| {
        // The first 256 are left to people who choose addresses themselves.
        let number = 256 + (start.wrapping_add(step)) % (u64::from(u16::MAX) - 256);
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        let [high, low] = number.to_be_bytes();
        if v6 {
            IpAddr::from(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number))
        } else {
            IpAddr::from(Ipv4Addr::new(10, 96, high, low))
        }
    });
    let mut candidates = candidates.filter(|ip| !taken.contains(ip));
    candidates.next().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// The range of IPv4 service addresses, as Kubernetes defaults to.
pub(crate) const SERVICES_V4: &str = "10.96.0.0/12";
/// The range of IPv6 service addresses.
pub(crate) const SERVICES_V6: &str = "fd96::/112";

const FIRST_HOST: u8 = 2;
const LAST_HOST: u8 = 254;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_addresses_rest() {
        let mut addresses = PodAddresses::default();
        assert_eq!((addresses.allocate().unwrap(), addresses.allocate().unwrap()), (2, 3));
        addresses.free(2);
        assert_eq!(addresses.allocate().unwrap(), 4);
        for host in 5..=254 {
            assert_eq!(addresses.allocate().unwrap(), host);
        }
        assert_eq!(addresses.allocate().unwrap(), 2);
        assert!(addresses.allocate().is_err());
    }

    #[test]
    fn services_keep_their_address_and_never_share_one() {
        let mut taken = BTreeSet::new();
        let first = service("default", "reviews", false, &taken);
        assert_eq!(first, service("default", "reviews", false, &taken));
        taken.insert(first);
        assert_ne!(first, service("default", "reviews", false, &taken));
        assert!(first.to_string().starts_with("10.96."), "{first}");
        assert!(service("default", "reviews", true, &taken).to_string().starts_with("fd96::"));
    }

    #[test]
    fn networks_are_written_as_kubernetes_does() {
        assert_eq!(pod_networks(2), ["10.244.2.0/24", "fd00:244:2::/64"]);
        assert_eq!(pod(2, 17).v6.to_string(), "fd00:244:2::11");
        assert_eq!(node(1).both().map(|ip| ip.to_string()), ["192.168.77.1", "fd77::1"]);
    }
}
