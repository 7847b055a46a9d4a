//! The specs of `networking.istio.io` kinds, field for field as users write them.
//!
//! What a field can be is fixed by its type ([`super::value`]); what fields can be together is checked by the
//! parser, and nothing that it refused becomes one of these. Where Istio's schema has one of several fields, the struct
//! has them all, as users write them, and a method gives the one that is meant as an enum. Defaults are those of Istio,
//! applied where the field's documentation says so; they are applied by type, never by guess.

use std::collections::BTreeMap;

use serde::Deserialize;

#[cfg(feature = "schema")]
use crate::resource::schema::LabelsSchema;

use super::value::{Host, Port};

pub use self::destination_rule::DestinationRuleSpec;
pub use self::gateway::GatewaySpec;
pub use self::service_entry::ServiceEntrySpec;
pub use self::sidecar::SidecarSpec;
pub use self::virtual_service::VirtualServiceSpec;
pub use self::workload::{WorkloadEntrySpec, WorkloadGroupSpec};

pub mod destination_rule;
pub mod gateway;
pub mod service_entry;
pub mod sidecar;
pub mod virtual_service;
pub mod workload;

/// Where a route sends traffic.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// A service of the registry; a short name is one of the rule's namespace.
    pub host: Host,
    /// A subset that a DestinationRule of the host defines; empty means all of its endpoints.
    #[serde(default)]
    pub subset: String,
    /// Port of the service. Absent means its only port, or else the port that was asked for.
    #[serde(default)]
    pub port: Option<PortSelector>,
}

/// Names a port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PortSelector {
    /// Its number.
    pub number: Port,
}

/// Selects workloads of a namespace by label, in the kinds where Istio spells it `labels`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// All of them must be equal on the workload; empty selects every workload.
    #[cfg_attr(feature = "schema", schemars(with = "LabelsSchema<256>"))]
    pub labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests;
