//! Datagrams at a gateway's listener: each client has a session with one endpoint, through a socket of its own, until nothing
//! has been sent for a while.
//!
//! Invariants: nothing is sent to an endpoint but through a socket that a permit of the policy engine was used up for, and a
//! session that policy would not permit any more ends with the change; nothing waits, so that what cannot be sent at once is
//! lost and counted, as networks do with datagrams; what clients make up is bounded.

mod session;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mesh_core::datagrams::{Bounds, SessionId, SessionKey, Sessions, Verdict};
use mesh_core::limit;
use mesh_core::model::{EndpointId, Snapshot};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use self::session::{Carried, Session};
use super::accepted::{DatagramDoor, Thread};
use super::listener::{Listener, Serving};
use crate::admit::Descriptors;
use crate::l7::engine::Engine;
use crate::report::{Event, Flag, Stage};
use crate::run::drain::Drain;
use crate::sys::datagram::{self, Received};

/// What of a thread is needed besides its engine.
pub(super) struct Means {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    drain: Drain,
    descriptors: Descriptors,
}

/// A listener of datagrams.
struct Port {
    engine: Rc<Engine>,
    means: Means,
    listener: Arc<Listener>,
    socket: UdpSocket,
    sessions: RefCell<Sessions>,
    open: RefCell<HashMap<SessionId, Session>>,
    /// How many sessions each endpoint has.
    load: RefCell<HashMap<EndpointId, u32>>,
    /// Endpoints where nobody listened, and when that was.
    failed: RefCell<HashMap<EndpointId, Instant>>,
    /// What sessions were last found to agree with.
    agreed: RefCell<Arc<Serving>>,
    /// Room for one datagram; never borrowed across an `await`.
    buffer: RefCell<Vec<u8>>,
}

impl Means {
    pub(super) fn of(thread: &Thread) -> Self {
        let (snapshots, drain) = (thread.snapshots.clone(), thread.drain.clone());
        Self { snapshots, drain, descriptors: thread.descriptors }
    }
}

/// Serves a listener of datagrams until it is closed, or the process stops.
pub(super) async fn serve(engine: Rc<Engine>, means: Means, door: DatagramDoor) {
    let DatagramDoor { socket, listener, closed } = door;
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "A listener could not be registered."),
    };
    let port = Rc::new(Port {
        agreed: RefCell::new(listener.current()),
        engine,
        means,
        listener,
        socket,
        sessions: RefCell::new(Sessions::new(BOUNDS)),
        open: RefCell::default(),
        load: RefCell::default(),
        failed: RefCell::default(),
        buffer: RefCell::new(vec![0; MAX_DATAGRAM]),
    });
    port.run(closed).await;
    let rest: Vec<_> = port.open.borrow().keys().copied().collect();
    rest.into_iter().for_each(|id| port.cut(id, Stage::Drain, "its listener is gone, or the process stops"));
}

impl Port {
    async fn run(self: &Rc<Self>, mut closed: watch::Receiver<bool>) {
        let (drain, mut snapshots) = (self.means.drain.clone(), self.means.snapshots.clone());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let leave = async {
            tokio::select! {
                _ = closed.wait_for(|closed| *closed) => {}
                () = drain.graceful() => {}
            }
        };
        let forced = drain.forced();
        tokio::pin!(leave, forced);
        let mut left = None;
        loop {
            tokio::select! {
                more = self.receive(left.is_some()) => if more {
                    tokio::task::yield_now().await;
                },
                _ = ticks.tick() => if self.tick(left) {
                    return;
                },
                Ok(()) = snapshots.changed() => self.review(),
                () = &mut leave, if left.is_none() => left = Some(Instant::now()),
                () = &mut forced => return,
            }
        }
    }

