//! `extensionProviders`: the services that policies and Telemetry refer to by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::super::value::{Duration, Port};

mod raw;

/// A service that others refer to by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "raw::Provider")]
pub struct ExtensionProvider {
    /// Its name, unique in a mesh.
    pub name: String,
    /// What it is.
    pub kind: ProviderKind,
}

/// What a provider is, by the field it is written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderKind {
    /// `envoyExtAuthzHttp`: an authorizer that is asked with the request itself.
    ExtAuthzHttp(ExtAuthzHttp),
    /// `envoyExtAuthzGrpc`: an authorizer that is asked by Envoy's protocol.
    ExtAuthzGrpc(ExtAuthzGrpc),
    /// `zipkin`.
    Zipkin(ZipkinProvider),
    /// `lightstep`; Istio sends OpenTelemetry instead.
    Lightstep(TracingCollector),
    /// `datadog`.
    Datadog(TracingCollector),
    /// `stackdriver`.
    Stackdriver(StackdriverProvider),
    /// `opencensus`; given up by Istio.
    OpenCensus(OpenCensusProvider),
    /// `skywalking`.
    SkyWalking(TracingCollector),
    /// `opentelemetry`: spans.
    OpenTelemetry(Box<OpenTelemetryTracing>),
    /// `prometheus`: metrics that are fetched from the proxy.
    Prometheus,
    /// `envoyFileAccessLog`: access logs to a file or stream.
    FileAccessLog(FileAccessLog),
    /// `envoyHttpAls`: access logs of HTTP to a gRPC service.
    HttpAccessLog(GrpcAccessLog),
    /// `envoyTcpAls`: access logs of TCP to a gRPC service.
    TcpAccessLog(GrpcAccessLog),
    /// `envoyOtelAls`: access logs as OpenTelemetry.
    OpenTelemetryAccessLog(OpenTelemetryAccessLog),
    /// `sds`: a source of certificates.
    Sds(SdsProvider),
}

/// An authorizer that is asked with the request itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtAuthzHttp {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
    /// How long to wait; absent means 600 s.
    pub timeout: Option<Duration>,
    /// Goes before the request's path.
    #[serde(default)]
    pub path_prefix: String,
    /// Whether requests pass when it cannot be asked; no.
    #[serde(default)]
    pub fail_open: bool,
    /// Whether the route is chosen again after it has changed headers.
    #[serde(default)]
    pub clear_route_cache: bool,
    /// The HTTP status when it cannot be asked; empty means 403.
    #[serde(default)]
    pub status_on_error: String,
    /// The older name of [`Self::include_request_headers_in_check`].
    #[serde(default)]
    pub include_headers_in_check: Vec<String>,
    /// The request's headers that it gets to see, exact, `prefix*` or `*suffix`.
    #[serde(default)]
    pub include_request_headers_in_check: Vec<String>,
    /// Headers to put on what it is asked.
    #[serde(default)]
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    /// The part of the body that it gets to see; absent means none.
    pub include_request_body_in_check: Option<RequestBody>,
    /// Its headers that go on to the workload if it allows.
    #[serde(default)]
    pub headers_to_upstream_on_allow: Vec<String>,
    /// Its headers that go back to the client if it denies.
    #[serde(default)]
    pub headers_to_downstream_on_deny: Vec<String>,
    /// Its headers that go back to the client if it allows.
    #[serde(default)]
    pub headers_to_downstream_on_allow: Vec<String>,
}

/// An authorizer that is asked by Envoy's protocol.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtAuthzGrpc {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
    /// How long to wait; absent means 600 s.
    pub timeout: Option<Duration>,
    /// Whether requests pass when it cannot be asked; no.
    #[serde(default)]
    pub fail_open: bool,
    /// Whether the route is chosen again after it has changed headers.
    #[serde(default)]
    pub clear_route_cache: bool,
    /// The HTTP status when it cannot be asked; empty means 403.
    #[serde(default)]
    pub status_on_error: String,
    /// The part of the body that it gets to see; absent means none.
    pub include_request_body_in_check: Option<RequestBody>,
}

/// How much of a request's body an authorizer gets to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestBody {
    /// At most so many bytes.
    pub max_request_bytes: u32,
    /// Whether longer ones are cut rather than refused with 413.
    pub allow_partial_message: bool,
    /// Whether it is handed over as bytes, not as a string.
    pub pack_as_bytes: bool,
}

/// A Zipkin collector.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZipkinProvider {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
    /// Characters of a tag; 0 means 256.
    #[serde(default)]
    pub max_tag_length: u32,
    /// Whether trace ids have 64 bits, not 128.
    #[serde(default)]
    pub enable_64bit_trace_id: bool,
    /// Of the collector; empty means `/api/v2/spans`.
    #[serde(default)]
    pub path: String,
    /// The headers that carry a trace.
    #[serde(default)]
    pub trace_context_option: ZipkinContext,
    /// How long to wait; absent means 5 s.
    pub timeout: Option<Duration>,
    /// To send along.
    #[serde(default)]
    pub headers: Vec<HttpHeader>,
}

/// The headers that carry a Zipkin trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum ZipkinContext {
    /// B3.
    #[default]
    #[serde(rename = "USE_B3")]
    B3,
    /// B3, and W3C's where a request has no other.
    #[serde(rename = "USE_B3_WITH_W3C_PROPAGATION")]
    B3WithW3c,
}

/// A collector of spans that is little more than an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracingCollector {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
    /// Proves who sends.
    pub access_token: Option<AccessToken>,
    /// Characters of a tag; 0 means 256.
    pub max_tag_length: u32,
}

