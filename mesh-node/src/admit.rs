//! Admission: accepting connections without ever failing, and caps on what is under way.
//!
//! An accept loop that ends, or spins, when file descriptors run out takes the whole node with it; this one waits a
//! little and goes on. Nor may connections take the last descriptors: the ports for people and probes need theirs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mesh_core::log_gate;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Accepts for ever and hands every connection to `f`, which must not block: it starts a task or drops the socket.
/// `failed` hears of errors other than a connection that went away by itself.
/// Stops when dropped.
pub async fn accept_loop(
    listener: &TcpListener,
    failed: impl Fn(&io::Error),
    mut f: impl FnMut(TcpStream, SocketAddr),
) -> Infallible {
    run(async || listener.accept().await, failed, |(socket, peer)| f(socket, peer)).await
}

async fn run<T>(
    accept: impl AsyncFn() -> io::Result<T>,
    failed: impl Fn(&io::Error),
    mut f: impl FnMut(T),
) -> Infallible {
    let mut pause = MIN_PAUSE;
    let log = LogGate::new(1);
    loop {
        match accept().await {
            Ok(connection) => {
                pause = MIN_PAUSE;
                f(connection);
            }
            Err(e) if is_of_one_connection(&e) => {}
            Err(e) => {
                failed(&e);
                if let Some(muted) = log.pass() {
                    tracing::error!(error = %e, muted, "Connections cannot be accepted at present.");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}

/// Errors that the next connection in the queue need not have (accept(2), "Error handling").
fn is_of_one_connection(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        e.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::ConnectionRefused
            | K::Interrupted
            | K::PermissionDenied
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::TimedOut
    ) || e.raw_os_error() == Some(libc::EPROTO)
}

/// A thread's [`log_gate::LogGate`].
#[derive(Debug)]
pub struct LogGate(Cell<log_gate::LogGate>);

impl LogGate {
    /// A gate for `per_second` lines.
    pub fn new(per_second: u32) -> Self {
        Self(Cell::new(log_gate::LogGate::new(per_second)))
    }

    /// The number of lines left out since the last one, if this one may pass.
    pub fn pass(&self) -> Option<u64> {
        let mut gate = self.0.get();
        let muted = gate.pass(Instant::now());
        self.0.set(gate);
        muted
    }
}

/// A cap on things under way on this thread, handshakes for instance. Beyond it the oldest is given up: a peer that
/// goes on needs milliseconds, so among the oldest of a full house are those that only wait.
#[derive(Debug, Clone)]
pub struct Cap {
    inner: Rc<CapInner>,
}

#[derive(Debug)]
struct CapInner {
    limit: usize,
    next: Cell<u64>,
    /// By age.
    places: RefCell<BTreeMap<u64, Rc<Notify>>>,
}

/// One of the places under a [`Cap`]; free again when dropped.
#[derive(Debug)]
#[must_use = "the place is free again as soon as this is dropped"]
pub struct Place {
    cap: Rc<CapInner>,
    number: u64,
    lost: Rc<Notify>,
}

impl Cap {
    /// Room for `limit`.
    pub fn new(limit: usize) -> Self {
        Self { inner: Rc::new(CapInner { limit, next: Cell::new(0), places: RefCell::default() }) }
    }

    /// A place. If all are taken, the oldest is lost to this one.
    pub fn enter(&self) -> Place {
        let mut places = self.inner.places.borrow_mut();
        if places.len() >= self.inner.limit
            && let Some((_, oldest)) = places.pop_first()
        {
            oldest.notify_one();
        }
        let (number, lost) = (self.inner.next.get(), Rc::<Notify>::default());
        self.inner.next.set(number + 1);
        places.insert(number, lost.clone());
        Place { cap: self.inner.clone(), number, lost }
    }

    /// Places taken.
    pub fn in_use(&self) -> usize {
        self.inner.places.borrow().len()
    }
}

impl Place {
    /// Resolves when a newer one has taken this place.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cap.places.borrow_mut().remove(&self.number);
    }
}

/// Keeps the last file descriptors from connections. The kernel always gives out the lowest free number, so a high one
/// says that all below it are in use; nothing has to be counted.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors {
    limit: RawFd,
    reserve: RawFd,
}

impl Descriptors {
    /// Under a limit of `limit` open files: a tenth of them is kept back, twice.
    pub fn under(limit: u64) -> Self {
        let limit = RawFd::try_from(limit).unwrap_or(RawFd::MAX);
        Self { limit, reserve: (limit / 10).clamp(MIN_RESERVE, MAX_RESERVE) }
    }

    /// Whether a connection that was accepted as `socket` may stay: there are descriptors for its other side, and for
    /// those of others accepted at the same time.
    pub fn allow_accepted(&self, socket: &impl AsRawFd) -> bool {
        socket.as_raw_fd() < self.limit - 2 * self.reserve
    }

    /// The socket of a connection's other side, unless that would leave too few for anything else.
    pub fn allow_dial<S: AsRawFd>(&self, socket: S) -> io::Result<S> {
        if socket.as_raw_fd() < self.limit - self.reserve {
            Ok(socket)
        } else {
            Err(io::Error::from_raw_os_error(libc::EMFILE))
        }
    }
}

/// TLS handshakes under way per thread; at 5 s each a flood of silent peers holds no more than this.
pub const MAX_HANDSHAKES: usize = 512;
/// Pauses after an error of `accept`.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(100);
/// Descriptors kept back for the ports for people and probes, new pods, and files.
const MIN_RESERVE: RawFd = 40;
const MAX_RESERVE: RawFd = 512;

#[cfg(test)]
mod tests;
