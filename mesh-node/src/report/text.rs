//! Numbers and addresses as bytes of a line, by hand: the machinery of `std::fmt` would be most of a line's cost.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Appends a number with at least `digits` digits, leading zeros if need be.
pub(super) fn padded(out: &mut Vec<u8>, value: u64, digits: usize) {
    let mut text = Short::default();
    text.number(value, digits);
    text.append_to(out);
}

/// Appends a number.
pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    padded(out, value, 1);
}

/// Appends an address with its port.
pub(super) fn address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(address) => {
            let mut text = Short::default();
            text.number(address.port().into(), 1);
            text.put(b':');
            text.ip(*address.ip());
            text.append_to(out);
        }
        SocketAddr::V6(address) => write!(out, "{address}").expect("a Vec takes all"),
    }
}

/// Appends an address.
pub(super) fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let mut text = Short::default();
            text.ip(ip);
            text.append_to(out);
        }
        IpAddr::V6(ip) => write!(out, "{ip}").expect("a Vec takes all"),
    }
}

/// A text that is written from its end to its beginning, as digits are found, and appended at once.
struct Short {
    bytes: [u8; MOST_BYTES],
    start: usize,
}

impl Default for Short {
    fn default() -> Self {
        Self { bytes: [0; MOST_BYTES], start: MOST_BYTES }
    }
}

impl Short {
    fn put(&mut self, byte: u8) {
        self.start = self.start.saturating_sub(1);
        if let Some(place) = self.bytes.get_mut(self.start) {
            *place = byte;
        }
    }

    fn number(&mut self, mut value: u64, digits: usize) {
        let end = self.start;
        while value > 0 || end - self.start < digits {
            self.put(b'0' + u8::try_from(value % 10).unwrap_or_default());
            value /= 10;
        }
    }

    fn ip(&mut self, ip: Ipv4Addr) {
        for (place, octet) in ip.octets().into_iter().rev().enumerate() {
            if place > 0 {
                self.put(b'.');
            }
            self.number(octet.into(), 1);
        }
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.bytes.get(self.start..).unwrap_or_default());
    }
}

/// Bytes of the longest address of IPv4 with a port; the largest number has one less.
const MOST_BYTES: usize = 21;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_the_standard_library_writes() {
        let mut out = Vec::new();
        for address in ["0.0.0.0:0", "255.9.10.100:65535", "[::1]:80", "[fd00::a:1]:15008"] {
            let parsed: SocketAddr = address.parse().unwrap();
            out.clear();
            super::address(&mut out, parsed);
            assert_eq!(out, address.as_bytes());
            out.clear();
            ip(&mut out, parsed.ip());
            assert_eq!(out, parsed.ip().to_string().as_bytes());
        }
        for value in [0, 7, 10, 1_234_567, u64::MAX] {
            out.clear();
            number(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
            out.clear();
            padded(&mut out, value, 6);
            assert_eq!(out, format!("{value:06}").as_bytes());
        }
    }
}
