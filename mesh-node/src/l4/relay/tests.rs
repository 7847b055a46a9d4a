use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::tls::Protocols;
use crate::tls::testkit::{on_data_thread, tcp_pair};
use crate::tunnel::PoolOptions;
use crate::tunnel::testkit::{FarNode, bed, open, pool};

/// What lies between two applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Nothing: the kernel's own behaviour, which the others must not differ from.
    Direct,
    /// One relay.
    Tcp,
    /// Two relays and a tunnel of HBONE.
    Hbone,
    /// Two relays and a tunnel of `mesh/1`.
    Mesh,
}

/// Two applications, and what is between them.
struct Line {
    client: TcpStream,
    server: TcpStream,
    relay: Option<JoinHandle<Result<(), RelayError>>>,
    far: Option<FarNode>,
    cut: Rc<Notify>,
    counters: Rc<(AtomicU64, AtomicU64)>,
}

impl Line {
    async fn new(path: Path) -> Self {
        let cut = Rc::new(Notify::new());
        let counters = Rc::new((AtomicU64::new(0), AtomicU64::new(0)));
        if path == Path::Direct {
            let (client, server) = tcp_pair().await;
            return Self { client, server, relay: None, far: None, cut, counters };
        }
        let (client, app) = tcp_pair().await;
        let (far, node, server) = if path == Path::Tcp {
            let (far, server) = tcp_pair().await;
            (Far::Tcp(far), None, server)
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let spoken = if path == Path::Mesh { Protocols::Mesh } else { Protocols::Hbone };
            let (svid, node) = bed(spoken).await;
            let pool = pool(PoolOptions::default());
            let stream =
                open(&pool, &svid, &node, listener.local_addr().expect("address")).await.expect("open");
            (Far::Tunnel(stream), Some(node), listener.accept().await.expect("accept").0)
        };
        let (stop, count) = (cut.clone(), counters.clone());
        let relay = tokio::task::spawn_local(async move {
            let counters = Counters { from_app: &count.0, to_app: &count.1, watch: None };
            relay(app, far, counters, stop.notified()).await
        });
        Self { client, server, relay: Some(relay), far: node, cut, counters }
    }

    /// The relays' results, which must come soon.
    async fn results(&mut self) -> Vec<Result<(), RelayError>> {
        let Some(relay) = self.relay.take() else { return Vec::new() };
        let mut results = vec![soon(relay).await.expect("no panic")];
        if let Some(far) = &self.far {
            soon(async {
                while far.seen.relayed.borrow().is_empty() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
            .await;
            results.append(&mut far.seen.relayed.borrow_mut());
        }
        results
    }
}

async fn soon<T>(f: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), f).await.expect("this takes too long")
}

/// Bytes that show any loss, repetition or swap.
fn payload(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..len / 4).flat_map(|_| next()).collect()
}

fn reset(socket: TcpStream) {
    set_linger_zero(&socket, true).expect("linger");
    drop(socket);
}

fn is_reset(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    ClientFin,
    ServerFin,
    ClientReset,
    ServerReset,
}

/// One application's view.
struct App {
    socket: Option<TcpStream>,
    sent_fin: bool,
    saw_fin: bool,
}

impl App {
    fn new(socket: TcpStream) -> Self {
        Self { socket: Some(socket), sent_fin: false, saw_fin: false }
    }

    /// How the end of the other side shows: at a read, or after FIN as the socket's error.
    async fn sees_reset(&mut self) -> &'static str {
        let Some(socket) = &mut self.socket else { return "gone" };
        if !self.saw_fin {
            let mut byte = [0];
            return match soon(socket.read(&mut byte)).await {
                Err(e) if is_reset(&e) => "reset at read",
                Err(_) => "another error",
                Ok(0) => "FIN",
                Ok(_) => "a byte",
            };
        }
        soon(own_error(socket)).await
    }
}

/// The socket's error once it has one. Not by writing: the kernel answers that with a reset even if none was sent.
async fn own_error(socket: &TcpStream) -> &'static str {
    loop {
        socket.ready(tokio::io::Interest::ERROR).await.expect("readiness");
        match socket.take_error().expect("option") {
            Some(e) if is_reset(&e) => return "reset",
            Some(_) => return "another error",
            None => tokio::task::yield_now().await,
        }
    }
}

