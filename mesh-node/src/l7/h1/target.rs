//! Request targets and authorities: the two texts that decide where a request goes.

use std::fmt;
use std::net::Ipv6Addr;

use bytes::Bytes;
use http::Method;
use http::uri::PathAndQuery;

use super::Reason;

/// A request target whose every byte was looked at: printable ASCII without `#`, in the form that belongs to its
/// method. There is no other way to one than [`Target::parse`] and [`Target::origin`], so what the encoder writes
/// cannot end the line early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    form: TargetForm,
    /// What is sent on: path and query, `*`, or the authority of a CONNECT.
    text: Bytes,
    path_len: usize,
}

/// How a request target was written. RFC 9112, section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`.
    Origin,
    /// `http://authority/path?query`, as clients of proxies write it. The authority is in the head.
    Absolute(Scheme),
    /// `host:port`, of CONNECT and nothing else.
    Authority,
    /// `*`, of OPTIONS and nothing else.
    Asterisk,
}

/// The scheme of a target in absolute form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Target {
    /// That of a request of which none could be read.
    pub fn unread() -> Self {
        Self { form: TargetForm::Asterisk, text: Bytes::new(), path_len: 0 }
    }

    /// Parses the target of a request line, and the authority it names, if it does.
    pub fn parse(method: &Method, raw: Bytes) -> Result<(Self, Option<Authority>), Reason> {
        if *method == Method::CONNECT {
            return Self::parse_authority(raw);
        }
        match raw.first() {
            Some(b'/') => Ok((Self::origin(raw)?, None)),
            Some(b'*') if raw.len() == 1 && *method == Method::OPTIONS => {
                Ok((Self { form: TargetForm::Asterisk, path_len: raw.len(), text: raw }, None))
            }
            Some(_) => Self::parse_absolute(method, &raw),
            None => Err(Reason::Target),
        }
    }

    /// A target in origin form: `/path?query`.
    pub fn origin(text: Bytes) -> Result<Self, Reason> {
        if text.first() != Some(&b'/') {
            return Err(Reason::TargetForm);
        }
        check_bytes(&text)?;
        let path_len = memchr::memchr(b'?', &text).unwrap_or(text.len());
        Ok(Self { form: TargetForm::Origin, text, path_len })
    }

    /// How it was written.
    pub const fn form(&self) -> TargetForm {
        self.form
    }

    /// What is sent on: path and query, `*`, or the authority of a CONNECT.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.text
    }

    /// As [`Target::as_bytes`].
    pub fn as_str(&self) -> &str {
        text(&self.text)
    }

    /// The path without the query; `*` is its own path, and so is the authority of a CONNECT.
    pub fn path(&self) -> &str {
        text(self.text.get(..self.path_len).unwrap_or_default())
    }

    /// What follows the first `?`.
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_len + 1..).map(text)
    }

    /// What HTTP/2 has in `:path`; `None` for CONNECT. Its stack wants a `"` in a query escaped, which no server can
    /// tell from the bare one.
    pub fn to_path_and_query(&self) -> Option<PathAndQuery> {
        let verbatim = PathAndQuery::from_maybe_shared(self.text.clone()).ok();
        verbatim.or_else(|| self.as_str().replace('"', "%22").try_into().ok())
    }

    /// The same target with another path, which starts with a slash and has no query. The query stays.
    pub fn with_path(&self, path: &str) -> Result<Self, Reason> {
        let query = self.text.get(self.path_len..).unwrap_or_default();
        if path.contains('?') {
            return Err(Reason::Target);
        }
        let mut text = Vec::with_capacity(path.len() + query.len());
        text.extend_from_slice(path.as_bytes());
        text.extend_from_slice(query);
        Ok(Self { form: self.form, ..Self::origin(text.into())? })
    }

    /// The same with another query; without one if it is empty.
    ///
    /// # Errors
    /// If it is no query.
    pub fn with_query(&self, query: &str) -> Result<Self, Reason> {
        let mut text = self.path().as_bytes().to_vec();
        if !query.is_empty() {
            text.push(b'?');
            text.extend_from_slice(query.as_bytes());
        }
        Ok(Self { form: self.form, ..Self::origin(text.into())? })
    }

    fn parse_authority(raw: Bytes) -> Result<(Self, Option<Authority>), Reason> {
        let authority = Authority::parse(raw.clone())?;
        if authority.port().is_none() {
            return Err(Reason::TargetForm);
        }
        Ok((Self { form: TargetForm::Authority, path_len: raw.len(), text: raw }, Some(authority)))
    }

    fn parse_absolute(method: &Method, raw: &Bytes) -> Result<(Self, Option<Authority>), Reason> {
        check_bytes(raw)?;
        let (scheme, start) = scheme(raw).ok_or(Reason::TargetForm)?;
        let rest = raw.slice(start..);
        let end = memchr::memchr2(b'/', b'?', &rest).unwrap_or(rest.len());
        let authority = Authority::parse(rest.slice(..end))?;
        let path = rest.slice(end..);
        let text = match path.first() {
            Some(b'/') => path,
            // The last proxy on the way turns this into the asterisk form: RFC 9112, section 3.2.4.
            None if *method == Method::OPTIONS => Bytes::from_static(b"*"),
            None => Bytes::from_static(b"/"),
            Some(_) => [b"/", &*path].concat().into(),
        };
        let path_len = memchr::memchr(b'?', &text).unwrap_or(text.len());
        Ok((Self { form: TargetForm::Absolute(scheme), text, path_len }, Some(authority)))
    }
}

