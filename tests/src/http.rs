//! The HTTP/1.1 that tools of the test bed need: small messages, one thread a connection, every wait bounded.
//!
//! It reads what any conforming peer may send (`Content-Length`, chunked, until end of stream) within fixed limits,
//! and writes only `Content-Length` messages.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Header fields in the order they came; names compare without regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first field of that name.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Adds a field at the end.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Such as `GET`.
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// Header fields; `Host` is added on sending where it is missing.
    pub headers: Headers,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// A `GET` without header fields.
    pub fn get(target: impl Into<String>) -> Self {
        Self { method: "GET".into(), target: target.into(), headers: Headers::default(), body: Vec::new() }
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }
}

/// One response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields; `Content-Length` is added on sending.
    pub headers: Headers,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// A response with one header field, the content type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut headers = Headers::default();
        headers.push("Content-Type", content_type);
        Self { status, headers, body: body.into() }
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Connects, sends one request and reads the response, all within `timeout`.
pub fn fetch(addr: SocketAddr, request: &Request, timeout: Duration) -> io::Result<Response> {
    let deadline = Instant::now() + timeout;
    let stream = TcpStream::connect_timeout(&addr, timeout)?;
    let mut wire = Wire::new(stream, Some(deadline));
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    if request.headers.first("host").is_none() {
        add_line(&mut head, format_args!("Host: {addr}"));
    }
    head.push_str("Connection: close\r\n");
    wire.send(head, &request.headers, &request.body)?;
    let method_has_body = request.method != "HEAD";
    loop {
        let (start, headers) = wire.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status =
            start.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad("status line"))?;
        if (100..200).contains(&status) {
            continue;
        }
        let empty = !method_has_body || matches!(status, 204 | 304);
        let body = if empty { Vec::new() } else { wire.body(&headers, true)? };
        return Ok(Response { status, headers, body });
    }
}

/// Answers requests for ever: a thread for each connection, `handler` for each request. Connections stay open until
/// the client ends them or is idle for a minute. After an answer of 101 every byte is sent back.
pub fn serve(listener: &TcpListener, handler: impl Fn(&Request) -> Response + Sync) {
    thread::scope(|scope| {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let handler = &handler;
                    scope.spawn(move || drop(serve_connection(stream, handler)));
                }
                // Out of descriptors or an aborted connection: neither gets better by spinning.
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    });
}

fn serve_connection(stream: TcpStream, handler: &impl Fn(&Request) -> Response) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wire = Wire::new(stream, None);
    loop {
        wire.deadline = Some(Instant::now() + IDLE);
        let Some((start, headers)) = wire.head()? else { return Ok(()) };
        let mut words = start.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(bad("request line"));
        };
        if headers.first("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
            wire.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let (method, target) = (method.to_owned(), target.to_owned());
        let body = wire.body(&headers, false)?;
        let request = Request { method, target, headers, body };
        let mut response = handler(&request);
        let close = start.ends_with("HTTP/1.0")
            || request.headers.first("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let head = format!("HTTP/1.1 {} {}\r\n", response.status, phrase(response.status));
        if response.status == 101 {
            return wire.leave_http(head, &response.headers);
        }
        if close {
            response.headers.push("Connection", "close");
        }
        let headers_only = request.method == "HEAD";
        wire.respond(head, &response, headers_only)?;
        if close {
            return Ok(());
        }
    }
}

/// A connection with what was read ahead.
struct Wire {
    stream: TcpStream,
    ahead: Vec<u8>,
    deadline: Option<Instant>,
}

impl Wire {
    fn new(stream: TcpStream, deadline: Option<Instant>) -> Self {
        Self { stream, ahead: Vec::new(), deadline }
    }

