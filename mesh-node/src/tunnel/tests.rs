use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::testkit::*;
use super::*;
use crate::identity::Svid;
use crate::report::Flag;
use crate::tls::Protocols;
use crate::tls::testkit::{TestCa, id};

#[test]
fn one_tunnel_carries_many_streams() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let mut streams = Vec::new();
        for _ in 0..20 {
            let mut stream = open(&pool, &client, &far, app).await.expect("open");
            ping(&mut stream).await;
            streams.push(stream);
        }
        assert_eq!((far.seen.tunnels.get(), far.seen.streams.get(), pool.tunnels()), (1, 20, 1));
    });
}

#[test]
fn one_is_made_however_many_ask() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let tasks: Vec<_> = (0..90)
            .map(|_| {
                let (pool, client, address) = (pool.clone(), client.clone(), far.address);
                tokio::task::spawn_local(async move {
                    let key = key("client", "server", address);
                    let dial = async || TcpStream::connect(address).await;
                    pool.open(&key, dial, client, &ConnectRequest::new(app)).await
                })
            })
            .collect();
        let mut streams = Vec::new();
        for task in tasks {
            streams.push(soon(task).await.expect("no panic").expect("open"));
        }
        assert_eq!(far.seen.tunnels.get(), 1);
        for stream in &mut streams {
            ping(stream).await;
        }
    });
}

#[test]
fn a_full_tunnel_gets_a_second_beside_it() {
    over_each(async |protocols| {
        let ca = TestCa::speaking(protocols);
        // Our own limit, and the peer's, which only HBONE can name.
        let cases = [(3, 200), (100, 3)];
        for (ours, theirs) in cases.into_iter().take(if protocols == Protocols::Hbone { 2 } else { 1 }) {
            let limits = ServeLimits { streams: theirs, ..ServeLimits::default() };
            let far = FarNode::start(ca.svid("server"), limits, never()).await;
            let pool = pool(PoolOptions { streams: ours, ..PoolOptions::default() });
            let (client, app) = (ca.svid("client"), echo().await);
            let mut streams = Vec::new();
            for n in 0..9 {
                let mut stream = open(&pool, &client, &far, app).await.expect("open");
                ping(&mut stream).await;
                streams.push(stream);
                assert_eq!(far.seen.tunnels.get(), n / 3 + 1, "stream {n}");
            }
            // Room that became free is used again.
            streams.truncate(8);
            let mut stream = open(&pool, &client, &far, app).await.expect("open");
            ping(&mut stream).await;
            assert_eq!(far.seen.tunnels.get(), 3);
        }
    });
}

#[test]
fn nothing_is_shared_across_keys() {
    over_each(async |protocols| {
        let ca = TestCa::speaking(protocols);
        let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let (a, b) = (ca.svid("a"), ca.svid("b"));
        let address = far.address;
        let dial = async || TcpStream::connect(address).await;
        let request = ConnectRequest::new(app);
        let mut streams = Vec::new();
        let mut keys = vec![key("a", "server", address), key("b", "server", address)];
        keys.push(TunnelKey { source_pod: "another pod of a".into(), ..keys[0].clone() });
        for (n, key) in keys.iter().enumerate() {
            let svid = if key.source == id("a") { &a } else { &b };
            for _ in 0..2 {
                streams.push(pool.open(key, dial, svid.clone(), &request).await.expect("open"));
                assert_eq!(far.seen.tunnels.get(), n + 1);
            }
        }
        // Another destination at the same address: refused, not borrowed.
        let other = TunnelKey { destination: id("other"), ..keys[0].clone() };
        let error =
            pool.open(&other, dial, a.clone(), &request).await.expect_err("the server is not `other`");
        assert_eq!(
            (error.reason(), error.flag(), error.stage()),
            ("wrong_identity", Flag::TlsFailure, Stage::Tls)
        );
        // A certificate that is not the source's.
        let error = pool.open(&keys[0], dial, b, &request).await.expect_err("not a's certificate");
        assert_eq!((error.reason(), error.flag()), ("no_valid_certificate", Flag::IdentityError));
        assert!(!error.retry());
    });
}

