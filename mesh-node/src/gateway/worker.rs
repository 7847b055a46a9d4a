//! A data thread of a gateway: accepts, opens TLS, and hands connections to the engine. A connection stays on its
//! thread.

use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mesh_core::route::ListenerProtocol;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::accepted::{
    Accepted, DatagramDoor, Engine, Facts, HttpConnection, OpaqueConnection, Serve, Thread, TunnelConnection,
};
use super::figures::Counters;
use super::listener::{Listener, Served, ServerKey};
use super::proxy;
use super::sockets::{Bound, Socket};
use super::tls::{self, Greeted, Refusal, Refused, Shown, Tls};
use crate::admit::{self, Cap, LogGate};
use crate::l7::io::Io;
use crate::report::Event;
use crate::run::tasks;
use crate::sys::sockopt;
use crate::tls::{Agreed, Proof};

/// The state of a data thread.
struct Worker {
    thread: Thread,
    serve: Serve,
    counters: Arc<Counters>,
    handshakes: Cap,
    refusals: LogGate,
    shed: LogGate,
}

/// By what a client was let in that has shown a certificate.
struct Admission {
    listener: Arc<Listener>,
    server: ServerKey,
    tls: Arc<Tls>,
    shown: Shown,
    /// Where it has proven an identity in the mesh.
    proof: Option<Proof>,
}

/// Runs a data thread until it is drained.
pub(super) fn run(
    thread: Thread,
    engine: &Engine,
    (mut sockets, counters): (mpsc::Receiver<Socket>, Arc<Counters>),
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        thread.watchdog.watch_this(&format!("data-{}", thread.index));
        let drain = thread.drain.clone();
        let worker = Rc::new(Worker {
            serve: engine(&thread),
            thread,
            counters,
            handshakes: Cap::new(admit::MAX_HANDSHAKES),
            refusals: LogGate::new(REFUSALS_LOGGED),
            shed: LogGate::new(1),
        });
        loop {
            tokio::select! {
                socket = sockets.recv() => match socket {
                    Some(socket) => worker.listen(socket),
                    None => break,
                },
                () = drain.graceful() => break,
            }
        }
        tokio::select! {
            () = worker.idle() => return,
            () = drain.forced() => {}
        }
        // Connections end by themselves now; they need a moment of this thread for it.
        let _ = tokio::time::timeout(LAST_MOMENT, worker.idle()).await;
    });
    Ok(())
}