    /// Reads more bytes; `false` at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        let left = self.deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if left.is_some_and(|d| d.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(left)?;
        let mut buffer = [0; 16 << 10];
        let length = match self.stream.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            other => other?,
        };
        self.ahead.extend_from_slice(buffer.get(..length).unwrap_or_default());
        Ok(length > 0)
    }

    /// One line without its end; `None` when the stream ends before it begins.
    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.ahead.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                let line = String::from_utf8(line).map_err(|_| bad("text"))?;
                return Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()));
            }
            if self.ahead.len() > MAX_HEAD {
                return Err(bad("line: too long"));
            }
            if !self.fill()? {
                return if self.ahead.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// Start line and header fields; `None` when the peer closed between messages.
    fn head(&mut self) -> io::Result<Option<(String, Headers)>> {
        let Some(start) = self.line()? else { return Ok(None) };
        let mut headers = Headers::default();
        let mut size = start.len();
        loop {
            let line = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                return Ok(Some((start, headers)));
            }
            size += line.len();
            let (name, value) = line.split_once(':').ok_or_else(|| bad("header field"))?;
            headers.push(name, value.trim());
            if size > MAX_HEAD {
                return Err(bad("head: too long"));
            }
        }
    }

    /// The body; without a length it is empty, or all that follows if `until_end`.
    fn body(&mut self, headers: &Headers, until_end: bool) -> io::Result<Vec<u8>> {
        if headers.first("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked")) {
            return self.chunks();
        }
        if let Some(length) = headers.first("content-length") {
            return self.exactly(length.parse().map_err(|_| bad("content-length"))?);
        }
        if until_end {
            while self.ahead.len() <= MAX_BODY && self.fill()? {}
            return Ok(std::mem::take(&mut self.ahead));
        }
        Ok(Vec::new())
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| bad("chunk size"))?;
            if size == 0 {
                while !self.line()?.unwrap_or_default().is_empty() {}
                return Ok(body);
            }
            body.extend(self.exactly(size)?);
            if body.len() > MAX_BODY {
                return Err(bad("body: too long"));
            }
            self.line()?;
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length > MAX_BODY {
            return Err(bad("body: too long"));
        }
        while self.ahead.len() < length {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    fn respond(&mut self, head: String, response: &Response, headers_only: bool) -> io::Result<()> {
        if headers_only {
            let mut headers = response.headers.clone();
            headers.push("Content-Length", response.body.len().to_string());
            return self.stream.write_all(message(head, &headers, None).as_slice());
        }
        self.send(head, &response.headers, &response.body)
    }

    /// Writes the head of a 101, and then echoes until the client ends.
    fn leave_http(&mut self, head: String, headers: &Headers) -> io::Result<()> {
        self.stream.write_all(&message(head, headers, None))?;
        loop {
            let ahead = std::mem::take(&mut self.ahead);
            self.stream.write_all(&ahead)?;
            self.deadline = Some(Instant::now() + IDLE);
            if !self.fill()? {
                return Ok(());
            }
        }
    }

    /// Writes a message in one piece, so that a body never waits for the acknowledgement of its head.
    fn send(&mut self, head: String, headers: &Headers, body: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(self.deadline.map(|d| remaining(d).max(Duration::from_millis(1))))?;
        self.stream.write_all(&message(head, headers, Some(body)))
    }
}

fn message(mut head: String, headers: &Headers, body: Option<&[u8]>) -> Vec<u8> {
    for (name, value) in headers.iter() {
        add_line(&mut head, format_args!("{name}: {value}"));
    }
    if let Some(body) = body {
        add_line(&mut head, format_args!("Content-Length: {}", body.len()));
    }
    head.push_str("\r\n");
    let mut message = head.into_bytes();
    message.extend_from_slice(body.unwrap_or_default());
    message
}

fn add_line(head: &mut String, line: std::fmt::Arguments<'_>) {
    std::fmt::Write::write_fmt(head, line).expect("writing to a string cannot fail");
    head.push_str("\r\n");
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed HTTP {what}"))
}

fn phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        302 => "Found",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// How long a connection may be silent between requests.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes of a start line with its header fields; the usual limit of servers.
const MAX_HEAD: usize = 64 << 10;

/// Bytes of a body; an admin dump of a large mesh fits.
const MAX_BODY: usize = 64 << 20;

#[cfg(test)]
mod tests;
