//! A data thread: one runtime, its listeners in every captured pod, its tunnels. A connection stays on its thread,
//! so nothing here is shared and nothing is locked.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    balance::Load,
    id::SpiffeId,
    model::{EndpointId, Snapshot},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use crate::{
    admit::{self, Cap, Descriptors, LogGate},
    dns::{self, Resolver},
    identity::{IdentityStore, Svid},
    l4::{self, PodRequests},
    l7::shared::Shared,
    redirect::{self, LocalPod, PodSockets, maps::FlowMaps},
    report::{Event, Mail, Reporter},
    run::{drain::Drain, tasks, watchdog::Watchdog},
    sys::diag,
    tls::{Peer, PeerError, TlsError},
    tunnel::{self, Pool, ServeError},
};

/// What a data thread starts with.
pub struct Seed {
    /// Number of the thread, from 0.
    pub index: usize,
    /// Who sees whether it turns.
    pub watchdog: Arc<Watchdog>,
    /// The configuration as it changes.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Certificates of this node's pods.
    pub identities: Arc<IdentityStore>,
    /// Where connections are reported.
    pub reporter: Arc<Reporter>,
    /// The maps that are read and written for every connection.
    pub flows: FlowMaps,
    /// Pods to serve, as they are captured.
    pub pods: mpsc::Receiver<PodSockets>,
    /// What services of access logs are to be told of connections that the kernel carries, if that is this thread's to do.
    pub mail: Option<mpsc::Receiver<Mail>>,
    /// Where to ask for addresses that nobody has that is known.
    pub demand: mpsc::Sender<IpAddr>,
    /// When to stop.
    pub drain: Drain,
    /// What connections may use of the process's file descriptors.
    pub descriptors: Descriptors,
    /// What all data threads know of the services that requests are sent to.
    pub shared: Arc<Shared>,
    /// What the pods' resolvers count.
    pub names: Arc<dns::Figures>,
}

/// The state of a data thread.
pub struct Worker {
    /// Where connections are reported.
    pub reporter: Arc<Reporter>,
    /// Tunnels to other nodes.
    pub pool: Pool,
    /// Connections under way by endpoint.
    pub load: Rc<Outstanding>,
    /// When to stop.
    pub drain: Drain,
    /// What connections may use of the process's file descriptors.
    pub descriptors: Descriptors,
    /// What all data threads know of the services that requests are sent to.
    pub shared: Arc<Shared>,
    /// What the pods' resolvers count.
    pub names: Arc<dns::Figures>,
    requests: RefCell<HashMap<Arc<str>, Rc<PodRequests>>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    demand: mpsc::Sender<IpAddr>,
    identities: Arc<IdentityStore>,
    flows: RefCell<FlowMaps>,
    pods: RefCell<HashMap<Arc<str>, Arc<LocalPod>>>,
    handshakes: Cap,
    refusals: LogGate,
    shed: LogGate,
    random: Cell<u64>,
}

/// Runs a data thread until it is drained.
///
/// # Errors
/// If its runtime cannot be made.
pub fn run(seed: Seed) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        seed.watchdog.watch_this(&format!("data-{}", seed.index));
        let (mut pods, mut mail) = (seed.pods, seed.mail);
        let drain = seed.drain.clone();
        let worker = Rc::new(Worker {
            pool: Pool::new(tunnel::PoolOptions::default(), drain.clone()),
            load: Rc::default(),
            snapshots: seed.snapshots,
            demand: seed.demand,
            identities: seed.identities,
            flows: RefCell::new(seed.flows),
            pods: RefCell::default(),
            handshakes: Cap::new(admit::MAX_HANDSHAKES),
            refusals: LogGate::new(REFUSALS_LOGGED),
            shed: LogGate::new(1),
            descriptors: seed.descriptors,
            random: Cell::new(seed_of(seed.index)),
            shared: seed.shared,
            names: seed.names,
            requests: RefCell::default(),
            reporter: seed.reporter,
            drain: drain.clone(),
        });
        loop {
            tokio::select! {
                sockets = pods.recv() => match sockets {
                    Some(sockets) => worker.serve_pod(sockets),
                    None => break,
                },
                Some(mail) = next(&mut mail) => l4::deliver(&worker, mail),
                () = drain.graceful() => break,
            }
        }
        drop(pods);
        // Connections that wait for requests would keep this thread busy.
        worker.requests.borrow_mut().clear();
        tokio::select! {
            () = worker.idle() => return,
            () = drain.forced() => {}
        }
        // Connections end by themselves now; they need a moment of this thread for it.
        let _ = tokio::time::timeout(LAST_MOMENT, worker.idle()).await;
    });
    Ok(())
}

