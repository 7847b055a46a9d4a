use super::*;
use crate::report::tests::{id, reporter, sample, scrape, service, workload};
use crate::report::{AccessLogFormat, Event, SWEEPS_PER_EPOCH};
use std::time::UNIX_EPOCH;

/// What facts borrow from.
pub(crate) struct World {
    client: Arc<Workload>,
    server: Arc<Workload>,
    client_id: SpiffeId,
    server_id: SpiffeId,
    service: Arc<Service>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of("client", "server")
    }

    pub(crate) fn of(client: &str, server: &str) -> Self {
        Self {
            client: workload(client),
            server: workload(server),
            client_id: id(client),
            server_id: id(server),
            service: service(server),
        }
    }

    pub(crate) fn facts(&self, reporter: Perspective) -> RequestFacts<'_> {
        RequestFacts {
            reporter,
            start: UNIX_EPOCH + Duration::from_millis(1_795_251_600_123),
            duration: Duration::from_micros(12_345),
            source: Some(&self.client),
            source_identity: Some(&self.client_id),
            client_identity: Some(&self.client_id),
            destination: Some(&self.server),
            destination_identity: Some(&self.server_id),
            service: Some(&self.service),
            pseudo_service: None,
            encrypted: true,
            grpc: false,
            protocol: "HTTP/1.1",
            method: "GET",
            path: "/reviews/0?x=1",
            authority: "server:8080",
            code: 200,
            grpc_status: None,
            flags: Flags::NONE,
            details: "via_upstream",
            termination_details: "",
            upstream_failure: "",
            bytes_received: 0,
            bytes_sent: 295,
            request_messages: 0,
            response_messages: 0,
            until_answer: Some(Duration::from_millis(9)),
            attempts: 2,
            upstream_service_time: Some(Duration::from_millis(8)),
            headers: RequestHeaderFacts {
                user_agent: Some(b"curl/8.0"),
                request_id: Some(b"6f867212-d7cf-4c68-9468-6fbc5f927335"),
                ..RequestHeaderFacts::NONE
            },
            upstream_host: Some(([10, 0, 1, 1], 8080).into()),
            upstream_cluster: "outbound|8080||server.default.svc.cluster.local",
            upstream_local: Some(([10, 0, 0, 1], 34_460).into()),
            downstream_local: Some(([10, 96, 0, 1], 8080).into()),
            downstream_remote: ([10, 0, 0, 1], 42_980).into(),
            downstream_direct: ([10, 0, 0, 9], 5).into(),
            sni: "",
            route_name: "default",
            trace: None,
            told: None,
            tls: TlsFacts { mutual: true, ..TlsFacts::default() },
        }
    }
}

fn labels_of(text: &str, name: &str) -> Vec<String> {
    let prefix = format!("{name}{{");
    text.lines().filter_map(|line| Some(line.strip_prefix(&prefix)?.to_owned())).collect()
}

#[test]
fn one_request_has_exactly_the_labels_that_dashboards_know() {
    let (world, (reporter, _sink)) = (World::new(), reporter(AccessLogFormat::Off));
    reporter.request(&world.facts(Perspective::Waypoint));
    let text = scrape(&reporter);
    let line = text.lines().find(|line| line.starts_with("istio_requests_total{")).unwrap();
    assert_eq!(
        line,
        "istio_requests_total{reporter=\"waypoint\",\
         source_workload=\"client\",source_canonical_service=\"client\",source_canonical_revision=\"v1\",\
         source_workload_namespace=\"default\",source_principal=\"spiffe://cluster.local/ns/default/sa/client\",\
         source_app=\"client\",source_version=\"v1\",source_cluster=\"Kubernetes\",\
         destination_workload=\"server\",destination_canonical_service=\"server\",\
         destination_canonical_revision=\"v1\",destination_workload_namespace=\"default\",\
         destination_principal=\"spiffe://cluster.local/ns/default/sa/server\",destination_app=\"server\",\
         destination_version=\"v1\",destination_cluster=\"Kubernetes\",\
         destination_service=\"server.default.svc.cluster.local\",\
         destination_service_namespace=\"default\",destination_service_name=\"server\",\
         request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\",\
         connection_security_policy=\"mutual_tls\"} 1"
    );
    assert_eq!(line.matches("=\"").count(), 25);
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    assert_eq!(labels_of(&text, "istio_request_messages_total"), [""; 0]);
}

#[test]
fn nothing_is_shown_before_the_first_request() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    assert!(!scrape(&reporter).contains("istio_request"));
}

