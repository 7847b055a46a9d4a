//! One connection of a client, as it comes through a tunnel: to a service, or to a workload.

use std::future::pending;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use mesh_core::http::xfcc;
use mesh_core::id::SpiffeId;
use mesh_core::model::{Declared, Endpoint, Service, ServicePort, Snapshot, Target, Workload};
use mesh_core::policy::{Denied, Notes, Seen};
use mesh_core::route::StreamView;

use super::Waypoint;
use super::rules::{WaypointSite, own_cluster};
use crate::gateway::identity_of;
use crate::l4::{inbound::client_of, relay};
use crate::l7::authorize::refusal;
use crate::l7::io::Io;
use crate::l7::serve::{Connection, connection};
use crate::l7::site::{DialError, Dialled, Facts, Tls};
use crate::l7::{limit, outbox, sniff, stream};
use crate::report::{ConnInfo, ConnReport, Direction, Event, Party, Passage, Stage, Told};
use crate::tunnel::Incoming;

/// A connection, and where it goes.
struct Call {
    waypoint: Rc<Waypoint>,
    snapshot: Arc<Snapshot>,
    facts: Facts,
    /// What the client asked for.
    wanted: SocketAddr,
}

/// Serves one stream of a tunnel.
pub(super) async fn serve(waypoint: Rc<Waypoint>, mut incoming: Incoming, tunnel_peer: SocketAddr) {
    let wanted = incoming.authority;
    let found = tokio::select! {
        found = waypoint.find(wanted) => found,
        () = incoming.gone() => return,
    };
    let Some((snapshot, target)) = found else {
        let reason = format_args!("{wanted} is nothing that is bound to this waypoint");
        waypoint.refuse(tunnel_peer, Some(Event::GarbageTarget), &reason);
        return incoming.reject(StatusCode::BAD_REQUEST);
    };
    let client = client_of(&incoming, tunnel_peer);
    let mut facts = facts(&snapshot, (client, wanted), &incoming);
    let own = identity_of(&waypoint.thread.own.borrow(), &snapshot);
    facts.certificate = own.as_ref().map(|own| xfcc::caller(own, &incoming.peer.id).into());
    facts.tls = tls(&incoming, own);
    let _held = match limit::at_door(&waypoint.engine, &facts) {
        Ok(held) => held,
        Err(over) => {
            waypoint.refuse(tunnel_peer, None, &over);
            return incoming.reject(StatusCode::SERVICE_UNAVAILABLE);
        }
    };
    // If the client has gone meanwhile, nobody is waiting.
    let Ok(stream) = incoming.accept() else { return };
    let io = Io::from(stream);
    let call = Call { waypoint, snapshot, facts, wanted };
    match target {
        Target::Service { service, port } => call.reach_service(io, (&service, port)).await,
        Target::Workload { workload, addr } => call.reach_workload(io, workload, addr).await,
        // Nothing else is bound to a waypoint.
        _ => {}
    }
}

impl Waypoint {
    /// What `wanted` is, if it is bound to this waypoint. Nodes may know that a little sooner.
    async fn find(&self, wanted: SocketAddr) -> Option<(Arc<Snapshot>, Target)> {
        let mut snapshots = self.thread.snapshots.clone();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let target = snapshot.resolve(wanted);
            if target.waypoint().is_some_and(|waypoint| waypoint.is(&self.rules.own)) {
                return Some((snapshot, target));
            }
            if tokio::time::timeout_at(deadline, snapshots.changed()).await.is_err() {
                return None;
            }
        }
    }
}

/// The peer is whom its certificate names; the address tells which of the workloads with that identity it is.
fn facts(snapshot: &Snapshot, (client, wanted): (SocketAddr, SocketAddr), incoming: &Incoming) -> Facts {
    let id = incoming.peer.id.clone();
    let source = snapshot.workload_by_ip(client.ip()).filter(|workload| workload.identity == id).cloned();
    Facts { source, identity: Some(id), ..Facts::stranger(client, Some(wanted)) }
}

fn tls(incoming: &Incoming, own: Option<SpiffeId>) -> Tls {
    Tls { agreed: incoming.peer.agreed, leaf: incoming.peer.proof.leaf(), own }
}

