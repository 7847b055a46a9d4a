//! Which endpoint is chosen.

use std::collections::BTreeMap;

use serde::Deserialize;

#[cfg(feature = "schema")]
use crate::resource::schema::at_most_one;

use crate::resource::value::{Duration, DurationOrZero};

/// Which endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("oneOf" = at_most_one(&["simple", "consistentHash"]))))]
#[cfg_attr(feature = "schema", schemars(extend("not" = {"required": ["localityLbSetting", "zoneAwareLbSetting"]})))]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// Without regard to the request. [`LoadBalancer::balance`] has this and the next as one.
    pub simple: Option<SimpleLb>,
    /// By something of the request, so that equal requests meet the same endpoint.
    pub consistent_hash: Option<ConsistentHash>,
    /// Preference for near endpoints; absent means that of `MeshConfig`.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// Even spread over zones; excludes [`LoadBalancer::locality_lb_setting`].
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// The older form of [`Warmup::duration`].
    pub warmup_duration_secs: Option<Duration>,
    /// Gives new endpoints less at first.
    pub warmup: Option<Warmup>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance<'a> {
    /// The less busy of two drawn by lot.
    LeastRequest,
    /// By lot.
    Random,
    /// In turn.
    RoundRobin,
    /// The address that the client asked for.
    Passthrough,
    /// By a hash of something of the request.
    Hash(&'a ConsistentHash),
}

/// A way of choosing without regard to the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// As [`SimpleLb::LeastRequest`].
    #[default]
    Unspecified,
    /// The older name of [`SimpleLb::LeastRequest`].
    LeastConn,
    /// By lot.
    Random,
    /// The address that the client asked for.
    Passthrough,
    /// In turn.
    RoundRobin,
    /// The less busy of two drawn by lot.
    LeastRequest,
}

/// Chooses by a hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("allOf" = [{"oneOf": at_most_one(&["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"])}, {"oneOf": at_most_one(&["ringHash", "maglev"])}])))]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHash {
    /// Of this header. [`ConsistentHash::key`] has this and the next three as one.
    pub http_header_name: Option<String>,
    /// Of this cookie.
    pub http_cookie: Option<HttpCookie>,
    /// Of the address of the client.
    pub use_source_ip: Option<bool>,
    /// Of this parameter of the query.
    pub http_query_parameter_name: Option<String>,
    /// On a ring. [`ConsistentHash::algorithm`] has this and the next two as one.
    pub ring_hash: Option<RingHash>,
    /// By table.
    pub maglev: Option<Maglev>,
    /// The older form of [`RingHash::minimum_ring_size`]; 0 means unset.
    pub minimum_ring_size: u64,
}

/// What is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKey<'a> {
    /// A header.
    Header(&'a str),
    /// A cookie.
    Cookie(&'a HttpCookie),
    /// A parameter of the query.
    QueryParameter(&'a str),
    /// The address of the client.
    SourceIp,
}

/// How a hash becomes an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// On a ring with at least this many places.
    Ring(u64),
    /// By a table of this size, a prime.
    Maglev(u64),
}

/// A ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// Places on it; 0 or absent means 1024.
    pub minimum_ring_size: u64,
}

/// A Maglev table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Maglev {
    /// Its size: a prime below 5,000,011. Absent means 65,537.
    pub table_size: Option<u64>,
}

/// A cookie that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["name"])))]
#[serde(rename_all = "camelCase", default)]
pub struct HttpCookie {
    /// Its name.
    pub name: String,
    /// The path it is made for; empty means that the client decides.
    pub path: String,
    /// How long it lives if it has to be made: zero until the browser closes; absent means that none is made.
    pub ttl: Option<DurationOrZero>,
    /// Further attributes to make it with. Names are unique.
    pub attributes: Vec<CookieAttribute>,
}

/// An attribute of a cookie, such as `SameSite`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["name"])))]
#[serde(rename_all = "camelCase", default)]
pub struct CookieAttribute {
    /// Its name.
    pub name: String,
    /// Its value; empty for those that have none.
    pub value: String,
}

/// Preference for near endpoints. At most one of distribute and failover.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLbSetting {
    /// Shares by locality of the client.
    pub distribute: Vec<Distribute>,
    /// Regions that stand in for others.
    pub failover: Vec<Failover>,
    /// Labels by which endpoints near the client are told, the most telling first.
    pub failover_priority: Vec<String>,
    /// Absent means what `MeshConfig` says, and yes if it says nothing.
    pub enabled: Option<bool>,
}

/// Shares of a locality's traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Distribute {
    /// Locality of the client: `REGION[/ZONE[/SUBZONE]]`, or `*` for the rest.
    pub from: String,
    /// Per cent by locality of the endpoint, 1..=100 each and 100 together.
    pub to: BTreeMap<String, u32>,
}

/// A region that stands in for another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Failover {
    /// Region whose endpoints are unhealthy.
    pub from: String,
    /// Region that is asked instead.
    pub to: String,
}

/// Even spread over zones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneAwareLbSetting {
    /// Absent means yes.
    pub enabled: Option<bool>,
    /// Endpoints below which zones are not looked at; absent means 6.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub min_cluster_size: Option<u64>,
    /// Regions that stand in for others.
    pub failover: Vec<Failover>,
    /// Labels by which endpoints near the client are told, none of them one of topology.
    pub failover_priority: Vec<String>,
}

/// Gives new endpoints less at first.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["duration"])))]
#[serde(rename_all = "camelCase", default)]
pub struct Warmup {
    /// Until an endpoint gets its full share; always there.
    pub duration: Option<Duration>,
    /// Share it begins with, 0..=100 %; absent means 10.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100)))]
    pub minimum_percent: Option<f64>,
    /// Bends the curve from there, above 0; absent means 1, a straight line.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub aggression: Option<f64>,
}

impl LoadBalancer {
    /// How an endpoint is chosen.
    pub fn balance(&self) -> Balance<'_> {
        if let Some(hash) = &self.consistent_hash {
            return Balance::Hash(hash);
        }
        match self.simple.unwrap_or_default() {
            SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest => Balance::LeastRequest,
            SimpleLb::Random => Balance::Random,
            SimpleLb::RoundRobin => Balance::RoundRobin,
            SimpleLb::Passthrough => Balance::Passthrough,
        }
    }
}

impl ConsistentHash {
    /// What is hashed; `None` if the user named nothing, and any endpoint does.
    pub fn key(&self) -> Option<HashKey<'_>> {
        let header = self.http_header_name.as_deref().map(HashKey::Header);
        let cookie = self.http_cookie.as_ref().map(HashKey::Cookie);
        let parameter = self.http_query_parameter_name.as_deref().map(HashKey::QueryParameter);
        let source = self.use_source_ip.filter(|is| *is).map(|_| HashKey::SourceIp);
        header.or(cookie).or(parameter).or(source)
    }

    /// How the hash becomes an endpoint.
    pub fn algorithm(&self) -> HashAlgorithm {
        if let Some(maglev) = self.maglev {
            return HashAlgorithm::Maglev(maglev.table_size.unwrap_or(65_537));
        }
        let ring = self.ring_hash.map(|ring| ring.minimum_ring_size).filter(|size| *size > 0);
        let older = Some(self.minimum_ring_size).filter(|size| *size > 0);
        HashAlgorithm::Ring(ring.or(older).unwrap_or(1024))
    }
}
