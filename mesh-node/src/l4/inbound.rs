//! What reaches an enrolled pod: plaintext from outside the mesh, and streams of tunnels.

use std::{future::pending, net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header::FORWARDED};
use mesh_common::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};
use mesh_core::{
    limit::{self, Caller, Outcome},
    model::Workload,
    policy::{Notes, Permit},
    telemetry::Side,
};
use tokio::net::TcpStream;

use super::{
    dial::{self, Origin},
    forwarded, relay,
    revoke::{Carries, Facts, revoked},
};
use crate::{
    l7::{
        io::Io,
        site::{DialError, Dialled, Held, Tls},
        sniff,
    },
    redirect::LocalPod,
    report::{ConnInfo, ConnReport, Direction, Event, Flag, Party, Stage},
    run::{tasks, worker::Worker},
    sys::sockopt,
    tunnel::Incoming,
};

mod requests;

use self::requests::Plan;

/// Serves one plaintext connection; its local address is what the client asked for.
pub async fn plaintext(worker: Rc<Worker>, pod: Arc<LocalPod>, tcp: TcpStream, client: SocketAddr) {
    let Ok(wanted) = tcp.local_addr() else { return };
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let destination = SocketAddr::new(wanted.ip().to_canonical(), wanted.port());
    let carries = Carries::Unread;
    let mut facts =
        Facts { uid: pod.workload.clone(), peer: None, source_ip: client.ip(), destination, carries };
    if let Some(plan) = requests::plan(&worker, &facts) {
        let begins = sniff::beginning(&tcp, plan.wanted(), plan.patience).await;
        if plan.is_for(&begins) {
            let carried = (tcp.into(), BytesMut::new(), Origin::elsewhere(client));
            return requests::serve(&worker, (&pod, facts), plan, carried).await;
        }
        facts.carries = plan.bytes(&begins);
    }
    let (report, workload) = begin(&worker, &facts, client);
    let Some(permit) = authorize(&worker, &facts, workload.as_ref(), &report) else { return };
    if is_one_too_many(&worker, &facts, workload.as_ref(), &report) {
        return;
    }
    match dial::application(&worker, &pod, permit, &Origin::elsewhere(client)).await {
        Ok(application) => {
            report.opened();
            carry(&worker, tcp.into(), application, &facts, &report).await;
        }
        Err(error) => report.fail(Stage::Dial, error),
    }
}

/// As [`local`], as requests have it: cut when policy changes, and with whoever uses it.
pub(super) async fn held(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    facts: Facts,
    origin: Origin,
) -> Result<Dialled, DialError> {
    let opened = local(worker, pod, facts, origin).await;
    let opened = opened.map_err(|(stage, reason)| match stage {
        Stage::Policy => DialError::Denied(reason),
        _ => DialError::Connect(reason),
    })?;
    watched(worker, opened)
}

/// [`held`], for requests that are read here already: with the permit of one of them, or with what policy says of the
/// connection whatever it carries.
async fn held_for_requests(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    (facts, permit): (Facts, Option<Permit>),
    origin: &Origin,
) -> Result<Dialled, DialError> {
    let (report, workload) = begin(worker, &facts, origin.client);
    let permit = permit.or_else(|| authorize(worker, &facts, workload.as_ref(), &report));
    let Some(permit) = permit else {
        return Err(DialError::Denied("refused by policy at the destination".to_owned()));
    };
    let opened = open(worker, pod, (facts, workload, permit), (origin, report)).await;
    watched(worker, opened.map_err(|(_, reason)| DialError::Connect(reason))?)
}

