//! Asks endpoints whether they are well, as [`mesh_core::health`] has decided that they are to be asked.
//!
//! Each engine asks for its own client, and as its client: by the same way, under the same policy and with the same TLS as
//! requests. Of the threads of a process whichever finds an endpoint due asks it. Every question has a connection of its
//! own, which circuit breakers do not count; redirects are not followed, and of an answer little is read.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use mesh_core::cluster::{TlsOrigination, TlsPolicy, Trust, Upstream as Wanted};
use mesh_core::health::{Ask, Change, Check, Cover, Question, Serving, question, serving};
use mesh_core::model::{Declared, Endpoint};
use mesh_core::trace::TraceWord;
use tokio::sync::OwnedSemaphorePermit;

use super::cluster::Cluster;
use super::connect::{Way, handshake};
use super::engine::Engine;
use super::h1::{Authority, Framing, Limits, Target};
use super::message::{Piece, RequestHead, ResponseHead, Version, grpc_status};
use super::originate::{Origination, Speaks};
use super::site::Facts;
use super::transfer::Upstream;
use super::up::h1::H1Connection;
use super::up::h2::H2Upstream;
use crate::run::tasks;

/// Asks whoever is due, and says how long to wait for the next; until then at the most.
pub(super) fn ask_those_due(engine: &Rc<Engine>, now: Instant, then: Instant) -> Duration {
    let mut next = then;
    for cluster in engine.checked_clusters() {
        let monitor = &cluster.shared.monitor;
        for question in monitor.due(now, engine.question_places().available_permits()) {
            let asking = Asking { cluster: Rc::clone(&cluster), question, is_over: false };
            // Others may have taken it meanwhile.
            if let Ok(place) = Arc::clone(engine.question_places()).try_acquire_owned() {
                tasks::spawn_local("health check", ask(Rc::clone(engine), asking, place));
            }
        }
        next = monitor.next_due().map_or(next, |due| next.min(due));
    }
    next.saturating_duration_since(now).max(SOON)
}

/// A question that is under way. If it ends without an answer, somebody else may ask.
struct Asking {
    cluster: Rc<Cluster>,
    question: Question,
    is_over: bool,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.is_over {
            self.cluster.shared.monitor.give_back(&self.question);
        }
    }
}

async fn ask(engine: Rc<Engine>, mut asking: Asking, place: OwnedSemaphorePermit) {
    let Asking { cluster, question, .. } = &asking;
    let check = Arc::clone(&question.check);
    // Another thread may know of changes sooner.
    let Some(endpoint) = cluster.endpoint(question.id).cloned() else { return };
    let probe = Probe { engine: &engine, cluster, check: &check, endpoint: asked(&check, &endpoint) };
    let answer = tokio::time::timeout(check.timeout, probe.ask()).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", check.timeout)));
    let answer = answer.map_err(|reason| reason.chars().take(MAX_REASON).collect::<String>());
    drop(place);
    engine.reporter.count_check(answer.is_ok());
    let reason = answer.as_ref().copied().map_err(String::as_str);
    let at = (Instant::now(), engine.random());
    let change = cluster.shared.monitor.record(question, reason, at);
    let (client, name, by) = (engine.client.key(), &cluster.name, &check.by);
    match (change, reason) {
        (Some(Change::LeftOut), Err(reason)) => {
            tracing::info!(%client, cluster = %name, endpoint = %question.id, check = %by, reason, "Left out an endpoint that fails its health check.");
        }
        (Some(_), _) => {
            tracing::info!(%client, cluster = %name, endpoint = %question.id, check = %by, "An endpoint is well again.");
        }
        (None, Err(reason)) => {
            tracing::debug!(%client, cluster = %name, endpoint = %question.id, check = %by, reason, "A health check failed.");
        }
        (None, Ok(())) => {}
    }
    asking.is_over = true;
}

