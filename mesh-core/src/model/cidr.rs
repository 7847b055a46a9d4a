//! Sets of networks, and services of networks, with look-ups that do not grow with their number.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Service;

/// A set of networks. A cluster has one per node, nearly always of one or two lengths, so a look-up per length beats
/// any tree.
#[derive(Debug, Clone, Default)]
pub(super) struct CidrSet {
    networks: HashSet<IpNet>,
    /// The prefix lengths in use, as (is IPv6, length).
    lengths: BTreeSet<(bool, u8)>,
}

impl FromIterator<IpNet> for CidrSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let mut set = Self::default();
        networks.into_iter().for_each(|network| set.insert(network));
        set
    }
}

impl CidrSet {
    fn insert(&mut self, network: IpNet) {
        let network = network.trunc();
        self.lengths.insert((network.addr().is_ipv6(), network.prefix_len()));
        self.networks.insert(network);
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        let of_family = self.lengths.iter().filter(|(v6, _)| *v6 == ip.is_ipv6());
        of_family
            .filter_map(|(_, length)| IpNet::new(ip, *length).ok())
            .any(|network| self.networks.contains(&network.trunc()))
    }
}

/// Services of networks. Of networks that contain each other the smaller counts, of services of the same network the first by
/// namespace and host.
#[derive(Debug, Clone, Default)]
pub(super) struct NetworkMap {
    /// By family and length, the longest last.
    by_length: BTreeMap<(bool, u8), OfLength>,
}

type OfLength = BTreeMap<IpNet, Vec<Arc<Service>>>;

impl NetworkMap {
    pub(super) fn insert(&mut self, network: IpNet, service: &Arc<Service>) {
        let of_length = self.by_length.entry(length_of(network)).or_default();
        let all = of_length.entry(network.trunc()).or_default();
        all.push(Arc::clone(service));
        all.sort_unstable_by(|a, b| (&a.namespace, &a.hostname).cmp(&(&b.namespace, &b.hostname)));
    }

    /// Takes a service out, of whatever version.
    pub(super) fn remove(&mut self, network: IpNet, service: &Service) {
        let Some(of_length) = self.by_length.get_mut(&length_of(network)) else { return };
        if let Some(all) = of_length.get_mut(&network.trunc()) {
            all.retain(|it| (&it.namespace, &it.hostname) != (&service.namespace, &service.hostname));
        }
        of_length.retain(|_, all| !all.is_empty());
        if of_length.is_empty() {
            self.by_length.remove(&length_of(network));
        }
    }

    /// The service that `ip` leads to, of those that `fits` is true for.
    pub(super) fn find(&self, ip: IpAddr, fits: impl Fn(&Service) -> bool) -> Option<&Arc<Service>> {
        let of_family = self.by_length.range((ip.is_ipv6(), 0)..=(ip.is_ipv6(), u8::MAX)).rev();
        of_family
            .filter_map(|((_, length), all)| all.get(&IpNet::new(ip, *length).ok()?.trunc()))
            .find_map(|all| all.iter().find(|service| fits(service)))
    }
}

fn length_of(network: IpNet) -> (bool, u8) {
    (network.addr().is_ipv6(), network.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_what_its_networks_contain() {
        let mut set = CidrSet::default();
        for network in ["10.244.1.0/24", "10.244.2.7/24", "fd00:1::/64", "192.168.1.1/32"] {
            set.insert(network.parse().unwrap());
        }
        let cases = [
            ("10.244.1.0", true),
            ("10.244.1.255", true),
            ("10.244.2.1", true),
            ("10.244.3.1", false),
            ("192.168.1.1", true),
            ("192.168.1.2", false),
            ("fd00:1::42", true),
            ("fd00:2::42", false),
            ("::a0f4:100", false),
        ];
        for (ip, expected) in cases {
            assert_eq!(set.contains(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn the_empty_set_and_the_full_set() {
        let mut set = CidrSet::default();
        assert!(!set.contains("10.0.0.1".parse().unwrap()));
        set.insert("0.0.0.0/0".parse().unwrap());
        assert!(set.contains("10.0.0.1".parse().unwrap()));
        assert!(!set.contains("::1".parse().unwrap()));
    }
}
