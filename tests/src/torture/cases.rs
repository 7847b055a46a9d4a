//! The cases.

use std::iter;

use super::{Case, Difference, End, Ends, Got, In, Out, Path, Seen, Step, To};
use Step::{Both, Drain, Fin, Heed, Inherit, Keepalive, Linger, Pause, Receive, Reset, Send, Urge};

/// Every case but those of [`find`] that are told by a number.
pub fn all() -> Vec<Case> {
    let sizes = SIZES.iter().map(|bytes| sized(*bytes));
    sizes.chain(ends()).chain(readers()).chain(breaks()).chain(calls()).chain(others()).collect()
}

/// The case of this name; `bytes-N` and `bulk-N` exist for every N.
pub fn find(name: &str) -> Option<Case> {
    let number = |prefix| name.strip_prefix(prefix).and_then(|number: &str| number.parse().ok());
    match (number("bytes-"), number("bulk-")) {
        (Some(bytes), _) => Some(sized(bytes)),
        (_, Some(bytes)) => Some(case(name, &[Send(bytes, W), Fin, Drain(R)], &[Drain(R), Fin])),
        _ => all().into_iter().find(|case| case.name == name),
    }
}

/// There and back.
fn sized(bytes: u64) -> Case {
    case(&format!("bytes-{bytes}"), &[Send(bytes, W), Fin, Drain(R)], &[Drain(R), Send(bytes, W), Fin])
}

/// Both ends end it, in every order.
fn ends() -> Vec<Case> {
    vec![
        case("client-ends-first", &[Send(SOME, W), Fin, Drain(R)], &[Drain(R), Send(MUCH, W), Fin]),
        case("server-ends-first", &[Drain(R), Send(MUCH, W), Fin], &[Send(SOME, W), Fin, Drain(R)]),
        case("both-end-before-they-read", &[Send(SOME, W), Fin, Drain(R)], &[Send(SOME, W), Fin, Drain(R)]),
        case("client-ends-without-a-byte", &[Fin, Drain(R)], &[Drain(R), Send(SOME, W), Fin]),
        case("server-ends-without-a-byte", &[Drain(R), Send(SOME, W), Fin], &[Fin, Drain(R)]),
        case("both-end-without-a-byte", &[Fin, Drain(R)], &[Fin, Drain(R)]),
        case("client-ends-in-the-midst", &[Fin, Drain(In::Slow(65_536, 1))], &[Send(MUCH, W), Fin, Drain(R)]),
        case("server-ends-in-the-midst", &[Send(MUCH, W), Fin, Drain(R)], &[Fin, Drain(In::Slow(65_536, 1))]),
        case("client-closes-after-all", &[Send(MUCH, W), Fin, Drain(R)], &[Drain(R)]),
        case("close-is-an-end", &[Send(SOME, W)], &[Drain(R), Fin]).seen(left(), fin()),
        case("both-ways", &[Both(MUCH, W, R)], &[Both(MUCH, W, R)]),
        case(
            "both-ways-in-odd-pieces",
            &[Both(SOME * 8, Out::Pieces(1237), R)],
            &[Both(SOME * 8, Out::Pieces(811), R)],
        ),
        case(
            "turn-by-turn",
            &turns(&[Send(700, W), Receive(900, R)]),
            &turns(&[Receive(700, R), Send(900, W)]),
        ),
    ]
}

/// Those who read slowly, late, or in small bites.
fn readers() -> Vec<Case> {
    let bites = In::Slow(1, 0);
    vec![
        case("slow-server", &[Send(MUCH, W), Fin, Drain(R)], &[Drain(In::Slow(32_768, 10)), Fin]),
        case("slow-client", &[Drain(In::Slow(32_768, 10)), Fin], &[Send(MUCH, W), Fin, Drain(R)]),
        case(
            "byte-by-byte",
            &[Send(3000, Out::Pieces(1)), Fin, Drain(bites)],
            &[Drain(bites), Send(3000, W), Fin],
        ),
        case("stalled-server", &[Step::Fill(300), Fin, Drain(R)], &[Pause(3000), Drain(R), Fin]),
        case("stalled-client", &[Pause(3000), Drain(R), Fin], &[Step::Fill(300), Fin, Drain(R)]),
        case("both-stall-in-turn", &[Both(MUCH, W, In::Slow(65_536, 20))], &[Pause(700), Both(MUCH, W, R)]),
    ]
}

