use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::report::request::tests::World;
use crate::report::tests::{id, info, reporter, sample, scrape, told, workload};
use crate::report::{AccessLogFormat, Event, Party as Ended, ReportOptions, SWEEPS_PER_EPOCH, Stage, Told};

/// Requests, those that failed by the client's and the server's fault, opened and failed connections, bytes.
fn all(reporter: &Reporter) -> Vec<(String, [u64; 6])> {
    let edges = reporter.edges().into_iter().map(|(edge, tally)| {
        let name =
            |party: &Option<Arc<Party>>| party.as_ref().map_or("?".to_owned(), |it| it.workload.to_string());
        let Tally { requests, client_errors, server_errors, opened, failed, sent, received, .. } = tally;
        let named = format!("{} {}", name(&edge.source), name(&edge.destination));
        (named, [requests, client_errors, server_errors, opened, failed, sent + received])
    });
    edges.collect()
}

fn epochs(reporter: &Reporter, count: u64) {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    for _ in 0..count * SWEEPS_PER_EPOCH {
        let passed = Duration::from_secs(5 * PASSED.fetch_add(1, Ordering::Relaxed));
        reporter.sweep_at(Instant::now() + passed);
    }
}

fn ask(reporter: &Reporter, told: Option<&Arc<Told>>, worlds: &[&World]) {
    for (number, code) in [(0, 200), (1, 503), (2, 404), (3, 200)] {
        let facts = worlds[number % worlds.len()].facts(Perspective::Source);
        reporter.request(&RequestFacts { code, told, ..facts });
    }
}

#[test]
fn what_the_page_shows_of_requests_is_whatever_telemetries_make_of_metrics() {
    let (one, other) = (World::new(), World::of("other", "server"));
    for overrides in [
        "[{tagOverrides: {response_code: {operation: REMOVE}, source_workload: {operation: REMOVE}}}]",
        "[{match: {metric: REQUEST_DURATION}, disabled: true}]",
        "[{match: {metric: REQUEST_COUNT}, tagOverrides: {path: {value: request.url_path}}}]",
        "[{disabled: true}]",
    ] {
        let (reporter, _sink) = reporter(AccessLogFormat::Off);
        let told = told(overrides);
        ask(&reporter, told.as_ref(), &[&one, &other]);
        // The same labels, in part, without any Telemetry.
        ask(&reporter, None, &[&one]);
        let expected = [
            ("client server".to_owned(), [6, 2, 1, 0, 0, 6 * 295]),
            ("other server".to_owned(), [2, 0, 1, 0, 0, 2 * 295]),
        ];
        assert_eq!(all(&reporter), expected, "{overrides}");
    }
}

#[test]
fn what_the_page_shows_of_connections_is_whatever_telemetries_make_of_metrics() {
    for overrides in [
        "[{tagOverrides: {source_workload: {operation: REMOVE}}}]",
        "[{match: {metric: TCP_OPENED_CONNECTIONS}, disabled: true}, {match: {metric: TCP_SENT_BYTES}, disabled: true}]",
        "[{tagOverrides: {response_flags: {operation: REMOVE}}}]",
        "[{disabled: true}]",
    ] {
        let (reporter, _sink) = reporter(AccessLogFormat::Off);
        for (source, told) in [("client", told(overrides)), ("other", told(overrides)), ("client", None)] {
            let source = Ended { workload: Some(workload(source)), ..info(Direction::Outbound).source };
            let report = reporter.begin(ConnInfo { source, ..info(Direction::Outbound) });
            report.tell(told);
            report.opened();
            report.counters().sent.fetch_add(5, Ordering::Relaxed);
            report.counters().received.fetch_add(2, Ordering::Relaxed);
        }
        let expected = [
            ("client server".to_owned(), [0, 0, 0, 2, 0, 14]),
            ("other server".to_owned(), [0, 0, 0, 1, 0, 7]),
        ];
        assert_eq!(all(&reporter), expected, "{overrides}");
    }
}

#[test]
fn edges_are_known_where_there_is_no_room_for_labels() {
    let options = ReportOptions { max_label_sets: 1, max_request_sets: 1, ..ReportOptions::default() };
    let reporter = Reporter::new(options, Box::new(io::sink())).unwrap();
    ask(&reporter, None, &[&World::of("first", "server")]);
    ask(&reporter, None, &[&World::of("second", "server")]);
    let begin = |name: &str| {
        let source = Ended { workload: Some(workload(name)), ..info(Direction::Outbound).source };
        reporter.begin(ConnInfo { source, ..info(Direction::Outbound) })
    };
    begin("a").opened();
    begin("b").opened();
    begin("b").fail(Stage::Dial, "nobody there");
    let edges = all(&reporter);
    let of = |name: &str| -> [u64; 6] {
        edges.iter().find(|(known, _)| known.starts_with(name)).map(|(_, it)| *it).unwrap()
    };
    assert_eq!([of("a "), of("b ")].map(|it| [it[3], it[4]]), [[1, 0], [2, 1]]);
    let requests: u64 = edges.iter().map(|(_, it)| it[0]).sum();
    assert_eq!((of("first")[0], requests), (3, 8), "{edges:?}");
}