#[test]
fn values_fall_into_envoys_buckets() {
    let (world, (reporter, _sink)) = (World::new(), reporter(AccessLogFormat::Off));
    for (micros, bytes) in [(500, 0), (501, 1), (1_000, 5), (12_345, 6), (7_200_000_000, 3_600_001)] {
        let duration = Duration::from_micros(micros);
        reporter.request(&RequestFacts {
            duration,
            bytes_received: bytes,
            bytes_sent: bytes * 2,
            ..world.facts(Perspective::Source)
        });
    }
    let text = scrape(&reporter);
    for (name, limit, count) in [
        ("istio_request_duration_milliseconds", "0.5", 1),
        ("istio_request_duration_milliseconds", "1", 3),
        ("istio_request_duration_milliseconds", "10", 3),
        ("istio_request_duration_milliseconds", "25", 4),
        ("istio_request_duration_milliseconds", "3600000", 4),
        ("istio_request_duration_milliseconds", "+Inf", 5),
        ("istio_request_bytes", "0.5", 1),
        ("istio_request_bytes", "1", 2),
        ("istio_request_bytes", "5", 3),
        ("istio_request_bytes", "10", 4),
        ("istio_request_bytes", "3600000", 4),
        ("istio_request_bytes", "+Inf", 5),
        ("istio_response_bytes", "1", 1),
        ("istio_response_bytes", "5", 2),
        ("istio_response_bytes", "25", 4),
    ] {
        let le = [&*format!(",le=\"{limit}\"}}")];
        assert_eq!(sample(&text, &format!("{name}_bucket"), &le), count, "{name} {limit}");
    }
    assert_eq!(labels_of(&text, "istio_response_bytes_bucket").len(), 20);
    assert_eq!(sample(&text, "istio_request_bytes_sum", &[]), 3_600_013);
    assert_eq!(sample(&text, "istio_request_bytes_count", &[]), 5);
    let sum = text.lines().find(|line| line.starts_with("istio_request_duration_milliseconds_sum{")).unwrap();
    assert!(sum.ends_with("} 7200014.346"), "{sum}");
    let limits = series::LIMITS.map(|limit| limit.replace("+Inf", "inf").parse::<f64>().unwrap());
    assert!(limits.is_sorted());
}

#[test]
fn what_is_told_apart_and_what_is_unknown() {
    let (world, (reporter, _sink)) = (World::new(), reporter(AccessLogFormat::Off));
    let facts = world.facts(Perspective::Source);
    let grpc = RequestFacts { grpc: true, protocol: "HTTP/2", grpc_status: Some(14), ..facts };
    for (told, labels) in [
        (
            RequestFacts { code: 0, flags: Flags::DC, ..facts },
            "response_code=\"0\",grpc_response_status=\"\",response_flags=\"DC\"",
        ),
        (RequestFacts { code: 1_000, ..facts }, "response_code=\"unknown\""),
        (grpc, "request_protocol=\"grpc\",response_code=\"200\",grpc_response_status=\"14\""),
        (RequestFacts { grpc_status: Some(17), ..grpc }, "grpc_response_status=\"unknown\""),
        (
            RequestFacts { grpc_status: Some(300), code: 201, ..grpc },
            "response_code=\"201\",grpc_response_status=\"unknown\"",
        ),
        (
            RequestFacts { grpc_status: Some(5), code: 202, ..facts },
            "response_code=\"202\",grpc_response_status=\"\"",
        ),
        (RequestFacts { flags: Flags::URX | Flags::UF, code: 503, ..facts }, "response_flags=\"UF,URX\""),
        (
            RequestFacts { encrypted: false, ..facts },
            "response_flags=\"-\",connection_security_policy=\"unknown\"",
        ),
        (
            RequestFacts { encrypted: false, reporter: Perspective::Destination, ..facts },
            "connection_security_policy=\"none\"",
        ),
        (
            RequestFacts {
                service: None,
                pseudo_service: Some(PseudoService::BlackHole),
                code: 502,
                ..facts
            },
            "destination_service=\"BlackHoleCluster\",destination_service_namespace=\"unknown\",destination_service_name=\"BlackHoleCluster\"",
        ),
        (RequestFacts { source: None, source_identity: None, ..facts }, "source_workload=\"unknown\""),
        (
            RequestFacts { destination: None, ..facts },
            "destination_workload=\"unknown\",destination_canonical_service=\"unknown\",destination_canonical_revision=\"unknown\",destination_workload_namespace=\"unknown\",destination_principal=\"spiffe://cluster.local/ns/default/sa/server\"",
        ),
    ] {
        reporter.request(&told);
        assert_eq!(sample(&scrape(&reporter), "istio_requests_total", &[labels]), 1, "{labels}");
    }
    assert_eq!(labels_of(&scrape(&reporter), "istio_requests_total").len(), 12);
    assert_eq!(sample(&scrape(&reporter), "mesh_label_sets_overflow_total", &[]), 0);
}

#[test]
fn messages_are_counted_where_there_are_any() {
    let (world, (reporter, _sink)) = (World::new(), reporter(AccessLogFormat::Off));
    for _ in 0..2 {
        let facts = world.facts(Perspective::Source);
        reporter.request(&RequestFacts { grpc: true, request_messages: 3, ..facts });
    }
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "istio_request_messages_total", &["request_protocol=\"grpc\""]), 6);
    assert_eq!(labels_of(&text, "istio_response_messages_total"), [""; 0]);
}

#[test]
fn classic_text_has_the_same_samples() {
    let (world, (reporter, _sink)) = (World::new(), reporter(AccessLogFormat::Off));
    reporter.request(&world.facts(Perspective::Source));
    let classic = crate::report::classic_text(&scrape(&reporter));
    assert!(classic.contains("# TYPE istio_requests_total counter\nistio_requests_total{"));
    assert!(classic.contains(
        "# TYPE istio_request_duration_milliseconds histogram\nistio_request_duration_milliseconds_bucket{"
    ));
    assert!(!classic.contains("# EOF"));
}

