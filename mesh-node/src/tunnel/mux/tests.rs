use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::tunnel::credit;
use mesh_core::tunnel::frame::{HEAD, first};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::testkit::*;
use super::super::{Pool, PoolOptions, ServeError, ServeLimits};
use super::*;
use crate::identity::Svid;
use crate::tls::Protocols;
use crate::tls::testkit::{TestCa, id, on_data_thread};

/// A client that says what it likes.
struct Raw {
    tls: TlsStream,
    input: Vec<u8>,
}

impl Raw {
    async fn connect(ca: &TestCa, far: &FarNode) -> Self {
        let tcp = TcpStream::connect(far.address).await.expect("connect");
        let tls = crate::tls::connect(tcp, &ca.svid("client"), &id("server")).await.expect("tls").0;
        Self { tls, input: Vec::new() }
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.tls.write_all(bytes).await?;
        self.tls.flush().await
    }

    async fn say(&mut self, frame: &Frame<'_>) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        self.write(&bytes).await
    }

    async fn open(&mut self, id: StreamId, authority: &str) {
        let mut payload = Vec::new();
        Open::new(authority.parse().expect("address")).write(&mut payload, MAX_PAYLOAD);
        self.say(&Frame::Open(id, &payload)).await.expect("open");
    }

    /// What the next frame is, in words; nothing at the end.
    async fn heard(&mut self) -> Option<String> {
        soon(async {
            loop {
                if let Some((frame, length)) = first(&self.input).expect("good frames") {
                    let said = format!("{frame:?}");
                    self.input.drain(..length);
                    return Some(said);
                }
                let mut more = [0; 4096];
                match self.tls.read(&mut more).await {
                    Ok(0) | Err(_) => return None,
                    Ok(n) => self.input.extend_from_slice(&more[..n]),
                }
            }
        })
        .await
    }
}

async fn bed_with(limits: ServeLimits) -> (TestCa, FarNode) {
    let ca = TestCa::speaking(Protocols::Mesh);
    let far = FarNode::start(ca.svid("server"), limits, never()).await;
    (ca, far)
}

/// The reason why the only tunnel ended.
async fn ended(far: &FarNode) -> &'static str {
    until(|| !far.seen.served.borrow().is_empty()).await;
    far.seen.served.borrow()[0].as_ref().map_or_else(ServeError::reason, |()| "cleanly")
}

#[test]
fn whoever_breaks_the_rules_loses_the_tunnel() {
    on_data_thread(async {
        let unread = vec![0; MAX_PAYLOAD];
        let overdrawn = credit::FIRST as usize / MAX_PAYLOAD + 1;
        let cases: [(&str, Vec<Vec<u8>>); 10] = [
            ("no frame", vec![vec![0; HEAD]]),
            ("HTTP", vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()]),
            (
                "bytes of a stream that was never opened",
                vec![written(&Frame::Data { stream: 9, bytes: b"x", fin: false })],
            ),
            ("a stream twice", vec![opened(1), opened(1)]),
            ("a stream below the last", vec![opened(5), opened(4)]),
            ("a client that answers", vec![opened(1), written(&Frame::Accept(1))]),
            ("a client that lets the server go", vec![written(&Frame::Leave(0))]),
            (
                "bytes after the end",
                vec![
                    opened(1),
                    written(&Frame::Data { stream: 1, bytes: b"", fin: true }),
                    written(&Frame::Data { stream: 1, bytes: b"x", fin: false }),
                ],
            ),
            (
                "more than may come before the answer",
                vec![opened(1), data(&unread), written(&Frame::Data { stream: 1, bytes: b"x", fin: false })],
            ),
            (
                "a stream that was refused, beyond its credit",
                std::iter::once(opened(1)).chain(vec![data(&unread); overdrawn]).collect(),
            ),
        ];
        for (what, said) in cases {
            let (ca, far) = bed_with(ServeLimits::default()).await;
            let mut raw = Raw::connect(&ca, &far).await;
            for bytes in said {
                if raw.write(&bytes).await.is_err() {
                    break;
                }
            }
            assert_eq!(ended(&far).await, "mesh_protocol_error", "{what}");
        }
    });
}

