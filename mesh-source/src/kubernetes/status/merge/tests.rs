use k8s_openapi::jiff::Timestamp;
use mesh_core::resource::HostAddress;
use serde_json::{Value, json};

use super::{Addresses, Condition, Parents, Status, merge};

const THEN: &str = "2020-01-01T00:00:00Z";
const NOW: &str = "2030-01-01T00:00:00Z";

fn condition(sort: &str, status: &str, message: &str) -> Condition {
    Condition {
        sort: sort.into(),
        status: status.into(),
        reason: "R".into(),
        message: message.into(),
        observed_generation: Some(2),
    }
}

fn shown(sort: &str, status: &str, message: &str, time: &str) -> Value {
    json!({
        "type": sort, "status": status, "reason": "R", "message": message, "observedGeneration": 2,
        "lastTransitionTime": time,
    })
}

fn merged(current: &Value, wish: &Status) -> Option<Value> {
    // Fractions of a second are nothing that a status shows.
    let now = NOW.parse::<Timestamp>().expect("a time") + std::time::Duration::from_millis(7);
    merge(current, wish, now).changes
}

#[test]
fn conditions_are_put_among_the_others() {
    let wish = Status { conditions: vec![condition("A", "True", "m")], ..Status::default() };
    let ours = |time| shown("A", "True", "m", time);
    let other = json!({"type": "B", "status": "True"});
    for (current, expected, why) in [
        (json!(null), Some(json!([ours(NOW)])), "there is none yet"),
        (json!({"conditions": [other]}), Some(json!([other, ours(NOW)])), "others stay"),
        (json!({"conditions": [ours(THEN), other]}), None, "it says so already"),
        (
            json!({"conditions": [shown("A", "True", "old", THEN), other]}),
            Some(json!([ours(THEN), other])),
            "the status is the same, and so is its time",
        ),
        (
            json!({"conditions": [shown("A", "False", "m", THEN), other]}),
            Some(json!([ours(NOW), other])),
            "the status is another, and so is its time",
        ),
    ] {
        let expected = expected.map(|conditions| json!({"conditions": conditions}));
        assert_eq!(merged(&current, &wish), expected, "{why}");
    }
}

#[test]
fn parents_of_other_controllers_stay() {
    let entry = |controller: &str, name: &str, status: &str, time: &str| {
        json!({
            "controllerName": controller, "parentRef": {"name": name},
            "conditions": [{"type": "Accepted", "status": status, "lastTransitionTime": time}],
        })
    };
    let wanted = |name: &str| json!({"parentRef": {"name": name}, "conditions": [{"type": "Accepted", "status": "True"}]});
    let wish = |names: &[&str]| Status {
        parents: Some(Parents {
            field: "parents",
            controller: "us".into(),
            entries: names.iter().copied().map(wanted).collect(),
        }),
        ..Status::default()
    };
    let theirs = entry("them", "g", "False", THEN);
    let current =
        json!({"parents": [entry("us", "g", "True", THEN), theirs, entry("us", "h", "False", THEN)]});
    for (names, expected) in [
        (
            &["g", "h"][..],
            Some(json!([entry("us", "g", "True", THEN), theirs, entry("us", "h", "True", NOW)])),
        ),
        (&["g"], Some(json!([entry("us", "g", "True", THEN), theirs]))),
        (&[], Some(json!([theirs]))),
        (&["i", "g"], Some(json!([entry("us", "g", "True", THEN), theirs, entry("us", "i", "True", NOW)]))),
    ] {
        let expected = expected.map(|parents| json!({"parents": parents}));
        assert_eq!(merged(&current, &wish(names)), expected, "{names:?}");
    }
    let settled = json!({"parents": [theirs, entry("us", "g", "True", THEN)]});
    assert_eq!(merged(&settled, &wish(&["g"])), None);
}

