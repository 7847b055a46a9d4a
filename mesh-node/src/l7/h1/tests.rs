//! What every table of cases runs through: bytes go in, whole and cut in every place, and one line of text comes out.

use std::fmt::Write as _;

use bytes::BytesMut;
use http::{HeaderMap, Method};

use super::*;

mod property;

/// One row: a name, bytes, and what comes of them.
pub(super) type Case = (&'static str, &'static [u8], &'static str);

/// Runs a table, each row as a whole, cut in two in every place, and byte by byte.
pub(super) fn run(cases: &[Case], outcome: impl Fn(&mut dyn Iterator<Item = &[u8]>) -> String) {
    let mut seen = std::collections::BTreeSet::new();
    for (id, raw, expected) in cases {
        assert!(seen.insert(id), "{id} stands twice in the table");
        assert_eq!(outcome(&mut std::iter::once(*raw)), *expected, "{id}");
        for cut in 1..raw.len() {
            let (a, b) = raw.split_at(cut);
            assert_eq!(outcome(&mut [a, b].into_iter()), *expected, "{id}, cut at {cut}");
        }
        assert_eq!(outcome(&mut raw.chunks(1)), *expected, "{id}, byte by byte");
    }
}

/// What comes of a request and its body: `method target authority framing …`, or `status reason`, or `more`.
pub(super) fn request(limits: &Limits, arrivals: &mut dyn Iterator<Item = &[u8]>) -> String {
    let (mut buf, mut head) = (BytesMut::new(), None);
    while head.is_none() {
        let Some(bytes) = arrivals.next() else { return "more".to_owned() };
        buf.extend_from_slice(bytes);
        match parse_request(&mut buf, limits, &mut HeaderMap::new()) {
            Ok(parsed) => head = parsed,
            Err(refused) => return refusal(refused),
        }
    }
    let mut head = head.expect("the loop ends with a head");
    let mut text = format!("{} {} ", head.method, head.target.as_str());
    text += head.authority.as_ref().map_or("-", Authority::as_str);
    note_framing(&mut text, head.framing);
    note(&mut text, "1.0", head.version == Version::Http10);
    note(&mut text, "close", !head.keep_alive);
    note(&mut text, "expect", head.expect_continue);
    note_upgrade(&mut text, head.upgrade.as_ref());
    if let Err(refused) = head.strip_hop_by_hop() {
        return refusal(refused);
    }
    note_fields(&mut text, &head.headers);
    match body(BodyDecoder::request(head.framing, limits), buf, arrivals) {
        Ok(body) => text + &body,
        Err(refused) => refusal(refused),
    }
}

/// As [`request`], for a response to `method`.
pub(super) fn response(method: &Method, arrivals: &mut dyn Iterator<Item = &[u8]>) -> String {
    let limits = Limits::default();
    let (mut buf, mut head) = (BytesMut::new(), None);
    while head.is_none() {
        let Some(bytes) = arrivals.next() else { return "more".to_owned() };
        buf.extend_from_slice(bytes);
        match parse_response(&mut buf, method, &limits, &mut HeaderMap::new()) {
            Ok(parsed) => head = parsed,
            Err(refused) => return refusal(refused),
        }
    }
    let mut head = head.expect("the loop ends with a head");
    let mut text = format!("{} {:?}", head.status.as_u16(), head.kind);
    note_framing(&mut text, head.framing);
    note(&mut text, "1.0", head.version == Version::Http10);
    note(&mut text, "close", !head.keep_alive);
    note_upgrade(&mut text, head.upgrade.as_ref());
    if let Err(refused) = head.strip_hop_by_hop() {
        return refusal(refused);
    }
    note_fields(&mut text, &head.headers);
    match body(BodyDecoder::response(head.framing, &limits), buf, arrivals) {
        Ok(body) => text + &body,
        Err(refused) => refusal(refused),
    }
}

/// Decodes a body to its end or that of the input, as ` "data" +trailer=value more rest=bytes`.
pub(super) fn body(
    mut decoder: BodyDecoder,
    mut buf: BytesMut,
    arrivals: &mut dyn Iterator<Item = &[u8]>,
) -> Result<String, Refused> {
    let (mut data, mut trailers, mut text) = (Vec::new(), None, String::new());
    loop {
        match decoder.decode(&mut buf)? {
            Piece::Data(piece) => {
                assert!(!piece.is_empty(), "a piece has bytes");
                data.extend_from_slice(&piece);
            }
            Piece::End(end) => {
                assert!(decoder.is_done());
                trailers = end;
                break;
            }
            Piece::NeedMore => match arrivals.next() {
                Some(bytes) => buf.extend_from_slice(bytes),
                None if decoder.end_of_input().is_ok() => break,
                None => {
                    text += " more";
                    break;
                }
            },
        }
    }
    arrivals.for_each(|bytes| buf.extend_from_slice(bytes));
    if !data.is_empty() {
        write!(text, " \"{}\"", data.escape_ascii()).unwrap();
    }
    for (name, value) in trailers.iter().flatten() {
        write!(text, " +{name}={}", value.as_bytes().escape_ascii()).unwrap();
    }
    if !buf.is_empty() {
        write!(text, " rest={}", buf.len()).unwrap();
    }
    Ok(text)
}

fn refusal(refused: Refused) -> String {
    format!("{} {refused}", refused.status().as_u16())
}

fn note(text: &mut String, word: &str, applies: bool) {
    if applies {
        *text += " ";
        *text += word;
    }
}

fn note_framing(text: &mut String, framing: Framing) {
    match framing {
        Framing::None => text.push_str(" none"),
        Framing::Length(length) => write!(text, " {length}").unwrap(),
        Framing::Chunked => text.push_str(" chunked"),
        Framing::Close => text.push_str(" until-close"),
    }
}

fn note_upgrade(text: &mut String, upgrade: Option<&Upgrade>) {
    if let Some(upgrade) = upgrade {
        write!(text, " upgrade={}", upgrade.protocol().to_str().unwrap()).unwrap();
    }
}

fn note_fields(text: &mut String, headers: &HeaderMap) {
    for (name, value) in headers {
        write!(text, " {name}={}", value.as_bytes().escape_ascii()).unwrap();
    }
}

#[test]
fn every_reason_has_its_own_token() {
    let tokens: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(tokens.len(), Reason::ALL.len());
    assert!(
        Reason::ALL
            .iter()
            .all(|reason| reason.status().is_client_error() || reason.status().is_server_error())
    );
}

#[test]
fn http2_is_told_from_its_first_bytes() {
    assert_eq!(looks_like_h2_preface(b""), None);
    assert_eq!(looks_like_h2_preface(b"PRI * HTT"), None);
    assert_eq!(looks_like_h2_preface(b"PRI /"), Some(false));
    assert_eq!(looks_like_h2_preface(b"POST"), Some(false));
    assert_eq!(looks_like_h2_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxyz"), Some(true));
}