fn data(bytes: &[u8]) -> Vec<u8> {
    written(&Frame::Data { stream: 1, bytes, fin: false })
}

fn written(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.write(&mut bytes);
    bytes
}

/// A stream to whom nobody ever answers.
fn opened(stream: StreamId) -> Vec<u8> {
    let mut payload = Vec::new();
    Open::new("127.0.0.1:2".parse().expect("address")).write(&mut payload, MAX_PAYLOAD);
    written(&Frame::Open(stream, &payload))
}

#[test]
fn floods_end_the_tunnel() {
    on_data_thread(async {
        let cases = [
            ("frame_flood", written(&Frame::Ping([7; 8]))),
            ("frame_flood", written(&Frame::Pong([7; 8]))),
            ("frame_flood", written(&Frame::Reset(1))),
        ];
        for (reason, flood) in cases {
            let (ca, far) = bed_with(ServeLimits::default()).await;
            let mut raw = Raw::connect(&ca, &far).await;
            raw.open(1, "127.0.0.1:2").await;
            for _ in 0..100 {
                if raw.write(&flood.repeat(50)).await.is_err() || !far.seen.served.borrow().is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(ended(&far).await, reason, "{flood:?}");
        }
    });
}

#[test]
fn streams_opened_and_taken_back_end_the_tunnel() {
    on_data_thread(async {
        let (ca, far) = bed_with(ServeLimits::default()).await;
        let mut raw = Raw::connect(&ca, &far).await;
        for id in 1..20_000 {
            if raw.write(&opened(id)).await.is_err() || !far.seen.served.borrow().is_empty() {
                break;
            }
            far.seen.next_stream().await;
            let _ = raw.say(&Frame::Reset(id)).await;
        }
        assert_eq!(ended(&far).await, "reset_flood");
        let begun = far.seen.streams.get();
        assert!(begun < 1_500, "{begun} were begun");
    });
}

#[test]
fn what_is_opened_beyond_the_limit_is_not_taken() {
    on_data_thread(async {
        let (ca, far) = bed_with(ServeLimits::default()).await;
        let mut raw = Raw::connect(&ca, &far).await;
        for id in 1..=101 {
            raw.open(id, "127.0.0.1:2").await;
        }
        assert_eq!(raw.heard().await.as_deref(), Some("Refuse(101, NotTaken)"));
        until(|| far.seen.streams.get() == 100).await;
        // Room that became free is used again.
        raw.say(&Frame::Reset(7)).await.expect("reset");
        raw.open(102, "127.0.0.1:1").await;
        assert_eq!(raw.heard().await.as_deref(), Some("Refuse(102, Status(401))"));
    });
}

/// Who serves the stream that is over has not run in between.
#[test]
fn the_place_of_a_stream_is_free_as_soon_as_its_client_may_think_so() {
    on_data_thread(async {
        let (ca, far) = bed_with(ServeLimits::default()).await;
        let mut raw = Raw::connect(&ca, &far).await;
        for id in 1..=100 {
            raw.open(id, "127.0.0.1:2").await;
        }
        until(|| far.seen.streams.get() == 100).await;
        raw.write(&[written(&Frame::Reset(1)), opened(101)].concat()).await.expect("write");
        raw.open(102, "127.0.0.1:2").await;
        assert_eq!(raw.heard().await.as_deref(), Some("Refuse(102, NotTaken)"));
        assert_eq!(far.seen.streams.get(), 101);
    });
}

#[test]
fn only_an_address_is_served() {
    on_data_thread(async {
        let (ca, far) = bed_with(ServeLimits::default()).await;
        let mut raw = Raw::connect(&ca, &far).await;
        let bad: [&[u8]; 3] = [&[], &[4, 127, 0, 0, 1, 0, 0], &[9, 1, 2, 3]];
        for (id, payload) in (1..).zip(bad) {
            raw.say(&Frame::Open(id, payload)).await.expect("open");
            assert_eq!(raw.heard().await, Some(format!("Refuse({id}, Status(400))")));
        }
        assert_eq!(far.seen.refused.borrow().as_slice(), ["bad_authority"; 3]);
        assert_eq!(far.seen.streams.get(), 0);
    });
}

#[test]
fn a_request_that_is_taken_back_stops_the_dialling() {
    on_data_thread(async {
        let (ca, far) = bed_with(ServeLimits::default()).await;
        let mut raw = Raw::connect(&ca, &far).await;
        raw.open(1, "127.0.0.1:2").await;
        until(|| far.seen.streams.get() == 1).await;
        raw.say(&Frame::Reset(1)).await.expect("reset");
        until(|| far.seen.gone.get() == 1).await;
    });
}

#[test]
fn one_who_never_reads_keeps_no_more_than_its_bound() {
    on_data_thread(async {
        let (ca, far) = bed_with(ServeLimits::default()).await;
        let mut raw = Raw::connect(&ca, &far).await;
        // Pings are answered, and the answers are not read: what cannot be sent must not pile up.
        let mut ended = false;
        for _ in 0..4_000 {
            let pings = written(&Frame::Ping([1; 8])).repeat(10);
            if tokio::time::timeout(Duration::from_millis(200), raw.write(&pings)).await.is_err()
                || !far.seen.served.borrow().is_empty()
            {
                ended = true;
                break;
            }
        }
        assert!(ended, "the tunnel is still there");
    });
}

#[test]
fn a_peer_whose_certificate_ended_must_prove_itself_anew() {
    on_data_thread(async {
        let (ca, far) = bed_with(ServeLimits::default()).await;
        let brief = Arc::new(ca.issue("client", Duration::from_secs(2)));
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let mut stream = open(&pool, &brief, &far, app).await.expect("open");
        let end = brief.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(end + Duration::from_millis(300)).await;
        ping(&mut stream).await;
        assert_eq!(pool.tunnels(), 0, "the server has said goodbye: nothing new");
        drop(stream);
        assert_eq!(ended(&far).await, "cleanly");
    });
}

#[test]
fn small_pieces_of_a_reader_that_has_stopped_are_put_together() {
    let mut slot = Slot::new(Side::Client);
    let whole = Bytes::from(vec![7; 64 << 10]);
    for at in 0..60_000 {
        slot.keep(whole.slice(at..=at));
    }
    assert_eq!(slot.arrived.iter().map(Bytes::len).sum::<usize>(), 60_000);
    assert!(slot.arrived.len() < MAX_PIECES + 10, "{} pieces", slot.arrived.len());
    let last = slot.arrived.back().expect("a piece").as_ptr();
    slot.keep(whole.slice(..1));
    assert_eq!(
        slot.arrived.back().expect("a piece").as_ptr(),
        last,
        "where the others are, not copied with them"
    );
}

/// Sends so many bytes, and reads them again, at the same time.
async fn round(mut stream: super::super::Stream, size: usize) {
    let sent: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).expect("small")).collect();
    let (mut rest, mut back) = (Bytes::from(sent.clone()), Vec::new());
    std::future::poll_fn(|cx| {
        while !rest.is_empty() {
            let Poll::Ready(room) = stream.poll_room(cx, rest.len()) else { break };
            let piece = rest.split_to(room.expect("open"));
            stream.send(cx, piece).expect("sent");
        }
        while let Poll::Ready(Some(bytes)) = stream.poll_receive(cx) {
            let bytes = bytes.expect("bytes");
            stream.taken(bytes.len());
            back.extend_from_slice(&bytes);
        }
        if back.len() == sent.len() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    assert!(back == sent, "{size} bytes");
}

#[test]
fn bytes_go_round_in_all_sizes_at_once() {
    on_data_thread(async {
        let (client, far) = bed(Protocols::Mesh).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let mut tasks = Vec::new();
        for size in [1, 100, 4_095, 4_096, 16_376, 16_377, 200_000, 3_000_000].repeat(4) {
            let stream = open(&pool, &client, &far, app).await.expect("open");
            tasks.push(tokio::task::spawn_local(round(stream, size)));
        }
        for task in tasks {
            soon(task).await.expect("no panic");
        }
        assert_eq!(far.seen.tunnels.get(), 1);
    });
}

/// A server that leaves refuses what was under way to it; both may arrive at once, and what is open goes on.
#[test]
fn a_goodbye_and_the_refusal_that_follows_it_harm_nobody_else() {
    on_data_thread(async {
        let ca = TestCa::speaking(Protocols::Mesh);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let pool = pool(PoolOptions::default());
        let (key, request) = (key("client", "server", address), ConnectRequest::new(address));
        let dial = async || TcpStream::connect(address).await;
        let (server, client) = (ca.svid("server"), ca.svid("client"));
        let (first, mut peer) = tokio::join!(pool.open(&key, dial, client.clone(), &request), async {
            let (tcp, _) = listener.accept().await.expect("accept");
            let mut tls = crate::tls::accept(tcp, &server).await.expect("tls").0;
            tls.write_all(&written(&Frame::Accept(1))).await.expect("write");
            tls.flush().await.expect("flush");
            tls
        });
        let mut first = first.expect("open");
        drop(listener);
        let said = [
            written(&Frame::Leave(1)),
            written(&Frame::Refuse(2, Refusal::NotTaken)),
            written(&Frame::Data { stream: 1, bytes: b"still here", fin: false }),
        ];
        let (second, ()) = tokio::join!(pool.open(&key, dial, client, &request), async {
            // Until the stream is opened: what is said of one that never was is a fault.
            tokio::time::sleep(Duration::from_millis(50)).await;
            peer.write_all(&said.concat()).await.expect("write");
            peer.flush().await.expect("flush");
        });
        assert_eq!(second.expect_err("not there, and nowhere else").reason(), "tunnel_unreachable");
        assert_eq!(receive(&mut first).await.expect("not an end").expect("unharmed"), "still here");
    });
}

#[test]
fn a_server_is_heard_only_about_what_it_was_asked() {
    on_data_thread(async {
        let ca = TestCa::speaking(Protocols::Mesh);
        let cases: [(&str, Vec<u8>, &str); 4] = [
            ("an opened stream", opened(1), "tunnel_lost"),
            ("two answers", [written(&Frame::Accept(1)), written(&Frame::Accept(1))].concat(), ""),
            ("a goodbye", written(&Frame::Leave(0)), "reset_by_peer"),
            ("a status that is none", vec![3, 0, 0, 2, 0, 0, 0, 1, 0, 1], "tunnel_lost"),
        ];
        for (what, said, reason) in cases {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let address = listener.local_addr().expect("address");
            let pool = pool(PoolOptions::default());
            let (key, request) = (key("client", "server", address), ConnectRequest::new(address));
            let dial = async || TcpStream::connect(address).await;
            let server = ca.svid("server");
            let (result, mut peer) =
                tokio::join!(pool.open(&key, dial, ca.svid("client"), &request), async {
                    let (tcp, _) = listener.accept().await.expect("accept");
                    let mut tls = crate::tls::accept(tcp, &server).await.expect("tls").0;
                    tls.write_all(&said).await.expect("write");
                    tls.flush().await.expect("flush");
                    tls
                });
            match result {
                Err(error) => assert_eq!(error.reason(), reason, "{what}"),
                Ok(mut stream) => {
                    receive(&mut stream).await.expect("not an end").expect_err(what);
                    assert_eq!(reason, "", "{what}");
                }
            }
            let _ = peer.shutdown().await;
            until(|| pool.tunnels() == 0).await;
        }
    });
}

/// An application's connection, and what it says to it.
async fn application(says: &[u8]) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let at = listener.local_addr().expect("address");
    let (near, far) = tokio::join!(TcpStream::connect(at), listener.accept());
    let (mut near, far) = (near.expect("connected"), far.expect("accepted").0);
    near.write_all(says).await.expect("said");
    far.readable().await.expect("heard");
    (near, far)
}

