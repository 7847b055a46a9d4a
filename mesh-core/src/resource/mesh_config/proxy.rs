//! The message `ProxyConfig`: what proxies are set to. Most of it is about a process per pod, which there is none of.
//!
//! An absent field is inherited, from a pod's annotation to `MeshConfig.defaultConfig` to Istio's default, so absence
//! stays visible: [`ProxyConfig::or`] is how two of them come together.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::networking::destination_rule::{ClientTls, TcpKeepalive};
use super::super::networking::workload::ReadinessProbe;
use super::super::proxy_config::ProxyImage;
use super::super::strict::Invalid;
use super::super::telemetry::CustomTag;
use super::super::value::{Duration, DurationOrZero, Percent, Port};
use super::provider::{Empty, PropagationFormat};

/// What a proxy is set to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// Where Envoy's generated configuration goes.
    pub config_path: Option<String>,
    /// Where Envoy is.
    pub binary_path: Option<String>,
    /// The service that the proxy is of; excludes [`Self::tracing_service_name`].
    pub service_cluster: Option<String>,
    /// What the service is called in spans; absent means [`TracingServiceName::AppLabelAndNamespace`].
    pub tracing_service_name: Option<TracingServiceName>,
    /// How long connections may take to end when a listener goes; absent means 45 s.
    pub drain_duration: Option<Duration>,
    /// Where discovery is, host and port.
    pub discovery_address: Option<String>,
    /// Given up by Istio.
    pub discovery_refresh_delay: Option<Duration>,
    /// Where Zipkin is; given up for [`ProxyTracing`].
    pub zipkin_address: Option<String>,
    /// Where statistics go by StatsD.
    pub statsd_udp_address: Option<String>,
    /// Given up for [`Self::envoy_metrics_service`].
    pub envoy_metrics_service_address: Option<String>,
    /// Where Envoy's admin interface is; absent means 15000.
    pub proxy_admin_port: Option<Port>,
    /// Given up by Istio.
    pub availability_zone: Option<String>,
    /// How proxies speak to the control plane.
    pub control_plane_auth_policy: Option<ControlPlaneAuth>,
    /// A bootstrap to use instead of the generated one.
    pub custom_config_file: Option<String>,
    /// Characters of a statistic's name; absent means 189.
    pub stat_name_length: Option<i32>,
    /// Worker threads, 0 for one per core; absent goes by the CPU limit.
    pub concurrency: Option<u32>,
    /// The template of the bootstrap.
    pub proxy_bootstrap_template_path: Option<String>,
    /// How inbound traffic is captured.
    pub interception_mode: Option<InterceptionMode>,
    /// Spans.
    pub tracing: Option<ProxyTracing>,
    /// Given up by Istio.
    pub sds: Option<Sds>,
    /// Where access logs go by gRPC.
    pub envoy_access_log_service: Option<RemoteService>,
    /// Where statistics go by gRPC.
    pub envoy_metrics_service: Option<RemoteService>,
    /// Variables of the proxy's environment.
    pub proxy_metadata: BTreeMap<String, String>,
    /// Envoy's runtime values.
    pub runtime_values: BTreeMap<String, String>,
    /// Where health and merged metrics are served; absent means 15020.
    pub status_port: Option<Port>,
    /// More labels of metrics.
    pub extra_stat_tags: Vec<String>,
    /// What stands between clients and a gateway.
    pub gateway_topology: Option<Topology>,
    /// How long connections may take to end when the proxy goes; absent means 5 s.
    pub termination_drain_duration: Option<DurationOrZero>,
    /// Which mesh it is; absent means the trust domain.
    pub mesh_id: Option<String>,
    /// When a VM's application is ready.
    pub readiness_probe: Option<ReadinessProbe>,
    /// Which of Envoy's statistics there are.
    pub proxy_stats_matcher: Option<ProxyStatsMatcher>,
    /// Whether a pod's containers wait for the proxy.
    pub hold_application_until_proxy_starts: Option<bool>,
    /// More authorities to trust, PEM.
    pub ca_certificates_pem: Vec<String>,
    /// The proxy's image.
    pub image: Option<ProxyImage>,
    /// Hardware for private keys.
    pub private_key_provider: Option<PrivateKeyProvider>,
    /// Headers that proxies add.
    pub proxy_headers: Option<ProxyHeaders>,
    /// How often access logs are written out; absent means 1 s.
    pub file_flush_interval: Option<Duration>,
    /// How many KiB of access log are written out at once; absent means 64.
    pub file_flush_min_size_kb: Option<u32>,
    /// Whether metrics are compressed.
    pub stats_compression: Option<bool>,
    /// Limits of connections.
    pub connection_settings: Option<ConnectionSettings>,
}

