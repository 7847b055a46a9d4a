//! What a connection begins with: looked at without taking anything from a socket, or read ahead from anything else.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use mesh_core::model::Snapshot;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::io::Io;

/// What may make a difference about a connection's first bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Whether they are a request.
    pub(crate) request: bool,
    /// Which server name TLS asks for.
    pub(crate) name: bool,
    /// Whether the connection is declared as TLS, so that the client is given the time that a handshake may take.
    pub(crate) surely_tls: bool,
}

/// What a connection begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// A request.
    Request,
    /// TLS that asks for this name, in lower case.
    Name(String),
    /// Anything else, or nothing in time: the server may speak first.
    Other,
}

impl Beginning {
    /// The name that TLS asks for.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Request | Self::Other => None,
        }
    }
}

/// How long the first bytes of a connection are waited for where nothing says what it speaks: `protocolDetectionTimeout` of
/// the mesh. Where Istio would wait for ever, which leaves a client and a server silent that both expect the other to begin,
/// it is the time that Istio once had for this.
pub(crate) fn patience(snapshot: &Snapshot) -> Duration {
    snapshot.mesh().protocol_detection_timeout.get().unwrap_or(SNIFF)
}

/// Looks at what a connection begins with, without taking it: once, whatever is wanted.
pub(crate) async fn beginning(tcp: &TcpStream, wanted: Wanted, patience: Duration) -> Beginning {
    let Some(mut judge) = Judge::of(wanted) else { return Beginning::Other };
    let mut room = vec![0; if wanted.name { MAX_HELLO } else { LONGEST_METHOD + 1 }];
    look(tcp, &mut room, wanted.patience(patience), |bytes| judge.judge(bytes))
        .await
        .unwrap_or(Beginning::Other)
}

/// [`beginning`] for what cannot be looked at without reading; `input` has what was read.
pub(crate) async fn read_beginning(
    io: &mut Io,
    input: &mut BytesMut,
    wanted: Wanted,
    patience: Duration,
) -> Beginning {
    let Some(mut judge) = Judge::of(wanted) else { return Beginning::Other };
    let told = read(io, input, wanted.patience(patience), |bytes| judge.judge(bytes)).await;
    told.unwrap_or(Beginning::Other)
}

impl Wanted {
    fn patience(self, patience: Duration) -> Duration {
        if self.surely_tls { HANDSHAKE } else { patience }
    }
}

/// Tells what the bytes of a beginning are, of which more and more are there.
struct Judge {
    request: bool,
    hello: Option<Hello>,
}

impl Judge {
    /// `None` where nothing is wanted.
    fn of(wanted: Wanted) -> Option<Self> {
        let hello = wanted.name.then(Hello::default);
        (wanted.request || wanted.name).then_some(Self { request: wanted.request, hello })
    }

    /// `None` if that is open yet.
    fn judge(&mut self, bytes: &[u8]) -> Option<Beginning> {
        if self.request {
            match is_http(bytes) {
                Some(true) => return Some(Beginning::Request),
                Some(false) => {}
                None => return None,
            }
        }
        let Some(hello) = &mut self.hello else { return Some(Beginning::Other) };
        let name = hello.name(bytes)?;
        Some(if name.is_empty() { Beginning::Other } else { Beginning::Name(name) })
    }
}

/// Looks at the first bytes until they tell; `None` if they do not in time.
async fn look<V>(
    tcp: &TcpStream,
    room: &mut [u8],
    patience: Duration,
    mut verdict: impl FnMut(&[u8]) -> Option<V>,
) -> Option<V> {
    let looked = tokio::time::timeout(patience, async {
        loop {
            let seen = tcp.peek(room).await.unwrap_or(0);
            let bytes = room.get(..seen).unwrap_or_default();
            if let Some(verdict) = verdict(bytes) {
                return Some(verdict);
            }
            if seen == 0 || seen == room.len() {
                return None;
            }
            // More may be on its way; peeking again at once would spin.
            tokio::time::sleep(PAUSE).await;
        }
    });
    looked.await.ok().flatten()
}

/// Reads until the first bytes tell; `None` if they do not in time.
async fn read<V>(
    io: &mut Io,
    input: &mut BytesMut,
    patience: Duration,
    mut verdict: impl FnMut(&[u8]) -> Option<V>,
) -> Option<V> {
    let told = tokio::time::timeout(patience, async {
        loop {
            if let Some(verdict) = verdict(input) {
                return Some(verdict);
            }
            if input.len() >= MAX_HELLO {
                return None;
            }
            input.reserve(FIRST_READ);
            let read = poll_fn(|cx| poll_read_buf(Pin::new(&mut *io), cx, input)).await;
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    });
    told.await.ok().flatten()
}

/// The first message of a client's TLS, however it is cut into records and these into segments.
#[derive(Default)]
struct Hello {
    acceptor: Acceptor,
    /// Bytes that it has seen: it keeps them, so that each is read once.
    seen: usize,
}

impl Hello {
    /// The name that it asks for, empty if it asks for none, or is none; `None` if it has not ended.
    fn name(&mut self, bytes: &[u8]) -> Option<String> {
        let mut new = bytes.get(self.seen..).unwrap_or_default();
        self.seen = bytes.len();
        while !new.is_empty() {
            // It takes some at a time, and needs room for the next.
            if self.acceptor.read_tls(&mut new as &mut dyn io::Read).is_err() {
                return Some(String::new());
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().unwrap_or_default().to_ascii_lowercase();
                    return Some(name);
                }
                Ok(None) => {}
                Err(_) => return Some(String::new()),
            }
        }
        None
    }
}

/// Whether bytes begin a request; `None` if that is open yet.
fn is_http(bytes: &[u8]) -> Option<bool> {
    let end = bytes.iter().position(|byte| *byte == b' ');
    let method = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    if method.len() > LONGEST_METHOD || !method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
    {
        return Some(false);
    }
    end.map(|end| end > 0)
}

/// Where tokens are asked for, the first bytes are waited for as Istio waits: a server that speaks first has to be declared.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// See [`patience`].
const SNIFF: Duration = Duration::from_millis(200);
/// As a gateway waits for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);
/// The longest method that is looked for.
const LONGEST_METHOD: usize = 20;
/// Bytes of a first message of TLS; one with post-quantum keys has two thousand.
const MAX_HELLO: usize = 16 << 10;
const FIRST_READ: usize = 4 << 10;

#[cfg(test)]
mod tests;