impl Worker {
    fn listen(self: &Rc<Self>, Socket { listener, bound, mut closed }: Socket) {
        let socket = match bound {
            Bound::Tcp(socket) => socket,
            Bound::Udp(socket) => {
                let (worker, door) = (Rc::clone(self), DatagramDoor { socket, listener, closed });
                tasks::spawn_local("datagrams", async move {
                    (worker.serve)(Accepted::Datagrams(door)).await;
                });
                return;
            }
        };
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, "A listener could not be registered."),
        };
        let worker = Rc::clone(self);
        tasks::spawn_local("accept", async move {
            let failed = |error: &io::Error| worker.thread.reporter.count(accept_event(error));
            let admit = |tcp, peer| worker.admit(&listener, tcp, peer);
            tokio::select! {
                never = admit::accept_loop(&socket, failed, admit) => match never {},
                _ = closed.wait_for(|closed| *closed) => {}
                () = worker.thread.drain.graceful() => {}
            }
            // What the kernel has accepted already would be reset with the socket.
            while let Some((tcp, peer)) = accepted(&socket).await {
                worker.admit(&listener, tcp, peer);
            }
        });
    }

    fn admit(self: &Rc<Self>, listener: &Arc<Listener>, tcp: TcpStream, peer: SocketAddr) {
        if !self.thread.descriptors.allow_accepted(&tcp) {
            self.thread.reporter.count(Event::ShedConnections);
            if let Some(muted) = self.shed.pass() {
                tracing::warn!(muted, "Closed a new connection: file descriptors are running out.");
            }
            return;
        }
        let (worker, listener) = (Rc::clone(self), Arc::clone(listener));
        tasks::spawn_local("connection", async move { worker.connection(listener, tcp, peer).await });
    }

    async fn connection(self: Rc<Self>, listener: Arc<Listener>, mut tcp: TcpStream, peer: SocketAddr) {
        let local = tcp.local_addr().unwrap_or_else(|_| listener.address());
        let Some(peer) = self.client_behind(&listener, &mut tcp, peer).await else { return };
        let serving = listener.current();
        let facts = Facts {
            peer,
            local,
            sni: None,
            secure: false,
            client: None,
            agreed: Agreed::default(),
            leaf: None,
        };
        let mut admission = None;
        let accepted = match serving.protocol() {
            ListenerProtocol::Tls => match self.greet(&listener, tcp, facts).await {
                Ok((accepted, by)) => {
                    admission = by;
                    accepted
                }
                Err(()) => return,
            },
            ListenerProtocol::Tunnel => Accepted::Tunnel(TunnelConnection { tcp, peer, local }),
            protocol => {
                let Some(served) = serving.select(None) else { return };
                let io = Io::from(tcp);
                match protocol {
                    ListenerProtocol::Http => Accepted::Http(http(listener, served, io, facts)),
                    _ => Accepted::Opaque(opaque(listener, served, io, facts)),
                }
            }
        };
        drop(serving);
        tokio::select! {
            () = (self.serve)(accepted) => {}
            // Its end takes everything along that it carries.
            why = revoked(admission) => {
                self.thread.reporter.count(Event::DeniedLater);
                if let Some(muted) = self.refusals.pass() {
                    tracing::info!(%peer, %local, reason = why, muted, "Ended a connection whose client is no longer accepted.");
                }
            }
        }
    }

    /// Who the client is, by the word of a proxy where one has to give it; `None` if it has not, which is the end.
    async fn client_behind(
        &self,
        listener: &Listener,
        tcp: &mut TcpStream,
        peer: SocketAddr,
    ) -> Option<SocketAddr> {
        let is_tunnel = listener.current().protocol() == ListenerProtocol::Tunnel;
        if is_tunnel || !proxy::is_expected(&self.thread) {
            return Some(peer);
        }
        let place = self.handshakes.enter();
        let told = tokio::select! {
            told = proxy::client(tcp, peer) => told,
            () = place.lost() => Err("too many connections that have said nothing yet".to_owned()),
            () = self.thread.drain.forced() => return None,
        };
        let refuse = |reason: &String| {
            self.counters.refuse(Refused::ProxyHeader);
            if let Some(muted) = self.refusals.pass() {
                tracing::info!(%peer, listener = %listener.address(), reason, muted, "Refused a connection.");
            }
        };
        told.inspect_err(refuse).ok()
    }

    /// The beginning of TLS: who is asked for, and the handshake if it is for us to make.
    async fn greet(
        &self,
        listener: &Arc<Listener>,
        tcp: TcpStream,
        facts: Facts,
    ) -> Result<(Accepted, Option<Admission>), ()> {
        let place = self.handshakes.enter();
        let (peer, serving) = (facts.peer, listener.current());
        let greeted = tokio::select! {
            greeted = tls::greet(tcp, &serving, &self.thread.identities) => greeted,
            () = place.lost() => Err((Refused::Overload, "too many handshakes".to_owned()).into()),
            () = self.thread.drain.forced() => return Err(()),
        };
        drop(place);
        let Greeted { io, input, sni, alpn, client, agreed, shown, proof, served } = match greeted {
            Ok(greeted) => greeted,
            Err(Refusal { why, detail, asked }) => {
                self.counters.refuse(why);
                if let Some(muted) = self.refusals.pass() {
                    let reason = why.reason();
                    tracing::info!(%peer, listener = %listener.address(), reason, detail, muted, "Refused a handshake.");
                }
                let unserved = || Accepted::Unserved(Facts { sni: asked, ..facts }, detail);
                return (why == Refused::ServerName).then(|| (unserved(), None)).ok_or(());
            }
        };
        let secure = input.is_empty();
        let leaf = shown.as_ref().and_then(Shown::leaf);
        let facts = Facts { sni, secure, client, agreed, leaf, ..facts };
        let admission = served.tls.clone().zip(shown).map(|(tls, shown)| Admission {
            listener: Arc::clone(listener),
            server: served.key.clone(),
            tls,
            shown,
            proof,
        });
        if served.carries_requests() {
            let http = HttpConnection { alpn, ..http(Arc::clone(listener), &served, io, facts) };
            return Ok((Accepted::Http(http), admission));
        }
        let connection = opaque(Arc::clone(listener), &served, io, facts);
        Ok((Accepted::Opaque(OpaqueConnection { input, ..connection }), admission))
    }

    /// Resolves when no connection is left; each holds this thread's state.
    async fn idle(self: &Rc<Self>) {
        while Rc::strong_count(self) > 1 {
            tokio::time::sleep(IDLE_CHECK).await;
        }
    }
}

/// Resolves when whoever was let in would not be let in any more; never for those who have shown nothing.
async fn revoked(admission: Option<Admission>) -> String {
    let Some(Admission { listener, server, tls, shown, proof }) = admission else { return pending().await };
    let refuted = async {
        match &proof {
            Some(proof) => proof.refuted().await.to_string(),
            None => pending().await,
        }
    };
    tokio::select! {
        why = listener.refuses(&server, tls, &shown) => why,
        why = refuted => why,
    }
}

fn http(listener: Arc<Listener>, served: &Served, io: Io, facts: Facts) -> HttpConnection {
    HttpConnection { io, facts, alpn: None, drain: served.drain(), listener, server: served.key.clone() }
}

fn opaque(listener: Arc<Listener>, served: &Served, io: Io, facts: Facts) -> OpaqueConnection {
    if let Some(socket) = io.socket() {
        // Data cut short is never shown as a clean end. A socket that refuses has been reset already.
        let _ = sockopt::set_linger_zero(socket, true);
    }
    let (drain, server) = (served.drain(), served.key.clone());
    OpaqueConnection { io, input: bytes::BytesMut::new(), facts, drain, listener, server }
}

/// A connection that waits to be accepted, if there is one.
async fn accepted(socket: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        Poll::Ready(match socket.poll_accept(cx) {
            Poll::Ready(Ok(accepted)) => Some(accepted),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        })
    })
    .await
}

fn accept_event(error: &io::Error) -> Event {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => Event::AcceptDescriptors,
        Some(libc::ENOMEM | libc::ENOBUFS) => Event::AcceptMemory,
        _ => Event::AcceptOther,
    }
}

/// Lines a second about clients that were refused, on each thread.
const REFUSALS_LOGGED: u32 = 20;
const IDLE_CHECK: Duration = Duration::from_millis(20);
/// What connections get to end after the drain's deadline.
const LAST_MOMENT: Duration = Duration::from_millis(200);