impl ProxyConfig {
    /// What is set here, and for the rest what `base` says: as a pod's annotation goes before `MeshConfig`. A field
    /// counts as a whole, but for `proxyMetadata` and `proxyHeaders`, of which each entry does.
    #[must_use]
    pub fn or(self, base: Self) -> Self {
        let mut proxy_metadata = base.proxy_metadata;
        proxy_metadata.extend(self.proxy_metadata);
        let proxy_headers = match (self.proxy_headers, base.proxy_headers) {
            (Some(headers), Some(base)) => Some(headers.or(base)),
            (headers, base) => headers.or(base),
        };
        // The two name one thing in two ways: the one that is set here goes before both of the base.
        let named = self.service_cluster.is_some() || self.tracing_service_name.is_some();
        Self {
            config_path: self.config_path.or(base.config_path),
            binary_path: self.binary_path.or(base.binary_path),
            service_cluster: self.service_cluster.or(base.service_cluster.filter(|_| !named)),
            tracing_service_name: self.tracing_service_name.or(base.tracing_service_name.filter(|_| !named)),
            drain_duration: self.drain_duration.or(base.drain_duration),
            discovery_address: self.discovery_address.or(base.discovery_address),
            discovery_refresh_delay: self.discovery_refresh_delay.or(base.discovery_refresh_delay),
            zipkin_address: self.zipkin_address.or(base.zipkin_address),
            statsd_udp_address: self.statsd_udp_address.or(base.statsd_udp_address),
            envoy_metrics_service_address: self
                .envoy_metrics_service_address
                .or(base.envoy_metrics_service_address),
            proxy_admin_port: self.proxy_admin_port.or(base.proxy_admin_port),
            availability_zone: self.availability_zone.or(base.availability_zone),
            control_plane_auth_policy: self.control_plane_auth_policy.or(base.control_plane_auth_policy),
            custom_config_file: self.custom_config_file.or(base.custom_config_file),
            stat_name_length: self.stat_name_length.or(base.stat_name_length),
            concurrency: self.concurrency.or(base.concurrency),
            proxy_bootstrap_template_path: self
                .proxy_bootstrap_template_path
                .or(base.proxy_bootstrap_template_path),
            interception_mode: self.interception_mode.or(base.interception_mode),
            tracing: self.tracing.or(base.tracing),
            sds: self.sds.or(base.sds),
            envoy_access_log_service: self.envoy_access_log_service.or(base.envoy_access_log_service),
            envoy_metrics_service: self.envoy_metrics_service.or(base.envoy_metrics_service),
            proxy_metadata,
            runtime_values: given(self.runtime_values, base.runtime_values),
            status_port: self.status_port.or(base.status_port),
            extra_stat_tags: given(self.extra_stat_tags, base.extra_stat_tags),
            gateway_topology: self.gateway_topology.or(base.gateway_topology),
            termination_drain_duration: self.termination_drain_duration.or(base.termination_drain_duration),
            mesh_id: self.mesh_id.or(base.mesh_id),
            readiness_probe: self.readiness_probe.or(base.readiness_probe),
            proxy_stats_matcher: self.proxy_stats_matcher.or(base.proxy_stats_matcher),
            hold_application_until_proxy_starts: self
                .hold_application_until_proxy_starts
                .or(base.hold_application_until_proxy_starts),
            ca_certificates_pem: given(self.ca_certificates_pem, base.ca_certificates_pem),
            image: self.image.or(base.image),
            private_key_provider: self.private_key_provider.or(base.private_key_provider),
            proxy_headers,
            file_flush_interval: self.file_flush_interval.or(base.file_flush_interval),
            file_flush_min_size_kb: self.file_flush_min_size_kb.or(base.file_flush_min_size_kb),
            stats_compression: self.stats_compression.or(base.stats_compression),
            connection_settings: self.connection_settings.or(base.connection_settings),
        }
    }
}

