//! Admission: accepting connections without ever failing, and caps on what is under way.
//!
//! An accept loop that ends, or spins, when file descriptors run out takes the whole node with it; this one waits a
//! little and goes on.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::sys::sockopt;

/// Totals of an accept loop, or of several that share it.
#[derive(Debug, Default)]
pub struct AcceptCounters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Errors of `accept` other than a connection that went away by itself.
    pub errors: AtomicU64,
}

/// What is set on each accepted socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseMode {
    /// Closing means FIN: tunnels, whose ends are marked inside.
    Fin,
    /// Closing means reset until a FIN was really passed on: connections of applications.
    Reset,
}

/// Accepts for ever and hands every connection to `f`, which must not block: it starts a task or drops the socket.
///
/// Small packets are sent at once and dead peers noticed (keep-alive). Stops when dropped.
pub async fn accept_loop(
    listener: &TcpListener,
    mode: CloseMode,
    counters: &AcceptCounters,
    mut f: impl FnMut(TcpStream, SocketAddr),
) -> Infallible {
    let prepare = |(socket, peer): (TcpStream, SocketAddr)| {
        // A socket that refuses options is one that has already been reset; reading from it will say so.
        let _ = sockopt::set_nodelay(&socket);
        let _ = sockopt::set_keepalive(&socket);
        if mode == CloseMode::Reset {
            let _ = sockopt::set_linger_zero(&socket, true);
        }
        f(socket, peer);
    };
    run(async || listener.accept().await, counters, prepare).await
}

async fn run<T>(
    accept: impl AsyncFn() -> io::Result<T>,
    counters: &AcceptCounters,
    mut f: impl FnMut(T),
) -> Infallible {
    let mut pause = MIN_PAUSE;
    let mut log = LogGate::default();
    loop {
        match accept().await {
            Ok(connection) => {
                pause = MIN_PAUSE;
                counters.accepted.fetch_add(1, Ordering::Relaxed);
                f(connection);
            }
            Err(e) if is_of_one_connection(&e) => {}
            Err(e) => {
                counters.errors.fetch_add(1, Ordering::Relaxed);
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

/// Lets one log line a second pass and counts the others.
#[derive(Default)]
struct LogGate {
    last: Option<Instant>,
    muted: u64,
}

impl LogGate {
    /// The number of lines left out since the last one, if this one may pass.
    fn pass(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < LOG_INTERVAL) {
            self.muted += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.muted))
    }
}

/// A cap on things under way on this thread, handshakes for instance. Beyond it the newest is turned away.
#[derive(Debug, Clone)]
pub struct Cap {
    inner: Rc<CapInner>,
}

#[derive(Debug)]
struct CapInner {
    limit: usize,
    in_use: Cell<usize>,
    refused: Cell<u64>,
}

/// One of the places under a [`Cap`]; free again when dropped.
#[derive(Debug)]
#[must_use = "the place is free again as soon as this is dropped"]
pub struct Place {
    cap: Rc<CapInner>,
}

impl Cap {
    /// Room for `limit`.
    pub fn new(limit: usize) -> Self {
        Self { inner: Rc::new(CapInner { limit, in_use: Cell::new(0), refused: Cell::new(0) }) }
    }

    /// A place, or `None` if all are taken, which is counted.
    pub fn enter(&self) -> Option<Place> {
        let in_use = self.inner.in_use.get();
        if in_use >= self.inner.limit {
            self.inner.refused.set(self.inner.refused.get() + 1);
            return None;
        }
        self.inner.in_use.set(in_use + 1);
        Some(Place { cap: self.inner.clone() })
    }

    /// Places taken.
    pub fn in_use(&self) -> usize {
        self.inner.in_use.get()
    }

    /// How often [`Cap::enter`] said no.
    pub fn refused(&self) -> u64 {
        self.inner.refused.get()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cap.in_use.set(self.cap.in_use.get() - 1);
    }
}

/// TLS handshakes under way per thread; at 5 s each a flood of silent peers holds no more than this.
pub const MAX_HANDSHAKES: usize = 512;
/// Pauses after an error of `accept`.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(100);
const LOG_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
