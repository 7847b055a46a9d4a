use super::*;
use mesh_core::id::{SpiffeId, TrustDomain};
use mesh_core::model::WorkloadType;
use std::collections::BTreeMap;
use std::sync::Mutex;

pub(crate) fn id(service_account: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "default", service_account).unwrap()
}

pub(crate) fn workload(name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        uid: format!("Kubernetes//Pod/default/{name}-1").into(),
        name: format!("{name}-1").into(),
        namespace: "default".into(),
        node: Some("n1".into()),
        ips: vec!["10.0.0.1".parse().unwrap()],
        identity: id(name),
        enrolled: true,
        labels: BTreeMap::new(),
        workload_name: name.into(),
        workload_type: WorkloadType::Deployment,
        app: name.into(),
        version: "v1".into(),
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        service_account: name.into(),
        cluster: "Kubernetes".into(),
        region: "".into(),
        zone: "".into(),
        probe_ports: Vec::new(),
        host_network: false,
        services: Vec::new(),
        policies: Vec::new(),
        ready: true,
        pod_uid: None,
        hostname: None,
        weight: 0,
        inbound_bypass: false,
        dns_bypass: false,
        waypoint: None,
    })
}

pub(crate) fn service(name: &str) -> Arc<Service> {
    Arc::new(Service {
        namespace: "default".into(),
        name: name.into(),
        hostname: format!("{name}.default.svc.cluster.local").into(),
        vips: vec!["10.96.0.1".parse().unwrap()],
        ports: Vec::new(),
        udp_ports: Vec::new(),
        session_affinity: None,
        traffic_distribution: None,
        local_only: false,
        headless: false,
        publish_not_ready: false,
        families: mesh_core::model::Families::Any,
        entry: None,
        exported: mesh_core::model::Exported::Everywhere,
        waypoint: None,
    })
}

pub(crate) fn info(direction: Direction) -> ConnInfo {
    let party = |addr: &str, name| Party {
        addr: addr.parse().unwrap(),
        workload: Some(workload(name)),
        identity: Some(id(name)),
    };
    ConnInfo {
        direction,
        source: party("10.0.0.1:40000", "client"),
        destination: party("10.0.1.1:8080", "server"),
        hbone_addr: Some("10.0.1.1:15008".parse().unwrap()),
        service: Some(service("server")),
        pseudo_service: None,
        encrypted: true,
        datagrams: false,
    }
}

/// A place for access-log lines that a test can read.
#[derive(Clone, Default)]
pub(crate) struct Sink(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Sink {
    pub(crate) fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn reporter(access_log: AccessLogFormat) -> (Arc<Reporter>, Sink) {
    let sink = Sink::default();
    let options = ReportOptions {
        version: "1.2.3".to_owned(),
        access_log,
        max_label_sets: 100,
        max_request_sets: 100,
        ..ReportOptions::default()
    };
    (Reporter::new(options, Box::new(sink.clone())).unwrap(), sink)
}

pub(crate) fn scrape(reporter: &Arc<Reporter>) -> String {
    reporter.scrape(NodeFigures::default())
}

/// The value of the one sample of a family whose labels include all of `with`; 0 if there is none.
pub(crate) fn sample(text: &str, name: &str, with: &[&str]) -> u64 {
    let ours = |line: &&str| {
        line.split(['{', ' ']).next() == Some(name) && with.iter().all(|label| line.contains(label))
    };
    let values: Vec<_> = text.lines().filter(ours).map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert!(values.len() <= 1, "several samples of {name} with {with:?}");
    values.first().map_or(0, |value| value.parse().unwrap())
}

#[test]
fn one_connection_has_exactly_the_labels_that_dashboards_know() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    drop(reporter.begin(info(Direction::Outbound)));
    let text = scrape(&reporter);
    let line = text.lines().find(|line| line.starts_with("istio_tcp_connections_closed_total{")).unwrap();
    assert_eq!(
        line,
        "istio_tcp_connections_closed_total{reporter=\"source\",\
         source_workload=\"client\",source_canonical_service=\"client\",source_canonical_revision=\"v1\",\
         source_workload_namespace=\"default\",source_principal=\"spiffe://cluster.local/ns/default/sa/client\",\
         source_app=\"client\",source_version=\"v1\",source_cluster=\"Kubernetes\",\
         source_region=\"unknown\",source_zone=\"unknown\",\
         destination_workload=\"server\",destination_canonical_service=\"server\",\
         destination_canonical_revision=\"v1\",destination_workload_namespace=\"default\",\
         destination_principal=\"spiffe://cluster.local/ns/default/sa/server\",destination_app=\"server\",\
         destination_version=\"v1\",destination_cluster=\"Kubernetes\",destination_region=\"unknown\",\
         destination_zone=\"unknown\",destination_service=\"server.default.svc.cluster.local\",\
         destination_service_namespace=\"default\",destination_service_name=\"server\",request_protocol=\"tcp\",\
         connection_security_policy=\"mutual_tls\",response_flags=\"-\"} 1"
    );
    assert_eq!(line.matches("=\"").count(), 27);
}

#[test]
fn unknown_ends_are_unknown_and_pseudo_services_are_named() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let report = reporter.begin(ConnInfo {
        destination: Party::unknown("1.1.1.1:443".parse().unwrap()),
        service: None,
        pseudo_service: Some(PseudoService::Passthrough),
        encrypted: false,
        hbone_addr: None,
        ..info(Direction::Outbound)
    });
    report.opened();
    let labels = [
        "destination_service=\"PassthroughCluster\"",
        "destination_service_name=\"PassthroughCluster\"",
        "destination_service_namespace=\"unknown\"",
        "destination_workload=\"unknown\"",
        "destination_principal=\"unknown\"",
        "connection_security_policy=\"unknown\"",
    ];
    assert_eq!(sample(&scrape(&reporter), "istio_tcp_connections_opened_total", &labels), 1);
}