#[test]
fn rotated_and_expired_certificates_open_nothing_new() {
    over_each(async |protocols| {
        let ca = TestCa::speaking(protocols);
        let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let old = ca.svid("client");
        let mut first = open(&pool, &old, &far, app).await.expect("open");
        let new = ca.svid("client");
        let mut second = open(&pool, &new, &far, app).await.expect("open");
        assert_eq!(far.seen.tunnels.get(), 2, "a rotated certificate has a tunnel of its own");
        assert_eq!(pool.tunnels(), 1, "the old one takes no more");
        ping(&mut first).await;
        ping(&mut second).await;
        drop(first);
        until(|| far.seen.served.borrow().len() == 1).await;
        assert!(far.seen.served.borrow()[0].is_ok(), "the old tunnel ended with its last stream");

        let brief = Arc::new(ca.issue("brief", Duration::from_secs(2)));
        let mut third = open(&pool, &brief, &far, app).await.expect("still valid");
        tokio::time::sleep(brief.not_after().duration_since(SystemTime::now()).unwrap_or_default()).await;
        let error = open(&pool, &brief, &far, app).await.expect_err("expired");
        assert_eq!(error.reason(), "no_valid_certificate");
        ping(&mut third).await;
    });
}

#[test]
fn a_tunnel_to_a_peer_whose_certificate_ended_takes_nothing_new() {
    over_each(async |protocols| {
        let ca = TestCa::speaking(protocols);
        let brief = ca.issue("server", Duration::from_secs(2));
        let end = brief.not_after();
        let far = FarNode::start(Arc::new(brief), ServeLimits::default(), never()).await;
        let (pool, app, client) = (pool(PoolOptions::default()), echo().await, ca.svid("client"));
        let mut stream = open(&pool, &client, &far, app).await.expect("open");
        // Certificates are valid up to and including their last second.
        let end = end + Duration::from_secs(1);
        tokio::time::sleep(end.duration_since(SystemTime::now()).unwrap_or_default()).await;
        let error = open(&pool, &client, &far, app).await.expect_err("expired");
        assert_eq!(error.reason(), "certificate_expired", "a new tunnel was tried");
        ping(&mut stream).await;
    });
}

#[test]
fn idle_tunnels_are_released() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let app = echo().await;
        let pool = pool(PoolOptions { idle: Duration::from_millis(200), ..PoolOptions::default() });
        let mut stream = open(&pool, &client, &far, app).await.expect("open");
        tokio::time::sleep(Duration::from_millis(400)).await;
        ping(&mut stream).await;
        assert_eq!(pool.tunnels(), 1, "a stream keeps its tunnel");
        drop(stream);
        until(|| pool.tunnels() == 0).await;
        until(|| far.seen.served.borrow().len() == 1).await;
        assert!(far.seen.served.borrow()[0].is_ok(), "with a goodbye");
        let mut stream = open(&pool, &client, &far, app).await.expect("a new one");
        ping(&mut stream).await;
    });
}

#[test]
fn the_server_releases_idle_tunnels_too() {
    over_each(async |protocols| {
        let ca = TestCa::speaking(protocols);
        let limits = ServeLimits { idle: Duration::from_millis(200), ..ServeLimits::default() };
        let far = FarNode::start(ca.svid("server"), limits, never()).await;
        let (pool, app, client) = (pool(PoolOptions::default()), echo().await, ca.svid("client"));
        let mut stream = open(&pool, &client, &far, app).await.expect("open");
        tokio::time::sleep(Duration::from_millis(500)).await;
        ping(&mut stream).await;
        drop(stream);
        until(|| far.seen.served.borrow().len() == 1).await;
        assert!(far.seen.served.borrow()[0].is_ok());
        until(|| pool.tunnels() == 0).await;
    });
}

#[test]
fn a_drain_says_goodbye_and_lets_streams_finish() {
    over_each(async |protocols| {
        let ca = TestCa::speaking(protocols);
        let (phase, drain) = crate::run::drain::channel();
        let far = FarNode::start(ca.svid("server"), ServeLimits::default(), drain).await;
        let (pool, app, client) = (pool(PoolOptions::default()), echo().await, ca.svid("client"));
        let mut old = open(&pool, &client, &far, app).await.expect("open");
        phase.start();
        tokio::time::sleep(Duration::from_millis(50)).await;
        ping(&mut old).await;
        // The far node's listener is still there in this test; a new stream takes a new tunnel.
        let second = open(&pool, &client, &far, app).await;
        assert_eq!(far.seen.tunnels.get(), 2, "none went over the old one: {second:?}");
        ping(&mut old).await;
        phase.force();
        receive(&mut old).await.expect("not an end").expect_err("cut");
        let forced = |r: &Result<(), ServeError>| matches!(r, Err(ServeError::Forced));
        until(|| far.seen.served.borrow().iter().any(forced)).await;
    });
}

