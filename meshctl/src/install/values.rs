//! What can be said about an installation, checked.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements, ServicePort, ServiceSpec, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh_core::id::TrustDomain;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All values of the chart, none missing. See `deploy/helm/mesh/values.yaml` for what they mean.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Values {
    profile: String,
    image: Image,
    namespace: Namespace,
    trust_domain: String,
    cluster_name: String,
    mesh_config: serde_json::Map<String, Value>,
    control: Control,
    node: Node,
    gateway_defaults: Gateway,
    gateways: BTreeMap<String, Gateway>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    repository: String,
    tag: String,
    pull_policy: PullPolicy,
    pull_secrets: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Serialize, Deserialize)]
struct Namespace {
    create: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Autoscale {
    enabled: bool,
    min: u32,
    max: u32,
    cpu: u32,
}

/// What can be said of any of the mesh's pods.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pods {
    enabled: bool,
    resources: ResourceRequirements,
    env: Vec<EnvVar>,
    extra_args: Vec<String>,
    pod_annotations: BTreeMap<String, String>,
    node_selector: BTreeMap<String, String>,
    tolerations: Vec<Toleration>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Control {
    #[serde(flatten)]
    pods: Pods,
    replicas: u32,
    autoscale: Autoscale,
    budget: bool,
    priority_class_name: String,
    links: Links,
}

/// What the mesh page links to; nothing where it is empty.
#[derive(Debug, Serialize, Deserialize)]
struct Links {
    kiali: String,
    grafana: String,
    jaeger: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    #[serde(flatten)]
    pods: Pods,
    priority_class_name: String,
    max_surge: IntOrString,
    cni: Cni,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cni {
    enabled: bool,
    conf_dir: String,
    bin_dir: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Gateway {
    #[serde(flatten)]
    pods: Pods,
    labels: BTreeMap<String, String>,
    replicas: u32,
    autoscale: Autoscale,
    budget: bool,
    service: Service,
}

#[derive(Debug, Serialize, Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: ServiceType,
    annotations: BTreeMap<String, String>,
    extra: ServiceSpec,
    ports: Vec<ServicePort>,
}

#[derive(Debug, Serialize, Deserialize)]
enum ServiceType {
    ClusterIP,
    LoadBalancer,
    NodePort,
}

impl Values {
    /// Checks what was said. Every error names the field.
    pub(super) fn read(said: &Value) -> Result<Self> {
        let mut values: Self = read_parts(said)?;
        let typed = serde_json::to_value(&values)?;
        if let Some(unknown) = lost(said, &typed, "") {
            bail!("{unknown}: there is no such field (see `meshctl profile dump` for those that there are)");
        }
        // Its type is a field of its own.
        values.mesh_config = said["meshConfig"].as_object().cloned().unwrap_or_default();
        values.check()?;
        Ok(values)
    }

