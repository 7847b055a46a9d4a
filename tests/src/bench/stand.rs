//! The place of the benches: the same pods once for each system, on the same two nodes, over the same links.
//!
//! Each system has a namespace of its own with a client on `node-1`, three servers beside it and three on `node-2`.
//! `direct` is not enrolled. `relay` is not enrolled either, its clients call relays that run in the pods. `mesh` is
//! enrolled. A peer brings its own proxy and its own rules into the pods, so it has a bed of its own without mesh.

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    case::{Place, Traffic},
    manifests, process,
    ztunnel::Ztunnel,
};
use crate::{
    bed::{Bed, PodHandle, Process},
    scenario,
};

/// What carries a connection from a client to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Nothing: the pods' own network.
    Direct,
    /// A plain relay where the mesh has its proxies: two between nodes, one within a node.
    Relay,
    /// The mesh.
    Mesh,
    /// The mesh, with rules of layer 7.
    MeshL7,
    /// The mesh, with the same rules at a waypoint.
    Waypoint,
    /// A `ztunnel` that the user has brought.
    Ztunnel,
}

impl System {
    /// Its name in rows, also the namespace of its pods.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => super::figures::DIRECT,
            Self::Relay => "relay",
            Self::Mesh => "mesh",
            Self::MeshL7 => "mesh-l7",
            Self::Waypoint => "mesh-waypoint",
            Self::Ztunnel => "ztunnel",
        }
    }

    /// Whether pods are enrolled and a process on each node serves them.
    pub(super) fn has_nodes(self) -> bool {
        matches!(self, Self::Mesh | Self::MeshL7 | Self::Waypoint | Self::Ztunnel)
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything that is up while benches run. Dropping it ends all of it.
#[derive(Debug)]
pub(super) struct Stand {
    actors: Vec<Actors>,
    relays: Vec<Process>,
    ztunnel: Option<Ztunnel>,
    bed: Bed,
    peer_bed: Option<Bed>,
}

/// The pods of one system.
#[derive(Debug)]
struct Actors {
    system: System,
    client: PodHandle,
    /// On the client's node.
    near: Vec<PodHandle>,
    /// On the other one.
    far: Vec<PodHandle>,
}

impl Actors {
    fn find(bed: &Bed, system: System) -> Result<Self> {
        let pod = |name: &str| bed.pod(&format!("{system}/{name}"));
        let pods = |names: [&str; SERVERS]| names.iter().map(|name| pod(name)).collect::<Result<_, _>>();
        Ok(Self { system, client: pod("client")?, near: pods(manifests::NEAR)?, far: pods(manifests::FAR)? })
    }

    fn servers(&self, place: Place) -> &[PodHandle] {
        match place {
            Place::SameNode => &self.near,
            Place::CrossNode | Place::Service => &self.far,
        }
    }
}

/// A server's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// `nginx`.
    Http,
    /// `iperf3`.
    Bulk,
    /// `netprobe`.
    Hold,
}

impl Port {
    /// Its number.
    pub(super) const fn number(self) -> u16 {
        match self {
            Self::Http => 8080,
            Self::Bulk => 5201,
            Self::Hold => 7000,
        }
    }

    /// Where a relay on the server's side listens for it.
    const fn relayed(self) -> u16 {
        self.number() + 10_000
    }
}

impl Stand {
    /// Starts systems; `ztunnel` is the program of the peer, if there is one.
    pub(super) fn start(systems: &[System], ztunnel: Option<&Path>, node_args: &[String]) -> Result<Self> {
        let builder = node_args.iter().fold(Bed::builder().nodes(2), crate::bed::Builder::mesh_arg);
        let bed = populated(builder.start()?, systems)?;
        scenario::captured(&bed, Duration::from_secs(30))?;
        let mut actors = Vec::new();
        for system in systems {
            actors.push(Actors::find(&bed, *system)?);
        }
        let mut stand = Self { actors, relays: Vec::new(), ztunnel: None, bed, peer_bed: None };
        if systems.contains(&System::Relay) {
            stand.relays = start_relays(stand.actors(System::Relay)?)?;
        }
        if let Some(program) = ztunnel {
            let bed = populated(Bed::builder().nodes(2).without_mesh().start()?, &[System::Ztunnel])?;
            stand.actors.push(Actors::find(&bed, System::Ztunnel)?);
            stand.ztunnel = Some(Ztunnel::start(&bed, program)?);
            stand.peer_bed = Some(bed);
        }
        Ok(stand)
    }

    /// The systems in the order of the rows.
    pub(super) fn systems(&self) -> Vec<System> {
        self.actors.iter().map(|actors| actors.system).collect()
    }

    fn actors(&self, system: System) -> Result<&Actors> {
        let actors = self.actors.iter().find(|actors| actors.system == system);
        actors.with_context(|| format!("{system} is not set up"))
    }

    /// The pod that asks.
    pub(super) fn client(&self, system: System) -> Result<&PodHandle> {
        Ok(&self.actors(system)?.client)
    }

