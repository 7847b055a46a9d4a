//! Datagrams of a listener, told apart by session: who has one, who gets one, and whose is given up for it.
//!
//! A sender's address proves nothing: whoever can write it into a packet has as many as it likes. So sessions are bounded, in
//! all and for each source, and those of clients that have gone on after they were answered outlast those of clients that
//! have only ever asked.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::model::{Endpoint, EndpointId};

/// The number of a session, which no other of the listener gets.
pub type SessionId = u64;

/// What a listener has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions of one source: an address of IPv4, or 64 bits of one of IPv6, which one host may have all of.
    pub of_source: usize,
    /// How long a session lasts in which nothing is sent either way.
    pub idle: Duration,
    /// How long a session of somebody who has gone on after an answer is left alone before it may be given up.
    pub respite: Duration,
}

/// What tells sessions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The client's address.
    pub client: SocketAddr,
    /// The address that it sends to, from which it is answered.
    pub local: IpAddr,
}

/// What is to be done with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to a session that is there.
    Known(SessionId),
    /// It begins a session.
    New {
        /// The session.
        id: SessionId,
        /// The one that was given up for it.
        given_up: Option<SessionId>,
    },
    /// There is no room for its session.
    NoRoom,
}

/// The sessions of a listener.
#[derive(Debug)]
pub struct Sessions {
    bounds: Bounds,
    next: SessionId,
    by_key: HashMap<SessionKey, SessionId>,
    by_id: HashMap<SessionId, Session>,
    ages: Ages,
    /// No longer than `by_id`.
    by_source: HashMap<IpAddr, Ages>,
}

#[derive(Debug)]
struct Session {
    key: SessionKey,
    last: Instant,
    stage: Stage,
}

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has asked.
    Asked,
    /// It was answered.
    Answered,
    /// It has sent something since.
    GoesOn,
}

/// Sessions by when they were last used, those that go on apart from the others.
#[derive(Debug, Default)]
struct Ages {
    new: BTreeSet<(Instant, SessionId)>,
    going_on: BTreeSet<(Instant, SessionId)>,
}

impl Sessions {
    /// None yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next: 0,
            by_key: HashMap::new(),
            by_id: HashMap::new(),
            ages: Ages::default(),
            by_source: HashMap::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The key of a session.
    pub fn key(&self, id: SessionId) -> Option<SessionKey> {
        self.by_id.get(&id).map(|session| session.key)
    }

    /// Has sessions last so long from now on in which nothing is sent.
    pub fn set_idle(&mut self, idle: Duration) {
        self.bounds.idle = idle;
    }

    /// A datagram of a client has come. Costs the logarithm of the number of sessions.
    pub fn datagram(&mut self, key: SessionKey, now: Instant) -> Verdict {
        if let Some(id) = self.used(key, now) {
            return Verdict::Known(id);
        }
        let own = self.by_source.get(&source(key.client.ip()));
        let given_up = if own.is_some_and(|own| own.len() >= self.bounds.of_source) {
            own.and_then(|own| own.to_give_up(now, self.bounds.respite))
        } else if self.by_id.len() >= self.bounds.sessions {
            self.ages.to_give_up(now, self.bounds.respite)
        } else {
            return Verdict::New { id: self.add(key, now), given_up: None };
        };
        let Some(old) = given_up else { return Verdict::NoRoom };
        self.remove(old);
        Verdict::New { id: self.add(key, now), given_up }
    }

    /// As [`Self::datagram`], but that nobody gets a session who has none.
    pub fn used(&mut self, key: SessionKey, now: Instant) -> Option<SessionId> {
        let id = *self.by_key.get(&key)?;
        self.touch(id, now, |stage| if stage == Stage::Asked { stage } else { Stage::GoesOn });
        Some(id)
    }

    /// The client of a session was sent an answer.
    pub fn answered(&mut self, id: SessionId, now: Instant) {
        self.touch(id, now, |stage| if stage == Stage::Asked { Stage::Answered } else { stage });
    }