/// Plays `events` and tells what the applications saw.
async fn play(mut client: App, mut server: App, events: [Event; 4]) -> Vec<String> {
    let (client, server) = (&mut client, &mut server);
    let mut story = Vec::new();
    for (step, event) in events.into_iter().enumerate() {
        let (from, to) = match event {
            Event::ClientFin | Event::ClientReset => (&mut *client, &mut *server),
            Event::ServerFin | Event::ServerReset => (&mut *server, &mut *client),
        };
        let (Some(socket), Some(other)) = (&mut from.socket, &mut to.socket) else { continue };
        match event {
            Event::ClientFin | Event::ServerFin => {
                let bytes = payload(700_000, u32::try_from(step).expect("small") + 1);
                let mut received = Vec::new();
                let (sent, read) = tokio::join!(
                    async {
                        socket.write_all(&bytes).await?;
                        socket.shutdown().await
                    },
                    soon(other.read_to_end(&mut received))
                );
                sent.expect("send");
                (from.sent_fin, to.saw_fin) = (true, read.is_ok());
                story.push(format!("{event:?}: {read:?}, exact: {}", received == bytes));
            }
            Event::ClientReset | Event::ServerReset => {
                let both = from.sent_fin && to.sent_fin;
                reset(from.socket.take().expect("just seen"));
                let seen = if both { "all was over" } else { to.sees_reset().await };
                to.socket = None;
                story.push(format!("{event:?}: {seen}"));
            }
        }
    }
    story
}

fn orders() -> Vec<[Event; 4]> {
    let all = [Event::ClientFin, Event::ServerFin, Event::ClientReset, Event::ServerReset];
    let mut orders = Vec::new();
    for a in all {
        for b in all.into_iter().filter(|b| *b != a) {
            for c in all.into_iter().filter(|c| ![a, b].contains(c)) {
                let d = all.into_iter().find(|d| ![a, b, c].contains(d)).expect("one is left");
                orders.push([a, b, c, d]);
            }
        }
    }
    orders
}

fn all_orders_over(path: Path) {
    on_data_thread(async move {
        let orders = orders();
        assert_eq!(orders.len(), 24);
        for order in orders {
            let mut stories = Vec::new();
            for path in [Path::Direct, path] {
                let mut line = Line::new(path).await;
                let spare = tcp_pair().await;
                let client = App::new(std::mem::replace(&mut line.client, spare.0));
                let server = App::new(std::mem::replace(&mut line.server, spare.1));
                stories.push(play(client, server, order).await);
                let clean = [Event::ClientFin, Event::ServerFin].iter().all(|fin| order[..2].contains(fin));
                for result in line.results().await {
                    assert_eq!(result.is_ok(), clean, "{order:?} over {path:?}: {result:?}");
                }
            }
            assert!(
                stories[0].iter().all(|line| !line.contains("false") && !line.contains("error")),
                "{stories:?}"
            );
            assert_eq!(stories[0], stories[1], "{order:?} over {path:?} differs from the kernel");
        }
    });
}

#[test]
fn all_orders_over_tcp() {
    all_orders_over(Path::Tcp);
}

#[test]
fn all_orders_over_a_tunnel() {
    all_orders_over(Path::Hbone);
    all_orders_over(Path::Mesh);
}

/// Both directions at once, many megabytes, in writes of odd sizes.
fn bulk_over(path: Path) {
    on_data_thread(async move {
        let mut line = Line::new(path).await;
        let (up, down) = (payload(9 << 20, 1), payload(11 << 20, 2));
        let (mut client_read, mut client_write) = line.client.split();
        let (mut server_read, mut server_write) = line.server.split();
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        let results = tokio::join!(
            async {
                for piece in up.chunks(77_777) {
                    client_write.write_all(piece).await?;
                }
                client_write.shutdown().await
            },
            async {
                for piece in down.chunks(1_001) {
                    server_write.write_all(piece).await?;
                }
                server_write.shutdown().await
            },
            server_read.read_to_end(&mut at_server),
            client_read.read_to_end(&mut at_client),
        );
        results.0.and(results.1).expect("send");
        results.2.and(results.3).expect("receive");
        assert!(at_server == up && at_client == down, "byte-exact");
        assert_eq!(line.counters.0.load(Ordering::Relaxed), 9 << 20);
        assert_eq!(line.counters.1.load(Ordering::Relaxed), 11 << 20);
        for result in line.results().await {
            result.expect("clean");
        }
    });
}

#[test]
fn bulk_over_tcp() {
    bulk_over(Path::Tcp);
}

#[test]
fn bulk_over_a_tunnel() {
    bulk_over(Path::Hbone);
    bulk_over(Path::Mesh);
}

