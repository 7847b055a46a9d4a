//! Active health checks: servers whose health is switched while requests come.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::get;
use crate::frames::{self, END_HEADERS, END_STREAM, HEADERS, Raw, frame, listener, soon};
use crate::row::{Case, Row, row, slug};
use crate::stream::on_tcp;
use crate::tls::Authority;

pub(crate) fn rows() -> Vec<Row> {
    [http(), ways(), streams(), groups(), changes()].into_iter().flatten().collect()
}

/// What a server says at `/live`: a status, or nothing at all.
#[derive(Clone)]
struct Switch(Arc<AtomicU16>, Arc<AtomicUsize>);

/// It reads, and stays silent.
const SILENT: u16 = 0;
/// It sends a head that never ends.
const ENDLESS: u16 = 1;

impl Switch {
    fn new(status: u16) -> Self {
        Self(Arc::new(AtomicU16::new(status)), Arc::default())
    }

    fn set(&self, status: u16) {
        self.0.store(status, Ordering::Relaxed);
    }

    /// How often it was asked.
    fn asked(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }
}

/// Answers requests with its name, and those for `/live` as the switch says.
fn serve(listener: TcpListener, name: &'static str, switch: &Switch) -> Result<()> {
    listener.set_nonblocking(true)?;
    let (listener, switch) = (tokio::net::TcpListener::from_std(listener)?, switch.clone());
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::task::spawn_local(follow(tcp, name, switch.clone()));
        }
    });
    Ok(())
}

async fn follow(mut tcp: TcpStream, name: &'static str, switch: Switch) -> std::io::Result<()> {
    let mut input = Vec::new();
    while tcp.read_buf(&mut input).await? > 0 {
        if !input.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8_lossy(&input).into_owned();
        input.clear();
        let status = if head.starts_with("GET /live ") {
            switch.1.fetch_add(1, Ordering::Relaxed);
            switch.0.load(Ordering::Relaxed)
        } else {
            200
        };
        match status {
            SILENT => {}
            ENDLESS => loop {
                let filler = "x".repeat(64 << 10).into_bytes();
                tcp.write_all("HTTP/1.1 200 OK\r\nx: ".as_bytes()).await?;
                tcp.write_all(&filler).await?;
            },
            status => {
                let answer = format!(
                    "HTTP/1.1 {status} So\r\nlocation: /well\r\ncontent-length: {}\r\n\r\n{name}",
                    name.len()
                );
                tcp.write_all(answer.as_bytes()).await?;
            }
        }
    }
    Ok(())
}

/// A ServiceEntry under the row's name with endpoints at these addresses.
fn entry(protocol: &str, addresses: &[SocketAddr]) -> String {
    let endpoint = |it: &SocketAddr| format!("{{address: {}, ports: {{one: {}}}}}", it.ip(), it.port());
    let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: NAME, namespace: conf}}, \
         spec: {{hosts: [NAME.health], resolution: STATIC, ports: [{{name: one, number: 80, protocol: {protocol}}}], \
         endpoints: [{}]}}}}",
        endpoints.join(", ")
    )
}

fn check(spec: &str) -> String {
    format!(
        "{{apiVersion: policy.mesh.internal/v1alpha1, kind: HealthCheck, metadata: {{name: NAME, namespace: conf}}, \
         spec: {{targetRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: NAME}}], interval: 100ms, {spec}}}}}"
    )
}

fn policy(text: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: NAME, namespace: conf}}, \
         spec: {{host: NAME.health, trafficPolicy: {{{text}}}}}}}"
    )
}

const IN_TURN: &str = "loadBalancer: {simple: ROUND_ROBIN}";
const LIVE: &str = "http: {path: /live}, unhealthyThreshold: 1";

