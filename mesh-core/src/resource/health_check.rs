//! `policy.mesh.internal` HealthCheck, a kind of our own: endpoints are asked, again and again, whether they are well.
//!
//! Istio has no resource for this but the probe of a WorkloadGroup. What a check means is decided in [`crate::health`];
//! here its shape is fixed.

use std::fmt;

use serde::Deserialize;

#[cfg(feature = "schema")]
use super::schema::exactly_one;
use super::security::PolicyTargetReference;
use super::tree::quote;
use super::value::{Duration, FromText, Host, Port, Refusal, text_value};

/// `HealthCheck.spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("oneOf" = exactly_one(&["http", "grpc", "tcp"]))))]
#[serde(rename_all = "camelCase", default)]
pub struct HealthCheckSpec {
    /// Whose endpoints: Services and ServiceEntries of the namespace of this object; 1 to 16.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 16)))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Asks by HTTP.
    pub http: Option<HttpCheck>,
    /// Asks by gRPC's health protocol.
    pub grpc: Option<GrpcCheck>,
    /// Connects.
    pub tcp: Option<TcpCheck>,
    /// The port of the endpoint that is asked. Absent means the one that clients are sent to.
    pub port: Option<Port>,
    /// From one question to the next, 100ms to 1h; a tenth more or less. Absent means 10s.
    pub interval: Option<Duration>,
    /// How long an answer may take, the connection included; at most 1m. Absent means 1s.
    pub timeout: Option<Duration>,
    /// Answers in a row before an endpoint that is left out comes back, 1 to 100. Absent means 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub healthy_threshold: Option<u32>,
    /// Failures in a row before an endpoint is left out, 1 to 100. Absent means 3.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub unhealthy_threshold: Option<u32>,
}

/// Asks by HTTP: GET, and the status of the answer counts. Redirects are not followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct HttpCheck {
    /// Path, with its query if it has any; begins with `/`. Absent means `/`.
    pub path: String,
    /// The host that is asked for. Absent means that of the service.
    pub host: Option<Host>,
    /// Which statuses say that all is well: `200`, or `200-299`; at most 16. Absent means `200-299`.
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    pub expected_statuses: Vec<StatusRange>,
}

/// Asks by gRPC's health protocol: the answer has to be `SERVING`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcCheck {
    /// Service to ask for; absent means the server as a whole.
    #[cfg_attr(feature = "schema", schemars(length(max = 1024)))]
    pub service: String,
}

/// Connects, with TLS where the DestinationRule asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpCheck {}

/// Statuses of HTTP from one to another, both included; 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatusRange {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl StatusRange {
    /// Whether a status is in it.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl FromText for StatusRange {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| text.parse().ok().filter(|status| (100..600).contains(status));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => {
                let reason = format!("{} is no status, and no range of statuses", quote(text));
                Err(Refusal::with_hint(reason, "100 to 599 in quotes: \"200\" or \"200-299\""))
            }
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

text_value!(StatusRange, {"type": "string", "pattern": "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$"});

#[cfg(test)]
mod tests;
