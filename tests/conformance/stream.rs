//! Ports whose bytes are nobody's business: TCP, TLS that is passed on by its server name, and TLS that is opened.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::client::{Tls, get, h1};
use crate::row::{Case, Row, row};
use crate::stand::free_ports;
use crate::tls::{self, Authority};

pub(crate) fn rows() -> Vec<Row> {
    [tcp(), refused(), endpoints(), idle(), tls_rows(), by_name()].into_iter().flatten().collect()
}

fn tcp() -> Vec<Row> {
    vec![
        on_tcp("stream/tcp-port", "route: [{destination: {host: echo, subset: v1}}]", async |case, port| {
            let (pod, own) = case.pod_behind(port).await?;
            ensure!(pod == "echo-1", "{pod}");
            let line = case.line(own).await?;
            let to = line["upstream_cluster"].as_str().unwrap_or_default();
            ensure!(to.ends_with("|v1|echo.conf.svc.cluster.local") && line["response_code"] == 0, "{line}");
            ensure!(line["bytes_sent"].as_u64() > Some(0) && line["response_flags"] == "-", "{line}");
            let labels = [("destination_service_name", "echo"), ("reporter", "source")];
            let opened =
                case.stand.gateway.counted("istio_tcp_connections_opened_total", &labels, 1.0).await?;
            ensure!(opened >= 1.0, "{opened} connections were counted");
            Ok(())
        }),
        on_tcp(
            "stream/tcp-weights",
            "route: [{destination: {host: echo, subset: v1}, weight: 50}, {destination: {host: echo, subset: v2}, weight: 50}]",
            async |case, port| {
                let mut first = 0;
                for _ in 0..100 {
                    first += usize::from(case.pod_behind(port).await?.0 == "echo-1");
                }
                ensure!((25..=75).contains(&first), "{first} of 100 where 50 are due");
                Ok(())
            },
        ),
        on_tcp(
            "stream/tcp-first-rule",
            "match: [{port: 1}], route: [{destination: {host: echo, subset: v1}}]}, {route: [{destination: {host: echo, subset: v2}}]",
            async |case, port| {
                let pod = case.pod_behind(port).await?.0;
                ensure!(pod == "echo-2", "{pod}");
                Ok(())
            },
        ),
        on_tcp(
            "stream/tcp-change",
            "route: [{destination: {host: echo, subset: v1}}]",
            async |case, port| {
                ensure!(case.pod_behind(port).await?.0 == "echo-1", "the first rule");
                let rule = "route: [{destination: {host: echo, subset: v2}}]";
                case.stand
                    .gateway
                    .write("stream-tcp-change.yaml", &config("stream-tcp-change", port, rule))?;
                let begun = Instant::now();
                while case.pod_behind(port).await?.0 != "echo-2" {
                    ensure!(begun.elapsed() < Duration::from_secs(1), "the new rule takes too long");
                }
                Ok(())
            },
        ),
    ]
}

fn refused() -> Vec<Row> {
    let rows = [
        ("stream/tcp-no-rule", "match: [{port: 1}], route: [{destination: {host: echo}}]", "NR"),
        ("stream/tcp-no-cluster", "route: [{destination: {host: nobody}}]", "NC"),
        ("stream/tcp-no-endpoint", "route: [{destination: {host: ghost}}]", "UH"),
        ("stream/tcp-nobody-answers", "route: [{destination: {host: dead}}]", "UF,URX"),
    ];
    let row = |(id, rule, flag): (&str, &str, &'static str)| {
        on_tcp(id, rule, async move |case, port| case.refused(port, flag).await)
    };
    rows.into_iter().map(row).collect()
}

fn endpoints() -> Vec<Row> {
    vec![
        shaped("stream/tcp-another-endpoint", "half", "loadBalancer: {simple: ROUND_ROBIN}", |case, port| {
            Box::pin(async move {
                for _ in 0..4 {
                    ensure!(case.pod_behind(port).await?.0 == "half-1", "somebody else");
                }
                Ok(())
            })
        }),
        shaped(
            "stream/tcp-hash-of-address",
            "many",
            "loadBalancer: {consistentHash: {useSourceIp: true}}",
            |case, port| {
                Box::pin(async move {
                    let mut pods = BTreeSet::new();
                    for _ in 0..10 {
                        pods.insert(case.pod_behind(port).await?.0);
                    }
                    ensure!(pods.len() == 1, "one client, {pods:?}");
                    Ok(())
                })
            },
        ),
        shaped(
            "stream/tcp-max-connections",
            "many",
            "connectionPool: {tcp: {maxConnections: 1}}",
            |case, port| {
                Box::pin(async move {
                    let mut first = case.tcp(port).await?;
                    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
                    ensure!(first.read(&mut [0; 1]).await? == 1, "no answer");
                    case.refused(port, "UO").await?;
                    drop(first);
                    let begun = Instant::now();
                    while case.pod_behind(port).await.is_err() {
                        ensure!(begun.elapsed() < Duration::from_secs(2), "the place is not given back");
                    }
                    Ok(())
                })
            },
        ),
    ]
}