impl Call {
    async fn reach_service(self, mut io: Io, (service, port): (&Arc<Service>, usize)) {
        let mut input = BytesMut::new();
        let asks = self.waypoint.rules.asks_for_tokens(&self.waypoint.engine, service);
        // Whoever begins late must not get past those who ask for tokens.
        let patience = if asks { sniff::FOREVER } else { sniff::patience(&self.snapshot) };
        let declared = service.ports.get(port).map_or(Declared::Tcp, ServicePort::declared);
        let Self { waypoint, facts, .. } = &self;
        let number = service.ports.get(port).map_or(0, |port| port.number);
        let tables = waypoint.rules.tables(&self.snapshot, (service, number), facts.source.as_ref());
        let may_be_tls = matches!(declared, Declared::Tls | Declared::Nothing);
        let wanted = sniff::Wanted {
            request: declared == Declared::Nothing,
            name: may_be_tls
                && (tables.streams.as_ref().is_some_and(|rules| rules.asks_for_names())
                    || !waypoint.rules.gate(&self.snapshot, Some(service)).is_empty()),
            surely_tls: declared == Declared::Tls,
        };
        let begins = sniff::read_beginning(&mut io, &mut input, wanted, patience).await;
        let is_http =
            matches!(declared, Declared::Http | Declared::Http2) || begins == sniff::Beginning::Request;
        if is_http {
            let source = facts.source.clone();
            let site = Rc::new(WaypointSite::new(Rc::clone(waypoint), (service, port), source));
            let connected = Connection { io, input, facts: facts.clone(), site, protocol: None };
            let (engine, drain) = (Rc::clone(&waypoint.engine), waypoint.thread.drain.clone());
            return connection(engine, connected, drain).await;
        }
        let name = begins.name();
        let told = waypoint.rules.told(&waypoint.engine, Some(service));
        let report = self.report(name, told);
        if self.is_denied(Some(service), name, &report) {
            return;
        }
        let view = StreamView { server_name: name, destination: self.wanted.ip() };
        let to = match tables.streams.as_ref().and_then(|rules| rules.pick(&view)) {
            Some(route) => route.forward.choose(waypoint.engine.random()).to.clone(),
            None => own_cluster(service, port),
        };
        let early = input.freeze();
        let stream = stream::Stream { io, early, facts: facts.clone(), to, asked: number, sealed: false };
        let carried = stream::carry(&waypoint.engine, stream, &report, &waypoint.thread.drain);
        tokio::select! {
            () = carried => {}
            () = self.revoked(Some(service), name, &report) => {}
        }
    }

    /// Whether policy refuses a connection of bytes, of which TLS may have told `name`; `report` says so then.
    fn is_denied(&self, service: Option<&Service>, name: Option<&str>, report: &ConnReport) -> bool {
        match self.decide(service, name) {
            Ok(notes) => {
                self.waypoint.thread.reporter.noted(&notes, &self.facts.peer, &self.wanted);
                false
            }
            Err(denied) => {
                self.waypoint.thread.reporter.denied(&denied, refusal(&self.facts, &denied));
                report.denied(&denied, &denied);
                true
            }
        }
    }

    fn decide(&self, service: Option<&Service>, name: Option<&str>) -> Result<Notes, Denied> {
        let snapshot = self.waypoint.engine.snapshot();
        let seen = (Seen::Bytes { server_name: name }, &[][..]);
        self.waypoint.rules.decide((&snapshot, service), (&self.facts, self.wanted), seen).strict()
    }

    /// Resolves when policy refuses what it has let through before.
    async fn revoked(&self, service: Option<&Service>, name: Option<&str>, report: &ConnReport) {
        let mut snapshots = self.waypoint.thread.snapshots.clone();
        loop {
            snapshots.borrow_and_update();
            if let Err(denied) = self.decide(service, name) {
                self.waypoint.thread.reporter.count(Event::DeniedLater);
                return report.denied(&denied, format_args!("cut after a policy change: {denied}"));
            }
            if snapshots.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Rules are about services; what is sent to a workload by its address is carried there.
    async fn reach_workload(self, io: Io, workload: Arc<Workload>, addr: SocketAddr) {
        let report = self.report(None, self.waypoint.rules.told(&self.waypoint.engine, None));
        if self.is_denied(None, None, &report) {
            return;
        }
        let (client, drain) = (&self.waypoint.client, &self.waypoint.thread.drain);
        report.set_destination(Party {
            addr,
            identity: Some(workload.identity.clone()).filter(|_| workload.accepts_tunnel()),
            workload: Some(Arc::clone(&workload)),
        });
        let endpoint = Endpoint::new(addr, Some(Arc::clone(&workload)));
        let target = Target::Workload { workload, addr };
        let Dialled { io: far, encrypted, .. } = match client.reach(&self.snapshot, &endpoint, &target).await
        {
            Ok(dialled) => dialled,
            Err(error) => {
                let stage = match error {
                    DialError::Connect(_) => Stage::Dial,
                    DialError::Tls(_) => Stage::Tls,
                    DialError::Denied(_) => Stage::Policy,
                };
                return report.fail(stage, error);
            }
        };
        report.set_encrypted(encrypted);
        report.reached((far.local(), far.agreed()));
        report.opened();
        let counters = report.counters();
        let cut = async {
            tokio::select! {
                () = drain.forced() => report.fail(Stage::Drain, "the waypoint is stopping"),
                () = self.revoked(None, None, &report) => {}
            }
        };
        let carried = relay::relay_any((io, Bytes::new()), far, counters.relayed(), (pending(), cut)).await;
        if let Err(error) = carried {
            report.fail(Stage::Relay, error);
        }
    }

    fn report(&self, server_name: Option<&str>, told: Arc<Told>) -> ConnReport {
        let Facts { peer, source, identity, .. } = &self.facts;
        let report = self.waypoint.thread.reporter.begin(ConnInfo {
            direction: Direction::Through,
            source: Party { addr: *peer, identity: identity.clone(), workload: source.clone() },
            destination: Party::unknown(self.wanted),
            hbone_addr: None,
            service: None,
            pseudo_service: None,
            encrypted: false,
            datagrams: false,
        });
        let passage = Passage::new(self.wanted, server_name.map(Arc::from));
        report.passes(passage.secured(self.facts.tls.clone()));
        outbox::tell(&self.waypoint.engine, &report, told);
        report
    }
}

/// How long a connection waits for the configuration to say that what it is for is bound to this waypoint.
const PATIENCE: Duration = Duration::from_secs(2);
