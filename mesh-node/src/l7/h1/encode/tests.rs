//! What is written, byte for byte.

use bytes::Bytes;

use super::super::Limits;
use super::super::tests::{request, response};
use super::*;

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, value.parse().unwrap());
    }
    map
}

fn target(text: &'static str) -> Target {
    Target::origin(Bytes::from_static(text.as_bytes())).unwrap()
}

fn authority(text: &'static str) -> Authority {
    Authority::parse(Bytes::from_static(text.as_bytes())).unwrap()
}

fn upgrade() -> Upgrade {
    Upgrade::parse(&header::HeaderValue::from_static("websocket")).unwrap()
}

#[test]
fn a_request_is_written_anew() {
    let hostile = headers(&[
        ("host", "evil"),
        ("content-length", "7"),
        ("transfer-encoding", "chunked"),
        ("connection", "x"),
        ("upgrade", "h2c"),
        ("accept", " x "),
    ]);
    let (target, authority, mut out) = (target("/a?b"), authority("svc:80"), BytesMut::new());
    let parts = RequestParts {
        method: &Method::POST,
        target: &target,
        authority: Some(&authority),
        headers: &hostile,
        framing: Framing::Length(3),
        keep_alive: true,
        upgrade: None,
        untraced: false,
    };
    let mut body = encode_request(&parts, &mut out).unwrap();
    body.data(b"abc", &mut out).unwrap();
    body.finish(None, &mut out).unwrap();
    let expected = "POST /a?b HTTP/1.1\r\nhost: svc:80\r\naccept: x\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(out, expected);
}

#[test]
fn a_request_says_that_it_is_not_traced_whatever_its_headers_say() {
    let (target, headers, mut out) =
        (target("/"), headers(&[("x-b3-sampled", "1"), ("a", "b")]), BytesMut::new());
    let parts = RequestParts {
        method: &Method::GET,
        target: &target,
        authority: None,
        headers: &headers,
        framing: Framing::None,
        keep_alive: true,
        upgrade: None,
        untraced: true,
    };
    encode_request(&parts, &mut out).unwrap();
    assert_eq!(out, "GET / HTTP/1.1\r\nhost: \r\na: b\r\nx-b3-sampled: 0\r\n\r\n");
}

#[test]
fn connection_says_all_in_one_field() {
    let (target, upgrade, te) = (target("/"), upgrade(), headers(&[("te", "trailers")]));
    let mut parts = RequestParts {
        method: &Method::GET,
        target: &target,
        authority: None,
        headers: &te,
        framing: Framing::None,
        keep_alive: false,
        upgrade: Some(&upgrade),
        untraced: false,
    };
    let mut out = BytesMut::new();
    encode_request(&parts, &mut out).unwrap();
    let fields = "te: trailers\r\nconnection: upgrade, close, te\r\nupgrade: websocket\r\n";
    assert_eq!(out, format!("GET / HTTP/1.1\r\nhost: \r\n{fields}\r\n"));

    out.clear();
    parts.method = &Method::POST;
    (parts.keep_alive, parts.upgrade) = (true, None);
    encode_request(&parts, &mut out).unwrap();
    let fields = "te: trailers\r\nconnection: te\r\ncontent-length: 0\r\n";
    assert_eq!(out, format!("POST / HTTP/1.1\r\nhost: \r\n{fields}\r\n"));

    parts.framing = Framing::Close;
    assert_eq!(encode_request(&parts, &mut out).unwrap_err(), EncodeError::CloseDelimitedRequest);
}

/// The head of a response, and whether its body ends with the connection.
fn head(
    method: &Method,
    version: Version,
    status: u16,
    framing: Framing,
    fields: &HeaderMap,
) -> (String, bool) {
    let mut out = BytesMut::new();
    let status = StatusCode::from_u16(status).unwrap();
    let parts =
        ResponseParts { method, version, status, headers: fields, framing, keep_alive: true, upgrade: None };
    let body = encode_response(&parts, &mut out);
    (String::from_utf8(out.to_vec()).unwrap(), body.ends_with_connection())
}

