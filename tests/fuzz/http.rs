//! What a request is: its host, its path, its head and its body.

use anyhow::{Result, ensure};
use bytes::BytesMut;
use http::HeaderMap;
use mesh_core::http::host::Host;
use mesh_core::http::path::{EscapedSlashes, Normalization, normalize};
use mesh_core::http::xff;
use mesh_node::l7::h1::{
    Authority, BodyDecoder, Framing, Limits, Piece, RequestHead, RequestParts, Underscores, encode_request,
    parse_request,
};

use crate::Target;
use crate::engine::way;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target { name: "authority", seeds: authorities, words: AUTHORITIES, run: authority },
        Target { name: "host", seeds: authorities, words: AUTHORITIES, run: host },
        Target { name: "path", seeds: || texts(PATHS), words: PATHS, run: path },
        Target { name: "headers", seeds: || texts(HEADS), words: FIELDS, run: headers },
        Target { name: "body", seeds: || texts(BODIES), words: CHUNKS, run: body },
        Target { name: "forwarded", seeds: || texts(LISTS), words: LISTS, run: forwarded },
    ]
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn authorities() -> Vec<Vec<u8>> {
    texts(&["shop.test", "Shop.Test.:8080", "10.0.0.1:80", "[fd00::1]:443", "[::ffff:10.0.0.1]"])
}

/// What passes for an authority is read by its host as it is written.
fn authority(input: &[u8]) -> Result<u64> {
    let parsed = match Authority::parse(input.to_vec().into()) {
        Ok(parsed) => parsed,
        Err(reason) => return Ok(way(reason.as_str())),
    };
    let (canonical, port) = Host::of(parsed.as_str());
    ensure!(port == parsed.port(), "ports {port:?} and {:?}", parsed.port());
    ensure!(Host::of(parsed.host()).0 == canonical, "the host alone is another");
    ensure!(parsed.as_bytes().iter().all(u8::is_ascii_graphic), "odd bytes pass");
    let again = Authority::parse(parsed.as_bytes().clone());
    ensure!(again.as_ref() == Ok(&parsed), "it is not what was written");
    Ok(way(&format!("{} {}", matches!(canonical, Host::Name(_)), port.is_some())))
}

/// The normal form of a host is that of all its spellings.
fn host(input: &[u8]) -> Result<u64> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(0) };
    let (canonical, _) = Host::of(text);
    let upper = text.to_ascii_uppercase();
    ensure!(Host::of(&upper).0 == canonical, "upper case is another host");
    if let Host::Name(name) = &canonical {
        ensure!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name} has upper case");
        if !name.ends_with('.') && !name.contains(':') {
            ensure!(Host::of(name).0 == canonical, "{name} is not normal");
            let dotted = format!("{name}.:80");
            ensure!(Host::of(&dotted) == (canonical.clone(), Some(80)), "a dot and a port make another");
        }
    }
    Ok(way(&format!("{}", matches!(canonical, Host::Name(_)))))
}

/// Rules are asked about what is sent on: the normal form is normal, under every level.
fn path(input: &[u8]) -> Result<u64> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(0) };
    let mut ways = String::new();
    for level in [
        Normalization::None,
        Normalization::Base,
        Normalization::MergeSlashes,
        Normalization::DecodeAndMergeSlashes,
    ] {
        for slashes in [EscapedSlashes::Keep, EscapedSlashes::Refuse] {
            let normal = match normalize(text, level, slashes) {
                Ok(normal) => normal,
                Err(error) => {
                    ways.push_str(error.as_str());
                    continue;
                }
            };
            ensure!(
                normalize(&normal, level, slashes).as_deref() == Ok(&*normal),
                "{level:?}: {normal:?} is not normal"
            );
            if level != Normalization::None {
                let segments = || normal.split('/');
                ensure!(
                    segments().all(|segment| segment != "." && segment != ".."),
                    "{level:?}: dots stay in {normal:?}"
                );
                ensure!(!normal.contains('\\'), "{level:?}: a backslash stays in {normal:?}");
                ensure!(
                    normal.bytes().all(|byte| byte.is_ascii_graphic()),
                    "{level:?}: odd bytes in {normal:?}"
                );
                let lower = normal.to_ascii_lowercase();
                ensure!(
                    !["%2e", "%00", "%0d", "%0a", "%41"].iter().any(|it| lower.contains(it)),
                    "{level:?}: {normal:?}"
                );
            }
            ways.push(if *normal == *text { '=' } else { '~' });
        }
    }
    Ok(way(&ways))
}

