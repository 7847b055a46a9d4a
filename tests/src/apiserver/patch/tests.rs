use serde_json::{Value, json};

use super::{apply_operations, merge, strategic};
use crate::apiserver::kinds::Lists;

#[test]
fn merges_are_those_of_rfc_7396() {
    for (target, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let mut merged = target.clone();
        merge(&mut merged, &patch);
        assert_eq!(merged, expected, "{target} with {patch}");
    }
}

#[test]
fn operations_are_those_of_rfc_6902() {
    let object = json!({"a": {"b": [1, 2]}, "c/d": 1, "e~f": 2});
    for (operation, expected) in [
        (json!({"op": "add", "path": "/a/b/1", "value": 9}), Some(("/a/b", json!([1, 9, 2])))),
        (json!({"op": "add", "path": "/a/b/-", "value": 9}), Some(("/a/b", json!([1, 2, 9])))),
        (json!({"op": "add", "path": "/a/b/3", "value": 9}), None),
        (json!({"op": "add", "path": "/x/y", "value": 9}), None),
        (json!({"op": "remove", "path": "/a/b/0"}), Some(("/a/b", json!([2])))),
        (json!({"op": "remove", "path": "/a/b/2"}), None),
        (json!({"op": "remove", "path": "/x"}), None),
        (json!({"op": "replace", "path": "/c~1d", "value": 3}), Some(("/c~1d", json!(3)))),
        (json!({"op": "replace", "path": "/x", "value": 3}), None),
        (json!({"op": "move", "from": "/a/b", "path": "/b"}), Some(("/b", json!([1, 2])))),
        (json!({"op": "copy", "from": "/e~0f", "path": "/a/c"}), Some(("/a/c", json!(2)))),
        (json!({"op": "test", "path": "/a/b/1", "value": 2}), Some(("/a/b/1", json!(2)))),
        (json!({"op": "test", "path": "/a/b/1", "value": 3}), None),
        (json!({"op": "invent", "path": "/a"}), None),
    ] {
        let mut patched = object.clone();
        let result = apply_operations(&mut patched, &Value::Array(vec![operation.clone()]));
        match expected {
            None => assert!(result.is_err(), "{operation}"),
            Some((path, value)) => {
                assert!(result.is_ok(), "{operation}");
                assert_eq!(patched.pointer(path), Some(&value), "{operation}");
            }
        }
    }
}

#[test]
fn strategic_merges_take_lists_item_by_item() {
    let lists = Lists::from([("l".to_owned(), vec!["n".to_owned()]), ("s".to_owned(), Vec::new())]);
    let target = json!({"l": [{"n": 1, "a": 1}, {"n": 2}], "s": ["x"], "p": [1]});
    for (patch, place, expected) in [
        (json!({"l": [{"n": 1, "b": 2}]}), "l", json!([{"n": 1, "a": 1, "b": 2}, {"n": 2}])),
        (json!({"l": [{"n": 3}]}), "l", json!([{"n": 1, "a": 1}, {"n": 2}, {"n": 3}])),
        (json!({"l": [{"n": 1, "$patch": "delete"}]}), "l", json!([{"n": 2}])),
        (json!({"s": ["y", "x"]}), "s", json!(["x", "y"])),
        (json!({"p": [2]}), "p", json!([2])),
    ] {
        let mut patched = target.clone();
        strategic(&mut patched, &patch, "", &lists);
        assert_eq!(patched[place], expected, "{patch}");
    }
}
