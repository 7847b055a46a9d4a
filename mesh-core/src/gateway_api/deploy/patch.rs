//! Strategic merge patches, as Kubernetes applies them to the kinds that are made for a Gateway.

use serde_json::{Map, Value};

/// Changes `target` by `patch`: maps are merged, null removes, lists are merged item by item where Kubernetes tells their
/// items apart by a field, and are replaced otherwise. `$patch: replace` and `$patch: delete` are understood.
pub(super) fn strategic(target: &mut Value, patch: &Value) -> Result<(), String> {
    merge(target, patch, &mut Vec::new())
}

fn merge<'p>(target: &mut Value, patch: &'p Value, path: &mut Vec<&'p str>) -> Result<(), String> {
    match patch {
        Value::Object(fields) => merge_map(target, fields, path),
        Value::Array(items) => merge_list(target, items, path),
        other => {
            *target = other.clone();
            Ok(())
        }
    }
}

fn merge_map<'p>(
    target: &mut Value,
    fields: &'p Map<String, Value>,
    path: &mut Vec<&'p str>,
) -> Result<(), String> {
    match directive(fields, path)? {
        Some("replace") => *target = Value::Object(Map::new()),
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        _ => {}
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(into) = target.as_object_mut() else { return Ok(()) };
    for (key, value) in fields.iter().filter(|(key, _)| *key != DIRECTIVE) {
        path.push(key);
        if value.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.clone()).or_insert(Value::Null), value, path)?;
        }
        path.pop();
    }
    Ok(())
}

fn merge_list<'p>(target: &mut Value, items: &'p [Value], path: &mut Vec<&'p str>) -> Result<(), String> {
    let is_directive =
        |item: &Value| item.as_object().is_some_and(|it| it.len() == 1 && it.contains_key(DIRECTIVE));
    let replaces = items.iter().any(|item| is_directive(item) && item[DIRECTIVE] == "replace");
    let keys = keys_of(path).filter(|_| !replaces);
    let mut merged = match keys {
        Some(_) => target.as_array().cloned().unwrap_or_default(),
        None => Vec::new(),
    };
    for item in items.iter().filter(|item| !is_directive(item)) {
        let Some(key) = keys else {
            merged.push(item.clone());
            continue;
        };
        let id = &item[key];
        if id.is_null() {
            return Err(format!("{}: an item has no {key}, by which it is told from others", shown(path)));
        }
        let fields = item.as_object().map_or(Ok(None), |fields| directive(fields, path))?;
        let found = merged.iter().position(|it| it[key] == *id);
        match (found, fields) {
            (Some(at), Some("delete")) => drop(merged.remove(at)),
            (None, Some("delete")) => {}
            (Some(at), _) => merge(merged.get_mut(at).unwrap_or(&mut Value::Null), item, path)?,
            (None, _) => {
                let mut fresh = Value::Null;
                merge(&mut fresh, item, path)?;
                merged.push(fresh);
            }
        }
    }
    *target = Value::Array(merged);
    Ok(())
}

/// What a map says about itself. Other directives would change nothing without a word, so they are refused.
fn directive<'v>(fields: &'v Map<String, Value>, path: &[&str]) -> Result<Option<&'v str>, String> {
    if let Some(odd) = fields.keys().find(|key| key.starts_with('$') && *key != DIRECTIVE) {
        return Err(format!("{}: the directive {odd} is not supported", shown(path)));
    }
    match fields.get(DIRECTIVE).map(Value::as_str) {
        None => Ok(None),
        Some(Some(word @ ("merge" | "replace" | "delete"))) => Ok(Some(word)),
        Some(_) => Err(format!("{}: {DIRECTIVE} must be merge, replace or delete", shown(path))),
    }
}

fn shown(path: &[&str]) -> String {
    if path.is_empty() { "the patch".to_owned() } else { path.join(".") }
}

/// The field by which items of a list are told apart; `None` if the list is replaced as a whole. The fields are those of
/// Kubernetes' API (`patchMergeKey`).
fn keys_of(path: &[&str]) -> Option<&'static str> {
    let (last, parents) = path.split_last()?;
    let of_container = parents.last().is_some_and(|it| it.ends_with("ontainers"));
    match *last {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "imagePullSecrets"
        | "env"
        | "secrets"
        | "resourceClaims" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "volumeDevices" => Some("devicePath"),
        "topologySpreadConstraints" => Some("topologyKey"),
        "hostAliases" => Some("ip"),
        "ownerReferences" => Some("uid"),
        "ports" if of_container => Some("containerPort"),
        "ports" => Some("port"),
        _ => None,
    }
}

const DIRECTIVE: &str = "$patch";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut target: Value, patch: &Value) -> Value {
        strategic(&mut target, patch).unwrap();
        target
    }

    #[test]
    fn maps_merge_and_null_removes() {
        let before = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"type": "LoadBalancer"}});
        let patch = json!({"metadata": {"labels": {"b": null, "c": "3"}}, "spec": {"type": "ClusterIP"}});
        let after = json!({"metadata": {"labels": {"a": "1", "c": "3"}}, "spec": {"type": "ClusterIP"}});
        assert_eq!(patched(before, &patch), after);
    }

    #[test]
    fn lists_merge_by_what_tells_their_items_apart() {
        let before = json!({"spec": {
            "containers": [{"name": "a", "image": "i", "args": ["x"], "ports": [{"containerPort": 1}]}],
            "tolerations": [{"key": "old"}],
        }});
        let patch = json!({"spec": {
            "containers": [
                {"name": "a", "args": ["y"], "ports": [{"containerPort": 1, "name": "one"}, {"containerPort": 2}]},
                {"name": "b", "image": "j", "env": [{"name": "gone", "$patch": "delete"}]},
            ],
            "tolerations": [{"key": "new"}],
        }});
        let after = json!({"spec": {
            "containers": [
                {"name": "a", "image": "i", "args": ["y"], "ports": [{"containerPort": 1, "name": "one"}, {"containerPort": 2}]},
                {"name": "b", "image": "j", "env": []},
            ],
            "tolerations": [{"key": "new"}],
        }});
        assert_eq!(patched(before, &patch), after);
        let ports = json!({"ports": [{"port": 80, "name": "http"}]});
        let patch = json!({"ports": [{"port": 80, "nodePort": 30080}]});
        assert_eq!(
            patched(ports, &patch),
            json!({"ports": [{"port": 80, "name": "http", "nodePort": 30080}]})
        );
    }

    #[test]
    fn directives_replace_and_delete() {
        let before = json!({"containers": [{"name": "a"}, {"name": "b"}], "map": {"a": 1}});
        let delete = json!({"containers": [{"name": "a", "$patch": "delete"}]});
        assert_eq!(patched(before.clone(), &delete)["containers"], json!([{"name": "b"}]));
        let replace = json!({"containers": [{"$patch": "replace"}, {"name": "c"}], "map": {"$patch": "replace", "b": 2}});
        assert_eq!(patched(before, &replace), json!({"containers": [{"name": "c"}], "map": {"b": 2}}));
    }

    #[test]
    fn what_would_change_nothing_without_a_word_is_refused() {
        for (patch, why) in [
            (json!({"spec": {"$retainKeys": ["a"]}}), "spec: the directive $retainKeys is not supported"),
            (json!({"spec": {"$patch": "sort"}}), "spec: $patch must be merge, replace or delete"),
            (
                json!({"containers": [{"image": "i"}]}),
                "containers: an item has no name, by which it is told from others",
            ),
        ] {
            assert_eq!(strategic(&mut json!({}), &patch), Err(why.to_owned()), "{patch}");
        }
    }
}
