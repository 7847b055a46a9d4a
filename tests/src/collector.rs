//! A collector of spans and of access logs, for tests: it takes Zipkin's format 2 and OTLP over HTTP at one port, OTLP over gRPC and Envoy's access log service at another,
//! and keeps what comes. What OTLP looks like is written down here once more, so that the mesh's own words are checked by somebody else's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{iter, thread};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

mod logs;

pub use logs::Logged;

/// Takes spans there until the process ends.
///
/// # Errors
/// If it cannot listen.
pub fn serve(http: SocketAddr, grpc: SocketAddr) -> Result<()> {
    let _collector = Collector::at(http, grpc)?;
    loop {
        thread::park();
    }
}

/// A span, whatever it came as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// `zipkin`, `otlp-http` or `otlp-grpc`.
    pub by: String,
    /// In hexadecimal.
    pub trace: String,
    /// In hexadecimal.
    pub id: String,
    /// In hexadecimal; empty where there is none.
    pub parent: String,
    /// `CLIENT` or `SERVER`.
    pub kind: String,
    /// What was asked for.
    pub name: String,
    /// Who tells it.
    pub service: String,
    /// Microseconds.
    pub duration: u64,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Headers of the delivery.
    pub headers: BTreeMap<String, String>,
}

/// The servers, until the process ends.
#[derive(Debug, Clone)]
pub struct Collector {
    http: SocketAddr,
    grpc: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
    logged: logs::Notes,
}

impl Collector {
    /// Starts both on ports of this machine's own.
    ///
    /// # Errors
    /// If they cannot listen.
    pub fn start() -> Result<Self> {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts both there.
    ///
    /// # Errors
    /// If they cannot listen.
    pub fn at(http: SocketAddr, grpc: SocketAddr) -> Result<Self> {
        let (http, grpc) = (listen(http)?, listen(grpc)?);
        let (taken, logged) = (Arc::<Mutex<Vec<Taken>>>::default(), logs::Notes::default());
        let addresses = (http.local_addr()?, grpc.local_addr()?);
        let traces = Traces(Arc::clone(&taken));
        let (records, streams) = (logs::Records(Arc::clone(&logged)), logs::Streams(Arc::clone(&logged)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(grpc)?);
                let server = Server::builder().add_service(traces).add_service(records).add_service(streams);
                server.serve_with_incoming(incoming).await.context("serving")
            })
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let notes = (Arc::clone(&taken), Arc::clone(&logged));
        thread::spawn(move || tokio::task::LocalSet::new().block_on(&runtime, serve_http(http, notes)));
        Ok(Self { http: addresses.0, grpc: addresses.1, taken, logged })
    }

