//! Addresses for hosts that have none: each host of a ServiceEntry without `addresses` is given one of 240.240.0.0/16 and
//! one of `2001:2::/48`, by which clients reach it when they ask for its name.
//!
//! Who is given one, and from where, are Istio's rules. What has been given is kept: an address that an object's status
//! shows stays with its host, whoever runs this and however often. Where two objects show the same, the older keeps it.
//! What is new starts looking at a place that follows from its name, so that it comes out the same wherever nobody can
//! write a status: for files. Invariant: no two hosts are given the same address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use self::range::{Book, Family};
use crate::resource::networking::service_entry::Resolution;
use crate::resource::value::Host;
use crate::resource::{HostAddress, Object, ObjectKey, ServiceEntrySpec, Spec};

mod range;

/// Where addresses are taken from. The first and the last of a network are left out, and at most 2³² − 2 are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    /// Of IPv4.
    pub v4: Ipv4Net,
    /// Of IPv6.
    pub v6: Ipv6Net,
}

/// Gives addresses to `ServiceEntries`, and knows which have changed.
#[derive(Debug)]
pub struct Allocator {
    ranges: Ranges,
    claims: BTreeMap<ObjectKey, Claim>,
    given: BTreeMap<ObjectKey, Grant>,
    changed: BTreeSet<ObjectKey>,
    /// Whether something has changed that addresses depend on.
    stale: bool,
}

/// What an object should show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// `status.addresses`: in the order of the hosts, IPv4 before IPv6.
    pub addresses: Vec<HostAddress>,
    /// Hosts that lack an address of one family or of both, because all are given away.
    pub lacking: usize,
}

/// What an object asks for, and what it shows.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    /// Seconds since the Unix epoch: the older goes first.
    created: Option<i64>,
    need: Need,
    held: Vec<HostAddress>,
    /// Of the addresses that the user gives it, those in our ranges.
    reserved: Vec<IpNet>,
}

#[derive(Debug, PartialEq, Eq)]
enum Need {
    /// One of each family for each of these; not empty, none twice.
    Addresses(Vec<Host>),
    /// No addresses: what it shows of ours is of an earlier version of it.
    Nothing,
    /// The user does not want ours: what it shows is somebody else's.
    OptedOut,
}

/// The addresses of all `ServiceEntries` among `objects`, for whoever cannot keep them: the same objects always come to
/// the same addresses.
pub fn addresses<'o>(
    objects: impl IntoIterator<Item = &'o Object>,
    ranges: Ranges,
) -> BTreeMap<ObjectKey, Grant> {
    let mut allocator = Allocator::new(ranges);
    objects.into_iter().for_each(|object| allocator.apply(object));
    allocator.settle();
    allocator.given
}

impl Default for Ranges {
    /// Istio's.
    fn default() -> Self {
        let v4 = Ipv4Net::new_assert([240, 240, 0, 0].into(), 16);
        Self { v4, v6: Ipv6Net::new_assert([0x2001, 2, 0, 0, 0, 0, 0, 0].into(), 48) }
    }
}

impl Ranges {
    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(&address),
            IpAddr::V6(address) => self.v6.contains(&address),
        }
    }

    fn overlap(&self, net: IpNet) -> bool {
        let own = match net {
            IpNet::V4(_) => IpNet::V4(self.v4),
            IpNet::V6(_) => IpNet::V6(self.v6),
        };
        own.contains(&net) || net.contains(&own)
    }
}

impl Allocator {
    /// Has given nothing yet.
    pub fn new(ranges: Ranges) -> Self {
        let (claims, given, changed) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { ranges, claims, given, changed, stale: false }
    }

    /// Where addresses are taken from.
    pub fn ranges(&self) -> Ranges {
        self.ranges
    }

    /// Takes note of a ServiceEntry, new or changed; other kinds mean nothing.
    pub fn apply(&mut self, object: &Object) {
        let Spec::ServiceEntry(spec) = &object.spec else { return };
        let key = object.key();
        let claim = Claim::new(object, spec, &self.ranges);
        let before = self.claims.get(&key);
        // The object shows what was given: nobody else is concerned.
        let written = before.is_some_and(|before| before.differs_in_held_only(&claim))
            && self.given.get(&key).is_some_and(|grant| same(&grant.addresses, &claim.held));
        if before != Some(&claim) {
            self.stale |= !written;
            self.changed.insert(key.clone());
            self.claims.insert(key, claim);
        }
    }

    /// There is no such object any more: its addresses are free.
    pub fn remove(&mut self, key: &ObjectKey) {
        if self.claims.remove(key).is_some() {
            self.given.remove(key);
            self.changed.remove(key);
            // Somebody may have waited for one, or have had to leave one.
            self.stale |= self.given.values().any(|grant| grant.lacking > 0);
        }
    }

    /// Gives addresses to whoever lacks them. Returns the objects that have changed, or that something else is given to
    /// than at the last call.
    pub fn settle(&mut self) -> BTreeSet<ObjectKey> {
        let mut changed = std::mem::take(&mut self.changed);
        if std::mem::take(&mut self.stale) {
            let given = self.grants();
            let differs = |key: &&ObjectKey| self.given.get(*key) != given.get(*key);
            changed.extend(given.keys().filter(differs).cloned());
            self.given = given;
        }
        changed
    }