/// The next entry; none once nobody sends any.
async fn next(mail: &mut Option<mpsc::Receiver<Mail>>) -> Option<Mail> {
    match mail {
        Some(mail) => mail.recv().await,
        None => pending().await,
    }
}

impl Worker {
    /// The configuration as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// The configuration as it changes.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Asks who has `ip`, if there is somebody to ask. The answer is a new snapshot.
    pub fn ask_for(&self, ip: IpAddr) {
        // A control plane inside of this process has told everything, and one that is too slow is not helped by more.
        let _ = self.demand.try_send(ip);
    }

    /// Whether one more line about somebody who was refused may be logged, and how many could not be before it.
    pub fn may_complain(&self) -> Option<u64> {
        self.refusals.pass()
    }

    /// Where a captured connection of `pod` wanted to go, of which `accepted` is the node's end.
    pub fn original_destination(
        &self,
        pod: &LocalPod,
        accepted: &impl AsRawFd,
        client: SocketAddr,
    ) -> Option<SocketAddr> {
        let flows = self.flows.borrow();
        if pod.is_machine() {
            return flows.destination_of(accepted);
        }
        flows.original_destination(pod.netns.cookie(), client)
    }

    /// The resolvers that the UDP socket `client` of `pod` has asked, as `server` hears it; the last one first.
    pub fn asked_resolvers(
        &self,
        pod: &LocalPod,
        server: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<Vec<SocketAddr>> {
        let cookie = pod.netns.run(|| diag::udp_cookie(server, client))??;
        Ok(cookie.map(|cookie| self.flows.borrow().resolvers(cookie)).unwrap_or_default())
    }

    /// States for which client a socket connects to an application.
    pub fn act_for(&self, socket: &impl AsRawFd, client: SocketAddr) -> io::Result<()> {
        self.flows.borrow_mut().act_for(socket, client).map_err(io::Error::other)
    }

    /// States for which client, a pod in the namespace `netns`, a socket connects from there to another pod of this node.
    pub fn carry(&self, socket: &impl AsRawFd, netns: u64, client: SocketAddr) -> io::Result<()> {
        self.flows.borrow_mut().carry(socket, netns, client).map_err(io::Error::other)
    }

    /// Marks a socket as the node's own before it connects out of a pod.
    pub fn own(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.flows.borrow_mut().own(socket).map_err(io::Error::other)
    }

    /// A captured pod of this node by its workload's uid.
    pub fn local_pod(&self, uid: &str) -> Option<Arc<LocalPod>> {
        self.pods.borrow().get(uid).cloned()
    }

    /// What this thread has for the requests of a pod; made when there is nothing yet.
    pub fn requests(&self, pod: &LocalPod, make: impl FnOnce() -> Rc<PodRequests>) -> Rc<PodRequests> {
        if let Some(known) = self.requests.borrow().get(&pod.workload) {
            return known.clone();
        }
        let new = make();
        self.requests.borrow_mut().insert(pod.workload.clone(), new.clone());
        new
    }

    /// The certificate of an identity; waits a while for one that is still being signed.
    ///
    /// # Errors
    /// What to tell when there is none in time.
    pub async fn svid(&self, id: &SpiffeId) -> Result<Arc<Svid>, String> {
        let deadline = tokio::time::Instant::now() + CERTIFICATE_PATIENCE;
        loop {
            if let Some(svid) = self.identities.current(id) {
                return Ok(svid);
            }
            // Its pods have been let go of, and nobody will ever sign it: a connection of one of them is cut at once.
            if !self.identities.holds(id) {
                return Err(format!("{id} is not an identity of this node any more"));
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("no certificate for {id} yet"));
            }
            tokio::time::sleep(CERTIFICATE_RETRY).await;
        }
    }

