//! Which pod has an address, where nobody says so: Istio's control plane tells of workloads without the uid of their pod.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv6Addr},
};

use super::cgroup::{self, Group};
use crate::sys::netns::NetNs;

/// The uids of the pods among `groups` by their addresses, as the kernel has them. What both have, like the loopback's,
/// is nobody's.
pub fn uids<'g>(
    groups: impl Iterator<Item = (&'g String, &'g Group)>,
    host: &NetNs,
) -> HashMap<IpAddr, &'g str> {
    let mut owners = HashMap::new();
    for (uid, group) in groups {
        let Some(pid) = cgroup::process_of(group, host) else { continue };
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        let v4 = local_v4(&read("fib_trie"));
        for ip in v4.into_iter().chain(local_v6(&read("if_inet6"))).filter(|ip| !ip.is_loopback()) {
            owners.insert(ip, uid.as_str());
        }
    }
    owners
}

/// In a trie of routes an address is a leaf, and what is known of it stands below.
fn local_v4(trie: &str) -> Vec<IpAddr> {
    let mut leaf = None;
    let mut found = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf.map(IpAddr::V4).filter(|ip| !found.contains(ip)));
        }
    }
    found
}

fn local_v6(interfaces: &str) -> Vec<IpAddr> {
    let address = |line: &str| u128::from_str_radix(line.split_whitespace().next()?, 16).ok();
    interfaces.lines().filter_map(address).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).collect()
}

/// The number of the interface that addresses of a link are of, by what the kernel prints of the addresses of IPv6: `eth0`, as
/// pods call theirs, else the first that has such an address.
pub(super) fn link_of(interfaces: &str) -> Option<u32> {
    let read = |line: &str| {
        let mut words = line.split_whitespace();
        let bits = u128::from_str_radix(words.next()?, 16).ok()?;
        let index = u32::from_str_radix(words.next()?, 16).ok()?;
        let is_eth0 = words.next_back()? == "eth0";
        Ipv6Addr::from_bits(bits).is_unicast_link_local().then_some((!is_eth0, index))
    };
    interfaces.lines().filter_map(read).min().map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_the_pods_own() {
        let lo = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let global = "fd00000000000000000000000000000a 02 40 00 80     eth0\n";
        let first = "fe80000000000000000000000000000a 03 40 20 80     net1\n";
        let eth0 = "fe80000000000000000000000000000b 0b 40 20 80     eth0\n";
        let last = "fe80000000000000000000000000000c 0c 40 20 80     net2\n";
        for (interfaces, expected) in [
            (vec![lo, global], None),
            (vec![lo, last, eth0, first, global], Some(11)),
            (vec![last, lo, first], Some(3)),
            (vec!["", "fe80 odd", "fe80000000000000000000000000000a"], None),
        ] {
            assert_eq!(link_of(&interfaces.concat()), expected, "{interfaces:?}");
        }
    }

    #[test]
    fn reads_what_the_kernel_prints() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.244.1.0\n        \
                    /24 link UNICAST\n     |-- 10.244.1.7\n        /32 host LOCAL\nLocal:\n     |-- 10.244.1.7\n        \
                    /32 host LOCAL\n     |-- 10.244.1.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        \
                    /32 host LOCAL\n";
        assert_eq!(local_v4(trie), ["10.244.1.7", "127.0.0.1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let six = "fd000000000000000000000000000007 02 40 00 80     eth0\n\
                   00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(local_v6(six), ["fd00::7", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!((local_v4("garbage"), local_v6("\n  \nxyz")), (Vec::new(), Vec::new()));
    }
}
