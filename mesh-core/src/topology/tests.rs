use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_700_000_000;

fn party(name: &str, version: &str) -> Arc<Party> {
    let workload = format!("{name}-{version}").into();
    Arc::new(Party { namespace: "default".into(), workload, app: name.into(), version: version.into() })
}

fn served(namespace: &str, name: &str) -> Arc<Served> {
    Arc::new(Served { namespace: namespace.into(), name: name.into() })
}

fn is(seen: f64, expected: f64) -> bool {
    (seen - expected).abs() < 1e-9
}

fn edge(from: &str, to: (&str, &str), side: Side) -> Edge {
    Edge {
        source: Some(party(from, "v1")),
        destination: Some(party(to.0, to.1)),
        service: Some(served("default", to.0)),
        side,
        protocol: Protocol::Http,
        protection: Protection::MutualTls,
    }
}

fn requests(count: u64, errors: u64) -> Tally {
    let latency = Latency::from_counts([0, 0, 0, count]);
    Tally { requests: count, server_errors: errors, latency, sent: 10 * count, ..Tally::default() }
}

#[test]
fn both_ends_tell_and_it_counts_once() {
    let mut store = Store::default();
    for side in [Side::Destination, Side::Source] {
        assert!(store.record(NOW, edge("page", ("reviews", "v1"), side), &requests(100, 5)));
    }
    assert!(store.record(NOW, edge("page", ("details", "v1"), Side::Destination), &requests(10, 0)));
    let graph = store.graph(NOW, 60, Level::App, |_| true);
    assert_eq!(graph.seconds, 10, "there was nothing before");
    let rates: Vec<_> = graph.edges.iter().map(|link| (&*link.to, link.rates.requests_per_second)).collect();
    assert_eq!(rates, [("default/details", 1.0), ("default/reviews", 10.0)]);
    let reviews = graph.edges.last().unwrap();
    assert_eq!(reviews.rates.error_share, Some(0.05));
    assert!(reviews.rates.p50_ms.is_some_and(|p50| (5.0..=10.0).contains(&p50)), "{reviews:?}");
    assert!(is(store.series(NOW + 20, |_| true).first().unwrap().rates.requests_per_second, 11.0));
}

#[test]
fn versions_are_one_app_or_workloads() {
    let mut store = Store::default();
    for version in ["v1", "v2", "v3"] {
        store.record(NOW, edge("page", ("reviews", version), Side::Source), &requests(10, 0));
    }
    let apps = store.graph(NOW, 60, Level::App, |_| true);
    let reviews = apps.nodes.iter().find(|node| node.id == "default/reviews").unwrap();
    assert_eq!(reviews.versions.len(), 3);
    assert!(is(reviews.inbound.requests_per_second, 3.0));
    assert_eq!(apps.edges.len(), 1);
    assert_eq!(store.graph(NOW, 60, Level::Workload, |_| true).edges.len(), 3);
    let spaces = store.graph(NOW, 60, Level::Namespace, |_| true);
    assert_eq!(spaces.nodes.iter().map(|node| &*node.id).collect::<Vec<_>>(), ["default"]);
}

#[test]
fn what_was_refused_on_the_way_is_an_error_of_the_service() {
    let mut store = Store::default();
    store.record(NOW, edge("page", ("reviews", "v1"), Side::Source), &requests(10, 0));
    let aborted = Edge {
        destination: None,
        protection: Protection::Plain,
        ..edge("page", ("reviews", "v1"), Side::Source)
    };
    store.record(NOW, aborted, &requests(10, 10));
    let graph = store.graph(NOW, 60, Level::App, |_| true);
    let [link] = &graph.edges[..] else { panic!("{graph:?}") };
    assert_eq!((link.rates.error_share, link.secured), (Some(0.5), Secured::MutualTls));
    let workloads = store.graph(NOW, 60, Level::Workload, |_| true);
    let ids: Vec<_> = workloads.edges.iter().map(|link| &*link.to).collect();
    assert_eq!(ids, ["default/reviews-v1", "service:default/reviews"]);
}

#[test]
fn locks_say_what_was_protected() {
    let mut store = Store::default();
    let mut told = |protection, name| {
        let edge = Edge { protection, ..edge("page", (name, "v1"), Side::Source) };
        store.record(NOW, edge, &requests(5, 0));
    };
    told(Protection::MutualTls, "all");
    told(Protection::SameNode, "all");
    told(Protection::SameNode, "near");
    told(Protection::MutualTls, "some");
    told(Protection::Plain, "some");
    told(Protection::Plain, "zero");
    let graph = store.graph(NOW, 60, Level::App, |_| true);
    let locks: Vec<_> = graph.edges.iter().map(|link| (link.secured, link.secured_share.unwrap())).collect();
    let expected = [(Secured::MutualTls, 1.0), (Secured::SameNode, 1.0), (Secured::Mixed, 0.5)];
    assert_eq!(locks, expected.into_iter().chain([(Secured::Plain, 0.0)]).collect::<Vec<_>>());
}