/// What a head means is what the server behind reads: written down and read again it is the same.
fn headers(input: &[u8]) -> Result<u64> {
    let mut ways = String::new();
    for underscores in [Underscores::Refuse, Underscores::DropTwins] {
        let limits = Limits { underscores, ..Limits::default() };
        let mut head = match read(input, &limits) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(1),
            Err(reason) => {
                ways.push_str(&reason);
                continue;
            }
        };
        if let Err(refused) = head.strip_hop_by_hop() {
            ways.push_str(refused.reason.as_str());
            continue;
        }
        let mut written = BytesMut::new();
        let RequestHead { method, target, authority, headers, framing, upgrade, .. } = &head;
        let parts = RequestParts {
            method,
            target,
            authority: authority.as_ref(),
            headers,
            framing: *framing,
            keep_alive: true,
            upgrade: upgrade.as_ref(),
            untraced: false,
        };
        if encode_request(&parts, &mut written).is_err() {
            ways.push_str("not written");
            continue;
        }
        if authority.is_none() {
            // HTTP/1.0 without a host: whoever sends it on gives it one.
            continue;
        }
        // What is written may be longer than what came, by what the encoder says itself.
        let roomy = Limits { head_bytes: limits.head_bytes * 2, line_bytes: limits.line_bytes * 2, ..limits };
        let again = match read(&written, &roomy) {
            Ok(Some(again)) => again,
            other => anyhow::bail!("what is sent on is refused: {other:?}: {}", written.escape_ascii()),
        };
        ensure!(
            again.method == *method && again.target.as_bytes() == target.as_bytes(),
            "another request: {}",
            written.escape_ascii()
        );
        ensure!(again.authority == *authority, "another host: {}", written.escape_ascii());
        let has_body = |framing: Framing| framing.has_body();
        ensure!(has_body(again.framing) == has_body(*framing), "another body: {}", written.escape_ascii());
        ensure!(!framing.has_body() || again.framing == *framing, "another end: {}", written.escape_ascii());
        ensure!(
            written.windows(4).filter(|end| end == b"\r\n\r\n").count() == 1,
            "two heads: {}",
            written.escape_ascii()
        );
        ways.extend([format!("{framing:?} {} {}", upgrade.is_some(), headers.len())]);
    }
    Ok(way(&ways))
}

fn read(bytes: &[u8], limits: &Limits) -> Result<Option<RequestHead>, String> {
    let mut buffer = BytesMut::from(bytes);
    let read = parse_request(&mut buffer, limits, &mut HeaderMap::new());
    read.map_err(|refused| refused.reason.as_str().to_owned())
}

/// However a body is cut into pieces, it is the same body, or refused.
fn body(input: &[u8]) -> Result<u64> {
    let whole = decode(input, usize::MAX);
    let dripped = decode(input, 1);
    ensure!(whole.1 == dripped.1, "in pieces it ends otherwise: {:?} {:?}", whole.1, dripped.1);
    ensure!(whole.0 == dripped.0 || whole.1.is_err(), "in pieces it is another body");
    Ok(way(&format!("{:?} {}", whole.1, whole.0.len().min(9))))
}

