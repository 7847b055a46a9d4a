//! Names: length and text of one label after the other, up to the empty one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a name at the start of `wire` ends, if it is written out in full: a question has nothing before it that it
/// could refer to.
pub(super) fn length(wire: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let label = usize::from(*wire.get(at)?);
        if label > MAX_LABEL {
            return None;
        }
        at += 1 + label;
        if at > MAX_NAME {
            return None;
        }
        if label == 0 {
            return Some(at);
        }
    }
}

/// As [`length`], of names that may refer to others: where it ends here.
pub(super) fn skip(wire: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at <= MAX_NAME {
        let label = *wire.get(at)?;
        match label {
            0 => return Some(at + 1),
            0xc0.. => return wire.get(at + 1).map(|_| at + 2),
            1..=63 => at += 1 + usize::from(label),
            _ => return None,
        }
    }
    None
}

/// The name at a place of a packet, written out in full and in lower case, and where it ends there. What it refers to has
/// to be before it, each further before than the last, so that this comes to an end.
pub(super) fn expand(packet: &[u8], start: usize) -> Option<(Box<[u8]>, usize)> {
    let (mut name, mut at, mut end) = (Vec::new(), start, None);
    let mut limit = start;
    let mut referred = 0;
    loop {
        let label = *packet.get(at)?;
        match label {
            0 => {
                name.push(0);
                return Some((name.into(), end.unwrap_or(at + 1)));
            }
            0xc0.. => {
                let to = usize::from(u16::from_be_bytes([label & 0x3f, *packet.get(at + 1)?]));
                referred += 1;
                if to >= limit || referred > MAX_REFERRED {
                    return None;
                }
                end = end.or(Some(at + 2));
                (at, limit) = (to, to);
            }
            1..=63 => {
                let next = at + 1 + usize::from(label);
                name.extend(packet.get(at..next)?.iter().map(u8::to_ascii_lowercase));
                at = next;
            }
            _ => return None,
        }
        // The last byte is to come.
        if name.len() >= MAX_NAME {
            return None;
        }
    }
}

/// The name in the form that the mesh's names have: lower case, with dots, without one at the end. `None` for what none
/// of them can be.
pub(super) fn text(wire: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(wire.len());
    let mut rest = wire;
    while let Some((&label, after)) = rest.split_first().filter(|(label, _)| **label > 0) {
        let (label, after) = after.split_at_checked(label.into())?;
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_*".contains(byte)) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        rest = after;
    }
    (!text.is_empty()).then_some(text)
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` is about (RFC 1035, 3.5; RFC 3596, 2.5).
pub(super) fn address(text: &str) -> Option<IpAddr> {
    if let Some(digits) = text.strip_suffix(".in-addr.arpa") {
        let octets: Vec<_> = digits.rsplit('.').collect();
        let ip: Ipv4Addr = octets.join(".").parse().ok()?;
        return Some(ip.into());
    }
    let digits: Vec<_> = text.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    let is_digit = |digit: &&str| matches!(digit.as_bytes(), [one] if one.is_ascii_hexdigit());
    if digits.len() != 32 || !digits.iter().all(is_digit) {
        return None;
    }
    u128::from_str_radix(&digits.concat(), 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into())
}

/// Writes a name out; `false`, with nothing written, if it is none.
pub(super) fn write(name: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for label in name.split('.') {
        let Ok(length @ 1..=63) = u8::try_from(label.len()) else {
            out.truncate(start);
            return false;
        };
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    if out.len() - start > MAX_NAME {
        out.truncate(start);
        return false;
    }
    true
}

/// Places that one name leads through; servers write one, and every label could have its own.
const MAX_REFERRED: usize = 128;
/// RFC 1035, 2.3.4.
const MAX_LABEL: usize = 63;
/// The same, lengths included.
const MAX_NAME: usize = 255;
