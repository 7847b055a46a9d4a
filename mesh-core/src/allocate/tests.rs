use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::range::Family;
use super::{Allocator, Grant, Ranges, addresses, same};
use crate::resource::{HostAddress, Object, ObjectKey, Origin, ServedKind, from_json};

/// 14 addresses of IPv4, so that there is contention and an end.
fn small() -> Ranges {
    Ranges { v4: "10.0.0.0/28".parse().expect("a network"), ..Ranges::default() }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: "ServiceEntry", namespace: "shop".into(), name: name.into() }
}

fn entry(name: &str, age: i64, hosts: &[&str]) -> Value {
    let created = format!("2020-01-01T00:{age:02}:00Z");
    json!({
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created},
        "spec": {"hosts": hosts, "resolution": "DNS", "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}]},
    })
}

fn object(value: &Value) -> Object {
    let kind = ServedKind::all().find(|kind| kind.key() == "ServiceEntry").expect("a kind");
    let received = from_json(kind, &value.to_string(), &Origin { file: "f".into(), document: 1 });
    received.object.unwrap_or_else(|| panic!("{:?}", received.findings))
}

/// As an object shows them.
fn shown(addresses: &[HostAddress]) -> Value {
    addresses.iter().map(|it| json!({"host": it.host.to_string(), "value": it.value})).collect()
}

fn grant(allocator: &Allocator, name: &str) -> Grant {
    allocator.of(&key(name)).map(|(grant, _)| grant.clone()).unwrap_or_default()
}

fn values(grant: &Grant) -> Vec<String> {
    grant.addresses.iter().map(|address| address.value.to_string()).collect()
}

fn settled(ranges: Ranges, entries: &[Value]) -> Allocator {
    let mut allocator = Allocator::new(ranges);
    entries.iter().for_each(|entry| allocator.apply(&object(entry)));
    allocator.settle();
    allocator
}

#[test]
fn addresses_are_given_on_istios_conditions() {
    let with = |change: fn(&mut Value)| {
        let mut entry = entry("db", 0, &["a.example", "b.example"]);
        change(&mut entry);
        settled(Ranges::default(), &[entry])
    };
    let label = "networking.istio.io/enable-autoallocate-ip";
    for (why, allocator, expected) in [
        ("as it is", with(|_| ()), Some(4)),
        ("with addresses", with(|it| it["spec"]["addresses"] = json!(["10.0.0.1"])), Some(0)),
        ("without resolution", with(|it| it["spec"]["resolution"] = json!("NONE")), Some(0)),
        ("static", with(|it| it["spec"]["resolution"] = json!("STATIC")), Some(4)),
        (
            "a wildcard",
            with(|it| {
                it["spec"]["hosts"] = json!(["*.example", "a.example"]);
                it["spec"]["resolution"] = json!("STATIC");
            }),
            Some(2),
        ),
        ("the same twice", with(|it| it["spec"]["hosts"] = json!(["A.example", "a.example"])), Some(2)),
        (
            "opted out",
            with(|it| {
                it["metadata"]["labels"] = json!({"networking.istio.io/enable-autoallocate-ip": "False"});
            }),
            None,
        ),
        (
            "opted in",
            with(|it| {
                it["metadata"]["labels"] = json!({"networking.istio.io/enable-autoallocate-ip": "true"});
            }),
            Some(4),
        ),
    ] {
        let given = allocator.of(&key("db")).map(|(grant, _)| grant.addresses.len());
        assert_eq!(given, expected, "{why} ({label})");
    }
    let ranges = Ranges::default();
    let given = grant(&with(|_| ()), "db").addresses;
    let hosts: Vec<_> = given.iter().map(|it| (it.host.to_string(), it.value.is_ipv4())).collect();
    let expected = [("a.example", true), ("a.example", false), ("b.example", true), ("b.example", false)];
    assert_eq!(hosts, expected.map(|(host, v4)| (host.to_owned(), v4)));
    assert!(given.iter().all(|it| ranges.contains(it.value)), "{given:?}");
}

#[test]
fn what_is_shown_is_kept_and_the_older_keeps_what_two_show() {
    let addresses =
        json!([{"host": "a.example", "value": "10.0.0.7"}, {"host": "a.example", "value": "2001:2::7"}]);
    let with = |name: &str, age: i64| {
        let mut entry = entry(name, age, &["a.example"]);
        entry["status"] = json!({ "addresses": addresses });
        entry
    };
    let (young, old) = (with("a", 5), with("z", 1));
    let allocator = settled(small(), &[young.clone(), old.clone(), entry("m", 0, &["a.example"])]);
    assert_eq!(values(&grant(&allocator, "z")), ["10.0.0.7", "2001:2::7"]);
    for name in ["a", "m"] {
        let given = values(&grant(&allocator, name));
        assert!(given.len() == 2 && !given.contains(&"10.0.0.7".to_owned()), "{name}: {given:?}");
    }
    // With the older gone the younger keeps what it was given meanwhile: clients may know it.
    let mut allocator = settled(small(), &[young, old]);
    let moved = grant(&allocator, "a");
    allocator.remove(&key("z"));
    assert_eq!(allocator.settle(), BTreeSet::new());
    assert_eq!(grant(&allocator, "a"), moved);
}

