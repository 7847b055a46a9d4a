//! A connection of bytes: to an endpoint of the cluster that a rule has chosen, as requests are, and carried there until
//! both ends are done.

use std::future::pending;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_common::TUNNEL_PORT;
use mesh_core::balance::{Affinity, HashInput, hash_key};
use mesh_core::cluster::{Outcome, Resource};
use mesh_core::model::{EndpointId, ServicePort};
use mesh_core::route::ClusterRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::cluster::{Busy, Choice, Cluster, Member, untried};
use super::engine::Engine;
use super::io::Io;
use super::limit;
use super::originate::Speaks;
use super::site::{DialError, Dialled, Facts};
use crate::l4::relay;
use crate::report::{ConnReport, Counters, Flag, Party, Stage};
use crate::run::drain::Drain;

/// A connection of a client, and where it goes.
pub struct Stream {
    /// Its bytes.
    pub io: Io,
    /// What was read of them already.
    pub early: Bytes,
    /// What is known of it.
    pub facts: Facts,
    /// Where it goes.
    pub to: ClusterRef,
    /// The port that the client asked for.
    pub asked: u16,
    /// Whether it is TLS of the mesh's that the endpoint opens: none is added.
    pub sealed: bool,
}

/// A connection to an endpoint.
struct Reached {
    dialled: Dialled,
    member: Rc<Member>,
}

/// Why there is none.
struct Failed {
    stage: Stage,
    flag: Flag,
    reason: String,
}

/// Carries a connection to its end. Says in `report` what becomes of it.
pub async fn carry(engine: &Engine, stream: Stream, report: &ConnReport, drain: &Drain) {
    let Stream { io, early, facts, to, asked, sealed } = stream;
    let speaks = if sealed { Speaks::Sealed } else { Speaks::Bytes };
    let Ok(cluster) = engine.cluster(&to, asked) else {
        let reason = format_args!("a rule sends it to {to}, which is not there");
        return report.fail_as(Stage::Resolve, Flag::NoCluster, reason);
    };
    report.set_service(Arc::clone(&cluster.service));
    report.set_cluster(&cluster.name);
    if let Err(over) = limit::to_service(engine, &cluster.service, &facts) {
        return report.fail_as(Stage::Policy, Flag::RateLimited, over);
    }
    let Ok(_ticket) = cluster.shared.admission.ticket(Resource::Connection) else {
        let reason = "a circuit breaker is open: the limit of connections is reached";
        return report.fail_as(Stage::Resolve, Flag::Overflow, reason);
    };
    let given_up = async {
        match io.socket() {
            Some(socket) => reset_by_client(socket).await,
            None => pending().await,
        }
    };
    let reached = tokio::select! {
        // Boxed: handshakes are large and over soon.
        reached = Box::pin(reach(engine, &cluster, (&facts, speaks), report)) => reached,
        () = given_up => Err(Failed::at(Stage::Connect, "the client gave up")),
    };
    let Reached { dialled: Dialled { io: far, held, .. }, member } = match reached {
        Ok(reached) => reached,
        Err(Failed { stage, flag, reason }) => return report.fail_as(stage, flag, reason),
    };
    let _busy = Busy::new(&member);
    report.opened();
    if let Some(held) = &held {
        held.mirror(report);
    }
    let counters = report.counters();
    let named = cluster.service.ports.get(cluster.port).and_then(ServicePort::named);
    let speaking = named.filter(|_| !sealed).map(|named| report.speaks(named));
    let watched = counters.relayed().watched(speaking.as_ref().map(|it| it as &dyn relay::Watch));
    let cut = async {
        let pool = &cluster.policy.pool;
        tokio::select! {
            () = idle(&counters, pool.idle_timeout) => report.fail(Stage::Relay, "no byte for too long"),
            () = after(pool.max_connection_duration) => report.fail(Stage::Relay, "as old as connections may become"),
            () = drained(drain) => report.fail(Stage::Drain, "its listener is gone, or the process stops"),
        }
    };
    if let Err(error) = relay::relay_any((io, early), far, watched, (pending(), cut)).await {
        report.fail(Stage::Relay, error);
    }
    cluster.record(member.endpoint.id, Outcome::Success, Instant::now());
}