fn idle() -> Vec<Row> {
    vec![shaped(
        "stream/tcp-idle-timeout",
        "many",
        "connectionPool: {tcp: {idleTimeout: 1s}}",
        |case, port| {
            Box::pin(async move {
                let mut client = case.tcp(port).await?;
                client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
                let (begun, mut answer) = (Instant::now(), Vec::new());
                let ended = client.read_to_end(&mut answer).await;
                ensure!(!answer.is_empty() && ended.is_err(), "{ended:?} after {} bytes", answer.len());
                let took = begun.elapsed();
                let due = Duration::from_millis(700)..Duration::from_millis(2500);
                ensure!(due.contains(&took), "cut after {took:?}");
                Ok(())
            })
        },
    )]
}

/// A port whose connections go to a service with these pods and this policy.
fn shaped(id: &str, app: &str, policy: &str, act: fn(Case, u16) -> Acting) -> Row {
    on_tcp(id, "route: [{destination: {host: NAME}}]", act)
        .service(app, &format!("trafficPolicy: {{{policy}}}"))
}

fn tls_rows() -> Vec<Row> {
    let [passed, opened, originated, one, two, three] = free_ports().expect("ports of loopback");
    vec![
        row("stream/tls-passed-on")
            .config(&gateway(passed, "TLS", ", tls: {mode: PASSTHROUGH}"))
            .config(&backend("NAME-one", one))
            .config(&backend("NAME-two", two))
            .config(&rules(
                "tls: [{match: [{sniHosts: [a.pass.test]}], route: [{destination: {host: NAME-one}}]}, \
                 {match: [{sniHosts: ['*.b.pass.test']}], route: [{destination: {host: NAME-two}}]}]",
            ))
            .act(async move |case| {
                let authority = Authority::new()?;
                serve_tls(&authority, "a.pass.test", "one", one).await?;
                serve_tls(&authority, "x.b.pass.test", "two", two).await?;
                for (name, expected) in [("a.pass.test", "one"), ("x.b.pass.test", "two")] {
                    let said = hear(&case, passed, &authority, name).await?;
                    ensure!(said == expected, "{name}: {said:?}");
                }
                // The key is the backend's: whoever passes it on cannot show a certificate for another name.
                let wrong = hear(&case, passed, &authority, "b.pass.test").await;
                ensure!(wrong.is_err(), "nobody is for that name: {wrong:?}");
                let tcp = case.tcp(passed).await?;
                let own = tcp.local_addr()?;
                let tls = Tls { sni: "c.pass.test".to_owned(), client: None };
                ensure!(tls::open(tcp, authority.pem(), &tls, false).await.is_err(), "a handshake with nobody");
                let line = case.line(own).await?;
                ensure!(line["response_flags"] == "NR" && line["requested_server_name"] == "c.pass.test", "{line}");
                Ok(())
            }),
        row("stream/tls-opened")
            .config(&gateway(opened, "TLS", ", tls: {mode: SIMPLE, credentialName: edge}"))
            .config(&rules("tcp: [{route: [{destination: {host: echo, subset: v2}}]}]"))
            .act(async move |case| {
                let tls = Tls { sni: "any.row.test".to_owned(), client: None };
                let io = case.stand.connect(opened, Some(&tls), false).await?;
                let reply = h1(io, &get("/").to("a")).await?;
                ensure!(reply.status == 200 && reply.seen()?.pod == "echo-2", "{reply}");
                large(case.stand.connect(opened, Some(&tls), false).await?).await
            }),
        row("stream/tls-originated")
            .config(&gateway(originated, "TCP", ""))
            .config(&backend("NAME", three))
            .config(&rules("tcp: [{route: [{destination: {host: NAME}}]}]"))
            .config(
                "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: NAME, namespace: conf}, \
                 spec: {host: NAME, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}}}",
            )
            .act(async move |case| {
                serve_tls(&Authority::new()?, "anybody.test", "originated", three).await?;
                let mut client = case.tcp(originated).await?;
                let mut said = String::new();
                client.read_to_string(&mut said).await?;
                ensure!(said == "originated", "{said:?}");
                Ok(())
            }),
    ]
}