#[test]
fn a_forced_drain_of_ours_cuts_our_tunnels() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let (phase, drain) = crate::run::drain::channel();
        let (pool, app) = (Pool::new(PoolOptions::default(), drain), echo().await);
        let mut stream = open(&pool, &client, &far, app).await.expect("open");
        phase.start();
        ping(&mut stream).await;
        phase.force();
        receive(&mut stream).await.expect("not an end").expect_err("cut");
        until(|| pool.tunnels() == 0).await;
    });
}

#[test]
fn a_dead_tunnel_is_replaced_unseen() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        for round in 1..4 {
            let mut stream = open(&pool, &client, &far, app).await.expect("open");
            ping(&mut stream).await;
            assert_eq!(far.seen.tunnels.get(), round);
            far.seen.kill_tunnels();
            // At once: the pool cannot know yet.
            let mut stream = open(&pool, &client, &far, app).await.expect("open");
            ping(&mut stream).await;
            far.seen.kill_tunnels();
            until(|| pool.tunnels() == 0).await;
            far.seen.tunnels.set(round);
        }
    });
}

#[test]
fn answers_other_than_200_are_told_apart() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let pool = pool(PoolOptions::default());
        let denied =
            open(&pool, &client, &far, "127.0.0.1:1".parse().expect("address")).await.expect_err("denied");
        assert_eq!((denied.reason(), denied.flag()), ("denied_by_peer", Flag::Deny));
        assert_eq!((denied.stage(), denied.retry()), (Stage::Connect, false));

        let closed = TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address");
        let error = open(&pool, &client, &far, closed).await.expect_err("nobody there");
        assert_eq!((error.reason(), error.flag()), ("unavailable_at_peer", Flag::Connect));
        assert!(error.retry());
        assert_eq!(far.seen.tunnels.get(), 1, "a refusal is no reason for a new tunnel");
    });
}

#[test]
fn whoever_gives_up_does_not_take_the_others_along() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let slow = Rc::new(Cell::new(true));
        let address = far.address;
        let key = key("client", "server", address);
        let request = ConnectRequest::new(app);
        let dial = {
            let slow = slow.clone();
            async move || {
                if slow.get() {
                    std::future::pending::<()>().await;
                }
                TcpStream::connect(address).await
            }
        };
        let mut first = Box::pin(pool.open(&key, &dial, client.clone(), &request));
        let mut second = Box::pin(pool.open(&key, &dial, client.clone(), &request));
        tokio::select! {
            biased;
            _ = &mut first => unreachable!("it dials for ever"),
            _ = &mut second => unreachable!("it waits for the first"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        slow.set(false);
        drop(first);
        let mut stream = soon(second).await.expect("the second dials by itself");
        ping(&mut stream).await;
    });
}

#[test]
fn a_cancelled_open_gives_its_place_back() {
    over_each(async |protocols| {
        let ca = TestCa::speaking(protocols);
        let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
        let (pool, client) = (pool(PoolOptions { streams: 2, ..PoolOptions::default() }), ca.svid("client"));
        let app = echo().await;
        let kept = open(&pool, &client, &far, app).await.expect("open");
        for _ in 0..10 {
            let mut open = Box::pin(open(&pool, &client, &far, app));
            tokio::select! {
                biased;
                _ = &mut open => unreachable!("not within one turn"),
                () = tokio::task::yield_now() => {}
            }
        }
        let _second = open(&pool, &client, &far, app).await.expect("open");
        assert_eq!(far.seen.tunnels.get(), 1);
        drop(kept);
    });
}

#[test]
fn pods_that_leave_retire_their_tunnels() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let mut stream = open(&pool, &client, &far, app).await.expect("open");
        pool.retire_pod("uid-other");
        assert_eq!(pool.tunnels(), 1);
        pool.retire_pod("uid-client");
        assert_eq!(pool.tunnels(), 0);
        ping(&mut stream).await;
        drop(stream);
        until(|| far.seen.served.borrow().len() == 1).await;
    });
}

/// An application that sends without end.
async fn endless() -> SocketAddr {
    let source = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = source.local_addr().expect("address");
    tokio::task::spawn_local(async move {
        while let Ok((mut socket, _)) = source.accept().await {
            let piece = vec![7; 65536];
            tokio::task::spawn_local(async move { while socket.write_all(&piece).await.is_ok() {} });
        }
    });
    address
}

