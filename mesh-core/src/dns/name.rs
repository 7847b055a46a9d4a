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

/// RFC 1035, 2.3.4.
const MAX_LABEL: usize = 63;
/// The same, lengths included.
const MAX_NAME: usize = 255;
