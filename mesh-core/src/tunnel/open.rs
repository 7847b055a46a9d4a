//! What a client says of a connection that it wants.
//!
//! An address, then any number of fields: a tag, a length of two bytes, a text. Tags that are not known are skipped, so that
//! a later node may say more.

use std::net::{IpAddr, SocketAddr};

use crate::net::canonical;

/// The first payload of a stream. What it claims besides the address is only a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open<'a> {
    /// Where to; its port is never 0.
    pub authority: SocketAddr,
    /// HBONE's header `forwarded`.
    pub forwarded: Option<&'a [u8]>,
    /// `baggage`.
    pub baggage: Option<&'a [u8]>,
    /// `traceparent`.
    pub traceparent: Option<&'a [u8]>,
}

/// Why it cannot be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No address of IPv4 or IPv6, or the port 0.
    #[error("has no address to connect to")]
    Address,
    /// A field that is longer than what is there.
    #[error("has a field that is cut off")]
    Field,
    /// The same field twice.
    #[error("says the same thing twice")]
    Twice,
}

impl<'a> Open<'a> {
    /// To `authority`, without further claims.
    pub const fn new(authority: SocketAddr) -> Self {
        Self { authority, forwarded: None, baggage: None, traceparent: None }
    }

    /// Reads a payload. An IPv4-mapped IPv6 address comes back as IPv4.
    ///
    /// # Errors
    ///
    /// [`OpenError`], and the stream is refused with the status 400 then.
    pub fn parse(payload: &'a [u8]) -> Result<Self, OpenError> {
        let (authority, mut rest) = address(payload).ok_or(OpenError::Address)?;
        let mut open = Self::new(authority);
        while let Some((tag, after)) = rest.split_first() {
            let (length, after) = after.split_first_chunk::<2>().ok_or(OpenError::Field)?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (value, after) = after.split_at_checked(length).ok_or(OpenError::Field)?;
            let field = match *tag {
                FORWARDED => Some(&mut open.forwarded),
                BAGGAGE => Some(&mut open.baggage),
                TRACEPARENT => Some(&mut open.traceparent),
                _ => None,
            };
            if field.is_some_and(|field| field.replace(value).is_some()) {
                return Err(OpenError::Twice);
            }
            rest = after;
        }
        Ok(open)
    }

    /// Appends the payload to `out`. A claim that would make it longer than `room` is left away.
    pub fn write(&self, out: &mut Vec<u8>, room: usize) {
        let begin = out.len();
        match self.authority.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend(ip.octets());
            }
        }
        out.extend(self.authority.port().to_be_bytes());
        for (tag, value) in
            [(FORWARDED, self.forwarded), (BAGGAGE, self.baggage), (TRACEPARENT, self.traceparent)]
        {
            let Some(value) = value.filter(|it| out.len() - begin + FIELD + it.len() <= room) else {
                continue;
            };
            let Ok(length) = u16::try_from(value.len()) else { continue };
            out.push(tag);
            out.extend(length.to_be_bytes());
            out.extend(value);
        }
    }
}

fn address(payload: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (family, rest) = payload.split_first()?;
    let (ip, rest) = match family {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    (port != 0).then(|| (canonical(SocketAddr::new(ip, port)), rest))
}

const FORWARDED: u8 = 1;
const BAGGAGE: u8 = 2;
const TRACEPARENT: u8 = 3;
/// Bytes of a field besides its text.
const FIELD: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Open<'static> {
        Open {
            authority: "[2001:db8::1]:443".parse().expect("address"),
            forwarded: Some(b"for=192.0.2.1"),
            baggage: Some(b"k8s.pod.name=a"),
            traceparent: Some(b"00-1-2-01"),
        }
    }

    fn written(open: &Open<'_>, room: usize) -> Vec<u8> {
        let mut out = Vec::new();
        open.write(&mut out, room);
        out
    }

    #[test]
    fn what_was_written_is_read_again() {
        for open in [full(), Open::new("192.0.2.7:80".parse().expect("address"))] {
            assert_eq!(Open::parse(&written(&open, 1_000)), Ok(open));
        }
    }

    #[test]
    fn a_claim_that_does_not_fit_is_left_away() {
        let short = written(&full(), 40);
        assert!(short.len() <= 40, "{}", short.len());
        let read = Open::parse(&short).expect("good");
        assert_eq!((read.authority, read.forwarded), (full().authority, full().forwarded));
        assert_eq!(read.baggage, None);
    }

    #[test]
    fn mapped_addresses_are_those_they_map() {
        let open = Open::new("[::ffff:192.0.2.7]:80".parse().expect("address"));
        let bytes = written(&open, 100);
        assert_eq!(Open::parse(&bytes).expect("good").authority, "192.0.2.7:80".parse().expect("address"));
    }

    #[test]
    fn what_a_later_node_says_besides_is_skipped() {
        let mut bytes = written(&full(), 1_000);
        bytes.extend([200, 0, 2, 1, 1]);
        assert_eq!(Open::parse(&bytes), Ok(full()));
    }

    #[test]
    fn what_cannot_be_acted_on_is_told_apart() {
        let good = [4, 192, 0, 2, 1, 0, 80];
        let after = |more: &[u8]| [&good[..], more].concat();
        let cases = [
            (vec![], OpenError::Address),
            (vec![5, 192, 0, 2, 1, 0, 80], OpenError::Address),
            (vec![6, 192, 0, 2, 1, 0, 80], OpenError::Address),
            (vec![4, 192, 0, 2, 1, 0], OpenError::Address),
            (vec![4, 192, 0, 2, 1, 0, 0], OpenError::Address),
            (after(&[1]), OpenError::Field),
            (after(&[1, 0]), OpenError::Field),
            (after(&[1, 0, 3, 65, 65]), OpenError::Field),
            (after(&[1, 0, 1, 65, 1, 0, 1, 65]), OpenError::Twice),
        ];
        for (bytes, error) in cases {
            assert_eq!(Open::parse(&bytes), Err(error), "{bytes:?}");
        }
    }
}
