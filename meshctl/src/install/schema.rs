//! `values.schema.json` of the chart: what Helm holds values against, so that a name that is not known is refused with its place. It
//! follows from the types that this program reads the same values with.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::request;
use super::values::Values;

/// The schema, JSON Schema draft 7.
pub(crate) fn schema() -> Result<Value> {
    // Every field is in them, none is left out by a type.
    let values = serde_json::to_value(Values::read(&request::defaults("default")?)?)?;
    let mut schema = of("", &values);
    // A gateway may leave out anything; what holds then is in `gatewayDefaults`.
    schema["properties"]["gateways"] =
        json!({"type": "object", "additionalProperties": schema["properties"]["gatewayDefaults"]});
    // Helm's own: values for a chart and those that it is made of.
    schema["properties"]["global"] = json!({"type": "object"});
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Values of the chart mesh");
    Ok(schema)
}

/// What may stand where `value` stands by default.
fn of(path: &str, value: &Value) -> Value {
    let field = path.rsplit('.').next().unwrap_or_default();
    match field {
        // As Istio and Kubernetes define them; `meshctl` and the API server look into them.
        "meshConfig" | "resources" | "extra" => return json!({"type": "object"}),
        "labels" | "annotations" | "podAnnotations" | "nodeSelector" => {
            return json!({"type": "object", "additionalProperties": {"type": "string"}});
        }
        "env" | "tolerations" | "ports" => return json!({"type": "array", "items": {"type": "object"}}),
        "extraArgs" | "pullSecrets" => return json!({"type": "array", "items": {"type": "string"}}),
        "pullPolicy" => return json!({"enum": ["Always", "IfNotPresent", "Never"]}),
        "type" => return json!({"enum": ["ClusterIP", "LoadBalancer", "NodePort"]}),
        "maxSurge" => return json!({"type": ["integer", "string"]}),
        _ => {}
    }
    match value {
        Value::Object(fields) => {
            let properties: Map<String, Value> = fields
                .iter()
                .map(|(name, value)| (name.clone(), of(&format!("{path}.{name}"), value)))
                .collect();
            json!({"type": "object", "additionalProperties": false, "properties": properties})
        }
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Number(_) => json!({"type": "integer", "minimum": 0}),
        Value::String(_) => json!({"type": "string"}),
        // Of what is in a list or is nothing by default a default says nothing.
        Value::Array(_) | Value::Null => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each<'s>(path: &str, schema: &'s Value, all: &mut Vec<(String, &'s Value)>) {
        all.push((path.to_owned(), schema));
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            each(&format!("{path}.{name}"), inner, all);
        }
    }

    #[test]
    fn something_is_said_of_every_value() {
        let schema = schema().unwrap();
        let mut all = Vec::new();
        each("", &schema, &mut all);
        for (path, schema) in &all {
            assert!(schema.get("type").or(schema.get("enum")).is_some(), "{path}: {schema}");
        }
        for known in
            [".node.cni.confDir", ".image.pullPolicy", ".control.links.kiali", ".gatewayDefaults.budget"]
        {
            assert!(all.iter().any(|(path, _)| path == known), "{known}");
        }
    }

    #[test]
    fn the_chart_has_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/mesh/values.schema.json");
        let there: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(there, schema().unwrap(), "run `cargo xtask manifests`");
    }
}