impl ProxyHeaders {
    fn or(self, base: Self) -> Self {
        Self {
            forwarded_client_cert: match self.forwarded_client_cert {
                ForwardClientCert::Undefined => base.forwarded_client_cert,
                given => given,
            },
            set_current_client_cert_details: self
                .set_current_client_cert_details
                .or(base.set_current_client_cert_details),
            request_id: self.request_id.or(base.request_id),
            server: self.server.or(base.server),
            attempt_count: self.attempt_count.or(base.attempt_count),
            envoy_debug_headers: self.envoy_debug_headers.or(base.envoy_debug_headers),
            metadata_exchange_headers: self.metadata_exchange_headers.or(base.metadata_exchange_headers),
            preserve_http1_header_case: self.preserve_http1_header_case.or(base.preserve_http1_header_case),
            x_forwarded_host: self.x_forwarded_host.or(base.x_forwarded_host),
            x_forwarded_port: self.x_forwarded_port.or(base.x_forwarded_port),
        }
    }
}

/// A list or map that is empty is as good as absent.
fn given<T: Default + PartialEq>(ours: T, base: T) -> T {
    if ours == T::default() { base } else { ours }
}

/// What a service is called in spans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TracingServiceName {
    /// Label `app`, or the workload's name, and the namespace.
    #[default]
    AppLabelAndNamespace,
    /// The canonical name.
    CanonicalNameOnly,
    /// The canonical name and the namespace.
    CanonicalNameAndNamespace,
}

/// How proxies speak to the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ControlPlaneAuth {
    /// In plaintext.
    None,
    /// By mTLS.
    MutualTls,
    /// As the mesh does.
    Inherit,
}

/// How inbound traffic is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum InterceptionMode {
    /// By rewriting the destination.
    Redirect,
    /// Without rewriting anything.
    Tproxy,
    /// Not at all.
    None,
}

/// Spans.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyTracing {
    /// Where they go; at most one of the five.
    pub zipkin: Option<TracerAddress>,
    /// Given up by Istio.
    pub lightstep: Option<LightstepTracer>,
    /// Where they go.
    pub datadog: Option<TracerAddress>,
    /// Where they go.
    pub stackdriver: Option<StackdriverTracer>,
    /// Given up by Istio.
    pub open_census_agent: Option<OpenCensusTracer>,
    /// Tags to put on each span.
    pub custom_tags: BTreeMap<String, CustomTag>,
    /// Characters of a path in a span; 0 means 256.
    pub max_path_tag_length: u32,
    /// How many of the requests that nobody has decided about yet are traced; absent means 1 %.
    pub sampling: Option<Percent>,
    /// How the collector is spoken to.
    pub tls_settings: Option<ClientTls>,
    /// Whether Istio's own tags are put on each span; yes.
    pub enable_istio_tags: Option<bool>,
}

/// Where spans go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TracerAddress {
    /// Host and port.
    pub address: String,
}

/// Where spans go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LightstepTracer {
    /// Host and port.
    pub address: String,
    /// Proves who sends.
    pub access_token: Option<super::provider::AccessToken>,
}

/// Google's tracing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StackdriverTracer {
    /// Whether spans are written to the standard output.
    pub debug: bool,
    /// Of a span.
    pub max_number_of_attributes: Option<i64>,
    /// Of a span.
    pub max_number_of_annotations: Option<i64>,
    /// Of a span.
    pub max_number_of_message_events: Option<i64>,
}

/// Where spans go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OpenCensusTracer {
    /// Host and port.
    pub address: String,
    /// The headers that carry a trace.
    pub context: Vec<PropagationFormat>,
}

