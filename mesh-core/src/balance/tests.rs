//! Properties of the choice.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn endpoints(count: usize) -> Vec<Endpoint> {
    let addr = |i: usize| {
        SocketAddr::from(([10, 0, u8::try_from(i / 250).unwrap(), u8::try_from(i % 250).unwrap()], 80))
    };
    (0..count).map(|i| Endpoint::new(addr(i), None)).collect()
}

fn idle(_: EndpointId) -> u32 {
    0
}

fn ids(endpoints: &[Endpoint]) -> BTreeSet<EndpointId> {
    endpoints.iter().map(|endpoint| endpoint.id).collect()
}

#[test]
fn nothing_to_choose_from() {
    assert_eq!(choose(&[], &idle, 1, &[], None), None);
    assert_eq!(choose(&[], &idle, 1, &[], Some(1)), None);
    assert_eq!(choose(&[], &idle, 1, &[EndpointId::of("10.0.0.1:80".parse().unwrap())], None), None);
}

#[test]
fn idle_endpoints_share_the_connections() {
    let all = endpoints(10);
    let mut counts = BTreeMap::new();
    for seed in 0..10_000 {
        *counts.entry(choose(&all, &idle, seed, &[], None).unwrap().id).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 10);
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn clients_with_affinity_are_spread() {
    let all = endpoints(10);
    let mut counts = BTreeMap::new();
    for client in 0..10_000 {
        *counts.entry(choose(&all, &idle, 7, &[], Some(client)).unwrap().id).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 10);
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn the_busiest_endpoint_is_never_chosen() {
    let all = endpoints(5);
    let busy = all[2].id;
    let load = move |id: EndpointId| if id == busy { 100 } else { 1 };
    for seed in 0..1000 {
        assert_ne!(choose(&all, &load, seed, &[], None).unwrap().id, busy);
    }
}

#[test]
fn ids_tell_addresses_apart() {
    let id = |text: &str| EndpointId::of(text.parse().unwrap());
    assert_eq!(id("10.0.0.1:80"), id("[::ffff:10.0.0.1]:80"));
    assert_ne!(id("10.0.0.1:80"), id("10.0.0.1:81"));
    assert_ne!(id("10.0.0.1:80"), id("[::10.0.0.1]:80"));
    assert_eq!(id("10.0.0.1:80").to_string(), "10.0.0.1:80");
    assert_eq!(id("[fd00::1]:80").addr(), "[fd00::1]:80".parse().unwrap());
}

proptest! {
    #[test]
    fn a_tried_endpoint_is_chosen_only_if_all_were_tried(
        count in 1usize..20, tried in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        seed: u64, affinity: Option<u64>,
    ) {
        let all = endpoints(count);
        let tried: Vec<_> = tried.iter().map(|index| all[index.index(count)].id).collect();
        let chosen = choose(&all, &idle, seed, &tried, affinity).unwrap();
        let exhausted = ids(&all).iter().all(|id| tried.contains(id));
        prop_assert!(exhausted || !tried.contains(&chosen.id));
    }

    #[test]
    fn the_choice_is_the_lesser_of_two_different_ones(
        loads in prop::collection::vec(0u32..10, 2..20), seed: u64, skip_first: bool,
    ) {
        let all = endpoints(loads.len());
        let asked = RefCell::new(BTreeSet::new());
        let load = |id: EndpointId| {
            asked.borrow_mut().insert(id);
            loads[all.iter().position(|endpoint| endpoint.id == id).unwrap()]
        };
        let tried = if skip_first { vec![all[0].id] } else { vec![] };
        let chosen = choose(&all, &load, seed, &tried, None).unwrap().id;
        let asked = asked.take();
        if all.len() - tried.len() >= 2 {
            prop_assert_eq!(asked.len(), 2);
            prop_assert!(asked.contains(&chosen));
            prop_assert!(asked.iter().all(|id| load(chosen) <= load(*id)));
        }
    }

    #[test]
    fn affinity_depends_on_the_client_only(count in 1usize..50, client: u64, seeds: (u64, u64), rotate in 0usize..50) {
        let all = endpoints(count);
        let mut rotated = all.clone();
        rotated.rotate_left(rotate % count);
        let busy = |_: EndpointId| 9;
        let first = choose(&all, &idle, seeds.0, &[], Some(client)).unwrap().id;
        prop_assert_eq!(choose(&rotated, &busy, seeds.1, &[], Some(client)).unwrap().id, first);
    }

    #[test]
    fn a_removal_moves_only_the_clients_of_the_removed_one(count in 2usize..30, gone: prop::sample::Index, salt: u64) {
        let all = endpoints(count);
        let mut fewer = all.clone();
        let gone = fewer.remove(gone.index(count)).id;
        for client in (0..200u64).map(|n| n.wrapping_add(salt)) {
            let before = choose(&all, &idle, 0, &[], Some(client)).unwrap().id;
            let after = choose(&fewer, &idle, 0, &[], Some(client)).unwrap().id;
            prop_assert!(before == after || before == gone);
            // A retry goes where the client will go once the endpoint is really gone.
            prop_assert_eq!(choose(&all, &idle, 0, &[gone], Some(client)).unwrap().id, after);
        }
    }
}
