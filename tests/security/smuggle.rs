//! Requests that two programs could read in two ways. The bytes are files in `data`, one for each row, many cases in each.
//!
//! A case begins with `== NAME` and says what has to come of it: `refused 400` (one answer with that status, the end of the
//! connection, and nothing at the origin), `alone 403` (the same, but the origin may have seen a request: one), `passes /target` (the origin has seen one request, for that target, whole) or
//! `broken` (whatever the answer, no 200 and nothing whole at the origin). The lines behind it are sent, each with CR LF; `@`
//! is the host of the case, `\r`, `\n`, `\t`, `\\` and `\xNN` are bytes, and a line that ends with `\` has no line end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::h2::{END_STREAM, Raw, data, headers};
use crate::stand::Stand;

/// A row: all cases of its file.
macro_rules! rows {
    ($($name:ident)*) => {$(
        pub(crate) fn $name(stand: &Stand) -> Result<()> {
            cases(stand, concat!("smuggle.", stringify!($name)))
        }
    )*};
}

rows! { length coding both chunks trailers lines first_line host hop_by_hop upgrade_early connect_early unread_body }

/// What has to come of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    Refused(u16),
    Alone(u16),
    Passes(String),
    Broken,
}

/// Bytes, and what has to come of them.
struct Case {
    name: String,
    want: Want,
    bytes: Vec<u8>,
}

fn cases(stand: &Stand, row: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("security/data/{row}.txt"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in text.split("\n== ").skip(1) {
        let case = Case::parse(row, case).with_context(|| format!("{row}: {case}"))?;
        count += 1;
        if let Err(error) = case.run(stand, row) {
            wrong.push(format!("{}: {error:#}", case.name));
        }
    }
    ensure!(count > 0, "{row} has no case");
    ensure!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

impl Case {
    fn parse(row: &str, text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let name = lines.next().context("a name")?.to_owned();
        let want = lines.next().context("what has to come of it")?;
        let want = match want.split_once(' ') {
            Some(("refused", status)) => Want::Refused(status.parse()?),
            Some(("alone", status)) => Want::Alone(status.parse()?),
            Some(("passes", target)) => Want::Passes(target.to_owned()),
            None if want == "broken" => Want::Broken,
            _ => bail!("{want:?} is none of refused, alone, passes and broken"),
        };
        let host = own_host(row, &name);
        let mut bytes = Vec::new();
        for line in lines.filter(|line| !line.starts_with("# ")) {
            let (line, end): (_, &[u8]) = match line.strip_suffix('\\') {
                Some(line) => (line, b""),
                None => (line, b"\r\n"),
            };
            bytes.extend(unescaped(&line.replace('@', &host))?);
            bytes.extend(end);
        }
        Ok(Self { name, want, bytes })
    }

    fn run(&self, stand: &Stand, row: &str) -> Result<()> {
        let host = own_host(row, &self.name);
        let mut wire = stand.wire()?;
        wire.send(&self.bytes)?;
        match &self.want {
            Want::Refused(status) => {
                let reply = wire.reply()?;
                ensure!(reply.status == *status, "{} instead of {status}: {reply:?}", reply.status);
                wire.finish();
                let more = wire.rest()?;
                ensure!(more.is_empty(), "more than one answer: {:?}", String::from_utf8_lossy(&more));
                let seen = stand.seen(&host);
                ensure!(seen.is_empty(), "the origin has seen {seen:?}");
            }
            Want::Alone(status) => {
                let reply = wire.reply()?;
                ensure!(reply.status == *status, "{} instead of {status}: {reply:?}", reply.status);
                wire.finish();
                let more = wire.rest()?;
                ensure!(more.is_empty(), "more than one answer: {:?}", String::from_utf8_lossy(&more));
                let seen = stand.seen(&host);
                ensure!(
                    seen.len() < 2 && seen.iter().all(|seen| !seen.target.contains("smuggled")),
                    "the origin has seen {seen:?}"
                );
            }
            Want::Passes(target) => {
                let seen = wire.reply()?.seen()?;
                ensure!(seen.target == *target, "the origin has seen {:?}", seen.target);
                wire.finish();
                wire.rest()?;
                let seen = stand.seen(&host);
                ensure!(
                    seen.len() == 1 && seen.iter().all(|seen| seen.complete),
                    "the origin has seen {seen:?}"
                );
            }
            Want::Broken => {
                // Who hangs up is not waited for: what is refused for its bytes has to be so before.
                let first = wire.some(Duration::from_millis(500))?;
                wire.finish();
                let text = String::from_utf8_lossy(&[first, wire.rest()?].concat()).into_owned();
                ensure!(!text.contains(" 200 "), "{text:?}");
                let whole: Vec<_> = stand.seen(&host).into_iter().filter(|seen| seen.complete).collect();
                ensure!(whole.is_empty(), "the origin takes it for whole: {whole:?}");
            }
        }
        Ok(())
    }
}

/// A host that only this case has.
fn own_host(row: &str, name: &str) -> String {
    format!(
        "{}.{}.test",
        name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
        row.replace(['.', '_'], "-")
    )
}

fn unescaped(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'\\', [b'r', ..]) => bytes.push(b'\r'),
            (b'\\', [b'n', ..]) => bytes.push(b'\n'),
            (b'\\', [b't', ..]) => bytes.push(b'\t'),
            (b'\\', [b'\\', ..]) => bytes.push(b'\\'),
            (b'\\', [b'x', high, low, ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'\\', _) => bail!("an escape of nothing in {text:?}"),
            (byte, _) => {
                bytes.push(*byte);
                continue;
            }
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    Ok(bytes)
}

/// A body that is shorter or longer than a stream says.
pub(crate) fn h2_length(stand: &Stand) -> Result<()> {
    for (name, length, body) in [
        ("short", "7", &b"abc"[..]),
        ("long", "2", b"abc"),
        ("none", "3", b""),
        ("no-number", "x", b"abc"),
        ("plus", "+3", b"abc"),
        ("list", "3, 3", b"abc"),
    ] {
        let host = format!("h2-{name}.length.test");
        let mut raw = Raw::client(stand)?;
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", &*host),
            ("content-length", length),
        ];
        raw.send(&[headers(1, 0, &fields), data(1, body)])?;
        let status = raw.status(1)?;
        ensure!(status.is_none_or(|status| status >= 400), "{name}: {status:?}");
        let whole: Vec<_> = stand.seen(&host).into_iter().filter(|seen| seen.complete).collect();
        ensure!(whole.is_empty(), "{name}: the origin takes it for whole: {whole:?}");
    }
    Ok(())
}

/// Fields that HTTP/2 can carry and HTTP/1 cannot, and fields of a connection.
pub(crate) fn h2_fields(stand: &Stand) -> Result<()> {
    for (name, fields) in FIELDS {
        let host = format!("h2-{name}.fields.test");
        let mut all = vec![(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "@")];
        for (field, value) in *fields {
            // A field of the request itself takes the place of the good one.
            match all.iter_mut().find(|(own, _)| own == field && *name != "two-paths") {
                Some(own) => own.1 = value,
                None => all.push((field, value)),
            }
        }
        let all: Vec<_> = all.iter().map(|(field, value)| (*field, value.replace('@', &host))).collect();
        let all: Vec<_> = all.iter().map(|(field, value)| (*field, value.as_str())).collect();
        let mut raw = Raw::client(stand)?;
        raw.send(&[headers(1, END_STREAM, &all)])?;
        let status = raw.status(1)?;
        ensure!(status.is_none_or(|status| status >= 400), "{name}: {status:?}");
        let seen = stand.seen(&host);
        ensure!(seen.is_empty(), "{name}: the origin has seen {seen:?}");
    }
    // A fragment is gone before anybody here sees it: what rules see is what is sent on.
    let mut raw = Raw::client(stand)?;
    let fragment = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a#/b"),
        (":authority", "h2-fragment.fields.test"),
    ];
    raw.send(&[headers(1, END_STREAM, &fragment)])?;
    raw.status(1)?;
    let seen = stand.seen("h2-fragment.fields.test");
    ensure!(seen.iter().all(|seen| seen.target == "/a"), "fragment: the origin has seen {seen:?}");
    // The same without anything wrong, or the rest would show nothing.
    let mut raw = Raw::client(stand)?;
    let good = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "h2-good.fields.test"),
        ("te", "trailers"),
        ("x-a", "b"),
    ];
    raw.send(&[headers(1, END_STREAM, &good)])?;
    ensure!(raw.status(1)? == Some(200), "nothing passes");
    Ok(())
}

