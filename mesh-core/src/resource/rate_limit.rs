//! `policy.mesh.internal` RateLimit, a kind of our own: how many requests and connections may come in a time.
//!
//! Istio has no resource for this, only patches of Envoy's configuration. What a limit means is decided in
//! [`crate::limit`]; here its shape is fixed.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::security::{PolicyTargetReference, WorkloadSelector};
use super::tree::quote;
use super::value::{
    self, Duration, FromText, HeaderKey, HeaderName, Host, Port, Refusal, StringMatch, text_value,
};

/// `RateLimit.spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RateLimitSpec {
    /// Whose: gateways by the labels of their pods, and workloads, of which connections are limited where they arrive. In
    /// the namespace of this object, or everywhere if that is the root namespace. Excludes targets.
    pub selector: Option<WorkloadSelector>,
    /// Whose: a Gateway or waypoint, Services and ServiceEntries; at most 16.
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Limits of requests, at most 64. A request counts for each that it matches, and passes if all let it.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub rules: Vec<RequestLimit>,
    /// The limit of connections.
    pub connections: Option<ConnectionLimit>,
    /// How many connections may be open at a time at a Gateway or waypoint; at most 8 counts, and one must have leave of all.
    #[cfg_attr(feature = "schema", schemars(length(max = 8)))]
    pub open_connections: Vec<OpenLimit>,
    /// What each connection to a Gateway or waypoint may do, and how long.
    pub each_connection: Option<EachConnection>,
    /// How long the bodies of requests may be that are sent on.
    pub request_body: Option<BodyLimit>,
    /// Limits of requests that a rate limit service counts. It is asked about what the rules here let pass.
    pub global: Option<GlobalLimit>,
}

/// So many requests in a time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RequestLimit {
    /// For logs. A rule keeps what it has counted as long as its name and all else of it stays.
    #[serde(default)]
    pub name: String,
    /// Requests that it is for: those that match one of these; none means all.
    #[serde(default)]
    pub r#match: Vec<RequestMatch>,
    /// Each value of these, all together, has a count of its own; none means one count for all.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(length(max = 8)))]
    pub by: Vec<LimitKey>,
    /// How many requests, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000_000)))]
    pub requests: u32,
    /// In how long; at most a day. Absent means a second.
    pub per: Option<Duration>,
    /// How many at once after a time of rest, at most 1000 times as many as `requests`. Absent means just as many.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub burst: Option<u32>,
    /// Counts that are kept at a time, 1 to 1000000. Absent means 10000. Who finds no room shares one count with others who
    /// find none.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub max_keys: Option<u32>,
}

/// So many connections in a time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ConnectionLimit {
    /// `identity` or `address`, or both; none means one count for all.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(length(max = 2)))]
    pub by: Vec<LimitKey>,
    /// How many connections, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000_000)))]
    pub count: u32,
    /// As for requests.
    pub per: Option<Duration>,
    /// As for requests.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub burst: Option<u32>,
    /// As for requests.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub max_keys: Option<u32>,
}

/// So many connections at a time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OpenLimit {
    /// `identity` or `address`, or both; none means one count for all.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(length(max = 2)))]
    pub by: Vec<LimitKey>,
    /// How many, 1 to 1000000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub max: u32,
}

/// What a connection may do. What is absent has no limit but those that all connections have, see `docs/limits.md`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct EachConnection {
    /// How many requests, 1 to 1000000000: with the answer to the last one the client is told that there will be no more.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000_000)))]
    pub max_requests: Option<u32>,
    /// After how long its client is told to go, 1s to 24h. Requests that are under way are served.
    pub max_duration: Option<Duration>,
    /// How long it may have no request, 1s to 1h.
    pub idle_timeout: Option<Duration>,
    /// How many requests at a time in HTTP/2, 1 to 1000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000)))]
    pub max_concurrent_streams: Option<u32>,
}

/// How long bodies of requests may be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BodyLimit {
    /// Bytes, 1 to 1073741824, or to 16777216 of those that are buffered.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_073_741_824)))]
    pub max_bytes: u32,
    /// Whether a request is sent on only once all of it is there, so that a slow client costs the service nothing.
    #[serde(default)]
    pub buffer: bool,
}

