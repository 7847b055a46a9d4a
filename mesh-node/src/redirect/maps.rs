//! Typed access to the pinned maps.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf, SkStorage, SockHash};
use mesh_common::{
    Address, Backends, Endpoint, ExpressFlow, Flow, ListenerKey, LocalSocket, Mark, NodeConfig,
    OriginalDestination, Pod, Question, RealPeer, Resolvers, Shortcut, Stat, Verdict, maps,
};

use super::pins::Pins;
use crate::sys::bpf;

/// What the control thread writes.
pub struct ControlMaps {
    pods: HashMap<MapData, u64, Pod>,
    node: Array<MapData, NodeConfig>,
    probe_ports: HashMap<MapData, Endpoint, u32>,
    host_ports: HashMap<MapData, Endpoint, u32>,
    listeners: SockHash<MapData, ListenerKey>,
    own_sockets: SkStorage<MapData, u32>,
    shortcuts: HashMap<MapData, Address, Shortcut>,
    stats: PerCpuArray<MapData, u64>,
}

/// What each data thread needs for every connection; every thread has its own.
pub struct FlowMaps {
    original: HashMap<MapData, LocalSocket, OriginalDestination>,
    wanted: SkStorage<MapData, OriginalDestination>,
    resolvers: HashMap<MapData, u64, Resolvers>,
    acting_for: SkStorage<MapData, RealPeer>,
    marks: SkStorage<MapData, Mark>,
    own_sockets: SkStorage<MapData, u32>,
}

/// What is decided and known of express flows.
pub struct ExpressMaps {
    pods: HashMap<MapData, u64, Pod>,
    verdicts: HashMap<MapData, Question, Verdict>,
    backends: HashMap<MapData, Question, Backends>,
    flows: HashMap<MapData, Flow, ExpressFlow>,
    open: Array<MapData, u64>,
}

impl ControlMaps {
    /// Opens the pinned maps.
    pub fn open(pins: &Pins) -> Result<Self, MapError> {
        Ok(Self {
            pods: Map::HashMap(open(pins, maps::PODS)?).try_into()?,
            node: Map::Array(open(pins, maps::NODE)?).try_into()?,
            probe_ports: Map::HashMap(open(pins, maps::PROBE_PORTS)?).try_into()?,
            host_ports: Map::HashMap(open(pins, maps::HOST_PORTS)?).try_into()?,
            listeners: Map::SockHash(open(pins, maps::LISTENERS)?).try_into()?,
            own_sockets: Map::SkStorage(open(pins, maps::OWN_SOCKETS)?).try_into()?,
            shortcuts: Map::HashMap(open(pins, maps::SHORTCUTS)?).try_into()?,
            stats: Map::PerCpuArray(open(pins, maps::STATS)?).try_into()?,
        })
    }

    /// Publishes what holds for the whole node.
    pub fn set_node(&mut self, config: NodeConfig) -> Result<(), MapError> {
        self.node.set(0, config, 0)
    }

    /// What holds for the whole node.
    pub fn node(&self) -> Result<NodeConfig, MapError> {
        self.node.get(&0, 0)
    }

    /// Captures the pod with this namespace cookie from now on.
    pub fn put_pod(&mut self, cookie: u64, pod: Pod) -> Result<(), MapError> {
        self.pods.insert(cookie, pod, 0)
    }

    /// Stops capturing; absent is fine.
    pub fn remove_pod(&mut self, cookie: u64) -> Result<(), MapError> {
        absent_is_fine(self.pods.remove(&cookie))
    }

    /// Cookies of all captured pods.
    pub fn pods(&self) -> Result<Vec<u64>, MapError> {
        self.pods.keys().collect()
    }

    /// Sends connections for `ip` to `listener` from now on; with several listeners on one address the kernel
    /// spreads them over the group.
    pub fn put_listener(&mut self, ip: IpAddr, kind: u32, listener: &impl AsRawFd) -> Result<(), MapError> {
        self.listeners.insert(ListenerKey { ip: to_wire(ip), kind }, listener.as_raw_fd(), 0)
    }

    /// Marks a listener, and with it all that it will accept, as the node's own.
    pub fn own(&mut self, listener: &impl AsRawFd) -> Result<(), MapError> {
        self.own_sockets.insert(listener, 1, 0)
    }

    /// Forgets the listeners of an address; absent is fine.
    pub fn remove_listeners(&mut self, ip: IpAddr) -> Result<(), MapError> {
        for kind in [ListenerKey::PLAINTEXT, ListenerKey::TUNNEL] {
            absent_is_fine(self.listeners.remove(&ListenerKey { ip: to_wire(ip), kind }))?;
        }
        Ok(())
    }

