//! Which machines are there now. A machine may be connected several times at once, while it connects anew or to several
//! control planes.

use std::collections::BTreeMap;
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
    /// When the last one ended, if none is open.
    pub gone_since: Option<Duration>,
    /// What its own probe says.
    pub health: Option<bool>,
}

/// What is to be done about the WorkloadEntry of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is to be there, with this health.
    Put(Option<bool>),
    /// It is to go.
    Remove,
}

impl Registry {
    /// A connection of this machine is open. What comes of it is to be done in any case: the WorkloadGroup may have changed.
    pub fn connected(&mut self, claim: &Claim) -> Change {
        let known = self.machines.entry(claim.clone()).or_default();
        known.connections += 1;
        known.gone_since = None;
        Change::Put(known.health)
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

    /// The machine's probe says this; what there is to be done, if that is news.
    pub fn reported(&mut self, claim: &Claim, healthy: bool) -> Option<Change> {
        let known = self.machines.get_mut(claim)?;
        (known.health.replace(healthy) != Some(healthy)).then_some(Change::Put(Some(healthy)))
    }

    /// Those that have been gone for longer than `grace`; nothing is known of them any more.
    pub fn sweep(&mut self, now: Duration, grace: Duration) -> Vec<Claim> {
        let is_over =
            |one: &Attendance| one.gone_since.is_some_and(|since| now.saturating_sub(since) > grace);
        let over: Vec<_> =
            self.machines.iter().filter(|(_, one)| is_over(one)).map(|(it, _)| it.clone()).collect();
        self.machines.retain(|claim, _| !over.contains(claim));
        over
    }

    /// The machines of a group, with their health: what they are registered as has to be made anew when it changes.
    pub fn of_group<'a>(
        &'a self,
        namespace: &'a str,
        group: &'a str,
    ) -> impl Iterator<Item = (&'a Claim, Option<bool>)> {
        let all = self.machines.iter();
        all.filter(move |(claim, _)| *claim.namespace == *namespace && *claim.group == *group)
            .map(|(claim, one)| (claim, one.health))
    }

    /// How it stands with a machine.
    pub fn get(&self, claim: &Claim) -> Option<Attendance> {
        self.machines.get(claim).copied()
    }
}
