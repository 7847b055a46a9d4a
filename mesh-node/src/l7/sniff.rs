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

/// Looks at the first bytes of a connection without taking them. Silence is no HTTP: the server may speak first.
pub(crate) async fn begins_like_http(tcp: &TcpStream, patience: Duration) -> bool {
    look(tcp, &mut [0; 24], patience, is_http).await.unwrap_or(false)
}

/// How long the first bytes of a connection are waited for where nothing says what it speaks: `protocolDetectionTimeout` of
/// the mesh. Where Istio would wait for ever, which leaves a client and a server silent that both expect the other to begin,
/// it is the time that Istio once had for this.
pub(crate) fn patience(snapshot: &Snapshot) -> Duration {
    snapshot.mesh().protocol_detection_timeout.get().unwrap_or(SNIFF)
}

/// The server name that the TLS of a connection asks for, in lower case. `surely` is whether it is declared as TLS, so that
/// the client is given the time that a handshake may take.
pub(crate) async fn server_name(tcp: &TcpStream, surely: bool, patience: Duration) -> Option<String> {
    let patience = if surely { HANDSHAKE } else { patience };
    let name = look(tcp, &mut vec![0; MAX_HELLO], patience, name_in).await?;
    Some(name).filter(|name| !name.is_empty())
}

/// Looks at the first bytes until they tell; `None` if they do not in time.
async fn look<V>(
    tcp: &TcpStream,
    room: &mut [u8],
    patience: Duration,
    verdict: impl Fn(&[u8]) -> Option<V>,
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

/// [`begins_like_http`] for what cannot be looked at without reading; `input` has what was read.
pub(crate) async fn reads_like_http(io: &mut Io, input: &mut BytesMut, patience: Duration) -> bool {
    read(io, input, patience, is_http).await.unwrap_or(false)
}

/// [`server_name`] for what cannot be looked at without reading; `input` has what was read.
pub(crate) async fn read_server_name(
    io: &mut Io,
    input: &mut BytesMut,
    (surely, patience): (bool, Duration),
) -> Option<String> {
    let patience = if surely { HANDSHAKE } else { patience };
    let name = read(io, input, patience, name_in).await?;
    Some(name).filter(|name| !name.is_empty())
}

/// Reads until the first bytes tell; `None` if they do not in time.
async fn read<V>(
    io: &mut Io,
    input: &mut BytesMut,
    patience: Duration,
    verdict: impl Fn(&[u8]) -> Option<V>,
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

/// The name that the first message asks for, empty if it asks for none; `None` if the message has not ended.
fn name_in(mut bytes: &[u8]) -> Option<String> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes as &mut dyn io::Read).is_err() {
            return Some(String::new());
        }
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => {
            Some(accepted.client_hello().server_name().unwrap_or_default().to_ascii_lowercase())
        }
        Ok(None) => None,
        Err(_) => Some(String::new()),
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
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_bytes_by_their_beginning() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1"[..], Some(true)),
            (b"PRI * HTTP/2.0", Some(true)),
            (b"GE", None),
            (b"", None),
            (b"\x16\x03\x01", Some(false)),
            (b"get / ", Some(false)),
            (b" /", Some(false)),
            (b"AVERYLONGWORDTHATISNOMETHOD", Some(false)),
        ] {
            assert_eq!(is_http(bytes), expected, "{bytes:?}");
        }
    }
}
