//! Changes one by one come to what all of it at once comes to, and touch nothing else.

use proptest::prelude::*;

use super::*;

/// Rules of which each may be written, or rewritten, or be gone.
const POOL: &str = "
    vs a/exact @1
    hosts: [reviews.a.svc.cluster.local, ratings.a.svc.cluster.local]
    http:
    - route: [{destination: {host: one}}]
    vs a/exact @1
    hosts: [ratings.a.svc.cluster.local, '*.b.svc.cluster.local']
    http:
    - route: [{destination: {host: two}}]
    vs a/exact @3
    hosts: [reviews.a.svc.cluster.local]
    http:
    - route: [{destination: {host: three}}]
    vs a/leaf @2
    http:
    - match: [{uri: {prefix: /x}}]
      route: [{destination: {host: leaf}}]
    vs a/leaf @2
    hosts: [leaf.a.svc.cluster.local]
    http:
    - route: [{destination: {host: grown}}]
    vs a/leaf @2
    exportTo: ['.']
    http:
    - route: [{destination: {host: private}}]
    vs b/root @2
    hosts: [reviews.a.svc.cluster.local]
    http:
    - match: [{uri: {prefix: /x}}]
      delegate: {name: leaf, namespace: a}
    - route: [{destination: {host: root}}]
    vs b/any @4
    hosts: ['*.local']
    http:
    - route: [{destination: {host: any}}]
    vs b/stream @2
    hosts: [reviews.a.svc.cluster.local]
    tcp:
    - route: [{destination: {host: bytes}}]";

const HOSTS: [&str; 4] = [
    "reviews.a.svc.cluster.local",
    "ratings.a.svc.cluster.local",
    "leaf.a.svc.cluster.local",
    "reviews.b.svc.cluster.local",
];

/// Several of one name, each in a file of its own.
fn pool() -> Vec<VirtualService> {
    POOL.split("    vs ").skip(1).flat_map(|one| virtual_services(&format!("    vs {one}"))).collect()
}

fn said(virtuals: &Virtuals) -> Vec<String> {
    HOSTS.iter().map(|host| format!("{:?}", virtuals.about(host))).collect()
}

proptest! {
    #[test]
    fn changes_come_to_what_all_at_once_comes_to(
        batches in prop::collection::vec(prop::collection::vec((0_usize..9, any::<bool>()), 1..5), 1..8),
    ) {
        let pool = pool();
        let mut there = BTreeMap::new();
        let mut virtuals = Virtuals::new(Settings::default());
        for batch in batches {
            let change = |(at, gone): (usize, bool)| {
                let service = pool[at].clone();
                (service.key(), (!gone).then_some(service))
            };
            let changes: Vec<_> = batch.into_iter().map(change).collect();
            for (name, service) in &changes {
                match service {
                    Some(service) => drop(there.insert(name.clone(), service.clone())),
                    None => drop(there.remove(name)),
                }
            }
            virtuals.update(changes);
            prop_assert_eq!(said(&virtuals), said(&Virtuals::of(there.values(), &Settings::default())));
        }
    }
}

#[test]
fn what_a_change_is_not_about_stays_the_same() {
    let pool = pool();
    let mut virtuals = Virtuals::of([&pool[0], &pool[3], &pool[6]], &Settings::default());
    let [reviews, ratings] = [0, 1].map(|at| virtuals.about(HOSTS[at]));
    let before = virtuals.clone();
    // The delegate of a rule about reviews changes.
    virtuals.update([(pool[5].key(), Some(pool[5].clone()))]);
    assert!(virtuals.about(HOSTS[1]).is_same(&ratings));
    assert!(!virtuals.about(HOSTS[0]).is_same(&reviews));
    assert!(before.about(HOSTS[0]).is_same(&reviews), "an older version stays as it was");
}
