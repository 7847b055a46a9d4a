//! `MeshConfig`: `ConfigMap` `istio` of the root namespace, key `mesh`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_yaml_ng::{Mapping, Value};

use super::{CompileOptions, Report};
use crate::id::TrustDomain;
use crate::resource::Object;

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
    object: Option<(&Object, &ConfigMap)>,
    options: &CompileOptions,
    report: &mut Report,
) -> MeshConfig {
    let mut config =
        MeshConfig { trust_domain: options.trust_domain.clone(), aliases: Vec::new(), access_log_file: None };
    let Some((object, map)) = object else {
        return config;
    };
    let Some(text) = map.data.as_ref().and_then(|data| data.get("mesh")) else {
        return config;
    };
    match serde_yaml_ng::from_str::<Value>(text) {
        Ok(Value::Mapping(fields)) => read(&fields, &mut config, object, report),
        Ok(Value::Null) => {}
        Ok(_) => report.error(object, FIELD, "is not a mapping of MeshConfig fields"),
        Err(error) => report.error(object, FIELD, format!("is not valid YAML: {error}")),
    }
    config
}

fn read(fields: &Mapping, config: &mut MeshConfig, object: &Object, report: &mut Report) {
    for (key, value) in fields {
        let field = match key.as_str() {
            Some(key) => format!("{FIELD}.{key}"),
            None => FIELD.to_owned(),
        };
        match (key.as_str(), value) {
            (Some("trustDomain"), Value::String(text)) => match TrustDomain::parse(text) {
                Ok(trust_domain) => config.trust_domain = trust_domain,
                Err(error) => report.error(object, field, format!("\"{text}\" {error}")),
            },
            (Some("trustDomainAliases"), Value::Sequence(items)) => {
                config.aliases = aliases(items, &field, object, report);
            }
            (Some("accessLogFile"), Value::String(text)) => {
                config.access_log_file = Some(text.as_str()).filter(|text| !text.is_empty()).map(Arc::from);
            }
            (Some("trustDomain" | "accessLogFile"), _) => report.error(object, field, "is not a string"),
            (Some("trustDomainAliases"), _) => report.error(object, field, "is not a list of strings"),
            // The root namespace is where this was found.
            (Some("rootNamespace"), Value::String(text)) if *text == *object.meta.namespace => {}
            _ => report.warning(object, field, "is not supported yet and changes nothing"),
        }
    }
    config.aliases.retain(|alias| *alias != config.trust_domain);
}

fn aliases(items: &[Value], field: &str, object: &Object, report: &mut Report) -> Vec<TrustDomain> {
    let mut aliases = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item.as_str().map(TrustDomain::parse) {
            Some(Ok(alias)) => aliases.push(alias),
            _ => report.error(object, format!("{field}[{index}]"), "is not a trust domain"),
        }
    }
    aliases.sort();
    aliases.dedup();
    aliases
}

const FIELD: &str = "data.mesh";
