//! Who owns which field: the sets of `metadata.managedFields`, and server-side apply.
//!
//! An owner's set names the leaves of what it wrote: scalars, empty objects, lists that are replaced as a whole, and the
//! items of lists that are merged item by item. That is all that conflicts and removals are decided by.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::kinds::Lists;
use super::status::Refusal;

/// A place in an object. A step is spelled as in `managedFields`: `f:` and a field's name, `k:` and an item's keys,
/// `v:` and the item itself, or `.` for an item as such.
type Path = Vec<String>;
type Set = BTreeSet<Path>;

/// An entry of `managedFields` is known by its manager, operation and subresource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub(super) name: String,
    /// `Apply` or `Update`.
    pub(super) operation: &'static str,
    /// `status` or nothing.
    pub(super) subresource: String,
}

/// The owners of an object.
#[derive(Debug, Clone, Default)]
struct Owners(BTreeMap<Manager, Set>);

/// Notes in `after` that `manager` has made the difference to `before`.
pub(super) fn note_update(before: Option<&Value>, after: &mut Value, manager: Manager, lists: &Lists) {
    let nothing = json!({});
    let before = before.unwrap_or(&nothing);
    let mut owners = Owners::of(before);
    let (old, new) = (leaves(before, lists), leaves(after, lists));
    let changed: Set = new
        .iter()
        .filter(|path| !old.contains(*path) || at(before, path) != at(after, path))
        .cloned()
        .collect();
    for set in owners.0.values_mut() {
        set.retain(|path| new.contains(path) && !changed.contains(path));
    }
    owners.0.entry(manager).or_default().extend(changed);
    owners.write(after);
}

/// Server-side apply: what `live` becomes when `manager` wants it to contain `wanted`.
pub(super) fn apply(
    live: &Value,
    wanted: &Value,
    manager: &Manager,
    force: bool,
    lists: &Lists,
) -> Result<Value, Refusal> {
    let mut owners = Owners::of(live);
    let mine = leaves(wanted, lists);
    let mut merged = live.clone();
    merge(&mut merged, wanted, "", lists);
    let mut conflicts = Vec::new();
    for (other, set) in owners.0.iter_mut().filter(|(other, _)| *other != manager) {
        let against: Vec<_> = set
            .iter()
            .filter(|path| mine.contains(*path) && at(live, path) != at(&merged, path))
            .cloned()
            .collect();
        for path in against {
            if force {
                set.remove(&path);
            } else {
                conflicts.push((other.clone(), path));
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    let before = owners.0.insert(manager.clone(), mine.clone()).unwrap_or_default();
    for path in before.difference(&mine) {
        // An item goes as a whole, unless somebody still has something in it; what is in it then goes field by field.
        let place = path.strip_suffix(&[ITEM.to_owned()]).unwrap_or(path);
        let is_within = |other: &Path| other.starts_with(place);
        if !owners.0.values().flatten().any(is_within) {
            remove(&mut merged, place);
        }
    }
    owners.write(&mut merged);
    Ok(merged)
}

impl Owners {
    fn of(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        let read = |entry: &Value| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let operation = if entry["operation"] == "Apply" { "Apply" } else { "Update" };
            let manager = Manager { name: text("manager"), operation, subresource: text("subresource") };
            let mut set = Set::new();
            collect(&entry["fieldsV1"], &mut Vec::new(), &mut set);
            (manager, set)
        };
        Self(entries.map(read).collect())
    }

    fn write(&self, object: &mut Value) {
        let api_version = object["apiVersion"].clone();
        let entries = self.0.iter().filter(|(_, set)| !set.is_empty()).map(|(manager, set)| {
            let mut fields = json!({});
            for path in set {
                let mut place = &mut fields;
                for step in path {
                    place = &mut place[step];
                }
                if place.is_null() {
                    *place = json!({});
                }
            }
            let mut entry = json!({
                "manager": manager.name, "operation": manager.operation, "apiVersion": api_version,
                "fieldsType": "FieldsV1", "fieldsV1": fields,
            });
            if !manager.subresource.is_empty() {
                entry["subresource"] = json!(manager.subresource);
            }
            entry
        });
        object["metadata"]["managedFields"] = entries.collect();
    }
}

/// The paths of a `fieldsV1`.
fn collect(fields: &Value, path: &mut Path, set: &mut Set) {
    match fields.as_object() {
        Some(steps) if !steps.is_empty() => {
            for (step, rest) in steps {
                path.push(step.clone());
                collect(rest, path, set);
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => drop(set.insert(path.clone())),
    }
}

/// The leaves of what an object says, without what nobody can own.
fn leaves(object: &Value, lists: &Lists) -> Set {
    let mut set = Set::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    if OWNED_METADATA.contains(&key.as_str()) {
                        let path = &mut vec!["f:metadata".into(), format!("f:{key}")];
                        walk(value, path, (&format!("metadata.{key}"), lists), &mut set);
                    }
                }
            }
            _ => walk(value, &mut vec![format!("f:{key}")], (key, lists), &mut set),
        }
    }
    set
}

