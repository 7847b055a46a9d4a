//! Preferences by place.

use super::*;

fn place(text: &str) -> Place<'_> {
    let mut parts = text.split('/');
    let mut part = || parts.next().unwrap_or_default();
    Place { region: part(), zone: part(), subzone: part(), ..Place::default() }
}

fn failover(regions: &[(&str, &str)], labels: &[&str]) -> LocalityPolicy {
    let regions = regions.iter().map(|(from, to)| Failover { from: (*from).into(), to: (*to).into() });
    let failover_priority = labels.iter().map(|label| (*label).to_owned()).collect();
    let setting =
        LocalityLbSetting { failover: regions.collect(), failover_priority, ..LocalityLbSetting::default() };
    LocalityPolicy::new(&setting, true)
}

fn ranks(policy: &LocalityPolicy, client: &Place<'_>, endpoints: &[Place<'_>]) -> Vec<u32> {
    priorities(policy, client, endpoints).into_iter().map(|it| it.unwrap().priority).collect()
}

#[test]
fn nearest_first() {
    let cases: &[(&str, &str, &[&str], &[u32])] = &[
        ("all levels", "r/z/s", &["q/z/s", "r/y/s", "r/z/t", "r/z/s"], &[3, 2, 1, 0]),
        ("no gaps", "r/z/s", &["q/z/s", "r/z/s", "q/y/t"], &[1, 0, 1]),
        ("nobody is near", "r/z/s", &["q/z/s", "p/z/s"], &[0, 0]),
        ("a client from nowhere", "", &["q/z/s", "p/z/s"], &[0, 0]),
        ("endpoints from nowhere", "r/z", &["", "r/z", "r"], &[2, 0, 1]),
        ("nobody", "r/z", &[], &[]),
    ];
    for (id, client, endpoints, expected) in cases {
        let endpoints: Vec<_> = endpoints.iter().map(|text| place(text)).collect();
        assert_eq!(ranks(&failover(&[], &[]), &place(client), &endpoints), *expected, "{id}");
    }
}

#[test]
fn regions_stand_in_for_others() {
    let endpoints: Vec<_> = ["eu", "us", "asia"].into_iter().map(place).collect();
    let policy = failover(&[("eu", "us"), ("us", "asia")], &[]);
    assert_eq!(ranks(&policy, &place("eu"), &endpoints), [0, 1, 2]);
    assert_eq!(ranks(&policy, &place("us"), &endpoints), [2, 0, 1]);
    assert_eq!(ranks(&policy, &place("asia"), &endpoints), [1, 1, 0]);
}

#[test]
fn labels_in_their_order() {
    let labels = |text: &str| -> BTreeMap<String, String> {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    };
    let (own, both, first, second, none) =
        (labels("a=1,b=2"), labels("a=1,b=2"), labels("a=1"), labels("b=2"), labels(""));
    let with = |labels| Place { labels: Some(labels), ..Place::default() };
    let endpoints = [with(&none), with(&second), with(&first), with(&both)];
    assert_eq!(ranks(&failover(&[], &["a", "b"]), &with(&own), &endpoints), [2, 2, 1, 0]);
    // What is written counts, not what the client has; what nobody has is equal.
    assert_eq!(ranks(&failover(&[], &["a=9", "b"]), &with(&own), &endpoints), [0, 0, 0, 0]);
    assert_eq!(ranks(&failover(&[], &["c", "b=2"]), &with(&none), &endpoints), [1, 0, 1, 0]);
}

#[test]
fn topology_is_known_without_labels() {
    let node = |zone, node, network| Place { region: "r", zone, node, network, ..Place::default() };
    let client = node("z", "n1", "");
    let endpoints = [node("z", "n1", ""), node("z", "n2", ""), node("y", "n3", ""), Place::default()];
    assert_eq!(ranks(&LocalityPolicy::prefer(true), &client, &endpoints), [0, 1, 2, 3]);
    assert_eq!(ranks(&LocalityPolicy::prefer(false), &client, &endpoints), [0, 0, 1, 2]);
    // Another network is the last resort, but near ones there are still preferred.
    let abroad = [node("z", "n1", "x"), node("y", "n3", "x"), node("y", "n3", "")];
    assert_eq!(ranks(&LocalityPolicy::prefer(false), &client, &abroad), [1, 2, 0]);
}

#[test]
fn labels_and_regions_together() {
    let (own, other) = (BTreeMap::from([("v".to_owned(), "1".to_owned())]), BTreeMap::new());
    let at = |region, labels| Place { region, labels: Some(labels), ..Place::default() };
    let endpoints = [at("us", &own), at("eu", &other), at("eu", &own), at("asia", &own)];
    assert_eq!(ranks(&failover(&[("eu", "us")], &["v"]), &at("eu", &own), &endpoints), [1, 3, 0, 2]);
    // Without regions only the labels count.
    assert_eq!(ranks(&failover(&[], &["v"]), &at("eu", &own), &endpoints), [0, 1, 0, 0]);
}

#[test]
fn shares() {
    let distribute = |from: &str, to: &[(&str, u32)]| Distribute {
        from: from.into(),
        to: to.iter().map(|(to, share)| ((*to).to_owned(), *share)).collect(),
    };
    let distribute = vec![
        distribute("r/z/*", &[("r/z/*", 70), ("r/y/*", 30)]),
        distribute("r/y", &[("r", 100)]),
        distribute("*", &[("q/*", 100)]),
    ];
    let policy =
        LocalityPolicy::new(&LocalityLbSetting { distribute, ..LocalityLbSetting::default() }, false);
    let endpoints: Vec<_> = ["r/z/1", "r/z/2", "r/y/1", "q/x/1"].into_iter().map(place).collect();
    let shares = |client: &str| -> Vec<_> {
        let placed = priorities(&policy, &place(client), &endpoints);
        placed.into_iter().map(|it| it.map(|it| (it.priority, it.share))).collect()
    };
    assert_eq!(shares("r/z/9"), [Some((0, 70)), Some((0, 70)), Some((0, 30)), None]);
    assert_eq!(shares("r/y"), [Some((0, 100)), Some((0, 100)), Some((0, 100)), None]);
    assert_eq!(shares("elsewhere"), [None, None, None, Some((0, 100))]);
    let buckets = priorities(&policy, &place("r/z"), &endpoints);
    assert_eq!(buckets[0].unwrap().bucket, buckets[1].unwrap().bucket);
    assert_ne!(buckets[0].unwrap().bucket, buckets[2].unwrap().bucket);
}

#[test]
fn clients_that_no_share_is_for_prefer_nobody() {
    let distribute = vec![Distribute { from: "r".into(), to: BTreeMap::from([("r".to_owned(), 100)]) }];
    let policy =
        LocalityPolicy::new(&LocalityLbSetting { distribute, ..LocalityLbSetting::default() }, false);
    let endpoints = [place("r"), place("q")];
    assert_eq!(priorities(&policy, &place("q"), &endpoints), [Some(Placement::default()); 2]);
    assert_eq!(
        priorities(&LocalityPolicy::Anywhere, &place("q"), &endpoints),
        [Some(Placement::default()); 2]
    );
}