    /// Forgets a session.
    pub fn remove(&mut self, id: SessionId) {
        let Some(Session { key, last, stage }) = self.by_id.remove(&id) else { return };
        self.by_key.remove(&key);
        self.ages.remove(stage, (last, id));
        let from = source(key.client.ip());
        if let Some(own) = self.by_source.get_mut(&from) {
            own.remove(stage, (last, id));
            if own.len() == 0 {
                self.by_source.remove(&from);
            }
        }
    }

    /// Forgets those whose time is over, and says which these are.
    pub fn expire(&mut self, now: Instant) -> Vec<SessionId> {
        let over =
            |(last, _): &&(Instant, SessionId)| now.saturating_duration_since(*last) >= self.bounds.idle;
        let new = self.ages.new.iter().take_while(over);
        let all = new.chain(self.ages.going_on.iter().take_while(over));
        let all: Vec<_> = all.map(|(_, id)| *id).collect();
        all.iter().for_each(|id| self.remove(*id));
        all
    }

    fn add(&mut self, key: SessionKey, now: Instant) -> SessionId {
        let id = self.next;
        self.next += 1;
        self.by_key.insert(key, id);
        self.by_id.insert(id, Session { key, last: now, stage: Stage::Asked });
        self.ages.insert(Stage::Asked, (now, id));
        self.by_source.entry(source(key.client.ip())).or_default().insert(Stage::Asked, (now, id));
        id
    }

    fn touch(&mut self, id: SessionId, now: Instant, next: impl Fn(Stage) -> Stage) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        let (before, stage) = ((session.last, id), session.stage);
        (session.last, session.stage) = (now, next(stage));
        let after = session.stage;
        for ages in [Some(&mut self.ages), self.by_source.get_mut(&source(session.key.client.ip()))] {
            let Some(ages) = ages else { continue };
            ages.remove(stage, before);
            ages.insert(after, (now, id));
        }
    }
}

impl Ages {
    fn len(&self) -> usize {
        self.new.len() + self.going_on.len()
    }

    fn of(&mut self, stage: Stage) -> &mut BTreeSet<(Instant, SessionId)> {
        if stage == Stage::GoesOn { &mut self.going_on } else { &mut self.new }
    }

    fn insert(&mut self, stage: Stage, at: (Instant, SessionId)) {
        self.of(stage).insert(at);
    }

    fn remove(&mut self, stage: Stage, at: (Instant, SessionId)) {
        self.of(stage).remove(&at);
    }

    /// The oldest of those that have only asked, else of the others if nothing has been sent there for a while.
    fn to_give_up(&self, now: Instant, respite: Duration) -> Option<SessionId> {
        let rests = |at: &&(Instant, SessionId)| now.saturating_duration_since(at.0) >= respite;
        self.new.first().or_else(|| self.going_on.first().filter(rests)).map(|(_, id)| *id)
    }
}

/// The endpoint for a session: with `affinity` always the same one for a client's address as long as the endpoints are, else
/// that with fewer sessions of two at random. One to `avoid` is taken only if there is no other.
pub fn choose<'e>(
    endpoints: &'e [Endpoint],
    affinity: Option<IpAddr>,
    (seed, avoid): (u64, &dyn Fn(EndpointId) -> bool),
    sessions: impl Fn(EndpointId) -> u32,
) -> Option<&'e Endpoint> {
    let others: Vec<&Endpoint> = endpoints.iter().filter(|it| !avoid(it.id)).collect();
    let all = if others.is_empty() { endpoints.iter().collect() } else { others };
    if let Some(ip) = affinity {
        let of_client = EndpointId::of((ip, 0).into()).hash64();
        return all.into_iter().max_by_key(|it| crate::balance::mix(it.id.hash64() ^ of_client));
    }
    let count = u64::try_from(all.len()).ok().filter(|count| *count > 0)?;
    let at = |number: u64| all.get(usize::try_from(number % count).ok()?).copied();
    let (one, other) = (at(seed >> 32)?, at(seed & u64::from(u32::MAX))?);
    Some(if sessions(other.id) < sessions(one.id) { other } else { one })
}

/// What one host may have all addresses of.
fn source(ip: IpAddr) -> IpAddr {
    match crate::net::canonical_ip(ip) {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