#[test]
fn both_reporters_count_the_same_bytes_under_the_same_name() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let client = reporter.begin(info(Direction::Outbound));
    let server = reporter.begin(info(Direction::Inbound));
    // The client asks with 10 bytes and is answered with 300.
    client.counters().sent.store(10, Ordering::Relaxed);
    client.counters().received.store(300, Ordering::Relaxed);
    server.counters().received.store(10, Ordering::Relaxed);
    server.counters().sent.store(300, Ordering::Relaxed);
    drop((client, server));
    let text = scrape(&reporter);
    for by in ["reporter=\"source\"", "reporter=\"destination\""] {
        assert_eq!(sample(&text, "istio_tcp_received_bytes_total", &[by]), 10, "{by}");
        assert_eq!(sample(&text, "istio_tcp_sent_bytes_total", &[by]), 300, "{by}");
    }
}

#[test]
fn both_ends_of_a_connection_within_the_node_count_the_same_bytes() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let client = reporter.begin(info(Direction::Outbound));
    let server = reporter.begin(info(Direction::Inbound));
    server.mirror(&client);
    client.counters().sent.store(10, Ordering::Relaxed);
    client.counters().received.store(300, Ordering::Relaxed);
    reporter.sweep();
    let shown: Vec<_> = reporter.connections().iter().map(|view| (view.sent, view.received)).collect();
    assert_eq!(shown, [(10, 300), (300, 10)]);
    for ends in [None, Some(client), Some(server)] {
        drop(ends);
        let text = scrape(&reporter);
        for by in ["reporter=\"source\"", "reporter=\"destination\""] {
            assert_eq!(sample(&text, "istio_tcp_received_bytes_total", &[by]), 10, "{by}");
            assert_eq!(sample(&text, "istio_tcp_sent_bytes_total", &[by]), 300, "{by}");
        }
    }
}

#[test]
fn a_live_connection_is_counted_before_it_ends() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let report = reporter.begin(info(Direction::Inbound));
    let counters = report.counters();
    reporter.sweep();
    assert_eq!(
        sample(&scrape(&reporter), "istio_tcp_connections_opened_total", &[]),
        0,
        "not established yet"
    );
    assert_eq!(sample(&scrape(&reporter), "istio_tcp_sockets_open", &["destination"]), 1);
    for round in 1..=3 {
        counters.sent.fetch_add(100, Ordering::Relaxed);
        reporter.sweep();
        reporter.sweep();
        assert_eq!(sample(&scrape(&reporter), "istio_tcp_sent_bytes_total", &[]), round * 100);
    }
    assert_eq!(sample(&scrape(&reporter), "istio_tcp_connections_opened_total", &[]), 1);
    counters.sent.fetch_add(7, Ordering::Relaxed);
    drop(report);
    reporter.sweep();
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "istio_tcp_sent_bytes_total", &[]), 307);
    assert_eq!(sample(&text, "istio_tcp_connections_opened_total", &[]), 1);
    assert_eq!(sample(&text, "istio_tcp_connections_closed_total", &[]), 1);
    assert_eq!(sample(&text, "istio_tcp_sockets_open", &["destination"]), 0);
}

