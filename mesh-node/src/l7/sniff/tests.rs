use std::time::Instant;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

#[test]
fn requests_are_told_from_bytes_by_their_beginning() {
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1"[..], Some(true)),
        (b"PRI * HTTP/2.0", Some(true)),
        (b"GE", None),
        (b"", None),
        (b"\x16\x03\x01", Some(false)),
        (b"get / ", Some(false)),
        (b" /", Some(false)),
        (b"AVERYLONGWORDTHATISNOMETHOD", Some(false)),
    ] {
        assert_eq!(is_http(bytes), expected, "{bytes:?}");
    }
}

const ALL: Wanted = Wanted { request: true, name: true, surely_tls: false };
const NAME: Wanted = Wanted { request: false, ..ALL };

/// An extension of a hello.
fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &short(body.len()), body].concat()
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}

/// `server_name` with these names, each with its type.
fn names(all: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> =
        all.iter().flat_map(|(kind, name)| [&[*kind][..], &short(name.len()), name].concat()).collect();
    extension(0, &[&short(list.len())[..], &list].concat())
}

fn name(of: &str) -> Vec<u8> {
    names(&[(0, of.as_bytes())])
}

fn alpn(all: &[&[u8]]) -> Vec<u8> {
    let one = |name: &&[u8]| [&[u8::try_from(name.len()).unwrap()][..], name].concat();
    let list: Vec<u8> = all.iter().flat_map(one).collect();
    extension(16, &[&short(list.len())[..], &list].concat())
}

/// The first message of a client's TLS, with these extensions besides those that everybody sends.
fn hello(more: &[Vec<u8>]) -> Vec<u8> {
    let everybodys = [
        extension(10, &[0, 2, 0, 29]),
        extension(13, &[0, 2, 4, 3]),
        extension(43, &[2, 3, 4]),
        extension(51, &[&[0, 36, 0, 29, 0, 32][..], &[9; 32]].concat()),
    ];
    let extensions = [everybodys.concat(), more.concat()].concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &short(extensions.len()), &extensions].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

/// A message in records of at most so many bytes.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|piece| [&[0x16, 3, 1][..], &short(piece.len()), piece].concat()).collect()
}

/// What is said of bytes that come in pieces of this size; nothing if it is open at the end.
fn judged(wanted: Wanted, bytes: &[u8], size: usize) -> Option<Beginning> {
    let mut judge = Judge::of(wanted).expect("something is wanted");
    let ends = (size..bytes.len()).step_by(size).chain([bytes.len()]);
    let mut verdicts = ends.map(|end| judge.judge(&bytes[..end]));
    verdicts.find_map(|verdict| verdict)
}

fn named(name: &str) -> Beginning {
    Beginning::Name(name.to_owned())
}

#[test]
fn names_are_read_however_they_are_cut() {
    let long = format!("{}.example", ["a"; 100].join("."));
    for wanted in ["a.example", "xn--bcher-kva.example", "localhost", &long] {
        let plain = hello(&[name(wanted)]);
        let strange = hello(&[alpn(&[b"acme-tls/1", b"\xff\xfe", &[b'x'; 255]]), name(wanted)]);
        let large = hello(&[extension(21, &[0; 9_000]), name(wanted)]);
        for message in [plain, strange, large] {
            for most in [1, 2, 5, 64, 16_384] {
                let bytes = records(&message, most);
                for size in [1, 3, 1_000, bytes.len()] {
                    assert_eq!(
                        judged(ALL, &bytes, size),
                        Some(named(wanted)),
                        "records of {most}, pieces of {size}"
                    );
                }
            }
        }
    }
    assert_eq!(judged(NAME, &records(&hello(&[name("A.Example")]), 100), 10), Some(named("a.example")));
}

