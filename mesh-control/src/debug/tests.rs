//! Who gets an answer, and who gets in.

use std::future::{Future, ready};
use std::pin::Pin;

use mesh_ca::FileVault;
use mesh_ca::authorize::Caller;
use mesh_core::id::TrustDomain;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use mesh_ca::authority::Limits;

use crate::authn::{Authenticator, ReviewError, ReviewToken};
use crate::dashboard::tests::dashboard;

/// Knows the tokens `NAMESPACE/ACCOUNT`.
struct Known;

impl ReviewToken for Known {
    fn review<'a>(
        &'a self,
        token: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Caller, ReviewError>> + Send + 'a>> {
        let caller = token.split_once('/').map(|(namespace, account)| Caller::ServiceAccountToken {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            audiences: Vec::new(),
            pod: None,
            node: None,
        });
        Box::pin(ready(caller.ok_or_else(|| ReviewError::Refused("no".to_owned()))))
    }
}

async fn ca() -> Ca {
    let state = tempfile::tempdir().unwrap();
    let (domain, limits) =
        (TrustDomain::parse("cluster.local").unwrap(), Limits::up_to(Duration::from_secs(3600)));
    Ca::open(Arc::new(FileVault::ca(state.path())), &domain, limits, SystemTime::now()).await.unwrap()
}

async fn debug(reviewer: Option<Arc<dyn ReviewToken>>) -> Arc<Debug> {
    Arc::new(Debug {
        hub: Arc::default(),
        ca: Arc::new(ca().await),
        dashboard: Arc::new(dashboard()),
        turns: Semaphore::new(TURNS),
        doorkeeper: Doorkeeper::new(Arc::new(Authenticator::new(None, reviewer)), "istio-system"),
    })
}

async fn status(debug: &Debug, peer: &str, (host, token): (&str, Option<&str>), path: &str) -> u16 {
    let mut request = Request::builder().uri(path).header("host", host);
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    debug.answer(peer.parse().unwrap(), request.body(()).unwrap()).await.status().as_u16()
}

const NAMED: [&str; 6] =
    ["/debug/registryz", "/debug/subscribers", "/debug/syncz", "/debug/findings", "/debug", "/nothing"];

#[tokio::test]
async fn what_names_everybodys_is_for_this_machine_and_the_mesh_itself() {
    let debug = debug(Some(Arc::new(Known))).await;
    let pod = "10.0.0.9";
    for path in NAMED {
        let good = if path == "/nothing" { 404 } else { 200 };
        for (peer, host, token, expected) in [
            ("127.0.0.1", "localhost:15014", None, good),
            ("::ffff:127.0.0.1", "127.0.0.1", None, good),
            ("127.0.0.1", "evil.example", None, 403),
            ("127.0.0.1", "evil.example", Some("Bearer istio-system/kiali"), 403),
            (pod, "localhost", None, 401),
            (pod, "istiod.istio-system:15014", Some("Bearer istio-system/kiali"), good),
            (pod, "istiod.istio-system:15014", Some("Bearer shop/page"), 403),
            (pod, "istiod.istio-system:15014", Some("Bearer nonsense"), 401),
            (pod, "istiod.istio-system:15014", Some("Basic istio-system/kiali"), 401),
            ("::ffff:10.0.0.9", "localhost", None, 401),
        ] {
            let got = status(&debug, peer, (host, token), path).await;
            assert_eq!(got, expected, "{path} of {peer} for {host} with {token:?}");
        }
    }
    let refused = debug.hub.counters.debug_refused.load(Ordering::Relaxed);
    assert_eq!(refused, 7 * u64::try_from(NAMED.len()).unwrap());
}

#[tokio::test]
async fn figures_and_readiness_are_for_whoever_asks() {
    let debug = debug(None).await;
    for (path, expected) in [("/metrics", 200), ("/version", 200), ("/ready", 503), ("/healthz/ready", 503)] {
        assert_eq!(status(&debug, "10.0.0.9", ("istiod", None), path).await, expected, "{path}");
    }
}

#[tokio::test]
async fn where_nobody_can_be_asked_no_token_is_good() {
    let debug = debug(None).await;
    let token = Some("Bearer istio-system/kiali");
    assert_eq!(status(&debug, "10.0.0.9", ("istiod", token), "/debug/syncz").await, 503);
}

#[tokio::test]
async fn one_machine_has_so_many_connections() {
    let debug = debug(None).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(tasks::spawn("monitoring", Arc::clone(&debug).serve(listener)));
    let mut held = Vec::new();
    for _ in 0..OF_ONE {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let ask = async || {
        let mut one = TcpStream::connect(address).await.unwrap();
        let _ = one.write_all(b"GET /version HTTP/1.0\r\nhost: localhost\r\n\r\n").await;
        let mut answer = String::new();
        let _ = one.read_to_string(&mut answer).await;
        answer
    };
    assert_eq!(ask().await, "", "it is one too many");
    assert_eq!(debug.hub.counters.debug_crowded.load(Ordering::Relaxed), 1);
    held.clear();
    let served = async {
        while !ask().await.starts_with("HTTP/1.0 200") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), served).await.expect("their places are free again");
}
