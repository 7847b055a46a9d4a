//! What the control plane knows, over HTTP: `/metrics`, `/healthz/ready`, under `/debug` who subscribes, how far
//! everybody is, and what there is to say about the resources, and the mesh page. On loopback by default. Where it is open to
//! others, [`guard`] keeps what names everybody's from them.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_ca::Ca;
use mesh_core::model::{Record, Service};
use mesh_proto::names::ResourceType;
use mesh_proto::protocol;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use self::guard::{Doorkeeper, Refused};
use crate::dashboard::{Dashboard, sync_status};
use crate::hub::{Client, Hub, Stranger};
use crate::listen::{Place, Places};
use crate::metrics::{self, short};
use crate::{process, tasks};

pub mod guard;

/// What is shown.
#[derive(Debug)]
pub struct Debug {
    /// Subscribers and what they are told.
    pub hub: Arc<Hub>,
    /// The certificate authority.
    pub ca: Arc<Ca>,
    /// The mesh page.
    pub dashboard: Arc<Dashboard>,
    /// Requests of the page that are answered at a time: each looks at the whole mesh.
    pub turns: Semaphore,
    /// Who may see what names everybody's.
    pub doorkeeper: Doorkeeper,
}

impl Debug {
    /// Answers for ever: at most [`CONNECTIONS`] at a time, and so many of one machine. This machine has places of its own, so
    /// that nobody can keep its owner out.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let (own, others) = (Places::of(OF_ONE, OF_ONE), Places::of(CONNECTIONS, OF_ONE));
        loop {
            let Ok((io, peer)) = listener.accept().await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let peer = peer.ip().to_canonical();
            let places = if peer.is_loopback() { &own } else { &others };
            let Some(place) = places.take_now(peer) else {
                self.hub.counters.debug_crowded.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%peer, "A connection to the monitoring port is one too many.");
                continue;
            };
            drop(tasks::spawn("monitoring connection", Arc::clone(&self).connection(io, peer, place)));
        }
    }

    /// Answers on one connection, for as long as one may last.
    async fn connection(self: Arc<Self>, io: TcpStream, peer: IpAddr, _place: Place) {
        let service = service_fn(move |request| Arc::clone(&self).reply(peer, request));
        let mut server = hyper::server::conn::http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5));
        let mut connection = pin!(server.serve_connection(TokioIo::new(io), service));
        // A client that goes away has lost nothing.
        let ended = timeout(LIFE, connection.as_mut()).await;
        if ended.is_err() {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(LAST_ANSWER, connection).await;
        }
    }

    async fn reply(
        self: Arc<Self>,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(self.answer(peer, request).await)
    }

    async fn answer<B>(&self, peer: IpAddr, request: Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        let (request, _) = request.into_parts();
        if !Dashboard::serves(request.uri.path()) {
            if let Err(refused) = self.doorkeeper.admit(peer, &request).await {
                self.hub.counters.debug_refused.fetch_add(1, Ordering::Relaxed);
                return refuse(&refused);
            }
            return self.show(request.uri.path());
        }
        let _turn = self.turns.acquire().await;
        let dashboard = Arc::clone(&self.dashboard);
        let answered = tokio::task::spawn_blocking(move || dashboard.answer(peer, &request)).await;
        answered.unwrap_or_else(|error| {
            tracing::error!(%error, "A request of the mesh page could not be answered.");
            text(StatusCode::INTERNAL_SERVER_ERROR, "this could not be answered: see the log\n".to_owned())
        })
    }

    fn show(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/metrics" => text(StatusCode::OK, metrics::render(&self.hub, &self.ca, &self.dashboard.traffic)),
            "/healthz/ready" | "/ready" if self.hub.is_ready() => text(StatusCode::OK, "ready\n".to_owned()),
            "/healthz/ready" | "/ready" => {
                text(StatusCode::SERVICE_UNAVAILABLE, "the sources have not told everything yet\n".to_owned())
            }
            "/version" => text(StatusCode::OK, version()),
            "/debug/registryz" => json(&self.registry()),
            "/debug/subscribers" => json(&self.subscribers()),
            "/debug/syncz" => json(&self.sync()),
            "/debug/findings" => json(&json!(*self.dashboard.findings.lines())),
            "/debug" => text(StatusCode::OK, INDEX.to_owned()),
            _ => text(StatusCode::NOT_FOUND, INDEX.to_owned()),
        }
    }

    /// Services, with the fields of Istio's that tools look at.
    fn registry(&self) -> Value {
        let shelf = self.hub.shelf();
        let services = shelf.store(ResourceType::Address).iter().filter_map(|entry| match &entry.record {
            Record::Service(service) => Some(registered(service)),
            _ => None,
        });
        Value::Array(services.collect())
    }

    fn subscribers(&self) -> Value {
        let sequence = self.hub.shelf().sequence();
        let clients = self.hub.clients();
        let versions = self.versions();
        let told = |one: &Client| {
            let mut told = client(one, sequence);
            told["cluster"] = json!(self.dashboard.cluster);
            told["version"] = json!(versions(one));
            told
        };
        let clients: Vec<_> = clients.iter().map(told).collect();
        let refused: Vec<_> = self.hub.strangers().iter().map(stranger).collect();
        json!({
            "sequence": sequence, "controlPlane": process::host_name(), "protocol": protocol::own(),
            "subscribers": clients, "refused": refused,
        })
    }

    /// How far everybody is, in the form of Istio's control plane.
    fn sync(&self) -> Value {
        let clients = self.hub.clients();
        let versions = self.versions();
        // Tools want one of each; who has said nothing has the control plane's, as a rule.
        let told = |it: &Client| versions(it).unwrap_or_else(version);
        clients.iter().map(|it| synced(it, &self.dashboard.cluster, &told(it))).collect()
    }

    /// The versions that proxies have told.
    fn versions(&self) -> impl Fn(&Client) -> Option<String> {
        let proxies = self.dashboard.traffic.proxies();
        move |client| Some(proxies.get(client.node.as_ref()?)?.version.to_string())
    }
}