fn walk(value: &Value, path: &mut Path, (place, lists): (&str, &Lists), set: &mut Set) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                path.push(format!("f:{key}"));
                walk(value, path, (&format!("{place}.{key}"), lists), set);
                path.pop();
            }
        }
        Value::Array(items) if lists.contains_key(place) => {
            for item in items {
                let keys = lists.get(place).map(Vec::as_slice).unwrap_or_default();
                path.push(step_of(item, keys));
                path.push(ITEM.into());
                set.insert(path.clone());
                path.pop();
                if !keys.is_empty() {
                    walk(item, path, (place, lists), set);
                }
                path.pop();
            }
        }
        _ => drop(set.insert(path.clone())),
    }
}

fn step_of(item: &Value, keys: &[String]) -> String {
    if keys.is_empty() {
        return format!("v:{item}");
    }
    let keys: Map<_, _> =
        keys.iter().filter_map(|key| Some((key.clone(), default_key(key, &item[key])?))).collect();
    format!("k:{}", Value::Object(keys))
}

/// A port without a protocol is one of TCP.
fn default_key(key: &str, value: &Value) -> Option<Value> {
    match value {
        Value::Null if key == "protocol" => Some(json!("TCP")),
        Value::Null => None,
        value => Some(value.clone()),
    }
}

/// The value at a place.
fn at<'v>(object: &'v Value, path: &[String]) -> Option<&'v Value> {
    let mut place = object;
    for step in path {
        place = match step.split_at_checked(2) {
            Some(("f:", name)) => place.get(name)?,
            Some(("k:" | "v:", _)) => place.as_array()?.iter().find(|item| is_meant(item, step))?,
            _ => return Some(&Value::Null),
        };
    }
    Some(place)
}

fn is_meant(item: &Value, step: &str) -> bool {
    match step.split_at_checked(2) {
        Some(("v:", text)) => serde_json::from_str(text).is_ok_and(|wanted: Value| wanted == *item),
        Some(("k:", text)) => {
            let keys: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            keys.iter().all(|(key, value)| default_key(key, &item[key]).as_ref() == Some(value))
        }
        _ => false,
    }
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut place = object;
    for step in parents {
        let next = match (step.split_at_checked(2), place) {
            (Some(("f:", name)), Value::Object(fields)) => fields.get_mut(name),
            (_, Value::Array(items)) => items.iter_mut().find(|item| is_meant(item, step)),
            _ => None,
        };
        let Some(next) = next else { return };
        place = next;
    }
    match (last.split_at_checked(2), place) {
        (Some(("f:", name)), Value::Object(fields)) => drop(fields.remove(name)),
        (_, Value::Array(items)) => items.retain(|item| !is_meant(item, last)),
        _ => {}
    }
}

/// Puts `wanted` into `live`.
fn merge(live: &mut Value, wanted: &Value, place: &str, lists: &Lists) {
    match wanted {
        Value::Object(fields) => {
            if !live.is_object() {
                *live = json!({});
            }
            for (key, value) in fields {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                merge(&mut live[key], value, &place, lists);
            }
        }
        Value::Array(items) if lists.contains_key(place) => {
            let keys = lists.get(place).map(Vec::as_slice).unwrap_or_default();
            let mut merged = live.as_array().cloned().unwrap_or_default();
            for item in items {
                let step = step_of(item, keys);
                match merged.iter_mut().find(|old| is_meant(old, &step)) {
                    Some(old) => merge(old, item, place, lists),
                    None => merged.push(item.clone()),
                }
            }
            *live = Value::Array(merged);
        }
        other => *live = other.clone(),
    }
}

fn conflict(conflicts: &[(Manager, Path)]) -> Refusal {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(manager, path)| {
            let field: String = path.iter().filter(|step| *step != ITEM).fold(String::new(), |text, step| {
                match step.split_at_checked(2) {
                    Some(("f:", name)) => format!("{text}.{name}"),
                    _ => format!("{text}[{}]", step.get(2..).unwrap_or_default()),
                }
            });
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with \"{}\"", manager.name),
                "field": field,
            })
        })
        .collect();
    let message = format!("Apply failed with {} conflict(s)", causes.len());
    Refusal { details: json!({"causes": causes}), ..Refusal::new(409, "Conflict", message) }
}

/// The step that means an item as such.
const ITEM: &str = ".";

/// Of metadata, what somebody can own.
const OWNED_METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

#[cfg(test)]
mod tests;
