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
use crate::tls::testkit::{TestCa, id};

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
        return incoming.gone().await;
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

/// A CA, a client and a far node.
pub(crate) async fn bed() -> (Arc<Svid>, FarNode) {
    let ca = TestCa::new("root");
    let far = FarNode::start(ca.svid("server"), ServeLimits::default(), never()).await;
    (ca.svid("client"), far)
}
