//! A session: how it comes to be, and what has to hold for it to go on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mesh_core::datagrams::{SessionId, SessionKey, choose};
use mesh_core::limit::Held;
use mesh_core::model::{EndpointId, Service, Snapshot};
use mesh_core::policy::Permit;
use mesh_core::route::{ClusterRef, StreamRoute, StreamView};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::Port;
use crate::admit::Descriptors;
use crate::gateway::listener::Serving;
use crate::l7::engine::Engine;
use crate::l7::site::Facts;
use crate::l7::{limit, outbox};
use crate::report::{ConnInfo, ConnReport, Counters, Direction, Event, Flag, Party, Passage, Stage};
use crate::run::tasks;
use crate::sys::{datagram, sockopt};

/// A session of a client.
pub(super) enum Session {
    /// With an endpoint.
    Carried(Box<Carried>),
    /// There is none for it, as it was found at this time.
    Refused(Instant),
}

/// A session with an endpoint. Ends when it is dropped.
pub(super) struct Carried {
    pub(super) report: ConnReport,
    pub(super) counters: Arc<Counters>,
    pub(super) endpoint: EndpointId,
    pub(super) since: Instant,
    socket: Rc<UdpSocket>,
    local: IpAddr,
    place: Place,
    answers: JoinHandle<()>,
    /// Its place among the connections that may be open.
    _held: Held,
}

/// Where a session goes, as policy is asked about it.
struct Place {
    to: ClusterRef,
    namespace: Arc<str>,
    source: IpAddr,
    destination: SocketAddr,
}

/// What [`Port::open`] has opened.
pub(super) struct Opened {
    pub(super) endpoint: EndpointId,
    socket: Rc<UdpSocket>,
    place: Place,
    held: Held,
}

/// Why there is no session.
pub(super) struct Failed {
    stage: Stage,
    flag: Flag,
    reason: String,
}

/// The report of a client's session at a listener with this port.
pub(super) fn report(engine: &Rc<Engine>, key: SessionKey, port: u16) -> ConnReport {
    let local = SocketAddr::new(key.local, port);
    let report = engine.reporter.begin(ConnInfo {
        direction: Direction::Outbound,
        source: Party { addr: key.client, identity: None, workload: engine.client_workload() },
        destination: Party::unknown(local),
        hbone_addr: None,
        service: None,
        pseudo_service: None,
        encrypted: false,
        datagrams: true,
    });
    report.passes(Passage::new(local, None));
    outbox::tell(engine, &report, engine.told());
    report
}

impl Port {
    /// Finds an endpoint for a client and opens a socket to it, if limits and policy permit.
    pub(super) fn open(&self, key: SessionKey, report: &ConnReport) -> Result<Opened, Failed> {
        let (engine, snapshot) = (&self.engine, self.engine.snapshot());
        let serving = self.listener.current();
        let port = self.listener.address().port();
        let Some(route) = route(&serving, key.local) else {
            let reason = format!("no UDPRoute is for port {port}");
            return Err(Failed { flag: Flag::NoRoute, ..Failed::at(Stage::Resolve, reason) });
        };
        let to = route.forward.choose(engine.random()).to.clone();
        let facts = Facts::stranger(key.client, Some(SocketAddr::new(key.local, port)));
        let limited = |over: String| Failed { flag: Flag::RateLimited, ..Failed::at(Stage::Policy, over) };
        let held = limit::at_door(engine, &facts).map_err(|over| limited(over.to_string()))?;
        let (namespace, _) = engine.client.namespace_and_labels(&snapshot);
        let Some((service, at)) = target(&snapshot, &to, &namespace) else {
            let reason = format!("a rule sends it to {to}, which is not there");
            return Err(Failed { flag: Flag::NoCluster, ..Failed::at(Stage::Resolve, reason) });
        };
        report.set_service(Arc::clone(service));
        let number = service.udp_ports.get(at).map_or(port, |port| port.number);
        report.set_cluster(&format!("outbound|{number}||{}", service.hostname).into());
        limit::to_service(engine, service, &facts).map_err(|over| limited(over.to_string()))?;
        let endpoints = service.udp_ports.get(at).map(|port| port.endpoints_for(key.client.is_ipv4()));
        let (load, failed) = (self.load.borrow(), self.failed.borrow());
        let affinity = service.session_affinity.map(|_| key.client.ip());
        let chosen = choose(
            endpoints.unwrap_or_default(),
            affinity,
            (engine.random(), &|id| failed.contains_key(&id)),
            |id| load.get(&id).copied().unwrap_or_default(),
        );
        let endpoint = chosen
            .ok_or_else(|| Failed::at(Stage::Resolve, "the service has no endpoint that may be used"))?;
        let destination = endpoint.addr;
        report.set_destination(Party {
            addr: destination,
            identity: None,
            workload: endpoint.workload.clone(),
        });
        let source = datagram::source_for(destination).map_err(|error| Failed::of(&error))?;
        let permit = snapshot.permit_datagrams(source, destination, (service, at)).map_err(|denied| {
            engine.reporter.count(Event::denied(&denied.by));
            Failed::at(Stage::Policy, denied.to_string())
        })?;
        let socket = dial(permit, source, self.means.descriptors).map_err(|error| {
            if error.raw_os_error() == Some(libc::EMFILE) {
                engine.reporter.count(Event::ShedConnections);
            }
            Failed::of(&error)
        })?;
        let place = Place { to, namespace, source, destination };
        Ok(Opened { endpoint: endpoint.id, socket: Rc::new(socket), place, held })
    }
}