/// A secret that proves who sends. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct AccessToken(String);

impl AccessToken {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Google's tracing and logging.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StackdriverProvider {
    /// Whether spans are written to the standard output.
    pub debug: bool,
    /// Of a span.
    pub max_number_of_attributes: Option<i64>,
    /// Of a span.
    pub max_number_of_annotations: Option<i64>,
    /// Of a span.
    pub max_number_of_message_events: Option<i64>,
    /// Characters of a tag; 0 means 256.
    pub max_tag_length: u32,
    /// What goes into a log entry.
    pub logging: Option<StackdriverLogging>,
}

/// What goes into an entry of Google's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StackdriverLogging {
    /// Labels, their values CEL expressions.
    pub labels: BTreeMap<String, String>,
}

/// An OpenCensus agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenCensusProvider {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
    /// The headers that carry a trace.
    #[serde(default)]
    pub context: Vec<PropagationFormat>,
    /// Characters of a tag; 0 means 256.
    #[serde(default)]
    pub max_tag_length: u32,
}

/// The headers that carry a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "they are the names of the formats")]
pub enum PropagationFormat {
    Unspecified,
    #[serde(rename = "W3C_TRACE_CONTEXT")]
    W3cTraceContext,
    GrpcBin,
    CloudTraceContext,
    B3,
}

/// An OpenTelemetry collector of spans.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenTelemetryTracing {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
    /// Characters of a tag; 0 means 256.
    #[serde(default)]
    pub max_tag_length: u32,
    /// Speaks OTLP over HTTP; excludes [`Self::grpc`].
    pub http: Option<HttpService>,
    /// Speaks OTLP over gRPC, which absence of both means as well.
    pub grpc: Option<GrpcService>,
    /// Adds what is known about where the proxy runs.
    #[serde(default)]
    pub resource_detectors: ResourceDetectors,
    /// What the service is called in a span.
    #[serde(default)]
    pub service_attribute_enrichment: ServiceAttributeEnrichment,
    /// Decides about requests that nobody has decided about yet; absent means by share.
    #[serde(rename = "dynatraceSampler")]
    pub sampler: Option<OpenTelemetrySampler>,
}

/// Dynatrace's way to sample.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenTelemetrySampler {
    /// Who pays.
    pub tenant: String,
    /// Where it runs.
    pub cluster_id: i32,
    /// How many; 0 means 1000.
    #[serde(default)]
    pub root_spans_per_minute: u32,
    /// Where its settings come from; absent means where spans go.
    pub http_service: Option<DynatraceApi>,
}

/// Where the settings of a sampler come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DynatraceApi {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
    /// How it is spoken to.
    pub http: HttpService,
}

/// How a service is spoken to over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HttpService {
    /// For example `/v1/traces`.
    pub path: String,
    /// How long to wait; absent means as long as a connection may take.
    pub timeout: Option<Duration>,
    /// To send along.
    pub headers: Vec<HttpHeader>,
}

/// How a service is spoken to over gRPC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcService {
    /// How long to wait; absent means for ever.
    pub timeout: Option<Duration>,
    /// To send along.
    pub initial_metadata: Vec<HttpHeader>,
}

/// A header to send along.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "raw::HttpHeader")]
pub struct HttpHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: HttpHeaderValue,
}

/// Where a header's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpHeaderValue {
    /// It is this.
    Text(String),
    /// It is that of this variable of the proxy's environment.
    Variable(String),
}

/// What is known about where the proxy runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ResourceDetectors {
    /// From `OTEL_RESOURCE_ATTRIBUTES`.
    pub environment: Option<Empty>,
    /// From Dynatrace's files.
    pub dynatrace: Option<Empty>,
}

/// A message without fields, of which only presence counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Empty {}

/// What a service is called in a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServiceAttributeEnrichment {
    /// By Istio's canonical name.
    #[default]
    IstioCanonical,
    /// By OpenTelemetry's rules for Kubernetes.
    OtelSemanticConventions,
}

/// Access logs to a file or stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileAccessLog {
    /// For example `/dev/stdout`.
    pub path: String,
    /// Of a line; absent means `MeshConfig`'s.
    pub log_format: Option<LogFormat>,
    /// Whether fields without a value are left out of JSON.
    pub omit_empty_values: bool,
}

/// The format of an access-log line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LogFormat {
    /// A line of text; for OpenTelemetry, the body.
    pub text: Option<String>,
    /// JSON; for OpenTelemetry, attributes, which go together with a body.
    pub labels: Option<BTreeMap<String, Value>>,
}

/// Access logs to a gRPC service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcAccessLog {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
    /// What the log is called; empty means what the proxy calls it.
    pub log_name: String,
    /// Envoy's filter state to add.
    pub filter_state_objects_to_log: Vec<String>,
    /// Request headers to add; only for HTTP.
    pub additional_request_headers_to_log: Vec<String>,
    /// Response headers to add; only for HTTP.
    pub additional_response_headers_to_log: Vec<String>,
    /// Response trailers to add; only for HTTP.
    pub additional_response_trailers_to_log: Vec<String>,
}

/// Access logs as OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenTelemetryAccessLog {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
    /// What the log is called; empty means `otel_envoy_accesslog`.
    #[serde(default)]
    pub log_name: String,
    /// Of an entry.
    pub log_format: Option<LogFormat>,
}

/// A source of certificates.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SdsProvider {
    /// What credentials of it begin with.
    pub name: String,
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Of the service.
    pub port: Port,
}