    fn check(&self) -> Result<()> {
        image_part("image.repository", &self.image.repository, "/:.-_")?;
        image_part("image.tag", &self.image.tag, ".-_")?;
        if let Err(error) = TrustDomain::parse(&self.trust_domain) {
            bail!("trustDomain: {error}");
        }
        let configured = self.mesh_config.get("trustDomain");
        if let Some(other) = configured.filter(|it| it.as_str() != Some(&self.trust_domain)) {
            bail!(
                "trustDomain: is {}, and meshConfig.trustDomain is {other}: leave one of them out",
                self.trust_domain
            );
        }
        scale("control", self.control.replicas, &self.control.autoscale)?;
        if self.control.budget && !self.control.autoscale.enabled && self.control.replicas < 2 {
            bail!(
                "control.budget: one replica alone could not be drained: control.budget=false, or two replicas"
            );
        }
        let Links { kiali, grafana, jaeger } = &self.control.links;
        for (field, link) in [("kiali", kiali), ("grafana", grafana), ("jaeger", jaeger)] {
            let is_web = ["http://", "https://"]
                .iter()
                .any(|scheme| link.len() > scheme.len() && link.starts_with(scheme));
            if !link.is_empty() && !is_web {
                bail!("control.links.{field}: {link:?} does not begin with http:// or https://");
            }
        }
        for (field, path) in [("confDir", &self.node.cni.conf_dir), ("binDir", &self.node.cni.bin_dir)] {
            if !path.starts_with('/') || path.contains("..") {
                bail!("node.cni.{field}: {path:?} is no directory by its whole path");
            }
        }
        self.gateways.iter().try_for_each(|(name, gateway)| gateway.check(name))
    }
}

impl Gateway {
    fn check(&self, name: &str) -> Result<()> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_name = (1..=63).contains(&name.len())
            && name.bytes().all(inner)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !is_name {
            bail!("gateways.{name}: no name for an object: at most 63 of a-z, 0-9 and -");
        }
        if self.labels.is_empty() {
            bail!("gateways.{name}.labels: it needs one at least, for Gateways to select it by");
        }
        if self.service.ports.is_empty() {
            bail!("gateways.{name}.service.ports: a Service needs one at least");
        }
        let extra = serde_json::to_value(&self.service.extra)?;
        let twice = ["type", "selector", "ports"].into_iter().find(|field| extra.get(field).is_some());
        if let Some(field) = twice {
            bail!("gateways.{name}.service.extra.{field}: it has a place of its own");
        }
        scale(&format!("gateways.{name}"), self.replicas, &self.autoscale)
    }
}

/// As a whole, and if that fails part by part, so that the error says where.
fn read_parts(said: &Value) -> Result<Values> {
    let error = match Values::deserialize(said) {
        Ok(values) => return Ok(values),
        Err(error) => error,
    };
    let part = |field: &str, result: serde_json::Result<()>| match result {
        Ok(()) => Ok(()),
        Err(error) => bail!("{field}: {error}"),
    };
    part("image", Image::deserialize(&said["image"]).map(drop))?;
    part("control", Control::deserialize(&said["control"]).map(drop))?;
    part("node", Node::deserialize(&said["node"]).map(drop))?;
    part("gatewayDefaults", Gateway::deserialize(&said["gatewayDefaults"]).map(drop))?;
    for (name, gateway) in said["gateways"].as_object().into_iter().flatten() {
        part(&format!("gateways.{name}"), Gateway::deserialize(gateway).map(drop))?;
    }
    bail!("{error}")
}

/// The path of a field that types have no place for.
fn lost(said: &Value, typed: &Value, path: &str) -> Option<String> {
    match (said, typed) {
        (Value::Object(said), Value::Object(typed)) => said.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match typed.get(key) {
                Some(typed) => lost(value, typed, &path),
                // What is not there need not be anywhere.
                None => (!value.is_null() && !is_empty(value)).then_some(path),
            }
        }),
        (Value::Array(said), Value::Array(typed)) => {
            let mut pairs = said.iter().zip(typed).enumerate();
            pairs.find_map(|(at, (said, typed))| lost(said, typed, &format!("{path}[{at}]")))
        }
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn image_part(field: &str, text: &str, besides: &str) -> Result<()> {
    let is_good = |letter: char| letter.is_ascii_alphanumeric() || besides.contains(letter);
    if text.is_empty() || !text.chars().all(is_good) {
        bail!("{field}: {text:?} is no part of an image's name");
    }
    Ok(())
}

fn scale(field: &str, replicas: u32, autoscale: &Autoscale) -> Result<()> {
    let Autoscale { enabled, min, max, cpu } = *autoscale;
    if enabled && (min == 0 || min > max) {
        bail!("{field}.autoscale: min is {min} and max is {max}; min is at least 1, and not above max");
    }
    if enabled && cpu == 0 {
        bail!("{field}.autoscale.cpu: no load at all is more than 0 %");
    }
    if replicas >= MOST_REPLICAS || max >= MOST_REPLICAS {
        bail!("{field}: more than {MOST_REPLICAS} replicas");
    }
    Ok(())
}

const MOST_REPLICAS: u32 = 1000;

/// Lays `over` over `values`: maps are merged, all else is replaced, and `null` takes away.
pub(super) fn merge(values: &mut Value, over: &Value) {
    match (values, over) {
        (Value::Object(values), Value::Object(over)) => {
            for (key, over) in over {
                if over.is_null() {
                    values.remove(key);
                } else {
                    merge(values.entry(key.clone()).or_insert(Value::Null), over);
                }
            }
        }
        (values, over) => *values = over.clone(),
    }
}