    /// Says where the interface of the pod with this address is.
    pub fn put_shortcut(&mut self, ip: IpAddr, to: Shortcut) -> Result<(), MapError> {
        self.shortcuts.insert(to_wire(ip), to, 0)
    }

    /// Forgets where it was; absent is fine.
    pub fn remove_shortcut(&mut self, ip: IpAddr) -> Result<(), MapError> {
        absent_is_fine(self.shortcuts.remove(&to_wire(ip)))
    }

    /// Declares a probe port.
    pub fn put_probe_port(&mut self, at: SocketAddr) -> Result<(), MapError> {
        self.probe_ports.insert(endpoint(at), 1, 0)
    }

    /// Withdraws a probe port; absent is fine.
    pub fn remove_probe_port(&mut self, at: SocketAddr) -> Result<(), MapError> {
        absent_is_fine(self.probe_ports.remove(&endpoint(at)))
    }

    /// All declared probe ports.
    pub fn probe_ports(&self) -> Result<Vec<SocketAddr>, MapError> {
        self.probe_ports.keys().map(|key| key.map(|key| socket_addr(&key))).collect()
    }

    /// Sends what comes to exactly these ports of the machine itself to the node's listeners.
    pub fn set_host_ports(&mut self, wanted: &BTreeSet<SocketAddr>) -> Result<(), MapError> {
        let there: BTreeSet<SocketAddr> =
            self.host_ports.keys().map(|key| key.map(|key| socket_addr(&key))).collect::<Result<_, _>>()?;
        for at in wanted.difference(&there) {
            self.host_ports.insert(endpoint(*at), 1, 0)?;
        }
        for at in there.difference(wanted) {
            absent_is_fine(self.host_ports.remove(&endpoint(*at)))?;
        }
        Ok(())
    }

    /// The kernel programs' counters, summed over CPUs.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        let sum = |stat: Stat| self.stats.get(&(stat as u32), 0).map_or(0, |cpus| cpus.iter().sum());
        Stat::ALL.iter().map(|&(stat, name)| (name, sum(stat))).collect()
    }
}

impl ExpressMaps {
    /// Opens the pinned maps.
    pub fn open(pins: &Pins) -> Result<Self, MapError> {
        Ok(Self {
            pods: Map::HashMap(open(pins, maps::PODS)?).try_into()?,
            verdicts: Map::HashMap(open(pins, maps::VERDICTS)?).try_into()?,
            backends: Map::HashMap(open(pins, maps::BACKENDS)?).try_into()?,
            flows: Map::LruHashMap(open(pins, maps::EXPRESS_FLOWS)?).try_into()?,
            open: Map::Array(open(pins, maps::EXPRESS_OPEN)?).try_into()?,
        })
    }

    /// What the kernel tells of flows; whoever reads takes it away from all others.
    pub fn events(pins: &Pins) -> Result<RingBuf<MapData>, MapError> {
        Map::RingBuf(open(pins, maps::EVENTS)?).try_into()
    }

    /// All that is decided about addresses of pods.
    pub fn verdicts(&self) -> Result<Vec<(Question, Verdict)>, MapError> {
        self.verdicts.iter().collect()
    }

    /// All that is decided about addresses of services.
    pub fn backends(&self) -> Result<Vec<(Question, Backends)>, MapError> {
        self.backends.iter().collect()
    }

    /// Decides.
    pub fn put_verdict(&mut self, question: Question, verdict: Verdict) -> Result<(), MapError> {
        self.verdicts.insert(question, verdict, 0)
    }

    /// Leaves it to the proxy; absent is fine.
    pub fn remove_verdict(&mut self, question: Question) -> Result<(), MapError> {
        absent_is_fine(self.verdicts.remove(&question))
    }

    /// Decides about a service.
    pub fn put_backends(&mut self, question: Question, backends: Backends) -> Result<(), MapError> {
        self.backends.insert(question, backends, 0)
    }

    /// Leaves a service to the proxy; absent is fine.
    pub fn remove_backends(&mut self, question: Question) -> Result<(), MapError> {
        absent_is_fine(self.backends.remove(&question))
    }

    /// Flows that are open now; one that ends meanwhile may be missing.
    pub fn flows(&self) -> Vec<(Flow, ExpressFlow)> {
        self.flows.iter().filter_map(Result::ok).collect()
    }

    /// Forgets a flow whose client is gone; absent is fine.
    pub fn remove_flow(&mut self, flow: &Flow) -> Result<(), MapError> {
        absent_is_fine(self.flows.remove(flow))
    }

    /// Flows that are open as the kernel counts them.
    pub fn open_flows(&self) -> Result<u64, MapError> {
        self.open.get(&0, 0)
    }