#[test]
fn what_users_give_themselves_is_not_given_to_others() {
    let mut own = entry("own", 9, &["own.example"]);
    own["spec"]["resolution"] = json!("NONE");
    own["spec"]["addresses"] = json!(["10.0.0.0/29", "240.240.0.1"]);
    let mut held = entry("held", 1, &["a.example"]);
    held["status"] = json!({"addresses": [{"host": "a.example", "value": "10.0.0.3"}]});
    let mut out = entry("out", 9, &["out.example"]);
    out["metadata"]["labels"] = json!({"networking.istio.io/enable-autoallocate-ip": "false"});
    out["status"] = json!({"addresses": [{"host": "out.example", "value": "10.0.0.9"}]});
    let hosts = ["a.example", "b.example", "c.example", "d.example", "e.example", "f.example", "g.example"];
    let allocator = settled(small(), &[own, held, out, entry("many", 2, &hosts)]);
    let mut given: Vec<_> =
        ["held", "many"].iter().flat_map(|name| grant(&allocator, name).addresses).collect();
    given.retain(|address| address.value.is_ipv4());
    let last: BTreeSet<_> = given.iter().map(|address| address.value.to_string()).collect();
    assert_eq!(last, [8, 10, 11, 12, 13, 14].map(|last| format!("10.0.0.{last}")).into());
    assert_eq!((grant(&allocator, "held").lacking, grant(&allocator, "many").lacking), (0, 2));
}

