//! HTTP/2 frame by frame, as no library would send it: for clients and servers that mean harm.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::row::Row;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// One end of a connection.
pub(crate) struct Raw {
    tcp: TcpStream,
    ahead: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// `SETTINGS_MAX_CONCURRENT_STREAMS`.
pub(crate) const MAX_STREAMS: u16 = 3;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub(crate) const INITIAL_WINDOW: u16 = 4;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Frame {
    Frame { kind, flags, stream, payload: payload.to_vec() }
}

/// SETTINGS with one of them.
pub(crate) fn setting(name: u16, value: u32) -> Frame {
    frame(SETTINGS, 0, 0, &[&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// HEADERS of a `GET /`, or of a `POST /` if it does not end the stream.
pub(crate) fn request(stream: u32, host: &str, more: &[(u8, &str)], flags: u8) -> Frame {
    let method = if flags & END_STREAM == 0 { 0x83 } else { 0x82 };
    let mut block = vec![method, 0x86, 0x84];
    literal(&mut block, 1, host);
    more.iter().for_each(|(index, value)| literal(&mut block, *index, value));
    frame(HEADERS, flags, stream, &block)
}

/// HEADERS of a 200, and whether that is all.
pub(crate) fn answer(stream: u32, flags: u8) -> Frame {
    frame(HEADERS, END_HEADERS | flags, stream, &[0x88])
}

/// GOAWAY.
pub(crate) fn goaway(last: u32, code: u32) -> Frame {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// `user-agent` in the static table of HPACK.
pub(crate) const USER_AGENT: u8 = 58;

/// A field with a name of the static table, not indexed, not compressed; values are shorter than 127.
fn literal(block: &mut Vec<u8>, index: u8, value: &str) {
    match index.checked_sub(15) {
        Some(more) => block.extend([0x0f, more]),
        None => block.push(index),
    }
    block.push(u8::try_from(value.len().min(126)).unwrap_or(0));
    block.extend(value.bytes().take(126));
}

impl Frame {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap_or(0).to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The error code of a GOAWAY.
    pub(crate) fn goaway_code(&self) -> Option<u32> {
        let code = self.payload.get(4..8)?.try_into().ok()?;
        (self.kind == GOAWAY).then(|| u32::from_be_bytes(code))
    }
}

impl Raw {
    /// A client that has said hello.
    pub(crate) async fn client(port: u16) -> Result<Self> {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        tcp.set_nodelay(true)?;
        let mut raw = Self { tcp, ahead: Vec::new() };
        raw.tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        raw.send(&[frame(SETTINGS, 0, 0, &[])]).await?;
        Ok(raw)
    }

    /// The server of a connection, with its settings said and the client's preface read.
    pub(crate) async fn server(tcp: TcpStream, settings: Frame) -> Result<Self> {
        tcp.set_nodelay(true)?;
        let mut raw = Self { tcp, ahead: Vec::new() };
        raw.send(&[settings, frame(SETTINGS, ACK, 0, &[])]).await?;
        raw.tcp.read_exact(&mut [0; 24]).await.context("the preface")?;
        Ok(raw)
    }

    pub(crate) async fn send(&mut self, frames: &[Frame]) -> Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        Ok(self.tcp.write_all(&bytes).await?)
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.tcp.write_all(bytes).await?)
    }

    fn parsed(&mut self) -> Option<Frame> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *self.ahead.first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let payload = self.ahead.get(9..9 + length)?.to_vec();
        self.ahead.drain(..9 + length);
        Some(Frame { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]), payload })
    }

    /// The next frame; `None` at the end of the connection, however it ends.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.parsed() {
                return Some(frame);
            }
            if self.tcp.read_buf(&mut self.ahead).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next frame that is wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Result<Frame> {
        let found = async {
            loop {
                match self.next().await {
                    Some(frame) if wanted(&frame) => return Some(frame),
                    Some(_) => {}
                    None => return None,
                }
            }
        };
        timeout(PATIENCE, found).await.context("it does not come")?.context("the connection has ended before")
    }

    /// What comes within a moment, without waiting for more; whether the connection has ended is the second.
    pub(crate) async fn gathered(&mut self, moment: Duration) -> (Vec<Frame>, bool) {
        let mut frames = Vec::new();
        loop {
            match timeout(moment, self.next()).await {
                Err(_) => return (frames, false),
                Ok(None) => return (frames, true),
                Ok(Some(frame)) => frames.push(frame),
            }
        }
    }

    /// Nothing more comes, and the connection is closed.
    pub(crate) async fn ends(&mut self) -> Result<()> {
        let end = async { while self.next().await.is_some() {} };
        timeout(PATIENCE, end).await.context("the connection stays open")
    }
}

/// An address for a server of a row's own, in the network of this process, above those of [`crate::stand`].
pub(crate) fn listener() -> TcpListener {
    static NEXT: AtomicU8 = AtomicU8::new(100);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    TcpListener::bind((crate::stand::own_ip(last), 0)).expect("loopback has a free port")
}

impl Row {
    /// A pod at this address that speaks `port_name`, its service under the row's name, and the policy for it.
    pub(crate) fn on_server(self, listener: &TcpListener, policy: &str, port_name: &str) -> Self {
        let (ip, port) =
            listener.local_addr().map_or((Ipv4Addr::LOCALHOST.into(), 0), |it| (it.ip(), it.port()));
        self.config(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: NAME, namespace: conf, labels: {{app: NAME}}}}, \
             spec: {{containers: [{{name: a, image: a}}]}}, status: {{podIP: {ip}, phase: Running, \
             conditions: [{{type: Ready, status: \"True\"}}]}}}}"
        ))
        .config(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: NAME, namespace: conf}}, spec: {{selector: {{app: NAME}}, \
             ports: [{{name: {port_name}, port: 80, targetPort: {port}}}]}}}}"
        ))
        .config(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: NAME, namespace: conf}}, \
             spec: {{host: NAME, trafficPolicy: {{{policy}}}}}}}"
        ))
    }
}

/// Waits a moment for something to be so.
pub(crate) async fn soon(what: &str, so: impl Fn() -> bool) -> Result<()> {
    for _ in 0..500 {
        if so() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(so(), "{what}");
    Ok(())
}

/// How long a frame, or an end, may take to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