    /// The first server there.
    pub(super) fn first_server(&self, system: System, place: Place) -> Result<&PodHandle> {
        self.actors(system)?.servers(place).first().context("there is no server")
    }

    /// Where a client calls to reach the first `count` servers.
    pub(super) fn servers(
        &self,
        system: System,
        place: Place,
        (port, count): (Port, usize),
    ) -> Result<Vec<SocketAddr>> {
        if place == Place::Service && system.has_nodes() {
            let service = self.bed(system).status().service_ip(&format!("{system}/{}", manifests::FAR[0]))?;
            return Ok(vec![(service, port.number()).into()]);
        }
        let pods = self.actors(system)?.servers(place).iter().enumerate().take(count);
        Ok(pods
            .map(|(index, pod)| match system {
                System::Relay => relay_address(place, index, port),
                _ => (pod.ip(), port.number()).into(),
            })
            .collect())
    }

    /// The bed that a system's pods live in.
    pub(super) fn bed(&self, system: System) -> &Bed {
        match (system, &self.peer_bed) {
            (System::Ztunnel, Some(bed)) => bed,
            _ => &self.bed,
        }
    }

    /// The cgroups of everything that takes part.
    pub(super) fn cgroups(&self) -> Vec<PathBuf> {
        let beds = [Some(&self.bed), self.peer_bed.as_ref()].into_iter().flatten();
        beds.map(|bed| bed.layout().cgroup.clone()).collect()
    }

    /// The processes whose processor time and memory a system costs; those with nodes have one for each, in order.
    pub(super) fn proxies(&self, system: System) -> Result<Vec<u32>> {
        match system {
            System::Direct => Ok(Vec::new()),
            System::Relay => Ok(self.relays.iter().map(Process::pid).collect()),
            System::Mesh | System::MeshL7 => self.nodes(),
            // Those of the pod of the waypoint as well.
            System::Waypoint => Ok([self.nodes()?, self.waypoint()?].concat()),
            System::Ztunnel => self.ztunnel.as_ref().context("there is no ztunnel")?.pids(),
        }
    }

    fn nodes(&self) -> Result<Vec<u32>> {
        let pid = |node| self.bed.node(node)?.pid()?.with_context(|| format!("mesh-node of {node} is down"));
        NODES.into_iter().map(pid).collect()
    }

    fn waypoint(&self) -> Result<Vec<u32>> {
        let pod = self.bed.pod(&format!("{}/way-pod", System::Waypoint))?;
        let procs = pod.cgroup().join("waypoint/cgroup.procs");
        let text = fs::read_to_string(&procs).with_context(|| procs.display().to_string())?;
        let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        ensure!(!pids.is_empty(), "the waypoint is down");
        Ok(pids)
    }

    /// Ends the proxies of a system and starts them again; returns when they serve.
    pub(super) fn restart(&mut self, system: System) -> Result<()> {
        match system {
            System::Direct | System::Relay => {}
            System::Mesh | System::MeshL7 | System::Waypoint => {
                for node in NODES.map(|node| self.bed.node(node)) {
                    let node = node?;
                    // There is nothing to drain, and an orderly end may take its time.
                    node.kill9()?;
                    node.start()?;
                    node.wait_ready(Duration::from_secs(30))?;
                }
                scenario::captured(&self.bed, Duration::from_secs(30))?;
            }
            System::Ztunnel => {
                let bed = self.peer_bed.as_ref().context("there is no ztunnel")?;
                self.ztunnel.as_mut().context("there is no ztunnel")?.restart(bed)?;
            }
        }
        Ok(())
    }

