//! What an enrolled pod opens: found out where to, chosen whom, carried there.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use mesh_common::TUNNEL_PORT;
use mesh_core::{
    balance,
    model::{Endpoint, Named, NoWay, Service, ServicePort, Snapshot, Target, Waypoint, Workload},
    resource::mesh_config::settings::OutboundMode,
    telemetry::Side,
};
use tokio::net::TcpStream;

use super::{
    dial::{self, Origin},
    forwarded, inbound,
    relay::{self, Far},
    requests::{self, outside},
    revoke::{Carries, Facts, revoked},
    waypoint::{Missed, Passenger},
};
use crate::{
    l7::{io::Io, stream},
    redirect::LocalPod,
    report::{ConnInfo, ConnReport, Counters, Direction, Event, Flag, Party, PseudoService, Stage},
    run::worker::Worker,
    sys::sockopt,
    tunnel::{self, ConnectRequest, Early, OpenError, TunnelKey},
};

/// Serves one captured connection.
pub async fn serve(worker: Rc<Worker>, pod: Arc<LocalPod>, tcp: TcpStream, client: SocketAddr) {
    let Some(wanted) = worker.original_destination(&pod, &tcp, client) else {
        worker.reporter.count(Event::LostDestination);
        if let Some(muted) = worker.may_complain() {
            tracing::warn!(pod = %pod.uid, %client, muted, "Refused a connection that capture knows nothing of.");
        }
        return;
    };
    let story = Story::begin(worker, pod, client, wanted);
    let Some(source) = story.source() else {
        return story.report.fail(Stage::Capture, "the pod is not in the configuration");
    };
    let Some(Raw { tcp, port, named, speaks }) = story.requests(tcp, &source, wanted).await else { return };
    // Whoever looks at what is said must see all of it.
    let early = if speaks.is_some() { Early::none() } else { Early::of(&tcp) };
    let reached = tokio::select! {
        // Boxed: handshakes are large and over soon, and the task keeps the room of its largest step until it ends.
        reached = Box::pin(story.reach(&source, (wanted, named), &early)) => reached,
        () = stream::reset_by_client(&tcp) => Err(Failure::last(Stage::Connect, "the client gave up")),
    };
    let early = early.into_parts();
    match reached {
        Ok(reached) => story.carry((tcp, early), reached, (port, speaks)).await,
        Err(failure) => story.report.fail_as(failure.stage, failure.flag, failure.reason),
    }
}

/// A connection that the node makes for a pod.
pub struct Lent {
    /// Its bytes.
    pub io: Io,
    /// For whoever uses it to count them.
    pub counters: Arc<Counters>,
    _story: Story,
    _reached: Reached<()>,
}

/// Connects for a pod as if it had connected itself: the same decisions, the same way, the same report.
///
/// # Errors
/// Why there is no connection.
pub async fn lend(
    worker: Rc<Worker>,
    pod: Arc<LocalPod>,
    client: SocketAddr,
    wanted: SocketAddr,
) -> Result<Lent, String> {
    let story = Story::begin(worker, pod, client, wanted);
    let Some(source) = story.source() else {
        story.report.fail(Stage::Capture, "the pod is not in the configuration");
        return Err("the pod is not in the configuration".to_owned());
    };
    match story.reach(&source, (wanted, None), &Early::none()).await {
        Ok(Reached { far, local, load }) => {
            story.report.opened();
            if let Some((inbound, _)) = &local {
                inbound.mirror(&story.report);
            }
            let io = Io::from(far);
            if let Some(socket) = io.socket() {
                // Whoever uses it has read all there is before it ends.
                let _ = sockopt::set_linger_zero(socket, false);
            }
            let counters = story.report.counters();
            Ok(Lent { io, counters, _story: story, _reached: Reached { far: (), local, load } })
        }
        Err(failure) => {
            story.report.fail_as(failure.stage, failure.flag, &failure.reason);
            Err(failure.reason)
        }
    }
}

/// One outbound connection from accept to end.
struct Story {
    worker: Rc<Worker>,
    pod: Arc<LocalPod>,
    client: SocketAddr,
    report: ConnReport,
}

/// A connection whose bytes stay bytes.
struct Raw {
    tcp: TcpStream,
    /// What rules may come to be about.
    port: Option<requests::HttpPort>,
    /// Where it is not the address that tells.
    named: Option<Place>,
    /// The protocol, if it is one that is counted here by its name.
    speaks: Option<Named>,
}

impl Raw {
    fn nothing_but(tcp: TcpStream) -> Self {
        Self { tcp, port: None, named: None, speaks: None }
    }
}

