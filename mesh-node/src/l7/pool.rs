//! Connections to one endpoint that wait for requests. They belong to one client: identities never mix.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use mesh_core::cluster::Ticket;

use super::site::Link;
use super::up::h1::H1Connection;
use crate::frames::Watch;

/// See the module.
#[derive(Default)]
pub struct EndpointPool {
    /// The one used last is at the end.
    idle: RefCell<Vec<Idle>>,
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
}

/// A connection that is kept.
pub struct Kept {
    /// The connection.
    pub connection: H1Connection,
    /// When it was made.
    pub born: Instant,
    /// The server name that it was made for, where that differs from one request to the next.
    pub name: Option<Arc<str>>,
}

struct Idle {
    kept: Kept,
    since: Instant,
}

/// An HTTP/2 connection.
pub struct Multiplexed {
    sender: RefCell<Option<SendRequest<Bytes>>>,
    streams: Cell<u32>,
    served: Cell<u32>,
    born: Instant,
    idle_since: Cell<Instant>,
    link: Link,
    watch: Watch,
    name: Option<Arc<str>>,
    _ticket: Option<Ticket>,
}

/// A place for one stream on a connection.
pub struct Place(Rc<Multiplexed>);

impl EndpointPool {
    /// A connection for requests of this server name that is still alive, if there is one.
    pub fn take(&self, name: Option<&str>, idle_timeout: Option<Duration>, now: Instant) -> Option<Kept> {
        let mut idle = self.idle.borrow_mut();
        while let Some(at) = idle.iter().rposition(|it| it.kept.name.as_deref() == name) {
            let mut last = idle.remove(at);
            let expired =
                idle_timeout.is_some_and(|limit| now.saturating_duration_since(last.since) >= limit);
            if !expired && !last.kept.connection.is_stale() {
                return Some(last.kept);
            }
            last.kept.connection.close();
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn put(&self, kept: Kept, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if kept.name.is_some() && idle.len() >= MAX_NAMED {
            // Clients choose names: those that nobody asks for any more must not keep others out.
            idle.remove(0).kept.connection.close();
        }
        if idle.len() < MAX_IDLE {
            idle.push(Idle { kept, since: now });
        }
    }

    /// A place on an HTTP/2 connection for requests of this server name that takes one more stream.
    pub fn place(&self, name: Option<&str>, max_streams: u32) -> Option<Place> {
        self.multiplexed.borrow_mut().retain(|it| it.sender.borrow().is_some());
        let all = self.multiplexed.borrow();
        let free = all.iter().find(|it| {
            let limit = it.sender.borrow().as_ref().map_or(0, SendRequest::current_max_send_streams);
            it.name.as_deref() == name
                && it.streams.get() < max_streams
                && usize::try_from(it.streams.get()).is_ok_and(|n| n < limit)
        })?;
        Some(Place::on(free))
    }

    /// Whether there is no HTTP/2 connection.
    pub fn is_empty(&self) -> bool {
        self.multiplexed.borrow().is_empty()
    }

    /// Adds an HTTP/2 connection, and takes the first place on it.
    pub fn add(
        &self,
        (sender, watch): (SendRequest<Bytes>, Watch),
        link: Link,
        (name, ticket): (Option<Arc<str>>, Option<Ticket>),
        now: Instant,
    ) -> Place {
        let mut all = self.multiplexed.borrow_mut();
        if name.is_some() && all.len() >= MAX_NAMED {
            let unused = all.iter().position(|it| it.streams.get() == 0);
            drop(unused.map(|at| all.remove(at)));
        }
        let connection = Rc::new(Multiplexed {
            sender: RefCell::new(Some(sender)),
            streams: Cell::new(0),
            served: Cell::new(0),
            born: now,
            idle_since: Cell::new(now),
            link,
            watch,
            name,
            _ticket: ticket,
        });
        all.push(Rc::clone(&connection));
        Place::on(&connection)
    }

    /// Closes what has waited for too long, or is too old.
    pub fn sweep(&self, idle_timeout: Option<Duration>, max_age: Option<Duration>, now: Instant) {
        let old = |since: Instant, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        let mut idle = self.idle.borrow_mut();
        let over = idle.extract_if(.., |it| {
            old(it.since, idle_timeout) || old(it.kept.born, max_age) || it.kept.connection.is_stale()
        });
        over.for_each(|it| it.kept.connection.close());
        drop(idle);
        self.multiplexed.borrow_mut().retain(|it| {
            let unused = it.streams.get() == 0 && old(it.idle_since.get(), idle_timeout);
            it.sender.borrow().is_some() && !unused && !old(it.born, max_age)
        });
    }
}

impl Place {
    fn on(connection: &Rc<Multiplexed>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.served.set(connection.served.get().saturating_add(1));
        Self(Rc::clone(connection))
    }

    /// The sender to begin the stream with.
    pub fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.0.sender.borrow().clone()
    }

    /// No further stream begins on the connection.
    pub fn retire(&self) {
        self.0.sender.borrow_mut().take();
    }

    /// Streams that are under way on the connection, this one included.
    pub fn streams(&self) -> usize {
        usize::try_from(self.0.streams.get()).unwrap_or(usize::MAX)
    }

    /// What is known of the connection.
    pub fn watch(&self) -> &Watch {
        &self.0.watch
    }

    /// Streams that have begun on it.
    pub fn served(&self) -> u32 {
        self.0.served.get()
    }

    /// What is told of the connection.
    pub fn link(&self) -> Link {
        self.0.link
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.idle_since.set(Instant::now());
    }
}

/// Idle connections kept to one endpoint on one thread, for one client.
const MAX_IDLE: usize = 1_024;
/// The same where each server name has its own.
const MAX_NAMED: usize = 64;