    /// Where Zipkin's format and OTLP over HTTP are taken.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where OTLP over gRPC is taken.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// All that has come.
    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All entries of access logs that have come.
    pub fn logged(&self) -> Vec<Logged> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for entries of access logs that `is` holds for.
    ///
    /// # Errors
    /// If there are not so many in time.
    pub fn wait_logged(&self, count: usize, is: impl Fn(&Logged) -> bool) -> Result<Vec<Logged>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found: Vec<_> = self.logged().into_iter().filter(&is).collect();
            if found.len() >= count {
                return Ok(found);
            }
            if Instant::now() > until {
                bail!("{} entries of {count} have come: {found:#?}; all: {:#?}", found.len(), self.logged());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for spans that `is` holds for.
    ///
    /// # Errors
    /// If there are not so many in time.
    pub fn wait(&self, count: usize, is: impl Fn(&Taken) -> bool) -> Result<Vec<Taken>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found: Vec<_> = self.taken().into_iter().filter(&is).collect();
            if found.len() >= count {
                return Ok(found);
            }
            if Instant::now() > until {
                bail!("{} spans of {count} have come: {found:#?}; others: {:#?}", found.len(), self.taken());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn listen(at: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(at).with_context(|| format!("listening on {at}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// All that has come.
type Notes = (Arc<Mutex<Vec<Taken>>>, logs::Notes);

async fn serve_http(listener: TcpListener, notes: Notes) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let notes = notes.clone();
        let service = service_fn(move |request| answer(request, notes.clone()));
        tokio::task::spawn_local(async move {
            // A client that goes away is no news.
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await;
        });
    }
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    (notes, logged): Notes,
) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let headers = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
    let headers: BTreeMap<_, _> = headers.collect();
    let spans = match parts.uri.path() {
        "/taken" => {
            let all = notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let all = serde_json::to_vec(&all).unwrap_or_default();
            return Ok(http::Response::new(Full::new(all.into())));
        }
        "/logged" => {
            let all = logged.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let all = serde_json::to_vec(&all).unwrap_or_default();
            return Ok(http::Response::new(Full::new(all.into())));
        }
        "/api/v2/spans" => zipkin(&body),
        "/v1/traces" => Export::decode(body).ok().map(|export| export.taken("otlp-http")),
        _ => None,
    };
    let mut answer = http::Response::new(Full::default());
    match spans {
        Some(spans) => {
            let spans = spans.into_iter().map(|span| Taken { headers: headers.clone(), ..span });
            notes.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
            *answer.status_mut() = http::StatusCode::ACCEPTED;
        }
        None => *answer.status_mut() = http::StatusCode::BAD_REQUEST,
    }
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ZipkinSpan {
    trace_id: String,
    id: String,
    #[serde(default)]
    parent_id: String,
    kind: String,
    name: String,
    timestamp: u64,
    duration: u64,
    local_endpoint: ZipkinEndpoint,
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ZipkinEndpoint {
    service_name: String,
    #[serde(default, rename = "ipv4")]
    _ipv4: Option<Ipv4Addr>,
    #[serde(default, rename = "ipv6")]
    _ipv6: Option<std::net::Ipv6Addr>,
}

fn zipkin(body: &[u8]) -> Option<Vec<Taken>> {
    let spans: Vec<ZipkinSpan> = serde_json::from_slice(body).ok()?;
    let taken = spans.into_iter().map(|span| Taken {
        by: "zipkin".to_owned(),
        trace: span.trace_id,
        id: span.id,
        parent: span.parent_id,
        kind: span.kind,
        name: span.name,
        service: span.local_endpoint.service_name,
        duration: if span.timestamp == 0 { 0 } else { span.duration },
        tags: span.tags,
        headers: BTreeMap::new(),
    });
    Some(taken.collect())
}

/// `ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<OtlpSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string_value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct OtlpSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

/// `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct Exported {}

impl Export {
    fn taken(self, by: &str) -> Vec<Taken> {
        let all = self.resource_spans.into_iter().flat_map(|resource| {
            let service = pairs(resource.resource.unwrap_or_default().attributes).remove("service.name");
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.zip(iter::repeat(service.unwrap_or_default()))
        });
        let taken = all.map(|(span, service)| Taken {
            by: by.to_owned(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            kind: match span.kind {
                2 => "SERVER".to_owned(),
                3 => "CLIENT".to_owned(),
                other => other.to_string(),
            },
            name: span.name,
            service,
            duration: span.end.saturating_sub(span.start) / 1_000,
            tags: pairs(span.attributes),
            headers: BTreeMap::new(),
        });
        taken.collect()
    }
}

fn pairs(all: Vec<KeyValue>) -> BTreeMap<String, String> {
    all.into_iter().map(|it| (it.key, it.value.and_then(|it| it.string_value).unwrap_or_default())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[derive(Debug, Clone)]
struct Traces(Arc<Mutex<Vec<Taken>>>);

impl NamedService for Traces {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl UnaryService<Export> for Traces {
    type Response = Exported;
    type Future = BoxFuture<Response<Exported>, Status>;

    fn call(&mut self, request: Request<Export>) -> Self::Future {
        let header =
            |name: &str| request.metadata().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
        let headers: BTreeMap<_, _> =
            ["x-tenant", "b3"].iter().filter_map(|name| Some(((*name).to_owned(), header(name)?))).collect();
        let spans = request.into_inner().taken("otlp-grpc").into_iter();
        let spans = spans.map(|span| Taken { headers: headers.clone(), ..span });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        Box::pin(std::future::ready(Ok(Response::new(Exported {}))))
    }
}

impl Service<http::Request<Body>> for Traces {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let traces = self.clone();
        Box::pin(async move {
            if !request.uri().path().ends_with("/Export") {
                return Ok(Status::unimplemented("there is only one method").into_http());
            }
            let codec = ProstCodec::<Exported, Export>::default();
            Ok(tonic::server::Grpc::new(codec).unary(traces, request).await)
        })
    }
}

/// Spans are sent once a second.
const PATIENCE: Duration = Duration::from_secs(8);
