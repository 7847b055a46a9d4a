//! The tunnels of one thread, by who talks to whom.
//!
//! One tunnel per key carries many streams; another is made when it is full. Only one is being made per key at any
//! time, everybody else who needs it waits for it. Never does a key get a tunnel of another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use mesh_core::id::SpiffeId;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::client::{Driver, Lease, Timing, Tunnel, drive};
use super::{Early, OpenError, Stage, Stream};
use crate::identity::Svid;
use crate::run::drain::Drain;
use crate::run::tasks;
use crate::tls;

/// Everything two streams must share to share a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// Uid of the pod it starts in: the tunnel's socket lives in that pod's network namespace.
    pub source_pod: Arc<str>,
    /// As whom.
    pub source: SpiffeId,
    /// To whom.
    pub destination: SpiffeId,
    /// Where: the destination pod's address and its tunnel port.
    pub address: SocketAddr,
}

/// What the CONNECT asks.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The final destination.
    pub authority: SocketAddr,
    /// `forwarded` header.
    pub forwarded: Option<HeaderValue>,
    /// `baggage` header.
    pub baggage: Option<HeaderValue>,
    /// `traceparent` header.
    pub traceparent: Option<HeaderValue>,
}

impl ConnectRequest {
    /// To `authority`, without further headers.
    pub fn new(authority: SocketAddr) -> Self {
        Self { authority, forwarded: None, baggage: None, traceparent: None }
    }

    /// What it says besides, by the names of the headers.
    pub(super) fn claims(&self) -> [(&'static str, Option<&HeaderValue>); 3] {
        [
            (FORWARDED, self.forwarded.as_ref()),
            (BAGGAGE, self.baggage.as_ref()),
            (TRACEPARENT, self.traceparent.as_ref()),
        ]
    }
}

/// How a [`Pool`] behaves.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// Streams per tunnel before another is made (or the peer's own limit, if lower).
    pub streams: usize,
    /// A tunnel without streams is closed after this long.
    pub idle: Duration,
    /// For TCP to the tunnel port.
    pub dial: Duration,
    /// For HTTP/2's settings.
    pub settle: Duration,
    /// For the answer to CONNECT, in which the far end makes a connection of its own.
    pub response: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            streams: 100,
            idle: Duration::from_secs(5 * 60),
            dial: Duration::from_secs(10),
            settle: Duration::from_secs(5),
            response: Duration::from_secs(15),
        }
    }
}

/// See the module. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    options: PoolOptions,
    drain: Drain,
    slots: RefCell<HashMap<TunnelKey, Slot>>,
}

/// The tunnels of one key.
#[derive(Default)]
struct Slot {
    tunnels: Vec<Rc<Tunnel>>,
    /// The one being made.
    attempt: Option<Rc<Attempt>>,
}

/// A tunnel being made, for those who wait for it.
#[derive(Default)]
struct Attempt {
    /// `Some` when decided; `Ok` also if its maker gave up, so that somebody else may try.
    outcome: RefCell<Option<Result<(), OpenError>>>,
    decided: Notify,
}

impl Pool {
    /// An empty pool. A forced `drain` cuts all its tunnels.
    pub fn new(options: PoolOptions, drain: Drain) -> Self {
        Self { inner: Rc::new(Inner { options, drain, slots: RefCell::default() }) }
    }

    /// Opens a stream over a tunnel of `key`, which `dial` connects and `svid` authenticates if one must be made.
    /// Returns once the far end answered 200. Dropping the future gives everything back.
    pub async fn open(
        &self,
        key: &TunnelKey,
        dial: impl AsyncFn() -> io::Result<TcpStream>,
        svid: Arc<Svid>,
        request: &ConnectRequest,
    ) -> Result<Stream, OpenError> {
        self.open_with(key, dial, svid, (request, &Early::none())).await
    }

