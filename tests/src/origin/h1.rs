//! The origin's HTTP/1.1, by hand.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::orders::Orders;
use super::{EMPTY, Seen, Shared, hash, pattern};

/// A connection with what was read ahead.
struct Wire {
    stream: TcpStream,
    ahead: Vec<u8>,
}

pub(super) async fn serve(
    stream: TcpStream,
    (pod, connection): (Arc<str>, u64),
    shared: Arc<Shared>,
) -> io::Result<()> {
    let mut wire = Wire { stream, ahead: Vec::new() };
    while let Some(raw) = wire.head().await? {
        let mut seen = parse(&raw).ok_or(io::ErrorKind::InvalidData)?;
        (seen.pod, seen.connection) = (pod.to_string(), connection);
        let kept = shared.keep(seen.clone());
        let orders = shared.orders(&seen);
        if seen.header("expect").is_some() && !orders.has("early") {
            wire.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        if !orders.has("early") {
            wire.body(&mut seen).await?;
            shared.update(kept, &seen);
        }
        if wire.upgrade(&seen, &orders).await? {
            return wire.echo(&seen).await;
        }
        if !wire.answer(&seen, &orders).await? {
            return Ok(());
        }
    }
    Ok(())
}

impl Wire {
    /// The bytes of a head; `None` at the end of the connection.
    async fn head(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|it| it == b"\r\n\r\n") {
                let head: Vec<u8> = self.ahead.drain(..end + 4).collect();
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.ahead).await? > 0)
    }

    async fn body(&mut self, seen: &mut Seen) -> io::Result<()> {
        seen.hash = EMPTY;
        if seen.header("transfer-encoding").is_some() {
            self.chunks(seen).await?;
        } else if let Some(length) = seen.header("content-length") {
            self.take(length.parse().map_err(io::Error::other)?, seen).await?;
        }
        seen.complete = true;
        Ok(())
    }

    async fn chunks(&mut self, seen: &mut Seen) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size > 0 {
                self.take(size, seen).await?;
                self.line().await?;
                continue;
            }
            loop {
                let line = self.line().await?;
                let Some((name, value)) = line.split_once(':') else { return Ok(()) };
                seen.trailers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn take(&mut self, mut length: u64, seen: &mut Seen) -> io::Result<()> {
        while length > 0 {
            if self.ahead.is_empty() && !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let there = usize::try_from(length).map_or(self.ahead.len(), |it| it.min(self.ahead.len()));
            let data: Vec<u8> = self.ahead.drain(..there).collect();
            seen.take(&data);
            length -= u64::try_from(there).unwrap_or(length);
        }
        Ok(())
    }

    /// Answers what leaves HTTP; `true` if it has been left.
    async fn upgrade(&mut self, seen: &Seen, orders: &Orders) -> io::Result<bool> {
        if orders.has("status") {
            return Ok(false);
        }
        let upgrade = seen.header("upgrade").unwrap_or_default();
        let answer = match (seen.method.as_str(), upgrade.as_str()) {
            ("CONNECT", _) => "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
            (_, "websocket") if seen.header("sec-websocket-key").as_deref() == Some(KEY) => format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            ),
            (_, "echo") => {
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n".to_owned()
            }
            _ => return Ok(false),
        };
        self.stream.write_all(answer.as_bytes()).await?;
        Ok(true)
    }

    /// Sends back what comes; WebSocket frames without their masks.
    async fn echo(mut self, seen: &Seen) -> io::Result<()> {
        let frames = seen.header("upgrade").as_deref() == Some("websocket");
        loop {
            if !frames {
                self.stream.write_all(&self.ahead).await?;
                self.ahead.clear();
            } else if let Some((frame, length)) = unmask(&self.ahead) {
                self.ahead.drain(..length);
                self.stream.write_all(&frame).await?;
                continue;
            }
            if !self.fill().await? {
                return self.stream.shutdown().await;
            }
        }
    }

    /// Writes the answer; whether another request may follow.
    async fn answer(&mut self, seen: &Seen, orders: &Orders) -> io::Result<bool> {
        orders.wait("delay").await;
        if orders.has("reset") {
            return Ok(false);
        }
        if let Some(raw) = orders.get("raw") {
            let raw = BASE64_STANDARD.decode(raw).map_err(io::Error::other)?;
            self.stream.write_all(&raw).await?;
            return Ok(orders.has("stay"));
        }
        for interim in orders.all("interim") {
            let interim = format!("HTTP/1.1 {interim} Interim\r\nLink: </style.css>\r\n\r\n");
            self.stream.write_all(interim.as_bytes()).await?;
        }
        let body = body(seen, orders);
        let (head, ends) = head(seen, orders, body.len());
        self.stream.write_all(head.as_bytes()).await?;
        orders.wait("pause").await;
        let bare = seen.method == "HEAD" || matches!(orders.status(), 204 | 304);
        if orders.has("partial") {
            self.stream.write_all(body.get(..body.len() / 2).unwrap_or_default()).await?;
            return Ok(false);
        }
        if bare {
        } else if orders.has("chunked") {
            self.stream.write_all(&chunked(&body, orders)).await?;
        } else {
            self.stream.write_all(&body).await?;
        }
        if ends {
            self.stream.shutdown().await?;
        }
        Ok(!ends)
    }
}

