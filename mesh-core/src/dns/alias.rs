//! Names of the mesh that are aliases of names that others have: what a resolver says about those, told as an answer about
//! the alias.

use std::net::IpAddr;

use super::name;
use super::query::{HEADER, Kind, Query};
use super::reply::{A, AAAA, CNAME, Code, Records, TRUNCATED, Transport};

/// The names that one of the mesh is an alias of: each of the next, the last of nobody's here. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aliases {
    pub(super) names: Vec<String>,
    /// Seconds for which the mesh's part may be kept.
    pub(super) ttl: u32,
}

/// What a resolver says about the addresses of a name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    addresses: Vec<IpAddr>,
    /// The shortest of those on the way.
    ttl: Option<u32>,
}

impl Query {
    /// The same question about the last of `aliases`, for the pod's resolver; `None` if that can be no name.
    pub fn about(&self, aliases: &Aliases) -> Option<Self> {
        let mut question = Vec::new();
        if !name::write(aliases.names.last()?, &mut question) {
            return None;
        }
        let kind = self.question.get(self.question.len().checked_sub(4)?..)?;
        question.extend_from_slice(kind);
        Some(self.with_question(question.into()))
    }

    /// Whether there is more to a resolver's answer than it holds, so that it has to be asked by TCP.
    pub fn is_cut(answer: &[u8]) -> bool {
        answer.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
    }

    /// The answer to this query, which is about an alias: `answer` is what a resolver has said about what it is an alias of.
    /// That a name is not there, or cannot be looked up, is passed on.
    pub fn reply_as(&self, aliases: &Aliases, answer: &[u8], transport: Transport) -> Vec<u8> {
        let code = answer.get(3).map_or(SERVER_FAILURE, |flags| flags & 0x0f);
        if !matches!(code, NO_ERROR | NO_SUCH_NAME) {
            return self.fail(Code::Other(code));
        }
        let Some(found) = found(answer, self.kind()) else { return self.fail(Code::ServerFailure) };
        let ttl = found.ttl.map_or(aliases.ttl, |ttl| ttl.min(aliases.ttl));
        let Found { addresses, .. } = found;
        let records = Records { aliases: aliases.names.clone(), addresses, ttl, ..Records::default() };
        let mut reply = self.reply(&records, transport);
        if let Some(flags) = reply.get_mut(3) {
            *flags |= code;
        }
        if let Some(flags) = reply.get_mut(2) {
            // Somebody else's word.
            *flags &= !AUTHORITATIVE;
        }
        reply
    }
}

/// The addresses of the name that an answer is about, through the aliases that it tells of; `None` if it cannot be read.
fn found(answer: &[u8], kind: Kind) -> Option<Found> {
    let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    let mut owner = name::expand(answer, HEADER)?.0;
    let mut at = HEADER + name::length(answer.get(HEADER..)?)? + 4;
    let mut records = Vec::new();
    for _ in 0..count.min(MAX_RECORDS) {
        let (record, end) = Record::read(answer, at)?;
        records.extend(record);
        at = end;
    }
    let wanted = |ip: &IpAddr| (kind == Kind::A && ip.is_ipv4()) || (kind == Kind::Aaaa && ip.is_ipv6());
    let mut found = Found::default();
    for _ in 0..=MAX_HOPS {
        let own = || records.iter().filter(|record| record.owner == owner);
        let mut next = None;
        for record in own() {
            match &record.data {
                Data::Address(ip) if wanted(ip) => found.addresses.push(*ip),
                Data::Address(_) => continue,
                Data::Alias(real) => next = Some(real.clone()),
            }
            found.ttl = Some(found.ttl.map_or(record.ttl, |ttl| ttl.min(record.ttl)));
        }
        match next {
            Some(real) if found.addresses.is_empty() => owner = real,
            _ => return Some(found),
        }
    }
    None
}

struct Record {
    owner: Box<[u8]>,
    ttl: u32,
    data: Data,
}

enum Data {
    Address(IpAddr),
    Alias(Box<[u8]>),
}

impl Record {
    /// The record at a place of a packet, if it is of a kind that matters, and where the next one is.
    fn read(packet: &[u8], at: usize) -> Option<(Option<Self>, usize)> {
        let (owner, at) = name::expand(packet, at)?;
        let fixed = packet.get(at..)?.first_chunk::<10>()?;
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let start = at + fixed.len();
        let end = start + usize::from(word(8));
        let data = packet.get(start..end)?;
        let ttl = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        // The highest bit is no part of it (RFC 2181, 8).
        let ttl = if ttl >> 31 == 0 { ttl } else { 0 };
        let data = match (word(0), word(2)) {
            (A, IN) => Some(Data::Address(<[u8; 4]>::try_from(data).ok()?.into())),
            (AAAA, IN) => Some(Data::Address(<[u8; 16]>::try_from(data).ok()?.into())),
            (CNAME, IN) => Some(Data::Alias(name::expand(packet, start)?.0)),
            _ => None,
        };
        Some((data.map(|data| Self { owner, ttl, data }), end))
    }
}

/// Records of an answer that are looked at: more than anybody has addresses.
const MAX_RECORDS: u16 = 1024;
/// Aliases that one answer leads through: more than resolvers follow.
const MAX_HOPS: usize = 16;
const IN: u16 = 1;
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
/// In the third byte of the header.
const AUTHORITATIVE: u8 = 0x04;