/// Server names that say where to go, as sidecars of another network write them.
#[expect(clippy::too_many_lines, reason = "a table")]
fn by_name() -> Vec<Row> {
    let [port, one, two] = free_ports().expect("ports of loopback");
    let servers = "hosts: ['*.conf.svc.cluster.local'], tls: {mode: AUTO_PASSTHROUGH}";
    let config = format!(
        "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: NAME, namespace: conf}}, \
         spec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: {port}, name: p, protocol: TLS}}, {servers}}}]}}}}"
    );
    let rule = |name: &str, more: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}, namespace: conf}}, \
             spec: {{host: {name}, {more}}}}}"
        )
    };
    let hidden = "{apiVersion: v1, kind: Service, metadata: {name: NAME-hidden, namespace: conf, annotations: \
                  {networking.istio.io/exportTo: '.'}}, spec: {ports: [{name: tls, port: 443}]}}";
    let elsewhere = "{apiVersion: v1, kind: Service, metadata: {name: NAME, namespace: other}, \
                     spec: {ports: [{name: tls, port: 443}]}}";
    vec![
        row("stream/auto-passthrough")
            .config(&config)
            .config(&backend("NAME-one", one))
            .config(&backend("NAME-two", two))
            // What the rule says of TLS is for those who make it.
            .config(&rule("NAME-one", "trafficPolicy: {tls: {mode: SIMPLE}}"))
            .config(&rule(
                "NAME-two",
                "subsets: [{name: all, labels: {}}, {name: none, labels: {version: v9}}]",
            ))
            .config(hidden)
            .config(elsewhere)
            .act(async move |case| {
                let authority = Authority::new()?;
                let of = |name: &str, subset: &str| {
                    format!("outbound_.443_.{subset}_.stream-auto-passthrough{name}.conf.svc.cluster.local")
                };
                let names = [of("-one", ""), of("-two", ""), of("-two", "all")];
                serve_tls(&authority, &names[0], "one", one).await?;
                serve_tls_as(&authority, &[&names[1], &names[2]], "two", two).await?;
                for (name, expected) in names.iter().zip(["one", "two", "two"]) {
                    let said = hear_as(&case, port, (&authority, b"istio"), name).await?;
                    ensure!(said == expected, "{name}: {said:?}");
                }
                let gone = [
                    (of("-two", "none"), "UH"),
                    (of("-two", "v7"), "NR"),
                    (of("-three", ""), "NR"),
                    (of("-hidden", ""), "NR"),
                    (of("-two", "").replace("443", "444"), "NR"),
                ];
                for (name, flag) in gone {
                    let tcp = case.tcp(port).await?;
                    let own = tcp.local_addr()?;
                    let tls = Tls { sni: name.clone(), client: None };
                    let opened = tls::open_as(tcp, authority.pem(), &tls, b"istio").await;
                    ensure!(opened.is_err(), "{name}: a handshake with nobody");
                    let line = case.line(own).await?;
                    ensure!(line["response_flags"] == flag, "{name}: {line}");
                }
                // These are no names of the server: closed before anybody is asked.
                let refused = "mesh_gateway_handshakes_refused_total";
                let labels = [("reason", "server_name")];
                let before = case.stand.gateway.metric(refused, &labels).await?;
                let elsewhere = of("", "").replace("conf.svc", "other.svc");
                let plain = "stream-auto-passthrough-one.conf.svc.cluster.local";
                for (name, alpn) in
                    [(elsewhere.as_str(), &b"istio"[..]), (plain, b"istio"), (&names[0], b"h2")]
                {
                    let said = hear_as(&case, port, (&authority, alpn), name).await;
                    ensure!(said.is_err(), "{name}: {said:?}");
                }
                let more = case.stand.gateway.counted(refused, &labels, before + 3.0).await? - before;
                ensure!(more >= 3.0, "{more} were counted");
                Ok(())
            }),
    ]
}

type Acting = std::pin::Pin<Box<dyn Future<Output = Result<()>>>>;