/// With whoever cuts the connection when policy changes.
fn watched(worker: &Rc<Worker>, opened: Opened) -> Result<Dialled, DialError> {
    let Opened { tcp, report, facts } = opened;
    let cut = sockopt::duplicate(&tcp).map_err(|error| DialError::Connect(error.to_string()))?;
    let (watcher, encrypted) = (Rc::downgrade(worker), facts.peer.is_some());
    let report = Rc::new(report);
    let own = Rc::clone(&report);
    let watch = tasks::spawn_local("revocation", async move {
        let Some(worker) = watcher.upgrade() else { return };
        let reports = [&*own];
        tokio::select! {
            () = revoked(&worker, &facts, &reports) => {}
            () = worker.drain.forced() => {}
        }
        let _ = cut.shutdown(std::net::Shutdown::Both);
    });
    Ok(Dialled { io: Io::Tcp(tcp), encrypted, held: Some(Held::new(watch, report)) })
}

/// Serves one stream of a tunnel, whose peer has proven its identity.
pub async fn tunnelled(
    worker: Rc<Worker>,
    pod: Arc<LocalPod>,
    mut incoming: Incoming,
    tunnel_peer: SocketAddr,
) {
    let client = client_of(&incoming, tunnel_peer);
    let facts = Facts {
        uid: pod.workload.clone(),
        peer: Some(incoming.peer.id.clone()),
        source_ip: tunnel_peer.ip().to_canonical(),
        destination: incoming.authority,
        carries: Carries::Unread,
    };
    let (report, workload) = begin(&worker, &facts, client);
    if !is_target(&pod, facts.destination) {
        worker.reporter.count(Event::GarbageTarget);
        report.fail(Stage::Connect, "the CONNECT target is not this pod, or is a port of the mesh itself");
        incoming.reject(StatusCode::BAD_REQUEST);
        return;
    }
    if let Some(plan) = requests::plan(&worker, &facts) {
        let tls = Tls { agreed: incoming.peer.agreed, leaf: incoming.peer.proof.leaf(), own: None };
        let origin = Origin { tls, ..Origin::elsewhere(client) };
        // What it carries can only be looked at once the peer may send it.
        match incoming.accept() {
            Ok(stream) => {
                let read = Read { io: stream.into(), origin, report: Some(report) };
                return read_first(&worker, &pod, facts, plan, read).await;
            }
            Err(error) => return report.fail(Stage::Connect, error),
        }
    }
    let Some(permit) = authorize(&worker, &facts, workload.as_ref(), &report) else {
        incoming.reject(StatusCode::UNAUTHORIZED);
        return;
    };
    if is_one_too_many(&worker, &facts, workload.as_ref(), &report) {
        return incoming.reject(StatusCode::SERVICE_UNAVAILABLE);
    }
    let origin = Origin::elsewhere(client);
    let dialled = tokio::select! {
        dialled = dial::application(&worker, &pod, permit, &origin) => dialled,
        () = incoming.gone() => return report.fail(Stage::Connect, "the peer gave up before the application answered"),
    };
    match dialled {
        Ok(application) => match incoming.accept() {
            Ok(stream) => {
                report.opened();
                carry(&worker, stream.into(), application, &facts, &report).await;
            }
            Err(error) => report.fail(Stage::Connect, error),
        },
        Err(error) => {
            report.fail(Stage::Dial, error);
            incoming.reject(StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}

/// A connection that has to be read before policy can say anything.
struct Read {
    io: Io,
    origin: Origin,
    /// If it has begun.
    report: Option<ConnReport>,
}

/// Reads what a connection begins with, and serves it as what it is.
async fn read_first(worker: &Rc<Worker>, pod: &Arc<LocalPod>, mut facts: Facts, plan: Plan, read: Read) {
    let (mut io, mut input) = (read.io, BytesMut::new());
    let begins = tokio::select! {
        begins = sniff::read_beginning(&mut io, &mut input, plan.wanted(), plan.patience) => begins,
        () = worker.drain.forced() => return,
    };
    if plan.is_for(&begins) {
        if let Some(report) = read.report {
            report.carries_requests();
        }
        return requests::serve(worker, (pod, facts), plan, (io, input, read.origin)).await;
    }
    facts.carries = plan.bytes(&begins);
    let workload = worker.snapshot().workload_by_uid(&facts.uid).cloned();
    // One connection has one report: a second would be counted and logged as a connection of its own.
    let report = read.report.unwrap_or_else(|| begin(worker, &facts, read.origin.client).0);
    let Some(permit) = authorize(worker, &facts, workload.as_ref(), &report) else { return };
    if is_one_too_many(worker, &facts, workload.as_ref(), &report) {
        return;
    }
    match dial::application(worker, pod, permit, &read.origin).await {
        Ok(application) => {
            report.opened();
            carry(worker, io.with_prefix(input.freeze()), application, &facts, &report).await;
        }
        Err(error) => report.fail(Stage::Dial, error),
    }
}

/// A connection to a pod of this node.
pub(super) struct Opened {
    /// To the application, or to whoever reads requests for it.
    pub(super) tcp: TcpStream,
    /// That of the pod's side.
    pub(super) report: ConnReport,
    /// What policy was asked.
    pub(super) facts: Facts,
}

/// Serves a connection of another pod of this node: the kernel has attested its source, so no tunnel is needed. The
/// client's own connection stays with the caller; this opens the application's side.
pub(super) async fn local(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    facts: Facts,
    origin: Origin,
) -> Result<Opened, (Stage, String)> {
    if !is_target(pod, facts.destination) {
        let (report, _) = begin(worker, &facts, origin.client);
        report.fail(Stage::Connect, PORT_OF_THE_MESH);
        return Err((Stage::Connect, PORT_OF_THE_MESH.to_owned()));
    }
    if let Some(plan) = requests::plan(worker, &facts) {
        return read_within(worker, pod, facts, (plan, origin));
    }
    let (report, workload) = begin(worker, &facts, origin.client);
    let Some(permit) = authorize(worker, &facts, workload.as_ref(), &report) else {
        return Err((Stage::Policy, "refused by policy at the destination".to_owned()));
    };
    open(worker, pod, (facts, workload, permit), (&origin, report)).await
}

/// Opens the application's side of what policy lets pass.
async fn open(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    (facts, workload, permit): (Facts, Option<Arc<Workload>>, Permit),
    (origin, report): (&Origin, ConnReport),
) -> Result<Opened, (Stage, String)> {
    if is_one_too_many(worker, &facts, workload.as_ref(), &report) {
        return Err((Stage::Connect, "a limit of connections at the destination is reached".to_owned()));
    }
    match dial::application(worker, pod, permit, origin).await {
        Ok(tcp) => {
            report.opened();
            Ok(Opened { tcp, report, facts })
        }
        Err(error) => {
            report.fail(Stage::Dial, &error);
            Err((Stage::Dial, error.to_string()))
        }
    }
}

/// Opens a connection to a task of this process that reads it for the application.
fn read_within(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    facts: Facts,
    (plan, origin): (Plan, Origin),
) -> Result<Opened, (Stage, String)> {
    let pair = sockopt::pair().and_then(|(near, far)| Ok((worker.descriptors.allow_dial(near)?, far)));
    let (tcp, far) = pair.map_err(|error| (Stage::Dial, error.to_string()))?;
    let (report, _) = begin(worker, &facts, origin.client);
    // Whoever reads it reports it.
    report.carries_requests();
    report.opened();
    let (reader, to, asked) = (Rc::clone(worker), Arc::clone(pod), facts.clone());
    tasks::spawn_local("inbound", async move {
        let read = Read { io: far.into(), origin, report: None };
        read_first(&reader, &to, asked, plan, read).await;
    });
    Ok(Opened { tcp, report, facts: Facts { carries: Carries::Requests, ..facts } })
}

fn begin(worker: &Rc<Worker>, facts: &Facts, client: SocketAddr) -> (ConnReport, Option<Arc<Workload>>) {
    let snapshot = worker.snapshot();
    let workload = snapshot.workload_by_uid(&facts.uid).cloned();
    let source = snapshot.workload_by_ip(facts.source_ip).cloned();
    // The address alone proves nothing: a name for it is shown only where it agrees with the identity.
    let source = source.filter(|w| facts.peer.as_ref().is_none_or(|peer| *peer == w.identity));
    // The client asked its own node for a service; here its name is known only by the pod that serves it.
    let service = workload.as_ref().and_then(|w| w.services.first());
    let service = service.and_then(|one| snapshot.service(&one.service)).cloned();
    let report = worker.reporter.begin(ConnInfo {
        direction: Direction::Inbound,
        source: Party { addr: client, workload: source, identity: facts.peer.clone() },
        destination: Party {
            addr: facts.destination,
            identity: workload.as_ref().map(|w| w.identity.clone()),
            workload: workload.clone(),
        },
        hbone_addr: None,
        service,
        pseudo_service: None,
        encrypted: facts.peer.is_some(),
        datagrams: false,
    });
    let told = worker.shared.telemetry(&snapshot).of_connection(workload.as_deref(), Side::Server);
    match worker.local_pod(&facts.uid) {
        Some(pod) => super::requests::tell(worker, &pod, &report, told),
        None => report.tell(told),
    }
    (report, workload)
}

fn authorize(
    worker: &Worker,
    facts: &Facts,
    workload: Option<&Arc<Workload>>,
    report: &ConnReport,
) -> Option<Permit> {
    let Some(workload) = workload else {
        report.fail(Stage::Policy, "the pod is not in the configuration");
        return None;
    };
    match facts.decide(&worker.snapshot(), workload) {
        Ok(permit) => {
            if *permit.notes() != Notes::default() {
                worker.reporter.noted(permit.notes(), &facts.client_name(), &facts.destination);
            }
            Some(permit)
        }
        Err(denied) => {
            worker.reporter.denied(&denied, facts.refusal(&denied));
            report.fail(Stage::Policy, denied);
            None
        }
    }
}

/// Whether a limit of connections to the pod is reached, which `report` says then. Asked of those that policy lets pass: who
/// may not connect uses nothing up.
fn is_one_too_many(
    worker: &Worker,
    facts: &Facts,
    workload: Option<&Arc<Workload>>,
    report: &ConnReport,
) -> bool {
    let limits = worker.shared.limits(&worker.snapshot());
    let Some(workload) = workload.filter(|_| !limits.is_empty()) else { return false };
    let policies = limits.of_workload(&workload.namespace, &workload.labels);
    let caller = Caller::new(facts.peer.as_ref(), facts.source_ip);
    let Outcome::Over(over) = limit::connection(&policies, &caller, Instant::now()) else { return false };
    worker.reporter.count(Event::ShedRate);
    report.fail_as(Stage::Policy, Flag::RateLimited, over);
    true
}

async fn carry(worker: &Worker, far: Io, application: TcpStream, facts: &Facts, report: &ConnReport) {
    let _ = sockopt::set_linger_zero(&application, true);
    let counters = report.counters();
    let reports = [report];
    let cut = async {
        tokio::select! {
            () = revoked(worker, facts, &reports) => {}
            () = worker.drain.forced() => report.fail(Stage::Drain, "the node is stopping"),
        }
    };
    let application = (application.into(), Bytes::new());
    if let Err(error) = relay::relay_any(application, far, counters.relayed(), (pending(), cut)).await {
        report.fail(Stage::Relay, error);
    }
}

/// The client's address: the tunnel's own, with the port that the peer's node reports. A port decides nothing.
pub(crate) fn client_of(incoming: &Incoming, tunnel_peer: SocketAddr) -> SocketAddr {
    let ip = tunnel_peer.ip().to_canonical();
    let claimed = incoming.headers.get(FORWARDED).and_then(|value| forwarded::parse(value.to_str().ok()?));
    let port = claimed.filter(|at| at.ip() == ip).map_or(tunnel_peer.port(), |at| at.port());
    SocketAddr::new(ip, port)
}

const PORT_OF_THE_MESH: &str = "the destination is not this pod, or is a port of the mesh itself";

fn is_target(pod: &LocalPod, wanted: SocketAddr) -> bool {
    let own_port = [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, TUNNEL_PORT].contains(&wanted.port());
    !own_port && pod.ips.contains(&wanted.ip()) && pod.has_port(wanted.port())
}