    /// What an object should show, and what it shows; `None` if it is nothing that addresses are given to.
    pub fn of(&self, key: &ObjectKey) -> Option<(&Grant, &[HostAddress])> {
        let claim = self.claims.get(key).filter(|claim| claim.need != Need::OptedOut)?;
        Some((self.given.get(key)?, &claim.held))
    }

    /// What everybody is given, the oldest first: what can be kept, then what is lacking.
    fn grants(&self) -> BTreeMap<ObjectKey, Grant> {
        let mut order: Order<'_> = self.claims.iter().collect();
        order.sort_by_key(|(key, claim)| (claim.created.is_none(), claim.created, *key));
        let mut book = Book::new(self.ranges);
        for (_, claim) in &order {
            book.reserve(&claim.reserved);
            if claim.need == Need::OptedOut {
                claim.held.iter().for_each(|held| book.reserve(&[held.value.into()]));
            }
        }
        let kept = self.keep(&order, &mut book);
        let mut grants = BTreeMap::new();
        for (key, claim) in order {
            let mut grant = Grant { addresses: claim.others(&self.ranges), lacking: 0 };
            for host in claim.hosts() {
                let found = [Family::V4, Family::V6].map(|family| {
                    let known = kept.get(&(key, host, family)).copied();
                    known.or_else(|| book.find(family, [&key.namespace, &key.name, &host.to_string()]))
                });
                grant.lacking += usize::from(found.contains(&None));
                let addresses = found.into_iter().flatten();
                grant.addresses.extend(addresses.map(|value| HostAddress { host: host.clone(), value }));
            }
            grants.insert(key.clone(), grant);
        }
        grants
    }

    /// Before all else what statuses show, because clients know it, and after it what has been given and does not show yet.
    fn keep<'c>(
        &'c self,
        order: &Order<'c>,
        book: &mut Book,
    ) -> BTreeMap<(&'c ObjectKey, &'c Host, Family), IpAddr> {
        let mut kept = BTreeMap::new();
        let mut keep = |key: &'c ObjectKey, claim: &'c Claim, known: &[HostAddress]| {
            for HostAddress { host, value } in known {
                let Some(host) = claim.hosts().iter().find(|it| *it == host) else { continue };
                let place = (key, host, Family::of(*value));
                if !kept.contains_key(&place) && book.take(*value) {
                    kept.insert(place, *value);
                }
            }
        };
        for (key, claim) in order {
            keep(key, claim, &claim.held);
        }
        for (key, claim) in order {
            let given = self.given.get(*key).map(|grant| grant.addresses.as_slice());
            keep(key, claim, given.unwrap_or_default());
        }
        kept
    }
}

/// Claims, the oldest first.
type Order<'c> = Vec<(&'c ObjectKey, &'c Claim)>;

impl Claim {
    fn new(object: &Object, spec: &ServiceEntrySpec, ranges: &Ranges) -> Self {
        let nets = spec.addresses.iter().map(|subnet| subnet.get());
        Self {
            created: object.meta.creation_timestamp,
            need: Need::new(object, spec),
            held: object.status.addresses.clone(),
            reserved: nets.filter(|net| ranges.overlap(*net)).collect(),
        }
    }

    fn hosts(&self) -> &[Host] {
        match &self.need {
            Need::Addresses(hosts) => hosts,
            Need::Nothing | Need::OptedOut => &[],
        }
    }

    /// What it shows and may keep although it needs nothing: it is not of our ranges.
    fn others(&self, ranges: &Ranges) -> Vec<HostAddress> {
        match self.need {
            Need::Addresses(_) | Need::OptedOut => Vec::new(),
            Need::Nothing => self.held.iter().filter(|it| !ranges.contains(it.value)).cloned().collect(),
        }
    }

    fn differs_in_held_only(&self, other: &Self) -> bool {
        self.created == other.created && self.need == other.need && self.reserved == other.reserved
    }
}

impl Need {
    fn new(object: &Object, spec: &ServiceEntrySpec) -> Self {
        if object.meta.labels.get(ENABLE).is_some_and(|value| value.eq_ignore_ascii_case("false")) {
            return Self::OptedOut;
        }
        if !spec.addresses.is_empty() || spec.resolution == Resolution::None {
            return Self::Nothing;
        }
        let mut hosts: Vec<Host> = Vec::new();
        for host in spec.hosts.iter().filter(|host| matches!(host, Host::Name(_))) {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        if hosts.is_empty() { Self::Nothing } else { Self::Addresses(hosts) }
    }
}

/// Whether two lists say the same, in whatever order.
pub fn same(one: &[HostAddress], other: &[HostAddress]) -> bool {
    one.len() == other.len() && one.iter().all(|address| other.contains(address))
}

/// Istio's label: `false` keeps a ServiceEntry without addresses.
const ENABLE: &str = "networking.istio.io/enable-autoallocate-ip";

#[cfg(test)]
mod tests;