#[test]
fn a_full_range_is_said_and_what_becomes_free_is_given_again() {
    let hosts: Vec<_> = (0..14).map(|number| format!("h{number}.example")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let mut allocator = settled(small(), &[entry("full", 0, &hosts), entry("late", 1, &["late.example"])]);
    let late = grant(&allocator, "late");
    assert_eq!((late.lacking, late.addresses.len()), (1, 1), "there is IPv6 left");
    allocator.remove(&key("full"));
    assert_eq!(allocator.settle(), [key("late")].into());
    assert_eq!((grant(&allocator, "late").lacking, grant(&allocator, "late").addresses.len()), (0, 2));
}

#[test]
fn what_is_not_needed_any_more_is_taken_back_but_only_what_is_ours() {
    let mut entry = entry("db", 0, &["a.example"]);
    entry["status"] = json!({"addresses": [
        {"host": "a.example", "value": "240.240.0.9"}, {"host": "a.example", "value": "192.0.2.1"},
    ]});
    entry["spec"]["addresses"] = json!(["10.9.9.9"]);
    let allocator = settled(Ranges::default(), &[entry.clone()]);
    assert_eq!(values(&grant(&allocator, "db")), ["192.0.2.1"]);
    entry["metadata"]["labels"] = json!({"networking.istio.io/enable-autoallocate-ip": "false"});
    assert_eq!(settled(Ranges::default(), &[entry]).of(&key("db")), None, "it is for others to say");
}

#[derive(Debug, Clone)]
enum Step {
    Put {
        name: usize,
        age: i64,
        hosts: Vec<usize>,
        held: Vec<(usize, u8)>,
    },
    Remove(usize),
    /// What was given is written, and comes back.
    Write(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hosts = prop::collection::vec(0..6_usize, 1..4);
    let held = prop::collection::vec((0..6_usize, 0..20_u8), 0..3);
    let put = (0..6_usize, 0..4_i64, hosts, held).prop_map(|(name, age, hosts, held)| Step::Put {
        name,
        age,
        hosts,
        held,
    });
    let step = prop_oneof![3 => put, 1 => (0..6_usize).prop_map(Step::Remove), 2 => (0..6_usize).prop_map(Step::Write)];
    prop::collection::vec(step, 1..30)
}

fn host(number: usize) -> String {
    format!("h{number}.example")
}

/// No address twice, all of them ours, and every host has one of each family unless it is said to lack one.
fn check(allocator: &Allocator, present: &BTreeMap<String, Value>) {
    let mut seen = BTreeSet::new();
    let mut short = 0;
    for (name, entry) in present {
        let (grant, _) = allocator.of(&key(name)).expect("it is known");
        let hosts = entry["spec"]["hosts"].as_array().into_iter().flatten();
        let hosts: BTreeSet<_> = hosts.filter_map(Value::as_str).collect();
        let mut lacking = 0;
        for host in hosts {
            let of_host = grant.addresses.iter().filter(|it| it.host.to_string() == host);
            let families: Vec<_> = of_host.map(|it| Family::of(it.value)).collect();
            assert!(
                families.len() <= 2 && families.first() != families.get(1),
                "{name} {host}: {families:?}"
            );
            lacking += usize::from(families.len() < 2);
        }
        assert_eq!(grant.lacking, lacking, "{name}");
        short += lacking;
        for address in &grant.addresses {
            assert!(small().contains(address.value) && seen.insert(address.value), "{name}: {address:?}");
        }
    }
    let v4 = seen.iter().filter(|address| address.is_ipv4()).count();
    assert!(short == 0 || v4 == 14, "there is something left: {v4}");
}

proptest! {
    #[test]
    fn no_two_hosts_share_whatever_happens(steps in steps()) {
        let mut allocator = Allocator::new(small());
        let mut present: BTreeMap<String, Value> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put { name, age, hosts, held } => {
                    let name = format!("e{name}");
                    let hosts: Vec<_> = hosts.into_iter().map(host).collect();
                    let mut entry = entry(&name, age, &hosts.iter().map(String::as_str).collect::<Vec<_>>());
                    let held = held.into_iter().map(|(of, last)| json!({"host": host(of), "value": IpAddr::from([10, 0, 0, last])}));
                    entry["status"] = json!({"addresses": held.collect::<Vec<_>>()});
                    allocator.apply(&object(&entry));
                    present.insert(name, entry);
                }
                Step::Remove(name) => {
                    let name = format!("e{name}");
                    present.remove(&name);
                    allocator.remove(&key(&name));
                }
                Step::Write(name) => {
                    let name = format!("e{name}");
                    let Some(entry) = present.get_mut(&name) else { continue };
                    let given = grant(&allocator, &name);
                    entry["status"] = json!({"addresses": shown(&given.addresses)});
                    let before: Vec<_> = present.keys().map(|name| grant(&allocator, name)).collect();
                    allocator.apply(&object(&present[&name]));
                    allocator.settle();
                    let after: Vec<_> = present.keys().map(|name| grant(&allocator, name)).collect();
                    prop_assert_eq!(before, after, "what was given and is written changes nothing");
                }
            }
            allocator.settle();
            prop_assert_eq!(allocator.settle(), BTreeSet::new());
            check(&allocator, &present);
        }
        // Once everything is written, whoever takes over comes to the same.
        for (name, entry) in &mut present {
            entry["status"] = json!({"addresses": shown(&grant(&allocator, name).addresses)});
        }
        let entries: Vec<_> = present.values().cloned().collect();
        let successor = settled(small(), &entries);
        for name in present.keys() {
            let (one, other) = (grant(&allocator, name), grant(&successor, name));
            prop_assert!(same(&one.addresses, &other.addresses), "{name}: {one:?} {other:?}");
        }
    }

    #[test]
    fn the_same_objects_come_to_the_same_in_any_order(
        entries in prop::collection::btree_map(0..8_usize, (0..4_i64, prop::collection::vec(0..6_usize, 1..4)), 1..8),
        seed in any::<prop::sample::Index>(),
    ) {
        let entries: Vec<_> = entries.into_iter().map(|(name, (age, hosts))| {
            let hosts: Vec<_> = hosts.into_iter().map(host).collect();
            object(&entry(&format!("e{name}"), age, &hosts.iter().map(String::as_str).collect::<Vec<_>>()))
        }).collect();
        let mut other: Vec<_> = entries.iter().rev().collect();
        other.rotate_left(seed.index(entries.len()));
        prop_assert_eq!(addresses(&entries, small()), addresses(other, small()));
    }

    #[test]
    fn who_comes_later_moves_nobody(
        first in prop::collection::vec(0..40_usize, 1..6),
        late in prop::collection::vec(0..40_usize, 1..6),
        age in 0..9_i64,
    ) {
        let text = |numbers: &[usize]| numbers.iter().map(|number| host(*number)).collect::<Vec<_>>();
        let (first, late) = (text(&first), text(&late));
        let hosts = |list: &[String]| object(&entry("x", 5, &list.iter().map(String::as_str).collect::<Vec<_>>()));
        let mut allocator = Allocator::new(small());
        allocator.apply(&hosts(&first));
        allocator.settle();
        let before = grant(&allocator, "x");
        // Nothing is written yet, and the late one is as likely older as younger.
        allocator.apply(&object(&entry("y", age, &late.iter().map(String::as_str).collect::<Vec<_>>())));
        prop_assert_eq!(allocator.settle(), [key("y")].into());
        prop_assert_eq!(grant(&allocator, "x"), before);
    }
}
