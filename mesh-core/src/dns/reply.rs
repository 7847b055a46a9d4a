//! What a pod is told by the mesh itself.

use std::net::IpAddr;

use super::name;
use super::query::{DNSSEC_OK, Edns, HEADER, OPCODE, OPT, Query, RESPONSE};

/// Addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// If it is not the name that was asked for that has them: the name that this is an alias of, and so on to the one that
    /// has them.
    pub aliases: Vec<String>,
    /// In the order in which they are told; those that do not fit are left out. None means that there is no such
    /// record, not that there is no such name.
    pub addresses: Vec<IpAddr>,
    /// What else there is, which no alias has; in their order, too.
    pub others: Vec<Other>,
    /// Seconds for which they may be kept.
    pub ttl: u32,
}

/// A record that leads to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Other {
    /// `PTR`: the name of the address that was asked for.
    Pointer(String),
    /// `SRV` (RFC 2782): a port, and whose it is. None is before another.
    Location {
        /// The port.
        port: u16,
        /// The name that has the addresses.
        host: String,
    },
}

/// What an answer says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The query is not to be understood.
    FormatError,
    /// Nobody who knows could be asked.
    ServerFailure,
    /// There is no such name.
    NoSuchName,
    /// Nobody here does that.
    NotImplemented,
    /// Not for you.
    Refused,
    /// A version of EDNS that nobody knows.
    BadVersion,
    /// As the resolver of the pod has it.
    Other(u8),
}

/// How a query came, which decides how large its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a packet of its own.
    Udp,
    /// In a stream, with its length before it.
    Tcp,
}

impl Query {
    /// The answer with these records. If not all of them fit into a packet, it says so, and the client asks again by TCP.
    pub fn reply(&self, records: &Records, transport: Transport) -> Vec<u8> {
        let limit = self.limit(transport) - if self.edns.is_some() { OPT_RECORD } else { 0 };
        let mut out = self.begin(AUTHORITATIVE, 0);
        let (mut owner, mut complete, mut answers) = (QUESTION_NAME, true, 0_u16);
        for alias in &records.aliases {
            let Some(real) = write_alias((owner, alias), records.ttl, (&mut out, limit)) else {
                complete = false;
                break;
            };
            (owner, answers) = (real, answers + 1);
        }
        for address in records.addresses.iter().filter(|_| complete) {
            let data = octets(*address);
            if out.len() + ADDRESS_RECORD + data.len() > limit {
                complete = false;
                break;
            }
            let kind = if address.is_ipv4() { A } else { AAAA };
            write_record(&mut out, owner, kind, records.ttl);
            out.extend_from_slice(&short(data.len()).to_be_bytes());
            out.extend_from_slice(&data);
            answers += 1;
        }
        for other in &records.others {
            if !write_other(other, records.ttl, (&mut out, limit)) {
                complete = false;
                break;
            }
            answers += 1;
        }
        if !complete && transport == Transport::Udp {
            out[2] |= TRUNCATED;
        }
        out[6..8].copy_from_slice(&answers.to_be_bytes());
        self.end(out, 0)
    }

    /// An answer without records.
    pub fn fail(&self, code: Code) -> Vec<u8> {
        let (low, high) = code.halves();
        self.end(self.begin(0, low), high)
    }

    /// An answer that is too large for the client, who is to ask again by TCP.
    pub(super) fn truncated(&self) -> Vec<u8> {
        let mut out = self.begin(0, 0);
        out[2] |= TRUNCATED;
        self.end(out, 0)
    }

    /// The largest answer, in bytes.
    pub(super) fn limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => PLAIN_SIZE.into(),
            (Transport::Udp, Some(edns)) => edns.size.clamp(PLAIN_SIZE, MAX_SIZE).into(),
        }
    }

    fn begin(&self, flags: u16, code: u8) -> Vec<u8> {
        let mut out = Vec::with_capacity(PLAIN_SIZE.into());
        header(&mut out, self.id, (self.flags & KEPT) | flags, code);
        out[4..6].copy_from_slice(&1_u16.to_be_bytes());
        out.extend_from_slice(&self.question);
        out
    }

    /// Adds the `OPT` record that belongs to one in the query; its `high` bits continue the code.
    fn end(&self, mut out: Vec<u8>, high: u8) -> Vec<u8> {
        if let Some(edns) = self.edns {
            write_options(&mut out, Edns { size: MAX_SIZE, ..edns }, high);
            out[10..12].copy_from_slice(&1_u16.to_be_bytes());
        }
        out
    }
}

