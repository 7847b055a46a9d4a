//! The engine over real sockets: a client, the engine with rules from YAML, an origin.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mesh_core::model::{CompileOptions, Snapshot, Workload, compile};
use mesh_core::resource::{SourceFile, parse};
use mesh_core::route::{self, ClusterRef, Route, RouteTable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::engine::Engine;
use super::io::Io;
use super::serve::{Connection, connection};
use super::shared::Shared;
use super::site::{Chosen, Client, Clients, Dial, DialError, Dialled, Facts, LocalBoxFuture, Site};
use crate::report::{ReportOptions, Reporter};
use crate::run::{drain, tasks};

/// Dials what it is told to.
struct Direct(Arc<str>);

impl Client for Direct {
    fn reads_files(&self) -> bool {
        true
    }

    fn key(&self) -> &Arc<str> {
        &self.0
    }

    fn workload(&self, _: &Snapshot) -> Option<Arc<Workload>> {
        None
    }

    fn dial<'a>(&'a self, to: &'a Dial<'a>) -> LocalBoxFuture<'a, Result<Dialled, DialError>> {
        Box::pin(async move {
            let tcp = TcpStream::connect(to.endpoint.addr).await;
            let tcp = tcp.map_err(|error| DialError::Connect(error.to_string()))?;
            Ok(Dialled { io: Io::Tcp(tcp), encrypted: false, held: None })
        })
    }
}

/// Rules for one service, whatever the host.
struct OneService {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    host: &'static str,
}

impl Site for OneService {
    fn routes(&self) -> Option<Arc<RouteTable>> {
        let snapshot = self.snapshots.borrow().clone();
        let labels = std::collections::BTreeMap::new();
        let client = route::Client { namespace: "shop", labels: &labels };
        RouteTable::for_service(&snapshot.virtuals().about(self.host), client, 80).map(Arc::new)
    }

    fn fallback(&self) -> Option<Chosen> {
        let route = Route::to(ClusterRef { host: self.host.into(), subset: None, port: Some(80) });
        let matched = route.unmatched();
        Some((Arc::new(route), Arc::new(matched)))
    }

    fn port(&self) -> u16 {
        80
    }

    fn clients(&self) -> Clients {
        Clients::Strangers
    }
}

/// An engine of a mesh, and a listener of it.
pub(super) fn engine_and_site(text: &str) -> (Rc<Engine>, Rc<dyn Site>, watch::Sender<Arc<Snapshot>>) {
    let (sender, snapshots) = watch::channel(snapshot(text));
    let reporter = Reporter::new(ReportOptions::default(), Box::new(std::io::sink())).unwrap();
    let client = Rc::new(Direct("edge".into()));
    let engine = Engine::new(client, reporter, Arc::new(Shared::default()), snapshots.clone(), 7);
    (engine, Rc::new(OneService { snapshots, host: "web.shop.svc.cluster.local" }), sender)
}

/// What an origin does with each request it reads: the bytes of the head are given, the answer is sent.
pub(super) type Script = Rc<dyn Fn(&str) -> String>;

/// Serves a script on an address of its own; requests come back in a list.
pub(super) async fn origin(ip: &str, script: Script) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Heard::default();
    let heard = Rc::clone(&seen);
    tasks::spawn_local("origin", async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tasks::spawn_local("origin connection", follow(tcp, Rc::clone(&script), Rc::clone(&heard)));
        }
    });
    (addr, seen)
}

pub(super) type Heard = Rc<RefCell<Vec<String>>>;

async fn follow(mut tcp: TcpStream, script: Script, heard: Heard) {
    let mut input = BytesMut::new();
    loop {
        let end = |input: &BytesMut| input.windows(4).position(|it| it == b"\r\n\r\n");
        if !fill(&mut tcp, &mut input, |input| end(input).is_some()).await {
            return;
        }
        let head = input.split_to(end(&input).unwrap() + 4);
        let head = String::from_utf8(head.to_vec()).unwrap();
        let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |it| it.parse().unwrap());
        if !fill(&mut tcp, &mut input, |input| input.len() >= length).await {
            return;
        }
        let body = String::from_utf8(input.split_to(length).to_vec()).unwrap();
        heard.borrow_mut().push(format!("{head}{body}"));
        let answer = script(&head);
        if tcp.write_all(answer.as_bytes()).await.is_err() || answer.contains("connection: close") {
            return;
        }
    }
}