    /// A pseudo-random number (xorshift): good for spreading load, useless for secrets.
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x
    }

    fn serve_pod(self: &Rc<Self>, sockets: PodSockets) {
        let PodSockets { pod, listeners, queries, released } = sockets;
        self.pods.borrow_mut().insert(pod.workload.clone(), pod.clone());
        for listener in listeners.outbound {
            let (worker, pod) = (self.clone(), pod.clone());
            self.accept(listener, released.clone(), move |tcp, peer| {
                tasks::spawn_local("outbound", l4::outbound::serve(worker.clone(), pod.clone(), tcp, peer));
            });
        }
        for listener in listeners.plaintext {
            let (worker, pod) = (self.clone(), pod.clone());
            self.accept(listener, released.clone(), move |tcp, peer| {
                tasks::spawn_local(
                    "plaintext",
                    l4::inbound::plaintext(worker.clone(), pod.clone(), tcp, peer),
                );
            });
        }
        for listener in listeners.tunnel {
            let (worker, pod) = (self.clone(), pod.clone());
            self.accept(listener, released.clone(), move |tcp, peer| {
                tasks::spawn_local("tunnel", worker.clone().tunnel(pod.clone(), tcp, peer));
            });
        }
        let resolver = Resolver::new(self.clone(), pod.clone(), queries);
        for listener in listeners.dns {
            let resolver = resolver.clone();
            self.accept(listener, released.clone(), move |tcp, peer| {
                tasks::spawn_local("dns connection", resolver.clone().serve_stream(tcp, peer));
            });
        }
        for socket in listeners.dns_packets {
            tasks::spawn_local("dns", resolver.clone().serve_packets(socket, released.clone()));
        }
        tasks::spawn_local("release", self.clone().forget(pod, released));
    }

    fn accept(
        self: &Rc<Self>,
        listener: std::net::TcpListener,
        mut released: watch::Receiver<bool>,
        serve: impl Fn(TcpStream, SocketAddr) + 'static,
    ) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "A listener could not be registered."),
        };
        let (worker, drain) = (self.clone(), self.drain.clone());
        tasks::spawn_local("accept", async move {
            let failed = |error: &io::Error| worker.reporter.count(accept_event(error));
            let admit = |tcp, peer| {
                if worker.admits(&tcp) {
                    serve(tcp, peer);
                }
            };
            let released = async {
                redirect::released(&mut released).await;
                // What had connected before the kernel programs let go is still in the queue.
                tokio::time::sleep(RELEASE_GRACE).await;
            };
            tokio::select! {
                never = admit::accept_loop(&listener, failed, admit) => match never {},
                () = released => {}
                () = drain.graceful() => {}
            }
        });
    }

    /// The handshake of a tunnel and its streams.
    async fn tunnel(self: Rc<Self>, pod: Arc<LocalPod>, tcp: TcpStream, peer: SocketAddr) {
        let place = self.handshakes.enter();
        let identity =
            self.snapshot().workload_by_uid(&pod.workload).map(|workload| workload.identity.clone());
        let Some(identity) = identity else { return };
        let svid = match self.svid(&identity).await {
            Ok(svid) => svid,
            Err(reason) => {
                if let Some(muted) = self.refusals.pass() {
                    tracing::warn!(%peer, pod = %pod.uid, reason, muted, "Refused a tunnel.");
                }
                return;
            }
        };
        let local = tcp.local_addr().unwrap_or(peer);
        let accepted = tokio::select! {
            accepted = crate::tls::accept(tcp, &svid) => accepted,
            () = place.lost() => return self.refused(peer, Event::HandshakeOverload, "overload", &"too many handshakes"),
        };
        let (stream, proven) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return self.refused(peer, event_of(&error), error.reason(), &error),
        };
        drop(place);
        self.reporter.count(Event::tunnel(proven.protocol));
        let identity = proven.id.clone();
        let server = self.clone().tunnel_server(pod, peer, &proven);
        match server.serve(stream, proven, local).await {
            Ok(()) => {}
            Err(error) if is_fault_of_peer(&error) => {
                self.reporter.count(fault_event(&error));
                if let Some(muted) = self.refusals.pass() {
                    tracing::info!(%peer, %identity, reason = error.reason(), %error, muted, "Ended a tunnel.");
                }
            }
            Err(error) => tracing::debug!(%peer, %identity, %error, "A tunnel ended with an error."),
        }
    }

    /// Counts a refused handshake, and logs it unless there are too many of them.
    fn refused(&self, peer: SocketAddr, event: Event, reason: &str, error: &dyn std::fmt::Display) {
        self.reporter.count(event);
        if let Some(muted) = self.refusals.pass() {
            tracing::info!(%peer, reason, %error, muted, "Refused a tunnel.");
        }
    }

    /// Whether there are descriptors enough for one more connection.
    fn admits(&self, tcp: &TcpStream) -> bool {
        let allowed = self.descriptors.allow_accepted(tcp);
        if !allowed {
            self.reporter.count(Event::ShedConnections);
            if let Some(muted) = self.shed.pass() {
                tracing::warn!(muted, "Closed a new connection: file descriptors are running out.");
            }
        }
        allowed
    }

    fn tunnel_server(self: Rc<Self>, pod: Arc<LocalPod>, peer: SocketAddr, proven: &Peer) -> tunnel::Server {
        let (worker, drain, identity) = (self.clone(), self.drain.clone(), proven.id.clone());
        tunnel::Server {
            limits: tunnel::ServeLimits::default(),
            handler: Rc::new(move |incoming| {
                Box::pin(l4::inbound::tunnelled(self.clone(), pod.clone(), incoming, peer))
            }),
            on_refused: Rc::new(move |reason| {
                worker.reporter.count(if reason == "not_connect" {
                    Event::GarbageMethod
                } else {
                    Event::GarbageAuthority
                });
                if let Some(muted) = worker.refusals.pass() {
                    tracing::info!(%peer, %identity, reason, muted, "Refused a request on a tunnel.");
                }
            }),
            drain,
        }
    }

    /// Resolves when no connection and no tunnel of another node is left; each holds this thread's state.
    async fn idle(self: &Rc<Self>) {
        while Rc::strong_count(self) > 1 {
            tokio::time::sleep(IDLE_CHECK).await;
        }
    }

    async fn forget(self: Rc<Self>, pod: Arc<LocalPod>, mut released: watch::Receiver<bool>) {
        tokio::select! {
            () = redirect::released(&mut released) => {}
            () = self.drain.graceful() => return,
        }
        self.pool.retire_pod(&pod.workload);
        self.requests.borrow_mut().remove(&pod.workload);
        let mut pods = self.pods.borrow_mut();
        if pods.get(&pod.workload).is_some_and(|known| Arc::ptr_eq(known, &pod)) {
            pods.remove(&pod.workload);
        }
    }
}

