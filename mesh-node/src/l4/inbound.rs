//! What reaches an enrolled pod: plaintext from outside the mesh, and streams of tunnels.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{StatusCode, header::FORWARDED};
use mesh_common::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};
use mesh_core::{
    limit::{self, Caller, Outcome},
    model::Workload,
    policy::Permit,
};
use tokio::net::TcpStream;

use super::{
    dial, forwarded,
    relay::{self, Far},
    revoke::{Facts, revoked},
};
use crate::{
    l7::{
        io::Io,
        site::{DialError, Dialled, Held},
    },
    redirect::LocalPod,
    report::{ConnInfo, ConnReport, Direction, Event, Flag, Party, Stage},
    run::{tasks, worker::Worker},
    sys::sockopt,
    tunnel::Incoming,
};

mod requests;

pub(super) use requests::asks_for_tokens;

/// Serves one plaintext connection; its local address is what the client asked for.
pub async fn plaintext(worker: Rc<Worker>, pod: Arc<LocalPod>, tcp: TcpStream, client: SocketAddr) {
    let Ok(wanted) = tcp.local_addr() else { return };
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let destination = SocketAddr::new(wanted.ip().to_canonical(), wanted.port());
    let facts = Facts { uid: pod.workload.clone(), peer: None, source_ip: client.ip(), destination };
    if let Some(asked) = requests::asked(&worker, &facts, &tcp).await {
        return requests::serve(&worker, (&pod, facts), asked, (tcp, client)).await;
    }
    let (report, workload) = begin(&worker, &facts, client);
    let Some(permit) = authorize(&worker, &facts, workload.as_ref(), &report) else { return };
    if is_one_too_many(&worker, &facts, workload.as_ref(), &report) {
        return;
    }
    match dial::application(&worker, &pod, permit, client).await {
        Ok(application) => {
            report.opened();
            carry(&worker, Far::Tcp(tcp), application, &facts, &report).await;
        }
        Err(error) => report.fail(Stage::Dial, error),
    }
}

/// As [`local`], as requests have it: cut when policy changes, and with whoever uses it.
pub(super) async fn held(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    facts: Facts,
    client: SocketAddr,
) -> Result<Dialled, DialError> {
    let opened = local(worker, pod, &facts, client).await;
    let (tcp, report) = opened.map_err(|(stage, reason)| match stage {
        Stage::Policy => DialError::Denied(reason),
        _ => DialError::Connect(reason),
    })?;
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
    };
    if is_target(&pod, facts.destination) {
        match requests::tunnelled(&worker, (&pod, &facts), incoming, client).await {
            Some(bytes) => incoming = bytes,
            None => return,
        }
    }
    let (report, workload) = begin(&worker, &facts, client);
    if !is_target(&pod, facts.destination) {
        worker.reporter.count(Event::GarbageTarget);
        report.fail(Stage::Connect, "the CONNECT target is not this pod, or is a port of the mesh itself");
        incoming.reject(StatusCode::BAD_REQUEST);
        return;
    }
    let Some(permit) = authorize(&worker, &facts, workload.as_ref(), &report) else {
        incoming.reject(StatusCode::UNAUTHORIZED);
        return;
    };
    if is_one_too_many(&worker, &facts, workload.as_ref(), &report) {
        return incoming.reject(StatusCode::SERVICE_UNAVAILABLE);
    }
    let dialled = tokio::select! {
        dialled = dial::application(&worker, &pod, permit, client) => dialled,
        () = incoming.gone() => return report.fail(Stage::Connect, "the peer gave up before the application answered"),
    };
    match dialled {
        Ok(application) => match incoming.accept() {
            Ok(stream) => {
                report.opened();
                carry(&worker, Far::Tunnel(stream), application, &facts, &report).await;
            }
            Err(error) => report.fail(Stage::Connect, error),
        },
        Err(error) => {
            report.fail(Stage::Dial, error);
            incoming.reject(StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}

/// Carries what has come through a tunnel and turned out to be no requests, with what was read of it.
async fn bytes(
    worker: &Worker,
    (pod, facts): (&Arc<LocalPod>, &Facts),
    (io, early): (Io, Bytes),
    client: SocketAddr,
) {
    let (report, workload) = begin(worker, facts, client);
    let Some(permit) = authorize(worker, facts, workload.as_ref(), &report) else { return };
    if is_one_too_many(worker, facts, workload.as_ref(), &report) {
        return;
    }
    let application = match dial::application(worker, pod, permit, client).await {
        Ok(application) => application,
        Err(error) => return report.fail(Stage::Dial, error),
    };
    report.opened();
    let (counters, reports) = (report.counters(), [&report]);
    let cut = async {
        tokio::select! {
            () = revoked(worker, facts, &reports) => {}
            () = worker.drain.forced() => report.fail(Stage::Drain, "the node is stopping"),
        }
    };
    let far = Io::Tcp(application);
    let carried = relay::relay_any((io, early), far, counters.relayed(), (std::future::pending(), cut)).await;
    if let Err(error) = carried {
        report.fail(Stage::Relay, error);
    }
}

/// Serves a connection of another pod of this node: the kernel has attested its source, so no tunnel is needed. The
/// client's own connection stays with the caller; this opens the application's side.
pub(super) async fn local(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    facts: &Facts,
    client: SocketAddr,
) -> Result<(TcpStream, ConnReport), (Stage, String)> {
    let (report, workload) = begin(worker, facts, client);
    let Some(permit) = authorize(worker, facts, workload.as_ref(), &report) else {
        return Err((Stage::Policy, "refused by policy at the destination".to_owned()));
    };
    if is_one_too_many(worker, facts, workload.as_ref(), &report) {
        return Err((Stage::Connect, "a limit of connections at the destination is reached".to_owned()));
    }
    match dial::application(worker, pod, permit, client).await {
        Ok(application) => {
            report.opened();
            Ok((application, report))
        }
        Err(error) => {
            report.fail(Stage::Dial, &error);
            Err((Stage::Dial, error.to_string()))
        }
    }
}

fn begin(worker: &Worker, facts: &Facts, client: SocketAddr) -> (ConnReport, Option<Arc<Workload>>) {
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
    match worker.snapshot().policies().authorize(workload, &facts.connection()) {
        Ok(permit) => {
            if let Some(policy) = permit.dry_run_denied() {
                tracing::info!(%policy, client = ?facts.peer, to = %facts.destination, "A dry-run policy would deny.");
            }
            Some(permit)
        }
        Err(denied) => {
            worker.reporter.count(Event::denied(&denied.by));
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

async fn carry(worker: &Worker, far: Far, application: TcpStream, facts: &Facts, report: &ConnReport) {
    let _ = sockopt::set_linger_zero(&application, true);
    let counters = report.counters();
    let reports = [report];
    let cut = async {
        tokio::select! {
            () = revoked(worker, facts, &reports) => {}
            () = worker.drain.forced() => report.fail(Stage::Drain, "the node is stopping"),
        }
    };
    if let Err(error) = relay::relay(application, far, counters.relayed(), cut).await {
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

fn is_target(pod: &LocalPod, wanted: SocketAddr) -> bool {
    let own_port = [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, TUNNEL_PORT].contains(&wanted.port());
    !own_port && pod.ips.contains(&wanted.ip())
}
