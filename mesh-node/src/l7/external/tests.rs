//! Authorizers over real sockets: HTTP as bytes, and gRPC as its frames.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_core::trace::TraceWord;

use super::*;
use crate::l7::message::Version;
use crate::l7::site::Facts;
use crate::l7::tests::{Script, engine_and_site, origin, run};
use crate::run::tasks;

/// A mesh with a service `authz`, whose port is called `name`, and a provider.
fn mesh(at: SocketAddr, name: &str, provider: &str) -> String {
    let provider = provider.replace("AUTHZ", "service: authz.shop.svc.cluster.local, port: 80");
    let mesh = format!("extensionProviders: [{{name: own, {provider}}}]");
    let map = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": mesh},
    });
    format!(
        "{map}\n---\n{{apiVersion: v1, kind: Service, metadata: {{name: authz, namespace: shop}}, spec: {{ports: [{{name: {name}, port: 80}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: authz, namespace: shop, labels: {{kubernetes.io/service-name: authz}}}}, \
         addressType: IPv4, endpoints: [{{addresses: [{}]}}], ports: [{{name: {name}, port: {}}}]}}\n",
        at.ip(),
        at.port()
    )
}

/// What comes of a request: the headers that go on, or the answer.
async fn outcome(text: &str, headers: &[(&'static str, &'static str)], body: &'static str) -> String {
    let (engine, site, _config) = engine_and_site(text);
    let facts = Facts::stranger("192.0.2.7:1234".parse().unwrap(), None);
    let stage = Stage { engine: &engine, site: &*site, facts: &facts };
    let mut caller = Call::new(Bytes::from_static(body.as_bytes()), 1 << 20);
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let mut head = RequestHead {
        method: Method::POST,
        secure: false,
        authority: Some(Authority::parse("web.example".into()).unwrap()),
        target: Target::origin("/a?b=c".into()).unwrap(),
        client: None,
        version: Version::Http11,
        headers: map,
        framing: caller.framing(),
        upgrade: None,
        expects_continue: false,
        claims: None,
        trace: TraceWord::Nothing,
    };
    let mut record = Record::begin(&stage, &head);
    let mut client = Ahead::new(&mut caller);
    let texts = |map: &HeaderMap| {
        let mut all: Vec<_> =
            map.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        all.sort();
        all.join(" ")
    };
    let Some(own) = find(&stage, "own") else { return "nobody".to_owned() };
    match ask(&stage, &own, &mut head, &mut client, &mut record).await {
        Ok(None) => {
            let (rest, _) = client.read_again().await;
            let mut answer = HeaderMap::new();
            record.tell_quota(&mut answer);
            format!("passes {} | {rest} | {}", texts(&head.headers), texts(&answer))
        }
        Ok(Some(reply)) => {
            let status = reply.head.status.as_u16();
            format!(
                "denied {status} {} | {}",
                texts(&reply.head.headers),
                String::from_utf8_lossy(&reply.body)
            )
        }
        Err(Ended::Refused(refusal, _)) => {
            format!("refused {} {}", refusal.status().as_u16(), refusal.details())
        }
        Err(other) => format!("{other:?}"),
    }
}

impl<D: Downstream> Ahead<'_, D> {
    /// The whole body as whoever comes next reads it.
    async fn read_again(&mut self) -> (String, usize) {
        use crate::l7::message::Piece;
        use crate::l7::transfer::Body as _;
        let (mut body, mut pieces) = (Vec::new(), 0);
        loop {
            match std::future::poll_fn(|cx| self.poll_piece(cx)).await.unwrap() {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End(_) => return (String::from_utf8(body).unwrap(), pieces),
            }
            pieces += 1;
        }
    }
}

fn answers(answer: &'static str) -> Script {
    Rc::new(move |_| answer.to_owned())
}

const YES: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-user: ann\r\nx-other: o\r\nx-told: t\r\n\r\n";
const NO: &str =
    "HTTP/1.1 401 No\r\ncontent-length: 3\r\nx-why: w\r\nx-other: o\r\nwww-authenticate: Basic\r\n\r\nnot";