#[test]
fn half_closed_directions_stay_open_for_long() {
    on_data_thread(async {
        for path in [Path::Tcp, Path::Hbone, Path::Mesh] {
            let mut line = Line::new(path).await;
            line.client.shutdown().await.expect("FIN first");
            assert_eq!(line.server.read(&mut [0; 8]).await.expect("FIN"), 0);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let bytes = payload(10 << 20, 3);
            let mut received = Vec::new();
            let (sent, read) = tokio::join!(
                async {
                    line.server.write_all(&bytes).await?;
                    line.server.shutdown().await
                },
                line.client.read_to_end(&mut received)
            );
            sent.expect("send");
            read.expect("receive");
            assert!(received == bytes);
            for result in line.results().await {
                result.expect("clean");
            }
        }
    });
}

#[test]
fn a_close_right_after_the_last_byte_loses_nothing() {
    on_data_thread(async {
        for path in [Path::Tcp, Path::Hbone, Path::Mesh] {
            let mut line = Line::new(path).await;
            let bytes = payload(3 << 20, 4);
            line.client.shutdown().await.expect("nothing to say");
            let (expected, mut server) = (bytes.clone(), line.server);
            let sender = tokio::task::spawn_local(async move {
                assert_eq!(server.read(&mut [0; 8]).await.expect("FIN"), 0);
                server.write_all(&bytes).await.expect("send");
                drop(server);
            });
            // The application reads slowly, long after everybody else has gone.
            let mut received = Vec::new();
            let mut piece = vec![0; 50_000];
            loop {
                let n = line.client.read(&mut piece).await.expect("no reset");
                if n == 0 {
                    break;
                }
                received.extend_from_slice(&piece[..n]);
                if received.len() < 1_000_000 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            sender.await.expect("sender");
            assert!(received == expected, "{path:?}: {} of {}", received.len(), expected.len());
        }
    });
}

/// Reads to the end; what came, and how it ended.
async fn read_all(socket: &mut TcpStream) -> (usize, Result<(), ErrorKind>) {
    let mut total = 0;
    let mut piece = vec![0; 65536];
    loop {
        match soon(socket.read(&mut piece)).await {
            Ok(0) => return (total, Ok(())),
            Ok(n) => total += n,
            Err(e) => return (total, Err(e.kind())),
        }
    }
}

#[test]
fn the_death_of_a_tunnel_is_a_reset() {
    on_data_thread(async {
        // Before, between and after bytes; the other way idle, busy or half-closed.
        let cases = [(0, false), (1, false), (5_000_000, false), (0, true), (5_000_000, true)];
        let paths = [Path::Hbone, Path::Mesh];
        for (path, (sent, half_closed)) in paths.into_iter().flat_map(|path| cases.map(|case| (path, case))) {
            let mut line = Line::new(path).await;
            if half_closed {
                line.client.shutdown().await.expect("FIN");
            }
            let far = line.far.as_ref().expect("a tunnel");
            let bytes = payload(sent, 5);
            let mut server = line.server;
            let sender = tokio::task::spawn_local(async move {
                let _ = server.write_all(&bytes).await;
                // Never a FIN.
                let _ = read_all(&mut server).await;
                pending::<()>().await;
            });
            if sent > 1_000_000 {
                let mut first = vec![0; 1_000_000];
                line.client.read_exact(&mut first).await.expect("the begin");
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            far.seen.kill_tunnels();
            let (_, end) = read_all(&mut line.client).await;
            assert_eq!(end, Err(ErrorKind::ConnectionReset), "{sent} bytes, half-closed: {half_closed}");
            let near = soon(line.relay.take().expect("relay")).await.expect("no panic");
            assert_eq!(near.expect_err("cut").reason(), "tunnel_lost");
            sender.abort();
        }
    });
}

#[test]
fn a_cut_resets_both_sides() {
    on_data_thread(async {
        for path in [Path::Tcp, Path::Hbone, Path::Mesh] {
            for half_closed in [false, true] {
                let mut line = Line::new(path).await;
                line.client.write_all(b"hello").await.expect("write");
                line.server.read_exact(&mut [0; 5]).await.expect("read");
                if half_closed {
                    line.server.shutdown().await.expect("FIN");
                    assert_eq!(line.client.read(&mut [0; 8]).await.expect("FIN"), 0);
                }
                line.cut.notify_one();
                let (_, at_server) = read_all(&mut line.server).await;
                assert_eq!(at_server, Err(ErrorKind::ConnectionReset), "{path:?}");
                if half_closed {
                    let mut app = App { socket: Some(line.client), sent_fin: false, saw_fin: true };
                    assert_eq!(app.sees_reset().await, "reset");
                } else {
                    assert_eq!(
                        read_all(&mut line.client).await.1,
                        Err(ErrorKind::ConnectionReset),
                        "{path:?}"
                    );
                }
                let near = soon(line.relay.take().expect("relay")).await.expect("no panic");
                assert_eq!(near.expect_err("cut").reason(), "cut");
            }
        }
    });
}

#[test]
fn a_dropped_relay_resets_both_sides() {
    on_data_thread(async {
        for path in [Path::Tcp, Path::Hbone, Path::Mesh] {
            let mut line = Line::new(path).await;
            line.client.write_all(b"hello").await.expect("write");
            line.server.read_exact(&mut [0; 5]).await.expect("read");
            line.server.shutdown().await.expect("FIN");
            assert_eq!(line.client.read(&mut [0; 8]).await.expect("FIN"), 0);
            line.relay.take().expect("relay").abort();
            let (_, at_server) = read_all(&mut line.server).await;
            assert_eq!(at_server, Err(ErrorKind::ConnectionReset), "{path:?}");
            let mut app = App { socket: Some(line.client), sent_fin: false, saw_fin: true };
            assert_eq!(app.sees_reset().await, "reset", "{path:?}");
        }
    });
}

#[test]
fn a_slow_reader_stops_the_sender() {
    on_data_thread(async {
        for path in [Path::Tcp, Path::Hbone, Path::Mesh] {
            let mut line = Line::new(path).await;
            let bytes = payload(1 << 20, 6);
            // The server reads nothing; the client can send only what buffers and windows hold.
            let mut sent = 0;
            while let Ok(n) = timeout(Duration::from_millis(300), line.client.write(&bytes)).await {
                sent += n.expect("write");
                assert!(sent < 64 << 20, "{path:?} takes everything");
            }
            let held = line.counters.0.load(Ordering::Relaxed);
            // Stream window, the sender's HTTP/2 buffer, and what two kernel sockets take.
            assert!(held < 24 << 20, "{path:?} holds {held} bytes");
            // The reader begins, and everything arrives.
            let mut received = 0;
            let mut piece = vec![0; 65536];
            while received < sent {
                received += soon(line.server.read(&mut piece)).await.expect("read");
            }
            assert_eq!(received, sent);
            line.cut.notify_one();
        }
    });
}

#[test]
fn a_reset_behind_a_full_queue_is_noticed() {
    on_data_thread(async {
        for path in [Path::Tcp, Path::Hbone, Path::Mesh] {
            let mut line = Line::new(path).await;
            let bytes = payload(1 << 20, 7);
            while timeout(Duration::from_millis(300), line.client.write(&bytes)).await.is_ok() {}
            // The server never reads, so nothing moves; the client goes away.
            reset(line.client);
            let near = soon(line.relay.take().expect("relay")).await.expect("no panic");
            assert_eq!(near.expect_err("reset").reason(), "app_reset", "{path:?}");
            let (_, at_server) = read_all(&mut line.server).await;
            assert_eq!(at_server, Err(ErrorKind::ConnectionReset), "{path:?}");
            if let Some(far) = &line.far {
                let there = far.seen.relayed.borrow_mut().pop().expect("ended").expect_err("reset");
                let RelayError::Far(Broken::Stream(StreamError::Reset(by))) = there else {
                    unreachable!("{there}")
                };
                let code = h2::Reason::CONNECT_ERROR.to_string();
                assert!(path == Path::Mesh || by == code, "the code of RFC 9113, 8.5: {by}");
            }
        }
    });
}

/// An end that does as told.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
struct Scripted {
    /// What it sends before FIN.
    sends: Option<&'static [u8]>,
    ended: bool,
    broken: bool,
    /// Takes nothing while set.
    stuck: bool,
    received: Vec<u8>,
    finished: bool,
}

impl End for Scripted {
    fn poll_fill(&mut self, _: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<bool>, Broken> {
        match self.sends.take() {
            Some(bytes) => {
                queue.push(Bytes::from_static(bytes));
                Ok(Poll::Ready(!self.ended))
            }
            None if self.ended => Ok(Poll::Ready(false)),
            None => Ok(Poll::Pending),
        }
    }

    fn poll_drain(&mut self, _: &mut Context<'_>, queue: &mut Queue) -> Result<Poll<usize>, Broken> {
        if self.broken {
            return Err(Broken::Stream(StreamError::Reset("by the test".to_owned())));
        }
        if self.stuck {
            return Ok(Poll::Pending);
        }
        let piece = queue.take(usize::MAX);
        self.received.extend_from_slice(&piece);
        Ok(Poll::Ready(piece.len()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        self.finished = true;
        Ok(Poll::Ready(()))
    }

    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<Broken> {
        if self.broken {
            Poll::Ready(Broken::Stream(StreamError::Reset("by the test".to_owned())))
        } else {
            Poll::Pending
        }
    }

    fn passed_on(&mut self, _: usize) {}

    fn complete(&mut self) {}
}

#[test]
fn what_preceded_a_fin_arrives_although_a_reset_follows() {
    // The reset is noticed by looking, or by a write that fails.
    for uploading in [false, true] {
        let zero = (AtomicU64::new(0), AtomicU64::new(0));
        let app = Scripted { stuck: true, sends: uploading.then_some(b"more"), ..Scripted::default() };
        let far = Scripted { sends: Some(b"answer"), ended: true, broken: true, ..Scripted::default() };
        let (up, down) = (Flow::new(&zero.0, (Side::App, None)), Flow::new(&zero.1, (Side::Far, None)));
        let mut pair = Pair { app, far, up, down, failed: None };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let first = pair.poll(&mut cx);
        assert!(first.is_pending(), "the answer waits for the application");
        assert!(pair.poll(&mut cx).is_pending());
        pair.app.stuck = false;
        assert!(matches!(pair.poll(&mut cx), Poll::Ready(Err(RelayError::Far(_)))));
        assert_eq!((pair.app.received.as_slice(), pair.app.finished), (&b"answer"[..], true));
    }
}

/// Keeps all that it is shown, by side.
#[derive(Debug, Default)]
struct Recorder(std::sync::Mutex<[Vec<u8>; 2]>);

impl Watch for Recorder {
    fn read(&self, side: Side, bytes: &[u8]) {
        let mut all = self.0.lock().expect("nobody panics");
        all[usize::from(side == Side::Far)].extend_from_slice(bytes);
    }
}

#[test]
fn who_watches_sees_every_byte_once_and_changes_none() {
    on_data_thread(async {
        let (mut client, app) = tcp_pair().await;
        let (far, mut server) = tcp_pair().await;
        let (recorder, zero) = (Recorder::default(), AtomicU64::new(0));
        let counters = Counters { from_app: &zero, to_app: &zero, watch: None }.watched(Some(&recorder));
        let (request, reply) = (payload(700_000, 1), payload(900_000, 2));
        let early = Bytes::copy_from_slice(&request[..1_000]);
        let relayed = relay_any((app.into(), early), far.into(), counters, (pending(), pending()));
        let of_client = async {
            client.write_all(&request[1_000..]).await.expect("write");
            client.shutdown().await.expect("shutdown");
            let mut seen = Vec::new();
            client.read_to_end(&mut seen).await.expect("read");
            seen
        };
        let of_server = async {
            let mut seen = Vec::new();
            server.read_to_end(&mut seen).await.expect("read");
            server.write_all(&reply).await.expect("write");
            server.shutdown().await.expect("shutdown");
            seen
        };
        let (relayed, at_client, at_server) =
            soon(async { tokio::join!(relayed, of_client, of_server) }).await;
        relayed.expect("a clean end");
        assert!(at_server == request && at_client == reply, "bytes arrive as they were sent");
        let [from_app, from_far] = recorder.0.into_inner().expect("nobody panics");
        assert!(from_app == request, "{} bytes of the client were seen", from_app.len());
        assert!(from_far == reply, "{} bytes of the server were seen", from_far.len());
    });
}

#[test]
fn idle_connections_are_small() {
    on_data_thread(async {
        let (near, far) = (tcp_pair().await, tcp_pair().await);
        let zero = AtomicU64::new(0);
        let counters = Counters { from_app: &zero, to_app: &zero, watch: None };
        let future = relay(near.1, Far::Tcp(far.1), counters, pending());
        let size = size_of_val(&future);
        assert!(size < 3_000, "{size} bytes a connection");
    });
}

#[test]
fn a_shutdown_window_of_one_byte_still_moves() {
    on_data_thread(async {
        for path in [Path::Tcp, Path::Hbone, Path::Mesh] {
            let mut line = Line::new(path).await;
            for round in 0..300_u16 {
                let message = round.to_be_bytes();
                line.client.write_all(&message).await.expect("write");
                let mut seen = [0; 2];
                soon(line.server.read_exact(&mut seen)).await.expect("read");
                line.server.write_all(&seen).await.expect("write");
                soon(line.client.read_exact(&mut seen)).await.expect("read");
                assert_eq!(seen, message);
            }
            line.cut.notify_one();
        }
    });
}
