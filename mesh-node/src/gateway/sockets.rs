//! Which sockets there are: brought in step with what is wanted, one for each data thread and address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{fmt, io};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::figures::Counters;
use super::listener::{Listener, Serving};
use crate::sys::{datagram, sockopt};

/// Where is listened. Of one port those of TCP and of UDP have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) udp: bool,
}

/// A socket for a data thread.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: Arc<Listener>,
    pub(super) bound: Bound,
    /// True once it is to be closed.
    pub(super) closed: watch::Receiver<bool>,
}

/// What it is bound to.
#[derive(Debug)]
pub(super) enum Bound {
    /// For connections.
    Tcp(TcpListener),
    /// For datagrams.
    Udp(UdpSocket),
}

/// All sockets, and those that could not be had.
pub(super) struct Sockets {
    threads: Vec<mpsc::Sender<Socket>>,
    /// Where to listen if nothing else is said.
    addresses: Vec<IpAddr>,
    open: BTreeMap<Place, Open>,
    failing: BTreeMap<Place, Failing>,
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
    open: BTreeSet<Place>,
    keep: BTreeSet<Place>,
    close: BTreeSet<Place>,
}

impl Plan {
    fn of(open: &BTreeSet<Place>, wanted: &BTreeSet<Place>) -> Self {
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
    pub(super) async fn reconcile(&mut self, wanted: &BTreeMap<Place, Arc<Serving>>) {
        let plan = Plan::of(&self.open.keys().copied().collect(), &wanted.keys().copied().collect());
        self.failing.retain(|place, _| wanted.contains_key(place));
        for (place, serving) in wanted {
            let serving = Arc::clone(serving);
            if let Some(open) = self.open.get(place).filter(|_| plan.keep.contains(place)) {
                open.listener.serve(&serving);
            } else if let Some(failing) = self.failing.get_mut(place) {
                failing.serving = serving;
            } else if plan.open.contains(place) {
                self.try_open(*place, serving, FIRST_PAUSE).await;
            }
        }
        for place in plan.close {
            if let Some(open) = self.open.remove(&place) {
                tracing::info!(address = %place, "Closed a listener.");
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
            self.failing.iter().filter(|(_, it)| it.again <= now).map(|(place, _)| *place).collect();
        let before = self.open.len();
        for place in due {
            if let Some(Failing { serving, pause, .. }) = self.failing.remove(&place) {
                self.try_open(place, serving, (pause * 2).min(LONGEST_PAUSE)).await;
            }
        }
        self.open.len() != before
    }

    /// Every place with what is served there, and why it is not if it is not.
    pub(super) fn statuses(&self) -> Vec<(Place, Arc<Serving>, Option<Arc<str>>)> {
        let open = self.open.iter().map(|(place, open)| (*place, open.listener.current(), None));
        let failing = self
            .failing
            .iter()
            .map(|(place, failing)| (*place, Arc::clone(&failing.serving), Some(Arc::clone(&failing.error))));
        let mut all: Vec<_> = open.chain(failing).collect();
        all.sort_by_key(|(place, ..)| *place);
        all
    }

    /// Tells all connections to end; with `force`, ends them.
    pub(super) fn drain(&self, force: bool) {
        for open in self.open.values() {
            open.closed.send_replace(true);
            if force { open.listener.force() } else { open.listener.drain() }
        }
    }

    async fn try_open(&mut self, place: Place, serving: Arc<Serving>, pause: Duration) {
        let error = match self.bind(place) {
            Ok(sockets) => {
                tracing::info!(address = %place, "Opened a listener.");
                return self.hand_out(place, &serving, sockets).await;
            }
            Err(error) if is_missing_family(place.address, &error) => {
                tracing::debug!(address = %place, %error, "This machine has no such addresses.");
                return;
            }
            Err(error) => explain(&error),
        };
        self.counters.bind_failures.fetch_add(1, Ordering::Relaxed);
        let again = Instant::now() + pause;
        self.failing.insert(place, Failing { serving, error: error.into(), pause, again });
    }

    async fn hand_out(&mut self, place: Place, serving: &Arc<Serving>, sockets: Vec<Bound>) {
        let listener = Arc::new(Listener::new(place.address, Arc::clone(serving)));
        let (closed, receiver) = watch::channel(false);
        // A listener of datagrams is on one thread, so that what bounds it need not be divided.
        let first = if place.udp { usize::from(place.address.port()) % self.threads.len().max(1) } else { 0 };
        for (thread, bound) in self.threads.iter().skip(first).zip(sockets) {
            let socket = Socket { listener: Arc::clone(&listener), bound, closed: receiver.clone() };
            // A thread that is gone takes the process with it.
            let _ = thread.send(socket).await;
        }
        self.open.insert(place, Open { listener, closed });
    }

    /// A socket for each thread that serves there, which share the address. Another process of the same user could share it
    /// as well, and take a part of what comes without a word: so it is tried first whether one socket can have it for itself.
    fn bind(&self, place: Place) -> io::Result<Vec<Bound>> {
        let Place { address, udp } = place;
        let ours = self.open.keys().any(|open| open.udp == udp && open.address.port() == address.port());
        if udp {
            if !ours {
                datagram::may_listen(address)?;
            }
            return Ok(vec![Bound::Udp(datagram::listen(address)?)]);
        }
        if !ours {
            sockopt::may_bind(address)?;
        }
        let listen = || sockopt::listen(address, BACKLOG, sockopt::Close::Fin).map(Bound::Tcp);
        self.threads.iter().map(|_| listen()).collect()
    }
}

impl fmt::Display for Place {
    /// The address; of UDP it says so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.address, if self.udp { "/UDP" } else { "" })
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

    fn place(port: u16) -> Place {
        Place { address: SocketAddr::from(([0, 0, 0, 0], port)), udp: false }
    }

    fn set(ports: &[u16]) -> BTreeSet<Place> {
        ports.iter().map(|port| place(*port)).collect()
    }

    #[test]
    fn only_what_differs_is_touched() {
        let plan = Plan::of(&set(&[80, 443]), &set(&[443, 8080]));
        assert_eq!(plan, Plan { open: set(&[8080]), keep: set(&[443]), close: set(&[80]) });
        assert_eq!(Plan::of(&set(&[]), &set(&[])), Plan::default());
        assert_eq!(Plan::of(&set(&[80]), &set(&[80])), Plan { keep: set(&[80]), ..Plan::default() });
    }

    #[test]
    fn one_port_of_tcp_and_of_udp_are_two_places() {
        let udp = BTreeSet::from([Place { udp: true, ..place(53) }]);
        let both = udp.union(&set(&[53])).copied().collect();
        let plan = Plan::of(&set(&[53]), &both);
        assert_eq!(plan, Plan { open: udp.clone(), keep: set(&[53]), ..Plan::default() });
        assert_eq!(udp.first().map(ToString::to_string).as_deref(), Some("0.0.0.0:53/UDP"));
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