/// Opens with what `socket` says, to `authority`.
async fn open_early(
    (pool, client, far): (&Pool, &Arc<Svid>, &FarNode),
    authority: std::net::SocketAddr,
    early: &Early<'_>,
) -> Result<crate::tunnel::Stream, OpenError> {
    let address = far.address;
    let dial = async || TcpStream::connect(address).await;
    let request = ConnectRequest::new(authority);
    soon(pool.open_with(&key("client", "server", address), dial, client.clone(), (&request, early))).await
}

#[test]
fn what_an_application_says_first_goes_out_with_the_request() {
    on_data_thread(async {
        let (client, far) = bed(Protocols::Mesh).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        for words in [b"first words".to_vec(), vec![7; 3 * MAX_PAYLOAD]] {
            let (_near, socket) = application(&words).await;
            let early = Early::of(&socket);
            let mut stream = open_early((&pool, &client, &far), app, &early).await.expect("open");
            let (sent, unsent) = early.into_parts();
            assert_eq!((sent, unsent.len()), (words.len().min(MAX_PAYLOAD), 0));
            // Nobody has sent them since.
            let mut back = 0;
            while back < sent {
                let bytes = receive(&mut stream).await.expect("data").expect("no error");
                back += bytes.len();
                stream.taken(bytes.len());
            }
            assert_eq!(back, sent);
        }
    });
}

