//! The HTTP that a command line needs: one GET or POST, plaintext, every wait bounded.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// `http://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// With its port.
    authority: String,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(format!("{scheme} is not spoken here: write http://HOST:PORT")),
            None => text,
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // A name may not bring a line of its own into the request.
        let is_fine =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%');
        if authority.is_empty() || !authority.chars().all(is_fine) {
            return Err(format!("{text:?} is no address: write http://HOST:PORT"));
        }
        let host_end = authority.rfind(']').map_or(0, |end| end + 1);
        let has_port = authority.get(host_end..).is_some_and(|rest| rest.contains(':'));
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:{DEFAULT_PORT}") };
        Ok(Self { authority })
    }
}

impl Server {
    /// The one at an address.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { authority: address.to_string() }
    }

    /// Its address, as a browser takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// The body of the answer to a GET of `path`, which must be a 200.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        self.exchange("GET", path).with_context(|| format!("{}{path}", self.url()))
    }

    /// The same for a POST without a body.
    pub(crate) fn post(&self, path: &str) -> Result<String> {
        self.exchange("POST", path).with_context(|| format!("{}{path}", self.url()))
    }

    fn exchange(&self, method: &str, path: &str) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        let mut stream = self.connect()?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(request(method, path, &self.authority).as_bytes())?;
        let mut answer = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no answer within {} s", TIMEOUT.as_secs());
            }
            stream.set_read_timeout(Some(left))?;
            let count = match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            answer.extend_from_slice(chunk.get(..count).unwrap_or_default());
            if answer.len() > MAX_ANSWER {
                bail!("the answer is larger than {} MiB", MAX_ANSWER >> 20);
            }
        }
        body(&String::from_utf8(answer).context("the answer is not text")?)
    }

    /// Tries all addresses of the name.
    fn connect(&self) -> Result<TcpStream> {
        let mut last = None;
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("the name has no address"), anyhow::Error::from))
    }
}

/// A request without a body. Its version keeps the answer from being chunked, and ends it with the connection.
pub(crate) fn request(method: &str, path: &str, authority: &str) -> String {
    let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
    format!("{method} {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: application/json\r\n{length}\r\n")
}

/// Whether an answer is as long as its head says; `false` while that is not known.
pub(crate) fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
    let length = head.split("\r\n").filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}

/// What follows the head of an answer; an error unless the head says 200 and all of it is there.
pub(crate) fn body(answer: &str) -> Result<String> {
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    match code {
        Some("200") => {}
        Some(_) => bail!("answered {status}: {}", body.lines().next().unwrap_or_default()),
        None => bail!("not an HTTP answer"),
    }
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let is_whole = value.trim().parse().is_ok_and(|length: usize| length == body.len());
        if name.eq_ignore_ascii_case("content-length") && !is_whole {
            bail!("the answer breaks off after {} bytes", body.len());
        }
    }
    Ok(body.to_owned())
}

/// Where the control plane's debug pages are.
const DEFAULT_PORT: u16 = 15014;
/// For each address of a name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the whole answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer: some hundred for each subscriber, of which there may be some ten thousand.
pub(crate) const MAX_ANSWER: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        let authority = |text: &str| text.parse::<Server>().map(|server| server.authority);
        assert_eq!(authority("http://127.0.0.1:15014"), Ok("127.0.0.1:15014".into()));
        assert_eq!(authority("http://control/"), Ok("control:15014".into()));
        assert_eq!(authority("[::1]"), Ok("[::1]:15014".into()));
        assert_eq!(authority("[::1]:80"), Ok("[::1]:80".into()));
        for wrong in ["https://control", "", "http://", "http://a b", "http://a/b", "a\r\nb"] {
            assert!(authority(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_answer_is_whole_when_it_is_as_long_as_it_says() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert!(is_whole(whole.as_bytes()));
        assert!((0..whole.len()).all(|end| !is_whole(&whole.as_bytes()[..end])));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\n{}"));
    }

    #[test]
    fn only_a_whole_answer_is_taken() {
        assert_eq!(body("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}").ok().as_deref(), Some("{}"));
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\n{}").ok().as_deref(), Some("{}"));
        for (wrong, says) in [
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n{}", "breaks off"),
            ("HTTP/1.0 404 Not Found\r\n\r\n/metrics\n", "404"),
            ("SSH-2.0-x\r\n\r\n", "not an HTTP answer"),
            ("HTTP/1.0 200 OK\r\n", "not an HTTP answer"),
        ] {
            let error = body(wrong).expect_err(wrong).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