impl Code {
    fn halves(self) -> (u8, u8) {
        match self {
            Self::FormatError => (1, 0),
            Self::ServerFailure => (2, 0),
            Self::NoSuchName => (3, 0),
            Self::NotImplemented => (4, 0),
            Self::Refused => (5, 0),
            // 16, of which the header holds four bits.
            Self::BadVersion => (0, 1),
            Self::Other(code) => (code & 0x0f, 0),
        }
    }
}

/// An answer to something that no question was found in.
pub(super) fn bare(id: u16, flags: u16, code: Code) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    header(&mut out, id, flags & (KEPT | OPCODE), code.halves().0);
    out
}

/// Writes an `OPT` record.
pub(super) fn write_options(out: &mut Vec<u8>, edns: Edns, high: u8) {
    out.push(0);
    out.extend_from_slice(&OPT.to_be_bytes());
    out.extend_from_slice(&edns.size.to_be_bytes());
    out.extend_from_slice(&[high, 0]);
    out.extend_from_slice(&(if edns.dnssec { DNSSEC_OK } else { 0 }).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
}

fn header(out: &mut Vec<u8>, id: u16, flags: u16, code: u8) {
    let flags = RESPONSE | RECURSION_AVAILABLE | flags | u16::from(code);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
}

/// Writes that the name at `owner` is an alias; where the real name stands is what its own records begin with. `None`,
/// with nothing written, if it does not fit.
fn write_alias((owner, real): (u16, &str), ttl: u32, (out, limit): (&mut Vec<u8>, usize)) -> Option<u16> {
    let start = out.len();
    write_record(out, owner, CNAME, ttl);
    let place = out.len() + 2;
    out.extend_from_slice(&[0, 0]);
    // Behind this place no pointer leads.
    if !name::write(real, out) || out.len() > limit || place > MAX_PLACE {
        out.truncate(start);
        return None;
    }
    let length = short(out.len() - place);
    out.splice(place - 2..place, length.to_be_bytes());
    Some(POINTER | short(place))
}

/// Writes a record that leads to a name; `false`, with nothing written, if it does not fit.
fn write_other(other: &Other, ttl: u32, (out, limit): (&mut Vec<u8>, usize)) -> bool {
    let start = out.len();
    let (kind, host) = match other {
        Other::Pointer(host) => (PTR, host),
        Other::Location { host, .. } => (SRV, host),
    };
    write_record(out, QUESTION_NAME, kind, ttl);
    let place = out.len() + 2;
    out.extend_from_slice(&[0, 0]);
    if let Other::Location { port, .. } = other {
        // Priority and weight: all are alike.
        out.extend_from_slice(&[0, 0, 0, 1]);
        out.extend_from_slice(&port.to_be_bytes());
    }
    if !name::write(host, out) || out.len() > limit {
        out.truncate(start);
        return false;
    }
    let length = short(out.len() - place);
    out.splice(place - 2..place, length.to_be_bytes());
    true
}

/// A record up to the length of its data.
fn write_record(out: &mut Vec<u8>, owner: u16, kind: u16, ttl: u32) {
    for word in [owner, kind, 1] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(&ttl.to_be_bytes());
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

const AUTHORITATIVE: u16 = 0x0400;
const RECURSION_AVAILABLE: u16 = 0x0080;
/// In the third byte of the header.
pub(super) const TRUNCATED: u8 = 0x02;
/// `RD` and `CD` come back as they were sent.
const KEPT: u16 = 0x0110;
pub(super) const A: u16 = 1;
pub(super) const CNAME: u16 = 5;
const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;
const SRV: u16 = 33;
/// A name that was written before, by its place in the packet.
const POINTER: u16 = 0xc000;
/// The last place that it can tell.
const MAX_PLACE: usize = 0x3fff;
/// The name of the question stands right after the header.
const QUESTION_NAME: u16 = POINTER | 0x0c;
/// Bytes of a record with an address, without it.
const ADDRESS_RECORD: usize = 12;
/// Bytes of an `OPT` record.
const OPT_RECORD: usize = 11;
/// What every client takes (RFC 1035).
pub(super) const PLAIN_SIZE: u16 = 512;
/// What clients are believed to take. Within a pod nothing is ever fragmented, so this bounds memory only.
const MAX_SIZE: u16 = 4096;
