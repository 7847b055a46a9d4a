//! Queries as clients send them; what is said in return is read by a codec that is not ours.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use super::*;

mod alias;
mod hostile;
mod resolver;
mod zone;

/// A query of class IN, with an `OPT` record for answers of `size` bytes where that is given.
fn packet(id: u16, name: &str, kind: u16, size: Option<u16>) -> Vec<u8> {
    let mut out = [id.to_be_bytes(), [0x01, 0x20]].concat();
    out.extend([0, 1, 0, 0, 0, 0, 0, u8::from(size.is_some())]);
    assert!(name::write(name, &mut out), "{name}");
    out.extend([kind.to_be_bytes(), [0, 1]].concat());
    if let Some(size) = size {
        out.extend([0, 0, 41]);
        out.extend(size.to_be_bytes());
        out.extend([0, 0, 0x80, 0, 0, 0]);
    }
    out
}

fn query(name: &str, kind: u16) -> Query {
    Query::parse(&packet(7, name, kind, None)).unwrap()
}

fn read(reply: &[u8]) -> Message {
    Message::from_vec(reply).unwrap_or_else(|error| panic!("{error}: {reply:02x?}"))
}

/// Owners, times to live and data, as text.
fn records(message: &Message) -> Vec<String> {
    let all = message.answers.iter();
    all.map(|record| format!("{} {} {}", record.name, record.ttl, record.data)).collect()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const A: u16 = 1;
const AAAA: u16 = 28;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const TXT: u16 = 16;
const SRV: u16 = 33;
const HTTPS: u16 = 65;
const ANY: u16 = 255;

#[test]
fn a_query_is_read() {
    let query = Query::parse(&packet(0xbeef, "Api.Shop.SVC.cluster.local", A, Some(1400))).unwrap();
    assert_eq!((query.name(), query.kind()), (Some("api.shop.svc.cluster.local"), Kind::A));
    assert_eq!((query.id, query.edns.unwrap().size, query.edns.unwrap().dnssec), (0xbeef, 1400, true));
    for (kind, expected) in [(AAAA, Kind::Aaaa), (TXT, Kind::Other), (HTTPS, Kind::Service), (ANY, Kind::Any)]
    {
        assert_eq!(Query::parse(&packet(7, "a.b", kind, None)).unwrap().kind(), expected);
    }
    // Whatever else a name may be in DNS, it is none of ours.
    let mut odd = packet(7, "aXb.c", A, None);
    odd[14] = b'.';
    let odd = Query::parse(&odd).unwrap();
    assert_eq!(odd.name(), None);
    assert_eq!(read(&odd.fail(Code::Refused)).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn an_answer_is_what_was_asked_for() {
    let query = Query::parse(&packet(0xbeef, "Web.a.svc.cluster.local", A, Some(4096))).unwrap();
    let known = Records {
        aliases: Vec::new(),
        addresses: addresses(&["10.0.0.1", "10.0.0.2"]),
        ttl: 30,
        ..Records::default()
    };
    let reply = read(&query.reply(&known, Transport::Udp));
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (0xbeef, MessageType::Response));
    assert!(
        reply.metadata.authoritative
            && reply.metadata.recursion_available
            && reply.metadata.recursion_desired
    );
    assert!(!reply.metadata.truncation);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.queries[0].query_type(), RecordType::A);
    // Some clients compare the case of the name.
    assert_eq!(reply.queries[0].name().to_string(), "Web.a.svc.cluster.local.");
    let expected = ["Web.a.svc.cluster.local. 30 10.0.0.1", "Web.a.svc.cluster.local. 30 10.0.0.2"];
    assert_eq!(records(&reply), expected);
    assert!(reply.edns.is_some());
    let plain = Query::parse(&packet(7, "web", AAAA, None)).unwrap();
    let known = Records { addresses: addresses(&["fd00::1"]), ..known };
    let reply = read(&plain.reply(&known, Transport::Tcp));
    assert_eq!(records(&reply), ["web. 30 fd00::1"]);
    assert!(reply.edns.is_none(), "who sends no OPT record does not understand one");
    let none = Records { addresses: Vec::new(), ..known };
    let reply = read(&plain.reply(&none, Transport::Udp));
    assert!(reply.answers.is_empty() && reply.metadata.response_code == ResponseCode::NoError);
}

#[test]
fn an_alias_has_the_addresses() {
    let query = query("api.example.shop.svc.cluster.local", A);
    let known = Records {
        aliases: vec!["api.example".to_owned()],
        addresses: addresses(&["240.240.0.1"]),
        ttl: 30,
        ..Records::default()
    };
    let reply = read(&query.reply(&known, Transport::Udp));
    let expected = ["api.example.shop.svc.cluster.local. 30 api.example.", "api.example. 30 240.240.0.1"];
    assert_eq!(records(&reply), expected);
    assert!(matches!(reply.answers[0].data, RData::CNAME(_)));
}

#[test]
fn names_are_told_as_far_as_they_fit() {
    let pointer = Other::Pointer("web.shop.svc.cluster.local".to_owned());
    let known = Records { others: vec![pointer], ttl: 30, ..Records::default() };
    let reply = read(&query("1.0.96.10.in-addr.arpa", PTR).reply(&known, Transport::Udp));
    assert_eq!(records(&reply), ["1.0.96.10.in-addr.arpa. 30 web.shop.svc.cluster.local."]);
    let location = |n| Other::Location { port: 5432, host: format!("db-{n}.db.shop.svc.cluster.local") };
    let known = Records { others: (0..100).map(location).collect(), ttl: 5, ..Records::default() };
    let query = query("_sql._tcp.db.shop.svc.cluster.local", SRV);
    let whole = read(&query.reply(&known, Transport::Tcp));
    let first = "_sql._tcp.db.shop.svc.cluster.local. 5 0 1 5432 db-0.db.shop.svc.cluster.local.";
    assert_eq!((records(&whole)[0].as_str(), whole.answers.len()), (first, 100));
    let raw = query.reply(&known, Transport::Udp);
    let cut = read(&raw);
    assert!(cut.metadata.truncation && raw.len() <= 512, "{} bytes", raw.len());
    assert_eq!(records(&cut), records(&whole)[..cut.answers.len()]);
    assert!(cut.answers.len() > 5);
}

#[test]
fn what_does_not_fit_is_asked_for_by_tcp() {
    let many: Vec<IpAddr> = (0..200_u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    let known = Records { addresses: many, ttl: 5, ..Records::default() };
    for (size, fits) in [(None, 30), (Some(100), 29), (Some(1232), 74), (Some(65_535), 200)] {
        let query = Query::parse(&packet(7, "web.a.svc", A, size)).unwrap();
        let raw = query.reply(&known, Transport::Udp);
        let reply = read(&raw);
        assert!(raw.len() <= usize::from(size.unwrap_or(512).clamp(512, 4096)), "{size:?}: {}", raw.len());
        assert_eq!((reply.metadata.truncation, reply.answers.len()), (fits < 200, fits), "{size:?}");
        let whole = read(&query.reply(&known, Transport::Tcp));
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 200), "{size:?}");
    }
    // A name as long as they get, twice.
    let long = format!("{}a.b", "x23456789.".repeat(22));
    let query = query(&format!("{long}.svc.cluster.local"), A);
    let known = Records { aliases: vec![long], ..known };
    let raw = query.reply(&known, Transport::Udp);
    assert!(read(&raw).metadata.truncation && raw.len() <= 512);
}

#[test]
fn failures_keep_the_question() {
    let query = Query::parse(&packet(9, "x.example", A, Some(1232))).unwrap();
    for (code, expected) in [
        (Code::ServerFailure, ResponseCode::ServFail),
        (Code::Refused, ResponseCode::Refused),
        (Code::Other(3), ResponseCode::NXDomain),
        // 16 has two names.
        (Code::BadVersion, ResponseCode::BADSIG),
    ] {
        let reply = read(&query.fail(code));
        assert_eq!((reply.metadata.id, reply.queries.len()), (9, 1));
        assert_eq!(reply.metadata.response_code, expected, "{code:?}");
        assert!(!reply.metadata.authoritative);
    }
}