/// Two servers, `a` and `b`, that are checked.
fn two<F: Future<Output = Result<()>> + 'static>(
    id: &str,
    (spec, rule): (&str, &str),
    act: impl FnOnce(Case, Switch, Switch) -> F + 'static,
) -> Row {
    let (one, other) = (listener(), listener());
    let addresses = [&one, &other].map(|it| it.local_addr().expect("it is bound"));
    let host =
        format!("[{{retries: {{attempts: 0}}, route: [{{destination: {{host: {}.health}}}}]}}]", slug(id));
    row(id).http(&host).config(&entry("HTTP", &addresses)).config(&policy(rule)).config(&check(spec)).act(
        async move |case| {
            let (a, b) = (Switch::new(200), Switch::new(200));
            serve(one, "a", &a)?;
            serve(other, "b", &b)?;
            act(case, a, b).await
        },
    )
}

/// Who answers a few requests; a status stands for who does not.
async fn answering(case: &Case) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for _ in 0..6 {
        let reply = case.send(get("/").mark(&case.id)).await?;
        all.insert(if reply.status == 200 { reply.text() } else { reply.status.to_string() });
    }
    Ok(all)
}

/// Waits until these answer, and nobody else.
async fn until(case: &Case, wanted: &[&str]) -> Result<()> {
    let wanted: BTreeSet<_> = wanted.iter().map(|it| (*it).to_owned()).collect();
    let begun = Instant::now();
    loop {
        let found = answering(case).await?;
        if found == wanted {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{found:?} answer, not {wanted:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn http() -> Vec<Row> {
    vec![
        two("health/http", (LIVE, IN_TURN), async |case, a, _| {
            until(&case, &["a", "b"]).await?;
            a.set(503);
            until(&case, &["b"]).await?;
            let failed =
                case.stand.gateway.metric("mesh_health_checks_total", &[("result", "failed")]).await?;
            ensure!(failed >= 1.0, "{failed} were counted");
            let said = case.stand.gateway.said();
            let line =
                said.lines().find(|line| line.contains("Left out") && line.contains("health-http.health"));
            ensure!(
                line.is_some_and(|it| it.contains("status 503") && it.contains("conf/health-http")),
                "{line:?}"
            );
            a.set(200);
            until(&case, &["a", "b"]).await
        }),
        two("health/nobody-is-well", (LIVE, IN_TURN), async |case, a, b| {
            a.set(500);
            b.set(500);
            until(&case, &["503"]).await?;
            let reply = case.send(get("/").mark("health/none")).await?;
            ensure!(reply.status == 503 && reply.text() == "no healthy upstream", "{reply}");
            ensure!(case.stand.log("health/none").await?["response_flags"] == "UH");
            b.set(200);
            until(&case, &["b"]).await
        }),
        // Fewer are well than the rule wants: all are used.
        two(
            "health/panic",
            (
                LIVE,
                "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 100, minHealthPercent: 60}",
            ),
            async |case, a, b| {
                until(&case, &["a", "b"]).await?;
                a.set(500);
                soon("it is asked", || a.asked() > 3).await?;
                until(&case, &["a", "b"]).await?;
                b.set(500);
                soon("it is asked", || b.asked() > 3).await?;
                until(&case, &["a", "b"]).await
            },
        ),
        two("health/redirects-are-no-answer", (LIVE, IN_TURN), async |case, a, _| {
            a.set(301);
            until(&case, &["b"]).await?;
            let all = answering(&case).await?;
            ensure!(all.len() == 1, "{all:?}");
            Ok(())
        }),
        two(
            "health/statuses",
            ("http: {path: /live, expectedStatuses: ['404', '500-503']}, unhealthyThreshold: 1", IN_TURN),
            async |case, a, b| {
                a.set(404);
                b.set(502);
                until(&case, &["a", "b"]).await?;
                b.set(200);
                until(&case, &["a"]).await
            },
        ),
        two(
            "health/silence",
            ("http: {path: /live}, timeout: 200ms, unhealthyThreshold: 2", IN_TURN),
            async |case, a, b| {
                until(&case, &["a", "b"]).await?;
                a.set(SILENT);
                until(&case, &["b"]).await?;
                b.set(ENDLESS);
                until(&case, &["503"]).await?;
                a.set(200);
                until(&case, &["a"]).await
            },
        ),
        two(
            "health/thresholds",
            ("http: {path: /live}, healthyThreshold: 5, unhealthyThreshold: 5", IN_TURN),
            async |case, a, _| {
                until(&case, &["a", "b"]).await?;
                // The first answer counts at once.
                soon("it is known to be well", || a.asked() > 1).await?;
                let before = a.asked();
                a.set(500);
                until(&case, &["b"]).await?;
                let fails = a.asked() - before;
                ensure!(fails >= 5, "left out after {fails}");
                let before = a.asked();
                a.set(200);
                until(&case, &["a", "b"]).await?;
                let passes = a.asked() - before;
                ensure!(passes >= 5, "back after {passes}");
                Ok(())
            },
        ),
    ]
}

/// gRPC, TCP, and TLS.
fn ways() -> Vec<Row> {
    let (one, health) = on_one_address();
    let port = health.local_addr().map_or(0, |it| it.port());
    let address = one.local_addr().expect("it is bound");
    let (tls, authority) = (listener(), Authority::new().expect("a key of P-256"));
    let distrusted = tls.local_addr().expect("it is bound");
    vec![
        row("health/grpc")
            .http("[{retries: {attempts: 0}, route: [{destination: {host: health-grpc.health}}]}]")
            .config(&entry("HTTP", &[address]))
            .config(&check(&format!("grpc: {{service: shop.Web}}, port: {port}, unhealthyThreshold: 1")))
            .act(async move |case| {
                let serving = Switch::new(1);
                serve(one, "a", &Switch::new(200))?;
                serve_health(health, &serving)?;
                until(&case, &["a"]).await?;
                serving.set(2);
                until(&case, &["503"]).await?;
                serving.set(1);
                until(&case, &["a"]).await
            }),
        two_ports("health/tcp"),
        row("health/tls-that-is-not-trusted")
            .http("[{retries: {attempts: 0}, route: [{destination: {host: health-tls-that-is-not-trusted.health}}]}]")
            .config(&entry("HTTP", &[distrusted]))
            .config(&policy("tls: {mode: SIMPLE}"))
            .config(&check("tcp: {}, unhealthyThreshold: 1"))
            .act(async move |case| {
                let made = crate::originate::serve(tls, &authority, "health-tls-that-is-not-trusted.health")?;
                // It connects, and shows a certificate that nobody knows.
                let begun = Instant::now();
                while case.send(get("/").mark(&case.id)).await?.text() != "no healthy upstream" {
                    ensure!(begun.elapsed() < PATIENCE, "it is not left out");
                }
                ensure!(made.load(Ordering::Relaxed) == 0, "a handshake was finished");
                Ok(())
            }),
        trusted(),
    ]
}

/// The check speaks TLS as requests do.
fn trusted() -> Row {
    let (tls, authority) = (listener(), Authority::new().expect("a key of P-256"));
    let files = tempfile::tempdir().expect("a place for files");
    let roots = files.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).expect("room for a file");
    let address = tls.local_addr().expect("it is bound");
    row("health/tls")
        .http("[{retries: {attempts: 0}, route: [{destination: {host: health-tls.health}}]}]")
        .config(&entry("HTTP", &[address]))
        .config(&policy(&format!(
            "tls: {{mode: SIMPLE, sni: health-tls.health, caCertificates: {}}}",
            roots.display()
        )))
        .config(&check("http: {path: /live}, unhealthyThreshold: 1"))
        .act(async move |case| {
            let made = crate::originate::serve(tls, &authority, "health-tls.health")?;
            let reply = case.send(get("/")).await?;
            ensure!(reply.text() == "health-tls.health", "{reply}");
            // Each question has a connection of its own.
            soon("it is asked in TLS", || made.load(Ordering::Relaxed) > 4).await?;
            until(&case, &["health-tls.health"]).await?;
            drop(files);
            Ok(())
        })
}

/// Two servers, and a port beside theirs that is open or not.
fn two_ports(id: &str) -> Row {
    let (one, other) = (listener(), listener());
    let addresses = [&one, &other].map(|it| it.local_addr().expect("it is bound"));
    let open = TcpListener::bind((addresses[0].ip(), 0)).expect("a port of loopback");
    let port = open.local_addr().map_or(0, |it| it.port());
    row(id)
        .http("[{retries: {attempts: 0}, route: [{destination: {host: health-tcp.health}}]}]")
        .config(&entry("HTTP", &addresses))
        .config(&policy(IN_TURN))
        .config(&check(&format!("tcp: {{}}, port: {port}, unhealthyThreshold: 1")))
        .act(async move |case| {
            serve(one, "a", &Switch::new(200))?;
            serve(other, "b", &Switch::new(200))?;
            until(&case, &["a"]).await?;
            let late = TcpListener::bind((addresses[1].ip(), port))?;
            until(&case, &["a", "b"]).await?;
            drop((open, late));
            until(&case, &["503"]).await
        })
}

/// Two ports of one address.
fn on_one_address() -> (TcpListener, TcpListener) {
    let one = listener();
    let ip = one.local_addr().expect("it is bound").ip();
    (one, TcpListener::bind((ip, 0)).expect("a port of loopback"))
}

/// A server of gRPC's health protocol that answers with the number of the switch.
fn serve_health(listener: TcpListener, serving: &Switch) -> Result<()> {
    listener.set_nonblocking(true)?;
    let (listener, serving) = (tokio::net::TcpListener::from_std(listener)?, serving.clone());
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::task::spawn_local(answer_health(tcp, serving.clone()));
        }
    });
    Ok(())
}

