use super::*;

struct Packet<'a> {
    from: &'a str,
    to: &'a str,
    sequence: u32,
    flags: u8,
    payload: &'a [u8],
}

fn frame(packet: &Packet<'_>) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (packet.from.parse().unwrap(), packet.to.parse().unwrap());
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(packet.sequence.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 5 << 4, packet.flags, 0, 0, 0, 0, 0, 0]);
    tcp.extend(packet.payload);
    let mut out = vec![0; 12];
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend(ETHERTYPE_IPV4.to_be_bytes());
            let total = u16::try_from(20 + tcp.len()).unwrap().to_be_bytes();
            out.extend([0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, TCP, 0, 0]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            out.extend(ETHERTYPE_IPV6.to_be_bytes());
            let length = u16::try_from(tcp.len()).unwrap().to_be_bytes();
            out.extend([0x60, 0, 0, 0, length[0], length[1], TCP, 64]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        _ => panic!("one family"),
    }
    out.extend(tcp);
    // Short frames are padded; what the IP header does not count is no payload.
    out.resize(out.len().max(60), 0);
    out
}

fn data<'a>(from: &'a str, to: &'a str, sequence: u32, payload: &'a [u8]) -> Packet<'a> {
    Packet { from, to, sequence, flags: ACK, payload }
}

const A: &str = "10.244.1.2:40000";
const B: &str = "10.244.2.3:15008";

#[test]
fn frames_are_taken_apart_and_counted_once() {
    let syn = frame(&Packet { from: A, to: B, sequence: 7, flags: SYN, payload: b"" });
    let six = frame(&data("[fd00:244:1::2]:50000", "[fd00:244:2::3]:9080", 1, b"GET / HTTP/1.1"));
    let wire = Wire::new(vec![syn.clone(), syn, six, vec![1, 2, 3], Vec::new()]);
    assert_eq!(wire.packets(), 2);
    assert_eq!(wire.ports(), BTreeSet::from([9080, 15008]));
    assert_eq!((wire.showing("HTTP/1.1"), wire.showing("HTTP/2")), (1, 0));
    assert_eq!(wire.packets_from("10.244.1.2".parse().unwrap()), 1);
    let wire = wire.among(&BTreeSet::from(["10.244.1.2".parse().unwrap(), "10.244.2.3".parse().unwrap()]));
    assert_eq!((wire.packets(), wire.ports()), (1, BTreeSet::from([15008])));
    assert_eq!(wire.tls(), Tls::default(), "a SYN carries nothing");
}

#[test]
fn the_server_is_who_was_called() {
    // The server's port is the higher one.
    let call =
        frame(&Packet { from: "10.0.0.1:1000", to: "10.0.0.2:9999", sequence: 1, flags: SYN, payload: b"" });
    let answer = frame(&data("10.0.0.2:9999", "10.0.0.1:1000", 1, b"x"));
    assert_eq!(Wire::new(vec![answer, call]).ports(), BTreeSet::from([9999]));
}

#[test]
fn records_are_found_across_segments_in_any_order() {
    let first = [&[22, 3, 1, 0, 4], &b"hell"[..]].concat();
    let second = [&[23, 3, 3, 0, 6], &b"secret"[..]].concat();
    let stream = [first, second].concat();
    let start = u32::MAX - 3;
    let at = |offset: usize| start.wrapping_add(u32::try_from(offset).unwrap());
    let segments = [(9, 14), (0, 9), (5, 11), (14, 20)];
    let frames = segments.map(|(from, to)| frame(&data(A, B, at(from), &stream[from..to])));
    let tls = Wire::new(frames.to_vec()).tls();
    assert_eq!(tls, Tls { handshake: 1, data: 1, bytes: 20, foreign: 0 });
}

#[test]
fn plaintext_is_foreign() {
    let request = b"GET /reviews/0 HTTP/1.1\r\n\r\n";
    let tls = Wire::new(vec![frame(&data(A, B, 1, request))]).tls();
    assert_eq!(tls, Tls { handshake: 0, data: 0, bytes: request.len(), foreign: request.len() });
    // Text behind a record is as bad.
    let mixed = [&[23, 3, 3, 0, 1, 0], &request[..]].concat();
    let tls = Wire::new(vec![frame(&data(A, B, 1, &mixed))]).tls();
    assert_eq!((tls.data, tls.foreign), (1, request.len()));
}

#[test]
fn a_recording_may_end_within_a_record() {
    let cut = [23, 3, 3, 0, 100, 1, 2];
    assert_eq!(Wire::new(vec![frame(&data(A, B, 1, &cut))]).tls().foreign, 0);
    assert_eq!(Wire::new(vec![frame(&data(A, B, 1, &cut[..3]))]).tls().foreign, 0);
}

#[test]
fn what_cannot_be_read_is_not_taken_for_tls() {
    let record = [23, 3, 3, 0, 1, 0];
    let frames = [frame(&data(A, B, 1, &record)), frame(&data(A, B, 100, &record))];
    assert_eq!(Wire::new(frames.to_vec()).tls(), Tls { handshake: 0, data: 1, bytes: 12, foreign: 6 });
}

#[test]
fn goodbyes_ask_for_nothing() {
    let goodbye = frame(&Packet { from: A, to: B, sequence: 9, flags: ACK | 0x01, payload: b"" });
    let reset = frame(&Packet { from: A, to: B, sequence: 9, flags: 0x04, payload: b"" });
    let opening = frame(&Packet { from: A, to: B, sequence: 7, flags: SYN, payload: b"" });
    let request = frame(&data(A, B, 8, b"GET"));
    let ip = "10.244.1.2".parse().unwrap();
    assert_eq!(Wire::new(vec![goodbye, reset]).sent_from(ip), 0);
    assert_eq!(Wire::new(vec![opening, request]).sent_from(ip), 2);
}