/// Where the question goes.
fn asked(check: &Check, endpoint: &Endpoint) -> Endpoint {
    match check.port {
        Some(port) => Endpoint::new(SocketAddr::new(endpoint.addr.ip(), port), endpoint.workload.clone()),
        None => endpoint.clone(),
    }
}

/// A question on its way.
struct Probe<'a> {
    engine: &'a Engine,
    cluster: &'a Cluster,
    check: &'a Check,
    endpoint: Endpoint,
}

/// What came back.
struct Answer {
    status: StatusCode,
    grpc: Option<u32>,
    body: Bytes,
}

impl Probe<'_> {
    async fn ask(&self) -> Result<(), String> {
        match &self.check.ask {
            Ask::Tcp => self.dial(Speaks::Bytes).await.map(drop),
            Ask::Http { path, host, headers, expected } => {
                let version = if self.speaks_h2() { Version::Http2 } else { Version::Http11 };
                let mut head = self.head(Method::GET, path.as_bytes(), (version, host.as_deref()))?;
                for (name, value) in headers {
                    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
                    let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
                    head.headers.append(name, value);
                }
                let status = self.exchange(&head, None).await?.status.as_u16();
                let is_well = expected.iter().any(|range| range.contains(status));
                if is_well { Ok(()) } else { Err(format!("status {status}")) }
            }
            Ask::Grpc { service } => {
                let body = Bytes::from(question(service));
                let mut head = self.head(Method::POST, GRPC_METHOD, (Version::Http2, None))?;
                head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
                head.framing = Framing::Length(u64::try_from(body.len()).unwrap_or(u64::MAX));
                match self.exchange(&head, Some(body)).await? {
                    Answer { status: StatusCode::OK, grpc: Some(0), body } => match serving(&body) {
                        Some(Serving::Yes) => Ok(()),
                        Some(Serving::No(status)) => Err(format!("it is not SERVING, but {status}")),
                        None => Err("the answer is no message of the health protocol".to_owned()),
                    },
                    Answer { status: StatusCode::OK, grpc: Some(code), .. } => {
                        Err(format!("gRPC status {code}"))
                    }
                    Answer { status, .. } => Err(format!("status {status}, without one of gRPC")),
                }
            }
        }
    }

    /// Whether HTTP/2 is what requests are sent in, at their own port.
    fn speaks_h2(&self) -> bool {
        let own = self.check.port.is_none() && self.check.cover == Cover::AsTraffic;
        own && matches!(
            (self.cluster.policy.pool.http.upstream, self.cluster.declared),
            (Wanted::Upgrade, _) | (_, Declared::Http2) | (Wanted::UpgradeDeclared, Declared::Http)
        )
    }

    fn head(
        &self,
        method: Method,
        path: &[u8],
        (version, host): (Version, Option<&str>),
    ) -> Result<RequestHead, String> {
        let hostname = &self.cluster.service.hostname;
        let authority = match host {
            Some(host) => host.to_owned(),
            // A wildcard is no name, and whoever is asked by a group need not know what the service is called.
            None if self.check.cover != Cover::AsTraffic || hostname.starts_with('*') => {
                self.endpoint.addr.to_string()
            }
            None => hostname.to_string(),
        };
        let wrong = |_| format!("{authority} is no host");
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        Ok(RequestHead {
            method,
            secure: matches!(self.way().0, TlsPolicy::Originate(_)),
            authority: Some(Authority::parse(authority.clone().into()).map_err(wrong)?),
            target: Target::origin(Bytes::copy_from_slice(path))
                .map_err(|_| "the path is none".to_owned())?,
            client: None,
            version,
            headers,
            framing: Framing::None,
            upgrade: None,
            expects_continue: false,
            claims: None,
            trace: TraceWord::Nothing,
        })
    }

    /// The TLS that covers it; without a state, one that is made for it.
    fn way(&self) -> (TlsPolicy, Option<&Origination>) {
        match self.check.cover {
            Cover::AsTraffic => (self.cluster.policy.tls.clone(), Some(&self.cluster.origination)),
            Cover::Plain => (TlsPolicy::Disable, None),
            Cover::Anybody => {
                let anybody = TlsOrigination {
                    certificate: None,
                    trust: Trust::Anybody,
                    crl: None,
                    sni: None,
                    subject_alt_names: Arc::default(),
                };
                (TlsPolicy::Originate(Box::new(anybody)), None)
            }
        }
    }

    async fn dial(&self, speaks: Speaks) -> Result<super::site::Dialled, String> {
        let (tls, origination) = self.way();
        let own = Origination::default();
        let way = Way { endpoint: &self.endpoint, tls: (&tls, origination.unwrap_or(&own)), probes: true };
        let dialled = self.engine.open(self.cluster, way, (speaks, None), &self.facts()).await;
        dialled.map_err(|error| error.to_string())
    }

    /// Of the client itself: nobody has asked it.
    fn facts(&self) -> Facts {
        let to = self.endpoint.addr;
        let workload = self.engine.client_workload();
        let mut ips = workload.iter().flat_map(|workload| &workload.ips);
        let none: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let own = ips.find(|ip| ip.is_ipv4() == to.is_ipv4()).copied().unwrap_or(none);
        Facts::stranger(SocketAddr::new(own, 0), Some(to))
    }

    async fn exchange(&self, head: &RequestHead, body: Option<Bytes>) -> Result<Answer, String> {
        let broken = |error: super::message::Broken| error.to_string();
        if head.version == Version::Http2 {
            let dialled = self.dial(Speaks::Http2).await?;
            let (sender, _watch) = handshake(dialled, None).await.map_err(broken)?;
            let mut sender = sender.ready().await.map_err(|error| error.to_string())?;
            let upstream = H2Upstream::begin(&mut sender, head).map_err(broken)?;
            return answer(upstream, body).await.map_err(broken);
        }
        let dialled = self.dial(Speaks::Http1).await?;
        let link = dialled.link();
        let connection = H1Connection::new(dialled.io, link, dialled.held);
        let upstream = connection.begin(head, Limits::default()).map_err(broken)?;
        answer(upstream, body).await.map_err(broken)
    }
}

