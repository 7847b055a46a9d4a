use std::cell::Cell;
use std::io;
use std::rc::Rc;

use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::testkit::*;
use super::super::*;
use crate::report::Flag;
use crate::tls::testkit::{HOUR, TestCa, id, issue, on_data_thread};
use crate::tls::{Protocols, TlsStream};

#[test]
fn a_burst_beyond_the_limit_is_served_all_the_same() {
    on_data_thread(async {
        let ca = TestCa::speaking(Protocols::Hbone);
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
                Poll::Pending => true,
                Poll::Ready(stream) => {
                    streams.push(stream.expect("open"));
                    false
                }
            });
            if opens.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        }))
        .await;
        assert_eq!(streams.len(), 30);
        assert!((8..=10).contains(&far.seen.tunnels.get()), "{} tunnels", far.seen.tunnels.get());
    });
}

#[test]
fn every_stage_reports_itself() {
    on_data_thread(async {
        let ca = TestCa::speaking(Protocols::Hbone);
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
        let ca = TestCa::speaking(Protocols::Hbone);
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

/// A TLS connection of a client that does with it what it likes.
async fn raw_tls(ca: &TestCa, far: &FarNode) -> TlsStream {
    let tcp = TcpStream::connect(far.address).await.expect("connect");
    crate::tls::connect(tcp, &ca.svid("client"), &id("server")).await.expect("tls").0
}

#[test]
fn hostile_clients_are_refused_in_time() {
    on_data_thread(async {
        let ca = TestCa::speaking(Protocols::Hbone);
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
        let theirs = TestCa::speaking(Protocols::Hbone);
        let stranger = issue(&theirs, &id("client"), HOUR, &ca.trust()).expect("svid");
        let tcp = TcpStream::connect(far.address).await.expect("connect");
        let _kept = crate::tls::connect(tcp, &stranger, &id("server")).await;
        until(|| far.seen.refused.borrow().as_slice() == ["not_tls", "untrusted_chain"]).await;
    });
}

#[test]
fn only_connect_to_an_address_is_served() {
    on_data_thread(async {
        let ca = TestCa::speaking(Protocols::Hbone);
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
        let ca = TestCa::speaking(Protocols::Hbone);
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
        let ca = TestCa::speaking(Protocols::Hbone);
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
        let ca = TestCa::speaking(Protocols::Hbone);
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

#[test]
fn a_peer_whose_certificate_ended_must_prove_itself_anew() {
    on_data_thread(async {
        let ca = TestCa::speaking(Protocols::Hbone);
        let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
        let brief = ca.issue("client", Duration::from_secs(2));
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
        let mut stream = Stream::new(Carrier::Hbone(super::Stream::new(send, recv)), None);
        ping(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(2200)).await;
        ping(&mut stream).await;
        soon(sender.ready()).await.map(drop).expect_err("nothing new");
    });
}
