//! One captured pod: the node's listeners inside it and the addresses they serve.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket},
    sync::Arc,
};

use arc_swap::ArcSwap;
use mesh_common::{DNS_PORT, OUTBOUND_PORT, Pod};
use tokio::sync::{Semaphore, watch};

use super::{address::link_of, pins::PinnedPod};
use crate::sys::{
    netns::NetNs,
    sockopt::{self, Close},
};

/// A pod of this node whose namespace is open; data threads make their sockets in it.
#[derive(Debug)]
pub struct LocalPod {
    /// The pod's uid in Kubernetes.
    pub uid: Arc<str>,
    /// The uid of its workload in the configuration.
    pub workload: Arc<str>,
    /// Its network namespace.
    pub netns: NetNs,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The ports that lead to it, where it is the machine that this process runs on: all others are of processes that are no
    /// part of it. A pod has all ports.
    pub open: Option<OpenPorts>,
}

/// Ports that may change.
pub type OpenPorts = Arc<ArcSwap<BTreeSet<u16>>>;

/// The node's listeners in one pod, one of each for every data thread.
pub(super) struct Listeners {
    pub(super) ports: Ports,
    pub(super) threads: Vec<ThreadListeners>,
}

/// Where in the pod its own connections and queries are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) outbound: u16,
    pub(super) dns: u16,
}

/// What one data thread accepts from in one pod.
#[derive(Debug, Default)]
pub struct ThreadListeners {
    /// Connections that the pod's applications opened.
    pub outbound: Vec<TcpListener>,
    /// Plaintext connections to the pod.
    pub plaintext: Vec<TcpListener>,
    /// Tunnels to the pod.
    pub tunnel: Vec<TcpListener>,
    /// Queries of DNS, by TCP.
    pub dns: Vec<TcpListener>,
    /// Queries of DNS, by UDP.
    pub dns_packets: Vec<UdpSocket>,
}

/// The listeners of one pod for one data thread.
#[derive(Debug)]
pub struct PodSockets {
    /// The pod.
    pub pod: Arc<LocalPod>,
    /// What to accept from.
    pub listeners: ThreadListeners,
    /// One for each query and connection of the pod's resolver under way, on all threads together.
    pub queries: Arc<Semaphore>,
    /// Becomes true when the pod is no longer captured: accept no more.
    pub released: watch::Receiver<bool>,
}

/// Resolves when a pod is no longer captured; never where nobody is left who would know.
pub async fn released(pod: &mut watch::Receiver<bool>) {
    if pod.wait_for(|released| *released).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl LocalPod {
    /// The pod as its pinned links name it.
    pub fn pinned(&self) -> PinnedPod {
        PinnedPod { cookie: self.netns.cookie(), uid: self.uid.to_string() }
    }

    /// The pod as the kernel programs know it. Without `dns` it asks its resolvers itself.
    pub(super) fn entry(&self, ports: Ports, dns: bool) -> Pod {
        let ip4 =
            self.ips.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(v4.octets()) } else { None });
        let ip6 =
            self.ips.iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(v6.octets()) } else { None });
        Pod {
            ip6: ip6.unwrap_or_default(),
            ip4: ip4.unwrap_or_default(),
            outbound_port: ports.outbound,
            dns_port: if dns { ports.dns } else { 0 },
        }
    }

    /// Whether it is the machine that this process runs on.
    pub fn is_machine(&self) -> bool {
        self.open.is_some()
    }

    /// Whether a port of its addresses leads to it.
    pub fn has_port(&self, port: u16) -> bool {
        self.open.as_ref().is_none_or(|open| open.load().contains(&port))
    }

    /// Its own address of the family of `to`.
    pub fn address_like(&self, to: SocketAddr) -> Option<IpAddr> {
        self.ips.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).copied()
    }

    /// An address as the pod's own sockets would take it: one of a link is of a link of the pod, and of which one capture cannot
    /// tell, since the kernel does not say.
    pub fn on_link(&self, to: SocketAddr) -> SocketAddr {
        let SocketAddr::V6(v6) = to else { return to };
        if !v6.ip().is_unicast_link_local() || v6.scope_id() != 0 {
            return to;
        }
        let interfaces = || std::fs::read_to_string("/proc/thread-self/net/if_inet6");
        let interfaces = self.netns.run(interfaces).and_then(|read| read).unwrap_or_default();
        let scope = link_of(&interfaces).unwrap_or_default();
        SocketAddrV6::new(*v6.ip(), v6.port(), v6.flowinfo(), scope).into()
    }

    /// Opens the listeners of every data thread inside the pod, at their `usual` ports or at others.
    pub(super) fn listen(&self, threads: usize, usual: bool) -> io::Result<Listeners> {
        let (outbound, dns) = if usual { (OUTBOUND_PORT, DNS_PORT) } else { (0, 0) };
        self.netns.run(|| {
            listen_all(threads, outbound)
                // Something in the pod has the port already; any other will do, the kernel programs are told.
                .or_else(|_| listen_all(threads, 0))
                .and_then(|all| with_resolver(all, dns))
        })?
    }
}

