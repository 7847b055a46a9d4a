//! Properties of the codec as a whole.

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use proptest::prelude::*;

use super::super::*;
use super::{body, request, response};

fn fields() -> impl Strategy<Value = HeaderMap> {
    proptest::collection::vec(("x-[a-z]{1,6}", "[!-~]{0,1}|[!-~][ -~\u{e9}]{0,20}[!-~]"), 0..8).prop_map(
        |fields| {
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            map
        },
    )
}

/// What a body is made of, and how it is framed.
fn content() -> impl Strategy<Value = (Vec<Vec<u8>>, bool)> {
    (proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..6), any::<bool>())
}

fn framing(pieces: &[Vec<u8>], chunked: bool) -> Framing {
    if chunked { Framing::Chunked } else { Framing::Length(pieces.concat().len().try_into().unwrap()) }
}

fn write(mut encoder: BodyEncoder, pieces: &[Vec<u8>], trailers: &HeaderMap, out: &mut BytesMut) {
    for piece in pieces {
        encoder.data(piece, out).unwrap();
    }
    encoder.finish(Some(trailers), out).unwrap();
}

/// Takes a body that comes in pieces of `step` bytes.
fn read(mut decoder: BodyDecoder, mut rest: &[u8], step: usize) -> (Vec<u8>, Option<HeaderMap>) {
    let (mut data, mut buf) = (Vec::new(), BytesMut::new());
    loop {
        match decoder.decode(&mut buf).unwrap() {
            Piece::Data(piece) => data.extend_from_slice(&piece),
            Piece::End(trailers) => {
                assert!(buf.is_empty() && rest.is_empty());
                return (data, trailers);
            }
            Piece::NeedMore => {
                let (now, later) = rest.split_at(step.min(rest.len()));
                buf.extend_from_slice(now);
                rest = later;
            }
        }
    }
}

/// Bytes that look like HTTP often enough to get far.
fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "GET ",
        "POST ",
        "/",
        "http://a",
        " HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "Host: a\r\n",
        "\r\n",
        "\r",
        "\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X: y\r\n",
        ":",
        " ",
        "0\r\n",
        "3\r\nabc\r\n",
        ";",
        "Connection: close\r\n",
        "Upgrade: x\r\n",
        "\0",
        "\u{e9}",
        "_",
        "%",
        "@",
        "#",
        "ffffffffffffffff\r\n",
    ];
    proptest::collection::vec(
        prop_oneof![9 => proptest::sample::select(words.to_vec()).prop_map(|w| w.as_bytes().to_vec()),
                    1 => proptest::collection::vec(any::<u8>(), 1..4)],
        0..12,
    )
    .prop_map(|words| words.concat())
}

fn cut(bytes: &[u8], at: usize) -> [&[u8]; 2] {
    let (a, b) = bytes.split_at(at % (bytes.len() + 1));
    [a, b]
}

