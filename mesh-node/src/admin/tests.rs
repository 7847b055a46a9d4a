//! The three ports over real connections.

use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::identity::CertificateState;
use crate::report::tests::{id, info, reporter};
use crate::report::{AccessLogFormat, Direction, Event, Stage};
use std::net::SocketAddr;

struct Fake {
    node: String,
    log: LogControl,
    /// Holds the filter, without which levels cannot be changed.
    _layer: LevelLayer<tracing_subscriber::Registry>,
    not_ready: Mutex<Option<String>>,
    bpf: Mutex<Vec<BpfLog>>,
    stopped: std::sync::atomic::AtomicU32,
}

impl AdminState for Fake {
    fn node(&self) -> &str {
        &self.node
    }

    fn config(&self) -> serde_json::Value {
        serde_json::json!({ "drain": "25s" })
    }

    fn log(&self) -> &LogControl {
        &self.log
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::default()
    }

    fn pods(&self) -> Vec<PodStatus> {
        let pod = |name: &str, state| PodStatus {
            uid: format!("Kubernetes//Pod/default/{name}-1").into(),
            name: format!("{name}-1").into(),
            namespace: "default".into(),
            ips: vec!["10.0.0.1".parse().unwrap()],
            identity: id(name),
            state,
            since: SystemTime::UNIX_EPOCH,
            shortcut: (name == "client").then(|| Err("eth7 has a queue".to_owned())),
        };
        let waiting = PodState::Pending("the pod has no <b>address</b> yet".to_owned());
        vec![pod("client", PodState::Captured), pod("other", waiting)]
    }

