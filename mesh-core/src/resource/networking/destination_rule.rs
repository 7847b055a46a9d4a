//! `DestinationRule.spec`: how a service is talked to once a route has chosen it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer};

pub use self::load_balancer::{
    Balance, ConsistentHash, CookieAttribute, Distribute, Failover, HashAlgorithm, HashKey, HttpCookie,
    LoadBalancer, LocalityLbSetting, Maglev, RingHash, SimpleLb, Warmup, ZoneAwareLbSetting,
};
pub use self::pool::{
    ConnectionPool, H2UpgradePolicy, Http2KeepAlive, HttpPool, OutlierDetection, RetryBudget, TcpKeepalive,
    TcpPool,
};
use super::PortSelector;
use crate::resource::security::WorkloadSelector;
use crate::resource::value::{self, ExportTo, Host, Port};

mod load_balancer;
mod pool;

/// `DestinationRule.spec`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// The services it is for; a short name is one of the rule's namespace.
    pub host: Host,
    /// For all subsets, as far as they do not say otherwise; never without any field.
    #[serde(default)]
    pub traffic_policy: Option<TrafficPolicy>,
    /// Parts of the service that routes can name. Names are unique.
    #[serde(default)]
    pub subsets: Vec<Subset>,
    /// Who sees it.
    #[serde(default)]
    pub export_to: Vec<ExportTo>,
    /// Clients it is for, in its own namespace; absent means all that see it.
    #[serde(default)]
    pub workload_selector: Option<WorkloadSelector>,
}

/// A part of a service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["name"])))]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// A DNS label.
    pub name: String,
    /// Labels of its endpoints; all must be equal, empty means all of them.
    pub labels: BTreeMap<String, String>,
    /// Replaces the blocks of the rule's own policy that it has, and inherits the others.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// How a service is talked to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("minProperties" = 1)))]
#[cfg_attr(feature = "schema", schemars(extend("not" = {"required": ["tunnel", "proxyProtocol"]})))]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// Which endpoint is chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// How much goes at once.
    pub connection_pool: Option<ConnectionPool>,
    /// When an endpoint is left out for a while. Present but empty switches it on with defaults.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards it; absent means that the mesh decides.
    pub tls: Option<ClientTls>,
    /// For single ports. Of the four blocks that it can have, those it lacks are at their defaults for that port and
    /// not inherited.
    #[cfg_attr(feature = "schema", schemars(length(max = 4096)))]
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// Sends TCP and TLS through a proxy; excludes [`TrafficPolicy::proxy_protocol`].
    pub tunnel: Option<Tunnel>,
    /// Tells the endpoint who the client is.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How many requests may be retries at a time.
    pub retry_budget: Option<RetryBudget>,
}

/// A policy for a port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct PortTrafficPolicy {
    /// Port of the service; always there.
    pub port: Option<PortSelector>,
    /// Which endpoint is chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// How much goes at once.
    pub connection_pool: Option<ConnectionPool>,
    /// When an endpoint is left out for a while.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards it.
    pub tls: Option<ClientTls>,
}

/// TLS towards a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Absent means [`ClientTlsMode::Disable`].
    pub mode: ClientTlsMode,
    /// File of the client's certificate, for MUTUAL.
    pub client_certificate: String,
    /// File of its key, for MUTUAL.
    pub private_key: String,
    /// File of the authorities that the server must be certified by; empty means those of the system.
    pub ca_certificates: String,
    /// A Secret that has all of the above, or `configmap://` with authorities only.
    pub credential_name: String,
    /// Names of which the server's certificate must have one; none means the name that is asked for.
    pub subject_alt_names: Vec<String>,
    /// Server name to ask for; empty means the host.
    pub sni: String,
    /// Whether to take any certificate; absent means no.
    pub insecure_skip_verify: Option<bool>,
    /// File of revoked certificates.
    pub ca_crl: String,
}

/// How a client does TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    /// Not at all.
    #[default]
    Disable,
    /// It verifies the server.
    Simple,
    /// It also has a certificate of its own.
    Mutual,
    /// With its identity in the mesh.
    IstioMutual,
}

/// Sends connections through a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    /// The method that asks for it.
    #[serde(default)]
    pub protocol: TunnelProtocol,
    /// Where the proxy is asked to connect to; no wildcard.
    pub target_host: Host,
    /// And on which port.
    pub target_port: Port,
}

/// The method that asks for a [`Tunnel`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TunnelProtocol {
    /// `CONNECT`.
    #[default]
    Connect,
    /// `POST`.
    Post,
}

/// The PROXY protocol, which tells the endpoint who the client is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    /// Absent means the first.
    pub version: ProxyProtocolVersion,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ProxyProtocolVersion {
    /// A line of text.
    #[default]
    V1,
    /// Binary.
    V2,
}

impl TrafficPolicy {
    /// Whether nothing is given, not even an empty block.
    pub fn is_empty(&self) -> bool {
        let blocks = self.load_balancer.is_none() && self.connection_pool.is_none() && self.tls.is_none();
        let rest = self.tunnel.is_none() && self.proxy_protocol.is_none() && self.retry_budget.is_none();
        blocks && rest && self.outlier_detection.is_none() && self.port_level_settings.is_empty()
    }
}

impl PortTrafficPolicy {
    /// Whether nothing but the port is given.
    pub fn is_empty(&self) -> bool {
        self.load_balancer.is_none()
            && self.connection_pool.is_none()
            && self.outlier_detection.is_none()
            && self.tls.is_none()
    }
}

/// A number that Istio takes for "unset" if it is 0.
fn non_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    let fits = u32::try_from(number).ok().filter(|number| i32::try_from(*number).is_ok());
    fits.map(NonZeroU32::new).ok_or_else(|| {
        let reason = format!("{number} is out of range (0 to {})", i32::MAX);
        value::Refusal::new(reason).into_error()
    })
}