impl Carried {
    /// Begins to take answers.
    pub(super) fn start(
        port: &Rc<Port>,
        (id, key): (SessionId, SessionKey),
        opened: Opened,
        report: ConnReport,
    ) -> Self {
        let Opened { endpoint, socket, place, held } = opened;
        report.opened();
        let task = answers(Rc::clone(port), (id, key), Rc::clone(&socket));
        Self {
            counters: report.counters(),
            report,
            endpoint,
            since: Instant::now(),
            socket,
            local: key.local,
            place,
            answers: tasks::spawn_local("datagrams", task),
            _held: held,
        }
    }

    /// Sends a datagram of the client.
    pub(super) fn send(&self, payload: &[u8]) -> io::Result<()> {
        let length = datagram::send_connected(&*self.socket, payload)?;
        self.counters.sent.fetch_add(u64::try_from(length).unwrap_or_default(), Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

impl Failed {
    fn at(stage: Stage, reason: impl Into<String>) -> Self {
        Self { stage, flag: stage.flag(), reason: reason.into() }
    }

    fn of(error: &io::Error) -> Self {
        Self::at(Stage::Dial, error.to_string())
    }

    /// States it in the report.
    pub(super) fn tell(&self, report: &ConnReport) {
        report.fail_as(self.stage, self.flag, &self.reason);
    }
}

/// Whether a session may go on, and why not: its rule still leads there, it is still one of the endpoints, and policy
/// permits it.
pub(super) fn check(
    carried: &Carried,
    snapshot: &Snapshot,
    serving: &Serving,
) -> Result<(), (Stage, String)> {
    let Place { to, namespace, source, destination } = &carried.place;
    let leads_there = route(serving, carried.local).is_some_and(|route| route.forward.leads_to(to));
    let found = target(snapshot, to, namespace).filter(|_| leads_there);
    let Some((service, at)) = found else {
        return Err((Stage::Resolve, "no rule leads there any more".to_owned()));
    };
    let of_service = |port: &mesh_core::model::ServicePort| {
        port.endpoints.iter().any(|endpoint| endpoint.addr == *destination)
    };
    if !service.udp_ports.get(at).is_some_and(of_service) {
        return Err((Stage::Resolve, "the endpoint is gone".to_owned()));
    }
    match snapshot.permit_datagrams(*source, *destination, (service, at)) {
        Ok(_) => Ok(()),
        Err(denied) => Err((Stage::Policy, format!("cut after a policy change: {denied}"))),
    }
}

/// Whether an error only says that the kernel has no room for a datagram now.
pub(super) fn is_lack_of_room(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// The rule for datagrams to an address of the listener.
fn route(serving: &Serving, destination: IpAddr) -> Option<Arc<StreamRoute>> {
    let streams = serving.select(None)?.streams.as_ref()?;
    streams.pick(&StreamView { server_name: None, destination }).cloned()
}

/// The service that a rule means, and the place of the port among those of UDP.
fn target<'s>(snapshot: &'s Snapshot, to: &ClusterRef, namespace: &str) -> Option<(&'s Arc<Service>, usize)> {
    let service = snapshot.service_by_host(&to.host, namespace)?;
    let at = service.udp_ports.iter().position(|port| Some(port.number) == to.port)?;
    Some((service, at))
}

/// A socket through which datagrams go to nowhere but where the permit is for.
fn dial(permit: Permit, source: IpAddr, descriptors: Descriptors) -> io::Result<UdpSocket> {
    let to = permit.into_destination();
    let socket = descriptors.allow_dial(sockopt::udp_socket(to.is_ipv6())?)?;
    datagram::set_receive_buffer(&socket, RECEIVE_BUFFER)?;
    sockopt::start_connect(&socket, to)?;
    let socket = UdpSocket::from_std(socket.into())?;
    if socket.local_addr()?.ip() != source {
        return Err(io::Error::other("the way there has changed since policy was asked"));
    }
    Ok(socket)
}

/// Takes answers until the session ends.
async fn answers(port: Rc<Port>, session: (SessionId, SessionKey), socket: Rc<UdpSocket>) {
    let interest = Interest::READABLE | Interest::ERROR;
    loop {
        let Ok(ready) = socket.ready(interest).await else { return };
        // One of the two: of both together tokio never says that they are there.
        let which = if ready.is_readable() { Interest::READABLE } else { Interest::ERROR };
        let mut more = true;
        for _ in 0..super::BURST {
            match socket.try_io(which, || port.answer(session, &socket)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(error) => return port.lose(session.0, &error),
            }
        }
        if more {
            tokio::task::yield_now().await;
        }
    }
}

/// Bytes of answers that wait in the kernel for each session, which counts twice as many: one of the longest has room.
const RECEIVE_BUFFER: i32 = 128 << 10;