const FIELDS: &[(&str, &[(&str, &str)])] = &[
    ("crlf-in-value", &[("x-a", "b\r\nx-b: c")]),
    ("lf-in-value", &[("x-a", "b\nx-b: c")]),
    ("cr-in-value", &[("x-a", "b\rc")]),
    ("nul-in-value", &[("x-a", "b\0c")]),
    ("request-in-value", &[("x-a", "b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: @\r\n\r\n")]),
    ("colon-in-name", &[("x-a: b", "c")]),
    ("crlf-in-name", &[("x-a\r\nx-b", "c")]),
    ("space-in-name", &[("x a", "c")]),
    ("empty-name", &[("", "c")]),
    ("upper-case-name", &[("X-A", "c")]),
    ("underscore", &[("x_forwarded_for", "192.0.2.1")]),
    ("transfer-encoding", &[("transfer-encoding", "chunked")]),
    ("connection", &[("connection", "close")]),
    ("keep-alive", &[("keep-alive", "1")]),
    ("proxy-connection", &[("proxy-connection", "close")]),
    ("upgrade", &[("upgrade", "websocket")]),
    ("te", &[("te", "chunked")]),
    ("two-lengths", &[("content-length", "0"), ("content-length", "3")]),
    ("another-host", &[("host", "other.test")]),
    ("path-with-space", &[(":path", "/a HTTP/1.1")]),
    ("path-with-crlf", &[(":path", "/a HTTP/1.1\r\nHost: other.test\r\n\r\n")]),
    ("path-without-slash", &[(":path", "a")]),
    ("path-empty", &[(":path", "")]),
    ("path-absolute", &[(":path", "http://@/a")]),
    ("path-asterisk", &[(":path", "*")]),
    ("two-paths", &[(":path", "/b")]),
    ("method-with-space", &[(":method", "GET /smuggled")]),
    ("method-with-crlf", &[(":method", "GET / HTTP/1.1\r\nHost: @\r\n\r\nGET")]),
    ("method-empty", &[(":method", "")]),
    ("scheme-strange", &[(":scheme", "gopher")]),
    ("scheme-with-path", &[(":scheme", "http://other.test/x?")]),
    ("authority-userinfo", &[(":authority", "user%40@")]),
    ("authority-with-path", &[(":authority", "@/x")]),
    ("authority-with-space", &[(":authority", "@ x")]),
    ("authority-with-port-of-nothing", &[(":authority", "@:99999")]),
    ("authority-empty", &[(":authority", "")]),
    ("pseudo-of-an-answer", &[(":status", "200")]),
    ("pseudo-of-nothing", &[(":smuggled", "@")]),
    ("protocol-without-connect", &[(":protocol", "websocket")]),
    ("pseudo-behind-fields", &[("x-a", "b"), (":protocol", "websocket")]),
];
