//! The patches that are just arithmetic: JSON merge patch (RFC 7396), JSON patch (RFC 6902), and the part of strategic
//! merge patch that follows from the keys of lists.

use serde_json::{Map, Value};

use super::kinds::Lists;
use super::status::Refusal;

/// RFC 7396.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("just made one").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// As [`merge`], but the items of lists that have keys are merged one by one; `$patch: delete` removes one.
pub(super) fn strategic(target: &mut Value, patch: &Value, place: &str, lists: &Lists) {
    match patch {
        Value::Object(fields) => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            for (key, value) in fields {
                if value.is_null() {
                    target.as_object_mut().expect("just made one").remove(key);
                } else {
                    let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                    strategic(&mut target[key], value, &place, lists);
                }
            }
        }
        Value::Array(items) => match (lists.get(place), target.as_array_mut()) {
            (Some(keys), Some(old)) => merge_items(old, items, (keys, place), lists),
            _ => *target = patch.clone(),
        },
        other => *target = other.clone(),
    }
}

fn merge_items(old: &mut Vec<Value>, items: &[Value], (keys, place): (&[String], &str), lists: &Lists) {
    for item in items {
        let same = |other: &Value| {
            if keys.is_empty() { other == item } else { keys.iter().all(|key| other[key] == item[key]) }
        };
        let deletes = item["$patch"] == "delete";
        match old.iter().position(same) {
            Some(index) if deletes => drop(old.remove(index)),
            Some(index) => old.get_mut(index).into_iter().for_each(|it| strategic(it, item, place, lists)),
            None if deletes => {}
            None => old.push(item.clone()),
        }
    }
}

/// RFC 6902.
pub(super) fn apply_operations(target: &mut Value, operations: &Value) -> Result<(), Refusal> {
    let list = operations.as_array().ok_or_else(|| Refusal::bad_request("a JSON patch is a list"))?;
    for operation in list {
        let path = operation["path"].as_str().unwrap_or_default();
        let from = operation["from"].as_str().unwrap_or_default();
        let value = operation["value"].clone();
        let done = match operation["op"].as_str().unwrap_or_default() {
            "add" => add(target, path, value),
            "remove" => remove(target, path).map(drop),
            "replace" => target.pointer_mut(path).map(|place| *place = value),
            "test" => (target.pointer(path) == Some(&value)).then_some(()),
            "move" => remove(target, from).and_then(|value| add(target, path, value)),
            "copy" => target.pointer(from).cloned().and_then(|value| add(target, path, value)),
            _ => None,
        };
        if done.is_none() {
            let message = "the server rejected our request due to an error in our request";
            return Err(Refusal::new(422, "Invalid", message));
        }
    }
    Ok(())
}

/// The parent of a place, and the last part of its path.
fn parent<'t>(target: &'t mut Value, path: &str) -> Option<(&'t mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    Some((target.pointer_mut(parent)?, last))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    match parent(target, path)? {
        (Value::Object(map), key) => drop(map.insert(key, value)),
        (Value::Array(list), key) if key == "-" => list.push(value),
        (Value::Array(list), key) => {
            let index: usize = key.parse().ok().filter(|index| *index <= list.len())?;
            list.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    match parent(target, path)? {
        (Value::Object(map), key) => map.remove(&key),
        (Value::Array(list), key) => {
            let index: usize = key.parse().ok().filter(|index| *index < list.len())?;
            Some(list.remove(index))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
