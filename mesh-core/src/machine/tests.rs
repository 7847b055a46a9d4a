use std::time::Duration;

use super::*;
use crate::resource::{Object, Origin, ServedKind, Spec, from_json};

fn claim(address: &str) -> Claim {
    Claim {
        namespace: "shop".into(),
        group: "db".into(),
        address: address.parse().unwrap(),
        network: "".into(),
    }
}

fn object(kind: &str, value: &Value) -> Object {
    let kind = ServedKind::all().find(|known| known.key() == kind).unwrap();
    let origin = Origin { file: "f".into(), document: 1 };
    let received = from_json(kind, &value.to_string(), &origin);
    received.object.unwrap_or_else(|| panic!("{:?}", received.findings))
}

fn group(spec: &Value) -> Object {
    object(
        "WorkloadGroup",
        &json!({"metadata": {"name": "db", "namespace": "shop", "uid": "u-1"}, "spec": spec}),
    )
}

fn spec_of_group(group: &Object) -> &WorkloadGroupSpec {
    match &group.spec {
        Spec::WorkloadGroup(spec) => spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_istios() {
    for (address, network, expected) in [
        ("10.0.0.1", "", "db-10.0.0.1"),
        ("10.0.0.1", "vpc-1", "db-10.0.0.1-vpc-1"),
        ("fd00::1", "", "db-fd00--1"),
    ] {
        assert_eq!(registered_name("db", address.parse().unwrap(), network), expected);
    }
    let long = registered_name(&"g".repeat(300), "10.0.0.1".parse().unwrap(), "");
    assert!(long.len() == 253 && long.ends_with("g-10.0.0.1"), "{long}");
}

#[test]
fn an_entry_is_the_template_with_an_address_of_its_own() {
    let group = group(&json!({
        "metadata": {"labels": {"app": "db", "tier": "a"}, "annotations": {"note": "x"}},
        "template": {
            "serviceAccount": "db", "labels": {"tier": "b"}, "ports": {"sql": 5432}, "locality": "eu/1",
            "network": "here", "weight": 3,
        },
        "probe": {"tcpSocket": {"port": 5432}},
    }));
    let value = entry(&claim("10.0.0.1"), (&group.meta, spec_of_group(&group)), Some(true));
    assert_eq!(value["metadata"]["ownerReferences"][0]["uid"], "u-1");
    let entry = object("WorkloadEntry", &value);
    assert_eq!((&*entry.meta.name, &*entry.meta.namespace), ("db-10.0.0.1", "shop"));
    assert_eq!(entry.meta.annotations[GROUP], "db");
    assert_eq!(entry.meta.annotations[HEALTH_CHECKED], "true");
    assert_eq!((&*entry.meta.labels["tier"], &*entry.meta.labels[TUNNEL]), ("b", "http"));
    assert_eq!(entry.status.is_healthy, Some(true));
    let Spec::WorkloadEntry(spec) = &entry.spec else { panic!("{:?}", entry.spec) };
    let template = &spec_of_group(&group).template;
    let address = spec.address.clone();
    assert_eq!(address.map(|it| it.to_string()).as_deref(), Some("10.0.0.1"));
    assert_eq!(WorkloadEntrySpec { address: None, ..spec.clone() }, *template);
    assert_eq!(Claim::of_entry(&entry.meta, spec), Some(claim("10.0.0.1")));
    let network = Claim { network: "there".into(), ..claim("10.0.0.1") };
    let value = super::entry(&network, (&group.meta, spec_of_group(&group)), None);
    let entry = object("WorkloadEntry", &value);
    let Spec::WorkloadEntry(spec) = &entry.spec else { panic!("{:?}", entry.spec) };
    assert_eq!(Claim::of_entry(&entry.meta, spec), Some(network));
}

#[test]
fn health_counts_only_where_there_is_a_probe() {
    let group = group(&json!({"template": {}}));
    let value = entry(&claim("10.0.0.1"), (&group.meta, spec_of_group(&group)), Some(false));
    let entry = object("WorkloadEntry", &value);
    assert!(!entry.meta.annotations.contains_key(HEALTH_CHECKED) && entry.status.is_healthy.is_none());
    assert_eq!(value["spec"]["serviceAccount"], "default");
}

#[test]
fn a_machine_is_of_the_group_whose_identity_it_has() {
    let domain = TrustDomain::default();
    let group = group(&json!({"template": {"serviceAccount": "db"}}));
    let spec = Some(spec_of_group(&group));
    let id = |namespace: &str, account: &str| SpiffeId::new(&domain, namespace, account).unwrap();
    assert_eq!(claim("10.0.0.1").admit(&id("shop", "db"), spec, &domain), Ok(()));
    for (namespace, account) in [("shop", "default"), ("shop", "web"), ("other", "db")] {
        let refused = claim("10.0.0.1").admit(&id(namespace, account), spec, &domain);
        assert!(matches!(refused, Err(Refusal::NotYours { .. })), "{namespace}/{account}: {refused:?}");
    }
    let foreign = SpiffeId::parse("spiffe://elsewhere/ns/shop/sa/db").unwrap();
    assert!(claim("10.0.0.1").admit(&foreign, spec, &domain).is_err());
    // Whether the group exists is nobody's business but its own machines'.
    let absent = claim("10.0.0.1").admit(&id("shop", "web"), None, &domain).unwrap_err();
    let other = claim("10.0.0.1").admit(&id("shop", "web"), spec, &domain).unwrap_err();
    assert_eq!(absent.to_string(), other.to_string());
    for address in [
        "127.0.0.1",
        "0.0.0.0",
        "::1",
        "224.0.0.1",
        "::ffff:127.0.0.1",
        "169.254.0.9",
        "::ffff:169.254.0.9",
        "fe80::1",
        "255.255.255.255",
    ] {
        let refused = claim(address).admit(&id("shop", "db"), spec, &domain);
        assert!(matches!(refused, Err(Refusal::Address(_))), "{address}");
    }
    for (address, network) in
        [("fd00::", ""), ("10.0.0.1", "Bad_Net"), ("10.0.0.1", "a b"), ("10.0.0.1", "-")]
    {
        let claim = Claim { network: network.into(), ..claim(address) };
        let refused = claim.admit(&id("shop", "db"), spec, &domain);
        assert!(matches!(refused, Err(Refusal::Name(_))), "{address} {network}: {refused:?}");
    }
}

#[test]
fn a_group_has_so_many_machines_and_no_more() {
    let mut registry = Registry::default();
    let machine = |number: usize| claim(&format!("10.0.{}.{}", number / 250, number % 250 + 1));
    for number in 0..1_000 {
        assert!(registry.has_room(&machine(number)));
        registry.connected(&machine(number));
    }
    assert!(!registry.has_room(&machine(1_000)) && !registry.has_room(&claim("fd00::1")));
    assert!(registry.has_room(&machine(7)), "one that is there already");
    assert!(registry.has_room(&Claim { group: "web".into(), ..machine(1_000) }), "another group");
    assert!(registry.has_room(&Claim { namespace: "other".into(), ..machine(1_000) }));
    for number in 0..1_000 {
        registry.disconnected(&machine(number), Duration::ZERO);
    }
    assert_eq!(registry.sweep(Duration::from_secs(9), Duration::from_secs(1)).len(), 1_000);
    assert!(registry.has_room(&machine(1_000)));
}

#[test]
fn a_machine_goes_when_its_last_connection_has_been_gone_for_long() {
    let (mut registry, grace) = (Registry::default(), Duration::from_secs(10));
    let (one, at) = (claim("10.0.0.1"), Duration::from_secs);
    registry.connected(&one);
    assert!(registry.reported(&one, true) && !registry.reported(&one, true), "the second is no news");
    registry.connected(&one);
    assert_eq!(registry.get(&one).unwrap().health, Some(true), "what was known stays");
    registry.disconnected(&one, at(1));
    assert!(registry.sweep(at(100), grace).is_empty(), "another connection is open");
    registry.disconnected(&one, at(100));
    assert!(registry.sweep(at(110), grace).is_empty(), "it may come back");
    registry.connected(&one);
    assert!(registry.sweep(at(200), grace).is_empty(), "it has");
    registry.disconnected(&one, at(200));
    assert_eq!(registry.sweep(at(211), grace), std::slice::from_ref(&one));
    assert_eq!((registry.get(&one), registry.reported(&one, false)), (None, false));
}

#[test]
fn a_machine_is_well_or_not_after_answers_in_a_row() {
    let group = group(&json!({"template": {}, "probe": {
        "tcpSocket": {"port": 1}, "successThreshold": 2, "failureThreshold": 3,
    }}));
    let probe = spec_of_group(&group).probe.as_ref().unwrap();
    let check = crate::health::Check::of_probe(&group.meta, probe).unwrap();
    let mut standing = Standing::default();
    let said: Vec<_> =
        "++-+++---+--+---".chars().filter_map(|answer| standing.saw(answer == '+', &check)).collect();
    assert_eq!(said, [true, false]);
    let mut standing = Standing::default();
    let said: Vec<_> = "-+--+---".chars().map(|answer| standing.saw(answer == '+', &check)).collect();
    assert_eq!(said.iter().position(Option::is_some), Some(7), "a row that is broken begins anew");
}