proptest! {
    #[test]
    fn requests_come_back(
        (path, headers, (pieces, chunked), trailers) in ("/[a-z/?=%\\\\]{0,20}", fields(), content(), fields()),
        (keep_alive, step) in (any::<bool>(), 1_usize..20),
    ) {
        let target = Target::origin(Bytes::from(path)).unwrap();
        let authority = Authority::parse(Bytes::from_static(b"a.b:1")).unwrap();
        let framing = framing(&pieces, chunked);
        let parts = RequestParts {
            method: &Method::POST, target: &target, authority: Some(&authority), headers: &headers, framing,
            keep_alive, upgrade: None, untraced: false,
        };
        let mut out = BytesMut::new();
        let encoder = encode_request(&parts, &mut out).unwrap();
        write(encoder, &pieces, &trailers, &mut out);

        let mut head = parse_request(&mut out, &Limits::default(), &mut HeaderMap::new()).unwrap().unwrap();
        head.strip_hop_by_hop().unwrap();
        head.headers.remove("content-length");
        prop_assert_eq!(&head.headers, &headers);
        prop_assert_eq!((&head.target, head.authority.as_ref()), (&target, Some(&authority)));
        prop_assert_eq!((head.framing, head.keep_alive), (framing, keep_alive));
        let (data, got) = read(BodyDecoder::request(framing, &Limits::default()), &out, step);
        prop_assert_eq!(data, pieces.concat());
        prop_assert_eq!(got.unwrap_or_default(), if chunked { trailers } else { HeaderMap::new() });
    }

    #[test]
    fn responses_come_back(
        (status, headers, (pieces, chunked)) in (200_u16..600, fields(), content()),
        (keep_alive, step) in (any::<bool>(), 1_usize..20),
    ) {
        let framing = framing(&pieces, chunked);
        let status = StatusCode::from_u16(status).unwrap();
        let parts = ResponseParts {
            method: &Method::GET, version: Version::Http11, status, headers: &headers, framing, keep_alive,
            upgrade: None,
        };
        let mut out = BytesMut::new();
        let encoder = encode_response(&parts, &mut out);
        let bodiless = [204, 304].contains(&status.as_u16());
        if !bodiless {
            write(encoder, &pieces, &HeaderMap::new(), &mut out);
        }
        let head = parse_response(&mut out, &Method::GET, &Limits::default(), &mut HeaderMap::new());
        let mut head = head.unwrap().unwrap();
        head.strip_hop_by_hop().unwrap();
        head.headers.remove("content-length");
        prop_assert_eq!((&head.headers, head.status, head.keep_alive), (&headers, status, keep_alive));
        prop_assert_eq!(head.framing, if bodiless { Framing::None } else { framing });
        let (data, _) = read(BodyDecoder::response(head.framing, &Limits::default()), &out, step);
        prop_assert_eq!(data, if bodiless { Vec::new() } else { pieces.concat() });
    }

    /// Whatever arrives: no panic, and the same outcome however it is cut.
    #[test]
    fn cuts_change_nothing(bytes in nearly_http(), at in any::<usize>()) {
        let limits = Limits { head_bytes: 100, line_bytes: 30, ..Limits::default() };
        let whole = request(&limits, &mut std::iter::once(&*bytes));
        prop_assert_eq!(request(&limits, &mut cut(&bytes, at).into_iter()), &*whole);
        prop_assert_eq!(request(&limits, &mut bytes.chunks(1)), whole);
        let whole = response(&Method::GET, &mut std::iter::once(&*bytes));
        prop_assert_eq!(response(&Method::GET, &mut cut(&bytes, at).into_iter()), whole);
    }

    #[test]
    fn random_chunks_do_not_panic(bytes in "[0-9a-f;x \r\n]{0,30}|\\PC{0,30}", at in any::<usize>()) {
        let bytes = bytes.as_bytes();
        let limits = Limits::default();
        let decode = |arrivals: &mut dyn Iterator<Item = &[u8]>| {
            body(BodyDecoder::request(Framing::Chunked, &limits), BytesMut::new(), arrivals)
        };
        prop_assert_eq!(decode(&mut cut(bytes, at).into_iter()), decode(&mut std::iter::once(bytes)));
    }

    /// What was let through and is sent on is read as the same request, by this parser at least.
    #[test]
    fn what_goes_on_is_what_came(bytes in nearly_http()) {
        let mut buf = BytesMut::from(&*bytes);
        let limits = Limits::default();
        let Ok(Some(mut head)) = parse_request(&mut buf, &limits, &mut HeaderMap::new()) else { return Ok(()) };
        if head.strip_hop_by_hop().is_err() {
            return Ok(());
        }
        let parts = RequestParts {
            method: &head.method, target: &head.target, authority: head.authority.as_ref(), headers: &head.headers,
            framing: head.framing, keep_alive: true, upgrade: head.upgrade.as_ref(), untraced: false,
        };
        let mut out = BytesMut::new();
        encode_request(&parts, &mut out).unwrap();
        prop_assume!(head.authority.is_some());
        let again = parse_request(&mut out, &limits, &mut HeaderMap::new()).unwrap().unwrap();
        prop_assert_eq!((again.method, again.target.as_bytes()), (head.method, head.target.as_bytes()));
        prop_assert_eq!(again.authority, head.authority);
        prop_assert_eq!(again.framing.has_body(), head.framing.has_body());
        prop_assert!(out.is_empty());
    }
}
