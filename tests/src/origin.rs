//! An origin to put behind a proxy: it answers each request with what it was, as JSON, and does what its `x-do` says.
//!
//! HTTP/1.1 is written here by hand, so that it can be told to break every rule; HTTP/2 with prior knowledge is on the
//! same port. What has come is kept, so that tests see what the client is not told: retries, copies, and silence.

mod h1;
mod h2;
mod orders;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::orders::Orders;

/// A request that has come to an origin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    /// The name of the address that it came to.
    pub pod: String,
    /// Number of the connection, over all addresses.
    pub connection: u64,
    /// `HTTP/1.1` or `HTTP/2`.
    pub version: String,
    /// The method.
    pub method: String,
    /// Path and query as they were written.
    pub target: String,
    /// `Host` or `:authority`.
    pub authority: String,
    /// All other fields in order, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Fields after the body.
    pub trailers: Vec<(String, String)>,
    /// Bytes of the body.
    pub length: u64,
    /// A hash of them, [`hash`].
    pub hash: u64,
    /// The first of them, as text.
    pub body: String,
    /// The head as it came; HTTP/1 only.
    pub raw: String,
    /// Whether the body has come to its end.
    pub complete: bool,
}

/// Serves some addresses until it is dropped; then they are closed with the process.
#[derive(Debug, Clone)]
pub struct Origin {
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicU64,
}

impl Seen {
    /// The value of a header; several are joined with a comma.
    pub fn header(&self, name: &str) -> Option<String> {
        let all = self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str());
        let all: Vec<_> = all.collect();
        (!all.is_empty()).then(|| all.join(","))
    }
}

impl Origin {
    /// Serves `addresses`, each under its name, on a thread of its own.
    pub fn serve(addresses: &[(String, SocketAddr)]) -> io::Result<Self> {
        let origin = Self { shared: Arc::default() };
        let mut listeners = Vec::new();
        for (name, address) in addresses {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            listeners.push((Arc::<str>::from(name.as_str()), listener));
        }
        let shared = Arc::clone(&origin.shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("origin".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let mut all = JoinSet::new();
                for (name, listener) in listeners {
                    all.spawn(accept(name, listener, Arc::clone(&shared)));
                }
                while all.join_next().await.is_some() {}
            });
        })?;
        Ok(origin)
    }

    /// What has come so far that `wanted` takes.
    pub fn seen(&self, wanted: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        self.shared.lock().iter().filter(|seen| wanted(seen)).cloned().collect()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a request; the number finds it again.
    fn keep(&self, seen: Seen) -> usize {
        let mut all = self.lock();
        all.push(seen);
        all.len() - 1
    }

    fn update(&self, at: usize, seen: &Seen) {
        if let Some(known) = self.lock().get_mut(at) {
            known.clone_from(seen);
        }
    }

    /// What a request is to be answered with. `fail=N` has only the first N of a case do as they are told, and `only=POD`
    /// only those to that pod.
    fn orders(&self, seen: &Seen) -> Orders {
        let orders = Orders::parse(&seen.header("x-do").unwrap_or_default());
        let elsewhere = orders.get("only").is_some_and(|pod| pod != seen.pod);
        let case = |it: &Seen| (it.header("x-case"), it.header("user-agent"));
        let before = || self.lock().iter().filter(|it| case(it) == case(seen)).count();
        let over = orders.number("fail").is_some_and(|limit| before() > limit);
        if elsewhere || over { Orders::default() } else { orders }
    }
}

async fn accept(pod: Arc<str>, listener: std::net::TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(connection(stream, (Arc::clone(&pod), number), Arc::clone(&shared)));
    }
}

async fn connection(stream: TcpStream, at: (Arc<str>, u64), shared: Arc<Shared>) {
    // A connection without it is slower, and no less right.
    let _ = stream.set_nodelay(true);
    let mut first = [0; 3];
    let multiplexed = matches!(stream.peek(&mut first).await, Ok(length) if length > 0 && first.first() == Some(&b'P'))
        && first.get(1) == Some(&b'R');
    let ended =
        if multiplexed { h2::serve(stream, at, shared).await } else { h1::serve(stream, at, shared).await };
    // Whatever broke, the proxy under test has seen it too.
    drop(ended);
}

/// FNV-1a: two bodies with the same are the same, as far as no one has made them up to be.
pub fn hash(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The hash of nothing.
pub const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// `length` bytes that are the same everywhere.
pub fn pattern(from: u64, length: usize) -> Vec<u8> {
    let at = |index: usize| from.wrapping_add(u64::try_from(index).unwrap_or(0));
    (0..length).map(|index| u8::try_from(at(index) % 251).unwrap_or(0)).collect()
}

/// The hash of the first `length` bytes of [`pattern`].
pub fn pattern_hash(length: u64) -> u64 {
    (0..length).fold(EMPTY, |hash, at| self::hash(hash, &[u8::try_from(at % 251).unwrap_or(0)]))
}