#[test]
fn strangers_have_a_place() {
    let mut store = Store::default();
    let stranger = Edge { source: None, ..edge("", ("page", "v1"), Side::Destination) };
    store.record(NOW, stranger, &requests(1, 0));
    let away = Edge {
        destination: None,
        service: Some(served("", "PassthroughCluster")),
        protocol: Protocol::Tcp,
        ..edge("page", ("", ""), Side::Source)
    };
    store.record(NOW, away, &Tally { opened: 4, failed: 1, ..Tally::default() });
    let graph = store.graph(NOW, 60, Level::App, |_| true);
    let kinds: Vec<_> = graph.nodes.iter().map(|node| (&*node.id, node.kind)).collect();
    let outside = ("outside:PassthroughCluster", Kind::Outside);
    assert_eq!(kinds, [("unknown", Kind::Unknown), ("default/page", Kind::Workload), outside]);
    assert_eq!(graph.edges.last().unwrap().rates.error_share, Some(0.25));
}

#[test]
fn an_hour_is_kept_and_no_more() {
    let mut store = Store::default();
    for second in (0..8_000).step_by(5) {
        store.record(NOW + second, edge("page", ("reviews", "v1"), Side::Source), &requests(50, 0));
    }
    let now = NOW + 8_000;
    let points = store.series(now, |_| true);
    let first = points.first().unwrap();
    assert!((now - 3_660..now - 3_500).contains(&first.at), "{}", now - first.at);
    assert!(points.iter().all(|point| (point.rates.requests_per_second - 10.0).abs() < 1e-9), "{points:?}");
    assert!(store.summary().cells < 130, "{:?}", store.summary());
    store.roll(now + 10_000);
    assert_eq!(store.summary(), Summary { edges: 0, cells: 0 });
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let mut store = Store::default();
    store.record(NOW, edge("page", ("reviews", "v1"), Side::Source), &requests(10, 0));
    store.record(NOW - 5_000, edge("page", ("reviews", "v1"), Side::Source), &requests(10, 0));
    let graph = store.graph(NOW - 5_000, 60, Level::App, |_| true);
    assert!(is(graph.edges.first().unwrap().rates.requests_per_second, 2.0));
}

#[test]
fn there_is_no_room_for_everybody() {
    let mut store = Store::default();
    let told = |store: &mut Store, now, number: usize| {
        store.record(now, edge("page", (&number.to_string(), "v1"), Side::Source), &requests(1, 0))
    };
    for number in 0..Store::MAX_EDGES {
        assert!(told(&mut store, NOW, number));
    }
    assert!(!told(&mut store, NOW, Store::MAX_EDGES));
    for step in 1..12 {
        for number in 0..Store::MAX_EDGES {
            assert!(told(&mut store, NOW + step * 10, number));
        }
    }
    let Summary { edges, cells } = store.summary();
    assert!(cells <= Store::MAX_CELLS && edges == Store::MAX_EDGES, "{edges} {cells}");
}

#[test]
fn counters_that_begin_anew_count_from_zero() {
    assert_eq!(requests(7, 1).since(&requests(5, 1)).requests, 2);
    assert_eq!(requests(3, 0).since(&requests(5, 0)).requests, 3);
}

#[test]
fn a_proxy_may_have_carried_more_than_32_bits_of_requests() {
    let before = Tally { requests: 1 << 33, latency: Latency::from_counts([0, 1 << 33]), ..Tally::default() };
    let after = Tally {
        requests: (1 << 33) + 5,
        latency: Latency::from_counts([0, (1 << 33) + 5]),
        ..Tally::default()
    };
    let since = after.since(&before);
    assert_eq!((since.requests, since.latency), (5, Latency::from_counts([0, 5])));
}

proptest! {
    #[test]
    fn quantiles_lie_between_the_limits_of_what_there_was(counts in prop::array::uniform20(0_u64..50)) {
        let latency = Latency::from_counts(counts);
        let quantiles = [0.0, 0.5, 0.95, 0.99, 1.0].map(|share| latency.quantile(share));
        prop_assert_eq!(quantiles[0].is_none(), counts.iter().all(|count| *count == 0));
        prop_assert!(quantiles.is_sorted(), "{:?}", quantiles);
        prop_assert!(quantiles.iter().flatten().all(|value| (0.0..=3_600_000.0).contains(value)));
    }

    #[test]
    fn nothing_is_lost_and_nothing_counted_twice(
        told in prop::collection::vec((0_u64..1_000, 0_usize..4, 0_usize..2, 1_u64..100), 1..60),
    ) {
        let mut store = Store::default();
        let names = ["a", "b", "c", "d"];
        let mut now = NOW;
        let mut expected = [0_u64; 4];
        for (later, name, side, count) in told {
            now += later / 100;
            let side = [Side::Source, Side::Destination][side];
            if side == Side::Source {
                expected[name] += count;
            }
            // Whoever tells as a server tells as a client as well, so that the client is believed.
            store.record(now, edge("page", (names[name], "v1"), side), &requests(count, 0));
            if side == Side::Destination {
                expected[name] += count;
                store.record(now, edge("page", (names[name], "v1"), Side::Source), &requests(count, 0));
            }
        }
        let graph = store.graph(now, 3_600, Level::App, |_| true);
        for (name, count) in names.iter().zip(expected) {
            let id = format!("default/{name}");
            let seen = graph.edges.iter().find(|link| link.to == id);
            let seen = seen.map_or(0.0, |link| link.rates.requests_per_second * float(graph.seconds));
            prop_assert!((seen - float(count)).abs() < 1e-6, "{} {} {}", name, seen, count);
        }
    }
}

