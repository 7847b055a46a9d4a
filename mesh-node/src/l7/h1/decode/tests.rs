//! Bodies, row by row.

use super::super::tests::{Case, body, run};
use super::*;

fn decode(framing: Framing, arrivals: &mut dyn Iterator<Item = &[u8]>) -> String {
    let limits = Limits { trailer_bytes: 40, trailers: 2, ..Limits::default() };
    match body(BodyDecoder::request(framing, &limits), BytesMut::new(), arrivals) {
        Ok(text) => text,
        Err(refused) => format!("{} {refused}", refused.status().as_u16()),
    }
}

#[test]
fn chunks() {
    run(CHUNKS, |arrivals| decode(Framing::Chunked, arrivals));
}

const CHUNKS: &[Case] = &[
    ("two", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nrest", " \"abcde\" rest=4"),
    ("empty", b"0\r\n\r\n", ""),
    ("hex", b"A\r\n0123456789\r\nb\r\n01234567890\r\n0\r\n\r\n", " \"012345678901234567890\""),
    ("padded", b"0003\r\nabc\r\n000\r\n\r\n", " \"abc\""),
    ("cut in data", b"5\r\nabc", " more \"abc\""),
    ("cut before the end", b"3\r\nabc\r\n0\r\n", " more \"abc\""),
    ("extension", b"3;a=b;c=\"d e\"\r\nabc\r\n0;x\r\n\r\n", " \"abc\""),
    ("extension with NUL", b"3;a=\0\r\nabc\r\n0\r\n\r\n", "400 chunk_extension"),
    ("extension with CR", b"3;a\rb\r\nabc\r\n0\r\n\r\n", "400 chunk_extension"),
    ("extension with LF", b"3;a\nb\r\nabc\r\n0\r\n\r\n", "400 line_end"),
    ("extension after space", b"3 ;a\r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size with space", b"3 \r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size after space", b" 3\r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size with sign", b"+3\r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size negative", b"-3\r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size with 0x", b"0x3\r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size empty", b"\r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size not hex", b"g\r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size largest", b"ffffffffffffffff\r\nabc", " more \"abc\""),
    ("size overflow", b"10000000000000000\r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size far overflow", b"ffffffffffffffffffffffff3\r\nabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("size before bare LF", b"3\nabc\r\n0\r\n\r\n", "400 line_end"),
    ("size before bare CR", b"3\rabc\r\n0\r\n\r\n", "400 chunk_size"),
    ("data before bare LF", b"3\r\nabc\n0\r\n\r\n", "400 chunk_end"),
    ("data before bare CR", b"3\r\nabc\r0\r\n\r\n", "400 chunk_end"),
    ("data too long", b"3\r\nabcd\r\n0\r\n\r\n", "400 chunk_end"),
    ("data too short", b"4\r\nabc\r\n0\r\n\r\n", "400 chunk_end"),
    ("no line end after data", b"3\r\nabc0\r\n\r\n", "400 chunk_end"),
    ("end before bare LF", b"0\r\n\n", "400 line_end"),
    ("end before bare CR", b"0\r\n\rX: y\r\n\r\n", "400 line_end"),
    ("trailers", b"0\r\nX: y\r\ngrpc-status: 0\r\n\r\nG", " +x=y +grpc-status=0 rest=1"),
    ("trailer length", b"0\r\nContent-Length: 5\r\n\r\n", "400 trailer_field"),
    ("trailer encoding", b"0\r\nTransfer-Encoding: chunked\r\n\r\n", "400 trailer_field"),
    ("trailer host", b"0\r\nHost: b\r\n\r\n", "400 trailer_field"),
    ("trailer authorization", b"0\r\nAuthorization: b\r\n\r\n", "400 trailer_field"),
    ("trailer connection", b"0\r\nConnection: close\r\n\r\n", "400 trailer_field"),
    ("trailer forwarded", b"0\r\nX-Forwarded-For: 1\r\n\r\n", "400 trailer_field"),
    ("trailer folded", b"0\r\nX: y\r\n z\r\n\r\n", "400 field_name"),
    ("trailer before bare LF", b"0\r\nX: y\n\r\n", "400 line_end"),
    ("trailer without name", b"0\r\n: y\r\n\r\n", "400 field_name"),
    ("trailer with NUL", b"0\r\nX: \0\r\n\r\n", "400 field_value"),
    ("trailers too many", b"0\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n", "431 trailers_too_large"),
    ("trailers too many, without end", b"0\r\nA: 1\r\nB: 2\r\nC: 3\r\n", "431 trailers_too_large"),
    (
        "trailers too long",
        b"0\r\nA: 0123456789012345678901234567890123456789\r\n\r\n",
        "431 trailers_too_large",
    ),
];

#[test]
fn known_length() {
    run(
        &[
            ("exact", b"abc", " \"abc\""),
            ("more", b"abcdef", " \"abc\" rest=3"),
            ("less", b"ab", " more \"ab\""),
        ],
        |arrivals| decode(Framing::Length(3), arrivals),
    );
}

#[test]
fn no_body_takes_no_byte() {
    run(&[("rest", b"abc", " rest=3")], |arrivals| decode(Framing::None, arrivals));
    run(&[("rest", b"abc", " rest=3")], |arrivals| decode(Framing::Length(0), arrivals));
}

#[test]
fn until_close() {
    run(&[("all", b"abc", " \"abc\"")], |arrivals| decode(Framing::Close, arrivals));
}

#[test]
fn an_end_that_comes_early_is_no_end() {
    let limits = Limits::default();
    for framing in [Framing::Length(3), Framing::Chunked] {
        let mut decoder = BodyDecoder::response(framing, &limits);
        assert!(decoder.decode(&mut BytesMut::from("2")).is_ok());
        let refused = decoder.end_of_input().unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.reason), (502, Reason::Truncated));
    }
    assert_eq!(BodyDecoder::response(Framing::Close, &limits).end_of_input(), Ok(()));
    assert_eq!(BodyDecoder::response(Framing::None, &limits).end_of_input(), Ok(()));
}

