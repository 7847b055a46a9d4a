//! Rules for connections: TLS that is not opened, and TCP.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Destination;
use crate::resource::value::{self, GatewayName, Host, Port, Subnet};

/// A rule for TLS that is passed on unopened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["match"])))]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRoute {
    /// One of them must match; never empty.
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatch>,
    /// Where the connection goes, by weight; never empty.
    pub route: Vec<RouteDestination>,
}

/// What a TLS connection must be: all that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["sniHosts"])))]
#[serde(rename_all = "camelCase", default)]
pub struct TlsMatch {
    /// One of them must cover the server name that the client asks for; each is covered by a host of the
    /// VirtualService.
    pub sni_hosts: Vec<Host>,
    /// One of them must hold the address that the client asks for; none means any.
    pub destination_subnets: Vec<Subnet>,
    /// Port that the client asks for.
    pub port: Option<Port>,
    /// Labels of the client; all must be equal.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways this is for, instead of those of the VirtualService; none means those.
    pub gateways: Vec<GatewayName>,
    /// Namespace of the client; empty means any.
    pub source_namespace: String,
}

/// A rule for TCP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    /// One of them must match; none matches every connection.
    #[serde(rename = "match")]
    pub matches: Vec<L4Match>,
    /// Where the connection goes, by weight; never empty.
    pub route: Vec<RouteDestination>,
}

/// What a connection must be: all that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct L4Match {
    /// One of them must hold the address that the client asks for; none means any.
    pub destination_subnets: Vec<Subnet>,
    /// Port that the client asks for.
    pub port: Option<Port>,
    /// Must hold the address of the client. Istio documents it and has never implemented it.
    #[serde(deserialize_with = "value::unless_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub source_subnet: Option<Subnet>,
    /// Labels of the client; all must be equal.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways this is for, instead of those of the VirtualService; none means those.
    pub gateways: Vec<GatewayName>,
    /// Namespace of the client; empty means any.
    pub source_namespace: String,
}

/// One of the destinations of a [`TlsRoute`] or a [`TcpRoute`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RouteDestination {
    /// The service.
    pub destination: Destination,
    /// Its share is this, divided by the sum of all. A single destination gets everything.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(max = 2_147_483_647)))]
    pub weight: u32,
}