    fn certificates(&self) -> Vec<CertificateStatus> {
        vec![CertificateStatus {
            id: id("client"),
            serial: "0a1b".to_owned(),
            not_before: Some(SystemTime::UNIX_EPOCH),
            not_after: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)),
            state: CertificateState::Valid,
            last_error: None,
        }]
    }

    fn stop(&self) -> Result<(), String> {
        self.stopped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn set_bpf_log(&self, level: BpfLog) -> Result<(), String> {
        self.bpf.lock().unwrap().push(level);
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        self.not_ready.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

struct Bed {
    fake: Arc<Fake>,
    reporter: Arc<Reporter>,
    addresses: Vec<(Endpoint, SocketAddr)>,
    serving: tokio::task::JoinSet<()>,
}

impl Bed {
    async fn new() -> Self {
        let (layer, log) = LogControl::layer("info").unwrap();
        let fake = Arc::new(Fake {
            node: "n1".to_owned(),
            log,
            _layer: layer,
            not_ready: Mutex::default(),
            bpf: Mutex::default(),
            stopped: std::sync::atomic::AtomicU32::default(),
        });
        let (reporter, _sink) = reporter(AccessLogFormat::Off);
        let servers = Servers::bind(Ports { admin: 0, metrics: 0, ready: 0 }).await.unwrap();
        let addresses = servers.addresses();
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(servers.run(Admin::new(fake.clone(), reporter.clone())));
        Self { fake, reporter, addresses, serving }
    }

    fn address(&self, endpoint: Endpoint) -> SocketAddr {
        let port = self.addresses.iter().find(|(other, _)| *other == endpoint).unwrap().1.port();
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    async fn connect(&self, endpoint: Endpoint) -> TcpStream {
        TcpStream::connect(self.address(endpoint)).await.unwrap()
    }

    /// Sends a request's head and reads until the server closes.
    async fn ask(&self, endpoint: Endpoint, start: &str, headers: &[&str]) -> Answer {
        let mut io = self.connect(endpoint).await;
        let head = format!("{start} HTTP/1.1\r\nConnection: close\r\n{}\r\n\r\n", headers.join("\r\n"));
        io.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(Duration::from_secs(10), io.read_to_string(&mut text)).await.unwrap().unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        Answer { head: head.to_owned(), body: body.to_owned() }
    }

    async fn get(&self, endpoint: Endpoint, path: &str) -> Answer {
        self.ask(endpoint, &format!("GET {path}"), &["Host: localhost"]).await
    }
}

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> serde_json::Value {
        assert_eq!((self.status(), self.header("content-type")), (200, Some("application/json")));
        serde_json::from_str(&self.body).unwrap()
    }
}

#[tokio::test]
async fn readiness_says_what_it_waits_for() {
    let bed = Bed::new().await;
    let ready = bed.get(Endpoint::Ready, "/healthz/ready").await;
    assert_eq!((ready.status(), &*ready.body), (200, "ready\n"));
    *bed.fake.not_ready.lock().unwrap() = Some("no configuration yet".to_owned());
    let waiting = bed.get(Endpoint::Ready, "/healthz/ready").await;
    assert_eq!((waiting.status(), &*waiting.body), (503, "not ready: no configuration yet\n"));
    let by_address = bed.ask(Endpoint::Ready, "GET /healthz/ready", &["Host: 10.0.0.9:15021"]).await;
    assert_eq!(by_address.status(), 503, "probes come by address");
}

#[tokio::test]
async fn metrics_come_in_the_form_that_is_asked_for() {
    let bed = Bed::new().await;
    drop(bed.reporter.begin(info(Direction::Outbound)));
    let open =
        ["Host: 10.0.0.9:15020", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5"];
    for path in ["/metrics", "/stats/prometheus"] {
        let answer = bed.ask(Endpoint::Metrics, &format!("GET {path}"), &open).await;
        assert_eq!(answer.status(), 200);
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert!(answer.body.ends_with("# EOF\n"));
        for sample in [
            "workload_manager_active_proxy_count 1\n",
            "workload_manager_pending_proxy_count 1\n",
            "mesh_node_ready 1\n",
            "mesh_certificate_expiry_timestamp_seconds{identity=\"spiffe://cluster.local/ns/default/sa/client\"} 86400\n",
        ] {
            assert!(answer.body.contains(sample), "{sample}");
        }
    }
    let classic = bed.get(Endpoint::Metrics, "/metrics").await;
    assert_eq!(classic.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(classic.body.contains("# TYPE istio_tcp_connections_opened_total counter\n"));
    let head = bed.ask(Endpoint::Metrics, "HEAD /metrics", &["Host: x"]).await;
    assert_eq!((head.status(), &*head.body), (200, ""));
}

#[tokio::test]
async fn the_page_and_the_table() {
    let bed = Bed::new().await;
    let live = bed.reporter.begin(info(Direction::Outbound));
    live.opened();
    bed.reporter.count(Event::DeniedPolicy);
    let html = bed.ask(Endpoint::Admin, "GET /", &["Host: localhost", "Accept: text/html,*/*;q=0.8"]).await;
    assert_eq!((html.status(), html.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = html.header("content-security-policy").unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(nonce.len(), 32);
    assert_eq!(html.body.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
    let again = bed.ask(Endpoint::Admin, "GET /", &["Host: localhost", "Accept: text/html"]).await;
    assert!(!again.body.contains(nonce), "a nonce is used once");

    let text = bed.ask(Endpoint::Admin, "GET /", &["Host: 127.0.0.1:15000", "Accept: */*"]).await;
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    for part in [
        "Node n1, version 1.2.3, up 0 s, ready",
        "default/client-1  10.0.0.1  captured",
        "pending: the pod has no <b>address</b> yet",
        "default/server-1 (10.0.1.1:8080)",
        "mutual_tls",
        "Connections refused or ended by policy  policy  1",
    ] {
        assert!(text.body.contains(part), "{part} in\n{}", text.body);
    }
}

#[tokio::test]
async fn state_and_connections_as_json() {
    let bed = Bed::new().await;
    let live = bed.reporter.begin(info(Direction::Inbound));
    live.counters().sent.store(7, std::sync::atomic::Ordering::Relaxed);
    let state = bed.get(Endpoint::Admin, "/state.json").await.json();
    assert_eq!(state["ready"], true);
    assert_eq!(state["openConnections"], 1);
    assert_eq!(state["pods"][0]["certificate"]["notAfter"], "1970-01-02T00:00:00.000000Z");
    assert_eq!(state["pods"][0]["certificate"]["state"], "Valid");
    assert_eq!(state["pods"][1]["reason"], "the pod has no <b>address</b> yet");
    assert_eq!(state["connections"][0]["source"]["identity"], id("client").uri());
    let wants = ["Host: localhost", "Accept: application/json"];
    let connections = bed.ask(Endpoint::Admin, "GET /connections", &wants).await.json();
    assert_eq!(connections[0]["sent"], 7);
    let table = bed.get(Endpoint::Admin, "/connections").await;
    assert!(table.body.starts_with("DIRECTION  SOURCE") && table.body.contains("inbound"), "{}", table.body);
}

#[tokio::test]
async fn the_dump_has_the_shape_that_tools_read() {
    let bed = Bed::new().await;
    let live = bed.reporter.begin(info(Direction::Outbound));
    let dump = bed.get(Endpoint::Admin, "/config_dump").await.json();
    for key in ["config", "version", "workloads", "services", "policies", "certificates", "workloadState"] {
        assert!(dump.get(key).is_some(), "{key}");
    }
    assert_eq!(dump["config"]["drain"], "25s");
    assert_eq!(dump["certificates"][0]["certChain"][0]["serialNumber"], "0a1b");
    let pod = &dump["workloadState"]["Kubernetes//Pod/default/client-1"];
    assert_eq!(pod["state"], "captured");
    assert_eq!(pod["shortcut"], "eth7 has a queue");
    assert_eq!(pod["info"]["serviceAccount"], "client");
    let connection = &pod["connections"]["outbound"][0];
    assert_eq!(connection["originalDst"], "10.0.1.1:8080");
    assert_eq!(connection["actualDst"], "10.0.1.1:15008");
    assert_eq!(pod["connections"]["inbound"], serde_json::json!([]));
    drop(live);
}

/// An endpoint that is well and one that is not.
#[derive(Debug)]
struct Two;

impl crate::report::Checked for Two {
    fn checked(&self) -> Vec<crate::report::CheckedEndpoint> {
        let endpoint = |last: u8, standing, reason: &str| crate::report::CheckedEndpoint {
            client: "gateway".into(),
            cluster: "outbound|80||db.example".into(),
            endpoint: ([192, 0, 2, last], 80).into(),
            check: "HealthCheck shop/db".into(),
            standing: crate::report::CheckedEndpoint::standing(standing),
            reason: reason.into(),
        };
        let (well, out) = (mesh_core::health::Standing::Healthy, mesh_core::health::Standing::Unhealthy);
        vec![endpoint(2, out, "status <503>"), endpoint(1, well, "")]
    }
}

#[tokio::test]
async fn endpoints_that_are_left_out_are_shown() {
    let bed = Bed::new().await;
    let source = Arc::new(Two);
    for _ in 0..2 {
        bed.reporter.follow_checked(&source);
    }
    bed.reporter.count_check(true);
    bed.reporter.count_check(false);
    let checks = &bed.get(Endpoint::Admin, "/config_dump").await.json()["healthChecks"];
    assert_eq!((&checks[0]["endpoint"], &checks[0]["standing"]), (&"192.0.2.1:80".into(), &"healthy".into()));
    assert_eq!((checks[1]["standing"].as_str(), checks.as_array().unwrap().len()), (Some("unhealthy"), 2));
    let state = bed.get(Endpoint::Admin, "/state.json").await.json();
    assert_eq!(
        (state["unhealthy"][0]["reason"].as_str(), &state["unhealthy"][1]),
        (Some("status <503>"), &().into())
    );
    let text = bed.get(Endpoint::Admin, "/").await;
    assert!(text.body.contains("LEFT OUT") && text.body.contains("192.0.2.2:80"), "{}", text.body);
    let metrics = bed.get(Endpoint::Metrics, "/metrics").await.body;
    for line in [
        "mesh_health_checks_total{result=\"passed\"} 1",
        "mesh_health_checks_total{result=\"failed\"} 1",
        "mesh_unhealthy_endpoints 1",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} in {metrics}");
    }
    // Whoever is gone is not asked.
    drop(source);
    let metrics = bed.get(Endpoint::Metrics, "/metrics").await.body;
    assert!(metrics.contains("mesh_unhealthy_endpoints 0"), "{metrics}");
}

#[tokio::test]
async fn levels_are_shown_and_changed() {
    let bed = Bed::new().await;
    let shown = bed.get(Endpoint::Admin, "/logging").await;
    assert!(shown.status() == 200 && shown.body.starts_with("level=info\n"));
    let post = |query: &str| format!("POST /logging?{query}");
    let host = ["Host: localhost:15000", "Content-Length: 0"];
    for (query, levels) in [
        ("level=debug", "level=debug\n"),
        ("level=mesh_node%3A%3Al4%3Dtrace", "level=debug,mesh_node::l4=trace\n"),
        ("reset", "level=info\n"),
        ("bpf=debug", "level=info\n"),
        ("bpf=off", "level=info\n"),
    ] {
        let answer = bed.ask(Endpoint::Admin, &post(query), &host).await;
        assert_eq!((answer.status(), &*answer.body), (200, levels), "{query}");
    }
    assert_eq!(*bed.fake.bpf.lock().unwrap(), [BpfLog::Debug, BpfLog::Off]);
    for bad in ["level=loud", "bpf=loud", "volume=11", "level=%zz"] {
        assert_eq!(bed.ask(Endpoint::Admin, &post(bad), &host).await.status(), 400, "{bad}");
    }
    let by_get = bed.get(Endpoint::Admin, "/logging?level=trace").await;
    assert_eq!((by_get.status(), by_get.header("allow")), (405, Some("POST")));
    let from_page = ["Host: localhost", "Origin: https://evil.example", "Content-Length: 0"];
    assert_eq!(bed.ask(Endpoint::Admin, &post("level=trace"), &from_page).await.status(), 403);
    assert_eq!(bed.fake.log.levels(), "info");
}

#[tokio::test]
async fn the_process_is_stopped_by_post_and_by_no_web_page() {
    let bed = Bed::new().await;
    let stopped = || bed.fake.stopped.load(std::sync::atomic::Ordering::Relaxed);
    for (index, path) in (1..).zip(["/drain", "/quitquitquit"]) {
        let post = format!("POST {path}");
        let by_get = bed.get(Endpoint::Admin, path).await;
        assert_eq!((by_get.status(), by_get.header("allow")), (405, Some("POST")), "{path}");
        let from_page = ["Host: localhost", "Origin: https://evil.example", "Content-Length: 0"];
        assert_eq!(bed.ask(Endpoint::Admin, &post, &from_page).await.status(), 403, "{path}");
        let rebound = ["Host: evil.example", "Content-Length: 0"];
        assert_eq!(bed.ask(Endpoint::Admin, &post, &rebound).await.status(), 403, "{path}");
        assert_eq!(stopped(), index - 1, "{path}");
        let asked = bed.ask(Endpoint::Admin, &post, &["Host: localhost", "Content-Length: 0"]).await;
        assert_eq!((asked.status(), stopped()), (200, index), "{path}");
    }
    assert_eq!(bed.ask(Endpoint::Metrics, "POST /drain", &["Host: localhost"]).await.status(), 404);
}

#[tokio::test]
async fn certificates_are_shown_and_who_has_nothing_in_the_kernel_says_so() {
    let bed = Bed::new().await;
    let table = bed.get(Endpoint::Admin, "/certs").await.body;
    assert!(table.starts_with("IDENTITY") && table.contains("0a1b"), "{table}");
    let json = ["Host: localhost", "Accept: application/json"];
    let certs = bed.ask(Endpoint::Admin, "GET /certs", &json).await.json();
    assert_eq!(certs[0]["serial"], "0a1b");
    assert_eq!(bed.get(Endpoint::Admin, "/ebpf").await.status(), 404);
}

#[tokio::test]
async fn what_is_no_wish_for_a_profile_is_refused() {
    let bed = Bed::new().await;
    for query in ["seconds=0", "seconds=121", "seconds=-1", "seconds=a", "seconds=1&seconds=1", "second=1"] {
        let answer = bed.get(Endpoint::Admin, &format!("/debug/pprof/profile?{query}")).await;
        assert_eq!(answer.status(), 400, "{query}");
    }
    let from_page = ["Host: localhost", "Sec-Fetch-Site: cross-site"];
    assert_eq!(
        bed.ask(Endpoint::Admin, "GET /debug/pprof/profile?seconds=1", &from_page).await.status(),
        403
    );
}

#[tokio::test]
async fn other_hosts_methods_and_paths_are_refused() {
    let bed = Bed::new().await;
    for headers in [&["Host: evil.example:15000"][..], &["X: y"], &["Host: localhost", "Host: localhost"]] {
        let answer = bed.ask(Endpoint::Admin, "GET /config_dump", headers).await;
        assert_eq!(answer.status(), 403, "{headers:?}");
    }
    assert_eq!(
        bed.ask(Endpoint::Admin, "GET http://evil.example/", &["Host: localhost"]).await.status(),
        403
    );
    assert_eq!(bed.reporter.counted(Event::AdminHost), 4);
    for (endpoint, lists) in [
        (Endpoint::Admin, "/config_dump"),
        (Endpoint::Metrics, "/stats/prometheus"),
        (Endpoint::Ready, "/healthz/ready"),
    ] {
        let nowhere = bed.get(endpoint, "/nowhere").await;
        assert!(nowhere.status() == 404 && nowhere.body.contains(lists), "{}", nowhere.body);
        let start = format!("DELETE {lists}");
        let wrong = bed.ask(endpoint, &start, &["Host: localhost"]).await;
        assert!(wrong.status() == 405 && wrong.body.contains(lists), "{}", wrong.body);
        assert_eq!(wrong.header("allow"), Some("GET, HEAD"));
    }
    assert_eq!(bed.get(Endpoint::Metrics, "/config_dump").await.status(), 404, "state stays on loopback");
}

#[tokio::test]
async fn the_admin_port_is_on_loopback_only_and_on_both_families() {
    let bed = Bed::new().await;
    for (endpoint, address) in &bed.addresses {
        assert_eq!(address.ip().is_loopback(), *endpoint == Endpoint::Admin, "{endpoint:?} {address}");
    }
    if let Ok(mut io) = TcpStream::connect(("::1", bed.address(Endpoint::Admin).port())).await {
        io.write_all(b"GET /logging HTTP/1.1\r\nHost: [::1]:15000\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
    let port = bed.address(Endpoint::Metrics).port();
    let taken = Servers::bind(Ports { admin: 0, metrics: port, ready: 0 }).await.unwrap_err();
    assert!(taken.to_string().starts_with(&format!("cannot listen on port {port} for Metrics")), "{taken}");
}

#[tokio::test]
async fn connections_beyond_the_cap_are_dropped_and_places_come_back() {
    let bed = Bed::new().await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(bed.connect(Endpoint::Ready).await);
    }
    let mut beyond = bed.connect(Endpoint::Ready).await;
    let end = timeout(Duration::from_secs(3), beyond.read(&mut [0; 1])).await.expect("closed at once");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert_eq!(bed.reporter.counted(Event::AdminConnections), 1);
    held.clear();
    let mut free = false;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut io = bed.connect(Endpoint::Ready).await;
        let _ = io.write_all(b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut answer = [0; 12];
        free = io.read_exact(&mut answer).await.is_ok() && &answer == b"HTTP/1.1 200";
        if free {
            break;
        }
    }
    assert!(free, "places come back");
}

#[tokio::test]
async fn a_silent_client_is_shown_the_door() {
    let bed = Bed::new().await;
    let silent = async |endpoint| {
        let mut io = bed.connect(endpoint).await;
        io.write_all(b"GET / HTTP/1.1\r\nHost: loc").await.unwrap();
        let mut rest = Vec::new();
        let end = timeout(Duration::from_secs(9), io.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "{endpoint:?} waits for ever");
    };
    tokio::join!(silent(Endpoint::Admin), silent(Endpoint::Ready));
}

#[tokio::test]
async fn nonsense_on_the_wire_harms_nobody() {
    let bed = Bed::new().await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(500));
    for bytes in [
        b"\x16\x03\x01\x02\x00".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut io = bed.connect(Endpoint::Admin).await;
        let _ = io.write_all(bytes).await;
        let _ = io.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(9), io.read_to_end(&mut answer)).await.expect("an end");
        assert!(!answer.starts_with(b"HTTP/1.1 2"));
    }
    assert_eq!(bed.get(Endpoint::Admin, "/state.json").await.status(), 200);
    assert_eq!(bed.serving.len(), 1);
}

#[tokio::test]
async fn failures_of_connections_do_not_hide_from_metrics() {
    let bed = Bed::new().await;
    bed.reporter.begin(info(Direction::Inbound)).fail(Stage::Policy, "no");
    let metrics = bed.get(Endpoint::Metrics, "/metrics").await;
    let failed =
        |line: &&str| line.starts_with("istio_tcp_connections_failed_total{") && line.contains("\"DENY\"");
    assert_eq!(metrics.body.lines().filter(failed).count(), 1);
}

#[tokio::test]
async fn what_is_asked_of_proxies_elsewhere_is_answered_by_the_admin_port_as_well() {
    let bed = Bed::new().await;
    let metrics = bed.get(Endpoint::Admin, "/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.body.contains("# TYPE istio_tcp_connections_opened_total counter\n"));
    let elsewhere = bed.ask(Endpoint::Admin, "GET /metrics", &["Host: evil.example"]).await;
    assert_eq!(elsewhere.status(), 403, "of this port the host is looked at");
    let index = bed.get(Endpoint::Admin, "/debug/pprof/").await;
    assert!(index.status() == 200 && index.body.contains("/debug/pprof/profile"), "{}", index.body);
    let words = bed.get(Endpoint::Admin, "/debug/pprof/cmdline").await;
    assert_eq!(words.body, std::env::args().collect::<Vec<_>>().join("\0"));
}