#[test]
fn first_words_that_nobody_has_seen_go_out_again() {
    on_data_thread(async {
        let (client, far) = bed(Protocols::Mesh).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        let (_near, socket) = application(b"first words").await;
        let early = Early::of(&socket);
        let refused =
            open_early((&pool, &client, &far), "127.0.0.1:1".parse().expect("address"), &early).await;
        assert_eq!(refused.expect_err("refused").reason(), "denied_by_peer");
        assert!(!early.is_lost());
        let mut stream = open_early((&pool, &client, &far), app, &early).await.expect("open");
        assert_eq!(receive(&mut stream).await.expect("data").expect("no error"), "first words");
        assert_eq!(early.into_parts().0, b"first words".len());
    });
}

#[test]
fn first_words_that_somebody_may_have_seen_do_not() {
    on_data_thread(async {
        let (client, far) = bed(Protocols::Mesh).await;
        let options = PoolOptions { response: Duration::from_millis(50), ..PoolOptions::default() };
        let pool = pool(options);
        let (_near, socket) = application(b"first words").await;
        let early = Early::of(&socket);
        let silent =
            open_early((&pool, &client, &far), "127.0.0.1:2".parse().expect("address"), &early).await;
        assert_eq!(silent.expect_err("no answer").reason(), "connect_response_timeout");
        assert!(early.is_lost());
    });
}

