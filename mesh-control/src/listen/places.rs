//! Room for connections: so many in all, so many from one machine, and never more than there are descriptors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of one port.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    of_one_machine: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    machine: IpAddr,
    _one: OwnedSemaphorePermit,
}

impl Places {
    /// At most `limit`, and no more than half of what the process has descriptors for: there are two ports.
    pub fn new(limit: usize) -> Arc<Self> {
        let room = descriptors().saturating_sub(RESERVE) / 2;
        Self::of(limit.min(room).max(1), OF_ONE_MACHINE)
    }

    /// So many in all, and of one machine; what they take of the process's descriptors is the caller's to see to.
    pub fn of(all: usize, of_one_machine: usize) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), of_one_machine, taken: Mutex::default() })
    }

    /// Waits until there is room for anybody.
    pub async fn wait(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.all).acquire_owned().await.expect("nobody closes the places")
    }

    /// A place for `address` if there is room at once, for anybody and for that machine.
    pub fn take_now(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let one = Arc::clone(&self.all).try_acquire_owned().ok()?;
        self.take(address, one)
    }

    /// Takes the place for `address`; `None` if that machine has enough of them.
    pub fn take(self: &Arc<Self>, address: IpAddr, one: OwnedSemaphorePermit) -> Option<Place> {
        let machine = machine(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(machine).or_default();
        if *count >= self.of_one_machine {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), machine, _one: one })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.machine) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.machine);
            }
        }
    }
}

/// One for all addresses that a machine can give itself: all of an IPv6 /64.
pub fn machine(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// How many descriptors the process may have, after asking for as many as it can get.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, ..limit };
    let now = if setrlimit(Resource::Nofile, most).is_ok() { limit.maximum } else { limit.current };
    // None is no limit.
    now.map_or(usize::MAX, |now| usize::try_from(now).unwrap_or(usize::MAX))
}

/// Connections from one machine: a node has two or three.
const OF_ONE_MACHINE: usize = 500;
/// Descriptors for files, watches and monitoring.
const RESERVE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_has_its_share_and_gives_it_back() {
        let places = Places::new(10_000);
        let mut held = Vec::new();
        for low in 0..u16::try_from(OF_ONE_MACHINE).unwrap() {
            let address = IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, low]);
            held.push(places.take(address, places.wait().await).expect("within its share"));
        }
        let (same, other) = ("2001:db8:0:1:ffff::1".parse().unwrap(), "2001:db8:0:2::1".parse().unwrap());
        assert!(places.take(same, places.wait().await).is_none());
        assert!(places.take(other, places.wait().await).is_some());
        held.pop();
        assert!(places.take(same, places.wait().await).is_some());
        held.clear();
        assert!(places.taken.lock().unwrap().is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn an_address_of_four_bytes_stands_for_itself() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(machine(mapped), IpAddr::from([10, 0, 0, 1]));
    }
}
