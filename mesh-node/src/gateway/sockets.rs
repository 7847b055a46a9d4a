//! Which sockets there are: brought in step with what is wanted, one for each data thread and address.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::figures::Counters;
use super::listener::{Listener, Serving};
use crate::sys::sockopt;

/// A socket for a data thread.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: Arc<Listener>,
    pub(super) tcp: TcpListener,
    /// True once it is to be closed.
    pub(super) closed: watch::Receiver<bool>,
}

/// All sockets, and those that could not be had.
pub(super) struct Sockets {
    threads: Vec<mpsc::Sender<Socket>>,
    /// Where to listen if nothing else is said.
    addresses: Vec<IpAddr>,
    open: BTreeMap<SocketAddr, Open>,
    failing: BTreeMap<SocketAddr, Failing>,
    counters: Arc<Counters>,
}

struct Open {
    listener: Arc<Listener>,
    closed: watch::Sender<bool>,
}

struct Failing {
    serving: Arc<Serving>,
    error: Arc<str>,
    pause: Duration,
    again: Instant,
}

/// What has to be done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// First: what takes the place of a socket is there before that is gone.
    open: BTreeSet<SocketAddr>,
    keep: BTreeSet<SocketAddr>,
    close: BTreeSet<SocketAddr>,
}

impl Plan {
    fn of(open: &BTreeSet<SocketAddr>, wanted: &BTreeSet<SocketAddr>) -> Self {
        Self {
            open: wanted.difference(open).copied().collect(),
            keep: wanted.intersection(open).copied().collect(),
            close: open.difference(wanted).copied().collect(),
        }
    }
}

impl Sockets {
    /// No sockets yet. `bind` is where to listen by default.
    pub(super) fn new(
        threads: Vec<mpsc::Sender<Socket>>,
        bind: Option<IpAddr>,
        counters: Arc<Counters>,
    ) -> Self {
        let everywhere = || vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let addresses = bind.map_or_else(everywhere, |ip| vec![ip]);
        Self { threads, addresses, open: BTreeMap::new(), failing: BTreeMap::new(), counters }
    }

    /// Where to listen if nothing else is said.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Has each address of `wanted` served as it says, and nothing else.
    pub(super) async fn reconcile(&mut self, wanted: &BTreeMap<SocketAddr, Arc<Serving>>) {
        let plan = Plan::of(&self.open.keys().copied().collect(), &wanted.keys().copied().collect());
        self.failing.retain(|address, _| wanted.contains_key(address));
        for (address, serving) in wanted {
            let serving = Arc::clone(serving);
            if let Some(open) = self.open.get(address).filter(|_| plan.keep.contains(address)) {
                open.listener.serve(&serving);
            } else if let Some(failing) = self.failing.get_mut(address) {
                failing.serving = serving;
            } else if plan.open.contains(address) {
                self.try_open(*address, serving, FIRST_PAUSE).await;
            }
        }
        for address in plan.close {
            if let Some(open) = self.open.remove(&address) {
                tracing::info!(%address, "Closed a listener.");
                open.closed.send_replace(true);
                open.listener.drain();
            }
        }
    }

    /// When the next address that could not be had is to be tried again.
    pub(super) fn next_attempt(&self) -> Option<Instant> {
        self.failing.values().map(|failing| failing.again).min()
    }

    /// Tries again what is due. Whether anything has come of it.
    pub(super) async fn retry(&mut self) -> bool {
        let now = Instant::now();
        let due: Vec<_> =
            self.failing.iter().filter(|(_, it)| it.again <= now).map(|(address, _)| *address).collect();
        let before = self.open.len();
        for address in due {
            if let Some(Failing { serving, pause, .. }) = self.failing.remove(&address) {
                self.try_open(address, serving, (pause * 2).min(LONGEST_PAUSE)).await;
            }
        }
        self.open.len() != before
    }

