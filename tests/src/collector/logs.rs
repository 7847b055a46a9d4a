//! Access logs, as OpenTelemetry and Envoy's protocol have them. What they look like is written down here once more, as that of
//! spans is.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use prost::Message;
use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt as _;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{ClientStreamingService, NamedService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{Exported, KeyValue, Resource, hex, pairs};

/// An entry of an access log, whatever it came as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// `otlp`, `http` or `tcp`.
    pub by: String,
    /// What its log is called.
    pub log: String,
    /// Who tells it.
    pub node: String,
    /// The service that that is.
    pub cluster: String,
    /// What it says, if it is a record.
    pub body: String,
    /// What it says of each thing, in the names of its protocol.
    pub says: BTreeMap<String, String>,
    /// In hexadecimal, if it is part of one.
    pub trace: String,
    /// In hexadecimal, if it is part of one.
    pub span: String,
}

/// What has come.
pub(super) type Notes = Arc<Mutex<Vec<Logged>>>;

/// `ExportLogsServiceRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeLogs {
    #[prost(message, repeated, tag = "2")]
    log_records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct LogRecord {
    #[prost(fixed64, tag = "1")]
    time: u64,
    #[prost(message, optional, tag = "5")]
    body: Option<super::AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
    #[prost(bytes = "vec", tag = "9")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    span_id: Vec<u8>,
}

/// `StreamAccessLogsMessage`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Streamed {
    #[prost(message, optional, tag = "1")]
    identifier: Option<Identifier>,
    #[prost(message, optional, tag = "2")]
    http: Option<HttpEntries>,
    #[prost(message, optional, tag = "3")]
    tcp: Option<TcpEntries>,
}

#[derive(Clone, PartialEq, Message)]
struct Identifier {
    #[prost(message, optional, tag = "1")]
    node: Option<Node>,
    #[prost(string, tag = "2")]
    log_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
}

