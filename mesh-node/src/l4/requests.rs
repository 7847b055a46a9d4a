//! HTTP that pods send: where rules are about requests, connections are opened up on the client's node, as a sidecar
//! would, and everything else stays bytes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mesh_common::TUNNEL_PORT;
use mesh_core::cluster::{self, ClusterPolicy, Destination, Rules};
use mesh_core::model::{Declared, Service, ServiceKey, ServicePort, Snapshot, Target, Workload};
use mesh_core::route::{self, ClusterRef, Route, RouteTable};
use tokio::net::TcpStream;

use super::revoke::{Facts, revoked};
use super::{dial, forwarded, inbound};
use crate::hbone::{ConnectRequest, TunnelKey};
use crate::l7::engine::Engine;
use crate::l7::io::Io;
use crate::l7::serve::{Connection, connection};
use crate::l7::site::{self, Client, Dial, DialError, Dialled, Held, LocalBoxFuture, Site};
use crate::redirect::LocalPod;
use crate::run::{tasks, worker::Worker};
use crate::sys::sockopt;

/// What a data thread has for the requests of one pod.
pub struct PodRequests {
    engine: Rc<Engine>,
    rules: RefCell<HashMap<(Arc<ServiceKey>, u16), Compiled>>,
}

/// The rules of one port of a service, as one version of the configuration has them.
#[derive(Clone)]
struct Compiled {
    generation: u64,
    /// What they are compiled for: the client's labels may change.
    workload: Option<Arc<Workload>>,
    table: Option<Arc<RouteTable>>,
    /// Whether requests have to be told apart at all.
    needed: bool,
}

impl PodRequests {
    fn new(worker: &Rc<Worker>, pod: &Arc<LocalPod>) -> Rc<Self> {
        let client = PodClient { worker: Rc::downgrade(worker), pod: pod.clone(), key: pod.workload.clone() };
        let engine = Engine::new(
            Rc::new(client),
            worker.reporter.clone(),
            worker.shared.clone(),
            worker.snapshots(),
            worker.random(),
        );
        Rc::new(Self { engine, rules: RefCell::default() })
    }

    /// What the pod's requests to a port of a service are judged by.
    fn compiled(&self, snapshot: &Snapshot, service: &Service, port: usize) -> Compiled {
        let number = service.ports.get(port).map_or(0, |port| port.number);
        let key = (Arc::new(service.key()), number);
        let generation = snapshot.config_generation();
        let workload = self.engine.client.workload(snapshot);
        let same = |known: &Compiled| {
            let labels = |it: &Option<Arc<Workload>>| it.as_ref().map(|it| it.labels.clone());
            known.generation == generation
                && (same_object(known.workload.as_ref(), workload.as_ref())
                    || labels(&known.workload) == labels(&workload))
        };
        if let Some(known) = self.rules.borrow().get(&key).filter(|known| same(known)) {
            return known.clone();
        }
        let compiled = compile(snapshot, workload, service, number);
        self.rules.borrow_mut().insert(key, compiled.clone());
        compiled
    }
}

