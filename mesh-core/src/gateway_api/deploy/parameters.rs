//! Parameters: `ConfigMap`s with patches for what is made for a Gateway, first those that its class names, then its own.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::GeneratedKind;
use super::patch::strategic;
use crate::gateway_api::{Facts, Gateway, Name};
use crate::resource::gateway_api::GatewayClassSpec;

/// Patches, in the order in which they are applied.
#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<GeneratedKind, Vec<Patch>>);

#[derive(Debug)]
struct Patch {
    /// Where it stands: `ConfigMap NAMESPACE/NAME`.
    origin: String,
    value: Value,
}

/// Why a Gateway's parameters cannot be used, in a sentence for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(pub(super) String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The parameters of a Gateway.
pub(super) fn of(
    class: Option<&&GatewayClassSpec>,
    gateway: &Gateway<'_>,
    facts: &Facts,
) -> Result<Parameters, Fault> {
    let mut all = Parameters::default();
    if let Some(reference) = class.and_then(|class| class.parameters_ref.as_ref()) {
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        all.read((&reference.group, &reference.kind), (namespace, &reference.name), facts)?;
    }
    if let Some(reference) = &gateway.spec.infrastructure.parameters_ref {
        all.read((&reference.group, &reference.kind), (gateway.name().0, &reference.name), facts)?;
    }
    Ok(all)
}

impl Parameters {
    fn read(&mut self, (group, kind): (&str, &str), name: Name<'_>, facts: &Facts) -> Result<(), Fault> {
        let data = facts.config_map(name).filter(|_| group.is_empty() && kind == "ConfigMap");
        let Some(data) = data else {
            return Err(Fault(format!("{kind} {} is no ConfigMap that is there", name.1)));
        };
        let origin = format!("ConfigMap {}/{}", name.0, name.1);
        for (key, text) in data {
            let Some((_, kind)) = KEYS.iter().find(|(known, _)| known == key) else {
                let known: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
                return Err(Fault(format!("{origin}: unknown key {key}: it may have {}", known.join(", "))));
            };
            let value: Value =
                serde_yaml_ng::from_str(text).map_err(|error| Fault(format!("{origin}: {key}: {error}")))?;
            if !value.is_object() {
                return Err(Fault(format!("{origin}: {key}: must be a part of a {}, in YAML", kind.name())));
            }
            self.0.entry(*kind).or_default().push(Patch { origin: origin.clone(), value });
        }
        Ok(())
    }

    /// Whether there is anything about this kind.
    pub(super) fn has(&self, kind: GeneratedKind) -> bool {
        self.0.contains_key(&kind)
    }

    /// Changes an object of this kind, which must remain one, and itself.
    pub(super) fn apply(&self, kind: GeneratedKind, object: &mut Value) -> Result<(), Fault> {
        for Patch { origin, value } in self.0.get(&kind).into_iter().flatten() {
            let wrong = |why: String| Fault(format!("{origin}: {}: {why}", key_of(kind)));
            let before = object.clone();
            strategic(object, value).map_err(wrong)?;
            for pointer in FIXED {
                if before.pointer(pointer) != object.pointer(pointer) {
                    let field = pointer.trim_start_matches('/').replace('/', ".");
                    return Err(wrong(format!("{field} must not be changed")));
                }
            }
            check(kind, object).map_err(wrong)?;
        }
        Ok(())
    }
}

fn key_of(kind: GeneratedKind) -> &'static str {
    KEYS.iter().find(|(_, it)| *it == kind).map_or("", |(key, _)| key)
}

/// Whether this is what an API server takes for an object of its kind: it refuses nothing that is right, and names fields
/// that it does not have.
fn check(kind: GeneratedKind, object: &Value) -> Result<(), String> {
    match kind {
        GeneratedKind::ServiceAccount => check_as::<ServiceAccount>(object),
        GeneratedKind::Deployment => check_as::<Deployment>(object),
        GeneratedKind::Service => check_as::<Service>(object),
        GeneratedKind::HorizontalPodAutoscaler => check_as::<HorizontalPodAutoscaler>(object),
        GeneratedKind::PodDisruptionBudget => check_as::<PodDisruptionBudget>(object),
    }
}

fn check_as<T: Serialize + DeserializeOwned>(object: &Value) -> Result<(), String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    let known = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    match lost(object, &known, "") {
        Some(field) => Err(format!("there is no field {field}")),
        None => Ok(()),
    }
}

/// The first field that is in `object` and not in `known`.
fn lost(object: &Value, known: &Value, path: &str) -> Option<String> {
    match object {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match known.get(key) {
                Some(known) => lost(value, known, &path),
                None if value.is_null() => None,
                None => Some(path),
            }
        }),
        Value::Array(items) => items.iter().enumerate().find_map(|(at, item)| {
            lost(item, known.get(at).unwrap_or(&Value::Null), &format!("{path}[{at}]"))
        }),
        _ => None,
    }
}

/// Istio's keys.
const KEYS: [(&str, GeneratedKind); 5] = [
    ("deployment", GeneratedKind::Deployment),
    ("service", GeneratedKind::Service),
    ("serviceAccount", GeneratedKind::ServiceAccount),
    ("horizontalPodAutoscaler", GeneratedKind::HorizontalPodAutoscaler),
    ("podDisruptionBudget", GeneratedKind::PodDisruptionBudget),
];
/// What an object is known by, and whose it is.
const FIXED: [&str; 5] =
    ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace", "/metadata/ownerReferences"];
