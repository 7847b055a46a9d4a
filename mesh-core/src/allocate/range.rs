//! What of the ranges is given away, and where to look for what is not.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Ranges;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// Addresses that are given away.
#[derive(Debug)]
pub(super) struct Book {
    ranges: Ranges,
    taken: BTreeSet<IpAddr>,
    reserved: Vec<IpNet>,
    /// Families of which nothing is left.
    full: BTreeSet<Family>,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl Book {
    pub(super) fn new(ranges: Ranges) -> Self {
        Self { ranges, taken: BTreeSet::new(), reserved: Vec::new(), full: BTreeSet::new() }
    }

    /// Nothing of these may be given.
    pub(super) fn reserve(&mut self, nets: &[IpNet]) {
        self.reserved.extend(nets);
    }

    /// Gives away this very address. `false` if somebody has it, or if it is none of ours.
    pub(super) fn take(&mut self, address: IpAddr) -> bool {
        let number = self.number(address).is_some_and(|number| self.range(Family::of(address)).1 >= number);
        number && self.reservation(address).is_none() && self.taken.insert(address)
    }

    /// Gives away the first free address from the place that `name` leads to; `None` if there is none.
    pub(super) fn find(&mut self, family: Family, name: [&str; 3]) -> Option<IpAddr> {
        let (_, size) = self.range(family);
        if self.full.contains(&family) || size == 0 {
            return None;
        }
        let start = u32::try_from(hash(name) % u64::from(size)).ok()?;
        // How far from the start; so far that everything has been looked at is too far.
        let mut step = 0;
        while step < size {
            let at = 1 + u32::try_from((u64::from(start) + u64::from(step)) % u64::from(size)).ok()?;
            let address = self.address(family, at);
            if let Some(end) = self.reservation(address) {
                step = step.saturating_add(1 + end.min(size).saturating_sub(at));
            } else if self.taken.insert(address) {
                return Some(address);
            } else {
                step += 1;
            }
        }
        self.full.insert(family);
        None
    }

    /// The last number that a reservation covers which covers `address`; at most the last of all.
    fn reservation(&self, address: IpAddr) -> Option<u32> {
        let nets = self.reserved.iter().filter(|net| net.contains(&address));
        nets.map(|net| self.number(net.broadcast()).unwrap_or(u32::MAX)).max()
    }

    /// The first address, which is not given, and how many are after it.
    fn range(&self, family: Family) -> (u128, u32) {
        let (first, bits) = match family {
            Family::V4 => (u128::from(self.ranges.v4.network().to_bits()), 32 - self.ranges.v4.prefix_len()),
            Family::V6 => (self.ranges.v6.network().to_bits(), 128 - self.ranges.v6.prefix_len()),
        };
        let all = 1_u32.checked_shl(u32::from(bits)).map_or(u32::MAX, |all| all - 1);
        (first, all.saturating_sub(1))
    }

    fn address(&self, family: Family, number: u32) -> IpAddr {
        let bits = self.range(family).0 + u128::from(number);
        match family {
            Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from_bits(bits).into(),
        }
    }

    /// The number of an address of our ranges, from 1.
    fn number(&self, address: IpAddr) -> Option<u32> {
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let number = bits.checked_sub(self.range(Family::of(address)).0)?;
        u32::try_from(number).ok().filter(|number| *number > 0 && self.ranges.contains(address))
    }
}

/// FNV-1a, and the last step of splitmix64, which spreads names that differ in their ends. It must never become another
/// function: files have nowhere to keep what it led to.
fn hash(name: [&str; 3]) -> u64 {
    let bytes = name.iter().flat_map(|part| part.bytes().chain([b'/']));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(v4: &str) -> Book {
        let v4 = v4.parse().expect("a network");
        Book::new(Ranges { v4, ..Ranges::default() })
    }

    #[test]
    fn every_address_is_given_once_and_then_none() {
        let mut book = book("10.0.0.0/28");
        book.reserve(&["10.0.0.4/30".parse().expect("a network"), "10.0.0.9/32".parse().expect("a network")]);
        let mut given: Vec<_> =
            (0..9).map(|number| book.find(Family::V4, ["a", "b", &number.to_string()])).collect();
        given.sort_unstable();
        let expected = [1, 2, 3, 8, 10, 11, 12, 13, 14].map(|last| Some(IpAddr::from([10, 0, 0, last])));
        assert_eq!(given, expected);
        assert_eq!(book.find(Family::V4, ["a", "b", "c"]), None);
        assert!(book.find(Family::V6, ["a", "b", "c"]).is_some());
    }

    #[test]
    fn what_is_not_ours_is_not_taken() {
        let mut book = book("10.0.0.0/28");
        for (address, ours) in [
            ("10.0.0.0", false),
            ("10.0.0.1", true),
            ("10.0.0.1", false),
            ("10.0.0.14", true),
            ("10.0.0.15", false),
            ("10.0.0.16", false),
            ("9.9.9.9", false),
            ("2001:2::", false),
            ("2001:2::1", true),
            ("2001:2:0:0:0:0:ffff:fffe", true),
            ("2001:2:0:0:0:0:ffff:ffff", false),
            ("2001:2:0:0:0:1::1", false),
            ("2001:3::1", false),
        ] {
            assert_eq!(book.take(address.parse().expect("an address")), ours, "{address}");
        }
    }

    #[test]
    fn a_range_that_is_reserved_as_a_whole_is_full_at_once() {
        let mut whole = book("10.0.0.0/30");
        whole.reserve(&["2001::/16".parse().expect("a network"), "0.0.0.0/0".parse().expect("a network")]);
        assert_eq!(
            (whole.find(Family::V4, ["a", "b", "c"]), whole.find(Family::V6, ["a", "b", "c"])),
            (None, None)
        );
        for tiny in ["10.0.0.0/31", "10.0.0.0/32"] {
            assert_eq!(book(tiny).find(Family::V4, ["a", "b", "c"]), None, "{tiny}");
        }
        assert!(book("0.0.0.0/0").find(Family::V4, ["a", "b", "c"]).is_some());
    }

    #[test]
    fn the_place_to_start_stays_what_it_is() {
        let mut book = book("240.240.0.0/16");
        let name = ["shop", "db", "db.example.com"];
        let found = [Family::V4, Family::V6].map(|family| book.find(family, name).map(|it| it.to_string()));
        assert_eq!(found, [Some("240.240.205.29".to_owned()), Some("2001:2::7c9f:e2a1".to_owned())]);
    }
}