    /// Makes a first connection to every server that a case calls, and makes sure that the system carries it: a mesh
    /// that is passed by would look like a very good mesh.
    pub(super) fn warm_up(&self, system: System, traffic: Traffic) -> Result<()> {
        let servers = self.servers(system, traffic.place, (Port::Http, SERVERS))?;
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let mut words = vec!["netprobe", "load", "--connections", "3", "--seconds", "0.3"];
        words.extend(servers.iter().map(String::as_str));
        let before = self.settled(system)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let output = self.client(system)?.exec(&words)?;
            let text = String::from_utf8_lossy(&output.stdout);
            match super::output::client(&text) {
                Ok(seen) if seen.errors <= 0.0 => break,
                other if Instant::now() > deadline => {
                    let errors = String::from_utf8_lossy(&output.stderr);
                    anyhow::bail!("servers are not reached: {other:?}\n{text}{errors}");
                }
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
        let seen = self.connections_seen(system)? > before;
        if matches!(system, System::MeshL7 | System::Waypoint) {
            // What is counted as requests need not be counted as connections. Whether its rules are applied shows.
            return Ok(());
        }
        ensure!(seen || !system.has_nodes(), "{system} has not seen the connections: they have passed it by");
        ensure!(!seen || system.has_nodes(), "the mesh carries connections of {system}");
        Ok(())
    }

    /// The same once no more come: the kernel tells of its connections when they have ended, and of many with a delay.
    fn settled(&self, system: System) -> Result<f64> {
        let mut before = self.connections_seen(system)?;
        for _ in 0..50 {
            thread::sleep(Duration::from_millis(200));
            let now = self.connections_seen(system)?;
            if now <= before {
                return Ok(now);
            }
            before = now;
        }
        anyhow::bail!("{system} has connections although nobody calls")
    }

    /// How many connections the proxies of the system's nodes have opened so far.
    fn connections_seen(&self, system: System) -> Result<f64> {
        let mut sum = 0.0;
        for node in NODES {
            let metrics = self.bed(system).node(node)?.metrics();
            let opened = |text: String| {
                let lines =
                    text.lines().filter(|line| line.starts_with("istio_tcp_connections_opened_total{"));
                lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
            };
            sum += opened(metrics?);
        }
        Ok(sum)
    }

    /// Empties the proxies' logs before they fill the memory that their files are in.
    pub(super) fn trim_logs(&self) -> Result<()> {
        for bed in [Some(&self.bed), self.peer_bed.as_ref()].into_iter().flatten() {
            for entry in fs::read_dir(bed.layout().logs())? {
                let path = entry?.path();
                if fs::metadata(&path)?.len() > LOG_LIMIT {
                    // They are written in append mode, so writing goes on at the new end.
                    fs::OpenOptions::new().write(true).open(&path)?.set_len(0)?;
                }
            }
        }
        Ok(())
    }

    /// Resident memory of a system's proxies, in KiB, in the order of their nodes.
    pub(super) fn resident(&self, system: System) -> Result<Vec<f64>> {
        self.proxies(system)?.into_iter().map(process::rss_kb).collect()
    }
}

/// Puts the pods of some systems into a bed and waits for them.
fn populated(bed: Bed, systems: &[System]) -> Result<Bed> {
    let files: PathBuf = bed.layout().state.join("bench");
    fs::create_dir_all(&files).with_context(|| format!("cannot make {}", files.display()))?;
    fs::write(files.join("nginx.conf"), manifests::nginx_conf(&files))?;
    let text: String = systems.iter().map(|system| manifests::namespace(*system, &files)).collect();
    bed.apply(&text)?;
    let expected = systems.len() * (1 + 2 * SERVERS);
    bed.wait("all pods", Duration::from_secs(60), |bed| bed.status().pods.len() == expected)?;
    bed.wait_ready(Duration::from_secs(60), |_| ())?;
    Ok(bed)
}

/// Between nodes, each connection passes a relay in the client's pod and one in the server's. Within a node it passes
/// one, which, like a node's proxy, has one foot in each pod.
fn start_relays(actors: &Actors) -> Result<Vec<Process>> {
    let mut relays = Vec::new();
    let mut outbound = Vec::new();
    for (index, pod) in actors.far.iter().enumerate() {
        let mut inbound = Vec::new();
        for port in RELAYED {
            let listen = relay_address(Place::CrossNode, index, port);
            outbound.push(format!("{listen}={}", SocketAddr::new(pod.ip(), port.relayed())));
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.relayed()));
            inbound.push(format!("{any}={}", loopback(port.number())));
        }
        relays.push(start_relay(pod, None, &inbound)?);
    }
    relays.push(start_relay(&actors.client, None, &outbound)?);
    for (index, pod) in actors.near.iter().enumerate() {
        let route = |port: Port| {
            format!("{}={}", relay_address(Place::SameNode, index, port), loopback(port.number()))
        };
        relays.push(start_relay(pod, Some(actors.client.netns_path()), &RELAYED.map(route))?);
    }
    Ok(relays)
}

fn start_relay(pod: &PodHandle, listen_in: Option<&Path>, routes: &[String]) -> Result<Process> {
    let listen_in = listen_in.map(|path| path.display().to_string());
    let mut words = vec!["netprobe", "relay"];
    words.extend(listen_in.iter().flat_map(|path| ["--listen-in", path]));
    words.extend(routes.iter().map(String::as_str));
    let mut relay = pod.spawn(&words)?;
    relay
        .line(Duration::from_secs(10))
        .with_context(|| format!("the relay in {} does not start", pod.name()))?;
    Ok(relay)
}

/// Where the client of the relays calls for a server: an own port for each.
fn relay_address(place: Place, index: usize, port: Port) -> SocketAddr {
    let index = u16::try_from(index).unwrap_or(0);
    let (cross, bulk) = (u16::from(place == Place::CrossNode), u16::from(port == Port::Bulk));
    loopback(20_000 + 1_000 * cross + 100 * index + bulk)
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Servers of a client on each node.
pub(super) const SERVERS: usize = 3;

/// The nodes of each bed; the client is on the first.
pub(super) const NODES: [&str; 2] = ["node-1", "node-2"];

/// What is called through relays.
const RELAYED: [Port; 2] = [Port::Http, Port::Bulk];

/// Bytes of a log that are kept.
const LOG_LIMIT: u64 = 32 << 20;
