use proptest::prelude::*;

use super::*;

/// A message as it is on the wire.
fn framed(code: u32, answers: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap();
    [length, 7, answers, code]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(body.iter().copied())
        .collect()
}

/// A document whose first key is this, with the value 1.
fn document(key: &str) -> Vec<u8> {
    let length = u32::try_from(4 + 1 + key.len() + 1 + 4 + 1).unwrap();
    [&length.to_le_bytes(), &[0x10][..], key.as_bytes(), &[0, 1, 0, 0, 0, 0]].concat()
}

/// A document of one document.
fn wrapped(key: &str, inner: &[u8]) -> Vec<u8> {
    let length = u32::try_from(4 + 1 + key.len() + 1 + inner.len() + 1).unwrap();
    [&length.to_le_bytes(), &[DOCUMENT][..], key.as_bytes(), &[0], inner, &[0]].concat()
}

fn msg(flags: u32, sections: &[u8]) -> Vec<u8> {
    framed(2013, 0, &[&flags.to_le_bytes(), sections].concat())
}

fn command(key: &str) -> Vec<u8> {
    msg(0, &[&[0][..], &document(key)].concat())
}

fn query(collection: &str, document: &[u8]) -> Vec<u8> {
    let body = [&[0; 4], collection.as_bytes(), &[0], &[0; 8], document].concat();
    framed(2004, 0, &body)
}

/// What was seen, as `op command`, with `<` for replies.
fn read(pieces: &[&[u8]]) -> (Vec<String>, Result<(), Unreadable>) {
    let (mut reader, mut all, mut outcome) = (Reader::default(), Vec::new(), Ok(()));
    for piece in pieces {
        outcome = reader.read(piece, |message| {
            let mark = if message.is_reply { "<" } else { "" };
            let command = message.command.map_or("-", Command::name);
            all.push(format!("{mark}{} {command}", message.op.name()));
        });
        assert!(reader.held.len() <= MAX_START, "{} bytes are held", reader.held.len());
    }
    (all, outcome)
}

fn of(bytes: &[u8]) -> Result<String, Unreadable> {
    let (all, outcome) = read(&[bytes]);
    outcome.map(|()| all.join(", "))
}

#[test]
fn commands_are_told_by_the_first_key() {
    for (bytes, expected) in [
        (command("find"), "op_msg find"),
        (command("findandmodify"), "op_msg findAndModify"),
        (command("ismaster"), "op_msg isMaster"),
        (command("users"), "op_msg other"),
        (command(&"x".repeat(600)), "op_msg other"),
        (msg(3, &[&[0][..], &document("insert")].concat()), "op_msg insert"),
        (msg(0, &[0, 5, 0, 0, 0, 0]), "op_msg other"),
        (query("admin.$cmd", &document("isMaster")), "op_query isMaster"),
        (query("admin.$cmd", &wrapped("$query", &document("ping"))), "op_query ping"),
        (query("admin.$cmd", &wrapped("$query", &wrapped("query", &document("ping")))), "op_query other"),
        (query("shop.orders", &document("find")), "op_query -"),
        (framed(2013, 7, &[&[0; 5][..], &document("find")].concat()), "<op_msg -"),
        (framed(1, 7, &[0; 20]), "<op_reply -"),
        (framed(2012, 0, &[0xff; 9]), "op_compressed -"),
        (framed(2005, 0, &[0; 17]), "op_get_more -"),
        (framed(2007, 0, &[0; 8]), "op_kill_cursors -"),
    ] {
        assert_eq!(of(&bytes).as_deref(), Ok(expected), "{bytes:02x?}");
    }
    // Documents before the command are no command.
    let mut documents = vec![1];
    documents.extend(30_u32.to_le_bytes());
    documents.extend(b"documents\0");
    documents.extend(document("a"));
    documents.push(0);
    documents.extend(document("insert"));
    assert_eq!(of(&msg(0, &documents)).as_deref(), Ok("op_msg other"));
}

#[test]
fn every_name_is_known_once() {
    let names: std::collections::BTreeSet<_> = Command::all().map(Command::name).collect();
    assert_eq!(names.len(), Command::COUNT);
    for command in Command::all().filter(|it| *it != Command::OTHER) {
        assert_eq!(Command::named(command.name().to_uppercase().as_bytes()), command);
    }
}