#[test]
fn a_traced_request_is_shown_beside_its_bucket_where_that_is_possible() {
    let (world, (reporter, _sink)) = (World::new(), reporter(AccessLogFormat::Off));
    reporter.request(&RequestFacts { trace: Some(0xabc), ..world.facts(Perspective::Source) });
    let text = scrape(&reporter);
    let shown: Vec<_> = text.lines().filter(|line| line.contains("trace_id")).collect();
    let [line] = shown[..] else { panic!("{shown:?}") };
    assert!(line.starts_with("istio_request_duration_milliseconds_bucket{"), "{line}");
    let expected = " 1 # {trace_id=\"00000000000000000000000000000abc\"} 12.345 1795251600.135";
    assert!(line.contains("le=\"25\"}") && line.ends_with(expected), "{line}");
    let classic = crate::report::classic_text(&text);
    assert!(!classic.contains("trace_id") && classic.contains("le=\"25\"} 1\n"));
    let odd = "a{b=\" # {trace_id=\"} 1";
    assert_eq!(without_exemplar(odd), odd);
}

#[test]
fn names_cannot_break_out_of_their_labels() {
    let (mut world, (reporter, _sink)) = (World::new(), reporter(AccessLogFormat::Off));
    let odd = Workload { app: "a\"b\\c\nd".into(), ..Workload::clone(&world.client) };
    world.client = Arc::new(odd);
    reporter.request(&world.facts(Perspective::Source));
    assert_eq!(sample(&scrape(&reporter), "istio_requests_total", &["source_app=\"a\\\"b\\\\c\\nd\","]), 1);
}

#[test]
fn label_sets_beyond_the_cap_share_one_for_each_perspective() {
    let (world, (reporter, _sink)) = (World::new(), reporter(AccessLogFormat::Off));
    for code in 200..400 {
        for perspective in Perspective::ALL {
            reporter.request(&RequestFacts { code, ..world.facts(perspective) });
        }
    }
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "mesh_label_sets_overflow_total", &[]), 500);
    assert_eq!(labels_of(&text, "istio_requests_total").len(), 103);
    for (perspective, count) in Perspective::ALL.into_iter().zip([166, 167, 167]) {
        let labels = format!("reporter=\"{}\",source_workload=\"unknown\"", perspective.reporter());
        assert_eq!(sample(&text, "istio_requests_total", &[&labels]), count);
    }
    let overflow = labels_of(&text, "istio_requests_total").pop().unwrap();
    assert_eq!(overflow.matches("=\"").count(), 25);
    assert_eq!(overflow.matches("unknown").count(), 24);
}

#[test]
fn recompiled_objects_find_the_same_series_and_are_not_kept_alive() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let old = World::new();
    let held = Arc::downgrade(&old.server);
    reporter.request(&old.facts(Perspective::Source));
    drop(old);
    assert!(held.upgrade().is_some());
    for _ in 0..SWEEPS_PER_EPOCH {
        reporter.sweep();
    }
    reporter.request(&World::new().facts(Perspective::Source));
    assert!(held.upgrade().is_none());
    assert_eq!(sample(&scrape(&reporter), "istio_requests_total", &[]), 2, "one series");
}

#[test]
fn more_label_sets_than_a_thread_remembers_are_told_apart() {
    let world = World::new();
    let options = crate::report::ReportOptions { max_request_sets: 5_000, ..Default::default() };
    let reporter = Reporter::new(options, Box::new(std::io::sink())).unwrap();
    for _ in 0..2 {
        for set in 0..4_000 {
            let (code, status) = (200 + set % 400, u32::from(set / 400));
            let facts = world.facts(Perspective::Source);
            reporter.request(&RequestFacts { code, grpc: true, grpc_status: Some(status), ..facts });
        }
    }
    let all = labels_of(&scrape(&reporter), "istio_requests_total");
    assert_eq!(all.len(), 4_000);
    assert!(all.iter().all(|line| line.ends_with("} 2")));
}

#[test]
fn threads_that_come_and_go_lose_no_request() {
    let (world, (reporter, _sink)) = (World::new(), reporter(AccessLogFormat::Off));
    let thousand = || {
        for n in 0..1_000 {
            let code = if n % 10 == 0 { 503 } else { 200 };
            reporter.request(&RequestFacts { code, ..world.facts(Perspective::Destination) });
        }
    };
    for _ in 0..5 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(thousand);
            }
            assert!(scrape(&reporter).ends_with("# EOF\n"), "while they count");
        });
    }
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "istio_requests_total", &["response_code=\"200\""]), 18_000);
    assert_eq!(sample(&text, "istio_requests_total", &["response_code=\"503\""]), 2_000);
    assert_eq!(sample(&text, "istio_response_bytes_sum", &["response_code=\"503\""]), 2_000 * 295);
    assert_eq!(reporter.counted(Event::LabelOverflow), 0);
}
