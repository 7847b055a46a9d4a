//! Objects of Kubernetes, and the order they come in.

use anyhow::{Context as _, Result};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::chart;

/// An object to be applied.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    /// `v1`, `apps/v1`.
    pub(crate) api_version: String,
    /// `Deployment`.
    pub(crate) kind: String,
    /// Empty for what belongs to no namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// All of it.
    pub(crate) value: Value,
}

/// What an object is for; stages come one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// What others are written in, or into: the namespace and definitions of kinds.
    Base,
    /// The control plane and what it may do.
    Control,
    /// The data plane: it takes its certificates from the control plane.
    Node,
    /// Gateways.
    Gateways,
    /// What asks the control plane about every change: it comes when there is somebody to ask.
    Admission,
}

/// The parts of an installation in their order, as people know them.
pub(crate) const STAGES: [(Stage, &str); 5] = [
    (Stage::Base, "Namespace and kinds"),
    (Stage::Control, "Control plane"),
    (Stage::Node, "Node agents"),
    (Stage::Gateways, "Gateways"),
    (Stage::Admission, "Validation"),
];

impl Object {
    /// One of which nothing is said but who it is.
    pub(crate) fn of(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let mut value = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        if !namespace.is_empty() {
            value["metadata"]["namespace"] = json!(namespace);
        }
        let [api_version, kind, namespace, name] = [api_version, kind, namespace, name].map(str::to_owned);
        Self { api_version, kind, namespace, name, value }
    }

    fn read(value: Value) -> Option<Self> {
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            api_version: text("/apiVersion")?,
            kind: text("/kind")?,
            namespace: text("/metadata/namespace").unwrap_or_default(),
            name: text("/metadata/name")?,
            value,
        })
    }

    /// The group, empty for the core.
    pub(crate) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// As paths of the API spell the kind.
    pub(crate) fn plural(&self) -> String {
        let ending = if self.kind.ends_with('s') { "es" } else { "s" };
        self.kind.to_lowercase() + ending
    }

    /// As people name it: `Deployment istio-system/mesh-control`.
    pub(crate) fn title(&self) -> String {
        let separator = if self.namespace.is_empty() { "" } else { "/" };
        format!("{} {}{separator}{}", self.kind, self.namespace, self.name)
    }

    /// When it comes.
    pub(crate) fn stage(&self) -> Stage {
        match (self.kind.as_str(), self.name.as_str()) {
            ("Namespace" | "CustomResourceDefinition", _) => Stage::Base,
            ("ValidatingWebhookConfiguration", _) => Stage::Admission,
            (_, "mesh-node") => Stage::Node,
            (_, "mesh-control" | "istiod" | "istio" | "istio-sidecar-injector") => Stage::Control,
            _ => Stage::Gateways,
        }
    }
}

/// All objects of rendered templates and the definitions, in order.
pub(super) fn read(texts: &[(&'static str, String)]) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for (name, text) in chart::DEFINITIONS {
        objects.extend(documents(text).with_context(|| format!("definition {name}"))?);
    }
    for (name, text) in texts {
        objects.extend(documents(text).with_context(|| format!("template {name}"))?);
    }
    // Within a stage they stay in the order of the templates, but that accounts come before who uses them.
    objects.sort_by_key(|it| (it.stage(), rank(&it.kind)));
    Ok(objects)
}

fn documents(text: &str) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document)?;
        if !value.is_null() {
            objects.push(Object::read(value).context("an object without apiVersion, kind or name")?);
        }
    }
    Ok(objects)
}

fn rank(kind: &str) -> usize {
    let first = [
        "Namespace",
        "CustomResourceDefinition",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "ConfigMap",
        "Service",
    ];
    first.iter().position(|it| *it == kind).unwrap_or(first.len())
}