#[test]
fn by_http_it_is_shown_the_request_and_says_what_becomes_of_it() {
    run(async {
        let provider = "envoyExtAuthzHttp: {AUTHZ, pathPrefix: /check, includeRequestHeadersInCheck: [x-a], \
             includeAdditionalHeadersInCheck: {x-added: yes}, headersToUpstreamOnAllow: [x-user], \
             headersToDownstreamOnAllow: [x-told], headersToDownstreamOnDeny: [x-why]}";
        let (at, seen) = origin("127.0.0.1", answers(YES)).await;
        let headers = [("x-a", "1"), ("x-b", "2"), ("x-user", "root"), ("authorization", "Basic x")];
        let passed = outcome(&mesh(at, "http", provider), &headers, "body").await;
        assert_eq!(passed, "passes authorization=Basic x x-a=1 x-b=2 x-user=ann | body | x-told=t");
        let asked = seen.borrow().first().cloned().unwrap();
        assert!(asked.starts_with("POST /check/a?b=c HTTP/1.1\r\nhost: web.example\r\n"), "{asked}");
        for shown in ["x-a: 1\r\n", "x-added: yes\r\n", "authorization: Basic x\r\n"] {
            assert!(asked.contains(shown), "{asked}");
        }
        assert!(!asked.contains("x-b") && !asked.contains("x-user") && !asked.ends_with("body"), "{asked}");
        let (at, _) = origin("127.0.0.1", answers(NO)).await;
        let denied = outcome(&mesh(at, "http", provider), &[], "").await;
        assert_eq!(denied, "denied 401 content-type=text/plain www-authenticate=Basic x-why=w | not");
    });
}

#[test]
fn whoever_says_nothing_has_not_said_yes() {
    run(async {
        let broken = "HTTP/1.1 503 Oops\r\ncontent-length: 0\r\n\r\n";
        let (at, _) = origin("127.0.0.1", answers(broken)).await;
        let of = |more: &str| mesh(at, "http", &format!("envoyExtAuthzHttp: {{AUTHZ{more}}}"));
        assert_eq!(outcome(&of(""), &[], "").await, "refused 403 ext_authz_error");
        assert_eq!(outcome(&of(", statusOnError: '503'"), &[], "").await, "refused 503 ext_authz_error");
        assert_eq!(outcome(&of(", failOpen: true"), &[], "").await, "passes  |  | ");
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = (silent.local_addr().unwrap(), silent);
        let slow = mesh(silent.0, "http", "envoyExtAuthzHttp: {AUTHZ, timeout: 100ms}");
        let begun = std::time::Instant::now();
        assert_eq!(outcome(&slow, &[], "").await, "refused 403 ext_authz_error");
        assert!(begun.elapsed() < std::time::Duration::from_secs(2));
        let closed = { tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
        for text in [
            mesh(closed, "http", "envoyExtAuthzHttp: {AUTHZ}"),
            mesh(closed, "grpc", "envoyExtAuthzGrpc: {AUTHZ}"),
            mesh(closed, "http", "envoyExtAuthzHttp: {service: nobody.example, port: 80}"),
        ] {
            assert_eq!(outcome(&text, &[], "").await, "refused 403 ext_authz_error");
        }
        assert_eq!(outcome(&mesh(closed, "http", "prometheus: {}"), &[], "").await, "nobody");
    });
}

#[test]
fn the_body_is_shown_as_far_as_is_said_and_goes_on_whole() {
    run(async {
        let (at, seen) = origin("127.0.0.1", answers(YES)).await;
        let of = |more: &str| {
            mesh(
                at,
                "http",
                &format!(
                    "envoyExtAuthzHttp: {{AUTHZ, includeRequestBodyInCheck: {{maxRequestBytes: 4{more}}}}}"
                ),
            )
        };
        let shown = || seen.borrow().last().cloned().unwrap_or_default();
        assert_eq!(outcome(&of(""), &[], "four").await, "passes  | four | ");
        assert!(
            shown().ends_with("\r\n\r\nfour") && shown().contains("x-envoy-auth-partial-body: false\r\n"),
            "{}",
            shown()
        );
        let count = seen.borrow().len();
        assert_eq!(outcome(&of(""), &[], "fives").await, "refused 413 request_payload_too_large");
        assert_eq!(seen.borrow().len(), count, "nobody was asked");
        assert_eq!(outcome(&of(", allowPartialMessage: true"), &[], "fives").await, "passes  | fives | ");
        assert!(
            shown().ends_with("\r\n\r\nfive") && shown().contains("x-envoy-auth-partial-body: true\r\n"),
            "{}",
            shown()
        );
    });
}

/// A server of gRPC that gives this message to whoever asks, and tells what it was asked.
async fn grpc(
    message: &'static [u8],
    status: &'static str,
) -> (SocketAddr, Rc<std::cell::RefCell<Vec<Vec<u8>>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let seen = Rc::<std::cell::RefCell<Vec<Vec<u8>>>>::default();
    let heard = Rc::clone(&seen);
    tasks::spawn_local("grpc", async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let heard = Rc::clone(&heard);
            tasks::spawn_local("grpc connection", async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
                    let answered = answer(request.into_body(), respond, Rc::clone(&heard), (message, status));
                    tasks::spawn_local("grpc call", answered);
                }
            });
        }
    });
    (at, seen)
}

