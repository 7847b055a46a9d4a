//! Files of kind `IstioOperator`, as tutorials have them: what of them means something here, in values of the chart, and a
//! warning for each of the others.

use serde_json::{Map, Value, json};

/// What a file says, and what of it has no effect: a line each, with the field, the reason and what to do.
#[derive(Debug, Default)]
pub(super) struct Translated {
    /// Values of the chart, only those that are said.
    pub(super) values: Value,
    /// Lines for people.
    pub(super) warnings: Vec<String>,
}

/// Translates the `spec` of an `IstioOperator`.
pub(super) fn translate(spec: &Value) -> Translated {
    let mut translated = Translated { values: json!({}), warnings: Vec::new() };
    for (field, value) in entries(spec) {
        match field.as_str() {
            "profile" | "meshConfig" => translated.values[field] = value.clone(),
            "tag" => translated.tag("tag", value),
            "hub" => translated.hub("hub", value),
            "components" => entries(value).for_each(|(name, it)| translated.component(name, it)),
            "values" => entries(value).for_each(|(name, it)| translated.value(name, it)),
            "addonComponents" => {
                for (name, _) in entries(value).filter(|(_, it)| it["enabled"] != false) {
                    let hint = "install it beside the mesh, from its own manifests or those of Istio's samples/addons";
                    translated.warn(&format!("addonComponents.{name}"), "is not part of the mesh", hint);
                }
            }
            "namespace" if value == super::NAMESPACE => {}
            "namespace" => {
                let reason = format!("the mesh is installed in {}, wherever this says", super::NAMESPACE);
                translated.warn("namespace", &reason, "leave it out");
            }
            "revision" => {
                let hint = "leave it out; an upgrade is done in place, pod by pod";
                translated.warn("revision", "there is one control plane, and it has no revisions", hint);
            }
            _ => translated.warn(field, "means nothing here", "leave it out"),
        }
    }
    translated
}

impl Translated {
    fn warn(&mut self, field: &str, reason: &str, hint: &str) {
        self.warnings.push(format!("{field}: {reason} ({hint})"));
    }

    /// Istio's own images have no mesh in them.
    fn hub(&mut self, field: &str, hub: &Value) {
        let text = hub.as_str().unwrap_or_default().trim_end_matches('/');
        if ISTIO_HUBS.iter().any(|known| text.starts_with(known)) {
            let hint = "leave it out, or name the registry that has the image mesh";
            return self.warn(field, "this registry has Istio's images, and none of the mesh", hint);
        }
        self.values["image"]["repository"] = json!(format!("{text}/mesh"));
    }

    fn tag(&mut self, field: &str, tag: &Value) {
        let text = tag.as_str().map_or_else(|| tag.to_string(), str::to_owned);
        if text.starts_with("1.") {
            let hint = "leave it out, or name a version of the mesh";
            return self.warn(field, "is a version of Istio", hint);
        }
        self.values["image"]["tag"] = json!(text);
    }

    fn component(&mut self, name: &str, component: &Value) {
        let field = format!("components.{name}");
        match name {
            "base" if component["enabled"] == false => {
                self.warn(&field, "definitions of kinds are always installed", "leave it out");
            }
            "base" => {}
            "pilot" => self.part("control", &field, component),
            "ztunnel" => self.part("node", &field, component),
            "cni" => {
                if component["enabled"].is_boolean() {
                    self.values["node"]["cni"]["enabled"] = component["enabled"].clone();
                }
                if component.get("k8s").is_some() {
                    self.warn(
                        &format!("{field}.k8s"),
                        "the plugin is part of the node agent",
                        "use components.ztunnel.k8s",
                    );
                }
            }
            "ingressGateways" => self.gateways(&field, component, "ingressgateway", "LoadBalancer"),
            "egressGateways" => self.gateways(&field, component, "egressgateway", "ClusterIP"),
            _ => self.warn(&field, "there is no such component here", "leave it out"),
        }
    }

    fn part(&mut self, part: &str, field: &str, component: &Value) {
        let mut values = json!({});
        for (key, value) in entries(component) {
            match key.as_str() {
                "enabled" => values["enabled"] = value.clone(),
                "k8s" => self.kubernetes(&format!("{field}.k8s"), value, &mut values, part),
                _ => self.warn(&format!("{field}.{key}"), "means nothing here", "leave it out"),
            }
        }
        // The CNI plugin, which is a component of its own in Istio, is part of the agent here.
        super::values::merge(&mut self.values[part], &values);
    }

    fn gateways(&mut self, field: &str, list: &Value, role: &str, service: &str) {
        for (at, gateway) in list.as_array().into_iter().flatten().enumerate() {
            let field = format!("{field}[{at}]");
            let standard = format!("istio-{role}");
            let name = gateway["name"].as_str().unwrap_or(&standard).to_owned();
            let mut values = json!({"enabled": true});
            if name != standard {
                values["labels"] = json!({"app": name, "istio": role});
                values["service"]["type"] = json!(service);
            }
            for (key, value) in entries(gateway) {
                match key.as_str() {
                    "name" => {}
                    "enabled" => values["enabled"] = value.clone(),
                    "label" => entries(value).for_each(|(key, it)| values["labels"][key] = it.clone()),
                    "k8s" => self.kubernetes(&format!("{field}.k8s"), value, &mut values, "gateway"),
                    "namespace" if value == super::NAMESPACE => {}
                    "namespace" => {
                        let hint = "make a Gateway of the Gateway API there: its class istio is deployed where it is";
                        self.warn(
                            &format!("{field}.namespace"),
                            "gateways are installed in istio-system",
                            hint,
                        );
                    }
                    _ => self.warn(&format!("{field}.{key}"), "means nothing here", "leave it out"),
                }
            }
            super::values::merge(&mut self.values["gateways"][&name], &values);
        }
    }