#[test]
fn fields_of_ours_are_replaced() {
    let listener = |status: &str, time: Option<&str>| {
        let mut condition = json!({"type": "Ready", "status": status});
        if let Some(time) = time {
            condition["lastTransitionTime"] = json!(time);
        }
        json!({"name": "http", "attachedRoutes": 1, "conditions": [condition]})
    };
    let wish = |status: &str| Status {
        fields: [("listeners".to_owned(), json!([listener(status, None)])), ("old".to_owned(), Value::Null)]
            .into(),
        ..Status::default()
    };
    let current = json!({"listeners": [listener("True", Some(THEN))], "kept": 1});
    assert_eq!(merged(&current, &wish("True")), None);
    let changed = json!({"listeners": [listener("False", Some(NOW))]});
    assert_eq!(merged(&current, &wish("False")), Some(changed));
    let stale = json!({"listeners": [listener("True", Some(THEN))], "old": 1});
    assert_eq!(merged(&stale, &wish("True")), Some(json!({"old": null})));
}

#[test]
fn conditions_of_ours_are_taken_away() {
    let other = json!({"type": "B", "status": "True"});
    let absent = Status { absent: vec!["A".into()], ..Status::default() };
    let mut both = absent.clone();
    both.conditions.push(condition("C", "True", "m"));
    let old = shown("A", "True", "m", THEN);
    for (current, wish, expected) in [
        (json!({"conditions": [old, other]}), &absent, Some(json!([other]))),
        (json!({"conditions": [other]}), &absent, None),
        (json!({}), &absent, None),
        (json!({"conditions": [old, other]}), &both, Some(json!([other, shown("C", "True", "m", NOW)]))),
        (json!({"conditions": [shown("C", "True", "m", THEN)]}), &both, None),
    ] {
        let expected = expected.map(|conditions| json!({"conditions": conditions}));
        assert_eq!(merged(&current, wish), expected, "{current}");
    }
}

#[test]
fn addresses_are_written_on_what_they_were_decided_on() {
    let list = |values: &[&str]| -> Value {
        values.iter().map(|value| json!({"host": "a.example", "value": value})).collect()
    };
    let read = |values: &[&str]| HostAddress::read(&list(values)).0;
    let wish = |seen: &[&str], wanted: &[&str]| Status {
        addresses: Some(Addresses { seen: read(seen), wanted: read(wanted) }),
        ..Status::default()
    };
    let (one, two, v6) = ("240.240.0.1", "240.240.0.2", "2001:2::1");
    let unreadable = json!([{"host": "a.example", "value": one}, 7]);
    for (current, wish, expected, is_stale) in [
        (json!({}), wish(&[], &[one, v6]), Some(list(&[one, v6])), false),
        (json!({"addresses": list(&[v6, one])}), wish(&[], &[one, v6]), None, false),
        (json!({"addresses": list(&[two])}), wish(&[two], &[one]), Some(list(&[one])), false),
        (json!({"addresses": list(&[two])}), wish(&[], &[one]), None, true),
        (json!({}), wish(&[two], &[one]), None, true),
        (json!({"addresses": unreadable}), wish(&[one], &[one]), Some(list(&[one])), false),
        (json!({"addresses": list(&[two])}), wish(&[two], &[]), Some(Value::Null), false),
        (json!({}), wish(&[two], &[]), None, false),
        (json!({"addresses": []}), wish(&[two], &[]), None, false),
    ] {
        let merged = merge(&current, &wish, NOW.parse().expect("a time"));
        let expected = expected.map(|addresses| json!({"addresses": addresses}));
        assert_eq!((merged.changes, merged.is_stale), (expected, is_stale), "{current} {wish:?}");
    }
    // What else there is to say is said.
    let mut both = wish(&[], &[one]);
    both.conditions.push(condition("A", "True", "m"));
    let merged = merge(&json!({"addresses": list(&[two])}), &both, NOW.parse().expect("a time"));
    assert_eq!(merged.changes, Some(json!({"conditions": [shown("A", "True", "m", NOW)]})));
    assert!(merged.is_stale);
}

#[test]
fn nothing_to_say_changes_nothing() {
    assert_eq!(merged(&json!({"conditions": [{"type": "B", "status": "True"}]}), &Status::default()), None);
    assert_eq!(merged(&json!(null), &Status::default()), None);
}