async fn answer_health(tcp: TcpStream, serving: Switch) -> Result<()> {
    let mut raw = Raw::server(tcp, frame(frames::SETTINGS, 0, 0, &[])).await?;
    let stream = raw.until(|it| it.kind == HEADERS).await?.stream;
    let asked = raw.until(|it| it.kind == frames::DATA && !it.payload.is_empty()).await?;
    ensure!(asked.payload == b"\0\0\0\0\x0a\x0a\x08shop.Web", "{:?}", asked.payload);
    let status = u8::try_from(serving.0.load(Ordering::Relaxed))?;
    let mut trailers = vec![0, 11];
    trailers.extend(b"grpc-status");
    trailers.extend([1, b'0']);
    raw.send(&[
        frames::answer(stream, 0),
        frame(frames::DATA, 0, stream, &[0, 0, 0, 0, 2, 8, status]),
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
    ])
    .await?;
    raw.ends().await
}

/// The name of the server behind a port of bytes.
async fn name_behind(case: &Case, port: u16) -> Result<char> {
    let mut tcp = case.tcp(port).await?;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\na") && !answer.ends_with(b"\r\n\r\nb") {
        ensure!(tcp.read_buf(&mut answer).await? > 0, "it ends early");
    }
    answer.last().map(|last| char::from(*last)).context("nothing")
}

