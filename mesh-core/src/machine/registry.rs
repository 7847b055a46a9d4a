//! Which machines are there now. A machine may be connected several times at once, while it connects anew or to several
//! control planes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::Claim;

/// Machines by what they are registered as. Times are since some moment of the caller's choice.
#[derive(Debug, Default)]
pub struct Registry {
    machines: BTreeMap<Claim, Attendance>,
}

/// A machine, as far as it is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attendance {
    /// Connections that are open.
    pub connections: usize,
    /// How often one was opened.
    pub arrivals: u64,
    /// When the last one ended, if none is open.
    pub gone_since: Option<Duration>,
    /// What its own probe says.
    pub health: Option<bool>,
}

impl Registry {
    /// Whether this machine may be registered as well: whoever has a token of a group can say any number of addresses.
    pub fn has_room(&self, claim: &Claim) -> bool {
        let first = Claim { address: Ipv4Addr::UNSPECIFIED.into(), network: "".into(), ..claim.clone() };
        let is_of_group = |one: &Claim| one.namespace == claim.namespace && one.group == claim.group;
        let of_group = self.machines.range(first..).take_while(|(one, _)| is_of_group(one));
        self.machines.contains_key(claim) || of_group.count() < MAX_OF_GROUP
    }

    /// A connection of this machine is open. What its probe has said before stays until it says something else.
    pub fn connected(&mut self, claim: &Claim) {
        let known = self.machines.entry(claim.clone()).or_default();
        known.connections += 1;
        known.arrivals += 1;
        known.gone_since = None;
    }

    /// A machine that somebody else had registered, and of which nothing was heard since: it has as long as others to come.
    pub fn adopt(&mut self, claim: Claim, now: Duration) {
        let unheard = Attendance { gone_since: Some(now), ..Attendance::default() };
        self.machines.entry(claim).or_insert(unheard);
    }

    /// A connection of this machine has ended.
    pub fn disconnected(&mut self, claim: &Claim, now: Duration) {
        if let Some(known) = self.machines.get_mut(claim) {
            known.connections = known.connections.saturating_sub(1);
            if known.connections == 0 {
                known.gone_since = Some(now);
            }
        }
    }

    /// The machine's probe says this; whether that is news.
    pub fn reported(&mut self, claim: &Claim, healthy: bool) -> bool {
        let known = self.machines.get_mut(claim);
        known.is_some_and(|known| known.health.replace(healthy) != Some(healthy))
    }

    /// Those that have been gone for longer than `grace`; nothing is known of them any more.
    pub fn sweep(&mut self, now: Duration, grace: Duration) -> Vec<Claim> {
        let is_over =
            |one: &Attendance| one.gone_since.is_some_and(|since| now.saturating_sub(since) > grace);
        let mut over = Vec::new();
        self.machines.retain(|claim, one| {
            let stays = !is_over(one);
            if !stays {
                over.push(claim.clone());
            }
            stays
        });
        over
    }

    /// All machines that are here, or may come back.
    pub fn all(&self) -> impl Iterator<Item = (&Claim, &Attendance)> {
        self.machines.iter()
    }

    /// How it stands with a machine.
    pub fn get(&self, claim: &Claim) -> Option<Attendance> {
        self.machines.get(claim).copied()
    }
}

/// Machines of one WorkloadGroup.
const MAX_OF_GROUP: usize = 1_000;
