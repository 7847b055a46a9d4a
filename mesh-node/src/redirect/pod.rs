//! One captured pod: the node's listeners inside it and the addresses they serve.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use mesh_common::{OUTBOUND_PORT, Pod};

use super::pins::PinnedPod;
use crate::sys::{netns::NetNs, sockopt};

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
}

/// The node's listeners in one pod, one of each for every data thread.
pub(super) struct Listeners {
    pub(super) outbound_port: u16,
    pub(super) threads: Vec<ThreadListeners>,
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
}

impl LocalPod {
    /// The pod as its pinned links name it.
    pub fn pinned(&self) -> PinnedPod {
        PinnedPod { cookie: self.netns.cookie(), uid: self.uid.to_string() }
    }

    /// The pod as the kernel programs know it.
    pub(super) fn entry(&self, outbound_port: u16) -> Pod {
        let ip4 =
            self.ips.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(v4.octets()) } else { None });
        let ip6 =
            self.ips.iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(v6.octets()) } else { None });
        Pod { ip6: ip6.unwrap_or_default(), ip4: ip4.unwrap_or_default(), outbound_port, reserved: 0 }
    }

    /// Opens the listeners of every data thread inside the pod.
    pub(super) fn listen(&self, threads: usize) -> io::Result<Listeners> {
        self.netns.run(|| {
            listen_all(threads, OUTBOUND_PORT)
                // Something in the pod has the port already; any other will do, the kernel programs are told.
                .or_else(|_| listen_all(threads, 0))
        })?
    }
}

/// Listeners are bound to loopback addresses: only capture and steering lead to them, nothing from outside. All but
/// the outbound ones take any free port, so that the application may have every port for itself.
fn listen_all(threads: usize, outbound_port: u16) -> io::Result<Listeners> {
    let outbound4 = group(threads, SocketAddr::from((Ipv4Addr::LOCALHOST, outbound_port)))?;
    let port = outbound4.first().map(TcpListener::local_addr).transpose()?.map_or(0, |at| at.port());
    let mut all = Listeners { outbound_port: port, threads: Vec::new() };
    let v6 = has_ipv6();
    let outbound6 =
        if v6 { group(threads, SocketAddr::from((Ipv6Addr::LOCALHOST, port)))? } else { Vec::new() };
    all.threads.resize_with(threads, ThreadListeners::default);
    spread(&mut all.threads, outbound4, |t| &mut t.outbound);
    spread(&mut all.threads, outbound6, |t| &mut t.outbound);
    let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
    if v6 {
        addresses.push(Ipv6Addr::LOCALHOST.into());
    }
    for ip in addresses {
        spread(&mut all.threads, group(threads, SocketAddr::new(ip, 0))?, |t| &mut t.plaintext);
        spread(&mut all.threads, group(threads, SocketAddr::new(ip, 0))?, |t| &mut t.tunnel);
    }
    Ok(all)
}

fn group(size: usize, mut at: SocketAddr) -> io::Result<Vec<TcpListener>> {
    let mut group = Vec::with_capacity(size);
    for _ in 0..size {
        let listener = sockopt::listen(at, BACKLOG)?;
        at = listener.local_addr()?;
        group.push(listener);
    }
    Ok(group)
}

fn spread(
    threads: &mut [ThreadListeners],
    group: Vec<TcpListener>,
    slot: impl Fn(&mut ThreadListeners) -> &mut Vec<TcpListener>,
) {
    for (thread, listener) in threads.iter_mut().zip(group) {
        slot(thread).push(listener);
    }
}

fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Connections that wait for `accept`; the kernel caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
