//! How much of the certificate service one caller may have, and how much those have together who have proven nothing
//! yet: looking at a request costs a signature's check, a question to the API server and a line in the audit log, before
//! it is known that it is worth nothing.
//!
//! Nodes that renew show their certificate, and are told apart by it: a flood of others, from however many machines,
//! takes nothing of what is theirs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mesh_core::allowance::{Allowance, Rate};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gate::Gate;
use crate::listen::machine;
use crate::peer::{Connection, Security};

/// What is left of the service.
#[derive(Debug)]
pub struct Allotment {
    left: Mutex<Left>,
    /// Places of all.
    all: Arc<Semaphore>,
    /// Those of them that strangers can have.
    strangers: Arc<Semaphore>,
    refused: AtomicU64,
    complaints: Gate,
}

/// Held while a request is looked at.
#[derive(Debug)]
pub struct Share {
    allotment: Arc<Allotment>,
    who: Who,
    _place: OwnedSemaphorePermit,
    _stranger: Option<OwnedSemaphorePermit>,
}

/// What of the service is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// It asks more often than [`RATE`].
    #[error("this caller asks too often: at most {} certificates at once and {} a second", RATE.burst, RATE.per_second)]
    TooOften,
    /// It has [`AT_ONCE_OF_ONE`] requests open.
    #[error("this caller asks too much at once: at most {AT_ONCE_OF_ONE} requests")]
    TooMany,
    /// Those without a certificate ask more often than [`STRANGERS`], all together.
    #[error("too many ask who show no certificate; try again later")]
    Strangers,
    /// There is no place for one more.
    #[error("too many ask at once; try again later")]
    Full,
}

/// Who asks, as far as that is known before anything is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    /// Nobody who can be told from others: all of them.
    Anybody,
    /// A machine without a certificate.
    Machine(IpAddr),
    /// The owner of a certificate or a token.
    Caller(Arc<str>),
}

#[derive(Debug)]
struct Left {
    rates: Allowance<Who>,
    strangers: Allowance<()>,
    at_once: HashMap<Who, usize>,
}

impl Allotment {
    /// Lets a request in, before anything of it is looked at.
    pub fn enter(self: &Arc<Self>, peer: Option<&Connection>) -> Result<Share, Exhausted> {
        let who = match peer {
            Some(Connection { security: Security::Mutual(id), .. }) => Who::Caller(id.uri().into()),
            Some(Connection { address, .. }) => Who::Machine(machine(address.ip())),
            None => Who::Anybody,
        };
        self.admit(who).inspect_err(|why| self.complain(peer, *why))
    }

    /// Counts a request to a caller who has proven by something else than a certificate who it is.
    pub fn charge(&self, peer: Option<&Connection>, caller: &str) -> Result<(), Exhausted> {
        if matches!(peer, Some(Connection { security: Security::Mutual(_), .. })) {
            return Ok(());
        }
        let who = Who::Caller(caller.into());
        let paid = self.left.lock().unwrap_or_else(PoisonError::into_inner).rates.take(who, Instant::now());
        let outcome = paid.then_some(()).ok_or(Exhausted::TooOften);
        outcome.inspect_err(|why| self.complain(peer, *why))
    }

    /// Requests that were refused because of it.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn admit(self: &Arc<Self>, who: Who) -> Result<Share, Exhausted> {
        let is_stranger = !matches!(who, Who::Caller(_));
        let now = Instant::now();
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let open = left.at_once.get(&who).copied().unwrap_or_default();
        if open >= AT_ONCE_OF_ONE {
            return Err(Exhausted::TooMany);
        }
        // Its own first: whoever asks too often takes nothing of what is for all.
        if !left.rates.take(who.clone(), now) {
            return Err(Exhausted::TooOften);
        }
        if is_stranger && !left.strangers.take((), now) {
            return Err(Exhausted::Strangers);
        }
        let place =
            |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().map_err(|_| Exhausted::Full);
        let stranger = is_stranger.then(|| place(&self.strangers)).transpose()?;
        let place = place(&self.all)?;
        left.at_once.insert(who.clone(), open + 1);
        Ok(Share { allotment: Arc::clone(self), who, _place: place, _stranger: stranger })
    }

    fn complain(&self, peer: Option<&Connection>, why: Exhausted) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(muted) = self.complaints.pass() {
            let peer = peer.map(|peer| tracing::field::display(peer.address));
            tracing::warn!(peer, reason = %why, muted, "A request for a certificate was not looked at.");
        }
    }
}