#[test]
fn what_cannot_be_read_ends_the_reading() {
    let with_length = |length: i32| [&length.to_le_bytes()[..], &command("find")[4..]].concat();
    let with_document = |length: i32| {
        let mut bytes = command("find");
        bytes[21..25].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    for (bytes, expected) in [
        (with_length(0), Unreadable::Length),
        (with_length(15), Unreadable::Length),
        (with_length(-1), Unreadable::Length),
        (with_length(i32::MIN), Unreadable::Length),
        (with_length(48_000_001), Unreadable::Length),
        (with_length(i32::MAX), Unreadable::Length),
        (with_length(16), Unreadable::Cut),
        (with_length(25), Unreadable::Cut),
        (with_length(26), Unreadable::Document),
        (with_document(-1), Unreadable::Document),
        (with_document(0), Unreadable::Document),
        (with_document(4), Unreadable::Document),
        (with_document(16), Unreadable::Document),
        (with_document(i32::MAX), Unreadable::Document),
        (framed(0, 0, &[0; 40]), Unreadable::Op),
        (framed(2003, 0, &[0; 40]), Unreadable::Op),
        (framed(2011, 0, &[0; 40]), Unreadable::Op),
        (msg(4, &[&[0][..], &document("find")].concat()), Unreadable::Form),
        (msg(0, &[&[2][..], &document("find")].concat()), Unreadable::Form),
        (msg(0, &[&[1][..], &document("find")].concat()), Unreadable::Document),
        (query(&"a".repeat(300), &document("find")), Unreadable::Form),
        (framed(2004, 0, &[b'a'; 40]), Unreadable::Cut),
        (msg(0, &[&[0, 11, 0, 0, 0, 16][..], b"abcdef"].concat()), Unreadable::Cut),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), Unreadable::Length),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03............".to_vec(), Unreadable::Op),
    ] {
        assert_eq!(of(&bytes), Err(expected), "{bytes:02x?}");
        // In whatever pieces, and for good.
        let more = command("find");
        let pieces: Vec<_> = bytes.chunks(1).chain([&more[..]]).collect();
        let (seen, outcome) = read(&pieces);
        assert_eq!((seen.as_slice(), outcome), (&[][..], Err(expected)), "{bytes:02x?}");
    }
}

#[test]
fn a_long_message_is_passed_over() {
    let mut large = command("insert");
    let length = 4_000_000;
    large[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    large.resize(length, 0xee);
    large.extend(command("ping"));
    for size in [1, 7, 4096, 65_536, length + 1] {
        let pieces: Vec<_> = large.chunks(size).collect();
        let (seen, outcome) = read(&pieces);
        assert_eq!((seen.join(", ").as_str(), outcome), ("op_msg insert, op_msg ping", Ok(())), "{size}");
    }
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::sample::select(COMMANDS.to_vec()).prop_map(command),
        "[a-z$.]{0,90}".prop_map(|key| command(&key)),
        ("[a-z.$]{0,40}", "[a-zA-Z]{1,20}")
            .prop_map(|(collection, key)| query(&format!("{collection}.$cmd"), &document(&key))),
        "[a-z]{1,20}".prop_map(|key| query("a.$cmd", &wrapped("$query", &document(&key)))),
        (any::<u32>(), proptest::collection::vec(any::<u8>(), 20..600))
            .prop_map(|(answers, body)| framed(1, answers, &body)),
        proptest::collection::vec(any::<u8>(), 9..900).prop_map(|body| framed(2012, 0, &body)),
    ]
}

proptest! {
    /// Pieces make no difference, whatever the messages and wherever the cuts.
    #[test]
    fn pieces_make_no_difference(
        messages in proptest::collection::vec(any_message(), 1..6),
        size in 1_usize..70,
        damage in proptest::option::weighted(0.5, (any::<proptest::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = messages.concat();
        if let Some((at, value)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let whole = read(&[&bytes]);
        let pieces: Vec<_> = bytes.chunks(size).collect();
        prop_assert_eq!(read(&pieces), whole.clone());
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(read(&single), whole.clone());
        if damage.is_none() {
            prop_assert_eq!(whole.1, Ok(()));
            prop_assert_eq!(whole.0.len(), messages.len());
        }
    }

    #[test]
    fn random_bytes_do_not_panic(
        code in prop_oneof![Just(2013_u32), Just(2004), any::<u32>()],
        length in prop_oneof![0_u32..40, 0_u32..2000, any::<u32>()],
        body in proptest::collection::vec(any::<u8>(), 0..700),
    ) {
        let mut bytes = framed(code, 0, &body);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        let (all, _) = read(&[&bytes]);
        // Nothing is seen that has no bytes of its own.
        prop_assert!(all.len() <= bytes.len() / HEADER);
        let _ = read(&[&body]);
    }
}