/// A service, and the index of its port.
type Place = (Arc<Service>, usize);

/// The other side of a connection that could be opened.
struct Reached<F = Far> {
    far: F,
    /// For a pod of this node: its own report, and what its policy was asked.
    local: Option<(ConnReport, Facts)>,
    /// Keeps the endpoint's load up to date for as long as it lives.
    load: Option<crate::run::worker::LoadGuard>,
}

/// Why one attempt failed, and whether another endpoint may do better.
struct Failure {
    stage: Stage,
    flag: Flag,
    reason: String,
    retry: bool,
}

impl Failure {
    fn of(stage: Stage, reason: impl fmt::Display) -> Self {
        let retry = matches!(stage, Stage::Dial | Stage::Tls | Stage::H2 | Stage::Connect);
        Self { stage, flag: stage.flag(), reason: reason.to_string(), retry }
    }

    fn of_tunnel(error: &OpenError) -> Self {
        let stage = match error.stage() {
            tunnel::Stage::Dial => Stage::Dial,
            tunnel::Stage::Tls => Stage::Tls,
            tunnel::Stage::H2Handshake => Stage::H2,
            tunnel::Stage::Connect => Stage::Connect,
        };
        Self { stage, flag: error.flag(), reason: error.to_string(), retry: error.retry() }
    }

    fn of_identity(reason: String) -> Self {
        Self { flag: Flag::IdentityError, ..Self::last(Stage::Tls, reason) }
    }

    fn last(stage: Stage, reason: impl fmt::Display) -> Self {
        Self { retry: false, ..Self::of(stage, reason) }
    }
}

impl Story {
    /// A socket of the pod may have a loopback address because of capture; to others it is the pod.
    fn begin(worker: Rc<Worker>, pod: Arc<LocalPod>, client: SocketAddr, wanted: SocketAddr) -> Self {
        let own = pod.ips.iter().find(|ip| ip.is_ipv4() == wanted.is_ipv4()).copied().unwrap_or(client.ip());
        let client = SocketAddr::new(own, client.port());
        let snapshot = worker.snapshot();
        let source = snapshot.workload_by_uid(&pod.workload).cloned();
        let told = worker.shared.telemetry(&snapshot).of_connection(source.as_deref(), Side::Client);
        let report = worker.reporter.begin(ConnInfo {
            direction: Direction::Outbound,
            source: Party {
                addr: client,
                identity: source.as_ref().map(|w| w.identity.clone()),
                workload: source,
            },
            destination: Party::unknown(wanted),
            hbone_addr: None,
            service: None,
            pseudo_service: None,
            encrypted: false,
            datagrams: false,
        });
        requests::tell(&worker, &pod, &report, told);
        Self { worker, pod, client, report }
    }

    fn source(&self) -> Option<Arc<Workload>> {
        self.worker.snapshot().workload_by_uid(&self.pod.workload).cloned()
    }

    /// Serves the connection request by request, if rules are about those; gives it back if it stays bytes.
    async fn requests(&self, tcp: TcpStream, source: &Arc<Workload>, wanted: SocketAddr) -> Option<Raw> {
        let snapshot = self.worker.snapshot();
        match snapshot.resolve_for(&source.namespace, wanted) {
            Target::Service { service, port } => {
                self.requests_to(tcp, source, wanted, ((service, port), None)).await
            }
            Target::External => self.requests_outside(tcp, source, wanted, &snapshot).await,
            _ => Some(Raw::nothing_but(tcp)),
        }
    }

    /// [`Self::requests`], to a service; known is that by its name rather than its address, or not.
    async fn requests_to(
        &self,
        tcp: TcpStream,
        source: &Arc<Workload>,
        wanted: SocketAddr,
        ((service, port), named): (Place, Option<Place>),
    ) -> Option<Raw> {
        let snapshot = self.worker.snapshot();
        if service.waypoint.is_some() {
            return Some(Raw { named, ..Raw::nothing_but(tcp) });
        }
        let kind =
            requests::classify(&self.worker, &self.pod, &snapshot, (&service, port), (tcp, wanted)).await;
        match kind {
            requests::Kind::Bytes(tcp) => {
                let speaks = service.ports.get(port).and_then(ServicePort::named);
                Some(Raw { tcp, port: requests::HttpPort::of(&service, port), named, speaks })
            }
            requests::Kind::Routed(tcp, rules, to, name) => {
                let number = service.ports.get(port).map_or(0, |port| port.number);
                let whither = ((to, name), &self.report, &self.worker.drain);
                let carried = requests::carry(&rules, (source, number), (tcp, self.client, wanted), whither);
                Box::pin(carried).await;
                None
            }
            requests::Kind::Requests(tcp, rules) => {
                self.report.set_service(service.clone());
                self.report.carries_requests();
                // A connection of requests ends with its last answer, and that is to arrive.
                let _ = sockopt::set_linger_zero(&tcp, false);
                let connection = (tcp, self.client, wanted);
                let served = requests::serve(&self.worker, rules, source, (service, port), connection);
                Box::pin(served).await;
                None
            }
        }
    }