#[derive(Clone, PartialEq, Message)]
struct HttpEntries {
    #[prost(message, repeated, tag = "1")]
    all: Vec<HttpEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct TcpEntries {
    #[prost(message, repeated, tag = "1")]
    all: Vec<TcpEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpEntry {
    #[prost(message, optional, tag = "1")]
    common: Option<Common>,
    #[prost(int32, tag = "2")]
    version: i32,
    #[prost(message, optional, tag = "3")]
    request: Option<HttpRequest>,
    #[prost(message, optional, tag = "4")]
    response: Option<HttpResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct TcpEntry {
    #[prost(message, optional, tag = "1")]
    common: Option<Common>,
    #[prost(message, optional, tag = "2")]
    bytes: Option<Connection>,
}

#[derive(Clone, PartialEq, Message)]
struct Connection {
    #[prost(uint64, tag = "1")]
    received: u64,
    #[prost(uint64, tag = "2")]
    sent: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Common {
    #[prost(message, optional, tag = "2")]
    client: Option<Address>,
    #[prost(message, optional, tag = "4")]
    tls: Option<Tls>,
    #[prost(message, optional, tag = "13")]
    upstream: Option<Address>,
    #[prost(string, tag = "15")]
    cluster: String,
    #[prost(message, optional, tag = "16")]
    flags: Option<Flags>,
    #[prost(string, tag = "18")]
    failure: String,
}

/// Those that a test looks for.
#[derive(Clone, PartialEq, Message)]
struct Flags {
    #[prost(bool, tag = "6")]
    connection_failure: bool,
    #[prost(bool, tag = "9")]
    no_route: bool,
    #[prost(bool, tag = "11")]
    fault_injected: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    socket: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, Message)]
struct SocketAddress {
    #[prost(string, tag = "2")]
    address: String,
    #[prost(uint32, tag = "3")]
    port: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Tls {
    #[prost(message, optional, tag = "5")]
    peer: Option<Certificate>,
}

#[derive(Clone, PartialEq, Message)]
struct Certificate {
    #[prost(message, repeated, tag = "1")]
    names: Vec<AltName>,
}

#[derive(Clone, PartialEq, Message)]
struct AltName {
    #[prost(string, tag = "1")]
    uri: String,
}

#[derive(Clone, PartialEq, Message)]
struct HttpRequest {
    #[prost(int32, tag = "1")]
    method: i32,
    #[prost(string, tag = "2")]
    scheme: String,
    #[prost(string, tag = "3")]
    authority: String,
    #[prost(string, tag = "5")]
    path: String,
    #[prost(string, tag = "6")]
    user_agent: String,
    #[prost(string, tag = "9")]
    id: String,
    #[prost(string, tag = "10")]
    original_path: String,
    #[prost(map = "string, string", tag = "13")]
    headers: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpResponse {
    #[prost(message, optional, tag = "1")]
    code: Option<u32>,
    #[prost(uint64, tag = "3")]
    bytes: u64,
    #[prost(string, tag = "6")]
    details: String,
}

impl Export {
    fn logged(self) -> Vec<Logged> {
        let of_resource = |logs: ResourceLogs| {
            let own = pairs(logs.resource.unwrap_or_default().attributes);
            let own = move |name: &str| own.get(name).cloned().unwrap_or_default();
            let records = logs.scope_logs.into_iter().flat_map(|it| it.log_records);
            records.map(move |record| Logged {
                by: if record.time == 0 { "otlp without a time" } else { "otlp" }.to_owned(),
                log: own("log_name"),
                node: own("node_name"),
                cluster: own("cluster_name"),
                body: record.body.and_then(|it| it.string_value).unwrap_or_default(),
                says: pairs(record.attributes),
                trace: hex(&record.trace_id),
                span: hex(&record.span_id),
            })
        };
        self.resource_logs.into_iter().flat_map(of_resource).collect()
    }
}

impl Streamed {
    fn logged(self) -> Vec<Logged> {
        let identifier = self.identifier.unwrap_or_default();
        let node = identifier.node.unwrap_or_default();
        let entry = |by: &str, says: Vec<(&str, String)>| Logged {
            by: by.to_owned(),
            log: identifier.log_name.clone(),
            node: node.id.clone(),
            cluster: node.cluster.clone(),
            says: says.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            ..Logged::default()
        };
        let http = self.http.unwrap_or_default().all.into_iter().map(|it| entry("http", it.says()));
        let tcp = self.tcp.unwrap_or_default().all.into_iter().map(|it| entry("tcp", it.says()));
        http.chain(tcp).collect()
    }
}

impl HttpEntry {
    fn says(self) -> Vec<(&'static str, String)> {
        let (request, response) = (self.request.unwrap_or_default(), self.response.unwrap_or_default());
        let mut says = self.common.unwrap_or_default().says();
        says.extend([
            ("version", self.version.to_string()),
            ("method", request.method.to_string()),
            ("scheme", request.scheme),
            ("authority", request.authority),
            ("path", request.path),
            ("original_path", request.original_path),
            ("user_agent", request.user_agent),
            ("id", request.id),
            ("headers", format!("{:?}", BTreeMap::from_iter(request.headers))),
            ("code", response.code.unwrap_or_default().to_string()),
            ("bytes", response.bytes.to_string()),
            ("details", response.details),
        ]);
        says
    }
}

impl TcpEntry {
    fn says(self) -> Vec<(&'static str, String)> {
        let bytes = self.bytes.unwrap_or_default();
        let mut says = self.common.unwrap_or_default().says();
        says.extend([("received", bytes.received.to_string()), ("sent", bytes.sent.to_string())]);
        says
    }
}

impl Common {
    fn says(self) -> Vec<(&'static str, String)> {
        let address = |it: Option<Address>| {
            let at = it.unwrap_or_default().socket.unwrap_or_default();
            format!("{}:{}", at.address, at.port)
        };
        let peer = self.tls.unwrap_or_default().peer.unwrap_or_default().names;
        let flags = self.flags.unwrap_or_default();
        let all = [("UF", flags.connection_failure), ("NR", flags.no_route), ("FI", flags.fault_injected)];
        let flags = all.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect::<String>();
        vec![
            ("client", address(self.client)),
            ("upstream", address(self.upstream)),
            ("cluster", self.cluster),
            ("peer", peer.into_iter().map(|it| it.uri).collect()),
            ("flags", flags),
            ("failure", self.failure),
        ]
    }
}

fn note(notes: &Notes, logged: Vec<Logged>) {
    notes.lock().unwrap_or_else(PoisonError::into_inner).extend(logged);
}

/// OpenTelemetry's service.
#[derive(Debug, Clone)]
pub(super) struct Records(pub(super) Notes);

impl NamedService for Records {
    const NAME: &'static str = "opentelemetry.proto.collector.logs.v1.LogsService";
}

impl UnaryService<Export> for Records {
    type Response = Exported;
    type Future = BoxFuture<Response<Exported>, Status>;

    fn call(&mut self, request: Request<Export>) -> Self::Future {
        note(&self.0, request.into_inner().logged());
        Box::pin(std::future::ready(Ok(Response::new(Exported {}))))
    }
}

impl Service<http::Request<Body>> for Records {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let records = self.clone();
        Box::pin(async move {
            if !request.uri().path().ends_with("/Export") {
                return Ok(Status::unimplemented("there is only one method").into_http());
            }
            let codec = ProstCodec::<Exported, Export>::default();
            Ok(tonic::server::Grpc::new(codec).unary(records, request).await)
        })
    }
}

/// Envoy's service.
#[derive(Debug, Clone)]
pub(super) struct Streams(pub(super) Notes);

impl NamedService for Streams {
    const NAME: &'static str = "envoy.service.accesslog.v3.AccessLogService";
}

impl ClientStreamingService<Streamed> for Streams {
    type Response = Exported;
    type Future = BoxFuture<Response<Exported>, Status>;

    fn call(&mut self, request: Request<Streaming<Streamed>>) -> Self::Future {
        let notes = Arc::clone(&self.0);
        Box::pin(async move {
            let mut messages = request.into_inner();
            while let Some(message) = messages.next().await {
                note(&notes, message?.logged());
            }
            Ok(Response::new(Exported {}))
        })
    }
}

impl Service<http::Request<Body>> for Streams {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let streams = self.clone();
        Box::pin(async move {
            if !request.uri().path().ends_with("/StreamAccessLogs") {
                return Ok(Status::unimplemented("there is only one method").into_http());
            }
            let codec = ProstCodec::<Exported, Streamed>::default();
            Ok(tonic::server::Grpc::new(codec).client_streaming(streams, request).await)
        })
    }
}