impl Default for Allotment {
    fn default() -> Self {
        let rates = Allowance::new(RATE, MAX_CALLERS);
        let left = Left { rates, strangers: Allowance::new(STRANGERS, 1), at_once: HashMap::new() };
        Self {
            left: Mutex::new(left),
            all: Arc::new(Semaphore::new(AT_ONCE)),
            strangers: Arc::new(Semaphore::new(AT_ONCE_OF_STRANGERS)),
            refused: AtomicU64::new(0),
            complaints: Gate::default(),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut left = self.allotment.left.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = left.at_once.get_mut(&self.who) {
            *open -= 1;
            if *open == 0 {
                left.at_once.remove(&self.who);
            }
        }
    }
}

/// Requests of one caller: a node that starts asks for one certificate for each account of its pods, of which Kubernetes
/// allows 110 by default, and then for each again twice a day.
const RATE: Rate = Rate { burst: 1_000, per_second: 50 };
/// Requests of all who show no certificate: 500 nodes that start at once, with 100 accounts each that they ask for by
/// token, have theirs within half a minute.
const STRANGERS: Rate = Rate { burst: 4_000, per_second: 2_000 };
/// Callers that are told apart, of some 100 bytes each.
const MAX_CALLERS: usize = 20_000;
/// Requests that are looked at at the same time, most of which wait for the API server; each takes up to 64 kB.
const AT_ONCE: usize = 1_000;
/// The same of all who show no certificate: the rest is for those who renew.
const AT_ONCE_OF_STRANGERS: usize = 750;
/// The same of one caller: what one connection can have open.
const AT_ONCE_OF_ONE: usize = 100;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use mesh_core::id::SpiffeId;

    use super::*;

    fn stranger(last: u8) -> Connection {
        Connection { address: SocketAddr::from(([10, 0, 0, last], 1)), security: Security::Tls }
    }

    fn node(name: &str) -> Connection {
        let id = SpiffeId::parse(&format!("spiffe://cluster.local/ns/nodes.mesh/sa/{name}")).expect("an id");
        Connection { security: Security::Mutual(id), ..stranger(1) }
    }

    #[test]
    fn one_caller_has_so_many_open_and_gives_them_back() {
        let allotment = Arc::new(Allotment::default());
        let mut held: Vec<_> = (0..AT_ONCE_OF_ONE).map(|_| allotment.enter(Some(&stranger(1)))).collect();
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(allotment.enter(Some(&stranger(1))).err(), Some(Exhausted::TooMany));
        assert!(allotment.enter(Some(&stranger(2))).is_ok() && allotment.enter(Some(&node("n1"))).is_ok());
        held.pop();
        assert!(allotment.enter(Some(&stranger(1))).is_ok());
        held.clear();
        assert!(allotment.left.lock().expect("no panic").at_once.is_empty());
        assert_eq!(allotment.refused(), 1);
    }

    #[test]
    fn one_caller_asks_so_often_by_whatever_it_proves_itself() {
        let allotment = Arc::new(Allotment::default());
        let asks =
            |peer: Connection| (0..2 * RATE.burst).filter(|_| allotment.enter(Some(&peer)).is_ok()).count();
        // A little comes back while they ask.
        for peer in [stranger(1), node("n1")] {
            let let_in = asks(peer);
            assert!((1_000..1_200).contains(&let_in), "{let_in}");
        }
        // One token from many machines is one caller.
        let paid = |last| allotment.charge(Some(&stranger(last)), "a token's owner").is_ok();
        let paid =
            (0..2 * RATE.burst).filter(|number| paid(u8::try_from(number % 250).expect("small"))).count();
        assert!((1_000..1_200).contains(&paid), "{paid}");
    }

    #[test]
    fn strangers_leave_room_for_those_who_renew() {
        let allotment = Arc::new(Allotment::default());
        let held: Vec<_> = (0..=255_u8)
            .flat_map(|last| std::iter::repeat_n(last, 20))
            .filter_map(|last| allotment.enter(Some(&stranger(last))).ok())
            .collect();
        assert_eq!(held.len(), AT_ONCE_OF_STRANGERS);
        assert!(allotment.enter(Some(&node("n1"))).is_ok());
        drop(held);
        let asked = (0..20_000_u32).filter(|number| {
            let last = u8::try_from(number % 250).expect("small");
            allotment.enter(Some(&stranger(last))).is_ok()
        });
        let let_in = asked.count();
        assert!(let_in < 5_000, "{let_in}");
        assert_eq!(allotment.enter(Some(&stranger(251))).err(), Some(Exhausted::Strangers));
        assert!(allotment.enter(Some(&node("n1"))).is_ok());
    }
}