    /// Takes in what has come. Whether there may be more.
    async fn receive(self: &Rc<Self>, leaving: bool) -> bool {
        if self.socket.readable().await.is_err() {
            return false;
        }
        for _ in 0..BURST {
            let taken = self.socket.try_io(Interest::READABLE, || {
                let mut buffer = self.buffer.borrow_mut();
                let got = datagram::receive(&self.socket, &mut buffer)?;
                let payload = buffer.get(..got.length).unwrap_or_default();
                self.take(&got, payload, leaving);
                Ok(())
            });
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "A datagram could not be received."),
            }
        }
        true
    }

    fn take(self: &Rc<Self>, got: &Received, payload: &[u8], leaving: bool) {
        let now = Instant::now();
        if !self.can_answer(got) {
            return self.engine.reporter.count(Event::DatagramAddress);
        }
        let key = SessionKey { client: got.from, local: got.to };
        if leaving {
            let known = self.sessions.borrow_mut().used(key, now);
            return match known {
                Some(id) => self.forward(id, payload, now),
                None => self.engine.reporter.count(Event::DatagramLeaving),
            };
        }
        let verdict = self.sessions.borrow_mut().datagram(key, now);
        match verdict {
            Verdict::NoRoom => self.engine.reporter.count(Event::DatagramNoRoom),
            Verdict::Known(id) => self.forward(id, payload, now),
            Verdict::New { id, given_up } => {
                if let Some(old) = given_up {
                    self.engine.reporter.count(Event::ShedSession);
                    self.fail(
                        old,
                        (Stage::Relay, Flag::Overflow),
                        "given up for a newer session: there are too many",
                    );
                }
                self.begin(id, key, now);
                self.forward(id, payload, now);
            }
        }
    }

    /// Whether answers could go there, and would not come back here: both are what a sender makes up to have us talk to
    /// ourselves.
    fn can_answer(&self, got: &Received) -> bool {
        let of_one = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
        };
        let from_here = got.from.ip() == got.to && got.from.port() == self.listener.address().port();
        got.from.port() != 0 && of_one(got.from.ip()) && of_one(got.to) && !from_here
    }

    /// Begins a session, or notes why there is none.
    fn begin(self: &Rc<Self>, id: SessionId, key: SessionKey, now: Instant) {
        let report = session::report(&self.engine, key, self.listener.address().port());
        let session = match self.open(key, &report) {
            Ok(opened) => {
                *self.load.borrow_mut().entry(opened.endpoint).or_default() += 1;
                Session::Carried(Box::new(Carried::start(self, (id, key), opened, report)))
            }
            Err(failed) => {
                failed.tell(&report);
                Session::Refused(now)
            }
        };
        self.open.borrow_mut().insert(id, session);
    }

    /// Sends a client's datagram on. Where the endpoint has said meanwhile that nobody listens there, to another one.
    fn forward(self: &Rc<Self>, id: SessionId, payload: &[u8], now: Instant) {
        let Some(key) = self.sessions.borrow().key(id) else { return };
        if self.is_refused_long(id, now) {
            self.begin(id, key, now);
        }
        let Some(error) = self.send(id, payload) else { return };
        self.lose(id, &error);
        let verdict = self.sessions.borrow_mut().datagram(key, now);
        if let Verdict::New { id, .. } = verdict {
            self.begin(id, key, now);
            if self.send(id, payload).is_some() {
                self.engine.reporter.count(Event::DatagramQueue);
            }
        }
    }

    /// Sends a datagram to the endpoint of a session. What comes back says that the endpoint is lost; all else is counted.
    fn send(&self, id: SessionId, payload: &[u8]) -> Option<io::Error> {
        let event = match self.open.borrow().get(&id) {
            Some(Session::Carried(carried)) => match carried.send(payload) {
                Ok(()) => return None,
                Err(error) if session::is_lack_of_room(&error) => Event::DatagramQueue,
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Event::DatagramSize,
                Err(error) => return Some(error),
            },
            _ => Event::DatagramRefused,
        };
        self.engine.reporter.count(event);
        None
    }

    /// Whether a session was refused so long ago that it may be tried again.
    fn is_refused_long(&self, id: SessionId, now: Instant) -> bool {
        let open = self.open.borrow();
        matches!(open.get(&id), Some(Session::Refused(since)) if now.saturating_duration_since(*since) >= REFUSED_FOR)
    }

    /// An endpoint cannot be sent to.
    fn lose(&self, id: SessionId, error: &io::Error) {
        if let Some(Session::Carried(carried)) = self.open.borrow().get(&id) {
            self.failed.borrow_mut().insert(carried.endpoint, Instant::now());
        }
        self.fail(id, (Stage::Relay, Flag::Connect), &format!("the endpoint cannot be reached: {error}"));
    }

    fn cut(&self, id: SessionId, stage: Stage, reason: &str) {
        self.fail(id, (stage, stage.flag()), reason);
    }

    /// Ends a session that should have gone on.
    fn fail(&self, id: SessionId, (stage, flag): (Stage, Flag), reason: &str) {
        if let Some(Session::Carried(carried)) = self.open.borrow().get(&id) {
            carried.report.fail_as(stage, flag, reason);
        }
        self.end(id);
    }

    fn end(&self, id: SessionId) {
        self.sessions.borrow_mut().remove(id);
        let Some(Session::Carried(carried)) = self.open.borrow_mut().remove(&id) else { return };
        let mut load = self.load.borrow_mut();
        if let Some(count) = load.get_mut(&carried.endpoint) {
            *count -= 1;
            if *count == 0 {
                load.remove(&carried.endpoint);
            }
        }
    }

    /// Ends what is over. Whether all is, after the listener was left at that time.
    fn tick(&self, left: Option<Instant>) -> bool {
        let now = Instant::now();
        let each = limit::each(&self.engine.door());
        let idle = each.idle.unwrap_or(BOUNDS.idle);
        let mut sessions = self.sessions.borrow_mut();
        sessions.set_idle(if left.is_some() { LAST_ANSWERS } else { idle });
        let over = sessions.expire(now);
        drop(sessions);
        over.into_iter().for_each(|id| self.end(id));
        self.failed.borrow_mut().retain(|_, at| now.saturating_duration_since(*at) < AVOIDED_FOR);
        if let Some(most) = each.duration {
            for id in self.carried(|it| now.saturating_duration_since(it.since) >= most) {
                self.cut(id, Stage::Relay, "as old as connections may become");
            }
        }
        if !self.listener.is_current(&self.agreed.borrow()) {
            self.review();
        }
        let patience = if self.means.drain.is_draining() { DRAIN_TIME } else { LAST_ANSWERS };
        left.is_some_and(|left| {
            now.saturating_duration_since(left) >= patience || self.open.borrow().is_empty()
        })
    }

    /// Asks again about each session: the configuration is a new one.
    fn review(&self) {
        let (snapshot, serving) = (self.engine.snapshot(), self.listener.current());
        let open = self.open.borrow();
        let carried = open.iter().filter_map(|(id, session)| match session {
            Session::Carried(carried) => Some((*id, session::check(carried, &snapshot, &serving).err()?)),
            Session::Refused(_) => None,
        });
        let ended: Vec<_> = carried.collect();
        let refused: Vec<_> =
            open.iter().filter(|(_, it)| matches!(it, Session::Refused(_))).map(|(id, _)| *id).collect();
        drop(open);
        // Whoever was refused may be asked for again.
        refused.into_iter().for_each(|id| self.end(id));
        for (id, why) in ended {
            if why.0 == Stage::Policy {
                self.engine.reporter.count(Event::DeniedLater);
            }
            self.cut(id, why.0, &why.1);
        }
        *self.agreed.borrow_mut() = serving;
    }

    fn carried(&self, which: impl Fn(&Carried) -> bool) -> Vec<SessionId> {
        let open = self.open.borrow();
        let all = open.iter().filter(|(_, it)| matches!(it, Session::Carried(it) if which(it)));
        all.map(|(id, _)| *id).collect()
    }

    /// Sends an answer to a client. Fails if the endpoint is lost, not if the client is.
    fn answer(&self, (id, key): (SessionId, SessionKey), socket: &UdpSocket) -> io::Result<()> {
        let mut buffer = self.buffer.borrow_mut();
        let length = datagram::receive_connected(socket, &mut buffer)?;
        let payload = buffer.get(..length).unwrap_or_default();
        if datagram::send(&self.socket, payload, (key.local, key.client)).is_err() {
            self.engine.reporter.count(Event::DatagramQueue);
            return Ok(());
        }
        self.sessions.borrow_mut().answered(id, Instant::now());
        if let Some(Session::Carried(carried)) = self.open.borrow().get(&id) {
            let bytes = u64::try_from(length).unwrap_or_default();
            carried.counters.received.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Each session holds a descriptor and some 6 KiB. The default of Envoy for `idle`.
const BOUNDS: Bounds = Bounds {
    sessions: 8192,
    of_source: 2048,
    idle: Duration::from_secs(60),
    respite: Duration::from_secs(10),
};
/// Bytes of the longest datagram that IP has room for, rounded up.
const MAX_DATAGRAM: usize = 1 << 16;
/// Datagrams taken in before others have their turn.
const BURST: usize = 64;
/// How often it is looked whether sessions are over.
const TICK: Duration = Duration::from_millis(250);
/// How long it is not tried again to open a session that was refused.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// How long an endpoint is avoided where nobody has listened.
const AVOIDED_FOR: Duration = Duration::from_secs(5);
/// Quiet after which a session is over once its listener is closed.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// What sessions get in which something is still sent when the process stops; as for connections of bytes.
const DRAIN_TIME: Duration = crate::l7::stream::DRAIN_TIME;
