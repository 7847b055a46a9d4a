//! Responses, row by row.

use super::super::tests::{Case, response, run};
use super::*;

#[test]
fn to_get() {
    run(TO_GET, |arrivals| response(&Method::GET, arrivals));
}

#[test]
fn to_head() {
    run(TO_HEAD, |arrivals| response(&Method::HEAD, arrivals));
}

#[test]
fn to_connect() {
    run(TO_CONNECT, |arrivals| response(&Method::CONNECT, arrivals));
}

const TO_GET: &[Case] = &[
    (
        "length",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc",
        "200 Final 2 content-length=2 \"ab\" rest=1",
    ),
    (
        "chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
        "200 Final chunked \"a\" +x=y",
    ),
    ("until close", b"HTTP/1.1 200 OK\r\n\r\nabc", "200 Final until-close close \"abc\""),
    ("1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", "200 Final 1 1.0 close content-length=1 \"a\""),
    (
        "1.0 keep-alive",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        "200 Final 1 1.0 content-length=1 \"a\"",
    ),
    (
        "close",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "200 Final 0 close content-length=0",
    ),
    ("no text", b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", "404 Final 0 content-length=0"),
    ("no space", b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", "404 Final 0 content-length=0"),
    ("other text", b"HTTP/1.1 200 Sehr gut\r\nContent-Length: 0\r\n\r\n", "200 Final 0 content-length=0"),
    ("text obs-text", b"HTTP/1.1 200 \xe9\r\nContent-Length: 0\r\n\r\n", "200 Final 0 content-length=0"),
    ("unknown code", b"HTTP/1.1 799 x\r\nContent-Length: 0\r\n\r\n", "799 Final 0 content-length=0"),
    ("204", b"HTTP/1.1 204 No Content\r\n\r\nHTTP", "204 Final none rest=4"),
    ("204 with zero", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "204 Final none"),
    ("204 with length", b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", "502 body_not_allowed"),
    (
        "204 with chunks",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "502 body_not_allowed",
    ),
    (
        "304",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nETag: x\r\n\r\nH",
        "304 Final none content-length=3 etag=x rest=1",
    ),
    ("100", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "100 Interim none rest=19"),
    ("103", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", "103 Interim none link=x"),
    ("100 with length", b"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\n", "502 body_not_allowed"),
    (
        "101",
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
        "101 Switching none upgrade=websocket rest=2",
    ),
    ("101 without upgrade", b"HTTP/1.1 101 Switching\r\n\r\n", "502 switch_without_upgrade"),
    (
        "101 to h2c",
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "502 switch_without_upgrade",
    ),
    (
        "426",
        b"HTTP/1.1 426 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        "426 Final 0 content-length=0",
    ),
    (
        "TE and CL",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        "502 length_and_encoding",
    ),
    ("TE in 1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "502 transfer_encoding_version"),
    (
        "TE gzip, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "502 transfer_coding",
    ),
    ("TE identity", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", "502 transfer_encoding"),
    (
        "CL twice",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "502 content_length_repeated",
    ),
    ("CL list", b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc", "502 content_length"),
    ("CL negative", b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc", "502 content_length"),
    ("names set-cookie", b"HTTP/1.1 200 OK\r\nConnection: set-cookie\r\n\r\n", "502 connection_nominates"),
    (
        "hop by hop",
        b"HTTP/1.1 200 OK\r\nConnection: x\r\nX: y\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n",
        "200 Final 0 content-length=0",
    ),
    ("leading empty line", b"\r\nHTTP/1.1 200 OK\r\n\r\n", "502 status_line"),
    ("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "502 line_end"),
    ("bare CR", b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n", "502 status_line"),
    ("folded", b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 0\r\n\r\n", "502 field_name"),
    ("space before colon", b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", "502 field_name"),
    ("NUL", b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", "502 field_value"),
    ("short code", b"HTTP/1.1 20 OK\r\n\r\n", "502 status_line"),
    ("long code", b"HTTP/1.1 2000 OK\r\n\r\n", "502 status_line"),
    ("code 099", b"HTTP/1.1 099 OK\r\n\r\n", "502 status_line"),
    ("code in words", b"HTTP/1.1 abc OK\r\n\r\n", "502 status_line"),
    ("two spaces", b"HTTP/1.1  200 OK\r\n\r\n", "502 status_line"),
    ("version", b"HTTP/2.0 200 OK\r\n\r\n", "502 version"),
    ("no version", b"HTTP 200 OK\r\n\r\n", "502 status_line"),
    ("not HTTP", b"SSH-2.0-x\r\n", "502 status_line"),
    ("cut", b"HTTP/1.1 200 OK\r\nCont", "more"),
];

const TO_HEAD: &[Case] = &[
    ("length", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP", "200 Final none content-length=9 rest=4"),
    ("chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nHTTP", "200 Final none rest=4"),
    ("neither", b"HTTP/1.1 200 OK\r\n\r\n", "200 Final none"),
    (
        "both",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
        "502 length_and_encoding",
    ),
];

const TO_CONNECT: &[Case] = &[
    ("tunnel", b"HTTP/1.1 200 OK\r\n\r\n\x16\x03", "200 Tunnel none rest=2"),
    ("tunnel with length", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\x16", "200 Tunnel none rest=1"),
    (
        "tunnel with chunks",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x16",
        "200 Tunnel none rest=1",
    ),
    ("refused", b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", "403 Final 2 content-length=2 \"no\""),
];