    /// What `k8s` of a component changes.
    fn kubernetes(&mut self, field: &str, k8s: &Value, values: &mut Value, part: &str) {
        let is_scaled = part != "node";
        for (key, value) in entries(k8s) {
            match key.as_str() {
                "resources" | "env" | "nodeSelector" | "tolerations" | "podAnnotations" => {
                    values[key] = value.clone();
                }
                "priorityClassName" if part != "gateway" => values[key] = value.clone(),
                "replicaCount" if is_scaled => replicas(value, k8s, values, part),
                "hpaSpec" if is_scaled => self.autoscale(field, value, values),
                "service" if part == "gateway" => service(value, values),
                "serviceAnnotations" if part == "gateway" => {
                    values["service"]["annotations"] = value.clone();
                }
                _ => {
                    let hint =
                        "change the object after `meshctl manifest generate`, for example with kustomize";
                    self.warn(&format!("{field}.{key}"), "cannot be changed here", hint);
                }
            }
        }
    }

    fn autoscale(&mut self, field: &str, spec: &Value, values: &mut Value) {
        let scale = &mut values["autoscale"];
        scale["enabled"] = json!(true);
        for (key, value) in entries(spec) {
            match key.as_str() {
                "minReplicas" => scale["min"] = value.clone(),
                "maxReplicas" => scale["max"] = value.clone(),
                "metrics" => {
                    let cpu =
                        ["/0/resource/target/averageUtilization", "/0/resource/targetAverageUtilization"];
                    match cpu.iter().find_map(|it| value.pointer(it)) {
                        Some(cpu) => scale["cpu"] = cpu.clone(),
                        None => self.warn(
                            &format!("{field}.hpaSpec.metrics"),
                            "only the load of processors is measured",
                            "leave it out",
                        ),
                    }
                }
                // Whom it scales is known.
                "scaleTargetRef" => {}
                _ => self.warn(&format!("{field}.hpaSpec.{key}"), "cannot be changed here", "leave it out"),
            }
        }
    }

    /// Values of Istio's charts, of which a few mean the same here.
    fn value(&mut self, name: &str, value: &Value) {
        for (key, inner) in entries(value) {
            let field = format!("values.{name}.{key}");
            match (name, key.as_str()) {
                ("global", "hub") => self.hub(&field, inner),
                ("global", "tag") => self.tag(&field, inner),
                ("global", "imagePullPolicy") => self.values["image"]["pullPolicy"] = inner.clone(),
                ("global", "imagePullSecrets") => self.values["image"]["pullSecrets"] = inner.clone(),
                ("gateways", "istio-ingressgateway" | "istio-egressgateway") => {
                    self.gateway_value(key, inner);
                }
                ("kiali" | "grafana" | "prometheus" | "tracing", _) => {
                    let hint = format!("say it to {name} itself, which is installed beside the mesh");
                    self.warn(&field, "is about an add-on, which is not part of the mesh", &hint);
                }
                _ => {
                    let hint = "see deploy/helm/mesh/values.yaml for what can be said";
                    self.warn(&field, "is a value of Istio's charts, and has no effect", hint);
                }
            }
        }
    }

    fn gateway_value(&mut self, gateway: &str, value: &Value) {
        for (key, inner) in entries(value) {
            let values = &mut self.values["gateways"][gateway];
            match key.as_str() {
                "type" => values["service"]["type"] = inner.clone(),
                "ports" => values["service"]["ports"] = inner.clone(),
                "serviceAnnotations" => values["service"]["annotations"] = inner.clone(),
                "autoscaleEnabled" => values["autoscale"]["enabled"] = inner.clone(),
                "autoscaleMin" => values["autoscale"]["min"] = inner.clone(),
                "autoscaleMax" => values["autoscale"]["max"] = inner.clone(),
                "enabled" | "resources" => values[key] = inner.clone(),
                _ => {
                    let hint = "see deploy/helm/mesh/values.yaml for what can be said";
                    self.warn(&format!("values.gateways.{gateway}.{key}"), "has no effect", hint);
                }
            }
        }
    }
}

/// Who names a number of replicas means it: nothing else scales them then.
fn replicas(count: &Value, k8s: &Value, values: &mut Value, part: &str) {
    values["replicas"] = count.clone();
    if k8s.get("hpaSpec").is_none() {
        values["autoscale"]["enabled"] = json!(false);
        if part == "control" && count.as_u64().is_some_and(|count| count < 2) {
            values["budget"] = json!(false);
        }
    }
}

fn service(said: &Value, values: &mut Value) {
    for (key, value) in entries(said) {
        match key.as_str() {
            "type" | "ports" => values["service"][key] = value.clone(),
            _ => values["service"]["extra"][key] = value.clone(),
        }
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// Where Istio's images are.
const ISTIO_HUBS: [&str; 4] = ["docker.io/istio", "gcr.io/istio", "registry.istio.io", "istio"];

#[cfg(test)]
mod tests;
