//! Decisions that stand until the configuration changes: what can be said about connections between two workloads
//! before any is made, so that somebody faster can act on it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::effective::Effective;
use super::request::Seen;
use super::rule::{Attributes, Matcher, Rule};
use super::{Decision, PolicySet};
use crate::id::SpiffeId;
use crate::model::Workload;
use crate::net::canonical_ip;

/// What is decided about all connections from one address, with one proven identity, to one address of a workload. Only
/// the policy engine makes it; it is as good as the [`Permit`](super::Permit) of each such connection, for as long as the
/// configuration stays what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// For the ports that policies name: whether connections are allowed.
    named: BTreeMap<u16, bool>,
    /// For every other port.
    others: bool,
}

impl PolicySet {
    /// What stands for connections of `peer`, who is at `source`, to `destination`, an address of `workload`. `None` where
    /// each connection has to be looked at: something is not known yet, it depends on requests, something is to be noted,
    /// somebody else is to be asked, or policies name more ports than is reasonable.
    pub fn standing(
        &self,
        workload: &Workload,
        (peer, source): (&SpiffeId, IpAddr),
        destination: IpAddr,
    ) -> Option<Standing> {
        if !self.loaded {
            return None;
        }
        let effective = self.effective.get(&workload.uid)?;
        let (source_ip, destination) = (canonical_ip(source), canonical_ip(destination));
        if effective.missing.is_some() || effective.notes() || !workload.has_ip(destination) {
            return None;
        }
        let decide = |port: u16| {
            let destination = SocketAddr::new(destination, port);
            let seen = Seen::Nothing;
            match effective.decide(&Attributes { peer: Some(peer), source_ip, destination, seen }, &[]) {
                Decision::Allowed(_) => Some(true),
                Decision::Denied(_) => Some(false),
                Decision::NeedsRequest | Decision::NeedsExternal(_) => None,
            }
        };
        let ports = ports(effective);
        if ports.len() > MAX_NAMED_PORTS {
            return None;
        }
        let other = (1..=u16::MAX).find(|port| !ports.contains(port))?;
        Some(Standing {
            named: ports.into_iter().map(|port| Some((port, decide(port)?))).collect::<Option<_>>()?,
            others: decide(other)?,
        })
    }
}

impl Standing {
    /// Whether a connection to this port is allowed.
    pub fn allows(&self, port: u16) -> bool {
        self.named.get(&port).copied().unwrap_or(self.others)
    }

    /// Whether connections to ports that no policy names are allowed.
    pub fn others(&self) -> bool {
        self.others
    }

    /// The ports that policies name, and whether connections to each are allowed; only those that differ from
    /// [`Self::others`].
    pub fn exceptions(&self) -> impl Iterator<Item = (u16, bool)> {
        self.named
            .iter()
            .map(|(port, allowed)| (*port, *allowed))
            .filter(|(_, allowed)| *allowed != self.others)
    }
}

fn ports(effective: &Effective) -> std::collections::BTreeSet<u16> {
    let clauses = effective.policies().flat_map(|policy| &policy.rules).flat_map(Rule::clauses);
    clauses
        .filter_map(|clause| match &clause.matcher {
            Matcher::DestinationPort(ports) => Some(ports),
            _ => None,
        })
        .flatten()
        .copied()
        .collect()
}

/// Each is an entry in the kernel for each pair of pods.
const MAX_NAMED_PORTS: usize = 32;