#[test]
fn series_that_are_idle_make_room_and_no_edge_goes_back() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let busy = World::of("busy", "server");
    let count = |name: &str| {
        let text = scrape(&reporter);
        text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count()
    };
    // Far more than there is room for, a few at a time, as pods come and go.
    for generation in 0..10 {
        for number in 0..60 {
            let name = format!("pod-{generation}-{number}");
            let facts = World::of(&name, "server");
            reporter.request(&facts.facts(Perspective::Source));
            let source = Ended { workload: Some(workload(&name)), ..info(Direction::Outbound).source };
            reporter.begin(ConnInfo { source, ..info(Direction::Outbound) }).opened();
        }
        for _ in 0..62 {
            ask(&reporter, None, &[&busy]);
            reporter.request(&RequestFacts { code: 201, ..busy.facts(Perspective::Source) });
            epochs(&reporter, 1);
        }
    }
    assert_eq!(reporter.counted(Event::LabelOverflow), 0);
    assert_eq!(count("istio_requests_total"), 4, "the busy one's");
    assert_eq!(count("istio_tcp_connections_opened_total"), 0);
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "istio_requests_total", &["response_code=\"200\""]), 10 * 62 * 2);
    // One of its series goes away, and the edge has carried what it has carried.
    for _ in 0..62 {
        reporter.request(&busy.facts(Perspective::Source));
        epochs(&reporter, 1);
    }
    assert_eq!(count("istio_requests_total"), 1);
    assert_eq!(all(&reporter), [("busy server".to_owned(), [3_162, 620, 620, 0, 0, 3_162 * 295])]);
}

#[test]
fn a_connection_that_is_open_keeps_its_series() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let report = reporter.begin(info(Direction::Outbound));
    report.opened();
    epochs(&reporter, 70);
    report.counters().sent.fetch_add(7, Ordering::Relaxed);
    drop(report);
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "istio_tcp_connections_closed_total", &[]), 1);
    assert_eq!(sample(&text, "istio_tcp_received_bytes_total", &[]), 7);
    epochs(&reporter, 62);
    // The thread's own memory does not count in what is gone.
    reporter.begin(info(Direction::Outbound)).opened();
    assert_eq!(sample(&scrape(&reporter), "istio_tcp_connections_closed_total", &[]), 1);
}

#[test]
fn a_workload_with_endless_tags_leaves_room_for_others() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let told = told("[{tagOverrides: {path: {value: request.url_path}}}]");
    let of = |name: &str, requests: usize| {
        let world = World::of(name, "server");
        for number in 0..requests {
            let path = format!("/{number}");
            reporter.request(&RequestFacts {
                path: &path,
                told: told.as_ref(),
                ..world.facts(Perspective::Source)
            });
        }
        let text = scrape(&reporter);
        let mine = format!("source_workload=\"{name}\"");
        let is_mine = |line: &&str| line.starts_with("istio_requests_total{") && line.contains(&mine);
        text.lines().filter(is_mine).count()
    };
    assert_eq!(of("greedy", 100_000), 75, "of 100");
    assert!(of("second", 100_000) > 10);
    assert_eq!(of("modest", 3), 3);
    ask(&reporter, None, &[&World::of("usual", "server")]);
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "istio_requests_total", &["source_workload=\"usual\"", "\"404\""]), 1);
}

#[test]
fn a_hundred_thousand_identities_are_a_bounded_number_of_series() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let world = World::new();
    for number in 0..100_000 {
        let who = id(&format!("account-{number}"));
        reporter.request(&RequestFacts { source_identity: Some(&who), ..world.facts(Perspective::Source) });
        let source = Ended { identity: Some(who), ..info(Direction::Outbound).source };
        drop(reporter.begin(ConnInfo { source, ..info(Direction::Outbound) }));
    }
    let text = scrape(&reporter);
    for name in ["istio_requests_total{", "istio_tcp_connections_closed_total{"] {
        assert!(text.lines().filter(|line| line.starts_with(name)).count() <= 101);
    }
    let edges = all(&reporter);
    assert_eq!((edges.len(), edges.iter().map(|(_, it)| it[0]).sum()), (2, 100_000_u64));
}
