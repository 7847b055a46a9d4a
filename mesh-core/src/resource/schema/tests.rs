use serde_json::Value;

use super::super::ServedKind;
use super::super::kind::Kind;
use super::{crds, rows};

#[test]
fn every_kind_of_istio_and_of_ours_has_a_definition() {
    let kinds: Vec<_> = rows().iter().map(|row| row.kind).collect();
    for kind in Kind::ALL.iter().copied().filter(|kind| kind.is_istio() || kind.is_own()) {
        assert!(kinds.contains(&ServedKind::used(kind)), "{}: add a row to schema.rs", kind.name());
    }
}

fn is_unsupported(file: &str) -> bool {
    ["envoyfilters.", "wasmplugins.", "trafficextensions."].iter().any(|name| file.starts_with(name))
}

#[test]
fn what_is_not_acted_on_is_taken_and_says_so() {
    let crds: Vec<_> = crds().into_iter().filter(|crd| is_unsupported(&crd.file)).collect();
    assert_eq!(crds.len(), 3);
    for crd in crds {
        let versions = crd.definition["spec"]["versions"].as_array().expect("a list").clone();
        let [version] = &versions[..] else { panic!("{versions:?}") };
        assert_eq!(version["storage"], true);
        let schema = &version["schema"]["openAPIV3Schema"];
        let said = schema["description"].as_str().expect("text");
        assert!(said.starts_with("Accepted, and not acted on: there is no Envoy"), "{said}");
        assert!(schema.get("required").is_none(), "{schema}");
    }
}

/// Calls `look` for every schema of every definition, with its place.
fn every_schema(mut look: impl FnMut(&str, &Value)) {
    fn walk(place: &str, schema: &Value, look: &mut impl FnMut(&str, &Value)) {
        look(place, schema);
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{place}.{name}"), property, look);
        }
        for key in ["items", "additionalProperties"] {
            if schema[key].is_object() {
                walk(&format!("{place}[]"), &schema[key], look);
            }
        }
    }
    for crd in crds() {
        for version in crd.definition["spec"]["versions"].as_array().expect("a list") {
            let place = format!("{} {}", crd.file, version["name"]);
            walk(&place, &version["schema"]["openAPIV3Schema"], &mut look);
        }
    }
}

#[test]
fn schemas_are_structural() {
    let known = [
        "additionalProperties",
        "allOf",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "not",
        "oneOf",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    ];
    let types = ["array", "boolean", "integer", "number", "object", "string"];
    let mut count = 0;
    every_schema(|place, schema| {
        count += 1;
        let schema = schema.as_object().unwrap_or_else(|| panic!("{place}: {schema}"));
        for key in schema.keys() {
            assert!(known.contains(&key.as_str()), "{place}: {key}");
        }
        let kind = schema["type"].as_str().unwrap_or_else(|| panic!("{place}: {schema:?}"));
        assert!(types.contains(&kind), "{place}: {kind}");
        assert_eq!(kind == "array", schema.contains_key("items"), "{place}");
        let about = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        assert!(!about.contains("::") && !about.contains("see `"), "{place}: {about}");
        let words = schema.get("enum").and_then(Value::as_array);
        assert!(words.is_none_or(|words| words.iter().all(Value::is_string)), "{place}");
        let open = schema.contains_key("x-kubernetes-preserve-unknown-fields");
        let unread = is_unsupported(place) && place.ends_with("\".spec");
        assert_eq!(open, place.ends_with("\".status") || unread, "{place}");
        let of_object = schema.contains_key("properties") || schema.contains_key("additionalProperties");
        assert_eq!(kind == "object", of_object || open, "{place}");
        assert!(
            !(schema.contains_key("properties") && schema.contains_key("additionalProperties")),
            "{place}"
        );
        for name in schema.get("required").into_iter().filter_map(Value::as_array).flatten() {
            assert!(schema["properties"][name.as_str().expect("a name")].is_object(), "{place}: {name}");
        }
    });
    assert!(count > 1_000, "{count}");
}

#[test]
fn fields_are_named_in_conditions_as_they_are() {
    fn names<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(map) => {
                found.extend(
                    map.get("required")
                        .into_iter()
                        .filter_map(Value::as_array)
                        .flatten()
                        .filter_map(Value::as_str),
                );
                map.values().for_each(|value| names(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }
    every_schema(|place, schema| {
        let mut found = Vec::new();
        for key in ["oneOf", "allOf", "not"] {
            names(&schema[key], &mut found);
        }
        for name in found {
            assert!(schema["properties"][name].is_object(), "{place}: {name}");
        }
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let rule = rule["rule"].as_str().expect("a rule");
            for name in rule.split("self.").skip(1).filter(|_| schema["properties"].is_object()) {
                let name = name.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
                assert!(schema["properties"][name].is_object(), "{place}: {rule}");
            }
        }
    });
}

#[test]
fn definitions_look_as_users_know_them() {
    let crds = crds();
    let files: Vec<_> = crds.iter().map(|crd| crd.file.as_str()).collect();
    assert!(files.contains(&"virtualservices.networking.istio.io.yaml"), "{files:?}");
    let service = crds.iter().find(|crd| crd.file.starts_with("virtualservices.")).expect("there");
    let spec = &service.definition["spec"];
    assert_eq!(spec["names"]["shortNames"][0], "vs");
    assert_eq!(spec["names"]["categories"], serde_json::json!(["istio-io", "networking-istio-io"]));
    let versions = spec["versions"].as_array().expect("a list");
    let stored: Vec<_> = versions.iter().filter(|it| it["storage"] == true).map(|it| &it["name"]).collect();
    assert_eq!(stored, ["v1"]);
    assert!(
        versions
            .iter()
            .all(|version| version["served"] == true && version["subresources"]["status"].is_object())
    );
    let columns: Vec<_> = versions[0]["additionalPrinterColumns"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| &it["name"])
        .collect();
    assert_eq!(columns, ["Gateways", "Hosts", "Age"]);
    let http = &versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["http"]["items"]
        ["properties"];
    assert_eq!(http["timeout"]["x-kubernetes-validations"][0]["rule"], "duration(self) >= duration('1ms')");
    assert_eq!(http["match"]["items"]["properties"]["uri"]["oneOf"].as_array().map(Vec::len), Some(4));
}