impl Seen {
    /// Takes note of a piece of the body.
    pub(super) fn take(&mut self, data: &[u8]) {
        self.hash = hash(self.hash, data);
        self.length += u64::try_from(data.len()).unwrap_or(0);
        let room = KEPT.saturating_sub(self.body.len());
        self.body.push_str(&String::from_utf8_lossy(data.get(..room.min(data.len())).unwrap_or_default()));
    }
}

fn parse(raw: &str) -> Option<Seen> {
    let mut lines = raw.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let mut seen = Seen {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        version: words.next()?.to_owned(),
        raw: raw.to_owned(),
        hash: EMPTY,
        ..Seen::default()
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "host" => value.trim().clone_into(&mut seen.authority),
            name => seen.headers.push((name.to_owned(), value.trim().to_owned())),
        }
    }
    Some(seen)
}

/// What is answered: what the request says, else the request.
pub(super) fn body(seen: &Seen, orders: &Orders) -> Vec<u8> {
    match (orders.get("body"), orders.number("size")) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(size)) => pattern(0, size),
        (None, None) => serde_json::to_vec(seen).unwrap_or_default(),
    }
}

/// The head of the answer, and whether the connection ends with it.
fn head(seen: &Seen, orders: &Orders, length: usize) -> (String, bool) {
    use std::fmt::Write;
    let mut head = format!("HTTP/1.1 {} Status\r\nx-pod: {}\r\n", orders.status(), seen.pod);
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = write!(head, "{name}: {value}\r\n");
    };
    orders.fields("header").for_each(|(name, value)| line(name, value));
    if let Some(status) = orders.get("grpc") {
        line("content-type", "application/grpc");
        line("grpc-status", status);
    }
    if orders.has("chunked") {
        line("Transfer-Encoding", "chunked");
    } else if !orders.has("close") && orders.status() != 204 {
        line("Content-Length", &length.to_string());
    }
    let wants_close = seen.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
    let ends = orders.has("close") || orders.has("early") || wants_close;
    if ends {
        line("Connection", "close");
    }
    head.push_str("\r\n");
    (head, ends)
}

fn chunked(body: &[u8], orders: &Orders) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(body.len().div_ceil(2).max(1)) {
        out.extend_from_slice(format!("{:x};note=1\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n");
    for (name, value) in orders.fields("trailer") {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// A small masked frame as the server sends it back, and how long it was.
fn unmask(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (first, length) = (*bytes.first()?, usize::from(*bytes.get(1)? & 0x7f));
    let mask = bytes.get(2..6)?;
    let payload = bytes.get(6..6 + length)?;
    let mut frame = vec![first, u8::try_from(length).ok()?];
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    Some((frame, 6 + length))
}

/// Bytes of a body that are kept.
const KEPT: usize = 256;
/// The example of RFC 6455: its clients here all use this key.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