#[test]
fn responses_say_where_they_end() {
    use Framing::{Chunked, Close, Length, None};
    let (get, new, old) = (&Method::GET, Version::Http11, Version::Http10);
    let declared = headers(&[("content-length", "9")]);
    let rows = [
        (get, new, 200, Length(5), "200 OK\r\ncontent-length: 5\r\n\r\n", false),
        (get, new, 200, Chunked, "200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false),
        (get, new, 200, Close, "200 OK\r\nconnection: close\r\n\r\n", true),
        (get, new, 404, None, "404 Not Found\r\ncontent-length: 0\r\n\r\n", false),
        (get, new, 599, None, "599 \r\ncontent-length: 0\r\n\r\n", false),
        (get, old, 200, Length(5), "200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\n", false),
        (get, old, 200, Chunked, "200 OK\r\nconnection: close\r\n\r\n", true),
        (get, new, 204, Length(5), "204 No Content\r\n\r\n", false),
        (get, new, 204, Close, "204 No Content\r\n\r\n", false),
        (get, new, 100, None, "100 Continue\r\n\r\n", false),
        (get, new, 304, None, "304 Not Modified\r\ncontent-length: 9\r\n\r\n", false),
        (&Method::HEAD, new, 200, None, "200 OK\r\ncontent-length: 9\r\n\r\n", false),
        (&Method::HEAD, new, 200, Length(5), "200 OK\r\ncontent-length: 5\r\n\r\n", false),
        (
            &Method::HEAD,
            old,
            200,
            Chunked,
            "200 OK\r\nconnection: keep-alive\r\ncontent-length: 9\r\n\r\n",
            false,
        ),
        (&Method::CONNECT, new, 200, None, "200 OK\r\n\r\n", false),
        (&Method::CONNECT, new, 403, None, "403 Forbidden\r\ncontent-length: 0\r\n\r\n", false),
    ];
    for (method, version, status, framing, expected, close) in rows {
        let written = head(method, version, status, framing, &declared);
        assert_eq!(written, (format!("HTTP/1.1 {expected}"), close), "{method} {status} {framing:?}");
    }
}

#[test]
fn only_the_answer_closes_the_connection() {
    let none = HeaderMap::new();
    for (status, expected) in [(100, "100 Continue\r\n"), (204, "204 No Content\r\nconnection: close\r\n")] {
        let mut out = BytesMut::new();
        let parts = ResponseParts {
            method: &Method::POST,
            version: Version::Http11,
            status: StatusCode::from_u16(status).unwrap(),
            headers: &none,
            framing: Framing::None,
            keep_alive: false,
            upgrade: None,
        };
        encode_response(&parts, &mut out);
        assert_eq!(out, format!("HTTP/1.1 {expected}\r\n"));
    }
}

#[test]
fn a_switch_is_written() {
    let (upgrade, none, mut out) = (upgrade(), HeaderMap::new(), BytesMut::new());
    let parts = ResponseParts {
        method: &Method::GET,
        version: Version::Http11,
        status: StatusCode::SWITCHING_PROTOCOLS,
        headers: &none,
        framing: Framing::None,
        keep_alive: true,
        upgrade: Some(&upgrade),
    };
    encode_response(&parts, &mut out);
    assert_eq!(out, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let read = response(&Method::GET, &mut std::iter::once(&*out));
    assert_eq!(read, "101 Switching none upgrade=websocket");
}

#[test]
fn decimals() {
    for number in [0, 7, 10, 1_234_567_890, u64::MAX] {
        let mut out = BytesMut::new();
        put_decimal(number, &mut out);
        assert_eq!(out, number.to_string());
    }
}

#[test]
fn a_target_cannot_end_the_line() {
    for text in ["/ HTTP/1.1\r\nX: y", "/\r\n", "/a b", "/\u{e9}", "", "x", "/#"] {
        assert!(Target::origin(Bytes::from(text)).is_err(), "{text:?}");
    }
    for text in ["a\r\nX: y", "a b", "", "a\n"] {
        assert!(Authority::parse(Bytes::from(text)).is_err(), "{text:?}");
    }
    assert!(
        request(&Limits::default(), &mut std::iter::once(b"GET / HTTP/1.1\r\n\r\n".as_slice()))
            .starts_with("400")
    );
}
