//! TLSRoute, TCPRoute and UDPRoute: connections by SNI or port, and datagrams by port, sent on as they are.

use serde::Deserialize;

use super::reference::{BackendRef, DefaultGateways, ParentRef};
use super::value::{Hostname, SectionName};

/// `TLSRoute.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsRouteSpec {
    /// At most 32.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Experimental.
    pub use_default_gateways: Option<DefaultGateways>,
    /// The SNI of the connections it is for, 1 to 1024; only `v1alpha2` may name none, which means every SNI.
    #[serde(default)]
    pub hostnames: Vec<Hostname>,
    /// Exactly one; up to 16 in `v1alpha2`, of which the first counts.
    pub rules: Vec<L4Rule>,
}

/// `TCPRoute.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteSpec {
    /// At most 32.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Experimental.
    pub use_default_gateways: Option<DefaultGateways>,
    /// Exactly one; up to 16 in `v1alpha2`, of which the first counts.
    pub rules: Vec<L4Rule>,
}

/// `UDPRoute.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UdpRouteSpec {
    /// At most 32.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Experimental.
    pub use_default_gateways: Option<DefaultGateways>,
    /// Exactly one; up to 16 in `v1alpha2`, of which the first counts.
    pub rules: Vec<L4Rule>,
}

/// Where connections or datagrams go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L4Rule {
    /// Unique within the route.
    pub name: Option<SectionName>,
    /// 1 to 16.
    pub backend_refs: Vec<BackendRef>,
}