/// Sends the rest of a request; of the answer, the body is read only if the request had one.
async fn answer(mut upstream: impl Upstream, body: Option<Bytes>) -> Result<Answer, super::message::Broken> {
    let reads = body.is_some();
    if let Some(body) = body {
        upstream.push(body)?;
    }
    upstream.end(None)?;
    poll_fn(|cx| upstream.poll_flush(cx)).await?;
    let mut head: ResponseHead;
    let mut interim = 0;
    loop {
        head = poll_fn(|cx| upstream.poll_head(cx)).await?;
        interim += 1;
        if !head.status.is_informational() || interim > MAX_INTERIM {
            break;
        }
    }
    let mut answer = Answer { status: head.status, grpc: grpc_status(&head.headers), body: Bytes::new() };
    let mut heard = BytesMut::new();
    while reads && answer.grpc.is_none() {
        match poll_fn(|cx| upstream.poll_piece(cx)).await? {
            Piece::Data(data) if heard.len() + data.len() > MAX_ANSWER => {
                return Err(super::message::Broken::TooLong);
            }
            Piece::Data(data) => heard.extend_from_slice(&data),
            Piece::End(trailers) => {
                answer.grpc = trailers.as_ref().and_then(grpc_status);
                break;
            }
        }
    }
    answer.body = heard.freeze();
    Ok(answer)
}

/// Who finds no place for its question tries again after that.
const SOON: Duration = Duration::from_millis(20);
/// Interim answers that are skipped.
const MAX_INTERIM: u32 = 16;
/// Bytes of the body of an answer: a few would do.
const MAX_ANSWER: usize = 4 << 10;
/// Letters of a reason that are kept and logged.
const MAX_REASON: usize = 200;
const GRPC_METHOD: &[u8] = b"/grpc.health.v1.Health/Check";
const USER_AGENT: &str = "mesh-health-check";