/// Where certificates come from; given up by Istio.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sds {
    /// Whether by SDS.
    pub enabled: bool,
    /// The token that proves who asks.
    pub k8s_sa_jwt_path: String,
}

/// A service by its address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteService {
    /// Host and port.
    pub address: String,
    /// How it is spoken to.
    pub tls_settings: Option<ClientTls>,
    /// Keepalive of the connection.
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// What stands between clients and a gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Topology {
    /// How many proxies, whose entries of `x-forwarded-for` are believed.
    pub num_trusted_proxies: u32,
    /// What becomes of `x-forwarded-client-cert`; absent means [`ForwardClientCert::SanitizeSet`] at gateways.
    pub forward_client_cert_details: ForwardClientCert,
    /// Whether connections begin with the PROXY protocol.
    pub proxy_protocol: Option<Empty>,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    /// As the kind of proxy has it.
    #[default]
    Undefined,
    /// It is taken away.
    Sanitize,
    /// It stays, if the client proved who it is.
    ForwardOnly,
    /// It stays and gets the client's certificate, if the client proved who it is.
    AppendForward,
    /// It becomes the client's certificate, if the client proved who it is.
    SanitizeSet,
    /// It stays.
    AlwaysForwardOnly,
}

/// Which of Envoy's statistics there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStatsMatcher {
    /// Those that begin so.
    pub inclusion_prefixes: Vec<String>,
    /// Those that end so.
    pub inclusion_suffixes: Vec<String>,
    /// Those that match.
    pub inclusion_regexps: Vec<String>,
}

/// Hardware for private keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPrivateKeyProvider")]
pub enum PrivateKeyProvider {
    /// AVX-512.
    CryptoMb(KeyAcceleration),
    /// `QuickAssist`.
    Qat(KeyAcceleration),
}

/// How hardware for private keys is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyAcceleration {
    /// How long to wait for more work.
    pub poll_delay: Option<Duration>,
    /// Whether to do without where there is none.
    pub fallback: Option<bool>,
}

#[derive(Deserialize)]
struct RawPrivateKeyProvider {
    cryptomb: Option<KeyAcceleration>,
    qat: Option<KeyAcceleration>,
}

impl TryFrom<RawPrivateKeyProvider> for PrivateKeyProvider {
    type Error = Invalid;

    fn try_from(raw: RawPrivateKeyProvider) -> Result<Self, Invalid> {
        match (raw.cryptomb, raw.qat) {
            (Some(it), None) => Ok(Self::CryptoMb(it)),
            (None, Some(it)) => Ok(Self::Qat(it)),
            (Some(_), Some(_)) => Err(Invalid::new("cannot be combined with cryptomb").field("qat")),
            (None, None) => Err(Invalid::new("cryptomb or qat is required")),
        }
    }
}

/// Headers that proxies add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyHeaders {
    /// What becomes of `x-forwarded-client-cert` at workloads.
    pub forwarded_client_cert: ForwardClientCert,
    /// What of the client's certificate goes into it.
    pub set_current_client_cert_details: Option<ClientCertDetails>,
    /// `x-request-id`.
    pub request_id: Option<HeaderOff>,
    /// `server`.
    pub server: Option<ServerHeader>,
    /// `x-envoy-attempt-count`.
    pub attempt_count: Option<HeaderOff>,
    /// `x-envoy-*`.
    pub envoy_debug_headers: Option<HeaderOff>,
    /// `x-envoy-peer-metadata` and its like.
    pub metadata_exchange_headers: Option<MetadataExchangeHeaders>,
    /// Whether HTTP/1.1 headers keep their case.
    pub preserve_http1_header_case: Option<bool>,
    /// `x-forwarded-host`.
    pub x_forwarded_host: Option<HeaderSwitch>,
    /// `x-forwarded-port`.
    pub x_forwarded_port: Option<HeaderSwitch>,
}

/// What of the client's certificate goes into `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClientCertDetails {
    /// The subject.
    pub subject: Option<bool>,
    /// The certificate itself.
    pub cert: Option<bool>,
    /// The whole chain.
    pub chain: Option<bool>,
    /// The DNS names.
    pub dns: Option<bool>,
    /// The URIs, which are what identities are.
    pub uri: Option<bool>,
}