#[test]
fn bytes_are_counted_exactly_once_while_sweeps_and_ends_race() {
    const PER_THREAD: u64 = 300;
    let (reporter, sink) = reporter(AccessLogFormat::Text);
    let shared = info(Direction::Outbound);
    let finished = AtomicU64::new(0);
    let connection = |n: u64| {
        let report = reporter.begin(shared.clone());
        let counters = report.counters();
        for _ in 0..50 {
            counters.sent.fetch_add(3, Ordering::Relaxed);
            counters.received.fetch_add(n, Ordering::Relaxed);
        }
        if n.is_multiple_of(3) {
            report.opened();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                (0..PER_THREAD).for_each(connection);
                finished.fetch_add(1, Ordering::Relaxed);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while finished.load(Ordering::Relaxed) < 3 {
                    reporter.sweep();
                }
            });
        }
    });
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "istio_tcp_received_bytes_total", &[]), 3 * PER_THREAD * 50 * 3);
    assert_eq!(
        sample(&text, "istio_tcp_sent_bytes_total", &[]),
        3 * 50 * (PER_THREAD * (PER_THREAD - 1) / 2)
    );
    assert_eq!(sample(&text, "istio_tcp_connections_opened_total", &[]), 3 * PER_THREAD);
    assert_eq!(sample(&text, "istio_tcp_connections_closed_total", &[]), 3 * PER_THREAD);
    assert_eq!(reporter.open_connections(), 0);
    assert!(reporter.connections().is_empty());
    reporter.flush_access_log(Duration::from_secs(10));
    assert_eq!(
        u64::try_from(sink.lines().len()).unwrap() + reporter.counted(Event::AccessLogDropped),
        3 * PER_THREAD
    );
}

#[test]
fn a_failure_shows_in_flags_and_counts_as_failed_only_if_never_established() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    for stage in Stage::ALL {
        let report = reporter.begin(info(Direction::Inbound));
        report.fail(stage, "why");
        report.fail(Stage::Drain, "a consequence");
    }
    let cut = reporter.begin(info(Direction::Inbound));
    cut.opened();
    cut.fail(Stage::Policy, "the policy has changed");
    drop(cut);
    reporter.begin(info(Direction::Inbound)).fail_as(Stage::Tls, Flag::IdentityError, "no certificate");
    let text = scrape(&reporter);
    for (flag, closed, failed) in [
        ("-", 0, 0),
        ("DENY", 2, 1),
        ("CONNECT", 2, 2),
        ("TLS_FAILURE", 1, 1),
        ("H2_HANDSHAKE_FAILURE", 1, 1),
        ("IDENTITY_ERROR", 1, 1),
        ("NR", 1, 1),
        ("UH", 1, 1),
        ("UC", 1, 0),
        ("LR", 1, 0),
    ] {
        let label = [&*format!("response_flags=\"{flag}\"")];
        assert_eq!(sample(&text, "istio_tcp_connections_closed_total", &label), closed, "closed {flag}");
        assert_eq!(sample(&text, "istio_tcp_connections_failed_total", &label), failed, "failed {flag}");
    }
    assert_eq!(sample(&text, "istio_tcp_connections_opened_total", &[]), 11);
}

#[test]
fn label_sets_beyond_the_cap_share_one_and_are_counted() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    for n in 0..150 {
        let mut info = info(Direction::Outbound);
        info.destination.workload = Some(workload(&format!("server{n}")));
        for _ in 0..2 {
            drop(reporter.begin(info.clone()));
        }
    }
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "mesh_label_sets_overflow_total", &[]), 100);
    let overflow = ["source_workload=\"unknown\"", "destination_service=\"unknown\"", "reporter=\"source\""];
    assert_eq!(sample(&text, "istio_tcp_connections_closed_total", &overflow), 100);
    let sets = text.lines().filter(|line| line.starts_with("istio_tcp_connections_closed_total{")).count();
    assert_eq!(sets, 101);
}

