use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::testkit::*;
use super::*;
use crate::identity::Svid;
use crate::report::Flag;
use crate::tls::TlsStream;
use crate::tls::testkit::{HOUR, TestCa, id, issue, on_data_thread};

/// An application that echoes.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::task::spawn_local(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Sends a word and has it echoed.
async fn ping(stream: &mut Stream) {
    stream.send.send_data(Bytes::from_static(b"hello"), false).expect("send");
    let data = soon(stream.recv.data()).await.expect("data").expect("no error");
    assert_eq!(data, "hello");
    stream.recv.flow_control().release_capacity(data.len()).expect("release");
}

async fn soon<T>(f: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), f).await.expect("this takes too long")
}

async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[test]
fn one_tunnel_carries_many_streams() {
    on_data_thread(async {
        let (client, far) = bed().await;
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
    on_data_thread(async {
        let (client, far) = bed().await;
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
    on_data_thread(async {
        let ca = TestCa::new("root");
        // Our own limit, and the peer's.
        for (ours, theirs) in [(3, 200), (100, 3)] {
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
fn a_burst_beyond_the_limit_is_served_all_the_same() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let limits = ServeLimits { streams: 4, ..ServeLimits::default() };
        let far = FarNode::start(ca.svid("server"), limits, never()).await;
        let (pool, app, client) = (pool(PoolOptions::default()), echo().await, ca.svid("client"));
        let (pool, far, client) = (&pool, &far, &client);
        let mut opens = Vec::new();
        for _ in 0..30 {
            opens.push(Box::pin(async move { open(pool, client, far, app).await }));
        }
        let mut streams = Vec::new();
        soon(std::future::poll_fn(|cx| {
            opens.retain_mut(|open| match open.as_mut().poll(cx) {
                std::task::Poll::Pending => true,
                std::task::Poll::Ready(stream) => {
                    streams.push(stream.expect("open"));
                    false
                }
            });
            if opens.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        }))
        .await;
        assert_eq!(streams.len(), 30);
        assert!((8..=10).contains(&far.seen.tunnels.get()), "{} tunnels", far.seen.tunnels.get());
    });
}

#[test]
fn nothing_is_shared_across_keys() {
    on_data_thread(async {
        let ca = TestCa::new("root");
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
    on_data_thread(async {
        let ca = TestCa::new("root");
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

        let brief = Arc::new(issue(&ca, &id("brief"), Duration::from_secs(2), &ca.trust()).expect("svid"));
        let mut third = open(&pool, &brief, &far, app).await.expect("still valid");
        tokio::time::sleep(brief.not_after().duration_since(SystemTime::now()).unwrap_or_default()).await;
        let error = open(&pool, &brief, &far, app).await.expect_err("expired");
        assert_eq!(error.reason(), "no_valid_certificate");
        ping(&mut third).await;
    });
}

#[test]
fn a_tunnel_to_a_peer_whose_certificate_ended_takes_nothing_new() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let brief = issue(&ca, &id("server"), Duration::from_secs(2), &ca.trust()).expect("svid");
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
    on_data_thread(async {
        let (client, far) = bed().await;
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
    on_data_thread(async {
        let ca = TestCa::new("root");
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
    on_data_thread(async {
        let ca = TestCa::new("root");
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
        let broken = soon(old.recv.data()).await.expect("not an end").expect_err("cut");
        assert!(broken.is_io() || broken.is_go_away() || broken.is_reset(), "{broken}");
        let forced = |r: &Result<(), ServeError>| matches!(r, Err(ServeError::Forced));
        until(|| far.seen.served.borrow().iter().any(forced)).await;
    });
}

#[test]
fn a_forced_drain_of_ours_cuts_our_tunnels() {
    on_data_thread(async {
        let (client, far) = bed().await;
        let (phase, drain) = crate::run::drain::channel();
        let (pool, app) = (Pool::new(PoolOptions::default(), drain), echo().await);
        let mut stream = open(&pool, &client, &far, app).await.expect("open");
        phase.start();
        ping(&mut stream).await;
        phase.force();
        soon(stream.recv.data()).await.expect("not an end").expect_err("cut");
        until(|| pool.tunnels() == 0).await;
    });
}

#[test]
fn a_dead_tunnel_is_replaced_unseen() {
    on_data_thread(async {
        let (client, far) = bed().await;
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
    on_data_thread(async {
        let (client, far) = bed().await;
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
fn every_stage_reports_itself() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let client = ca.svid("client");
        let options = PoolOptions {
            dial: Duration::from_millis(100),
            settle: Duration::from_millis(100),
            response: Duration::from_millis(100),
            ..PoolOptions::default()
        };
        let pool = pool(options);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let request = ConnectRequest::new(address);
        let (key, dial) = (key("client", "server", address), async || TcpStream::connect(address).await);

        let refused = async || Err(io::ErrorKind::ConnectionRefused.into());
        let error = pool.open(&key, refused, client.clone(), &request).await.expect_err("refused");
        assert_eq!((error.stage(), error.reason()), (Stage::Dial, "tunnel_unreachable"));
        let error =
            pool.open(&key, std::future::pending, client.clone(), &request).await.expect_err("silent");
        assert_eq!((error.stage(), error.reason()), (Stage::Dial, "tunnel_connect_timeout"));

        // Accepts and hangs up; then accepts, does TLS, and says nothing; then speaks something else.
        let (result, ()) = tokio::join!(pool.open(&key, dial, client.clone(), &request), async {
            drop(listener.accept().await);
        });
        let error = result.expect_err("hung up");
        assert_eq!((error.stage(), error.reason()), (Stage::Tls, "tls_connection_lost"));

        let server = ca.svid("server");
        let held: Cell<Option<TlsStream>> = Cell::new(None);
        let (result, ()) = tokio::join!(pool.open(&key, dial, client.clone(), &request), async {
            let (tcp, _) = listener.accept().await.expect("accept");
            held.set(Some(crate::tls::accept(tcp, &server).await.expect("tls").0));
        });
        let error = result.expect_err("no HTTP/2");
        assert!(matches!(
            error,
            OpenError::Deadline(Stage::Connect | Stage::H2Handshake) | OpenError::H2Handshake(_)
        ));
        // The attempt itself fails at about the same time; whoever comes before that shares its fate.
        tokio::time::sleep(Duration::from_millis(200)).await;

        let (result, ()) = tokio::join!(pool.open(&key, dial, client.clone(), &request), async {
            let (tcp, _) = listener.accept().await.expect("accept");
            let mut stream = crate::tls::accept(tcp, &server).await.expect("tls").0;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("write");
            stream.flush().await.expect("flush");
            held.set(Some(stream));
        });
        let error = result.expect_err("not HTTP/2");
        assert_eq!((error.stage(), error.reason()), (Stage::H2Handshake, "h2_handshake_failed"));
        assert_eq!(error.flag(), Flag::H2Failure);
        assert_eq!(pool.tunnels(), 0);
    });
}

#[test]
fn a_peer_without_room_for_streams_is_no_endless_loop() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let limits = ServeLimits { streams: 0, ..ServeLimits::default() };
        let far = FarNode::start(ca.svid("server"), limits, never()).await;
        let pool = pool(PoolOptions { response: Duration::from_millis(500), ..PoolOptions::default() });
        let (client, app) = (ca.svid("client"), echo().await);
        let (pool, client, far) = (&pool, &client, &far);
        let open = || async move { soon(open(pool, client, far, app)).await.expect_err("no room") };
        let (a, b, c) = tokio::join!(open(), open(), open());
        for error in [a, b, c] {
            assert!(matches!(error.stage(), Stage::H2Handshake | Stage::Connect), "{error}");
        }
        assert!(far.seen.tunnels.get() <= 3);
    });
}

#[test]
fn whoever_gives_up_does_not_take_the_others_along() {
    on_data_thread(async {
        let (client, far) = bed().await;
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
    on_data_thread(async {
        let ca = TestCa::new("root");
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
    on_data_thread(async {
        let (client, far) = bed().await;
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

/// A TLS connection of a client that does with it what it likes.
async fn raw_tls(ca: &TestCa, far: &FarNode) -> TlsStream {
    let tcp = TcpStream::connect(far.address).await.expect("connect");
    crate::tls::connect(tcp, &ca.svid("client"), &id("server")).await.expect("tls").0
}

#[test]
fn hostile_clients_are_refused_in_time() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let limits = ServeLimits { preface: Duration::from_millis(200), ..ServeLimits::default() };
        let far = FarNode::start(ca.svid("server"), limits, never()).await;
        let last = |n: usize| {
            let served = far.seen.served.borrow();
            (served.len() == n).then(|| served[n - 1].as_ref().map_err(ServeError::reason).copied())
        };
        // The preface never comes; comes half; is HTTP/1; is followed by garbage.
        let silent = raw_tls(&ca, &far).await;
        until(|| last(1) == Some(Err("h2_preface_timeout"))).await;
        drop(silent);
        for (n, (bytes, reason)) in [
            (&b"PRI * HTTP/2.0\r\n\r\n"[..], "h2_preface_timeout"),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "h2_handshake_failed"),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                "h2_protocol_error",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let mut stream = raw_tls(&ca, &far).await;
            stream.write_all(bytes).await.expect("write");
            stream.flush().await.expect("flush");
            until(|| last(n + 2) == Some(Err(reason))).await;
            let mut rest = Vec::new();
            let _ = soon(stream.read_to_end(&mut rest)).await;
        }
        // Plain HTTP to the TLS port.
        let mut plain = TcpStream::connect(far.address).await.expect("connect");
        plain.write_all(b"CONNECT 10.0.0.1:80 HTTP/1.1\r\n\r\n").await.expect("write");
        until(|| far.seen.refused.borrow().as_slice() == ["not_tls"]).await;
        // A certificate under another root.
        let theirs = TestCa::new("root");
        let stranger = issue(&theirs, &id("client"), HOUR, &ca.trust()).expect("svid");
        let tcp = TcpStream::connect(far.address).await.expect("connect");
        let _kept = crate::tls::connect(tcp, &stranger, &id("server")).await;
        until(|| far.seen.refused.borrow().as_slice() == ["not_tls", "untrusted_chain"]).await;
    });
}

#[test]
fn only_connect_to_an_address_is_served() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
        let tls = raw_tls(&ca, &far).await;
        let (mut sender, conn) = h2::client::handshake(tls).await.expect("h2");
        tokio::task::spawn_local(async move {
            let _ = conn.await;
        });
        let bad = [
            (Method::GET, "https://10.0.0.1:80/"),
            (Method::POST, "https://10.0.0.1:80/"),
            (Method::CONNECT, "10.0.0.1"),
            (Method::CONNECT, "10.0.0.1:0"),
            (Method::CONNECT, "10.0.0.1:99999"),
            (Method::CONNECT, "10.0.0.01:80"),
            (Method::CONNECT, "example.com:80"),
            (Method::CONNECT, "user@10.0.0.1:80"),
            (Method::CONNECT, "[fe80::1%25eth0]:80"),
        ];
        let mut refused = 0;
        for (method, uri) in bad {
            let Ok(request) = Request::builder().method(&method).uri(uri).body(()) else { continue };
            sender = soon(sender.ready()).await.expect("ready");
            let (response, _) = sender.send_request(request, false).expect("send");
            let response = soon(response).await.unwrap_or_else(|e| unreachable!("{method} {uri}: {e}"));
            assert_eq!(response.status(), 400, "{method} {uri}");
            refused += 1;
        }
        assert!(refused >= 8);
        assert_eq!(far.seen.streams.get(), 0, "none reached the handler");
        let counted = far.seen.refused.borrow().clone();
        assert_eq!(counted.iter().filter(|r| **r == "not_connect").count(), 2);
        assert_eq!(counted.iter().filter(|r| **r == "bad_authority").count(), refused - 2);
    });
}

#[test]
fn a_request_that_is_taken_back_stops_the_dialling() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let stopped = Rc::new(Cell::new(0));
        let count = stopped.clone();
        let server = Server {
            limits: ServeLimits::default(),
            handler: Rc::new(move |mut incoming: Incoming| {
                let count = count.clone();
                Box::pin(async move {
                    incoming.gone().await;
                    count.set(count.get() + 1);
                })
            }),
            on_refused: Rc::new(|_| {}),
            drain: never(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let svid = ca.svid("server");
        let serving = tokio::task::spawn_local(async move {
            let (tcp, local) = listener.accept().await.expect("accept");
            let (tls, peer) = crate::tls::accept(tcp, &svid).await.expect("tls");
            server.serve(tls, peer, local).await
        });
        let pool = pool(PoolOptions::default());
        let key = key("client", "server", address);
        let (request, client) = (ConnectRequest::new(address), ca.svid("client"));
        let dial = async || TcpStream::connect(address).await;
        let open = pool.open(&key, dial, client, &request);
        tokio::time::timeout(Duration::from_millis(300), open).await.expect_err("no answer comes");
        until(|| stopped.get() == 1).await;
        let open = pool.open(&key, dial, ca.svid("client"), &request);
        let _ = tokio::time::timeout(Duration::from_millis(300), open).await;
        serving.abort();
    });
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// CONNECT to `authority` and its reset, as frames.
fn rapid_reset(stream: u32, authority: &str) -> [Vec<u8>; 2] {
    let mut block = vec![0x02, 7];
    block.extend_from_slice(b"CONNECT");
    block.extend_from_slice(&[0x01, u8::try_from(authority.len()).expect("short")]);
    block.extend_from_slice(authority.as_bytes());
    [frame(1, 4, stream, &block), frame(3, 0, stream, &8_u32.to_be_bytes())]
}

#[test]
fn floods_of_resets_end_the_tunnel() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        // In one batch HTTP/2 itself counts them; one by one, each with its handler begun, we do.
        for one_by_one in [false, true] {
            let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
            let mut tls = raw_tls(&ca, &far).await;
            tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("write");
            tls.write_all(&frame(4, 0, 0, &[])).await.expect("write");
            let mut sent = 0;
            for stream in (1..40_000).step_by(2) {
                let [connect, reset] = rapid_reset(stream, "127.0.0.1:2");
                let mut written = tls.write_all(&connect).await;
                if one_by_one {
                    written = written.and(tls.flush().await);
                    far.seen.next_stream().await;
                }
                written = written.and(tls.write_all(&reset).await);
                if written.is_err() || !far.seen.served.borrow().is_empty() {
                    break;
                }
                sent += 1;
            }
            let _ = tls.flush().await;
            if one_by_one {
                assert_eq!(goodbye(&mut tls).await, Some(11));
            }
            until(|| far.seen.served.borrow().len() == 1).await;
            let served = far.seen.served.borrow();
            let reason = served[0].as_ref().expect_err("cut off").reason();
            assert_eq!(reason, if one_by_one { "reset_flood" } else { "h2_protocol_error" });
            let begun = far.seen.streams.get();
            assert!(begun < 1_500, "{begun} of {sent} were begun");
        }
    });
}

/// The error code of the GOAWAY that a connection ends with.
async fn goodbye(tls: &mut TlsStream) -> Option<u32> {
    let mut bytes = Vec::new();
    // However it ends: what has come counts.
    let _ = soon(tls.read_to_end(&mut bytes)).await;
    let mut rest = &bytes[..];
    let mut code = None;
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).expect("small");
        let (payload, next) = payload.split_at(length.min(payload.len()));
        if let (7, [_, _, _, _, reason @ ..]) = (*kind, payload) {
            code = reason.first_chunk().map(|reason| u32::from_be_bytes(*reason));
        }
        rest = next;
    }
    code
}

#[test]
fn floods_of_frames_end_the_tunnel() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let frames = [
            frame(6, 0, 0, &[7; 8]),
            frame(4, 0, 0, &[]),
            frame(2, 0, 5, &[0, 0, 0, 0, 16]),
            frame(8, 0, 0, &[0, 0, 0, 1]),
            frame(0xbe, 0, 0, &[]),
        ];
        for flood in frames {
            let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
            let mut tls = raw_tls(&ca, &far).await;
            tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("write");
            tls.write_all(&frame(4, 0, 0, &[])).await.expect("write");
            for _ in 0..60 {
                if tls.write_all(&flood.repeat(50)).await.is_err() {
                    break;
                }
                // If it cannot be flushed, the tunnel has ended.
                let _ = tls.flush().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(goodbye(&mut tls).await, Some(11), "kind {}", flood[3]);
            until(|| far.seen.served.borrow().len() == 1).await;
            let reason = far.seen.served.borrow()[0].as_ref().expect_err("cut off").reason();
            assert_eq!(reason, "frame_flood", "kind {}", flood[3]);
        }
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
        soon(download.recv.data()).await.expect("data").expect("no error");
        downloads.push(download);
    }
    downloads
}

/// Reads and forgets.
async fn read_on(mut download: Stream) {
    while let Some(Ok(data)) = download.recv.data().await {
        download.recv.flow_control().release_capacity(data.len()).expect("release");
    }
}

#[test]
fn slow_readers_do_not_stop_the_others() {
    on_data_thread(async {
        let (client, far) = bed().await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let mut other = open(&pool, &client, &far, app).await.expect("open");
        let mut downloads = downloads(&pool, &client, &far, 90).await;
        // Until their windows are full.
        tokio::time::sleep(Duration::from_millis(500)).await;
        ping(&mut other).await;
        assert_eq!(far.seen.tunnels.get(), 1);
        let held: usize = downloads.iter_mut().map(|d| d.recv.flow_control().used_capacity()).sum();
        assert!(held <= 90 * STREAM_WINDOW as usize, "{held} bytes");
    });
}

#[test]
fn hanging_up_on_downloads_does_not_wear_a_tunnel_out() {
    on_data_thread(async {
        let (client, far) = bed().await;
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
fn a_peer_whose_certificate_ended_must_prove_itself_anew() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
        let brief = issue(&ca, &id("client"), Duration::from_secs(2), &ca.trust()).expect("svid");
        let tcp = TcpStream::connect(far.address).await.expect("connect");
        let tls = crate::tls::connect(tcp, &brief, &id("server")).await.expect("tls").0;
        let (mut sender, conn) = h2::client::handshake(tls).await.expect("h2");
        tokio::task::spawn_local(async move {
            let _ = conn.await;
        });
        let app = echo().await;
        let request =
            || Request::builder().method(Method::CONNECT).uri(app.to_string()).body(()).expect("request");
        let (response, send) = sender.send_request(request(), false).expect("send");
        let recv = soon(response).await.expect("response").into_body();
        let mut stream = Stream { send, recv, lease: None };
        ping(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(2200)).await;
        ping(&mut stream).await;
        soon(sender.ready()).await.map(drop).expect_err("nothing new");
    });
}

#[test]
fn headers_travel_and_are_only_claims() {
    on_data_thread(async {
        let ca = TestCa::new("root");
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
        OpenError::Reset(h2::Reason::CANCEL),
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