/// A `host[:port]`: a name of letters, digits, `-`, `.`, `_` and `~`, an IPv4 address, or an IPv6 address in brackets.
///
/// RFC 3986 allows more (percent-encoding, `,`, `;`, `!`, …), but no host that anybody routes to is written so, and
/// each of these has been read in two ways by two programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    text: Bytes,
    host_len: usize,
    port: Option<u16>,
}

impl Authority {
    /// Parses the value of Host, the authority of a target, or that of an `:authority`.
    pub fn parse(raw: Bytes) -> Result<Self, Reason> {
        if raw.is_empty() || raw.len() > MAX_AUTHORITY_BYTES {
            return Err(Reason::Host);
        }
        if memchr::memchr(b'@', &raw).is_some() {
            return Err(Reason::HostUserinfo);
        }
        let host_len = if raw.first() == Some(&b'[') { ipv6_len(&raw)? } else { name_len(&raw)? };
        let port = match raw.get(host_len..) {
            None | Some([]) => None,
            Some([b':', digits @ ..]) => Some(parse_port(digits)?),
            Some(_) => return Err(Reason::Host),
        };
        Ok(Self { text: raw, host_len, port })
    }

    /// `host[:port]` as it was written.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.text
    }

    /// As [`Authority::as_bytes`].
    pub fn as_str(&self) -> &str {
        text(&self.text)
    }

    /// The host as it was written: neither lower-cased, nor without the dot at its end. An IPv6 address has brackets.
    pub fn host(&self) -> &str {
        text(self.text.get(..self.host_len).unwrap_or_default())
    }

    /// The port, if one was written.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text of bytes that were all found to be ASCII.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("targets and authorities were found to be ASCII")
}

/// What RFC 3986 allows, and what clients send all the same and every server takes: `"`, `[`, `\`, `]`, `^`, `{`, `|`
/// and `}`. Not `<`, `>` and the backtick, which no client leaves as they are, and the HTTP/2 stack cannot send on.
fn check_bytes(raw: &[u8]) -> Result<(), Reason> {
    let allowed = |b: u8| matches!(b, b'!'..=b'~') && !matches!(b, b'#' | b'<' | b'>' | b'`');
    if raw.iter().all(|&b| allowed(b)) {
        return Ok(());
    }
    match raw.iter().find(|&&b| !allowed(b)) {
        Some(b'#') => Err(Reason::TargetFragment),
        _ => Err(Reason::Target),
    }
}

fn scheme(raw: &[u8]) -> Option<(Scheme, usize)> {
    [(Scheme::Http, b"http://".as_slice()), (Scheme::Https, b"https://".as_slice())]
        .into_iter()
        .find(|(_, prefix)| raw.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
        .map(|(scheme, prefix)| (scheme, prefix.len()))
}

fn name_len(raw: &[u8]) -> Result<usize, Reason> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    match raw.iter().position(|&b| !allowed(b)).unwrap_or(raw.len()) {
        0 => Err(Reason::Host),
        len => Ok(len),
    }
}

fn ipv6_len(raw: &[u8]) -> Result<usize, Reason> {
    let end = memchr::memchr(b']', raw).ok_or(Reason::Host)?;
    let inside = raw.get(1..end).and_then(|inside| std::str::from_utf8(inside).ok()).ok_or(Reason::Host)?;
    inside.parse::<Ipv6Addr>().map_err(|_| Reason::Host)?;
    Ok(end + 1)
}

/// One spelling for each port: no sign, no leading zero, no port 0, and no colon without a port.
fn parse_port(digits: &[u8]) -> Result<u16, Reason> {
    if digits.first() == Some(&b'0') || digits.len() > MAX_PORT_DIGITS || digits.is_empty() {
        return Err(Reason::Host);
    }
    let mut port: u32 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Reason::Host);
        }
        port = port * 10 + u32::from(digit - b'0');
    }
    u16::try_from(port).map_err(|_| Reason::Host)
}

/// The longest name of the DNS with its dot, and a port.
const MAX_AUTHORITY_BYTES: usize = 254 + ":65535".len();

const MAX_PORT_DIGITS: usize = 5;

#[cfg(test)]
mod tests;
