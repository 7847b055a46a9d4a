//! `ServiceEntry.spec`: services that Kubernetes does not know.

use serde::Deserialize;

#[cfg(feature = "schema")]
use crate::resource::schema::rules::{SERVICE_ENTRY, SERVICE_HOSTS, SERVICE_PORTS, rules};

use super::LabelSelector;
use super::workload::WorkloadEntrySpec;
use crate::resource::value::{self, ExportTo, Host, Port, Protocol, Subnet};

/// `ServiceEntry.spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("required" = ["hosts"])))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-validations" = rules(SERVICE_ENTRY))))]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntrySpec {
    /// Names of the service, 1..=256, none of them `*`.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 256), extend("x-kubernetes-validations" = rules(SERVICE_HOSTS))))]
    pub hosts: Vec<Host>,
    /// Addresses that clients use for it; networks only with NONE and STATIC. None: the mesh makes one up.
    #[cfg_attr(feature = "schema", schemars(length(max = 256)))]
    pub addresses: Vec<Subnet>,
    /// Ports, unique by name and by number.
    #[cfg_attr(feature = "schema", schemars(length(max = 256), extend("x-kubernetes-validations" = rules(SERVICE_PORTS))))]
    pub ports: Vec<ServiceEntryPort>,
    /// Whether its endpoints belong to the mesh.
    pub location: Location,
    /// Where its endpoints come from.
    pub resolution: Resolution,
    /// Endpoints; excludes [`ServiceEntrySpec::workload_selector`].
    #[cfg_attr(feature = "schema", schemars(length(max = 4096)))]
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// Pods and `WorkloadEntries` of its namespace that are its endpoints.
    pub workload_selector: Option<LabelSelector>,
    /// Who sees it.
    pub export_to: Vec<ExportTo>,
    /// Names of which a server's certificate must have one, beside what else is asked of it.
    pub subject_alt_names: Vec<String>,
}

/// A port of a [`ServiceEntrySpec`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntryPort {
    /// What clients ask for.
    pub number: Port,
    /// What is spoken; absent means whatever the first bytes say.
    #[serde(default, deserialize_with = "value::unless_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub protocol: Option<Protocol>,
    /// A DNS label.
    #[cfg_attr(feature = "schema", schemars(length(max = 256)))]
    pub name: String,
    /// Port of the endpoints; absent means [`ServiceEntryPort::number`].
    #[serde(default)]
    pub target_port: Option<Port>,
}

/// Whether endpoints belong to the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// They do not: no identities, no mTLS.
    #[default]
    MeshExternal,
    /// They do.
    MeshInternal,
}

/// Where endpoints come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// The address that the client asked for.
    #[default]
    None,
    /// Those that are listed or selected.
    Static,
    /// All addresses of the listed names, or of the hosts.
    Dns,
    /// The first address of the one listed name, or of the host, each time.
    DnsRoundRobin,
    /// The address of the very name that the client asked for; hosts are wildcards.
    DynamicDns,
}

impl Resolution {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Static => "STATIC",
            Self::Dns => "DNS",
            Self::DnsRoundRobin => "DNS_ROUND_ROBIN",
            Self::DynamicDns => "DYNAMIC_DNS",
        }
    }
}