    /// Has the kernel count on from here.
    pub fn recount(&mut self, open: u64) -> Result<(), MapError> {
        self.open.set(0, open, 0)
    }

    /// Whether a pod of this node has the namespace with this cookie.
    pub fn knows(&self, netns: u64) -> bool {
        self.pods.get(&netns, 0).is_ok()
    }

    /// The address of the family of `like` that the pod with this namespace cookie has.
    pub fn pod_address(&self, netns: u64, like: Address) -> Option<IpAddr> {
        let pod = self.pods.get(&netns, 0).ok()?;
        let ip = if to_ip(&like).is_ipv4() { IpAddr::from(pod.ip4) } else { IpAddr::from(pod.ip6) };
        Some(ip).filter(|ip| !ip.is_unspecified())
    }
}

impl FlowMaps {
    /// Opens the pinned maps.
    pub fn open(pins: &Pins) -> Result<Self, MapError> {
        Ok(Self {
            original: Map::LruHashMap(open(pins, maps::ORIGINAL_DST)?).try_into()?,
            wanted: Map::SkStorage(open(pins, maps::WANTED_DST)?).try_into()?,
            resolvers: Map::LruHashMap(open(pins, maps::RESOLVERS)?).try_into()?,
            acting_for: Map::SkStorage(open(pins, maps::ACTING_FOR)?).try_into()?,
            marks: Map::SkStorage(open(pins, maps::EXPRESS_MARKS)?).try_into()?,
            own_sockets: Map::SkStorage(open(pins, maps::OWN_SOCKETS)?).try_into()?,
        })
    }

    /// Marks a socket that will talk to the outside as the node's own, for the guard.
    pub fn own(&mut self, socket: &impl AsRawFd) -> Result<(), MapError> {
        self.own_sockets.insert(socket, 1, 0)
    }

    /// Where the captured connection that `peer` opened in the namespace wanted to go.
    pub fn original_destination(&self, netns: u64, peer: SocketAddr) -> Option<SocketAddr> {
        let key = LocalSocket::new(netns, to_wire(peer.ip()), peer.port());
        self.original.get(&key, 0).ok().map(|wanted| socket_addr(&wanted))
    }

    /// Where the captured connection that `accepted` is the node's end of wanted to go, on a machine: the kernel notes it there
    /// for connections of enrolled processes alone.
    pub fn destination_of(&self, accepted: &impl AsRawFd) -> Option<SocketAddr> {
        self.wanted.get(accepted, 0).ok().map(|wanted| socket_addr(&wanted))
    }

    /// The resolvers that the UDP socket with this cookie has asked, the last one first.
    pub fn resolvers(&self, socket: u64) -> Vec<SocketAddr> {
        let Ok(Resolvers { last, before }) = self.resolvers.get(&socket, 0) else { return Vec::new() };
        [last, before].iter().filter(|at| at.port != 0).map(socket_addr).collect()
    }

    /// Notes on a socket that has not connected yet for which client it will; the server will see that client.
    pub fn act_for(&mut self, socket: &impl AsRawFd, client: SocketAddr) -> Result<(), MapError> {
        self.acting_for.insert(socket, endpoint(client), 0)
    }

    /// Notes on a socket of the node's own in the namespace `netns` that it connects for `client`, a pod there, to another pod of this
    /// node: by the way that the client's own would take, and let in there like an express flow.
    pub fn carry(&mut self, socket: &impl AsRawFd, netns: u64, client: SocketAddr) -> Result<(), MapError> {
        let (source, destination, side) = (0, 0, Mark::CARRIED);
        let wanted = endpoint(client);
        self.marks.insert(
            socket,
            Mark { started_ns: bpf::now_ns(), netns, wanted, source, destination, side },
            0,
        )
    }
}

/// An address as the maps hold it.
pub fn to_wire(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address from the form that the maps have.
pub fn to_ip(wire: &Address) -> IpAddr {
    Ipv6Addr::from(*wire).to_canonical()
}

fn endpoint(at: SocketAddr) -> Endpoint {
    Endpoint::new(to_wire(at.ip()), at.port())
}

/// A socket's address from the form that the maps have.
pub fn socket_addr(at: &Endpoint) -> SocketAddr {
    SocketAddr::new(to_ip(&at.ip), at.port)
}

fn open(pins: &Pins, name: &str) -> Result<MapData, MapError> {
    MapData::from_pin(pins.map(name))
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_wire_form() {
        for text in ["10.1.2.3:80", "[fd00::1]:443"] {
            let at: SocketAddr = text.parse().expect("an address");
            assert_eq!(socket_addr(&endpoint(at)), at);
        }
    }
}