/// Opens downloads of which nobody reads more than the begin.
async fn downloads(pool: &Pool, client: &Arc<Svid>, far: &FarNode, n: usize) -> Vec<Stream> {
    let source = endless().await;
    let mut downloads = Vec::new();
    for _ in 0..n {
        let mut download = open(pool, client, far, source).await.expect("open");
        let begin = receive(&mut download).await.expect("data").expect("no error");
        download.taken(begin.len());
        downloads.push(download);
    }
    downloads
}

/// Reads and forgets.
async fn read_on(mut download: Stream) {
    while let Some(Ok(data)) = std::future::poll_fn(|cx| download.poll_receive(cx)).await {
        download.taken(data.len());
    }
}

#[test]
fn slow_readers_do_not_stop_the_others() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let mut other = open(&pool, &client, &far, app).await.expect("open");
        let downloads = downloads(&pool, &client, &far, 90).await;
        // Until their windows are full.
        tokio::time::sleep(Duration::from_millis(500)).await;
        ping(&mut other).await;
        assert_eq!(far.seen.tunnels.get(), 1);
        drop(downloads);
    });
}

#[test]
fn hanging_up_on_downloads_does_not_wear_a_tunnel_out() {
    over_each(async |protocols| {
        let (client, far) = bed(protocols).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let mut other = open(&pool, &client, &far, app).await.expect("open");
        // With HTTP/2's defaults the tenth round would be the end.
        for _ in 0..16 {
            let mut readers = Vec::new();
            for download in downloads(&pool, &client, &far, 90).await {
                readers.push(tokio::task::spawn_local(read_on(download)));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
            // Full speed ahead, and gone: much is still under way.
            readers.iter().for_each(tokio::task::JoinHandle::abort);
            ping(&mut other).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        ping(&mut other).await;
        assert_eq!(far.seen.tunnels.get(), 1);
    });
}

#[test]
fn headers_travel_and_are_only_claims() {
    over_each(async |protocols| {
        let ca = TestCa::speaking(protocols);
        let seen: Rc<Cell<Option<http::HeaderMap>>> = Rc::default();
        let store = seen.clone();
        let server = Server {
            limits: ServeLimits::default(),
            handler: Rc::new(move |incoming: Incoming| {
                assert_eq!(incoming.peer.id, id("client"), "the certificate's, whatever the headers say");
                store.set(Some(incoming.headers.clone()));
                incoming.reject(http::StatusCode::SERVICE_UNAVAILABLE);
                Box::pin(async {})
            }),
            on_refused: Rc::new(|_| {}),
            drain: never(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let svid = ca.svid("server");
        tokio::task::spawn_local(async move {
            let (tcp, local) = listener.accept().await.expect("accept");
            let (tls, peer) = crate::tls::accept(tcp, &svid).await.expect("tls");
            let _ = server.serve(tls, peer, local).await;
        });
        let request = ConnectRequest {
            forwarded: Some("for=\"10.0.0.9:1\"".parse().expect("value")),
            baggage: Some("k8s.namespace.name=evil".parse().expect("value")),
            ..ConnectRequest::new("[2001:db8::1]:80".parse().expect("address"))
        };
        let dial = async || TcpStream::connect(address).await;
        let pool = pool(PoolOptions::default());
        let key = key("client", "server", address);
        let error = pool.open(&key, dial, ca.svid("client"), &request).await.expect_err("rejected");
        assert_eq!(error.reason(), "unavailable_at_peer");
        let headers = seen.take().expect("reached the handler");
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["forwarded"], "for=\"10.0.0.9:1\"");
    });
}

#[test]
fn every_reason_is_its_own() {
    let all = [
        OpenError::Dial(Arc::new(io::ErrorKind::TimedOut.into())),
        OpenError::Tls(crate::tls::TlsError::NoAlpn),
        OpenError::H2Handshake("x".into()),
        OpenError::Refused { status: http::StatusCode::UNAUTHORIZED },
        OpenError::Refused { status: http::StatusCode::SERVICE_UNAVAILABLE },
        OpenError::Refused { status: http::StatusCode::BAD_REQUEST },
        OpenError::Reset("x".into()),
        OpenError::TunnelLost("x".into()),
        OpenError::Deadline(Stage::Dial),
        OpenError::Deadline(Stage::Tls),
        OpenError::Deadline(Stage::H2Handshake),
        OpenError::Deadline(Stage::Connect),
        OpenError::Identity,
    ];
    let reasons: std::collections::BTreeSet<_> = all.iter().map(OpenError::reason).collect();
    assert_eq!(reasons.len(), all.len());
    assert!(all.iter().all(|e| e.flag() != Flag::None && !e.to_string().is_empty()));
}