    /// [`Self::requests`], to an address that is nobody's.
    async fn requests_outside(
        &self,
        tcp: TcpStream,
        source: &Arc<Workload>,
        wanted: SocketAddr,
        snapshot: &Snapshot,
    ) -> Option<Raw> {
        match outside::classify(&self.worker, &self.pod, snapshot, (tcp, wanted.port())).await {
            outside::Kind::Nobody(tcp) => Some(Raw::nothing_but(tcp)),
            outside::Kind::Named(tcp, host) => {
                let service = snapshot.service_by_host(&host, &source.namespace).cloned();
                let number = |it: &ServicePort| it.number == wanted.port();
                let found = service.and_then(|it| Some((it.clone(), it.ports.iter().position(number)?)));
                let Some(place) = found else {
                    return Some(Raw::nothing_but(tcp));
                };
                self.requests_to(tcp, source, wanted, (place.clone(), Some(place))).await
            }
            outside::Kind::Requests(tcp, rules) => {
                self.report.set_pseudo_service(outside::pseudo_service(snapshot));
                self.report.carries_requests();
                let _ = sockopt::set_linger_zero(&tcp, false);
                let connection = (tcp, self.client, wanted);
                Box::pin(outside::serve(&self.worker, rules, source, connection)).await;
                None
            }
        }
    }

    /// Opens the far side of the connection.
    async fn reach(
        &self,
        source: &Arc<Workload>,
        (wanted, named): (SocketAddr, Option<Place>),
        early: &Early<'_>,
    ) -> Result<Reached, Failure> {
        if let Some((service, port)) = named {
            self.report.set_service(service.clone());
            let snapshot = self.worker.snapshot();
            return match service.way(port, wanted.is_ipv4()) {
                Some((waypoint, asked)) => self.reach_waypoint(&snapshot, source, waypoint, asked).await,
                None => self.reach_service(&snapshot, source, (&service, port), (wanted, early)).await,
            };
        }
        let (snapshot, target) = self.resolve(source, wanted).await;
        if let Some(waypoint) = target.waypoint() {
            if let Target::Service { service, .. } = &target {
                self.report.set_service(service.clone());
            }
            return self.reach_waypoint(&snapshot, source, waypoint, Ok(wanted)).await;
        }
        match target {
            Target::Service { ref service, port } => {
                self.report.set_service(service.clone());
                self.reach_service(&snapshot, source, (service, port), (wanted, early)).await
            }
            Target::Workload { ref workload, addr } => {
                let endpoint = Endpoint::new(addr, Some(workload.clone()));
                self.reach_endpoint(&snapshot, source, &endpoint, early).await
            }
            Target::External
                if snapshot.mesh().outbound_traffic_policy.mode == OutboundMode::RegistryOnly =>
            {
                self.report.set_pseudo_service(PseudoService::BlackHole);
                let reason = "outboundTrafficPolicy is REGISTRY_ONLY, and the address is nobody's";
                Err(Failure::last(Stage::Resolve, reason))
            }
            Target::External => {
                self.report.set_pseudo_service(PseudoService::Passthrough);
                self.pass_through(&snapshot, source, wanted, &target).await
            }
            Target::ServiceWithoutPort(ref service) => {
                self.report.set_service(service.clone());
                Err(Failure::last(Stage::Resolve, format_args!("the service has no port {}", wanted.port())))
            }
            Target::UnknownInPodNetwork => {
                Err(Failure::last(Stage::Resolve, "an address of the pod network that no known pod has"))
            }
        }
    }