fn same_object(one: Option<&Arc<Workload>>, other: Option<&Arc<Workload>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

fn compile(snapshot: &Snapshot, workload: Option<Arc<Workload>>, service: &Service, number: u16) -> Compiled {
    let none = std::collections::BTreeMap::new();
    let namespace: Arc<str> = workload.as_ref().map_or_else(|| "".into(), |it| it.namespace.clone());
    let labels = workload.as_ref().map_or(&none, |it| &it.labels);
    let client = route::Client { namespace: &namespace, labels };
    let table = RouteTable::for_service(snapshot.virtuals(), client, number, &service.hostname);
    let client = cluster::Client { namespace: &namespace, labels };
    let destination = Destination::new(&service.namespace, &service.hostname, number);
    let plain = |rules: &Rules| {
        let policy = cluster::resolve(rules, &client, &destination, None).ok()?;
        Some(ClusterPolicy { rules: Vec::new(), ..policy })
    };
    let shaped = plain(snapshot.rules()) != plain(&Rules::new(Arc::new(snapshot.rules().defaults().clone())));
    Compiled {
        generation: snapshot.config_generation(),
        needed: table.is_some() || shaped,
        workload,
        table: table.map(Arc::new),
    }
}

/// What a connection turns out to be.
pub(super) enum Kind {
    /// Bytes.
    Bytes(TcpStream),
    /// Requests, to be served with these rules.
    Requests(TcpStream, Rc<PodRequests>),
}

/// Decides whether a connection to `service.ports[port]` carries requests that rules are about.
pub(super) async fn classify(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    snapshot: &Snapshot,
    (service, port): (&Arc<Service>, usize),
    tcp: TcpStream,
) -> Kind {
    let declared = service.ports.get(port).map_or(Declared::Tcp, ServicePort::declared);
    if matches!(declared, Declared::Tcp | Declared::Tls) || snapshot.configs().next().is_none() {
        return Kind::Bytes(tcp);
    }
    let requests = worker.requests(pod, || PodRequests::new(worker, pod));
    if !requests.compiled(snapshot, service, port).needed {
        return Kind::Bytes(tcp);
    }
    if declared == Declared::Nothing && !begins_like_http(&tcp).await {
        return Kind::Bytes(tcp);
    }
    Kind::Requests(tcp, requests)
}

/// Looks at the first bytes of a connection without taking them. Silence is no HTTP: the server may speak first.
async fn begins_like_http(tcp: &TcpStream) -> bool {
    let mut first = [0; 24];
    let looked = tokio::time::timeout(SNIFF, async {
        loop {
            let seen = tcp.peek(&mut first).await.unwrap_or(0);
            let bytes = first.get(..seen).unwrap_or_default();
            if let Some(verdict) = is_http(bytes) {
                return verdict;
            }
            if seen == 0 {
                return false;
            }
            // More may be on its way; peeking again at once would spin.
            tokio::time::sleep(SNIFF_PAUSE).await;
        }
    });
    looked.await.unwrap_or(false)
}

/// Whether bytes begin a request; `None` if that is open yet.
fn is_http(bytes: &[u8]) -> Option<bool> {
    let end = bytes.iter().position(|byte| *byte == b' ');
    let method = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    if method.len() > LONGEST_METHOD || !method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
    {
        return Some(false);
    }
    end.map(|end| end > 0)
}

/// Serves the requests of one connection.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    requests: Rc<PodRequests>,
    source: &Arc<Workload>,
    (service, port): (Arc<Service>, usize),
    (tcp, client, wanted): (TcpStream, SocketAddr, SocketAddr),
) {
    let number = service.ports.get(port).map_or(0, |port| port.number);
    let host = Arc::clone(&service.hostname);
    let fallback = Arc::new(Route::to(ClusterRef { host, subset: None, port: Some(number) }));
    let engine = Rc::clone(&requests.engine);
    let site = Rc::new(ServiceSite { requests, key: service.key(), number, fallback });
    let facts = site::Facts {
        peer: client,
        local: Some(wanted),
        sni: None,
        secure: false,
        source: Some(Arc::clone(source)),
        identity: Some(source.identity.clone()),
        certificate: None,
        forwarded_for: std::cell::OnceCell::new(),
    };
    let served = Connection { io: Io::Tcp(tcp), input: BytesMut::new(), facts, site, protocol: None };
    connection(engine, served, worker.drain.clone()).await;
}

/// The port of a service that a connection was made to.
struct ServiceSite {
    requests: Rc<PodRequests>,
    key: ServiceKey,
    number: u16,
    fallback: Arc<Route>,
}

impl Site for ServiceSite {
    fn routes(&self) -> Option<Arc<RouteTable>> {
        let snapshot = self.requests.engine.snapshot();
        let service = snapshot.service(&self.key)?;
        let port = service.ports.iter().position(|port| port.number == self.number)?;
        self.requests.compiled(&snapshot, service, port).table
    }

    fn fallback(&self) -> Option<Arc<Route>> {
        Some(Arc::clone(&self.fallback))
    }

    fn port(&self) -> u16 {
        self.number
    }

    fn is_edge(&self) -> bool {
        false
    }
}

/// A pod of this node, as whom requests are sent on.
struct PodClient {
    worker: Weak<Worker>,
    pod: Arc<LocalPod>,
    key: Arc<str>,
}

impl Client for PodClient {
    fn key(&self) -> &Arc<str> {
        &self.key
    }

    fn workload(&self, snapshot: &Snapshot) -> Option<Arc<Workload>> {
        snapshot.workload_by_uid(&self.key).cloned()
    }

    fn dial<'a>(&'a self, to: &'a Dial<'a>) -> LocalBoxFuture<'a, Result<Dialled, DialError>> {
        Box::pin(self.open(to))
    }
}

