//! Requests, row by row: what is read how, and what is refused as what.

use super::super::tests::{Case, request, run};
use super::super::{Limits, Underscores};
use super::*;

#[test]
fn heads() {
    run(HEADS, |arrivals| request(&Limits::default(), arrivals));
}

#[test]
fn targets_and_hosts() {
    run(TARGETS, |arrivals| request(&Limits::default(), arrivals));
}

#[test]
fn framing() {
    run(FRAMING, |arrivals| request(&Limits::default(), arrivals));
}

#[test]
fn connection_options() {
    run(CONNECTION, |arrivals| request(&Limits::default(), arrivals));
}

#[test]
fn limits() {
    let small = Limits { head_bytes: 80, line_bytes: 20, fields: 3, ..Limits::default() };
    run(LIMITS, |arrivals| request(&small, arrivals));
}

#[test]
fn underscores_at_gateways() {
    let gateway = Limits { underscores: Underscores::Refuse, ..Limits::default() };
    run(UNDERSCORES_REFUSED, |arrivals| request(&gateway, arrivals));
}

const HEADS: &[Case] = &[
    ("plain", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / a none"),
    ("fields", b"GET / HTTP/1.1\r\nHost: a\r\nAccept: x\r\nX-Y:z\r\n\r\n", "GET / a none accept=x x-y=z"),
    ("field twice", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nx: 2\r\n\r\n", "GET / a none x=1 x=2"),
    ("value trimmed", b"GET / HTTP/1.1\r\nHost:\t a \t\r\nX: \t b  \r\n\r\n", "GET / a none x=b"),
    ("value empty", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \r\n\r\n", "GET / a none x= y="),
    ("value obs-text", b"GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa9\r\n\r\n", "GET / a none x=\\xc3\\xa9"),
    ("value with tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\r\n\r\n", "GET / a none x=a\\tb"),
    ("extension method", b"PURGE / HTTP/1.1\r\nHost: a\r\n\r\n", "PURGE / a none"),
    ("pipelined", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b", "GET / a none rest=6"),
    ("one empty line", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / a none"),
    ("two empty lines", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 leading_lines"),
    ("leading LF", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 line_end"),
    ("leading CR", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 leading_lines"),
    ("leading space", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("only an empty line", b"\r\n", "more"),
    ("cut line", b"GET / HTTP/1.1\r\nHos", "more"),
    ("no empty line", b"GET / HTTP/1.1\r\nHost: a\r\n", "more"),
    ("tls", b"\x16\x03\x01\x02\x00\x01", "400 request_line"),
    ("bare LF after line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", "400 line_end"),
    ("bare LF after field", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "400 line_end"),
    ("bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", "400 line_end"),
    ("bare LF in value", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\nc\r\n\r\n", "400 line_end"),
    ("bare CR in value", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", "400 field_value"),
    ("bare CR in name", b"GET / HTTP/1.1\r\nHost: a\r\nX\r: b\r\n\r\n", "400 field_name"),
    ("bare CR in line", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "400 field_value"),
    ("CR CR LF after line", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "400 line_end"),
    ("folded line", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "400 field_name"),
    ("folded line, tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", "400 field_name"),
    ("space before first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400 field_name"),
    ("space before colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400 field_name"),
    ("tab before colon", b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", "400 field_name"),
    ("empty name", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "400 field_name"),
    ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "400 field_name"),
    ("NUL in name", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", "400 field_name"),
    ("obs-text in name", b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: b\r\n\r\n", "400 field_name"),
    ("quote in name", b"GET / HTTP/1.1\r\nHost: a\r\n\"X\": b\r\n\r\n", "400 field_name"),
    ("NUL in value", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\0\r\n\r\n", "400 field_value"),
    ("ESC in value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[0m\r\n\r\n", "400 field_value"),
    ("DEL in value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", "400 field_value"),
    ("lower-case method", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", "400 method_case"),
    ("mixed-case method", b"Post / HTTP/1.1\r\nHost: a\r\n\r\n", "400 method_case"),
    ("method not a token", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("long method", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\nHost: a\r\n\r\n", "501 method_length"),
    ("two spaces before target", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("two spaces before version", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("space after version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "400 line_end"),
    ("tab in request line", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("words after target", b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("HTTP/0.9", b"GET /\r\n\r\n", "400 request_line"),
    ("HTTP/0.9 with version", b"GET / HTTP/0.9\r\n\r\n", "505 version"),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "505 version"),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 version"),
    ("HTTP/3", b"GET / HTTP/3\r\nHost: a\r\n\r\n", "505 version"),
    ("HTTP/11", b"GET / HTTP/11\r\nHost: a\r\n\r\n", "505 version"),
    ("lower-case http", b"GET / http/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("other protocol", b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", "400 request_line"),
    ("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", "GET / - none 1.0 close"),
    ("underscore", b"GET / HTTP/1.1\r\nHost: a\r\nX_Y: b\r\n\r\n", "GET / a none x_y=b"),
    ("underscore twin", b"GET / HTTP/1.1\r\nHost: a\r\nX_Y: b\r\nX-Y: c\r\n\r\n", "GET / a none x-y=c"),
    ("underscore spoof", b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded-For: b\r\n\r\n", "GET / a none"),
    ("underscore length", b"GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n", "GET / a none"),
];

const TARGETS: &[Case] = &[
    ("origin", b"GET /a/b?c=d?e HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a/b?c=d?e a none"),
    ("backslash", b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a\\b a none"),
    ("braces", b"GET /{a}|[b]^\"c\" HTTP/1.1\r\nHost: a\r\n\r\n", "GET /{a}|[b]^\"c\" a none"),
    ("two slashes", b"GET //b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET //b/ a none"),
    ("absolute", b"GET http://b:80/x?y HTTP/1.1\r\nHost: b:80\r\n\r\n", "GET /x?y b:80 none"),
    ("absolute wins", b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x b none"),
    ("absolute https", b"GET HTTPS://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / b none"),
    ("absolute query", b"GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?x b none"),
    ("absolute options", b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * b none"),
    ("absolute without host", b"GET http://b/ HTTP/1.1\r\n\r\n", "400 host_missing"),
    ("absolute, bad host field", b"GET http://b/ HTTP/1.1\r\nHost: a/b\r\n\r\n", "400 host"),
    ("absolute, two hosts", b"GET http://b/ HTTP/1.1\r\nHost: b\r\nHost: b\r\n\r\n", "400 host_repeated"),
    ("absolute userinfo", b"GET http://u:p@b/ HTTP/1.1\r\nHost: b\r\n\r\n", "400 host_userinfo"),
    ("absolute, at in path", b"GET http://b/@c HTTP/1.1\r\nHost: b\r\n\r\n", "GET /@c b none"),
    ("absolute, no authority", b"GET http:///x HTTP/1.1\r\nHost: b\r\n\r\n", "400 host"),
    ("absolute, backslash", b"GET http://b\\@c/ HTTP/1.1\r\nHost: b\r\n\r\n", "400 host_userinfo"),
    ("other scheme", b"GET ftp://b/ HTTP/1.1\r\nHost: b\r\n\r\n", "400 target_form"),
    ("scheme only", b"GET http: HTTP/1.1\r\nHost: b\r\n\r\n", "400 target_form"),
    ("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * a none"),
    ("asterisk with GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400 target_form"),
    ("authority with GET", b"GET b:80 HTTP/1.1\r\nHost: a\r\n\r\n", "400 target_form"),
    ("no slash", b"GET index.html HTTP/1.1\r\nHost: a\r\n\r\n", "400 target_form"),
    ("query only", b"GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", "400 target_form"),
    ("connect", b"CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT b:443 b:443 none"),
    ("connect v6", b"CONNECT [::1]:443 HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT [::1]:443 [::1]:443 none"),
    (
        "connect early bytes",
        b"CONNECT b:443 HTTP/1.1\r\nHost: b\r\n\r\nxyz",
        "CONNECT b:443 b:443 none rest=3",
    ),
    ("connect without port", b"CONNECT b HTTP/1.1\r\nHost: b\r\n\r\n", "400 target_form"),
    ("connect to path", b"CONNECT / HTTP/1.1\r\nHost: b\r\n\r\n", "400 host"),
    ("connect to url", b"CONNECT http://b:80/ HTTP/1.1\r\nHost: b\r\n\r\n", "400 host"),
    ("connect userinfo", b"CONNECT u@b:80 HTTP/1.1\r\nHost: b\r\n\r\n", "400 host_userinfo"),
    ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400 target_fragment"),
    ("fragment in query", b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", "400 target_fragment"),
    ("raw UTF-8", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"),
    ("raw latin-1", b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("NUL", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("DEL", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", "400 request_line"),
    ("angle brackets", b"GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"),
    ("host with port", b"GET / HTTP/1.1\r\nHost: A.b:8080\r\n\r\n", "GET / A.b:8080 none"),
    ("host with dot", b"GET / HTTP/1.1\r\nHost: a.b.\r\n\r\n", "GET / a.b. none"),
    ("host v4", b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", "GET / 10.0.0.1 none"),
    ("host v6", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET / [::1]:80 none"),
    ("host missing", b"GET / HTTP/1.1\r\n\r\n", "400 host_missing"),
    ("host empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "400 host"),
    ("host twice", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 host_repeated"),
    ("host twice, equal", b"GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n", "400 host_repeated"),
    ("host twice in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", "400 host_repeated"),
    ("host list", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "400 host"),
    ("host path and user", b"GET / HTTP/1.1\r\nHost: x/y@z\r\n\r\n", "400 host_userinfo"),
    ("host path", b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", "400 host"),
    ("host userinfo", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400 host_userinfo"),
    ("host percent", b"GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", "400 host"),
    ("host obs-text", b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", "400 host"),
    ("host fragment", b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", "400 host"),
    ("host colon only", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "400 host"),
    ("host port zero", b"GET / HTTP/1.1\r\nHost: a:0\r\n\r\n", "400 host"),
    ("host port padded", b"GET / HTTP/1.1\r\nHost: a:080\r\n\r\n", "400 host"),
    ("host port signed", b"GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n", "400 host"),
    ("host port large", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "400 host"),
    ("host port name", b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", "400 host"),
    ("host two ports", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", "400 host"),
    ("host v6 bare", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", "400 host"),
    ("host v6 zone", b"GET / HTTP/1.1\r\nHost: [fe80::1%eth0]\r\n\r\n", "400 host"),
    ("host v6 open", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400 host"),
    ("host v6 tail", b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", "400 host"),
];

const FRAMING: &[Case] = &[
    ("length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcd", "POST / a 3 content-length=3 \"abc\" rest=1"),
    ("length zero", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nG", "POST / a 0 content-length=0 rest=1"),
    ("length short", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc", "POST / a 5 content-length=5 more \"abc\""),
    ("GET with body", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "GET / a 1 content-length=1 \"x\""),
    ("length largest", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n", "POST / a 18446744073709551615 content-length=18446744073709551615 more"),
    ("length overflow", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", "400 content_length"),
    ("length far overflow", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", "400 content_length"),
    ("length plus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "400 content_length"),
    ("length minus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nabc", "400 content_length"),
    ("length hex", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", "400 content_length"),
    ("length space", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 0\r\n\r\nabc", "400 content_length"),
    ("length padded", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 03\r\n\r\nabc", "400 content_length"),
    ("length fraction", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3.0\r\n\r\nabc", "400 content_length"),
    ("length empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc", "400 content_length"),
    ("length underscored digits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n", "400 content_length"),
    ("length list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", "400 content_length"),
    ("length twice", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "400 content_length_repeated"),
    ("length twice, equal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "400 content_length_repeated"),
    ("chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nG", "POST / a chunked \"abc\" rest=1"),
    ("chunked in capitals", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", "POST / a chunked"),
    ("TE and CL", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "400 length_and_encoding"),
    ("CL and TE", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 length_and_encoding"),
    ("CL 0 and TE", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 length_and_encoding"),
    ("TE in 1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 transfer_encoding_version"),
    ("TE twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
    ("TE hidden", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: x\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
    ("TE chunked, chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
    ("TE gzip, chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501 transfer_coding"),
    ("TE chunked, gzip", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", "400 transfer_encoding"),
    ("TE identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", "400 transfer_encoding"),
    ("TE identity, chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n", "400 transfer_encoding"),
    ("TE chunked, identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", "400 transfer_encoding"),
    ("TE xchunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "400 transfer_encoding"),
    ("TE quoted", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", "400 transfer_encoding"),
    ("TE parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", "400 transfer_encoding"),
    ("TE empty element", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n", "400 transfer_encoding"),
    ("TE empty", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", "400 transfer_encoding"),
    ("TE vertical tab", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", "400 field_value"),
    ("connect with length", b"CONNECT b:1 HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc", "400 body_not_allowed"),
    ("connect with chunks", b"CONNECT b:1 HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n", "400 body_not_allowed"),
    ("trace with body", b"TRACE / HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc", "400 body_not_allowed"),
    ("expect", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", "POST / a 1 expect expect=100-Continue content-length=1 \"x\""),
    ("expect without body", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", "GET / a none"),
    ("expect in 1.0", b"POST / HTTP/1.0\r\nHost: a\r\nExpect: x\r\nContent-Length: 1\r\n\r\nx", "POST / a 1 1.0 close content-length=1 \"x\""),
    ("expect other", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: y 100-continue\r\nContent-Length: 1\r\n\r\nx", "417 expectation"),
    ("expect twice", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx", "417 expectation"),
];

const CONNECTION: &[Case] = &[
    ("close", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET / a none close"),
    ("close in a list", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x , CLOSE\r\nX: y\r\n\r\n", "GET / a none close"),
    ("close and keep-alive", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", "GET / a none close"),
    ("keep-alive in 1.0", b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n\r\n", "GET / - none 1.0"),
    ("proxy-connection", b"GET / HTTP/1.0\r\nProxy-Connection: keep-alive\r\n\r\n", "GET / - none 1.0 close"),
    ("named", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-a, X-B,,\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n\r\n", "GET / a none x-c=3"),
    ("names authorization", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Authorization\r\n\r\n", "400 connection_nominates"),
    ("names host", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", "400 connection_nominates"),
    ("names length", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\n\r\n", "400 connection_nominates"),
    ("names forwarded-for", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For\r\n\r\n", "400 connection_nominates"),
    ("names certificate", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-client-cert\r\n\r\n", "400 connection_nominates"),
    ("names envoy", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-envoy-internal\r\n\r\n", "400 connection_nominates"),
    ("not a list", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", "400 connection"),
    ("too many options", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q\r\n\r\n", "400 connection"),
    ("TE trailers", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: gzip, trailers\r\n\r\n", "GET / a none te=trailers"),
    ("TE other", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: gzip\r\n\r\n", "GET / a none"),
    ("websocket", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly", "GET / a none upgrade=websocket rest=5"),
    ("upgrade with version", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", "GET / a none upgrade=SPDY/3.1"),
    ("upgrade with body", b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tcp\r\nContent-Length: 1\r\n\r\nx", "POST / a 1 content-length=1 \"x\""),
    ("upgrade not named", b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", "GET / a none"),
    ("upgrade without protocol", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n", "GET / a none"),
    ("upgrade in 1.0", b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "GET / - none 1.0 close"),
    ("upgrade to h2c", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n", "GET / a none"),
    ("upgrade to TLS", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n", "GET / a none"),
    ("upgrade list", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", "GET / a none"),
    ("upgrade twice", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n", "GET / a none"),
    ("upgrade of connect", b"CONNECT b:1 HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "CONNECT b:1 b:1 none"),
];

const LIMITS: &[Case] = &[
    ("line fits", b"GET /123456 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /123456 a none"),
    ("line too long", b"GET /1234567 HTTP/1.1\r\nHost: a\r\n\r\n", "414 line_too_long"),
    ("line without end", b"GET /12345678901234567890", "414 line_too_long"),
    ("fields fit", b"GET / HTTP/1.1\r\nHost: a\r\nB: b\r\nC: c\r\n\r\n", "GET / a none b=b c=c"),
    (
        "too many fields, without end",
        b"GET / HTTP/1.1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA",
        "431 too_many_fields",
    ),
    ("too many fields", b"GET / HTTP/1.1\r\nHost: a\r\nB: b\r\nC: c\r\nD: d\r\n\r\n", "431 too_many_fields"),
    (
        "head fits",
        b"GET / HTTP/1.1\r\nHost: a\r\nB: 012345678901234567890123456789012345678901234567\r\n\r\nrest",
        "GET / a none b=012345678901234567890123456789012345678901234567 rest=4",
    ),
    (
        "head too large",
        b"GET / HTTP/1.1\r\nHost: a\r\nB: 0123456789012345678901234567890123456789012345678\r\n\r\n",
        "431 head_too_large",
    ),
    (
        "head without end",
        b"GET / HTTP/1.1\r\nHost: a\r\nB: 012345678901234567890123456789012345678901234567890123456789",
        "431 head_too_large",
    ),
    (
        "bare LF before the limit",
        b"GET / HTTP/1.1\r\nHost: a\nB: 012345678901234567890123456789012345678901234567890123456789",
        "400 line_end",
    ),
];

const UNDERSCORES_REFUSED: &[Case] = &[
    ("underscore", b"GET / HTTP/1.1\r\nHost: a\r\nX_Y: b\r\n\r\n", "400 underscore"),
    ("in a value", b"GET / HTTP/1.1\r\nHost: a_b\r\nX: a_b\r\n\r\n", "GET / a_b none x=a_b"),
];

#[test]
fn the_map_is_used_again() {
    let mut spare = HeaderMap::with_capacity(64);
    spare.insert("left", "over".parse().unwrap());
    let capacity = spare.capacity();
    let mut buf = BytesMut::from("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n");
    let head = parse_request(&mut buf, &Limits::default(), &mut spare).unwrap().unwrap();
    assert_eq!((head.headers.capacity(), head.headers.len()), (capacity, 1));
    assert!(buf.is_empty());
}

#[test]
fn a_head_of_the_default_size_is_taken() {
    let fill = "x".repeat(super::super::MAX_HEAD_BYTES - 32);
    let mut buf = BytesMut::from(&*format!("GET / HTTP/1.1\r\nHost: a\r\nX: {fill}\r\n\r\n"));
    assert_eq!(buf.len(), super::super::MAX_HEAD_BYTES);
    assert!(parse_request(&mut buf, &Limits::default(), &mut HeaderMap::new()).unwrap().is_some());
}

#[test]
fn what_a_head_says_of_a_trace_is_known_from_its_names() {
    use mesh_core::trace::TraceWord::{Any, Nothing, Untraced};
    for (fields, expected) in [
        ("x-request-id: 1\r\ntransfer-x: 1\r\nx-envoy-attempt-count: 1\r\n", Nothing),
        ("x-b3-sampled: 0\r\nb: 3\r\n", Untraced),
        ("x-b3-sampled: 0\r\nconnection: x-b3-sampled\r\n", Any),
        ("x-b3-sampled: 0\r\nx_b3_sampled: 1\r\n", Any),
        ("X-B3-Sampled: 0\r\n", Untraced),
        ("x-b3-sampled: 00\r\n", Any),
        ("x-b3-sampled: 0\r\nx-b3-sampled: 0\r\n", Any),
        ("x-b3-flags: 1\r\nx-b3-sampled: 0\r\n", Any),
        ("x-b3-sampled: 0\r\nTraceParent: 1\r\n", Any),
        ("B3: 1\r\n", Any),
        ("tracestate: a=b\r\n", Any),
        ("X-Envoy-Force-Trace: 1\r\n", Any),
    ] {
        let mut text = BytesMut::from(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes());
        let head = parse_request(&mut text, &Limits::default(), &mut HeaderMap::new()).unwrap().unwrap();
        assert_eq!(head.trace, expected, "{fields:?}");
        // Kept apart where it says all there is to say, and in its place otherwise.
        let is_among = head.headers.get("x-b3-sampled").is_some_and(|it| it == "0");
        assert_eq!(is_among, expected == Any && fields.contains("x-b3-sampled: 0\r\n"), "{fields:?}");
    }
}