/// A port of TCP of the gateway's, and what is done with its connections.
pub(crate) fn on_tcp<F: Future<Output = Result<()>> + 'static>(
    id: &str,
    rule: &str,
    act: impl FnOnce(Case, u16) -> F + 'static,
) -> Row {
    let [port] = free_ports().expect("a port of loopback");
    let config = config("NAME", port, rule);
    row(id).config(&config).act(move |case| act(case, port))
}

fn config(name: &str, port: u16, rule: &str) -> String {
    let both = [gateway(port, "TCP", ""), rules(&format!("tcp: [{{{rule}}}]"))];
    both.join("\n---\n").replace("NAME", name)
}

fn gateway(port: u16, protocol: &str, tls: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: NAME, namespace: conf}}, \
         spec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: {port}, name: p, protocol: {protocol}}}, hosts: ['*']{tls}}}]}}}}"
    )
}

fn rules(rules: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: NAME, namespace: conf}}, \
         spec: {{hosts: ['*'], gateways: [NAME], {rules}}}}}"
    )
}

/// A pod of its own, at this port of loopback, and a service for it.
fn backend(name: &str, port: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: conf}}, \
         spec: {{ports: [{{name: tls, port: 443, targetPort: {port}}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: conf, labels: {{kubernetes.io/service-name: {name}}}}}, \
         addressType: IPv4, ports: [{{name: tls, port: {port}, protocol: TCP}}], endpoints: [{{addresses: [\"127.0.0.1\"], conditions: {{ready: true}}}}]}}"
    )
}

/// A server of TLS that says a word to everybody and hangs up.
async fn serve_tls(authority: &Authority, name: &str, word: &'static str, port: u16) -> Result<()> {
    serve_tls_as(authority, &[name], word, port).await
}

/// The same under several names.
async fn serve_tls_as(authority: &Authority, names: &[&str], word: &'static str, port: u16) -> Result<()> {
    let pair = authority.issue(names)?;
    let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(
        vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes())?],
        PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?,
    )?;
    config.alpn_protocols = [&b"http/1.1"[..], b"istio", b"h2"].map(<[u8]>::to_vec).to_vec();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let _ = tls.write_all(word.as_bytes()).await;
                let _ = tls.shutdown().await;
            }
        }
    });
    Ok(())
}

/// What the server behind this name says.
async fn hear(case: &Case, port: u16, authority: &Authority, name: &str) -> Result<String> {
    hear_as(case, port, (authority, b"http/1.1"), name).await
}

/// What it says to a client that offers this protocol.
async fn hear_as(
    case: &Case,
    port: u16,
    (authority, alpn): (&Authority, &[u8]),
    name: &str,
) -> Result<String> {
    let tls = Tls { sni: name.to_owned(), client: None };
    let mut io = tls::open_as(case.tcp(port).await?, authority.pem(), &tls, alpn).await?;
    let mut said = String::new();
    io.read_to_string(&mut said).await?;
    Ok(said)
}

/// More than any buffer holds, both ways at once.
async fn large(io: Box<dyn crate::client::Stream>) -> Result<()> {
    let body = "x".repeat(3 << 20);
    let reply = h1(io, &crate::client::post("/", &body).to("a").orders("echo")).await?;
    ensure!(reply.status == 200, "{reply}");
    Ok(())
}

impl Case {
    /// A connection to a port of the gateway.
    pub(crate) async fn tcp(&self, port: u16) -> Result<TcpStream> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("the gateway's port")
    }

    /// The pod that answers behind a port, and the client's address.
    async fn pod_behind(&self, port: u16) -> Result<(String, SocketAddr)> {
        let tcp = self.tcp(port).await?;
        let own = tcp.local_addr()?;
        let reply = h1(Box::new(tcp), &get("/").to("a")).await?;
        Ok((reply.seen()?.pod, own))
    }

    /// A connection is closed, and the log says why.
    pub(crate) async fn refused(&self, port: u16, flag: &str) -> Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let own = socket.local_addr()?;
        // It may be reset before the client has looked at it.
        if let Ok(mut tcp) = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await {
            let read = tcp.read(&mut [0; 1]).await;
            ensure!(read.as_ref().map_or(true, |read| *read == 0), "{read:?}");
        }
        let line = self.line(own).await?;
        ensure!(line["response_flags"] == flag, "{line}");
        Ok(())
    }

    /// The line of the log about the connection from this address.
    async fn line(&self, own: SocketAddr) -> Result<Value> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            if let Some(line) = self.stand.gateway.line_of_stream(&own.to_string()) {
                return Ok(line);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("no line about {own}")
    }
}
