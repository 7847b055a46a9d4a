//! Asking the pod's own resolver, and knowing its answer from forged ones.
//!
//! Besides a port that nobody knows, which is the socket's, a forger has to guess an id of 16 bits and the case of every
//! letter of the name (RFC 5452; draft-vixie-dnsext-dns0x20). A resolver that does not keep the case is asked again
//! by TCP, where nobody can forge.

use super::query::{Edns, HEADER, OPCODE, Query, RESPONSE};
use super::reply::{self, Code, PLAIN_SIZE, Transport};

/// A query as a resolver gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    packet: Vec<u8>,
    /// Where the question ends in it.
    question_end: usize,
}

/// What a packet from the resolver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The answer.
    Answer,
    /// The answer, or a good guess of one: the letters of the name are right, their case is not.
    OtherCase,
    /// The resolver did not understand the query, and says nothing else.
    Failed(Code),
    /// Something else, to be taken no notice of.
    Stray,
}

/// Random bytes that one query takes: its id, and a bit for each letter.
pub const SECRET: usize = 2 + 32;

impl Query {
    /// The query for the pod's resolver: the same question, and nothing else that came with it. Options are for whoever
    /// they were sent to, cookies and addresses of clients among them.
    pub fn forward(&self, secret: &[u8; SECRET], transport: Transport) -> Sent {
        let ([high, low, bits @ ..], question) = (secret, &self.question);
        let mut packet = vec![*high, *low];
        packet.extend_from_slice(&(self.flags & ASKED).to_be_bytes());
        packet.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        packet.extend_from_slice(question);
        let name = question.len().saturating_sub(4);
        for (place, byte) in packet.iter_mut().skip(HEADER).take(name).enumerate() {
            // The length of a label is less than any letter.
            let flip = bits.get(place / 8).is_some_and(|bits| bits >> (place % 8) & 1 == 1);
            if flip && byte.is_ascii_alphabetic() {
                *byte ^= CASE;
            }
        }
        let question_end = packet.len();
        if let Some(edns) = self.edns {
            let size = match transport {
                Transport::Udp => edns.size.clamp(PLAIN_SIZE, UNFRAGMENTED),
                Transport::Tcp => UNFRAGMENTED,
            };
            reply::write_options(&mut packet, Edns { size, ..edns }, 0);
        }
        Sent { packet, question_end }
    }

    /// The resolver's answer as the client gets it: with its own id, and its own spelling of the question.
    pub fn relay(&self, mut answer: Vec<u8>, transport: Transport) -> Vec<u8> {
        let question = HEADER..HEADER + self.question.len();
        if answer.len() > self.limit(transport) || answer.len() < question.end {
            return self.truncated();
        }
        answer[..2].copy_from_slice(&self.id.to_be_bytes());
        answer[question].copy_from_slice(&self.question);
        answer
    }
}

impl Sent {
    /// The packet.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// What a packet is that came back.
    pub fn judge(&self, answer: &[u8]) -> Verdict {
        let Some((header, _)) = answer.split_first_chunk::<HEADER>() else { return Verdict::Stray };
        let flags = u16::from_be_bytes([header[2], header[3]]);
        if header[..2] != self.packet[..2] || flags & RESPONSE == 0 || flags & OPCODE != 0 {
            return Verdict::Stray;
        }
        let code = header[3] & 0x0f;
        match u16::from_be_bytes([header[4], header[5]]) {
            // Of a query that it could not read a resolver need not repeat anything.
            0 if code != 0 => Verdict::Failed(Code::Other(code)),
            1 => self.compare(answer),
            _ => Verdict::Stray,
        }
    }

    fn compare(&self, answer: &[u8]) -> Verdict {
        let end = self.question_end;
        let (Some(asked), Some(told)) = (self.packet.get(HEADER..end), answer.get(HEADER..end)) else {
            return Verdict::Stray;
        };
        // Type and class are no letters.
        let (asked_name, told_name) = (&asked[..asked.len() - 4], &told[..told.len() - 4]);
        if asked == told {
            Verdict::Answer
        } else if asked[asked.len() - 4..] == told[told.len() - 4..]
            && asked_name.eq_ignore_ascii_case(told_name)
        {
            Verdict::OtherCase
        } else {
            Verdict::Stray
        }
    }
}

/// `RD`, `AD` and `CD`.
const ASKED: u16 = 0x0130;
/// The bit between an upper and a lower case letter.
const CASE: u8 = 0x20;
/// An answer of this size arrives in one piece wherever IPv6 does (the advice of DNS flag day 2020).
const UNFRAGMENTED: u16 = 1232;