#[test]
fn a_known_length_is_done_with_its_last_byte() {
    let mut decoder = BodyDecoder::request(Framing::Length(3), &Limits::default());
    assert_eq!(decoder.remaining(), Some(3));
    assert!(matches!(decoder.decode(&mut BytesMut::from("ab")), Ok(Piece::Data(_))));
    assert_eq!((decoder.remaining(), decoder.is_done()), (Some(1), false));
    assert!(matches!(decoder.decode(&mut BytesMut::from("c")), Ok(Piece::Data(_))));
    assert_eq!((decoder.remaining(), decoder.is_done()), (Some(0), true));
    assert!(matches!(decoder.decode(&mut BytesMut::new()), Ok(Piece::End(None))));
}

#[test]
fn data_is_not_copied() {
    let mut buf = BytesMut::from("5\r\nabcde\r\n");
    let at = buf.as_ptr().wrapping_add(3);
    let mut decoder = BodyDecoder::request(Framing::Chunked, &Limits::default());
    let Ok(Piece::Data(data)) = decoder.decode(&mut buf) else { panic!("data") };
    assert_eq!(data.as_ptr(), at);
}

/// Decodes chunks of one byte each, with this before each of them, and says after how many it is refused.
fn chunks_until_refused(line: &str, most: usize) -> Option<(usize, Reason)> {
    let mut decoder = BodyDecoder::request(Framing::Chunked, &Limits::default());
    let mut buf = BytesMut::new();
    for n in 0..most {
        buf.extend_from_slice(format!("{line}\r\nx\r\n").as_bytes());
        loop {
            match decoder.decode(&mut buf) {
                Ok(Piece::Data(_)) => {}
                Ok(_) => break,
                Err(refused) => return Some((n, refused.reason)),
            }
        }
    }
    None
}

#[test]
fn bytes_around_chunks_are_bounded() {
    assert_eq!(chunks_until_refused("1", 100_000), None, "one byte at a time is a stream");
    let extension = format!("1;{}", "x".repeat(200));
    let (n, reason) = chunks_until_refused(&extension, 1000).unwrap();
    assert!((70..100).contains(&n), "{n}");
    assert_eq!(reason, Reason::ChunkOverhead);
    let long = format!("1;{}", "x".repeat(300));
    assert_eq!(chunks_until_refused(&long, 1), Some((0, Reason::ChunkExtension)));
    assert_eq!(chunks_until_refused(&"0".repeat(400), 1), Some((0, Reason::ChunkSize)));
}
