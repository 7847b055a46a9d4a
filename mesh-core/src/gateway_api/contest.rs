//! `HTTPRoutes` and `GRPCRoutes` that are for the same host of a listener: one of them has it, the other is refused there.
//!
//! The API leaves no room for both: their rules could not be put into one order. The older route is accepted, of two of the
//! same age the first by namespace and name (GRPCRoute, "Cross Serving"). Routes have to be shown here in that order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Attachment, Name, Rejected, Route, RouteKind};
use crate::resource::value::Host;

/// The hosts that routes have taken already, for each listener of each Gateway.
#[derive(Debug, Default)]
pub(super) struct Contest<'a>(BTreeMap<(Name<'a>, usize), Taken>);

#[derive(Debug, Default)]
struct Taken {
    http: Hosts,
    grpc: Hosts,
}

/// Hosts, in a form that finds what overlaps without looking at all of them. Names are read from their end.
#[derive(Debug, Default)]
struct Hosts {
    any: bool,
    names: BTreeSet<Box<str>>,
    /// What follows the star, with the dot.
    suffixes: BTreeSet<Box<str>>,
}

impl<'a> Contest<'a> {
    /// What is left of where `route` would be attached at a Gateway.
    ///
    /// # Errors
    /// What `outcome` says, or that nothing is left.
    pub(super) fn settle(
        &mut self,
        route: &Route<'_>,
        gateway: Name<'a>,
        outcome: Result<Vec<Attachment>, Rejected>,
    ) -> Result<Vec<Attachment>, Rejected> {
        let mut attached = outcome?;
        let kind = route.kind();
        if matches!(kind, RouteKind::Http | RouteKind::Grpc) {
            attached.retain(|at| self.0.entry((gateway, at.listener)).or_default().take(kind, &at.hosts));
        }
        if attached.is_empty() { Err(Rejected::HostnameConflict) } else { Ok(attached) }
    }
}

impl Taken {
    /// Whether none of the hosts is one of the other kind. They are taken then.
    fn take(&mut self, kind: RouteKind, hosts: &[Host]) -> bool {
        let (own, others) = match kind {
            RouteKind::Http => (&mut self.http, &self.grpc),
            _ => (&mut self.grpc, &self.http),
        };
        let is_free = !hosts.iter().any(|host| others.overlap(host));
        if is_free {
            hosts.iter().for_each(|host| own.add(host));
        }
        is_free
    }
}

impl Hosts {
    fn add(&mut self, host: &Host) {
        match host {
            Host::Any => self.any = true,
            Host::Suffix(suffix) => _ = self.suffixes.insert(backwards(suffix)),
            Host::Name(name) => _ = self.names.insert(backwards(name)),
            Host::Address(address) => _ = self.names.insert(backwards(&address.to_string())),
        }
    }

    /// Whether there is a name that both `host` and one of these stand for.
    fn overlap(&self, host: &Host) -> bool {
        let is_some = self.any || !self.names.is_empty() || !self.suffixes.is_empty();
        self.any
            || match host {
                Host::Any => is_some,
                Host::Name(name) => {
                    let name = backwards(name);
                    self.names.contains(&name) || self.covers(&name)
                }
                Host::Suffix(suffix) => {
                    let suffix = backwards(suffix);
                    let below = |all: &BTreeSet<Box<str>>| {
                        all.range(suffix.clone()..).next().is_some_and(|it| it.starts_with(&*suffix))
                    };
                    below(&self.names) || below(&self.suffixes) || self.covers(&suffix)
                }
                Host::Address(address) => self.names.contains(&backwards(&address.to_string())),
            }
    }

    /// Whether one of the wildcards stands for a name, or all names of a wildcard.
    fn covers(&self, name: &str) -> bool {
        name.match_indices('.').any(|(at, _)| name.get(..=at).is_some_and(|it| self.suffixes.contains(it)))
    }
}

fn backwards(name: &str) -> Box<str> {
    name.chars().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_overlap_as_rules_do() {
        let names =
            ["*", "*.a.test", "*.b.a.test", "c.a.test", "c.b.a.test", "a.test", "xa.test", "*.test", "d.org"];
        let hosts: Vec<Host> = names.iter().map(|name| Host::parse(name).expect("a host")).collect();
        for one in &hosts {
            let mut known = Hosts::default();
            assert!(!known.overlap(one), "{one} and nothing");
            known.add(one);
            for other in &hosts {
                assert_eq!(known.overlap(other), one.overlaps(other), "{one} and {other}");
            }
        }
    }
}
