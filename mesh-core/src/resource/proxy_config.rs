//! `networking.istio.io` ProxyConfig: settings of one workload's proxy, as far as they are a kind of their own. The
//! message of the same name, which `MeshConfig` and an annotation carry, is [`super::mesh_config::ProxyConfig`].

use std::collections::BTreeMap;

use serde::Deserialize;

use super::security::WorkloadSelector;

/// `ProxyConfig.spec`. All of it is about a proxy that a workload has to itself, which it has not here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfigSpec {
    /// The workloads it is for; absent means the whole namespace, or the whole mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// Worker threads; 0 means one per core.
    pub concurrency: Option<u32>,
    /// Values of at most 2048 characters.
    pub environment_variables: BTreeMap<String, String>,
    /// The proxy's image.
    pub image: Option<ProxyImage>,
}

/// Which image a proxy runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyImage {
    /// For example `distroless`.
    pub image_type: String,
}