/// A header that can be switched off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeaderOff {
    /// Whether it is off; no.
    pub disabled: Option<bool>,
}

/// A header that can be switched on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeaderSwitch {
    /// Whether it is on; no.
    pub enabled: Option<bool>,
}

/// The header `server`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServerHeader {
    /// Whether it is off; no.
    pub disabled: Option<bool>,
    /// Empty means `istio-envoy`.
    pub value: String,
}

/// Headers by which proxies tell each other who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MetadataExchangeHeaders {
    /// Where they are added.
    pub mode: MetadataExchange,
}

/// Where proxies tell each other who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MetadataExchange {
    /// Everywhere.
    #[default]
    Undefined,
    /// Inside of the mesh.
    InMesh,
}

/// Limits of connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionSettings {
    /// Which limits hold where none is given.
    pub profile: ConnectionProfile,
    /// Bytes buffered of one connection from a client.
    pub listener_per_connection_buffer_limit_bytes: Option<u32>,
    /// Bytes buffered of one connection to an endpoint.
    pub cluster_per_connection_buffer_limit_bytes: Option<u32>,
    /// When a connection without requests is closed; zero never.
    pub http_idle_timeout: Option<DurationOrZero>,
    /// When a connection is closed however busy; zero never.
    pub http_max_connection_duration: Option<DurationOrZero>,
    /// Between the two GOAWAY of a connection that ends.
    pub http_drain_timeout: Option<DurationOrZero>,
    /// How long a request may take to arrive; zero for ever.
    pub http_request_timeout: Option<DurationOrZero>,
    /// How long a request's headers may take to arrive; zero for ever.
    pub http_request_headers_timeout: Option<DurationOrZero>,
    /// How long a stream may be idle; zero for ever.
    pub http_stream_idle_timeout: Option<DurationOrZero>,
    /// How long a stream may take; zero for ever.
    pub http_max_stream_duration: Option<DurationOrZero>,
    /// Streams of one connection.
    pub http_max_concurrent_streams: Option<u32>,
    /// Bytes of one stream's window.
    pub http2_initial_stream_window_size: Option<u32>,
    /// Bytes of one connection's window.
    pub http2_initial_connection_window_size: Option<u32>,
    /// What becomes of headers with `_` in their names.
    pub http_headers_with_underscores_action: HeadersWithUnderscores,
    /// Whether several slashes become one.
    pub http_merge_slashes: Option<bool>,
    /// What becomes of paths with encoded slashes.
    pub http_path_with_escaped_slashes_action: PathWithEscapedSlashes,
    /// Connections of one listener.
    pub listener_connection_limit: Option<u32>,
    /// Connections of all listeners.
    pub global_downstream_connection_limit: Option<u32>,
}

/// Which limits hold where none is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ConnectionProfile {
    /// Those for clients that are trusted.
    #[default]
    Sidecar,
    /// Those for clients that are not.
    Edge,
}

/// What becomes of headers with `_` in their names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum HeadersWithUnderscores {
    /// As the profile has it.
    #[default]
    #[serde(rename = "HEADERS_WITH_UNDERSCORES_UNSPECIFIED")]
    Unspecified,
    /// They pass.
    #[serde(rename = "HEADERS_WITH_UNDERSCORES_ALLOW")]
    Allow,
    /// The request is refused.
    #[serde(rename = "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST")]
    RejectRequest,
    /// They are taken away.
    #[serde(rename = "HEADERS_WITH_UNDERSCORES_DROP_HEADER")]
    DropHeader,
}

/// What becomes of paths with encoded slashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathWithEscapedSlashes {
    /// As the profile has it.
    #[default]
    #[serde(rename = "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED")]
    Unspecified,
    /// They stay as they are.
    KeepUnchanged,
    /// The request is refused.
    RejectRequest,
    /// The client is sent to the decoded path.
    UnescapeAndRedirect,
    /// The decoded path is what counts.
    UnescapeAndForward,
}