/// Ends that are none.
fn breaks() -> Vec<Case> {
    let unread = [Receive(1000, R), Pause(200)];
    vec![
        case("server-closes-with-data-unread", &[Send(SOME, W), Drain(R)], &unread).seen(reset(), left()),
        case("client-closes-with-data-unread", &unread, &[Send(SOME, W), Drain(R)]).seen(left(), reset()),
        case(
            "server-resets",
            &[Receive(1000, R), Send(8, W), Drain(R)],
            &[Send(1000, W), Receive(8, R), Reset],
        )
        .seen(Seen { got: Got::All, ..reset() }, Seen { got: Got::All, ..left() }),
        case(
            "client-resets",
            &[Send(1000, W), Receive(8, R), Reset],
            &[Receive(1000, R), Send(8, W), Drain(R)],
        )
        .seen(Seen { got: Got::All, ..left() }, Seen { got: Got::All, ..reset() }),
        case("reset-over-data-unread", &[Pause(300), Drain(R)], &[Send(SOME, W), Reset])
            .seen(reset(), left()),
        case(
            "reset-after-the-others-end",
            &[Send(SOME, W), Fin, Drain(R)],
            &[Drain(R), Send(SOME, W), Pause(200), Reset],
        )
        .seen(reset(), fin()),
        case("linger-waits", &[Linger(20), Send(MUCH, W)], &[Pause(300), Drain(R), Fin]).seen(left(), fin()),
        case("linger-zero-drops-what-is-unsent", &[Send(MUCH, W), Reset], &[Pause(300), Drain(R)])
            .seen(left(), reset())
            .but(Difference {
                paths: &[Path::Proxied, Path::CrossNode],
                seen: Ends { client: left(), server: Seen { got: Got::Perhaps, ..reset() } },
                what: "of a connection that its client resets, all that is under way may be lost, even its beginning",
                why: "what the proxies hold of a flow that breaks goes with it",
            }),
        case("nobody-listens", &[Send(1, W), Drain(R)], &[]).to(To::Nobody).seen(refused(), left()).but(
            Difference {
                paths: &[Path::Proxied, Path::CrossNode],
                seen: Ends { client: reset(), server: left() },
                what: "a connection to a port where nobody listens is made and then reset, not refused",
                why: "the proxy has accepted before it knows",
            },
        ),
    ]
}

/// The ways in which programs send and receive.
fn calls() -> Vec<Case> {
    let both =
        |name: &str, out, receive| case(name, &[Both(MUCH, out, receive)], &[Both(MUCH, out, receive)]);
    vec![
        both("vectored", Out::Vectored, R),
        both("sendfile", Out::File, R),
        both("splice", Out::Splice, In::Splice),
        both("zero-copy", Out::ZeroCopy, R),
        both("peek", W, In::Peek),
        both("edge-triggered", Out::Edge, In::Edge),
        both("io-uring", Out::Ring, In::Ring),
    ]
}

fn others() -> Vec<Case> {
    let urgent = |seen: Seen, urgent| Ends { client: fin(), server: Seen { urgent, ..seen } };
    let mut urge = case(
        "urgent",
        &[Send(1000, W), Urge, Send(1000, W), Fin, Drain(R)],
        &[Receive(1000, R), Heed, Drain(R), Fin],
    )
    .but(Difference {
        paths: &[Path::Proxied, Path::CrossNode],
        seen: urgent(fin(), false),
        what: "urgent data (`MSG_OOB`) is left out; the bytes around it arrive",
        why: "a tunnel has no place for it, and to put it into the stream would change the stream",
    });
    urge.seen = urgent(fin(), true);
    vec![
        urge,
        case(
            "keepalive",
            &[Keepalive, Send(100, W), Pause(3200), Send(100, W), Fin, Drain(R)],
            &[Keepalive, Receive(100, R), Pause(3200), Drain(R), Send(100, W), Fin],
        ),
        case("client-is-inherited", &[Inherit, Both(MUCH, W, R)], &[Both(MUCH, W, R)]),
        case("server-is-inherited", &[Both(MUCH, W, R)], &[Inherit, Both(MUCH, W, R)]),
        case("crowded", &[Send(100, W), Fin, Drain(R)], &[Drain(R), Send(100, W), Fin]).to(To::Crowded),
    ]
}

fn turns(turn: &[Step; 2]) -> Vec<Step> {
    // The last one is no surprise to the one who reads.
    iter::repeat_n(turn, 200).flatten().copied().chain([Fin, Drain(R)]).collect()
}

fn case(name: &str, client: &[Step], server: &[Step]) -> Case {
    let seen = Ends { client: fin(), server: fin() };
    let (client, server) = (client.to_vec(), server.to_vec());
    Case { name: name.to_owned(), to: To::Server, client, server, seen, but: None }
}

impl Case {
    fn seen(mut self, client: Seen, server: Seen) -> Self {
        self.seen = Ends { client, server };
        self
    }

    fn to(mut self, to: To) -> Self {
        self.to = to;
        self
    }

    fn but(mut self, difference: Difference) -> Self {
        self.but = Some(difference);
        self
    }
}

/// All of it, and its end.
fn fin() -> Seen {
    Seen { got: Got::All, end: End::Fin, urgent: false }
}

fn reset() -> Seen {
    Seen { got: Got::Beginning, end: End::Reset, urgent: false }
}

/// It did not wait for the end.
fn left() -> Seen {
    Seen { got: Got::Beginning, end: End::Left, urgent: false }
}

fn refused() -> Seen {
    Seen { got: Got::Beginning, end: End::Refused, urgent: false }
}

const W: Out = Out::Write;
const R: In = In::Read;

/// Around what a packet, a record of TLS, a frame of HTTP/2 and the relay's reads hold.
const SIZES: [u64; 16] = [
    1, 2, 7, 1447, 1448, 1449, 4096, 16_375, 16_384, 16_385, 65_535, 65_536, 65_537, 262_144, 1_048_576,
    1_048_577,
];

/// Fits into the buffers of one socket, so that it can be sent before anybody reads.
const SOME: u64 = 30_000;
/// Does not, so that readers and writers wait for each other.
const MUCH: u64 = 3_000_000;
