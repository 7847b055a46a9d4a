//! How much goes to a service at once, with Istio's defaults.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Limits;
use super::rules::Defaults;
use crate::resource::networking::destination_rule as spec;
use crate::resource::networking::destination_rule::H2UpgradePolicy;
use crate::resource::value;

/// Settings of the connections to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionPool {
    /// What [`super::Admission`] counts.
    pub limits: Limits,
    /// How long a connection may take to stand; 10 s.
    pub connect_timeout: Duration,
    /// Probes on idle connections; absent means none.
    pub keepalive: Option<TcpKeepalive>,
    /// How old a connection may become, however busy it is; absent means as old as it likes.
    pub max_connection_duration: Option<Duration>,
    /// How long a TCP connection may be without a byte; absent means for ever. 1 h.
    pub idle_timeout: Option<Duration>,
    /// For requests.
    pub http: HttpPool,
}

/// Probes on idle connections. What is absent is left to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: Option<NonZeroU32>,
    /// Idle time before the first.
    pub time: Option<Duration>,
    /// Between two.
    pub interval: Option<Duration>,
}

/// Settings of HTTP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpPool {
    /// Requests before a connection is closed; absent means any number, 1 that none is kept.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// How long a connection may be without a request; absent means for ever. As [`ConnectionPool::idle_timeout`].
    pub idle_timeout: Option<Duration>,
    /// What is spoken.
    pub upstream: Upstream,
    /// Streams on one HTTP/2 connection; 2^31-1.
    pub max_concurrent_streams: u32,
    /// PING frames; absent means none.
    pub keepalive: Option<Http2KeepAlive>,
}

/// Which version of HTTP is spoken to a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// What its port is declared as.
    #[default]
    Declared,
    /// As [`Self::Declared`], but HTTP/2 where it is declared as HTTP: the mesh's wish, which must not touch ports whose
    /// protocol is guessed.
    UpgradeDeclared,
    /// HTTP/2.
    Upgrade,
    /// What the client speaks.
    Client,
}

/// PING frames of HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2KeepAlive {
    /// Between two.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
}

impl ConnectionPool {
    pub(super) fn new(pool: &spec::ConnectionPool, defaults: &Defaults) -> Self {
        let (no_tcp, no_http) = (spec::TcpPool::default(), spec::HttpPool::default());
        let tcp = pool.tcp.as_ref().unwrap_or(&no_tcp);
        let http = pool.http.as_ref().unwrap_or(&no_http);
        let idle_timeout = tcp.idle_timeout.map_or(Some(IDLE_TIMEOUT), value::DurationOrZero::get);
        let own_keepalive = tcp.tcp_keepalive.as_ref().map(TcpKeepalive::new);
        Self {
            limits: limits(tcp, http),
            connect_timeout: tcp.connect_timeout.map_or(defaults.connect_timeout, value::Duration::get),
            keepalive: own_keepalive.map(|own| own.or(defaults.tcp_keepalive)).or(defaults.tcp_keepalive),
            max_connection_duration: tcp.max_connection_duration.map(value::Duration::get),
            idle_timeout,
            http: HttpPool {
                max_requests_per_connection: http.max_requests_per_connection,
                idle_timeout: http.idle_timeout.map(value::Duration::get).or(idle_timeout),
                upstream: upstream(http, defaults),
                max_concurrent_streams: http.max_concurrent_streams.map_or(MAX_STREAMS, NonZeroU32::get),
                keepalive: http.http2_keep_alive.as_ref().and_then(Http2KeepAlive::new),
            },
        }
    }
}

impl TcpKeepalive {
    pub(super) fn new(keepalive: &spec::TcpKeepalive) -> Self {
        Self {
            probes: NonZeroU32::new(keepalive.probes),
            time: keepalive.time.map(value::Duration::get),
            interval: keepalive.interval.map(value::Duration::get),
        }
    }

    /// What it lacks is taken from `default`, field by field.
    fn or(self, default: Option<Self>) -> Self {
        let default = default.unwrap_or_default();
        Self {
            probes: self.probes.or(default.probes),
            time: self.time.or(default.time),
            interval: self.interval.or(default.interval),
        }
    }
}

impl Http2KeepAlive {
    /// `None` without both, which the parser refuses.
    fn new(keepalive: &spec::Http2KeepAlive) -> Option<Self> {
        Some(Self { interval: keepalive.interval?.get(), timeout: keepalive.timeout?.get() })
    }
}

fn limits(tcp: &spec::TcpPool, http: &spec::HttpPool) -> Limits {
    let limit = |limit: Option<NonZeroU32>| limit.map_or(u32::MAX, NonZeroU32::get);
    Limits {
        connections: limit(tcp.max_connections),
        pending: limit(http.http1_max_pending_requests),
        requests: limit(http.http2_max_requests),
        retries: limit(http.max_retries),
    }
}

fn upstream(http: &spec::HttpPool, defaults: &Defaults) -> Upstream {
    match http.h2_upgrade_policy {
        H2UpgradePolicy::Upgrade => Upstream::Upgrade,
        _ if http.use_client_protocol => Upstream::Client,
        H2UpgradePolicy::Default if defaults.h2_upgrade => Upstream::UpgradeDeclared,
        H2UpgradePolicy::Default | H2UpgradePolicy::DoNotUpgrade => Upstream::Declared,
    }
}

/// Of connections without traffic, Envoy's.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// The largest number that a SETTINGS frame can have there.
const MAX_STREAMS: u32 = 0x7FFF_FFFF;