/// Takes the question of one call and gives the message.
async fn answer(
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    heard: Rc<std::cell::RefCell<Vec<Vec<u8>>>>,
    (message, status): (&'static [u8], &'static str),
) {
    let mut asked = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        asked.extend_from_slice(&data);
    }
    heard.borrow_mut().push(asked);
    let head = http::Response::builder().header("content-type", "application/grpc");
    let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0][..], &length, message].concat();
    stream.send_data(framed.into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    stream.send_trailers(trailers).unwrap();
}

#[test]
fn by_grpc_it_is_told_of_the_request_and_says_what_becomes_of_it() {
    run(async {
        let provider = "envoyExtAuthzGrpc: {AUTHZ, includeRequestBodyInCheck: {maxRequestBytes: 100}}";
        // A good status, and one header.
        let yes = b"\x0a\x00\x1a\x11\x12\x0f\x0a\x0d\x0a\x06x-user\x12\x03ann";
        let (at, seen) = grpc(yes, "0").await;
        let passed =
            outcome(&mesh(at, "grpc", provider), &[("x-a", "1"), ("x-a", "2"), ("x-user", "root")], "body")
                .await;
        assert_eq!(passed, "passes x-a=1 x-a=2 x-user=ann | body | ");
        let asked = seen.borrow().first().cloned().unwrap();
        let has = |text: &str| asked.windows(text.len()).any(|part| part == text.as_bytes());
        for told in ["192.0.2.7", "POST", "/a?b=c", "web.example", "x-a\x12\x031,2", "body", ":authority"] {
            assert!(has(told), "{told}: {}", String::from_utf8_lossy(&asked));
        }
        // Status 7, and an answer with 401.
        let (at, _) = grpc(b"\x0a\x02\x08\x07\x12\x05\x0a\x03\x08\x91\x03", "0").await;
        assert_eq!(outcome(&mesh(at, "grpc", provider), &[], "").await, "denied 401  | ");
        // No status is none that is good, and a call that failed says nothing.
        for (message, status, expected) in [
            (&b""[..], "0", "denied 403  | "),
            (b"\x1a\x00", "0", "denied 403  | "),
            (b"\x0a\x00\x1a\x00", "14", "refused 403 ext_authz_error"),
            (b"\xff\xff", "0", "refused 403 ext_authz_error"),
        ] {
            let (at, _) = grpc(message, status).await;
            assert_eq!(outcome(&mesh(at, "grpc", provider), &[], "").await, expected, "{message:?} {status}");
        }
    });
}