/// Tries endpoints until one answers, each at most once.
async fn reach(
    engine: &Engine,
    cluster: &Rc<Cluster>,
    (facts, speaks): (&Facts, Speaks),
    report: &ConnReport,
) -> Result<Reached, Failed> {
    let hash = affinity(cluster, facts.peer.ip());
    let mut tried: Vec<EndpointId> = Vec::new();
    let found = engine.look_up(cluster, facts.sni.as_deref()).await;
    let mut last = Failed::at(Stage::Resolve, "the service has no endpoint that may be used");
    while tried.len() < MAX_ATTEMPTS {
        let choice = Choice {
            seed: engine.random(),
            hash,
            session: None,
            found: untried(&found, &tried),
            wanted: facts.asked(),
            tried: &tried,
            remote: true,
            now: Instant::now(),
        };
        let member = cluster.pick(&choice).filter(|member| !tried.contains(&member.endpoint.id));
        let Some(member) = member else { break };
        tried.push(member.endpoint.id);
        let workload = member.endpoint.workload.clone();
        report.set_destination(Party {
            addr: member.endpoint.addr,
            identity: workload.as_ref().filter(|it| it.accepts_tunnel()).map(|it| it.identity.clone()),
            workload,
        });
        match engine.dial(cluster, &member, (speaks, None), facts).await {
            Ok(dialled) => {
                if matches!(dialled.io, Io::Tunnel(_)) {
                    report.set_hbone_addr((member.endpoint.addr.ip(), TUNNEL_PORT).into());
                }
                report.set_encrypted(dialled.encrypted);
                report.reached((dialled.io.local(), dialled.io.agreed()));
                cluster.record(member.endpoint.id, Outcome::Connected, Instant::now());
                return Ok(Reached { dialled, member });
            }
            Err(DialError::Denied(reason)) => return Err(Failed::at(Stage::Policy, reason)),
            Err(error) => {
                cluster.record(member.endpoint.id, Outcome::ConnectFailure, Instant::now());
                last = Failed::of(&error);
            }
        }
    }
    Err(last)
}

impl Failed {
    fn at(stage: Stage, reason: impl Into<String>) -> Self {
        Self { stage, flag: stage.flag(), reason: reason.into() }
    }

    fn of(error: &DialError) -> Self {
        let stage = match error {
            DialError::Connect(_) => Stage::Dial,
            DialError::Tls(_) => Stage::Tls,
            DialError::Denied(_) => Stage::Policy,
        };
        Self::at(stage, error.to_string())
    }
}

/// Where the connection belongs, with consistent hashing; there is nothing but an address to go by.
fn affinity(cluster: &Cluster, ip: IpAddr) -> Option<u64> {
    struct Address(IpAddr);
    impl HashInput for Address {
        fn each_header(&self, _: &str, _: &mut dyn FnMut(&[u8])) {}

        fn query(&self) -> Option<&str> {
            None
        }

        fn source_ip(&self) -> Option<IpAddr> {
            Some(self.0)
        }
    }
    match hash_key(cluster.policy.balance.hash_source()?, &Address(ip)) {
        Affinity::Hash(hash) => Some(hash),
        Affinity::None | Affinity::Issue => None,
    }
}

/// Resolves when the client has reset its connection. A client that only ended its direction still waits for answers.
pub async fn reset_by_client(socket: &TcpStream) {
    loop {
        match socket.ready(Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => {}
            _ => return,
        }
    }
}

/// Resolves when no byte has come through for `limit`, give or take a fraction of it.
pub async fn idle(counters: &Counters, limit: Option<Duration>) {
    let Some(limit) = limit else { return pending().await };
    let carried = || (counters.sent.load(Ordering::Relaxed), counters.received.load(Ordering::Relaxed));
    let (mut before, mut quiet) = (carried(), 0);
    while quiet < IDLE_LOOKS {
        tokio::time::sleep(limit / IDLE_LOOKS).await;
        let now = carried();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => pending().await,
    }
}

/// Resolves when the connection has to end: bytes have no good moment for it, so they get all the time there is.
async fn drained(drain: &Drain) {
    let late = async {
        drain.graceful().await;
        tokio::time::sleep(DRAIN_TIME).await;
    };
    tokio::select! {
        () = drain.forced() => {}
        () = late => {}
    }
}

/// Endpoints tried for one connection, the first included.
const MAX_ATTEMPTS: usize = 3;
/// Looks at the counters within the idle timeout.
const IDLE_LOOKS: u32 = 4;
/// What a connection gets once its listener is gone; as Envoy's drain time in Istio.
pub const DRAIN_TIME: Duration = Duration::from_secs(45);
