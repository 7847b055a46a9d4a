//! What is said about names that are aliases of names that others have.

use hickory_proto::rr::rdata::{A as V4, CNAME as Real};
use hickory_proto::rr::{Name, Record};
use proptest::prelude::*;

use super::*;

fn aliases(names: &[&str]) -> Aliases {
    Aliases { names: names.iter().map(|name| (*name).to_owned()).collect(), ttl: 5 }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// What a resolver says about the question of `inner`.
fn said(inner: &Query, records: &[Record], code: ResponseCode) -> Vec<u8> {
    let mut message = read(inner.forward(&[0; SECRET], Transport::Udp).packet());
    message.metadata.message_type = MessageType::Response;
    message.metadata.response_code = code;
    records.iter().cloned().for_each(|record| _ = message.add_answer(record));
    message.to_vec().unwrap()
}

fn address(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(V4::new(192, 0, 2, last)))
}

fn real(owner: &str, ttl: u32, to: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(Real(name(to))))
}

#[test]
fn the_question_is_about_the_last_name() {
    let query = Query::parse(&packet(7, "Out.shop.svc.cluster.local", AAAA, Some(1400))).unwrap();
    let inner = query.about(&aliases(&["two.example", "real.example"])).unwrap();
    assert_eq!((inner.name(), inner.kind()), (Some("real.example"), Kind::Aaaa));
    assert_eq!(inner.edns, query.edns);
    assert_eq!(query.about(&aliases(&["a..b"])), None);
    assert_eq!(query.about(&aliases(&["a".repeat(64).as_str()])), None);
}

#[test]
fn the_answer_tells_all_names_and_the_addresses() {
    let query = Query::parse(&packet(9, "Out.shop.svc.cluster.local", A, None)).unwrap();
    let chain = aliases(&["two.shop.svc.cluster.local", "real.example"]);
    let inner = query.about(&chain).unwrap();
    // In any order, in any case, and with others' records beside.
    let records = [
        address("CDN.example", 60, 2),
        address("cdn.example", 2, 1),
        address("stranger.example", 1, 66),
        real("real.example", 300, "cdn.example"),
    ];
    let reply = query.reply_as(&chain, &said(&inner, &records, ResponseCode::NoError), Transport::Udp);
    let reply = read(&reply);
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (9, ResponseCode::NoError));
    assert!(!reply.metadata.authoritative && !reply.metadata.truncation);
    assert_eq!(reply.queries[0].name().to_string(), "Out.shop.svc.cluster.local.");
    let expected = [
        "Out.shop.svc.cluster.local. 2 two.shop.svc.cluster.local.",
        "two.shop.svc.cluster.local. 2 real.example.",
        "real.example. 2 192.0.2.2",
        "real.example. 2 192.0.2.1",
    ];
    assert_eq!(super::records(&reply), expected);
}

#[test]
fn what_a_resolver_does_not_know_is_not_known() {
    let query = query("out.shop.svc.cluster.local", A);
    let chain = aliases(&["real.example"]);
    let inner = query.about(&chain).unwrap();
    for (code, records) in [
        (ResponseCode::NXDomain, 1),
        (ResponseCode::NoError, 1),
        (ResponseCode::ServFail, 0),
        (ResponseCode::Refused, 0),
    ] {
        let reply = read(&query.reply_as(&chain, &said(&inner, &[], code), Transport::Udp));
        assert_eq!(reply.metadata.response_code, code);
        assert_eq!(reply.answers.len(), records, "{code}");
    }
    // Addresses of nobody who was asked about, and aliases that lead round.
    let strange = said(&inner, &[address("stranger.example", 9, 1)], ResponseCode::NoError);
    assert_eq!(read(&query.reply_as(&chain, &strange, Transport::Udp)).answers.len(), 1);
    let round = [real("real.example", 9, "b.example"), real("b.example", 9, "real.example")];
    let round = said(&inner, &round, ResponseCode::NoError);
    let reply = read(&query.reply_as(&chain, &round, Transport::Udp));
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::ServFail, 0));
}

#[test]
fn what_does_not_fit_is_asked_for_by_tcp() {
    let query = query("out.shop.svc.cluster.local", A);
    let chain = aliases(&["real.example"]);
    let inner = query.about(&chain).unwrap();
    let many: Vec<_> = (0..100).map(|n| address("real.example", 9, n)).collect();
    let answer = said(&inner, &many, ResponseCode::NoError);
    let reply = query.reply_as(&chain, &answer, Transport::Udp);
    assert!(reply.len() <= 512 && Query::is_cut(&reply) && read(&reply).metadata.truncation);
    let reply = query.reply_as(&chain, &answer, Transport::Tcp);
    assert!(!Query::is_cut(&reply));
    assert_eq!(read(&reply).answers.len(), 101);
    // Long names: no pointer leads further than it can tell.
    let long = [format!("{}.", "a".repeat(63)).repeat(3), "example".to_owned()].concat();
    let chain = Aliases { names: vec![long; 100], ttl: 5 };
    let reply = query.reply_as(&chain, &answer, Transport::Tcp);
    assert!(reply.len() > 0x3fff && read(&reply).answers.len() > 70, "{}", reply.len());
}

/// A record that ends behind the packet, a name that refers to itself or forward, and more records than there are.
#[test]
fn what_cannot_be_read_is_a_failure() {
    let query = query("out.shop.svc.cluster.local", A);
    let chain = aliases(&["real.example"]);
    let inner = query.about(&chain).unwrap();
    let honest = said(&inner, &[address("real.example", 9, 1)], ResponseCode::NoError);
    assert_eq!(read(&query.reply_as(&chain, &honest, Transport::Udp)).answers.len(), 2);
    let place = 12 + "real.example".len() + 2 + 4;
    let damaged = |at: usize, bytes: &[u8]| {
        let mut packet = honest.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    for (what, packet) in [
        ("more records than there are", damaged(6, &[0xff, 0xff])),
        ("refers to itself", damaged(place, &[0xc0, u8::try_from(place).unwrap()])),
        ("refers forward", damaged(place, &[0xff, 0xff])),
        ("a kind of label that nobody has", damaged(place, &[0x80])),
        ("longer than the packet", damaged(place + 10, &[0xff, 0xff])),
        ("five octets", damaged(place + 10, &[0, 3])),
        ("short", honest[..honest.len() - 1].to_vec()),
        ("empty", Vec::new()),
        ("only a header", honest[..12].to_vec()),
    ] {
        let reply = read(&query.reply_as(&chain, &packet, Transport::Udp));
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{what}");
        assert!(reply.answers.is_empty(), "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever a resolver says, the pod gets an answer that can be read and is not larger than it may be.
    #[test]
    fn any_answer_ends_well(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let query = query("out.shop.svc.cluster.local", A);
        let chain = aliases(&["real.example"]);
        let inner = query.about(&chain).unwrap();
        let records = [real("real.example", 9, "b.example"), address("b.example", 9, 1)];
        let mut packet = said(&inner, &records, ResponseCode::NoError);
        packet.extend(tail);
        for (place, byte) in damage {
            let place = place.index(packet.len());
            packet[place] = byte;
        }
        let reply = query.reply_as(&chain, &packet, Transport::Udp);
        prop_assert!(reply.len() <= 512);
        prop_assert_eq!(Message::from_vec(&reply).unwrap().metadata.message_type, MessageType::Response);
    }
}
