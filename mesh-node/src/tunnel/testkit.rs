//! For tests: a far node that serves tunnels and dials applications, and a near node's pool.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::identity::Svid;
use crate::l4::relay::{Counters, Far, RelayError, relay};
use crate::run::drain::Drain;
use crate::tls::Protocols;
use crate::tls::testkit::{TestCa, id, on_data_thread};

/// Serves tunnels like a node does.
pub(crate) struct FarNode {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Rc<Seen>,
    accepting: JoinHandle<()>,
}

/// What a [`FarNode`] has seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Handshakes that succeeded.
    pub(crate) tunnels: Cell<usize>,
    /// CONNECTs that reached the handler.
    pub(crate) streams: Cell<usize>,
    /// Those that were taken back before an answer.
    pub(crate) gone: Cell<usize>,
    /// Tokens of everything refused.
    pub(crate) refused: RefCell<Vec<&'static str>>,
    /// Results of relays.
    pub(crate) relayed: RefCell<Vec<Result<(), RelayError>>>,
    /// Results of tunnels.
    pub(crate) served: RefCell<Vec<Result<(), ServeError>>>,
    /// One per tunnel.
    pub(crate) tasks: RefCell<Vec<JoinHandle<()>>>,
}

impl Seen {
    /// Waits for another CONNECT, or the end of a tunnel; spins, because it is about microseconds.
    pub(crate) async fn next_stream(&self) {
        let before = self.streams.get();
        while self.streams.get() == before && self.served.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Ends all tunnels without a word, as a crash would.
    pub(crate) fn kill_tunnels(&self) {
        self.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
    }
}

impl Drop for FarNode {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl FarNode {
    pub(crate) async fn start(svid: Arc<Svid>, limits: ServeLimits, drain: Drain) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let seen = Rc::new(Seen::default());
        let (to_handler, to_refused) = (seen.clone(), seen.clone());
        let server = Server {
            limits,
            handler: Rc::new(move |incoming| Box::pin(handle(incoming, to_handler.clone()))),
            on_refused: Rc::new(move |reason| to_refused.refused.borrow_mut().push(reason)),
            drain,
        };
        let accepting = tokio::task::spawn_local({
            let seen = seen.clone();
            async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let (svid, server, seen) = (svid.clone(), server.clone(), seen.clone());
                    let task = tokio::task::spawn_local(serve(tcp, svid, server, seen.clone()));
                    seen.tasks.borrow_mut().push(task);
                }
            }
        });
        Self { address, seen, accepting }
    }
}

async fn serve(tcp: TcpStream, svid: Arc<Svid>, server: Server, seen: Rc<Seen>) {
    tcp.set_nodelay(true).expect("nodelay");
    let local = tcp.local_addr().expect("address");
    match crate::tls::accept(tcp, &svid).await {
        Err(e) => seen.refused.borrow_mut().push(e.reason()),
        Ok((stream, peer)) => {
            seen.tunnels.set(seen.tunnels.get() + 1);
            let result = server.serve(stream, peer, local).await;
            seen.served.borrow_mut().push(result);
        }
    }
}

/// Dials the authority and relays; `CONNECT` to a closed port is a 503, to port 1 a 401, to port 2 never answered.
async fn handle(mut incoming: Incoming, seen: Rc<Seen>) {
    seen.streams.set(seen.streams.get() + 1);
    if incoming.authority.port() == 1 {
        return incoming.reject(StatusCode::UNAUTHORIZED);
    }
    let address = incoming.authority;
    if address.port() == 2 {
        incoming.gone().await;
        return seen.gone.set(seen.gone.get() + 1);
    }
    let app = tokio::select! {
        app = TcpStream::connect(address) => app,
        () = incoming.gone() => return,
    };
    let Ok(app) = app else {
        return incoming.reject(StatusCode::SERVICE_UNAVAILABLE);
    };
    app.set_nodelay(true).expect("nodelay");
    let Ok(stream) = incoming.accept() else { return };
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let counters = Counters { from_app: &up, to_app: &down, watch: None };
    let result = relay(app, Far::Tunnel(stream), counters, std::future::pending()).await;
    seen.relayed.borrow_mut().push(result);
}

/// The key of tunnels from `source` to `destination` at `address`.
pub(crate) fn key(source: &str, destination: &str, address: SocketAddr) -> TunnelKey {
    TunnelKey {
        source_pod: format!("uid-{source}").into(),
        source: id(source),
        destination: id(destination),
        address,
    }
}

/// A pool whose drain never begins.
pub(crate) fn pool(options: PoolOptions) -> Pool {
    Pool::new(options, never())
}

/// A drain that never begins.
pub(crate) fn never() -> Drain {
    crate::run::drain::channel().1
}

/// Opens a stream for `client` to `authority`, through `far`.
pub(crate) async fn open(
    pool: &Pool,
    client: &Arc<Svid>,
    far: &FarNode,
    authority: SocketAddr,
) -> Result<Stream, OpenError> {
    let source = client.id().service_account().to_owned();
    let address = far.address;
    let dial = async || {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    };
    pool.open(&key(&source, "server", address), dial, client.clone(), &ConnectRequest::new(authority)).await
}

/// A client and a far node that speak `protocols`.
pub(crate) async fn bed(protocols: Protocols) -> (Arc<Svid>, FarNode) {
    let ca = TestCa::speaking(protocols);
    let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
    (ca.svid("client"), far)
}

/// Runs a test over either protocol.
pub(crate) fn over_each(test: impl AsyncFn(Protocols)) {
    for protocols in [Protocols::Hbone, Protocols::Mesh] {
        on_data_thread(test(protocols));
    }
}

/// An application that echoes.
pub(crate) async fn echo() -> SocketAddr {
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

/// The next bytes of a stream.
pub(crate) async fn receive(stream: &mut Stream) -> Option<Result<Bytes, StreamError>> {
    soon(std::future::poll_fn(|cx| stream.poll_receive(cx))).await
}

/// Sends bytes as soon as there is room.
pub(crate) async fn send(stream: &mut Stream, mut bytes: Bytes) -> Result<(), StreamError> {
    soon(std::future::poll_fn(|cx| {
        while !bytes.is_empty() {
            let room = std::task::ready!(stream.poll_room(cx, bytes.len()))?;
            stream.send(cx, bytes.split_to(room))?;
        }
        Poll::Ready(Ok(()))
    }))
    .await
}

/// Sends a word and has it echoed.
pub(crate) async fn ping(stream: &mut Stream) {
    send(stream, Bytes::from_static(b"hello")).await.expect("send");
    let data = receive(stream).await.expect("data").expect("no error");
    assert_eq!(data, "hello");
    stream.taken(data.len());
}

pub(crate) async fn soon<T>(f: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), f).await.expect("this takes too long")
}

pub(crate) async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
