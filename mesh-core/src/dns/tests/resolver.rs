//! What goes to a resolver, and what is believed of what comes back.

use hickory_proto::op::MessageType;
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::A as Address;

use super::*;

fn secret(seed: u8) -> [u8; SECRET] {
    std::array::from_fn(|at| seed.wrapping_mul(37).wrapping_add(u8::try_from(at).unwrap().wrapping_mul(89)))
}

/// The answer of an honest resolver to a packet.
fn honest(sent: &[u8]) -> Vec<u8> {
    let mut message = read(sent);
    message.metadata.message_type = MessageType::Response;
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, 60, RData::A(Address::new(192, 0, 2, 1))));
    message.to_vec().unwrap()
}

#[test]
fn a_question_goes_on_without_what_came_with_it() {
    let mut with_cookie = packet(0xbeef, "www.example.com", A, Some(4096));
    let length = with_cookie.len();
    with_cookie[length - 1] = 12;
    with_cookie.extend([0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    let query = Query::parse(&with_cookie).unwrap();
    let sent = query.forward(&secret(1), Transport::Udp);
    let message = read(sent.packet());
    assert_eq!(message.metadata.id, u16::from_be_bytes([secret(1)[0], secret(1)[1]]));
    assert!(message.metadata.recursion_desired && message.metadata.authentic_data);
    assert_eq!(message.queries[0].name().to_lowercase().to_string(), "www.example.com.");
    let edns = message.edns.unwrap();
    assert_eq!(
        (edns.max_payload(), edns.flags().dnssec_ok),
        (1232, true),
        "an answer must not be fragmented"
    );
    assert!(edns.options().as_ref().is_empty(), "cookies are for whoever they were sent to");
    // The case of the name is a secret, and its own for each query.
    let other = query.forward(&secret(2), Transport::Udp);
    assert_ne!(sent.packet()[12..29], other.packet()[12..29]);
    assert_ne!(sent.packet()[12..29], packet(0, "www.example.com", A, None)[12..29]);
    let plain = super::query("www.example.com", A).forward(&secret(1), Transport::Udp);
    assert!(read(plain.packet()).edns.is_none());
}

#[test]
fn the_client_gets_the_answer_under_its_own_id_and_spelling() {
    let query = Query::parse(&packet(0xbeef, "Www.Example.com", A, None)).unwrap();
    let sent = query.forward(&secret(3), Transport::Udp);
    let answer = honest(sent.packet());
    assert_eq!(sent.judge(&answer), Verdict::Answer);
    let relayed = read(&query.relay(answer, Transport::Udp));
    assert_eq!(relayed.metadata.id, 0xbeef);
    assert_eq!(relayed.queries[0].name().to_string(), "Www.Example.com.");
    assert!(records(&relayed)[0].ends_with(" 60 192.0.2.1"), "{:?}", records(&relayed));
    // More than the client takes: it is to ask by TCP.
    let large = [honest(sent.packet()), vec![0; 600]].concat();
    let cut = read(&query.relay(large.clone(), Transport::Udp));
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(query.relay(large.clone(), Transport::Tcp).len(), large.len());
}

#[test]
fn forged_answers_are_strays() {
    let query = query("www.example.com", A);
    let sent = query.forward(&secret(5), Transport::Udp);
    let good = honest(sent.packet());
    let changed = |at: usize, xor: u8| {
        let mut forged = good.clone();
        forged[at] ^= xor;
        sent.judge(&forged)
    };
    for (what, at, xor) in [
        ("another id", 0, 0x01),
        ("another id", 1, 0x80),
        ("a query", 2, 0x80),
        ("another operation", 2, 0x08),
        ("another letter", 13, 0x01),
        ("another length", 12, 0x01),
        ("another type", 30, 0x1c),
        ("another class", 32, 0x02),
        ("no question", 5, 0x01),
        ("two questions", 5, 0x03),
    ] {
        assert_eq!(changed(at, xor), Verdict::Stray, "{what}");
    }
    assert_eq!(changed(14, 0x20), Verdict::OtherCase);
    for length in 0..sent.packet().len() {
        assert_eq!(sent.judge(&good[..length]), Verdict::Stray, "{length} bytes");
    }
    let mut confused = good[..12].to_vec();
    confused[3] |= 1;
    confused[5] = 0;
    assert_eq!(sent.judge(&confused), Verdict::Failed(Code::Other(1)));
}

/// A forger who sees nothing guesses 2^16 ids; with the right port and the question in lower case, none is believed.
#[test]
fn a_hundred_thousand_guesses_are_not_believed() {
    let query = query("login.bank.example.com", A);
    let sent = query.forward(&secret(7), Transport::Udp);
    let mut forged = honest(&packet(0, "login.bank.example.com", A, None));
    for guess in 0..100_000_u32 {
        let id = u16::try_from(guess % 65_536).unwrap();
        forged[..2].copy_from_slice(&id.to_be_bytes());
        assert_ne!(sent.judge(&forged), Verdict::Answer, "{guess}");
    }
}