#[test]
fn what_asks_for_no_name_is_told_so_at_once() {
    let mut trailing = names(&[(0, b"a.example")]);
    trailing.extend([0; 3]);
    for (what, bytes) in [
        ("none", records(&hello(&[]), 16_384)),
        ("an empty name", records(&hello(&[name("")]), 16_384)),
        ("an empty list", records(&hello(&[names(&[])]), 16_384)),
        ("two of one kind", records(&hello(&[names(&[(0, b"a.example"), (0, b"b.example")])]), 16_384)),
        ("two lists", records(&hello(&[name("a.example"), name("b.example")]), 16_384)),
        ("an address", records(&hello(&[name("192.0.2.1")]), 16_384)),
        ("bytes that no name has", records(&hello(&[name("a\0.example")]), 16_384)),
        ("no ASCII", records(&hello(&[names(&[(0, b"\xc3\xa4.example")])]), 16_384)),
        ("a label too long", records(&hello(&[name(&format!("{}.example", "a".repeat(64)))]), 16_384)),
        ("a name too long", records(&hello(&[name(&["a"; 200].join("."))]), 16_384)),
        ("an absurd name", records(&hello(&[name(&"a".repeat(12_000))]), 16_384)),
        ("an extension too many bytes", records(&hello(&[trailing]), 16_384)),
        ("another message", records(&[&[2][..], &hello(&[name("a.example")])[1..]].concat(), 16_384)),
        ("a message of 16 MB", records(&[1, 0xff, 0xff, 0xff, 3, 3], 16_384)),
        ("a record of 65 kB", [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 9_000]].concat()),
        (
            "an empty record",
            [&[0x16, 3, 1, 0, 0][..], &records(&hello(&[name("a.example")]), 9_000)].concat(),
        ),
        ("an alert", vec![0x15, 3, 1, 0, 2, 1, 0]),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec()),
    ] {
        let verdict = judged(ALL, &bytes, bytes.len());
        assert_eq!(verdict, Some(Beginning::Other), "{what}");
        assert_eq!(judged(ALL, &bytes, 1), verdict, "{what}, byte by byte");
    }
}

proptest! {
    /// Damage and cuts: no panic, and the pieces make no difference.
    #[test]
    fn damage_ends_in_one_verdict(
        most in 1_usize..400,
        size in 1_usize..300,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        end in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = records(&hello(&[alpn(&[b"h2"]), name("a.example")]), most);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        let whole = judged(NAME, &bytes, bytes.len());
        prop_assert_eq!(judged(NAME, &bytes, size), whole);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
        let _ = judged(ALL, &bytes, 1);
        let _ = judged(NAME, &records(&bytes, 50), 7);
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connect");
    (client, listener.accept().await.expect("accept").0)
}

/// A client that says nothing is waited for once, whatever is wanted.
#[tokio::test]
async fn silence_is_waited_for_once() {
    let patience = Duration::from_millis(300);
    let (_client, server) = pair().await;
    let begun = Instant::now();
    assert_eq!(beginning(&server, ALL, patience).await, Beginning::Other);
    let took = begun.elapsed();
    assert!(took >= patience && took < patience * 19 / 10, "{took:?}");

    let (_client, server) = pair().await;
    let begun = Instant::now();
    let mut input = BytesMut::new();
    assert_eq!(read_beginning(&mut Io::Tcp(server), &mut input, ALL, patience).await, Beginning::Other);
    let took = begun.elapsed();
    assert!(took >= patience && took < patience * 19 / 10, "{took:?}");
}

/// What is looked at stays where it is; what is read is handed on.
#[tokio::test]
async fn a_beginning_that_comes_slowly_is_read_to_its_end() {
    let bytes = records(&hello(&[name("a.example")]), 60);
    let patience = Duration::from_secs(20);
    for reads in [false, true] {
        let (mut client, server) = pair().await;
        client.set_nodelay(true).expect("nodelay");
        let all = bytes.clone();
        let writer = async move {
            for piece in all.chunks(9) {
                client.write_all(piece).await.expect("write");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            client
        };
        if reads {
            let (mut io, mut input) = (Io::Tcp(server), BytesMut::new());
            let reader = read_beginning(&mut io, &mut input, ALL, patience);
            let (begins, _client) = tokio::join!(reader, writer);
            assert_eq!(begins.name(), Some("a.example"));
            assert!(bytes.starts_with(&input) && input.len() > bytes.len() / 2, "{} bytes", input.len());
        } else {
            let (begins, _client) = tokio::join!(beginning(&server, ALL, patience), writer);
            assert_eq!(begins.name(), Some("a.example"));
            let mut first = [0; 20];
            let seen = server.peek(&mut first).await.expect("peek");
            assert_eq!(first[..seen], bytes[..seen]);
        }
    }
}
