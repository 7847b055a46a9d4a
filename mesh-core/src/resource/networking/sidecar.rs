//! `Sidecar.spec`: what the clients of a namespace see of the mesh. There are no sidecars here; the node's proxy does
//! for each pod what one would do.

use serde::Deserialize;

use super::destination_rule::ConnectionPool;
use super::gateway::ServerTls;
use super::{Destination, LabelSelector};
use crate::resource::value::{self, Bind, EgressHost, Protocol};

/// `Sidecar.spec`; never without any field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarSpec {
    /// The workloads it is for; absent means the whole namespace, or the whole mesh in the root namespace.
    pub workload_selector: Option<LabelSelector>,
    /// Ports that take traffic in; none means those of the services.
    pub ingress: Vec<IngressListener>,
    /// What is seen; none means what the next wider Sidecar says.
    pub egress: Vec<EgressListener>,
    /// Limits for what comes in.
    pub inbound_connection_pool: Option<ConnectionPool>,
    /// What happens to traffic for hosts that are not seen; absent means what `MeshConfig` says.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

/// A port that takes traffic in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IngressListener {
    /// The port.
    pub port: SidecarPort,
    /// Where to listen; absent means on the workload's addresses.
    #[serde(default, deserialize_with = "value::unless_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub bind: Option<Bind>,
    /// Where the application listens: `127.0.0.1:PORT`, `0.0.0.0:PORT` or `unix://PATH`; empty means the same port.
    #[serde(default)]
    pub default_endpoint: String,
    /// How traffic gets there.
    #[serde(default)]
    pub capture_mode: CaptureMode,
    /// TLS of clients outside the mesh.
    #[serde(default)]
    pub tls: Option<ServerTls>,
    /// Limits for this port, instead of [`SidecarSpec::inbound_connection_pool`].
    #[serde(default)]
    pub connection_pool: Option<ConnectionPool>,
}

/// What clients see on a port, or on all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["hosts"])))]
#[serde(rename_all = "camelCase", default)]
pub struct EgressListener {
    /// The port; absent means all that no other listener has. Only the last listener may lack it.
    pub port: Option<SidecarPort>,
    /// Where to listen; absent means wherever traffic for [`EgressListener::hosts`] goes.
    #[serde(deserialize_with = "value::unless_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub bind: Option<Bind>,
    /// How traffic gets there.
    pub capture_mode: CaptureMode,
    /// Hosts that are seen; never empty.
    pub hosts: Vec<EgressHost>,
}

/// A port of a [`SidecarSpec`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarPort {
    /// 0 only for egress, together with a Unix domain socket.
    pub number: u16,
    /// What is spoken; absent means whatever the first bytes say.
    #[serde(deserialize_with = "value::unless_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub protocol: Option<Protocol>,
    /// For logs and metrics; a DNS label or empty.
    pub name: String,
    /// Has no meaning here; anything but 0 is refused.
    pub target_port: u32,
}

/// How traffic gets to a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum CaptureMode {
    /// As the mesh does it.
    #[default]
    Default,
    /// It is redirected, by whatever means.
    Iptables,
    /// The application connects to it.
    None,
}

/// What happens to traffic for hosts that are not seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct OutboundTrafficPolicy {
    /// Absent means [`OutboundTrafficMode::RegistryOnly`], because the block itself is there.
    pub mode: OutboundTrafficMode,
    /// Where it is sent instead, with ALLOW_ANY; always with a port.
    pub egress_proxy: Option<Destination>,
}

/// Whether traffic for unknown hosts passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundTrafficMode {
    /// It is refused.
    #[default]
    RegistryOnly,
    /// It passes.
    AllowAny,
}