#[test]
fn who_is_believed_may_change_in_time() {
    let mut store = Store::default();
    let to = ("reviews", "v1");
    // Both tell, one a bucket later than the other; then the client's node looks at requests no more.
    for at in 0..5 {
        store.record(NOW + 10 * at, edge("page", to, Side::Source), &requests(10, 0));
        store.record(NOW + 10 * (at + 1), edge("page", to, Side::Destination), &requests(10, 0));
    }
    for at in 10..15 {
        store.record(NOW + 10 * at, edge("page", to, Side::Destination), &requests(20, 20));
    }
    let series = store.series(NOW + 150, |_| true);
    let rates: Vec<_> = series.iter().map(|it| it.rates.requests_per_second).collect();
    assert!(rates[..5].iter().all(|rate| is(*rate, 1.0)), "{rates:?}");
    assert!(is(rates[5], 0.0), "told of already: {rates:?}");
    assert!(rates[6..].len() == 5 && rates[6..].iter().all(|rate| is(*rate, 2.0)), "{rates:?}");
    let graph = store.graph(NOW + 150, 3_600, Level::App, |_| true);
    let total = graph.edges[0].rates.requests_per_second * 150.0;
    assert!((total - 150.0).abs() < 1e-6, "50 and then 100 requests: {total}");
}

fn policy(name: &str) -> PolicyId {
    PolicyId { kind: PolicyKind::AuthorizationPolicy, namespace: "default".into(), name: name.into() }
}

#[test]
fn a_policy_has_figures_over_time() {
    let mut store = Store::default();
    assert!(store.verdict_series(NOW, &policy("a")).is_empty(), "nothing was told of anything");
    let (denied, allowed) =
        (Verdicts { denied: 20, ..Verdicts::default() }, Verdicts { allowed: 5, ..Verdicts::default() });
    assert!(store.record(NOW, edge("page", ("reviews", "v1"), Side::Source), &requests(1, 0)));
    assert!(store.record_verdicts(NOW + 30, policy("a"), &denied));
    assert!(store.record_verdicts(NOW + 34, policy("a"), &allowed));
    assert!(store.record_verdicts(NOW + 34, policy("b"), &allowed));
    let series = store.verdict_series(NOW + 45, &policy("a"));
    let seen: Vec<_> = series.iter().map(|it| (it.at - NOW, it.seconds)).collect();
    assert_eq!(seen, [(0, 10), (10, 10), (20, 10), (30, 10)], "since there is traffic, and what is over");
    let rates: Vec<_> = series.iter().map(|it| (it.denied_per_second, it.allowed_per_second)).collect();
    assert!(rates[..3].iter().all(|(denied, allowed)| is(*denied, 0.0) && is(*allowed, 0.0)), "{rates:?}");
    assert!(is(rates[3].0, 2.0) && is(rates[3].1, 0.5), "{rates:?}");
}

#[test]
fn what_a_policy_has_come_to_is_all_there_in_longer_stretches() {
    let mut store = Store::default();
    let one = Verdicts { denied: 1, ..Verdicts::default() };
    for at in (0..5_000).step_by(10) {
        assert!(store.record_verdicts(NOW + at, policy("a"), &one));
    }
    let now = NOW + 5_003;
    let series = store.verdict_series(now, &policy("a"));
    assert!(series.windows(2).all(|two| two[0].at + two[0].seconds == two[1].at), "no gaps: {series:?}");
    assert!(series.iter().all(|it| is(it.denied_per_second, 0.1)), "{series:?}");
    assert!((100..=125).contains(&series.len()), "{} points", series.len());
    let (first, last) = (series.first().unwrap(), series.last().unwrap());
    assert!(first.at <= now - 3_540 && last.at + last.seconds == NOW + 5_000, "{series:?}");
}

#[test]
fn policies_are_bounded() {
    let mut store = Store::default();
    let one = Verdicts { audited: 1, ..Verdicts::default() };
    for name in 0..Store::MAX_POLICIES {
        assert!(store.record_verdicts(NOW, policy(&name.to_string()), &one));
    }
    assert!(!store.record_verdicts(NOW, policy("more"), &one));
    for round in 1..60 {
        for name in 0..Store::MAX_POLICIES {
            store.record_verdicts(NOW + 10 * round, policy(&name.to_string()), &one);
        }
        assert!(store.verdicts.summary().cells <= Store::MAX_VERDICTS);
    }
    // What is an hour old makes room.
    assert!(store.record_verdicts(NOW + 5_000, policy("more"), &one));
}
