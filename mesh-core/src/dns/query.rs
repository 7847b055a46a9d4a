//! What a pod asks.

use super::name;
use super::reply::{self, Code};

/// A query with one question, as far as an answer depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub(super) id: u16,
    /// Second word of the header; of it `RD`, `AD` and `CD` are the client's to set.
    pub(super) flags: u16,
    /// Name, type and class, as they came.
    pub(super) question: Box<[u8]>,
    pub(super) edns: Option<Edns>,
    name: Option<String>,
    kind: Kind,
}

/// The types of records that are told apart here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// `CNAME`: the name that this one is an alias of.
    Alias,
    /// `PTR`: the name that an address has.
    Pointer,
    /// `SRV`: where a named port of a service is.
    Location,
    /// All there is.
    Any,
    /// `SVCB` and `HTTPS` (RFC 9460), which may name addresses as well.
    Service,
    /// Anything else, or of another class than `IN`.
    Other,
}

/// What an `OPT` record says (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edns {
    /// The largest packet that the client takes.
    pub(super) size: u16,
    pub(super) dnssec: bool,
}

/// Why there is no query in a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswerable {
    /// It is too short to be one, or is an answer itself: nothing may be sent back.
    Silent,
    /// This says so.
    Refused(Vec<u8>),
}

impl Query {
    /// Reads a packet. What comes after the question is looked at no further than for its `OPT` record.
    pub fn parse(packet: &[u8]) -> Result<Self, Unanswerable> {
        let Some((header, body)) = packet.split_first_chunk::<HEADER>() else {
            return Err(Unanswerable::Silent);
        };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (id, flags) = (word(0), word(2));
        if flags & RESPONSE != 0 {
            return Err(Unanswerable::Silent);
        }
        let refuse = |code| Unanswerable::Refused(reply::bare(id, flags, code));
        if flags & OPCODE != 0 {
            return Err(refuse(Code::NotImplemented));
        }
        let additional = word(10);
        if (word(4), word(6), word(8)) != (1, 0, 0) || additional > MAX_ADDITIONAL {
            return Err(refuse(Code::FormatError));
        }
        let (question, rest) = split_question(body).ok_or_else(|| refuse(Code::FormatError))?;
        let (wire, kind, class) = parts(question);
        if class == IN && matches!(kind, IXFR..=MAILA) {
            return Err(refuse(Code::NotImplemented));
        }
        let mut query = Self {
            id,
            flags,
            question: question.into(),
            edns: None,
            name: name::text(wire),
            kind: Kind::of(kind, class),
        };
        match options(rest, additional) {
            Ok(Some(Opt { version: 0, edns })) => query.edns = Some(edns),
            Ok(Some(Opt { edns, .. })) => {
                query.edns = Some(edns);
                return Err(Unanswerable::Refused(query.fail(Code::BadVersion)));
            }
            Ok(None) => {}
            Err(Malformed) => return Err(refuse(Code::FormatError)),
        }
        Ok(query)
    }

    /// The name that is asked for: in lower case, without a dot at the end. `None` if no name of the mesh is like it.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The same, about something else.
    pub(super) fn with_question(&self, question: Box<[u8]>) -> Self {
        let (wire, ..) = parts(&question);
        Self { name: name::text(wire), question, ..self.clone() }
    }

    /// What is asked about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Kind {
    fn of(kind: u16, class: u16) -> Self {
        match kind {
            _ if class != IN => Self::Other,
            1 => Self::A,
            5 => Self::Alias,
            12 => Self::Pointer,
            28 => Self::Aaaa,
            33 => Self::Location,
            64 | 65 => Self::Service,
            255 => Self::Any,
            _ => Self::Other,
        }
    }
}

struct Opt {
    version: u8,
    edns: Edns,
}

/// A packet that ends too soon, or says what it must not.
struct Malformed;

fn split_question(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = name::length(body)? + 4;
    body.split_at_checked(end)
}

/// Name, type and class of a question.
fn parts(question: &[u8]) -> (&[u8], u16, u16) {
    let (name, rest) = question.split_at(question.len() - 4);
    let word = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    (name, word(0), word(2))
}

/// The one `OPT` record among `count` additional ones.
fn options(mut rest: &[u8], count: u16) -> Result<Option<Opt>, Malformed> {
    let mut found = None;
    for _ in 0..count {
        let end = name::skip(rest).ok_or(Malformed)?;
        let (owner, record) = rest.split_at(end);
        let (fixed, data) = record.split_first_chunk::<10>().ok_or(Malformed)?;
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        if word(0) == OPT {
            if owner != [0] || found.is_some() {
                return Err(Malformed);
            }
            let edns = Edns { size: word(2), dnssec: word(6) & DNSSEC_OK != 0 };
            found = Some(Opt { version: fixed[5], edns });
        }
        rest = data.get(usize::from(word(8))..).ok_or(Malformed)?;
    }
    Ok(found)
}

/// Bytes of a header.
pub(super) const HEADER: usize = 12;
pub(super) const RESPONSE: u16 = 0x8000;
pub(super) const OPCODE: u16 = 0x7800;
pub(super) const OPT: u16 = 41;
pub(super) const DNSSEC_OK: u16 = 0x8000;
/// `OPT`, `TSIG` and room for what is to come; nobody sends more.
const MAX_ADDITIONAL: u16 = 4;
const IN: u16 = 1;
/// `IXFR`, `AXFR`, `MAILB`, `MAILA`: a zone, which is more than one answer, and what nobody has any more.
const IXFR: u16 = 251;
const MAILA: u16 = 254;