/// A rate limit service, by Envoy's protocol (`envoy.service.ratelimit.v3`), and what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct GlobalLimit {
    /// The host of the service, which the mesh knows; a name without a dot is a Service of the namespace of this object.
    pub service: Host,
    /// Its port, which should be declared to speak gRPC.
    pub port: Port,
    /// Whose limits are meant there.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub domain: String,
    /// How long an answer may take; at most 10s. Absent means 20ms.
    pub timeout: Option<Duration>,
    /// What becomes of a request of which the service says nothing.
    #[serde(default)]
    pub on_failure: FailureMode,
    /// What is asked, 1 to 32 of them.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 32)))]
    pub descriptors: Vec<GlobalDescriptor>,
}

/// What becomes of a request of which a service says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureMode {
    /// It passes, as with Envoy.
    #[default]
    Allow,
    /// It is refused with 500.
    Deny,
}

/// A question to the service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct GlobalDescriptor {
    /// Requests that it is asked about: those that match one of these; none means all.
    #[serde(default)]
    pub r#match: Vec<RequestMatch>,
    /// What the service looks up, from the outermost to the innermost, 1 to 16. It is not asked if one of them has no value.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 16)))]
    pub entries: Vec<DescriptorEntry>,
}

/// A key, and a value that is given or taken from the request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DescriptorEntry {
    /// As the service knows it.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub key: String,
    /// The value; excludes `from`.
    #[serde(default)]
    pub value: String,
    /// Where the value is from: `identity`, `address`, `host`, `route`, `method`, `path` or `header:NAME`.
    #[serde(default)]
    pub from: Option<LimitKey>,
}

/// What a request must be: all that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RequestMatch {
    /// The path without its query. A prefix is compared as text: `/a` matches `/ab`.
    pub uri: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The host that was asked for.
    pub authority: Option<StringMatch>,
    /// Headers that must be there and match.
    #[serde(deserialize_with = "value::string_match::by_name")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<HeaderKey, StringMatch>"))]
    pub headers: BTreeMap<HeaderKey, StringMatch>,
    /// The name of the rule of a VirtualService that the request goes by.
    pub route: String,
}

/// What tells requests apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// The proven identity of the client. Those without one are counted together.
    Identity,
    /// The address of the client, as `x-forwarded-for` tells it where that is believed.
    Address,
    /// The host that is asked for, without its port and in lower case.
    Host,
    /// The rule of a VirtualService that the request goes by.
    Route,
    /// The method.
    Method,
    /// The path without its query.
    Path,
    /// The value of a header. Requests without it are counted together.
    Header(HeaderName),
}

impl RequestLimit {
    /// In how long, the default applied.
    pub fn per(&self) -> std::time::Duration {
        self.per.map_or(DEFAULT_PER, Duration::get)
    }
}

impl ConnectionLimit {
    /// In how long, the default applied.
    pub fn per(&self) -> std::time::Duration {
        self.per.map_or(DEFAULT_PER, Duration::get)
    }
}

impl LimitKey {
    /// Whether it is known of a connection of which nobody has read a byte.
    pub fn is_of_connections(&self) -> bool {
        matches!(self, Self::Identity | Self::Address)
    }
}

impl FromText for LimitKey {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        if let Some(name) = text.strip_prefix("header:") {
            return HeaderName::parse(name).map(Self::Header);
        }
        Ok(match text {
            "identity" => Self::Identity,
            "address" => Self::Address,
            "host" => Self::Host,
            "route" => Self::Route,
            "method" => Self::Method,
            "path" => Self::Path,
            _ => {
                let reason = format!("nothing called {} tells requests apart", quote(text));
                return Err(Refusal::with_hint(
                    reason,
                    "one of identity, address, host, route, method, path, header:NAME",
                ));
            }
        })
    }
}

text_value!(LimitKey, {"type": "string"});

/// Where nothing is said.
const DEFAULT_PER: std::time::Duration = std::time::Duration::from_secs(1);

#[cfg(test)]
mod tests;
