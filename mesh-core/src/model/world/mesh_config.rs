//! `MeshConfig`: `ConfigMap` `istio` of the root namespace, key `mesh`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{CompileOptions, Report};
use crate::id::TrustDomain;
use crate::resource::{self, Object};

/// The part of `MeshConfig` that is used, with defaults applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MeshConfig {
    pub(super) trust_domain: TrustDomain,
    /// Sorted, without the trust domain itself.
    pub(super) aliases: Vec<TrustDomain>,
    pub(super) access_log_file: Option<Arc<str>>,
}

/// Reads the `ConfigMap`, if there is one. Fields that cannot be used leave their default in force, and are findings.
pub(super) fn compile(
    found: Option<(&Object, &ConfigMap)>,
    options: &CompileOptions,
    report: &mut Report,
) -> MeshConfig {
    let text = found.and_then(|(object, map)| Some((object, map.data.as_ref()?.get("mesh")?)));
    let parsed = match text {
        Some((object, text)) => {
            let (parsed, findings) = resource::mesh_config::MeshConfig::parse(text, &object.origin);
            report.extend(findings);
            if !(parsed.root_namespace.is_empty() || parsed.root_namespace == *object.meta.namespace) {
                let reason = "is not where this was found, and changes nothing";
                report.warning(object, "data.mesh.rootNamespace", reason);
            }
            parsed
        }
        None => resource::mesh_config::MeshConfig::default(),
    };
    let trust_domain = parsed.trust_domain.unwrap_or_else(|| options.trust_domain.clone());
    let mut aliases: Vec<_> = parsed.trust_domain_aliases.into_iter().map(|alias| alias.0).collect();
    aliases.retain(|alias| *alias != trust_domain);
    aliases.sort();
    aliases.dedup();
    MeshConfig { trust_domain, aliases, access_log_file: parsed.access_log_file }
}
