use std::collections::BTreeMap;

use super::super::Settings;
use super::*;

fn entry(host: &str, declared: Declared, has_address: bool) -> OutsideName {
    OutsideName { host: host.into(), declared, has_address, passthrough: false, aliases: Vec::new() }
}

fn outside(port: u16, entries: &[OutsideName]) -> Outside {
    let labels = BTreeMap::new();
    let client = Client { namespace: "default", labels: &labels };
    Outside::new(&Virtuals::new(Settings::default()), client, port, entries, &|_| false)
}

#[test]
fn names_of_tls_lead_to_entries() {
    let entries = [
        entry("one.example", Declared::Tls, false),
        entry("*.wild.example", Declared::Tls, false),
        entry("narrow.wild.example", Declared::Tls, false),
        entry("known.example", Declared::Tls, true),
        OutsideName { passthrough: true, ..entry("there.example", Declared::Tls, true) },
        OutsideName { passthrough: true, ..entry("anywhere.example", Declared::Tls, false) },
        entry("web.example", Declared::Http, false),
    ];
    let outside = outside(443, &entries);
    for (name, expected) in [
        ("one.example", Some("one.example")),
        ("ONE.example", Some("one.example")),
        ("a.wild.example", Some("*.wild.example")),
        ("narrow.wild.example", Some("narrow.wild.example")),
        ("wild.example", None),
        ("known.example", Some("known.example")),
        ("there.example", None),
        ("anywhere.example", Some("anywhere.example")),
        ("web.example", None),
    ] {
        assert_eq!(outside.of_name(name).map(|it| &**it), expected, "{name}");
    }
    assert!(outside.asks_for_names() && outside.of_bytes().is_none());
}

#[test]
fn an_alias_of_an_entry_is_the_entry() {
    let aliases = vec!["out.default.svc.cluster.local".into()];
    let entries = [
        OutsideName { aliases, ..entry("secure.example", Declared::Tls, false) },
        entry("web.example", Declared::Tls, false),
    ];
    let outside = outside(443, &entries);
    assert_eq!(outside.of_name("out.default.svc.cluster.local").map(|it| &**it), Some("secure.example"));
}

#[test]
fn bytes_without_a_name_lead_to_the_first_that_takes_all() {
    let entries = [
        entry("addressed.example", Declared::Tcp, true),
        entry("db.example", Declared::Tcp, false),
        entry("other.example", Declared::Tcp, false),
    ];
    let outside = outside(3306, &entries);
    assert_eq!(outside.of_bytes().map(|it| &**it), Some("db.example"));
    assert!(!outside.asks_for_names() && outside.requests().is_none() && !outside.is_empty());
}

#[test]
fn nothing_said_makes_no_difference_where_nothing_is_known() {
    assert!(outside(80, &[]).is_empty());
    assert!(outside(443, &[entry("known.example", Declared::Tcp, true)]).is_empty());
    assert!(!outside(80, &[entry("web.example", Declared::Http, true)]).is_empty());
}
