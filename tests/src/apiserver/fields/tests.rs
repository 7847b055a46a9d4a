use serde_json::{Value, json};

use super::{Manager, apply, note_update};
use crate::apiserver::kinds::Lists;

fn manager(name: &str, operation: &'static str) -> Manager {
    Manager { name: name.into(), operation, subresource: String::new() }
}

fn lists() -> Lists {
    Lists::from([("spec.l".to_owned(), vec!["n".to_owned()]), ("spec.s".to_owned(), Vec::new())])
}

fn spec(spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "x"}, "spec": spec})
}

/// What several apply one after the other comes to.
fn applied(wishes: &[(&str, Value)]) -> Value {
    let mut object = spec(&json!({}));
    for (name, wish) in wishes {
        let wish = spec(wish);
        object = apply(&object, &wish, &manager(name, "Apply"), false, &lists()).expect("no conflict");
    }
    object
}

#[test]
fn sets_are_spelled_as_kubernetes_spells_them() {
    let object =
        applied(&[("a", json!({"x": 1, "m": {}, "l": [{"n": "i", "v": 2}], "s": ["t"], "p": [1, 2]}))]);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "a", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {
                "f:x": {}, "f:m": {}, "f:p": {},
                "f:l": {"k:{\"n\":\"i\"}": {".": {}, "f:n": {}, "f:v": {}}},
                "f:s": {"v:\"t\"": {".": {}}},
            }},
        }])
    );
}

#[test]
fn what_is_given_up_goes_unless_it_is_shared() {
    for (wishes, expected) in [
        (vec![("a", json!({"x": 1, "y": 2})), ("a", json!({"x": 1}))], json!({"x": 1})),
        (
            vec![("a", json!({"x": 1, "y": 2})), ("b", json!({"y": 2})), ("a", json!({"x": 1}))],
            json!({"x": 1, "y": 2}),
        ),
        (
            vec![
                ("a", json!({"l": [{"n": 1, "v": 1}, {"n": 2}]})),
                ("b", json!({"l": [{"n": 1, "w": 1}]})),
                ("a", json!({"l": []})),
            ],
            json!({"l": [{"n": 1, "w": 1}]}),
        ),
        (vec![("a", json!({"s": ["x", "y"]})), ("a", json!({"s": ["y"]}))], json!({"s": ["y"]})),
    ] {
        assert_eq!(applied(&wishes)["spec"], expected, "{wishes:?}");
    }
}

#[test]
fn conflicts_name_the_field_and_the_owner() {
    let object = applied(&[("a", json!({"x": 1, "l": [{"n": 1, "v": 1}]}))]);
    let wish = spec(&json!({"x": 2, "l": [{"n": 1, "v": 3}]}));
    let refusal = apply(&object, &wish, &manager("b", "Apply"), false, &lists()).expect_err("a conflict");
    let fields: Vec<_> =
        refusal.details["causes"].as_array().expect("causes").iter().map(|it| &it["field"]).collect();
    assert_eq!(fields, [".spec.l[{\"n\":1}].v", ".spec.x"]);
    let forced = apply(&object, &wish, &manager("b", "Apply"), true, &lists()).expect("forced");
    assert_eq!(forced["spec"], wish["spec"]);
    // From then on they are the other's.
    let back = spec(&json!({"x": 1}));
    assert!(apply(&forced, &back, &manager("a", "Apply"), false, &lists()).is_err());
}

#[test]
fn updates_take_what_they_change() {
    let before = applied(&[("a", json!({"x": 1, "y": 1}))]);
    let mut after = before.clone();
    after["spec"] = json!({"x": 2, "z": 3});
    note_update(Some(&before), &mut after, manager("u", "Update"), &lists());
    let of = |name: &str| {
        let entries = after["metadata"]["managedFields"].as_array().expect("entries");
        entries.iter().find(|it| it["manager"] == name).map(|it| it["fieldsV1"].clone())
    };
    assert_eq!(of("u"), Some(json!({"f:spec": {"f:x": {}, "f:z": {}}})));
    // What it does not mention any more belongs to nobody.
    assert_eq!(of("a"), None);
}