/// As Istio's control plane says it, so that Kiali can read it.
fn version() -> String {
    format!("{}-mesh-Clean", env!("CARGO_PKG_VERSION"))
}

fn registered(service: &Service) -> Value {
    let ports = service.ports.iter().map(|port| json!({ "name": port.name.as_deref(), "port": port.number }));
    json!({
        "Attributes": {
            "Name": &*service.name,
            "Namespace": &*service.namespace,
            "ServiceRegistry": if service.entry.as_ref().is_some_and(|entry| entry.external) { "External" } else { "Kubernetes" },
        },
        "hostname": &*service.hostname,
        "clusterVIPs": service.vips.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
    })
}

/// What Istio says of a proxy, which tools compare: what was sent last, and what was answered last. Each kind of Envoy's
/// configuration goes as far as the types that it would be made from; what was never sent is left out, as Istio does.
fn synced(client: &Client, cluster: &str, version: &str) -> Value {
    let sort = client.id.split('~').next().unwrap_or_default();
    let name = name_of(&client.id);
    let mut out = json!({
        "cluster_id": cluster,
        "proxy": name.unwrap_or(&client.id),
        "proxy_type": if name.is_some() { sort } else { "ztunnel" },
        "istio_version": version,
        "proxy_version": version,
    });
    for (kind, types) in MADE_FROM {
        let all = client.types.iter().filter(|(it, ..)| types.contains(it)).map(|(_, progress, _)| progress);
        let sent = all.clone().map(|it| it.sent).min().filter(|sent| *sent > 0);
        let acked = all.map(|it| if it.in_flight == 0 { it.sent } else { it.acknowledged }).min();
        for (what, number) in [("sent", sent), ("acked", acked.filter(|it| *it > 0))] {
            if let Some(number) = number {
                out[format!("{kind}_{what}")] = json!(number.to_string());
            }
        }
    }
    out
}

/// Kinds of Envoy's configuration, and the types of resources that they would be made from.
const MADE_FROM: [(&str, &[ResourceType]); 4] = [
    ("cluster", &[ResourceType::Address]),
    ("endpoint", &[ResourceType::Address]),
    ("listener", &[ResourceType::Mesh, ResourceType::Authorization, ResourceType::LocalPod]),
    ("route", &[ResourceType::Config]),
];

/// Who was sent away, and why.
fn stranger((id, stranger): (&Arc<str>, &Stranger)) -> Value {
    let ago = SystemTime::now().duration_since(stranger.since).unwrap_or_default().as_secs();
    json!({
        "id": &**id, "name": name_of(id).unwrap_or(id), "identity": &*stranger.identity,
        "reason": &*stranger.reason, "lastSeenSeconds": ago,
    })
}

/// The name of a proxy whose id is `SORT~ADDRESS~NAME~DOMAIN`, as Istio's are: a pod's and its namespace.
fn name_of(id: &str) -> Option<&str> {
    id.split('~').nth(2)
}

fn client(client: &Client, sequence: u64) -> Value {
    let types: Vec<Value> = client
        .types
        .iter()
        .map(|(kind, progress, error)| {
            json!({
                "type": short(*kind),
                "status": sync_status(progress, sequence),
                "sent": progress.sent,
                "acknowledged": progress.acknowledged,
                "accepted": progress.accepted,
                "rejected": progress.rejected,
                "lastRejection": error,
            })
        })
        .collect();
    let since = SystemTime::now().duration_since(client.since).unwrap_or_default().as_secs();
    json!({
        "id": &*client.id,
        "name": name_of(&client.id).unwrap_or(&client.id),
        "node": client.node.as_deref(),
        "identity": &*client.identity,
        "address": client.address.map(|address| address.to_string()),
        "connectedSeconds": since,
        "types": types,
    })
}

fn refuse(refused: &Refused) -> Response<Full<Bytes>> {
    let mut response = text(refused.status(), format!("{refused}\n"));
    if refused.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn json(value: &Value) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Connections of others than this machine at a time: metrics are scraped by one or two.
const CONNECTIONS: usize = 64;
/// Connections of one machine at a time: a browser has six.
const OF_ONE: usize = 16;
/// How long a connection may last; its client makes another.
const LIFE: Duration = Duration::from_secs(300);
/// How long the last answer of a connection may take.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// Requests of the page at a time.
pub const TURNS: usize = 4;
const INDEX: &str = "/\n/api/v1/mesh\n/metrics\n/healthz/ready\n/version\n/debug/subscribers\n/debug/syncz\n/debug/registryz\n/debug/findings\n";

#[cfg(test)]
mod tests;