    /// Finds the target; a pod that is too new to be known, or not told of here, gets a moment to appear.
    async fn resolve(&self, source: &Workload, wanted: SocketAddr) -> (Arc<Snapshot>, Target) {
        let mut snapshots = self.worker.snapshots();
        let deadline = tokio::time::Instant::now() + NEW_POD_PATIENCE;
        let mut asked = false;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let target = snapshot.resolve_for(&source.namespace, wanted);
            let settled = !matches!(target, Target::UnknownInPodNetwork);
            if !settled && !std::mem::replace(&mut asked, true) {
                self.worker.ask_for(wanted.ip());
            }
            if settled || tokio::time::timeout_at(deadline, snapshots.changed()).await.is_err() {
                return (snapshot, target);
            }
        }
    }

    /// Tries endpoints until one answers, each at most once.
    async fn reach_service(
        &self,
        snapshot: &Snapshot,
        source: &Arc<Workload>,
        (service, port): (&Arc<Service>, usize),
        (wanted, early): (SocketAddr, &Early<'_>),
    ) -> Result<Reached, Failure> {
        let Some(port) = service.ports.get(port) else {
            return Err(Failure::last(Stage::Resolve, "the service has lost its port"));
        };
        if service.is_dynamic() {
            return Err(Failure::last(Stage::Resolve, "nothing says which of the service's names is meant"));
        }
        if service.is_passthrough() {
            return self.reach_endpoint(snapshot, source, &Endpoint::new(wanted, None), early).await;
        }
        let affinity = service.session_affinity.map(|_| client_hash(self.client.ip()));
        let mut tried = Vec::new();
        let mut last = Failure::last(Stage::Resolve, "the service has no ready endpoint");
        while tried.len() < MAX_ATTEMPTS {
            let seed = self.worker.random();
            let load = &*self.worker.load;
            let endpoints = port.endpoints_for(self.client.is_ipv4());
            let Some(endpoint) = balance::choose(endpoints, load, seed, &tried, affinity) else { break };
            if tried.contains(&endpoint.id) {
                break;
            }
            tried.push(endpoint.id);
            if let Some(workload) = endpoint.workload.as_ref().filter(|workload| !service.admits(workload)) {
                let id = &workload.identity;
                last =
                    Failure::of_identity(format!("{id} is none of the subjectAltNames of the ServiceEntry"));
                continue;
            }
            match self.reach_endpoint(snapshot, source, endpoint, early).await {
                Ok(reached) => {
                    let load = self.worker.load.add(endpoint.id);
                    return Ok(Reached { load: Some(load), ..reached });
                }
                Err(failure) if failure.retry => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    /// Through a waypoint, whose rules decide the rest.
    async fn reach_waypoint(
        &self,
        snapshot: &Snapshot,
        source: &Arc<Workload>,
        waypoint: &Waypoint,
        wanted: Result<SocketAddr, NoWay>,
    ) -> Result<Reached, Failure> {
        let passenger = Passenger { worker: &self.worker, pod: &self.pod, source, client: self.client };
        let tried = |endpoint: &Endpoint| {
            self.report.set_destination(Party {
                addr: endpoint.addr,
                identity: endpoint.workload.as_ref().map(|it| it.identity.clone()),
                workload: endpoint.workload.clone(),
            });
            self.report.set_hbone_addr(endpoint.addr);
            self.report.set_encrypted(true);
        };
        let stream =
            passenger.ride(snapshot, waypoint, wanted, tried).await.map_err(|missed| match missed {
                Missed::NoWay(none) => Failure::last(Stage::Resolve, none),
                Missed::Identity(reason) => Failure::of_identity(reason),
                Missed::Tunnel(error) => Failure::of_tunnel(&error),
            })?;
        Ok(Reached { far: Far::Tunnel(stream), local: None, load: None })
    }

    async fn reach_endpoint(
        &self,
        snapshot: &Snapshot,
        source: &Arc<Workload>,
        endpoint: &Endpoint,
        early: &Early<'_>,
    ) -> Result<Reached, Failure> {
        let workload = endpoint.workload.clone();
        self.report.set_destination(Party {
            addr: endpoint.addr,
            identity: workload.as_ref().filter(|w| w.accepts_tunnel()).map(|w| w.identity.clone()),
            workload: workload.clone(),
        });
        match workload {
            Some(workload) if workload.accepts_tunnel() => match self.worker.local_pod(&workload.uid) {
                Some(pod) => self.reach_local(source, &pod, endpoint.addr).await,
                None => self.reach_tunnel(source, &workload, endpoint.addr, early).await,
            },
            Some(workload) => {
                let target = Target::Workload { workload, addr: endpoint.addr };
                self.pass_through(snapshot, source, endpoint.addr, &target).await
            }
            None => self.pass_through(snapshot, source, endpoint.addr, &Target::External).await,
        }
    }

    /// Same node: the kernel attests the source, this process asks the destination's policy, no byte leaves the node.
    async fn reach_local(
        &self,
        source: &Arc<Workload>,
        pod: &Arc<LocalPod>,
        to: SocketAddr,
    ) -> Result<Reached, Failure> {
        let facts = Facts {
            uid: pod.workload.clone(),
            peer: Some(source.identity.clone()),
            source_ip: self.client.ip(),
            destination: to,
            carries: Carries::Unread,
        };
        self.report.set_encrypted(true);
        let origin = Origin { pod: Some(Arc::clone(&self.pod)), ..Origin::elsewhere(self.client) };
        match inbound::local(&self.worker, pod, facts, origin).await {
            Ok(inbound::Opened { tcp, report, facts }) => {
                let _ = sockopt::set_linger_zero(&tcp, true);
                Ok(Reached { far: Far::Tcp(tcp), local: Some((report, facts)), load: None })
            }
            Err((Stage::Policy, reason)) => Err(Failure::last(Stage::Policy, reason)),
            Err((stage, reason)) => Err(Failure::of(stage, reason)),
        }
    }

    /// Another node: a stream of a tunnel from this pod to that one.
    async fn reach_tunnel(
        &self,
        source: &Arc<Workload>,
        workload: &Arc<Workload>,
        to: SocketAddr,
        early: &Early<'_>,
    ) -> Result<Reached, Failure> {
        let svid = self.worker.svid(&source.identity).await.map_err(Failure::of_identity)?;
        let address = SocketAddr::new(to.ip(), TUNNEL_PORT);
        self.report.set_hbone_addr(address);
        self.report.set_encrypted(true);
        let key = TunnelKey {
            source_pod: self.pod.workload.clone(),
            source: source.identity.clone(),
            destination: workload.identity.clone(),
            address,
        };
        let request = ConnectRequest { forwarded: forwarded::value(self.client), ..ConnectRequest::new(to) };
        let dial = async || dial::tunnel(&self.worker, &self.pod, address).await;
        match self.worker.pool.open_with(&key, dial, svid, (&request, early)).await {
            Ok(stream) => Ok(Reached { far: Far::Tunnel(stream), local: None, load: None }),
            Err(error) if early.is_lost() => Err(Failure { retry: false, ..Failure::of_tunnel(&error) }),
            Err(error) => Err(Failure::of_tunnel(&error)),
        }
    }

    /// Out of the mesh, as the pod itself would have gone.
    async fn pass_through(
        &self,
        snapshot: &Snapshot,
        source: &Workload,
        to: SocketAddr,
        target: &Target,
    ) -> Result<Reached, Failure> {
        let permit = snapshot
            .permit_egress(source, to, target)
            .map_err(|denied| Failure::last(Stage::Policy, denied))?;
        let stream = dial::outside(&self.worker, &self.pod, permit)
            .await
            .map_err(|error| Failure::of(Stage::Dial, error))?;
        let _ = sockopt::set_linger_zero(&stream, true);
        Ok(Reached { far: Far::Tcp(stream), local: None, load: None })
    }

    async fn carry(
        self,
        (tcp, (sent, unsent)): (TcpStream, (usize, Bytes)),
        reached: Reached,
        (port, speaks): (Option<requests::HttpPort>, Option<Named>),
    ) {
        let Self { worker, report, pod, .. } = &self;
        report.opened();
        let counters = report.counters();
        counters.sent.fetch_add(sent as u64, Ordering::Relaxed);
        let local = reached.local.as_ref();
        if let Some((inbound, _)) = local {
            inbound.mirror(report);
        }
        let cut = async {
            tokio::select! {
                () = async {
                    match local {
                        Some((inbound, facts)) => revoked(worker, facts, &[report, inbound]).await,
                        None => std::future::pending().await,
                    }
                } => {}
                () = worker.drain.forced() => report.fail(Stage::Drain, "the node is stopping"),
            }
        };
        let finish = async {
            match &port {
                Some(port) => requests::overruled(worker, pod, port, &counters).await,
                None => std::future::pending().await,
            }
        };
        let far = reached.far.into();
        let speaking = speaks.map(|named| report.speaks(named));
        let watched = counters.relayed().watched(speaking.as_ref().map(|it| it as &dyn relay::Watch));
        let result = relay::relay_any((tcp.into(), unsent), far, watched, (finish, cut)).await;
        if let Err(error) = result {
            report.fail(Stage::Relay, error);
        }
    }
}

/// Clients are told apart by address, as kube-proxy does for `sessionAffinity: ClientIP`.
fn client_hash(ip: IpAddr) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    ip.hash(&mut hasher);
    hasher.finish()
}

/// Endpoints tried for one connection, the first included.
const MAX_ATTEMPTS: usize = 3;
/// How long a connection waits for the configuration to tell of a pod that is new.
const NEW_POD_PATIENCE: Duration = Duration::from_secs(2);
