//! Packets made to hurt: each ends in silence or in one small answer.

use proptest::prelude::*;

use super::*;

fn refused(packet: &[u8]) -> ResponseCode {
    match Query::parse(packet) {
        Err(Unanswerable::Refused(reply)) => {
            assert_eq!(reply[..2], packet[..2], "the id comes back");
            read(&reply).metadata.response_code
        }
        other => panic!("{other:?} of {packet:02x?}"),
    }
}

fn silent(packet: &[u8]) -> bool {
    matches!(Query::parse(packet), Err(Unanswerable::Silent))
}

/// A header with these counts, then `body`.
fn crafted(flags: [u8; 2], counts: [u16; 4], body: &[u8]) -> Vec<u8> {
    let counts = counts.map(u16::to_be_bytes).concat();
    [&[0x12, 0x34], &flags[..], &counts, body].concat()
}

#[test]
fn what_is_no_query_has_no_answer() {
    let good = packet(7, "a.b", A, Some(1232));
    for length in 0..12 {
        assert!(silent(&good[..length]), "{length} bytes");
    }
    let mut response = good;
    response[2] |= 0x80;
    assert!(silent(&response), "two resolvers would keep each other busy");
}

#[test]
fn every_cut_of_a_query_is_a_format_error() {
    let good = packet(7, "some.name.example", A, Some(1232));
    for length in 12..good.len() {
        assert_eq!(refused(&good[..length]), ResponseCode::FormErr, "{length} bytes");
    }
}

#[test]
fn other_operations_are_not_implemented() {
    for operation in 1..16_u8 {
        let mut packet = packet(7, "a.b", A, None);
        packet[2] |= operation << 3;
        assert_eq!(refused(&packet), ResponseCode::NotImp, "{operation}");
    }
    for transfer in [251, 252, 253, 254] {
        assert_eq!(refused(&packet(7, "a.b", transfer, None)), ResponseCode::NotImp, "{transfer}");
    }
}

#[test]
fn questions_are_one_and_written_out() {
    let question = [1, b'a', 0, 0, 1, 0, 1];
    let rows: [(&str, [u16; 4], Vec<u8>); 16] = [
        ("no question", [0, 0, 0, 0], Vec::new()),
        ("two questions", [2, 0, 0, 0], question.repeat(2)),
        ("65,535 questions", [0xffff, 0, 0, 0], question.to_vec()),
        ("an answer in a query", [1, 1, 0, 0], question.to_vec()),
        ("an authority in a query", [1, 0, 1, 0], question.to_vec()),
        ("65,535 additional records", [1, 0, 0, 0xffff], question.to_vec()),
        ("a name that refers to itself", [1, 0, 0, 0], vec![0xc0, 12, 0, 1, 0, 1]),
        ("a name that refers ahead", [1, 0, 0, 0], vec![0xc0, 14, 1, b'a', 0, 0, 1, 0, 1]),
        ("a name that refers to the header", [1, 0, 0, 0], vec![1, b'a', 0xc0, 0, 0, 1, 0, 1]),
        ("a label of a kind that there is not", [1, 0, 0, 0], vec![0x41, b'a', 0, 0, 1, 0, 1]),
        ("a label of 64 bytes", [1, 0, 0, 0], [&[64], &[b'a'; 64][..], &[0, 0, 1, 0, 1]].concat()),
        ("a name of 257 bytes", [1, 0, 0, 0], [&[1, b'a'].repeat(128)[..], &[0, 0, 1, 0, 1]].concat()),
        ("a name without an end", [1, 0, 0, 0], [1, b'a'].repeat(100)),
        (
            "two OPT records",
            [1, 0, 0, 2],
            [&question[..], &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0].repeat(2)].concat(),
        ),
        (
            "an OPT record with a name",
            [1, 0, 0, 1],
            [&question[..], &[1, b'a', 0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0]].concat(),
        ),
        (
            "an OPT record that is too short",
            [1, 0, 0, 1],
            [&question[..], &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 9, 1]].concat(),
        ),
    ];
    for (what, counts, body) in rows {
        assert_eq!(refused(&crafted([1, 0], counts, &body)), ResponseCode::FormErr, "{what}");
    }
    let mut unknown = packet(7, "a.b", A, Some(1232));
    let version = unknown.len() - 5;
    unknown[version] = 1;
    assert_eq!(refused(&unknown), ResponseCode::BADSIG);
}

