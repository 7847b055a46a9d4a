//! Providers as users write them: a message with one field per kind, of which one is there.

use serde::Deserialize;

use super::super::super::strict::Invalid;
use super::super::super::value::Port;
use super::{
    AccessToken, Empty, ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider, FileAccessLog, GrpcAccessLog,
    HttpHeaderValue, OpenCensusProvider, OpenTelemetryAccessLog, OpenTelemetryTracing, ProviderKind,
    SdsProvider, StackdriverProvider, TracingCollector, ZipkinProvider,
};

/// See [`ExtensionProvider`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Provider {
    #[serde(default)]
    name: String,
    envoy_ext_authz_http: Option<ExtAuthzHttp>,
    envoy_ext_authz_grpc: Option<ExtAuthzGrpc>,
    zipkin: Option<ZipkinProvider>,
    lightstep: Option<Lightstep>,
    datadog: Option<Datadog>,
    stackdriver: Option<StackdriverProvider>,
    opencensus: Option<OpenCensusProvider>,
    skywalking: Option<SkyWalking>,
    opentelemetry: Option<Box<OpenTelemetryTracing>>,
    prometheus: Option<Empty>,
    envoy_file_access_log: Option<FileAccessLog>,
    envoy_http_als: Option<HttpLog>,
    envoy_tcp_als: Option<TcpLog>,
    envoy_otel_als: Option<OpenTelemetryAccessLog>,
    sds: Option<SdsProvider>,
}

impl TryFrom<Provider> for ExtensionProvider {
    type Error = Invalid;

    fn try_from(raw: Provider) -> Result<Self, Invalid> {
        if raw.name.is_empty() {
            return Err(Invalid::new("name is required, but missing or empty"));
        }
        let mut kinds = [
            raw.envoy_ext_authz_http.map(ProviderKind::ExtAuthzHttp),
            raw.envoy_ext_authz_grpc.map(ProviderKind::ExtAuthzGrpc),
            raw.zipkin.map(ProviderKind::Zipkin),
            raw.lightstep.map(|it| ProviderKind::Lightstep(it.into())),
            raw.datadog.map(|it| ProviderKind::Datadog(it.into())),
            raw.stackdriver.map(ProviderKind::Stackdriver),
            raw.opencensus.map(ProviderKind::OpenCensus),
            raw.skywalking.map(|it| ProviderKind::SkyWalking(it.into())),
            raw.opentelemetry.map(ProviderKind::OpenTelemetry),
            raw.prometheus.map(|_| ProviderKind::Prometheus),
            raw.envoy_file_access_log.map(ProviderKind::FileAccessLog),
            raw.envoy_http_als.map(|it| ProviderKind::HttpAccessLog(it.into())),
            raw.envoy_tcp_als.map(|it| ProviderKind::TcpAccessLog(it.into())),
            raw.envoy_otel_als.map(ProviderKind::OpenTelemetryAccessLog),
            raw.sds.map(ProviderKind::Sds),
        ]
        .into_iter()
        .flatten();
        match (kinds.next(), kinds.next()) {
            (Some(kind), None) => Ok(Self { name: raw.name, kind }),
            (Some(_), Some(_)) => {
                Err(Invalid::new("is more than one kind of provider").hint("give each a name of its own"))
            }
            (None, _) => {
                let hint = "for example envoyExtAuthzGrpc, opentelemetry or envoyFileAccessLog";
                Err(Invalid::new("does not say what kind of provider it is").hint(hint))
            }
        }
    }
}

/// See [`super::HttpHeader`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HttpHeader {
    name: String,
    value: Option<String>,
    env_name: Option<String>,
}

impl TryFrom<HttpHeader> for super::HttpHeader {
    type Error = Invalid;

    fn try_from(raw: HttpHeader) -> Result<Self, Invalid> {
        let value = match (raw.value, raw.env_name) {
            (Some(value), None) => HttpHeaderValue::Text(value),
            (None, Some(name)) => HttpHeaderValue::Variable(name),
            (Some(_), Some(_)) => return Err(Invalid::new("cannot be combined with value").field("envName")),
            (None, None) => return Err(Invalid::new("value or envName is required")),
        };
        if raw.name.is_empty() {
            return Err(Invalid::new("must not be empty").field("name"));
        }
        Ok(Self { name: raw.name, value })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lightstep {
    service: String,
    port: Port,
    access_token: Option<AccessToken>,
    #[serde(default)]
    max_tag_length: u32,
}

impl From<Lightstep> for TracingCollector {
    fn from(raw: Lightstep) -> Self {
        let Lightstep { service, port, access_token, max_tag_length } = raw;
        Self { service, port, access_token, max_tag_length }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Datadog {
    service: String,
    port: Port,
    #[serde(default)]
    max_tag_length: u32,
}

impl From<Datadog> for TracingCollector {
    fn from(Datadog { service, port, max_tag_length }: Datadog) -> Self {
        Self { service, port, access_token: None, max_tag_length }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SkyWalking {
    service: String,
    port: Port,
    access_token: Option<AccessToken>,
}

impl From<SkyWalking> for TracingCollector {
    fn from(SkyWalking { service, port, access_token }: SkyWalking) -> Self {
        Self { service, port, access_token, max_tag_length: 0 }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpLog {
    service: String,
    port: Port,
    #[serde(default)]
    log_name: String,
    #[serde(default)]
    filter_state_objects_to_log: Vec<String>,
    #[serde(default)]
    additional_request_headers_to_log: Vec<String>,
    #[serde(default)]
    additional_response_headers_to_log: Vec<String>,
    #[serde(default)]
    additional_response_trailers_to_log: Vec<String>,
}

impl From<HttpLog> for GrpcAccessLog {
    fn from(raw: HttpLog) -> Self {
        Self {
            service: raw.service,
            port: raw.port,
            log_name: raw.log_name,
            filter_state_objects_to_log: raw.filter_state_objects_to_log,
            additional_request_headers_to_log: raw.additional_request_headers_to_log,
            additional_response_headers_to_log: raw.additional_response_headers_to_log,
            additional_response_trailers_to_log: raw.additional_response_trailers_to_log,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TcpLog {
    service: String,
    port: Port,
    #[serde(default)]
    log_name: String,
    #[serde(default)]
    filter_state_objects_to_log: Vec<String>,
}

impl From<TcpLog> for GrpcAccessLog {
    fn from(TcpLog { service, port, log_name, filter_state_objects_to_log }: TcpLog) -> Self {
        Self {
            service,
            port,
            log_name,
            filter_state_objects_to_log,
            additional_request_headers_to_log: Vec::new(),
            additional_response_headers_to_log: Vec::new(),
            additional_response_trailers_to_log: Vec::new(),
        }
    }
}