/// Listeners are bound to loopback addresses: only capture and steering lead to them, nothing from outside. All but
/// the outbound ones take any free port, so that the application may have every port for itself.
fn listen_all(threads: usize, outbound_port: u16) -> io::Result<Listeners> {
    let outbound4 = group(threads, SocketAddr::from((Ipv4Addr::LOCALHOST, outbound_port)), Close::Reset)?;
    let port = outbound4.first().map(TcpListener::local_addr).transpose()?.map_or(0, |at| at.port());
    let mut all = Listeners { ports: Ports { outbound: port, dns: 0 }, threads: Vec::new() };
    let outbound6 = match loopbacks().get(1) {
        Some(v6) => group(threads, SocketAddr::new(*v6, port), Close::Reset)?,
        None => Vec::new(),
    };
    all.threads.resize_with(threads, ThreadListeners::default);
    spread(&mut all.threads, outbound4, |t| &mut t.outbound);
    spread(&mut all.threads, outbound6, |t| &mut t.outbound);
    for ip in loopbacks() {
        spread(&mut all.threads, group(threads, SocketAddr::new(ip, 0), Close::Reset)?, |t| &mut t.plaintext);
        spread(&mut all.threads, group(threads, SocketAddr::new(ip, 0), Close::Fin)?, |t| &mut t.tunnel);
    }
    Ok(all)
}

/// Adds the resolver's sockets.
fn with_resolver(mut all: Listeners, port: u16) -> io::Result<Listeners> {
    // Elsewhere two protocols of two families have to be free at the same port.
    let mut outcome = listen_dns(&mut all, port);
    for _ in 0..RESOLVER_ATTEMPTS {
        outcome = outcome.or_else(|_| listen_dns(&mut all, 0));
    }
    outcome.map(|()| all)
}

/// Opens the resolver's sockets, all at one port; 0 stands for any.
fn listen_dns(all: &mut Listeners, mut port: u16) -> io::Result<()> {
    let size = all.threads.len();
    let (mut streams, mut packets) = (Vec::new(), Vec::new());
    for ip in loopbacks() {
        let listeners = group(size, SocketAddr::new(ip, port), Close::Fin)?;
        port = listeners.first().map(TcpListener::local_addr).transpose()?.map_or(port, |at| at.port());
        let at = SocketAddr::new(ip, port);
        packets.push((0..size).map(|_| sockopt::receive_at(at)).collect::<io::Result<Vec<_>>>()?);
        streams.push(listeners);
    }
    streams.into_iter().for_each(|group| spread(&mut all.threads, group, |t| &mut t.dns));
    packets.into_iter().for_each(|group| spread(&mut all.threads, group, |t| &mut t.dns_packets));
    all.ports.dns = port;
    Ok(())
}

fn group(size: usize, mut at: SocketAddr, close: Close) -> io::Result<Vec<TcpListener>> {
    let mut group = Vec::with_capacity(size);
    for _ in 0..size {
        let listener = sockopt::listen(at, BACKLOG, close)?;
        at = listener.local_addr()?;
        group.push(listener);
    }
    Ok(group)
}

fn spread<S>(
    threads: &mut [ThreadListeners],
    group: Vec<S>,
    slot: impl Fn(&mut ThreadListeners) -> &mut Vec<S>,
) {
    for (thread, listener) in threads.iter_mut().zip(group) {
        slot(thread).push(listener);
    }
}

/// The loopback addresses that there are, IPv4's first.
fn loopbacks() -> Vec<IpAddr> {
    let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok().then_some(Ipv6Addr::LOCALHOST.into());
    [Ipv4Addr::LOCALHOST.into()].into_iter().chain(v6).collect()
}

/// Connections that wait for `accept`; the kernel caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How many ports are tried for the resolver where its own is taken.
const RESOLVER_ATTEMPTS: usize = 8;