/// Connections of bytes go only where checks pass.
fn streams() -> Vec<Row> {
    let (one, other) = (listener(), listener());
    let addresses = [&one, &other].map(|it| it.local_addr().expect("it is bound"));
    let row =
        on_tcp("health/streams", "route: [{destination: {host: NAME.health}}]", async move |case, port| {
            let (a, b) = (Switch::new(200), Switch::new(200));
            serve(one, "a", &a)?;
            serve(other, "b", &b)?;
            let reached = async || {
                let mut found = BTreeSet::new();
                for _ in 0..4 {
                    // A connection with nowhere to go may be reset before the client has looked at it.
                    found.insert(name_behind(&case, port).await.unwrap_or(' '));
                }
                Ok::<_, anyhow::Error>(found.into_iter().collect::<String>())
            };
            for (first, second, wanted) in
                [(200, 200, "ab"), (500, 200, "b"), (500, 500, " "), (200, 500, "a")]
            {
                a.set(first);
                b.set(second);
                let begun = Instant::now();
                while reached().await? != wanted {
                    ensure!(begun.elapsed() < PATIENCE, "{:?} are reached, not {wanted:?}", reached().await?);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                if wanted == " " {
                    case.refused(port, "UH").await?;
                }
            }
            Ok(())
        });
    vec![row.config(&entry("TCP", &addresses)).config(&policy(IN_TURN)).config(&check(LIVE))]
}

/// The probe of a WorkloadGroup, which nobody on the machine makes.
fn groups() -> Vec<Row> {
    let one = listener();
    let address = one.local_addr().expect("it is bound");
    let other = (100..=250).find_map(|last| {
        // Both are asked at one port.
        TcpListener::bind((crate::stand::own_ip(last), address.port())).ok()
    });
    let other = other.expect("the port is free at some address");
    let addresses = [address, other.local_addr().expect("it is bound")];
    let member = |name: &str, ip: std::net::IpAddr| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: NAME-{name}, namespace: conf}}, \
             spec: {{address: {ip}, labels: {{app: NAME}}}}}}"
        )
    };
    let port = address.port();
    vec![
        row("health/group")
            .http("[{retries: {attempts: 0}, route: [{destination: {host: health-group.health}}]}]")
            .config(&format!(
                "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: NAME, namespace: conf}}, \
                 spec: {{hosts: [NAME.health], resolution: STATIC, workloadSelector: {{labels: {{app: NAME}}}}, \
                 ports: [{{name: one, number: 80, targetPort: {port}, protocol: HTTP}}]}}}}"
            ))
            .config(&member("a", addresses[0].ip()))
            .config(&member("b", addresses[1].ip()))
            .config(&format!(
                "{{apiVersion: networking.istio.io/v1, kind: WorkloadGroup, metadata: {{name: NAME, namespace: conf}}, \
                 spec: {{metadata: {{labels: {{app: NAME}}}}, template: {{ports: {{}}}}, \
                 probe: {{httpGet: {{path: live, port: {port}}}, periodSeconds: 1, failureThreshold: 1}}}}}}"
            ))
            .config(&policy(IN_TURN))
            .act(async move |case| {
                let (a, b) = (Switch::new(200), Switch::new(200));
                serve(one, "a", &a)?;
                serve(other, "b", &b)?;
                until(&case, &["a", "b"]).await?;
                b.set(500);
                until(&case, &["a"]).await?;
                // As Kubernetes has it, a redirect is a success.
                b.set(302);
                until(&case, &["a", "b"]).await
            }),
    ]
}

