//! Real servers of keys, on this machine: a service of the mesh may be there where the configuration is the machine's owner's.

use std::collections::BTreeSet;
use std::sync::Mutex;

use mesh_core::authn::Wish;
use mesh_core::model::{CompileOptions, compile};
use mesh_core::resource::{SourceFile, parse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const KEYS: &str =
    r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// A server that gives these answers, the last again and again, and how often it was asked for what.
struct Origin {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn origin(answers: Vec<String>) -> Origin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let heard = Arc::clone(&asked);
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        for answer in 0.. {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut input = vec![0; 4096];
            let read = tcp.read(&mut input).await.unwrap();
            let line = String::from_utf8_lossy(&input[..read]).lines().next().unwrap_or_default().to_owned();
            heard.lock().unwrap().push(line);
            let answer = answers.get(answer).or(answers.last()).unwrap();
            let _ = tcp.write_all(answer.as_bytes()).await;
        }
    });
    serving.detach_all();
    Origin { port, asked }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A mesh with a service `keys` whose endpoint is such a server.
fn options(port: u16, local: bool) -> KeyOptions {
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: keys, namespace: shop}}, spec: {{ports: [{{port: 80, targetPort: {port}}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: keys, namespace: shop, \
         labels: {{kubernetes.io/service-name: keys}}}}, addressType: IPv4, ports: [{{port: {port}}}], \
         endpoints: [{{addresses: [127.0.0.1]}}]}}\n"
    );
    let objects = parse(&SourceFile { name: "mesh.yaml", text: &text }).objects;
    let snapshot = Arc::new(compile(&objects, &CompileOptions::default()).snapshot);
    let schedule = Schedule {
        refresh: Duration::from_millis(100),
        retry: Duration::from_millis(20),
        kept: Duration::from_millis(400),
    };
    KeyOptions { surroundings: Arc::new(move || Arc::clone(&snapshot)), local, schedule }
}

async fn fetched(url: &str, options: &KeyOptions) -> Result<usize, FetchError> {
    let site = KeySite::Url(url.into());
    fetch(&site, &wish(), options).await.map(|keys| keys.len())
}

fn wish() -> Wish {
    Wish { namespaces: BTreeSet::from(["shop".into()]), timeout: Duration::from_secs(5) }
}

/// A rule says how long its keys may take to come, and no others wait as long.
#[tokio::test]
async fn a_rule_says_how_long_an_answer_may_take() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = options(silent.local_addr().unwrap().port(), true);
    let timeout = Duration::from_millis(200);
    let (begun, site) = (Instant::now(), KeySite::Url(URL.into()));
    let fetched = fetch(&site, &Wish { timeout, ..wish() }, &options).await;
    assert_eq!(fetched.map(|keys| keys.len()), Err(FetchError::Timeout(timeout)));
    assert!(begun.elapsed() >= timeout && begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

const URL: &str = "http://keys.shop.svc.cluster.local/jwks";

#[tokio::test]
async fn keys_are_fetched_from_a_service_and_from_nothing_else_on_this_machine() {
    let server = origin(vec![ok(KEYS)]).await;
    assert_eq!(fetched(URL, &options(server.port, true)).await, Ok(1));
    assert_eq!(*server.asked.lock().unwrap(), ["GET /jwks HTTP/1.1"]);
    assert_eq!(fetched(URL, &options(server.port, false)).await, Err(FetchError::Forbidden));
    for host in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433"] {
        let url = format!("http://{host}:{}/jwks", server.port);
        let refused = fetched(&url, &options(server.port, true)).await;
        assert!(matches!(refused, Err(FetchError::Forbidden | FetchError::NoHost)), "{host}: {refused:?}");
    }
    for host in ["169.254.169.254", "[fe80::1]", "224.0.0.1"] {
        let url = format!("http://{host}/latest/meta-data");
        assert_eq!(fetched(&url, &options(server.port, true)).await, Err(FetchError::Forbidden), "{host}");
    }
    assert_eq!(server.asked.lock().unwrap().len(), 1, "nobody else was asked");
}

#[tokio::test]
async fn what_is_not_keys_is_not_taken_and_nobody_is_led_elsewhere() {
    let elsewhere = origin(vec![ok(KEYS)]).await;
    let moved = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{}/\r\ncontent-length: 0\r\n\r\n",
        elsewhere.port
    );
    let long = ok(&"x".repeat(MAX_KEY_SET_TEXT + 1));
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_KEY_SET_TEXT + 1));
    for (answer, error) in [
        (moved, FetchError::Status(302)),
        ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned(), FetchError::Status(500)),
        (long, FetchError::TooLong),
        (endless, FetchError::TooLong),
        (ok("<html>"), FetchError::NoKeys),
        (ok("{}"), FetchError::NoKeys),
        ("SSH-2.0-x\r\n".to_owned(), FetchError::Protocol),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(), FetchError::Protocol),
    ] {
        let server = origin(vec![answer]).await;
        assert_eq!(fetched(URL, &options(server.port, true)).await, Err(error));
    }
    assert!(elsewhere.asked.lock().unwrap().is_empty());
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert_eq!(fetched(URL, &options(closed, true)).await, Err(FetchError::Connect));
}

#[tokio::test]
async fn an_issuer_is_asked_first_where_its_keys_are() {
    let found = |url: &str| ok(&format!("{{\"issuer\": \"x\", \"jwks_uri\": \"{url}\"}}"));
    let site = KeySite::Issuer("http://keys.shop/tenant/".into());
    let server = origin(vec![found("http://keys.shop/own"), ok(KEYS)]).await;
    assert_eq!(fetch(&site, &wish(), &options(server.port, true)).await.map(|keys| keys.len()), Ok(1));
    let asked = ["GET /tenant/.well-known/openid-configuration HTTP/1.1", "GET /own HTTP/1.1"];
    assert_eq!(*server.asked.lock().unwrap(), asked);
    for url in ["http://127.0.0.1/", "http://169.254.169.254/"] {
        let server = origin(vec![found(url)]).await;
        let led = fetch(&site, &wish(), &options(server.port, true)).await;
        assert_eq!(led, Err(FetchError::Forbidden), "{url}");
    }
}

#[tokio::test]
async fn the_last_keys_hold_for_a_while_and_then_there_are_none() {
    let down = "HTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\n".to_owned();
    let server = origin(vec![down.clone(), ok(KEYS), down]).await;
    let (mut feed, follower) = KeyFeed::new(options(server.port, true));
    let mut serving = JoinSet::new();
    serving.spawn(follower.run());
    let site = KeySite::Url(URL.into());
    feed.want(&Wanted::from([(site.clone(), wish())]));
    assert_eq!(feed.next().await, (site.clone(), None), "not at the first try");
    let (found, keys) = feed.next().await;
    let since = Instant::now();
    assert_eq!((found, keys.map(|keys| keys.len())), (site.clone(), Some(1)));
    assert_eq!(feed.next().await, (site, None), "given up");
    assert!(since.elapsed() >= Duration::from_millis(380), "{:?}", since.elapsed());
    assert!(server.asked.lock().unwrap().len() > 4, "it was asked again and again");
    feed.want(&Wanted::new());
    tokio::time::sleep(Duration::from_millis(150)).await;
    let count = server.asked.lock().unwrap().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.asked.lock().unwrap().len(), count, "nobody wants it");
}

const MAX_KEY_SET_TEXT: usize = mesh_core::authn::MAX_KEY_SET;