/// Reads until there is enough; `false` at the end of the connection.
async fn fill(tcp: &mut TcpStream, input: &mut BytesMut, enough: impl Fn(&BytesMut) -> bool) -> bool {
    while !enough(input) {
        if tcp.read_buf(input).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

/// The mesh of these tests: service `web` with subsets `v1` and `v2` at the given addresses.
fn yaml(v1: SocketAddr, v2: SocketAddr, rules: &str) -> String {
    format!(
        "
{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, spec: {{clusterIP: 10.0.0.1, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: web}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: web-1, namespace: shop, labels: {{app: web, version: v1}}}}, spec: {{containers: [{{name: a, image: a, ports: [{{name: web, containerPort: {}}}]}}]}}, status: {{podIP: {}}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: web-2, namespace: shop, labels: {{app: web, version: v2}}}}, spec: {{containers: [{{name: a, image: a, ports: [{{name: web, containerPort: {}}}]}}]}}, status: {{podIP: {}}}}}
---
{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: web, namespace: shop}}, spec: {{host: web, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}}}
---
{rules}",
        v1.port(),
        v1.ip(),
        v2.port(),
        v2.ip()
    )
}

pub(super) fn snapshot(text: &str) -> Arc<Snapshot> {
    let parsed = parse(&SourceFile { name: "mesh.yaml", text });
    assert_eq!(parsed.rejected, [], "{:?}", parsed.findings);
    Arc::new(compile(&parsed.objects, &CompileOptions::default()).snapshot)
}

/// Serves the mesh on an address of its own.
pub(super) async fn engine(text: &str) -> (SocketAddr, watch::Sender<Arc<Snapshot>>) {
    let (sender, snapshots) = watch::channel(snapshot(text));
    let reporter = Reporter::new(ReportOptions::default(), Box::new(std::io::sink())).unwrap();
    let client = Rc::new(Direct("edge".into()));
    let engine = Engine::new(client, reporter, Arc::new(Shared::default()), snapshots.clone(), 7);
    let site: Rc<dyn Site> = Rc::new(OneService { snapshots, host: "web.shop.svc.cluster.local" });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tasks::spawn_local("accept", async move {
        let (switch, drain) = drain::channel();
        std::mem::forget(switch);
        loop {
            let (tcp, peer) = listener.accept().await.unwrap();
            let facts = Facts::stranger(peer, None);
            let input = BytesMut::new();
            let served =
                Connection { io: Io::Tcp(tcp), input, facts, site: Rc::clone(&site), protocol: None };
            tasks::spawn_local("connection", connection(Rc::clone(&engine), served, drain.clone()));
        }
    });
    (addr, sender)
}

/// Sends one request on a connection of its own and reads until the other end closes it.
pub(super) async fn ask(to: SocketAddr, request: &str) -> String {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(10), tcp.read_to_string(&mut answer)).await;
    read.expect("an answer within 10 s").unwrap();
    answer
}

pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn says(text: &'static str) -> Script {
    Rc::new(move |_| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()))
}

pub(super) fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n{headers}\r\n")
}

fn rule(http: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: web, namespace: shop}}, spec: {{hosts: [web], http: {http}}}}}"
    )
}