/// The content, and whether it has come to its end, with how many trailers.
fn decode(input: &[u8], at_once: usize) -> (Vec<u8>, Result<Option<usize>, String>) {
    let mut decoder = BodyDecoder::request(Framing::Chunked, &Limits::default());
    let (mut buffer, mut content) = (BytesMut::new(), Vec::new());
    for piece in input.chunks(at_once.min(input.len().max(1))) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Piece::Data(data)) => content.extend_from_slice(&data),
                Ok(Piece::End(trailers)) => {
                    return (content, Ok(Some(trailers.map_or(0, |fields| fields.len()))));
                }
                Ok(Piece::NeedMore) => break,
                Err(refused) => return (content, Err(refused.reason.as_str().to_owned())),
            }
        }
    }
    (content, Ok(None))
}

/// A list of proxies names no client that none of the trusted ones has seen.
fn forwarded(input: &[u8]) -> Result<u64> {
    let peer = std::net::IpAddr::from([192, 0, 2, 1]);
    let values: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let entries = xff::hops(values.iter().copied());
    let mut ways = String::new();
    for trusted in 0..4 {
        let client = xff::client(values.iter().copied(), peer, trusted);
        ensure!(trusted > 0 || client.address == peer, "a stranger is believed");
        ways.extend([format!("{:?}", client.said_by)]);
    }
    if let Some(list) = xff::appended(values.iter().copied(), peer) {
        ensure!(list.len() <= xff::MAX_BYTES, "a list of {} bytes", list.len());
        ensure!(list.ends_with(b"192.0.2.1"), "we are not the last");
        ensure!(xff::client([&*list], peer, 1).address == peer, "the last is somebody else");
    }
    Ok(way(&format!("{ways} {}", entries.min(3))))
}

const AUTHORITIES: &[&str] = &[
    ":80", ":", "[", "]", "::", "::ffff:", "%25", "@", ".", "..", "A", "0x7f", "65536", "127.1", "xn--", "_",
];
const PATHS: &[&str] = &[
    "/",
    "/a/b",
    "//",
    "/.",
    "/..",
    "/../",
    "%2e",
    "%2E%2e",
    "%2f",
    "%5C",
    "\\",
    "%25",
    "%00",
    "%0d%0a",
    "%61",
    "%c3%a9",
    ";x",
    "?",
    "#",
    "%",
    "/a/./b/../c",
];
const LISTS: &[&str] =
    &["10.0.0.1", "192.0.2.9, 10.0.0.1", ",", " , ", "unknown", "[fd00::1]:80", "::ffff:10.0.0.1", "\n"];
const HEADS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "POST /a?b=c HTTP/1.1\r\nHost: a.test:80\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: te, x-a\r\nX-A: b\r\n\r\n",
    "GET http://b.test/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\nCookie: a=b\r\n\r\n",
];
const FIELDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    ": ",
    " ",
    "\t",
    "\0",
    "GET ",
    "POST ",
    "CONNECT ",
    " HTTP/1.1",
    " HTTP/1.0",
    "Host: b\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Connection: close\r\n",
    "Connection: host\r\n",
    "X-Forwarded-For: 10.0.0.1\r\n",
    "x_forwarded_for: a\r\n",
    "Upgrade: h2c\r\n",
    "Expect: 100-continue\r\n",
    "http://",
    "https://",
    "*",
    "@",
    "#",
    "%00",
    "[::1]",
    "+",
    "0x",
    ",",
];
const BODIES: &[&str] = &[
    "0\r\n\r\n",
    "3\r\nabc\r\n0\r\n\r\n",
    "1;a=b\r\nx\r\nA\r\n0123456789\r\n0\r\nX-A: b\r\n\r\n",
    "ffffffffffffffff\r\n",
];
const CHUNKS: &[&str] = &[
    "0\r\n",
    "\r\n",
    "\r",
    "\n",
    "3\r\nabc\r\n",
    "00000000",
    "ffffffff",
    ";",
    "; a=\"b\"",
    "X-A: b\r\n",
    "Content-Length: 3\r\n",
    " ",
    "0x",
    "+",
];
