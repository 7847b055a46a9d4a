use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::resource::{ObjectKey, ServedKind};
use serde_json::{Value, json};

use super::Known;
use crate::changes::{About, Change};
use crate::kubernetes::wire::Failure;

fn kind(key: &str) -> ServedKind {
    ServedKind::all().find(|kind| kind.key() == key).expect("a kind of the mesh")
}

fn map(name: &str, version: &str, value: &str) -> String {
    let metadata = json!({"name": name, "namespace": "a", "resourceVersion": version});
    json!({"metadata": metadata, "data": {"k": value}}).to_string()
}

fn policy(version: &str, spec: &Value) -> String {
    let metadata = json!({"name": "p", "namespace": "a", "resourceVersion": version});
    json!({"metadata": metadata, "spec": spec}).to_string()
}

fn show(batch: &mut Vec<Change>) -> Vec<String> {
    let show = |change: Change| match change {
        Change::Apply(object) => format!("+{}", object.meta.name),
        Change::Delete(key) => format!("-{}", key.name),
        Change::Findings(About::Object(_), findings) => {
            findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        }
        other => format!("{other:?}"),
    };
    std::mem::take(batch).into_iter().map(show).collect()
}

#[test]
fn only_what_differs_is_passed_on() {
    let (mut known, mut batch) = (Known::new(kind("ConfigMap"), None), Vec::new());
    for (text, expected) in [
        (map("m", "1", "x"), vec!["+m"]),
        // Told again, by a list.
        (map("m", "1", "x"), vec![]),
        // Another version that says the same.
        (map("m", "2", "x"), vec![]),
        (map("m", "3", "y"), vec!["+m"]),
    ] {
        known.take(&text, &mut batch).expect("well-formed");
        assert_eq!(show(&mut batch), expected);
    }
    assert_eq!(known.take_back(&map("m", "4", "y"), &mut batch), Ok("4".to_owned()));
    assert_eq!(show(&mut batch), ["-m"]);
    known.take_back(&map("m", "4", "y"), &mut batch).expect("well-formed");
    assert_eq!(show(&mut batch), Vec::<String>::new());
}

#[test]
fn a_list_tells_what_vanished() {
    let (mut known, mut batch) = (Known::new(kind("ConfigMap"), None), Vec::new());
    for name in ["c", "a", "b"] {
        known.take(&map(name, "1", ""), &mut batch).expect("well-formed");
    }
    show(&mut batch);
    known.begin_list();
    known.take(&map("b", "1", ""), &mut batch).expect("well-formed");
    known.take(&map("d", "2", ""), &mut batch).expect("well-formed");
    known.end_list(&mut batch);
    assert_eq!(show(&mut batch), ["+d", "-a", "-c"]);
    // A list that breaks off says nothing about what it has not come to.
    known.begin_list();
    known.begin_list();
    known.take(&map("b", "1", ""), &mut batch).expect("well-formed");
    known.take(&map("d", "2", ""), &mut batch).expect("well-formed");
    known.end_list(&mut batch);
    assert_eq!(show(&mut batch), Vec::<String>::new());
    known.forget_all(&mut batch);
    assert_eq!(show(&mut batch), ["-b", "-d"]);
}

#[test]
fn a_bad_version_leaves_the_last_good_one_in_force() {
    let (mut known, mut batch) = (Known::new(kind("PeerAuthentication"), None), Vec::new());
    let bad = json!({"mtls": {"mode": "STRIKT"}});
    let error =
        "PeerAuthentication a/p Error spec.mtls.mode: unknown value \"STRIKT\" (did you mean \"STRICT\"?)";
    let kept =
        "PeerAuthentication a/p Warning the last good version of PeerAuthentication a/p stays in force";
    let good = json!({"mtls": {"mode": "STRICT"}});
    for (version, spec, expected) in [
        // There is nothing to keep yet.
        ("1", &bad, vec![error.to_owned()]),
        ("2", &good, vec!["+p".to_owned(), String::new()]),
        ("3", &bad, vec![format!("{error}; {kept}")]),
        // The same again is not said again.
        ("4", &bad, vec![]),
        ("5", &good, vec![String::new()]),
    ] {
        known.take(&policy(version, spec), &mut batch).expect("well-formed");
        assert_eq!(show(&mut batch), expected, "version {version}");
    }
    // Whoever only ever heard that it is bad hears that it is gone.
    let mut known = Known::new(kind("PeerAuthentication"), None);
    known.take(&policy("1", &bad), &mut batch).expect("well-formed");
    show(&mut batch);
    known.take_back(&policy("2", &bad), &mut batch).expect("well-formed");
    assert_eq!(show(&mut batch), ["-p"]);
}

#[test]
fn what_is_no_object_is_said_to_be_none() {
    let (mut known, mut batch) = (Known::new(kind("ConfigMap"), None), Vec::new());
    for text in ["{", "{}", "{\"metadata\":{}}"] {
        assert!(matches!(known.take(text, &mut batch), Err(Failure::Malformed(_))), "{text}");
    }
    assert!(batch.is_empty());
}

#[test]
fn content_is_read_on_demand() {
    let key = |name: &str| ObjectKey { kind: "ConfigMap", namespace: "a".into(), name: name.into() };
    let wanted = |names: &[&str]| Arc::new(names.iter().map(|name| key(name)).collect::<BTreeSet<_>>());
    let (mut known, mut batch) = (Known::new(kind("ConfigMap"), Some(wanted(&["a"]))), Vec::new());
    for name in ["a", "b"] {
        known.take(&map(name, "1", ""), &mut batch).expect("well-formed");
    }
    assert_eq!((show(&mut batch), known.next_unread()), (Vec::new(), Some(&key("a"))));
    known.take_content(&key("a"), Some(&map("a", "1", "x")), &mut batch);
    assert_eq!((show(&mut batch), known.next_unread()), (vec!["+a".to_owned()], None));
    // Only what is wanted is read again.
    for name in ["a", "b"] {
        known.take(&map(name, "2", ""), &mut batch).expect("well-formed");
    }
    assert_eq!(known.next_unread(), Some(&key("a")));
    // It has gone before it could be read: the watch will say so.
    known.take_content(&key("a"), None, &mut batch);
    assert_eq!((show(&mut batch), known.next_unread()), (Vec::new(), None));
    // Another demand, part of it for what is not there.
    known.want(&wanted(&["b", "z"]), &mut batch);
    assert_eq!((show(&mut batch), known.next_unread()), (vec!["-a".to_owned()], Some(&key("b"))));
    known.take_content(&key("b"), Some(&map("b", "2", "x")), &mut batch);
    assert_eq!(show(&mut batch), ["+b"]);
    // It comes.
    known.take(&map("z", "3", ""), &mut batch).expect("well-formed");
    assert_eq!(known.next_unread(), Some(&key("z")));
    known.take_back(&map("z", "4", ""), &mut batch).expect("well-formed");
    assert_eq!((show(&mut batch), known.next_unread()), (Vec::new(), None));
}