#[test]
fn recompiled_objects_find_the_same_series_and_are_not_kept_alive() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let old = info(Direction::Outbound);
    let held = Arc::downgrade(old.source.workload.as_ref().unwrap());
    drop(reporter.begin(old));
    for _ in 0..SWEEPS_PER_EPOCH {
        reporter.sweep();
    }
    drop(reporter.begin(info(Direction::Outbound)));
    assert!(held.upgrade().is_none());
    assert_eq!(sample(&scrape(&reporter), "istio_tcp_connections_closed_total", &[]), 2, "one series");
}

#[test]
fn the_exposition_is_well_formed() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let mut odd = info(Direction::Outbound);
    let odd_name =
        Workload { workload_name: "we\"ird\\na\nme".into(), ..Workload::clone(&workload("client")) };
    odd.source.workload = Some(Arc::new(odd_name));
    drop(reporter.begin(odd));
    reporter.count(Event::HandshakeDeadline);
    let certificate =
        |identity: &str, not_after| CertificateFigure { identity: identity.to_owned(), not_after };
    let year_2027 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let text = reporter.scrape(NodeFigures {
        active_pods: 2,
        pending_pods: 1,
        ready: true,
        certificates: vec![
            certificate("spiffe://a/ns/b/sa/c", Some(year_2027)),
            certificate("spiffe://a/ns/b/sa/d", None),
        ],
    });
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    assert!(!text.contains("_total_total") && text.contains("we\\\"ird\\\\na\\nme"));
    let mut families = std::collections::BTreeSet::new();
    let mut family = ("", "");
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            family = declared.split_once(' ').unwrap();
            assert!(families.insert(family.0), "{} is declared twice", family.0);
        } else if !line.starts_with("# HELP ") {
            let name = line.split(['{', ' ']).next().unwrap();
            let expected =
                if family.1 == "counter" { format!("{}_total", family.0) } else { family.0.to_owned() };
            assert_eq!(name, expected, "{line}");
        }
    }
    for (sample_of, labels, value) in [
        ("istio_build", "component=\"node\",tag=\"1.2.3\"", 1),
        ("istio_build", "component=\"ztunnel\",tag=\"1.2.3\"", 1),
        ("workload_manager_active_proxy_count", "", 2),
        ("workload_manager_pending_proxy_count", "", 1),
        ("mesh_node_ready", "", 1),
        ("mesh_certificate_expiry_timestamp_seconds", "sa/c", 1_800_000_000),
        ("mesh_certificates_missing", "", 1),
        ("mesh_handshakes_refused_total", "reason=\"deadline\"", 1),
        ("mesh_panics_total", "", 0),
    ] {
        assert!(text.contains(&format!("\n{sample_of}")), "{sample_of} is there");
        assert_eq!(sample(&text, sample_of, &[labels]), value, "{sample_of}");
    }
    assert!(text.contains("\nprocess_open_fds ") && text.contains("\nprocess_cpu_seconds_total "));
    let classic = classic_text(&text);
    assert!(classic.contains("# TYPE istio_tcp_sent_bytes_total counter\nistio_tcp_sent_bytes_total{"));
    assert!(classic.contains("# HELP istio_build Version") && classic.contains("# TYPE istio_build gauge\n"));
    assert!(!classic.contains("# EOF") && !classic.contains("_total_total"));
    if let Ok(path) = std::env::var("MESH_TEST_EXPOSITION") {
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn metrics_of_other_parts_are_scraped_too() {
    #[derive(Debug)]
    struct Other;
    impl Collector for Other {
        fn encode(
            &self,
            mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
        ) -> std::fmt::Result {
            use prometheus_client::metrics::MetricType;
            encoder.encode_descriptor("mesh_other", "Other.", None, MetricType::Gauge)?.encode_gauge(&5_i64)
        }
    }
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    reporter.register(Arc::new(Other));
    assert_eq!(sample(&scrape(&reporter), "mesh_other", &[]), 5);
}

#[test]
fn the_table_shows_live_connections() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let first = reporter.begin(info(Direction::Outbound));
    let second = reporter.begin(ConnInfo { service: None, ..info(Direction::Inbound) });
    second.set_service(service("late"));
    second.set_destination(Party::unknown("10.9.9.9:1".parse().unwrap()));
    second.opened();
    first.counters().sent.store(5, Ordering::Relaxed);
    let all = reporter.connections();
    let shown: Vec<_> = all.iter().map(|view| (view.id, view.sent, view.established)).collect();
    assert_eq!(shown, [(first.id(), 5, false), (second.id(), 0, true)]);
    assert_eq!(all[1].info.service.as_ref().map(|service| &*service.name), Some("late"));
    drop(first);
    assert_eq!(reporter.connections().len(), 1);
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture cost"]
#[expect(clippy::print_stdout, reason = "a measurement prints")]
fn cost_of_one_connection() {
    for format in [AccessLogFormat::Off, AccessLogFormat::Text] {
        let (reporter, _sink) = reporter(format);
        let shared = info(Direction::Outbound);
        let start = std::time::Instant::now();
        for _ in 0..100_000 {
            let report = reporter.begin(shared.clone());
            report.opened();
            drop(report);
        }
        println!("{}: {:?} a connection", format.name(), start.elapsed() / 100_000);
    }
}

/// What a Telemetry of the mesh with these overrides says of connections.
pub(crate) fn told(overrides: &str) -> Option<Arc<Told>> {
    use mesh_core::resource::{SourceFile, parse};
    let text = format!(
        "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: t, namespace: istio-system}}, \
         spec: {{metrics: [{{providers: [{{name: prometheus}}], overrides: {overrides}}}]}}}}"
    );
    let parsed = parse(&SourceFile { name: "t.yaml", text: &text });
    assert_eq!(parsed.objects.len(), 1, "{:?}", parsed.findings);
    let compiled = mesh_core::model::compile(&parsed.objects, &mesh_core::model::CompileOptions::default());
    let telemetry = Telemetry::of(&compiled.snapshot, &Telemetry::default());
    telemetry.of_connection(Some(&workload("client")), mesh_core::telemetry::Side::Client)
}

#[test]
fn labels_of_connections_are_as_a_telemetry_wants_them() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let overrides = "[{match: {metric: TCP_OPENED_CONNECTIONS}, tagOverrides: {source_app: {operation: REMOVE}, \
         source_version: {operation: REMOVE}, team: {value: \"'shop'\"}, port: {value: destination.port}, \
         response_flags: {operation: REMOVE}, odd: {value: request.host}}}]";
    let changed = told(overrides);
    for _ in 0..2 {
        let report = reporter.begin(info(Direction::Outbound));
        report.tell(changed.clone());
        report.opened();
        report.counters().sent.fetch_add(5, Ordering::Relaxed);
    }
    let other = ConnInfo {
        source: Party {
            workload: Some(Arc::new(Workload { version: "v2".into(), ..(*workload("client")).clone() })),
            ..info(Direction::Outbound).source
        },
        ..info(Direction::Outbound)
    };
    let report = reporter.begin(other);
    report.tell(changed);
    drop(report);
    let text = scrape(&reporter);
    let opened: Vec<_> =
        text.lines().filter(|line| line.starts_with("istio_tcp_connections_opened_total{")).collect();
    let [line] = opened[..] else { panic!("{opened:#?}") };
    for wanted in ["team=\"shop\"", "port=\"8080\"", "odd=\"unknown\"", "response_flags=\"-\"", "} 3"] {
        assert!(line.contains(wanted), "{wanted} in {line}");
    }
    assert!(!line.contains("source_app") && !line.contains("source_version"), "{line}");
    let of_v1 = ["source_app=\"client\"", "source_version=\"v1\""];
    assert_eq!(sample(&text, "istio_tcp_connections_closed_total", &of_v1), 2, "the others are as usual");
    assert_eq!(sample(&text, "istio_tcp_received_bytes_total", &of_v1), 10);
    let bytes = text.lines().filter(|line| line.starts_with("istio_tcp_received_bytes_total{"));
    assert_eq!(bytes.filter(|line| line.contains("team=")).count(), 0, "{text}");
}
