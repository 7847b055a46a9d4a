//! Clients: HTTP/1.1 of bytes, so that nothing is put right on the way, and HTTP/2.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_tests::origin::Seen;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// A connection of whatever kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// TLS that a request is sent in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tls {
    pub(crate) sni: String,
    /// A certificate and its key.
    pub(crate) client: Option<(String, String)>,
}

/// A request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Req {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) h2: bool,
    pub(crate) tls: Option<Tls>,
    /// A port of the gateway other than that of plain HTTP.
    pub(crate) port: Option<u16>,
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) interim: Vec<u16>,
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// A `GET`.
pub(crate) fn get(path: &str) -> Req {
    request("GET", path)
}

/// A `POST` with a body.
pub(crate) fn post(path: &str, body: &str) -> Req {
    Req { body: body.as_bytes().to_vec(), ..request("POST", path) }
}

/// A request.
pub(crate) fn request(method: &str, path: &str) -> Req {
    Req { method: method.to_owned(), path: path.to_owned(), ..Req::default() }
}

/// A call of gRPC, with one small message.
pub(crate) fn grpc(path: &str) -> Req {
    let message = Req { body: b"\0\0\0\0\x02hi".to_vec(), ..request("POST", path) };
    message.h2().with("content-type", "application/grpc").with("te", "trailers")
}

impl Req {
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What the origin is to do.
    pub(crate) fn orders(self, orders: &str) -> Self {
        self.with("x-do", orders)
    }

    /// Another host than the row's.
    pub(crate) fn to(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub(crate) fn h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    pub(crate) fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Makes it known to the log and to origins.
    pub(crate) fn mark(mut self, token: &str) -> Self {
        if self.header("user-agent").is_none() {
            self.headers.push(("user-agent".to_owned(), token.to_owned()));
        }
        self
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    fn bytes(&self) -> Vec<u8> {
        use fmt::Write as _;
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        };
        line("host", self.host.as_deref().unwrap_or_default());
        self.headers.iter().for_each(|(name, value)| line(name, value));
        let framed = self.header("transfer-encoding").is_some() || self.header("content-length").is_some();
        if !self.body.is_empty() && !framed {
            line("content-length", &self.body.len().to_string());
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

impl Reply {
    /// The value of a header; several are joined with a comma.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let all = self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str());
        let all: Vec<_> = all.collect();
        (!all.is_empty()).then(|| all.join(","))
    }

    pub(crate) fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the origin says that it has seen.
    pub(crate) fn seen(&self) -> Result<Seen> {
        serde_json::from_slice(&self.body).with_context(|| format!("not an origin's answer: {self}"))
    }

    /// The pod that has answered.
    pub(crate) fn pod(&self) -> String {
        self.header("x-pod").unwrap_or_default()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = self.text().chars().take(600).collect();
        write!(f, "{} {:?} {body:?} {:?}", self.status, self.headers, self.trailers)
    }
}

/// A connection with what was read ahead.
pub(crate) struct Wire {
    io: Box<dyn Stream>,
    ahead: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(io: Box<dyn Stream>) -> Self {
        Self { io, ahead: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.io.write_all(bytes.as_ref()).await?;
        Ok(self.io.flush().await?)
    }

    pub(crate) async fn finish(&mut self) -> Result<()> {
        Ok(self.io.shutdown().await?)
    }

    async fn fill(&mut self) -> Result<bool> {
        let read = timeout(PATIENCE, self.io.read_buf(&mut self.ahead)).await;
        Ok(read.map_err(|_| anyhow!("nothing came for {PATIENCE:?}; so far {:?}", self.so_far()))?? > 0)
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.ahead).chars().take(300).collect()
    }

    /// All that comes until the other end has finished.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>> {
        while self.fill().await? {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// The next `length` bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.ahead.len() < length {
            ensure!(self.fill().await?, "the connection ended after {:?}", self.so_far());
        }
        Ok(self.ahead.drain(..length).collect())
    }

    async fn until(&mut self, end: &[u8]) -> Result<String> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|it| it == end) {
                let line: Vec<u8> = self.ahead.drain(..at + end.len()).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            ensure!(self.fill().await?, "the connection ended after {:?}", self.so_far());
        }
    }

