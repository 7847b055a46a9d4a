//! What stands around data, and what is said about bodies of another length.

use super::*;

fn written(mut body: BodyEncoder, pieces: &[&[u8]]) -> Result<String, EncodeError> {
    let mut out = BytesMut::new();
    for piece in pieces {
        body.data(piece, &mut out)?;
    }
    body.finish(None, &mut out)?;
    Ok(String::from_utf8(out.to_vec()).unwrap())
}

#[test]
fn lengths_are_held() {
    assert_eq!(written(BodyEncoder::length(3), &[b"ab", b"", b"c"]).unwrap(), "abc");
    assert_eq!(written(BodyEncoder::length(3), &[b"ab"]), Err(EncodeError::BodyTooShort));
    assert_eq!(written(BodyEncoder::length(3), &[b"ab", b"cd"]), Err(EncodeError::BodyTooLong));
    assert_eq!(written(BodyEncoder::EMPTY, &[b"a"]), Err(EncodeError::BodyTooLong));
    assert_eq!(written(BodyEncoder::EMPTY, &[]).unwrap(), "");
    assert_eq!(written(BodyEncoder::CLOSE, &[b"a", b"b"]).unwrap(), "ab");
}

#[test]
fn a_piece_too_long_writes_nothing() {
    let (mut body, mut out) = (BodyEncoder::length(3), BytesMut::new());
    assert!(body.data(b"abcd", &mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn chunks() {
    assert_eq!(written(BodyEncoder::CHUNKED, &[]).unwrap(), "0\r\n\r\n");
    assert_eq!(written(BodyEncoder::CHUNKED, &[b"a", b"", b"bc"]).unwrap(), "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n");
    let long = [b'x'; 0x1f0];
    assert!(written(BodyEncoder::CHUNKED, &[&long]).unwrap().starts_with("1f0\r\nxxx"));
}

#[test]
fn frames_of_all_sizes() {
    for len in [1_u64, 0xf, 0x10, 0xabc, 0xffff_ffff, u64::MAX] {
        let frame = Frame::chunk(len);
        assert_eq!(frame.prefix(), format!("{len:x}\r\n").as_bytes());
        assert_eq!(frame.suffix(), b"\r\n");
    }
    assert!(Frame::NONE.prefix().is_empty());
}

#[test]
fn trailers_that_have_no_place_stay_behind() {
    let mut trailers = HeaderMap::new();
    for name in ["grpc-status", "content-length", "connection", "authorization"] {
        trailers.insert(name, "0".parse().unwrap());
    }
    let (mut body, mut out) = (BodyEncoder::CHUNKED, BytesMut::new());
    body.finish(Some(&trailers), &mut out).unwrap();
    assert_eq!(out, "0\r\ngrpc-status: 0\r\n\r\n");
    assert_eq!(body.data(b"x", &mut out), Err(EncodeError::BodyTooLong), "the body is over");
}
