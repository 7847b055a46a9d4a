//! `MeshConfig`: `ConfigMap` `istio` of the root namespace, key `mesh`.

use k8s_openapi::api::core::v1::ConfigMap;

use super::{CompileOptions, Report};
use crate::id::TrustDomain;
use crate::resource::mesh_config::MeshText;
use crate::resource::{self, Object};

/// The part of `MeshConfig` that is used, with defaults applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MeshConfig {
    pub(super) trust_domain: TrustDomain,
    /// Sorted, without the trust domain itself.
    pub(super) aliases: Vec<TrustDomain>,
    /// All of it, as it was written.
    pub(super) text: MeshText,
}

/// Reads the `ConfigMap`, if there is one. Fields that cannot be used leave their default in force, and are findings.
pub(super) fn compile(
    found: Option<(&Object, &ConfigMap)>,
    options: &CompileOptions,
    report: &mut Report,
) -> MeshConfig {
    let found = found.and_then(|(object, map)| Some((object, map.data.as_ref()?.get("mesh")?)));
    let parsed = match found {
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
    let trust_domain = match (&options.trust_domain, parsed.trust_domain.clone()) {
        (Some(issued), said) => {
            if let Some((object, _)) = found
                && let Some(said) = said.filter(|said| said != issued)
            {
                let reason = format!(
                    "is {said}, and the certificate authority issues identities of {issued}, which hold (set the installation's \
                     trustDomain as well, which makes strangers of all identities until they are renewed)"
                );
                report.error_at(&object.origin, "data.mesh.trustDomain", reason);
            }
            issued.clone()
        }
        (None, said) => said.unwrap_or_default(),
    };
    let mut aliases: Vec<_> = parsed.trust_domain_aliases.iter().map(|alias| alias.0.clone()).collect();
    aliases.retain(|alias| *alias != trust_domain);
    aliases.sort();
    aliases.dedup();
    let text = MeshText::new(parsed, found.map_or("", |(_, text)| text));
    MeshConfig { trust_domain, aliases, text }
}