    /// The head of the next answer, interim or not.
    pub(crate) async fn head(&mut self) -> Result<Reply> {
        let head = self.until(b"\r\n\r\n").await?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().splitn(3, ' ');
        let mut reply = Reply { version: words.next().unwrap_or_default().to_owned(), ..Reply::default() };
        reply.status = words.next().and_then(|it| it.parse().ok()).context("no status")?;
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').with_context(|| format!("no field: {line:?}"))?;
            reply.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(reply)
    }

    /// The next answer; interim ones are in it.
    pub(crate) async fn reply(&mut self, method: &str) -> Result<Reply> {
        let mut interim = Vec::new();
        loop {
            let mut reply = self.head().await?;
            if (100..200).contains(&reply.status) && reply.status != 101 {
                interim.push(reply.status);
                continue;
            }
            reply.interim = interim;
            let bare = method == "HEAD" || matches!(reply.status, 101 | 204 | 304);
            if !bare {
                self.body(&mut reply).await?;
            }
            return Ok(reply);
        }
    }

    async fn body(&mut self, reply: &mut Reply) -> Result<()> {
        if reply.header("transfer-encoding").is_some() {
            loop {
                let line = self.until(b"\r\n").await?;
                let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
                if size == 0 {
                    break;
                }
                reply.body.extend(self.exactly(size).await?);
                ensure!(self.exactly(2).await? == b"\r\n", "a chunk without an end");
            }
            loop {
                let line = self.until(b"\r\n").await?;
                let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(()) };
                reply.trailers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        reply.body = match reply.header("content-length") {
            Some(length) => self.exactly(length.parse()?).await?,
            None => self.rest().await?,
        };
        Ok(())
    }
}

/// Sends a request in HTTP/1.1.
pub(crate) async fn h1(io: Box<dyn Stream>, request: &Req) -> Result<Reply> {
    let mut wire = Wire::new(io);
    wire.send(request.bytes()).await?;
    wire.reply(&request.method).await
}

/// Sends a request in HTTP/2.
pub(crate) async fn h2(io: Box<dyn Stream>, request: &Req) -> Result<Reply> {
    let (sender, connection) = h2::client::handshake(io).await?;
    let exchange = exchange(sender, request);
    tokio::pin!(exchange, connection);
    tokio::select! {
        reply = timeout(PATIENCE, &mut exchange) => reply.context("no answer in HTTP/2")?,
        ended = &mut connection => {
            let all = timeout(PATIENCE, exchange).await.context("no answer in HTTP/2")?;
            ended.map_or_else(|error| Err(error.into()), |()| all)
        }
    }
}

async fn exchange(sender: h2::client::SendRequest<Bytes>, request: &Req) -> Result<Reply> {
    let mut sender = sender.ready().await?;
    let scheme = if request.tls.is_some() { "https" } else { "http" };
    let host = request.host.as_deref().unwrap_or_default();
    let mut head = http::Request::builder()
        .method(request.method.as_str())
        .uri(format!("{scheme}://{host}{}", request.path))
        .body(())?;
    *head.headers_mut() = map(&request.headers)?;
    let bare = request.body.is_empty() && request.trailers.is_empty();
    let (response, mut stream) = sender.send_request(head, bare)?;
    let mut body = Bytes::from(request.body.clone());
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        // The answer tells why.
        let Some(Ok(room)) = room else { break };
        let end = room >= body.len() && request.trailers.is_empty();
        stream.send_data(body.split_to(room.min(body.len())), end)?;
    }
    if !request.trailers.is_empty() {
        stream.send_trailers(map(&request.trailers)?)?;
    }
    let (parts, mut incoming) = response.await.context("the head of the answer")?.into_parts();
    let mut reply = Reply {
        version: "HTTP/2".to_owned(),
        status: parts.status.as_u16(),
        headers: fields(&parts.headers),
        ..Reply::default()
    };
    while let Some(data) = incoming.data().await {
        let data = match data {
            Ok(data) => data,
            // The answer is whole, and the rest of the request is not wanted.
            Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => return Ok(reply),
            Err(error) => bail!("{error} after {reply}"),
        };
        reply.body.extend_from_slice(&data);
        incoming.flow_control().release_capacity(data.len())?;
    }
    let trailers = match incoming.trailers().await {
        Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => None,
        trailers => trailers?,
    };
    reply.trailers = fields(&trailers.unwrap_or_default());
    Ok(reply)
}

fn map(fields: &[(String, String)]) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let Ok(name) = name.parse::<HeaderName>() else { bail!("no name of a header: {name}") };
        map.append(name, HeaderValue::from_str(value)?);
    }
    Ok(map)
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// How long anything may take to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
