//! How much goes to a service at once, and when an endpoint is left out.

use std::num::NonZeroU32;

use serde::Deserialize;

use super::non_zero;
use crate::resource::value::{Duration, DurationOrZero};

/// How much goes at once. Where more is wanted, requests fail: the circuit breaker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("minProperties" = 1)))]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionPool {
    /// For all connections.
    pub tcp: Option<TcpPool>,
    /// For requests.
    pub http: Option<HttpPool>,
}

/// Limits for connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TcpPool {
    /// To all endpoints together; none means no limit.
    #[serde(deserialize_with = "non_zero")]
    #[cfg_attr(feature = "schema", schemars(with = "u32", range(max = 2_147_483_647)))]
    pub max_connections: Option<NonZeroU32>,
    /// Until a connection stands; absent means what `MeshConfig` says, 10 s if nothing.
    pub connect_timeout: Option<Duration>,
    /// Keep-alive probes; absent means none.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// However busy it is; absent means for ever.
    pub max_connection_duration: Option<Duration>,
    /// Without a byte; zero means for ever, absent 1 h.
    pub idle_timeout: Option<DurationOrZero>,
}

/// Keep-alive probes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead; 0 means what the system says, 9.
    pub probes: u32,
    /// Idle time before the first; absent means what the system says, 2 h.
    pub time: Option<Duration>,
    /// Between two; absent means what the system says, 75 s.
    pub interval: Option<Duration>,
}

/// Limits for requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPool {
    /// Requests that wait for a connection; none means no limit.
    #[serde(deserialize_with = "non_zero")]
    #[cfg_attr(feature = "schema", schemars(with = "u32", range(max = 2_147_483_647)))]
    pub http1_max_pending_requests: Option<NonZeroU32>,
    /// Requests at a time, in any version of HTTP in spite of the name; none means no limit.
    #[serde(deserialize_with = "non_zero")]
    #[cfg_attr(feature = "schema", schemars(with = "u32", range(max = 2_147_483_647)))]
    pub http2_max_requests: Option<NonZeroU32>,
    /// Requests before a connection is closed; none means no limit, 1 switches keep-alive off.
    #[serde(deserialize_with = "non_zero")]
    #[cfg_attr(feature = "schema", schemars(with = "u32", range(max = 2_147_483_647)))]
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// Retries at a time; none means no limit.
    #[serde(deserialize_with = "non_zero")]
    #[cfg_attr(feature = "schema", schemars(with = "u32", range(max = 2_147_483_647)))]
    pub max_retries: Option<NonZeroU32>,
    /// Without a request; absent means what [`TcpPool::idle_timeout`] says, 1 h if nothing.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 becomes HTTP/2 on the way.
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// Whether the destination is spoken to as the client speaks; excludes an upgrade.
    pub use_client_protocol: bool,
    /// Streams on one HTTP/2 connection; none means 2^31-1.
    #[serde(deserialize_with = "non_zero")]
    #[cfg_attr(feature = "schema", schemars(with = "u32", range(max = 2_147_483_647)))]
    pub max_concurrent_streams: Option<NonZeroU32>,
    /// PING frames; absent means none.
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// PING frames of HTTP/2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Http2KeepAlive {
    /// Between two; always there.
    pub interval: Option<Duration>,
    /// For the answer; always there.
    pub timeout: Option<Duration>,
}

/// Whether HTTP/1.1 becomes HTTP/2 on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    /// As `MeshConfig` says, no if it says nothing.
    #[default]
    Default,
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// When an endpoint is left out for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Deprecated by Istio and ignored since.
    pub consecutive_errors: u32,
    /// Whether failures to reach the endpoint count apart from its answers.
    pub split_external_local_origin_errors: bool,
    /// Failures to reach it in a row, if they count apart; absent means 5.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Answers of 502, 503 or 504 in a row; 0 or absent means that they do not count apart.
    pub consecutive_gateway_errors: Option<u32>,
    /// Answers of 500 to 599 in a row; absent means 5, 0 that they do not count.
    pub consecutive_5xx_errors: Option<u32>,
    /// Between two looks; absent means 10 s.
    pub interval: Option<Duration>,
    /// Left out for this long, times how often it has been; absent means 30 s.
    pub base_ejection_time: Option<Duration>,
    /// Share of the endpoints that may be left out, 0..=100; 0 means the default, 10.
    #[cfg_attr(feature = "schema", schemars(range(max = 100)))]
    pub max_ejection_percent: u32,
    /// Below this share of healthy endpoints nothing is left out, 0..=100; 0 never.
    #[cfg_attr(feature = "schema", schemars(range(max = 100)))]
    pub min_health_percent: u32,
    /// Answers that count instead of 500 to 599, 100..=599 each.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 100, max = 599))))]
    pub outlier_detection_http_error_codes: Vec<u16>,
}

/// How many requests may be retries at a time.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Share of all requests, 0..=100; absent means 20.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100)))]
    pub percent: Option<f64>,
    /// But so many always; absent means 3.
    pub min_retry_concurrency: Option<u32>,
    /// Time over which requests are counted; absent means only those that are under way.
    pub budget_interval: Option<DurationOrZero>,
}
