//! `WorkloadEntry.spec` and `WorkloadGroup.spec`: workloads that are no pods.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

#[cfg(feature = "schema")]
use crate::resource::schema::{
    exactly_one,
    rules::{ADDRESS, WORKLOAD_ENTRY, WORKLOAD_PORTS, WORKLOAD_TEMPLATE, rules},
};

use crate::resource::tree::quote;
use crate::resource::value::{self, Bind, FromText, Host, Port, Refusal};

/// `WorkloadEntry.spec`, and an endpoint of a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-validations" = rules(WORKLOAD_ENTRY))))]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntrySpec {
    /// Where it is. Absent only with a [`WorkloadEntrySpec::network`], whose gateway is asked then.
    #[serde(deserialize_with = "value::unless_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Address"))]
    pub address: Option<Address>,
    /// Ports by the name of the service's port; one that is not here is the service's own.
    #[cfg_attr(feature = "schema", schemars(extend("maxProperties" = 128, "x-kubernetes-validations" = rules(WORKLOAD_PORTS))))]
    pub ports: BTreeMap<String, Port>,
    /// Labels, as of a pod.
    #[cfg_attr(feature = "schema", schemars(extend("maxProperties" = 256)))]
    pub labels: BTreeMap<String, String>,
    /// Network it is in; empty means that of the reader.
    #[cfg_attr(feature = "schema", schemars(length(max = 2048)))]
    pub network: String,
    /// `REGION[/ZONE[/SUBZONE]]`; empty means unknown.
    #[cfg_attr(feature = "schema", schemars(length(max = 2048)))]
    pub locality: String,
    /// Share of the traffic, relative to the others; 0 or absent means 1.
    pub weight: u32,
    /// Service account in its namespace, which makes its identity; empty means `default`.
    #[cfg_attr(feature = "schema", schemars(length(max = 253)))]
    pub service_account: String,
}

/// Where a workload is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An address.
    Ip(IpAddr),
    /// A name of DNS; no wildcard.
    Name(Host),
    /// A Unix domain socket: an absolute path, or `@name` in the abstract namespace.
    Unix(Arc<str>),
}

impl fmt::Display for Address {
    /// As users write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(host) => host.fmt(f),
            Self::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

/// `WorkloadGroup.spec`: what workloads that register themselves have in common.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WorkloadGroupSpec {
    /// Metadata of their `WorkloadEntries`.
    #[serde(default)]
    pub metadata: GroupMetadata,
    /// Spec of their `WorkloadEntries`, as far as they do not bring their own.
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-validations" = rules(WORKLOAD_TEMPLATE))))]
    pub template: WorkloadEntrySpec,
    /// When one counts as ready; absent means at once.
    #[serde(default)]
    pub probe: Option<ReadinessProbe>,
}

/// Metadata that a WorkloadGroup gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct GroupMetadata {
    /// Labels.
    #[cfg_attr(feature = "schema", schemars(extend("maxProperties" = 256)))]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[cfg_attr(feature = "schema", schemars(extend("maxProperties" = 256)))]
    pub annotations: BTreeMap<String, String>,
}

/// Asks a workload whether it is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("oneOf" = exactly_one(&["httpGet", "tcpSocket", "exec", "grpc"]))))]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessProbe {
    /// Before the first try, in seconds.
    #[cfg_attr(feature = "schema", schemars(range(max = 2_147_483_647)))]
    pub initial_delay_seconds: u32,
    /// For each try, in seconds; 0 means 1.
    #[cfg_attr(feature = "schema", schemars(range(max = 2_147_483_647)))]
    pub timeout_seconds: u32,
    /// Between two, in seconds; 0 means 10.
    #[cfg_attr(feature = "schema", schemars(range(max = 2_147_483_647)))]
    pub period_seconds: u32,
    /// Successes in a row before it counts as ready; 0 means 1.
    #[cfg_attr(feature = "schema", schemars(range(max = 2_147_483_647)))]
    pub success_threshold: u32,
    /// Failures in a row before it counts as not ready; 0 means 3.
    #[cfg_attr(feature = "schema", schemars(range(max = 2_147_483_647)))]
    pub failure_threshold: u32,
    /// Asks by HTTP. [`ReadinessProbe::method`] has this and the next three as one.
    pub http_get: Option<HttpGetProbe>,
    /// Connects.
    pub tcp_socket: Option<TcpProbe>,
    /// Runs a command there.
    pub exec: Option<ExecProbe>,
    /// Asks by gRPC's health protocol.
    pub grpc: Option<GrpcProbe>,
}

/// How a workload is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeMethod<'a> {
    /// By HTTP.
    Http(&'a HttpGetProbe),
    /// By connecting.
    Tcp(&'a TcpProbe),
    /// By a command.
    Exec(&'a ExecProbe),
    /// By gRPC's health protocol.
    Grpc(&'a GrpcProbe),
}

/// Asks by HTTP: an answer of 200 to 399 is a success.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct HttpGetProbe {
    /// Path; empty means `/`.
    #[serde(default)]
    pub path: String,
    /// Port.
    pub port: Port,
    /// Host; empty means the workload's address.
    #[serde(default)]
    pub host: String,
    /// `HTTP` or `HTTPS`; empty means the former.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["", "HTTP", "HTTPS"])))]
    pub scheme: String,
    /// Headers to send.
    #[serde(default)]
    pub http_headers: Vec<ProbeHeader>,
}

/// A header of a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ProbeHeader {
    /// Letters, digits, `-` and `_`.
    #[cfg_attr(feature = "schema", schemars(extend("pattern" = "^[-_A-Za-z0-9]+$")))]
    pub name: String,
    /// As it is.
    pub value: String,
}

/// Connects.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TcpProbe {
    /// Host; empty means the workload's address.
    #[serde(default)]
    pub host: String,
    /// Port.
    pub port: Port,
}

/// Runs a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["command"])))]
#[serde(rename_all = "camelCase", default)]
pub struct ExecProbe {
    /// Program and arguments, without a shell; never empty.
    #[cfg_attr(feature = "schema", schemars(inner(length(min = 1))))]
    pub command: Vec<String>,
}

/// Asks by gRPC's health protocol.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct GrpcProbe {
    /// Port.
    pub port: Port,
    /// Service to ask for; empty means the server as a whole.
    #[serde(default)]
    pub service: String,
}

impl ReadinessProbe {
    /// How it asks: the one that is given, which parsing has made sure of.
    pub fn method(&self) -> Option<ProbeMethod<'_>> {
        let http = self.http_get.as_ref().map(ProbeMethod::Http);
        let tcp = self.tcp_socket.as_ref().map(ProbeMethod::Tcp);
        let exec = self.exec.as_ref().map(ProbeMethod::Exec);
        http.or(tcp).or(exec).or(self.grpc.as_ref().map(ProbeMethod::Grpc))
    }
}

impl FromText for Address {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        if let Ok(Bind::Unix(path)) = Bind::from_text(text) {
            return Ok(Self::Unix(path));
        }
        match Host::parse(text) {
            Ok(Host::Address(address)) => Ok(Self::Ip(address)),
            Ok(name @ Host::Name(_)) if !name.is_sni_name() => Ok(Self::Name(name)),
            _ => {
                let reason = format!("{} is neither an IP address nor a name", quote(text));
                Err(Refusal::with_hint(reason, "write an address, a DNS name or unix:///PATH"))
            }
        }
    }
}

value::text_value!(Address, {
    "type": "string",
    "maxLength": 256,
    "x-kubernetes-validations": (rules(ADDRESS))
});