/// Connections under way by endpoint, as this thread sees them.
#[derive(Debug, Default)]
pub struct Outstanding(RefCell<HashMap<EndpointId, u32>>);

/// Counts one connection for as long as it lives.
#[derive(Debug)]
pub struct LoadGuard {
    table: Rc<Outstanding>,
    id: EndpointId,
}

impl Outstanding {
    /// Counts a connection to this endpoint.
    pub fn add(self: &Rc<Self>, id: EndpointId) -> LoadGuard {
        *self.0.borrow_mut().entry(id).or_default() += 1;
        LoadGuard { table: self.clone(), id }
    }
}

impl Load for Outstanding {
    fn outstanding(&self, id: EndpointId) -> u32 {
        self.0.borrow().get(&id).copied().unwrap_or(0)
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let mut table = self.table.0.borrow_mut();
        if let Some(count) = table.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.id);
            }
        }
    }
}

/// What counts a handshake that came to nothing.
pub(crate) fn event_of(error: &TlsError) -> Event {
    match error {
        TlsError::Deadline => Event::HandshakeDeadline,
        TlsError::Peer(
            PeerError::MalformedNames
            | PeerError::NoId
            | PeerError::SeveralIds
            | PeerError::MalformedId(_)
            | PeerError::ForeignTrustDomain(_)
            | PeerError::WrongIdentity { .. },
        ) => Event::HandshakeIdentity,
        _ => Event::HandshakeTls,
    }
}

/// Whether a tunnel ended because its peer broke the rules, not because it broke or had to end.
pub(crate) fn is_fault_of_peer(error: &ServeError) -> bool {
    match error {
        ServeError::PrefaceDeadline
        | ServeError::Protocol(_)
        | ServeError::ResetFlood
        | ServeError::Flood
        | ServeError::Refuted(_) => true,
        ServeError::Handshake(error) | ServeError::Connection(error) => !error.is_io(),
        ServeError::Lost(_) | ServeError::PeerDead | ServeError::Forced => false,
    }
}

/// What such a tunnel counts as.
pub(crate) fn fault_event(error: &ServeError) -> Event {
    match error {
        ServeError::Refuted(_) => Event::DeniedLater,
        _ => Event::GarbageProtocol,
    }
}

fn accept_event(error: &io::Error) -> Event {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => Event::AcceptDescriptors,
        Some(libc::ENOMEM | libc::ENOBUFS) => Event::AcceptMemory,
        _ => Event::AcceptOther,
    }
}

fn seed_of(index: usize) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_usize(index);
    hasher.finish() | 1
}

/// Lines a second about peers that were refused, on each thread.
const REFUSALS_LOGGED: u32 = 20;
/// How long a connection waits for a certificate that is on its way.
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(5);
const CERTIFICATE_RETRY: Duration = Duration::from_millis(20);
/// How long a released pod's listeners stay open.
const RELEASE_GRACE: Duration = Duration::from_secs(1);
const IDLE_CHECK: Duration = Duration::from_millis(20);
/// What connections get to end after the drain's deadline.
const LAST_MOMENT: Duration = Duration::from_millis(200);