#[test]
fn a_request_goes_where_the_rule_says_and_the_rule_may_change() {
    run(async {
        let (v1, seen) = origin("127.0.0.1", says("one")).await;
        let (v2, _) = origin("127.0.0.2", says("two")).await;
        let to = |subset: &str| {
            rule(&format!(
                "[{{match: [{{headers: {{end-user: {{exact: jason}}}}}}], route: [{{destination: {{host: web, subset: v2}}}}]}}, {{route: [{{destination: {{host: web, subset: {subset}}}}}]}}]"
            ))
        };
        let (edge, config) = engine(&yaml(v1, v2, &to("v1"))).await;
        let answer = ask(edge, &get("/a?b=c", "")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\none"), "{answer}");
        assert!(answer.contains("server: istio-envoy\r\n"), "{answer}");
        assert!(answer.contains("x-envoy-upstream-service-time: "), "{answer}");
        let request = seen.borrow().first().cloned().unwrap();
        assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\nhost: web\r\n"), "{request}");
        assert!(request.contains("x-forwarded-for: 127.0.0.1\r\n"), "{request}");
        assert!(request.contains("x-request-id: "), "{request}");
        assert!(ask(edge, &get("/", "end-user: jason\r\n")).await.ends_with("two"));
        config.send_replace(snapshot(&yaml(v1, v2, &to("v2"))));
        assert!(ask(edge, &get("/", "")).await.ends_with("two"));
    });
}

#[test]
fn bodies_pass_in_both_directions_and_connections_are_kept() {
    run(async {
        let script: Script = Rc::new(|_| {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
                .to_owned()
        });
        let (v1, seen) = origin("127.0.0.1", script).await;
        let (edge, _config) = engine(&yaml(v1, v1, "")).await;
        let mut tcp = TcpStream::connect(edge).await.unwrap();
        for round in 0..3 {
            let body = "x".repeat(100_000 * round + 1);
            let head =
                format!("POST /{round} HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n", body.len());
            tcp.write_all(head.as_bytes()).await.unwrap();
            tcp.write_all(body.as_bytes()).await.unwrap();
            let mut answer = BytesMut::new();
            while !answer.ends_with(b"0\r\n\r\n") {
                assert!(tcp.read_buf(&mut answer).await.unwrap() > 0);
            }
            let answer = String::from_utf8(answer.to_vec()).unwrap();
            assert!(
                answer.contains("\r\nabcdefg\r\n") || answer.contains("3\r\nabc\r\n4\r\ndefg\r\n"),
                "{answer}"
            );
            assert!(seen.borrow().last().unwrap().matches('x').count() >= body.len());
        }
    });
}

#[test]
fn refusals_say_what_istio_says() {
    run(async {
        let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for (rules, head, body) in [
            (
                rule("[{match: [{uri: {prefix: /only}}], route: [{destination: {host: web}}]}]"),
                "404 Not Found",
                "",
            ),
            (rule("[{route: [{destination: {host: nowhere}}]}]"), "503 Service Unavailable", ""),
            (rule("[{route: [{destination: {host: web, subset: v9}}]}]"), "503 Service Unavailable", ""),
            (
                rule("[{route: [{destination: {host: web}}]}]"),
                "503 Service Unavailable",
                "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
            ),
            (
                rule(
                    "[{fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: web}}]}]",
                ),
                "418 I'm a teapot",
                "fault filter abort",
            ),
            (
                rule("[{directResponse: {status: 503, body: {string: closed}}}]"),
                "503 Service Unavailable",
                "closed",
            ),
            (rule("[{redirect: {uri: /new, authority: new.example}}]"), "301 Moved Permanently", ""),
        ] {
            let (edge, _config) = engine(&yaml(nobody, nobody, &rules)).await;
            let answer = ask(edge, &get("/", "")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {head}\r\n")), "{rules}: {answer}");
            assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, body, "{rules}");
        }
    });
}

#[test]
fn what_is_no_request_is_answered_and_hung_up_on() {
    run(async {
        let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (edge, _config) = engine(&yaml(nobody, nobody, "")).await;
        let smuggled =
            "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";
        for request in
            [smuggled, "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01hello", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"]
        {
            let answer = ask(edge, request).await;
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{request:?}: {answer}");
        }
    });
}

#[test]
fn a_failed_try_is_followed_by_another_and_a_slow_one_is_given_up() {
    run(async {
        let answers = Rc::new(RefCell::new(vec![200, 503, 503]));
        let script: Script = Rc::new(move |_| {
            let status = answers.borrow_mut().pop().unwrap_or(200);
            format!("HTTP/1.1 {status} It\r\ncontent-length: 0\r\n\r\n")
        });
        let (v1, seen) = origin("127.0.0.1", script).await;
        let rules =
            rule("[{retries: {attempts: 2, retryOn: 5xx}, route: [{destination: {host: web, subset: v1}}]}]");
        let (edge, _config) = engine(&yaml(v1, v1, &rules)).await;
        assert!(ask(edge, &get("/", "")).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(seen.borrow().len(), 3);
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rules = rule("[{timeout: 100ms, route: [{destination: {host: web, subset: v1}}]}]");
        let addr = silent.local_addr().unwrap();
        let (edge, _config) = engine(&yaml(addr, addr, &rules)).await;
        let answer = ask(edge, &get("/", "")).await;
        assert!(
            answer.starts_with("HTTP/1.1 504 ") && answer.ends_with("upstream request timeout"),
            "{answer}"
        );
    });
}