/// Names as long as they may be are read, and other records than `OPT` are passed over.
#[test]
fn odd_queries_are_queries() {
    let longest = [&[1, b'a'].repeat(127)[..], &[0, 0, 1, 0, 1]].concat();
    let query = Query::parse(&crafted([1, 0], [1, 0, 0, 0], &longest)).unwrap();
    assert_eq!(query.name().unwrap().len(), 253);
    let signed =
        [&packet(7, "a.b", A, None)[12..], &[0xc0, 12, 0, 250, 0, 255, 0, 0, 0, 0, 0, 2, 1, 2]].concat();
    assert!(Query::parse(&crafted([1, 0], [1, 0, 0, 1], &signed)).is_ok());
    let root = Query::parse(&crafted([1, 0], [1, 0, 0, 0], &[0, 0, 2, 0, 1])).unwrap();
    assert_eq!(root.name(), None);
    let garbage_behind = [packet(7, "a.b", A, None), vec![0xff; 400]].concat();
    assert_eq!(Query::parse(&garbage_behind).unwrap(), query_of_ab());
}

fn query_of_ab() -> Query {
    Query::parse(&packet(7, "a.b", A, None)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// No packet panics, and whatever is sent back is well-formed, an answer, and not larger than what was asked for.
    #[test]
    fn any_packet_ends_well(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        ends_well(&packet)?;
    }

    /// The same for packets that are nearly queries.
    #[test]
    fn any_damage_ends_well(
        name in "([a-z]{1,8}\\.){0,4}[a-z]{1,8}",
        size in proptest::option::of(any::<u16>()),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut packet = packet(7, &name, A, size);
        for (place, byte) in damage {
            let place = place.index(packet.len());
            packet[place] = byte;
        }
        packet.truncate(cut.index(packet.len() * 4).max(12));
        ends_well(&packet)?;
    }
}

fn ends_well(packet: &[u8]) -> Result<(), TestCaseError> {
    let known = Records {
        aliases: vec!["real.example".to_owned()],
        addresses: addresses(&["10.0.0.1", "10.0.0.2"]),
        others: vec![Other::Location { port: 1, host: "a.b".to_owned() }, Other::Pointer("c".repeat(64))],
        ttl: 30,
    };
    match Query::parse(packet) {
        Err(Unanswerable::Silent) => {}
        Err(Unanswerable::Refused(reply)) => {
            prop_assert_eq!(Message::from_vec(&reply).unwrap().metadata.message_type, MessageType::Response);
            prop_assert!(reply.len() <= packet.len() + 11);
        }
        Ok(query) => {
            let reply = query.reply(&known, Transport::Udp);
            prop_assert!(reply.len() <= query.limit(Transport::Udp));
            for reply in [reply, query.fail(Code::ServerFailure), query.relay(Vec::new(), Transport::Udp)] {
                let message = Message::from_vec(&reply).unwrap();
                prop_assert_eq!(message.metadata.message_type, MessageType::Response);
                // No answer is a query, so nobody can be made to answer it.
                prop_assert_eq!(Query::parse(&reply), Err(Unanswerable::Silent));
            }
            let sent = query.forward(&[0xa5; SECRET], Transport::Udp);
            prop_assert!(sent.packet().len() <= packet.len());
            prop_assert_eq!(sent.judge(packet), Verdict::Stray);
        }
    }
    Ok(())
}