#[test]
fn a_tunnel_that_was_silent_for_a_while_gets_no_first_words() {
    on_data_thread(async {
        let (client, far) = bed(Protocols::Mesh).await;
        let (pool, app) = (pool(PoolOptions::default()), echo().await);
        drop(open_early((&pool, &client, &far), app, &Early::none()).await.expect("open"));
        tokio::time::sleep(LIVELY).await;
        let (_near, socket) = application(b"first words").await;
        let early = Early::of(&socket);
        drop(open_early((&pool, &client, &far), app, &early).await.expect("open"));
        assert_eq!(early.into_parts().0, 0);
        assert_eq!((far.seen.tunnels.get(), far.seen.streams.get()), (1, 2));
    });
}

#[test]
fn an_answer_that_nobody_waits_for_is_late_but_comes() {
    on_data_thread(async {
        let (ca, far) = bed_with(ServeLimits::default()).await;
        // An application that says nothing.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let mut raw = Raw::connect(&ca, &far).await;
        raw.open(1, &listener.local_addr().expect("address").to_string()).await;
        raw.say(&Frame::Data { stream: 1, bytes: b"first words", fin: false }).await.expect("said");
        let (mut app, _) = soon(listener.accept()).await.expect("accepted");
        let mut words = [0; 11];
        soon(app.read_exact(&mut words)).await.expect("first words");
        assert_eq!((&words, raw.heard().await.as_deref()), (b"first words", Some("Accept(1)")));
    });
}