impl PodClient {
    async fn open(&self, to: &Dial<'_>) -> Result<Dialled, DialError> {
        let gone = || DialError::Connect("the node is stopping".to_owned());
        let worker = self.worker.upgrade().ok_or_else(gone)?;
        let source = self.workload(to.snapshot);
        let source =
            source.ok_or_else(|| DialError::Denied("the pod is not in the configuration".to_owned()))?;
        let addr = to.endpoint.addr;
        match &to.endpoint.workload {
            Some(workload) if workload.accepts_tunnel() => match worker.local_pod(&workload.uid) {
                Some(pod) => self.open_local(&worker, &source, &pod, addr).await,
                None => self.open_tunnel(&worker, &source, workload, addr).await,
            },
            _ => {
                let (service, port) = to.service;
                let target = Target::Service { service: Arc::clone(service), port };
                let permit = to.snapshot.permit_egress(&source, addr, &target);
                let permit = permit.map_err(|denied| DialError::Denied(denied.to_string()))?;
                let tcp = dial::outside(&worker, &self.pod, permit).await;
                let tcp = tcp.map_err(|error| DialError::Connect(error.to_string()))?;
                Ok(Dialled { io: Io::Tcp(tcp), encrypted: false, held: None })
            }
        }
    }

    fn own_address(&self, to: SocketAddr) -> SocketAddr {
        let own = self.pod.ips.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).or(self.pod.ips.first());
        SocketAddr::new(own.copied().unwrap_or_else(|| to.ip()), 0)
    }

    /// Same node: as a connection of bytes, and cut like one when policy changes.
    async fn open_local(
        &self,
        worker: &Rc<Worker>,
        source: &Arc<Workload>,
        pod: &Arc<LocalPod>,
        to: SocketAddr,
    ) -> Result<Dialled, DialError> {
        let client = self.own_address(to);
        let facts = Facts {
            uid: pod.workload.clone(),
            peer: Some(source.identity.clone()),
            source_ip: client.ip(),
            destination: to,
        };
        let opened = inbound::local(worker, pod, &facts, client).await;
        let (tcp, report) = opened.map_err(|(stage, reason)| match stage {
            crate::report::Stage::Policy => DialError::Denied(reason),
            _ => DialError::Connect(reason),
        })?;
        let cut = sockopt::duplicate(&tcp).map_err(|error| DialError::Connect(error.to_string()))?;
        let watcher = Rc::downgrade(worker);
        let watch = tasks::spawn_local("revocation", async move {
            let Some(worker) = watcher.upgrade() else { return };
            let reports = [&report];
            tokio::select! {
                () = revoked(&worker, &facts, &reports) => {}
                () = worker.drain.forced() => {}
            }
            let _ = cut.shutdown(std::net::Shutdown::Both);
        });
        Ok(Dialled { io: Io::Tcp(tcp), encrypted: true, held: Some(Held::new(watch)) })
    }

    /// Another node: a stream of a tunnel from this pod to that one.
    async fn open_tunnel(
        &self,
        worker: &Rc<Worker>,
        source: &Arc<Workload>,
        workload: &Arc<Workload>,
        to: SocketAddr,
    ) -> Result<Dialled, DialError> {
        let svid = worker.svid(&source.identity).await.map_err(DialError::Tls)?;
        let address = SocketAddr::new(to.ip(), TUNNEL_PORT);
        let key = TunnelKey {
            source_pod: self.pod.workload.clone(),
            source: source.identity.clone(),
            destination: workload.identity.clone(),
            address,
        };
        let forwarded = forwarded::value(self.own_address(to));
        let request = ConnectRequest { forwarded, ..ConnectRequest::new(to) };
        let dial = async || dial::tunnel(worker, &self.pod, address).await;
        let stream = worker.pool.open(&key, dial, svid, &request).await?;
        Ok(Dialled { io: stream.into(), encrypted: true, held: None })
    }
}

/// How long the first bytes of a connection are waited for where nothing says what it speaks.
const SNIFF: Duration = Duration::from_millis(200);
const SNIFF_PAUSE: Duration = Duration::from_millis(5);
/// The longest method that is looked for.
const LONGEST_METHOD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_bytes_by_their_beginning() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1"[..], Some(true)),
            (b"PRI * HTTP/2.0", Some(true)),
            (b"GE", None),
            (b"", None),
            (b"\x16\x03\x01", Some(false)),
            (b"get / ", Some(false)),
            (b" /", Some(false)),
            (b"AVERYLONGWORDTHATISNOMETHOD", Some(false)),
        ] {
            assert_eq!(is_http(bytes), expected, "{bytes:?}");
        }
    }
}