    /// Every address with what is served there, and why it is not if it is not.
    pub(super) fn statuses(&self) -> Vec<(SocketAddr, Arc<Serving>, Option<Arc<str>>)> {
        let open = self.open.iter().map(|(address, open)| (*address, open.listener.current(), None));
        let failing = self.failing.iter().map(|(address, failing)| {
            (*address, Arc::clone(&failing.serving), Some(Arc::clone(&failing.error)))
        });
        let mut all: Vec<_> = open.chain(failing).collect();
        all.sort_by_key(|(address, ..)| *address);
        all
    }

    /// Tells all connections to end; with `force`, ends them.
    pub(super) fn drain(&self, force: bool) {
        for open in self.open.values() {
            open.closed.send_replace(true);
            if force { open.listener.force() } else { open.listener.drain() }
        }
    }

    async fn try_open(&mut self, address: SocketAddr, serving: Arc<Serving>, pause: Duration) {
        let error = match self.bind(address) {
            Ok(sockets) => {
                tracing::info!(%address, "Opened a listener.");
                return self.hand_out(address, &serving, sockets).await;
            }
            Err(error) if is_missing_family(address, &error) => {
                tracing::debug!(%address, %error, "This machine has no such addresses.");
                return;
            }
            Err(error) => explain(&error),
        };
        self.counters.bind_failures.fetch_add(1, Ordering::Relaxed);
        let again = Instant::now() + pause;
        self.failing.insert(address, Failing { serving, error: error.into(), pause, again });
    }

    async fn hand_out(&mut self, address: SocketAddr, serving: &Arc<Serving>, sockets: Vec<TcpListener>) {
        let listener = Arc::new(Listener::new(address, Arc::clone(serving)));
        let (closed, receiver) = watch::channel(false);
        for (thread, socket) in self.threads.iter().zip(sockets) {
            let socket = Socket { listener: Arc::clone(&listener), tcp: socket, closed: receiver.clone() };
            // A thread that is gone takes the process with it.
            let _ = thread.send(socket).await;
        }
        self.open.insert(address, Open { listener, closed });
    }

    /// A socket for each thread, which share the address. Another process of the same user could share it as well, and
    /// take a part of the connections without a word: so it is tried first whether one socket can have it for itself.
    fn bind(&self, address: SocketAddr) -> io::Result<Vec<TcpListener>> {
        let ours = self.open.keys().any(|open| open.port() == address.port());
        if !ours {
            sockopt::may_bind(address)?;
        }
        self.threads.iter().map(|_| sockopt::listen(address, BACKLOG, sockopt::Close::Fin)).collect()
    }
}

/// Whether an error only says that the machine has no IPv6, when all addresses were asked for.
fn is_missing_family(address: SocketAddr, error: &io::Error) -> bool {
    let codes = [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL];
    address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED)
        && error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "{error}; ports below 1024 need the capability CAP_NET_BIND_SERVICE, or a lower \
             net.ipv4.ip_unprivileged_port_start"
        ),
        _ => error.to_string(),
    }
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Between attempts at an address that cannot be had.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ports: &[u16]) -> BTreeSet<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([0, 0, 0, 0], *port))).collect()
    }

    #[test]
    fn only_what_differs_is_touched() {
        let plan = Plan::of(&set(&[80, 443]), &set(&[443, 8080]));
        assert_eq!(plan, Plan { open: set(&[8080]), keep: set(&[443]), close: set(&[80]) });
        assert_eq!(Plan::of(&set(&[]), &set(&[])), Plan::default());
        assert_eq!(Plan::of(&set(&[80]), &set(&[80])), Plan { keep: set(&[80]), ..Plan::default() });
    }

    #[test]
    fn errors_say_what_can_be_done() {
        let denied = explain(&io::Error::from_raw_os_error(libc::EACCES));
        assert!(denied.contains("CAP_NET_BIND_SERVICE"), "{denied}");
        let absent = io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        assert!(is_missing_family("[::]:80".parse().expect("an address"), &absent));
        assert!(!is_missing_family("[fd00::1]:80".parse().expect("an address"), &absent));
        let taken = io::Error::from_raw_os_error(libc::EADDRINUSE);
        assert!(!is_missing_family("[::]:80".parse().expect("an address"), &taken));
    }
}