/// Checks come and go with the configuration.
fn changes() -> Vec<Row> {
    vec![
        two("health/changes", (LIVE, IN_TURN), async |case, a, _| {
            a.set(500);
            until(&case, &["b"]).await?;
            let name = slug(&case.id);
            let file = format!("{name}.yaml");
            let path = case.stand.gateway.config.join(&file);
            let text = std::fs::read_to_string(&path)?;
            let (rest, check) = text.rsplit_once("\n---\n").unwrap_or_default();
            ensure!(check.contains("kind: HealthCheck"), "{check}");
            case.stand.gateway.write(&file, rest)?;
            // Whoever is not asked is used.
            until(&case, &["a", "b"]).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let before = a.asked();
            tokio::time::sleep(Duration::from_millis(700)).await;
            ensure!(a.asked() == before, "it is asked by nobody's wish");
            case.stand.gateway.write(&file, &text)?;
            until(&case, &["b"]).await
        }),
        two("health/only-what-is-in-use-is-asked", (LIVE, IN_TURN), async |case, a, b| {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            ensure!(a.asked() + b.asked() == 0, "nobody has sent anything");
            until(&case, &["a", "b"]).await?;
            soon("they are asked", || a.asked() > 2 && b.asked() > 2).await
        }),
    ]
}

/// Checks are an instant apart; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