    /// [`Pool::open`] for an application that may be heard before the answer. Where the tunnel has shown lately that it lives, what it says
    /// goes out with the request; afterwards [`Early::into_parts`] tells.
    pub async fn open_with(
        &self,
        key: &TunnelKey,
        dial: impl AsyncFn() -> io::Result<TcpStream>,
        svid: Arc<Svid>,
        (request, early): (&ConnectRequest, &Early<'_>),
    ) -> Result<Stream, OpenError> {
        let mut stale = 0;
        loop {
            if *svid.id() != key.source || !svid.is_valid_at(SystemTime::now()) {
                return Err(OpenError::Identity);
            }
            let (lease, fresh) = self.lease(key, &dial, &svid).await?;
            let tunnel = lease.tunnel().clone();
            let result = lease.connect(request, early, self.inner.options.response).await;
            let again = result.as_ref().err().is_some_and(|error| early.may_go_again(error));
            match result {
                // A tunnel that had ended without our knowledge, or whose peer is leaving: the stream was not begun,
                // or at worst an application saw a connection without a byte.
                Err(OpenError::TunnelLost(_) | OpenError::NotTaken)
                    if again && !fresh && stale < MAX_STALE =>
                {
                    tunnel.retire();
                    stale += 1;
                }
                other => return other,
            }
        }
    }

    /// Retires all tunnels of a pod that is gone; their streams go on until they end.
    pub fn retire_pod(&self, uid: &str) {
        self.retire_if(|key| &*key.source_pod == uid);
    }

    /// Retires all tunnels whose key `chosen` names.
    pub fn retire_if(&self, chosen: impl Fn(&TunnelKey) -> bool) {
        let slots = self.inner.slots.borrow();
        for (_, slot) in slots.iter().filter(|(key, _)| chosen(key)) {
            slot.tunnels.iter().for_each(|tunnel| tunnel.retire());
        }
    }

    /// Tunnels that take new streams.
    pub fn tunnels(&self) -> usize {
        let slots = self.inner.slots.borrow();
        slots.values().flat_map(|slot| &slot.tunnels).filter(|tunnel| !tunnel.is_retired()).count()
    }

    /// A lease on a tunnel of `key`, and whether the tunnel was made for it.
    async fn lease(
        &self,
        key: &TunnelKey,
        dial: &impl AsyncFn() -> io::Result<TcpStream>,
        svid: &Arc<Svid>,
    ) -> Result<(Lease, bool), OpenError> {
        loop {
            if let Some(lease) = self.inner.existing(key, svid) {
                return Ok((lease, false));
            }
            let (attempt, ours) = self.inner.join(key);
            if ours {
                let maker = Maker { pool: Rc::downgrade(&self.inner), key: key.clone(), attempt };
                return self.make(maker, dial, svid).await.map(|lease| (lease, true));
            }
            attempt.wait().await?;
        }
    }

    async fn make(
        &self,
        maker: Maker,
        dial: &impl AsyncFn() -> io::Result<TcpStream>,
        svid: &Arc<Svid>,
    ) -> Result<Lease, OpenError> {
        let (tunnel, driver) = match self.connect(&maker.key, dial, svid).await {
            Ok(made) => made,
            Err(e) => {
                maker.attempt.decide(Err(e.clone()));
                return Err(e);
            }
        };
        let lease = tunnel.lease_first();
        self.inner.slots.borrow_mut().entry(maker.key.clone()).or_default().tunnels.push(tunnel.clone());
        let options = &self.inner.options;
        let timing = Timing { idle: options.idle, settle: options.settle };
        let drain = self.inner.drain.clone();
        tasks::spawn_local("tunnel", async move {
            let (pool, key) = (maker.pool.clone(), maker.key.clone());
            drive(tunnel, driver, timing, drain, move |outcome| maker.attempt.decide(outcome)).await;
            if let Some(pool) = pool.upgrade() {
                pool.sweep(&key);
            }
        });
        Ok(lease)
    }

    async fn connect(
        &self,
        key: &TunnelKey,
        dial: &impl AsyncFn() -> io::Result<TcpStream>,
        svid: &Arc<Svid>,
    ) -> Result<(Rc<Tunnel>, Driver), OpenError> {
        let tcp = match tokio::time::timeout(self.inner.options.dial, dial()).await {
            Err(_) => return Err(OpenError::Deadline(Stage::Dial)),
            Ok(Err(e)) => return Err(OpenError::Dial(Arc::new(e))),
            Ok(Ok(tcp)) => tcp,
        };
        let local = tcp.local_addr().ok();
        let (stream, peer) = tls::connect(tcp, svid, &key.destination).await.map_err(|e| match e {
            tls::TlsError::Deadline => OpenError::Deadline(Stage::Tls),
            other => OpenError::Tls(other),
        })?;
        Tunnel::start((stream, local), &peer, svid.clone()).await
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("tunnels", &self.tunnels()).finish_non_exhaustive()
    }
}

impl Inner {
    /// Room on a tunnel of `key` that may still be used; those that may not are retired on the way.
    fn existing(&self, key: &TunnelKey, svid: &Arc<Svid>) -> Option<Lease> {
        let now = SystemTime::now();
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(key)?;
        slot.tunnels.retain(|tunnel| {
            let serves = tunnel.serves(svid, now);
            if !serves {
                tunnel.retire();
            }
            serves
        });
        slot.tunnels.iter().find_map(|tunnel| tunnel.lease(self.options.streams))
    }

    /// The attempt for `key`, and whether it is the caller's to carry out.
    fn join(&self, key: &TunnelKey) -> (Rc<Attempt>, bool) {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(key.clone()).or_default();
        match &slot.attempt {
            Some(attempt) => (attempt.clone(), false),
            None => (slot.attempt.insert(Rc::default()).clone(), true),
        }
    }

    /// Forgets what has ended, and the key with it if nothing is left.
    fn sweep(&self, key: &TunnelKey) {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.get_mut(key) {
            slot.tunnels.retain(|tunnel| !tunnel.is_retired());
            if slot.tunnels.is_empty() && slot.attempt.is_none() {
                slots.remove(key);
            }
        }
    }
}

impl Attempt {
    fn decide(&self, outcome: Result<(), OpenError>) {
        self.outcome.borrow_mut().get_or_insert(outcome);
        self.decided.notify_waiters();
    }

    async fn wait(&self) -> Result<(), OpenError> {
        loop {
            let decided = self.decided.notified();
            if let Some(outcome) = &*self.outcome.borrow() {
                return outcome.clone();
            }
            decided.await;
        }
    }
}

/// Whoever carries out an attempt; dropped early, it lets the next one try.
struct Maker {
    pool: Weak<Inner>,
    key: TunnelKey,
    attempt: Rc<Attempt>,
}

impl Drop for Maker {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            if let Some(slot) = pool.slots.borrow_mut().get_mut(&self.key) {
                slot.attempt.take_if(|attempt| Rc::ptr_eq(attempt, &self.attempt));
            }
            pool.sweep(&self.key);
        }
        self.attempt.decide(Ok(()));
    }
}

/// Tunnels of one key that may turn out to be dead before an open gives up; a peer that restarts kills all at once.
const MAX_STALE: u32 = 3;

/// Headers of HBONE's CONNECT.
pub(super) const FORWARDED: &str = "forwarded";
pub(super) const BAGGAGE: &str = "baggage";
pub(super) const TRACEPARENT: &str = "traceparent";
