//! The PROXY protocol, versions 1 and 2 (`proxy-protocol.txt` of its inventors): what a load balancer says about a client before the client's
//! own bytes.
//!
//! Whoever may write such a header may be anybody, so it is read only where a gateway is told that a proxy stands before it, and then
//! it must be there. It is read without a byte of what follows it.
//!
//! Invariant: what is asked for with [`Read::More`] is a part of the header, whatever comes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How far reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes more, at least one, belong to the header.
    More(usize),
    /// The header is complete: who the client is; `None` if the proxy speaks for itself, or does not know.
    Whole(Option<SocketAddr>),
    /// It is none, for this reason: nothing of the connection can be believed.
    Wrong(Wrong),
}

/// What is wrong with a header. The text is for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Something else.
    #[error("there is no PROXY header")]
    Missing,
    /// A line that does not end, or is not made of six words.
    #[error("the line of the PROXY header is malformed")]
    Line,
    /// An address or a port.
    #[error("an address of the PROXY header is malformed")]
    Address,
    /// A version, command, family or protocol that there is not.
    #[error("the PROXY header is of an unknown kind")]
    Kind,
    /// More than anybody needs, or too little for its addresses, or elements that do not fit.
    #[error("the lengths of the PROXY header do not fit")]
    Length,
}

/// Reads what has come so far, which never is more than the header.
pub fn read(bytes: &[u8]) -> Read {
    let Some(begin) = bytes.first_chunk::<BEGIN>() else { return Read::More(BEGIN - bytes.len()) };
    let read = if begin == SIGNATURE {
        binary(bytes)
    } else if begin.starts_with(WORD) {
        line(bytes)
    } else {
        Err(Wrong::Missing)
    };
    read.unwrap_or_else(Read::Wrong)
}

/// Version 1: `PROXY TCP4 source destination port port`.
fn line(bytes: &[u8]) -> Result<Read, Wrong> {
    let Some(text) = bytes.strip_suffix(b"\r\n") else {
        // A line feed ends it at the latest, and nothing may stand behind one.
        let goes_on = bytes.len() < MAX_LINE && !bytes.contains(&b'\n');
        return if goes_on { Ok(Read::More(1)) } else { Err(Wrong::Line) };
    };
    let text = text.strip_prefix(WORD).and_then(|text| std::str::from_utf8(text).ok()).ok_or(Wrong::Line)?;
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["UNKNOWN", ..] => Ok(Read::Whole(None)),
        ["TCP4", source, destination, from, to] => {
            destination.parse::<Ipv4Addr>().map_err(|_| Wrong::Address)?;
            port(to)?;
            let ip: Ipv4Addr = source.parse().map_err(|_| Wrong::Address)?;
            Ok(Read::Whole(Some(SocketAddr::new(ip.into(), port(from)?))))
        }
        ["TCP6", source, destination, from, to] => {
            destination.parse::<Ipv6Addr>().map_err(|_| Wrong::Address)?;
            port(to)?;
            let ip: Ipv6Addr = source.parse().map_err(|_| Wrong::Address)?;
            Ok(Read::Whole(Some(SocketAddr::new(IpAddr::V6(ip).to_canonical(), port(from)?))))
        }
        _ => Err(Wrong::Line),
    }
}

/// Decimal, without a sign or leading zeros.
fn port(text: &str) -> Result<u16, Wrong> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().map_err(|_| Wrong::Address) } else { Err(Wrong::Address) }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Read, Wrong> {
    let Some([kind, family, high, low]) = bytes.get(BEGIN..).and_then(<[u8]>::first_chunk::<4>) else {
        return Ok(Read::More(BEGIN + 4 - bytes.len()));
    };
    let (version, command) = (kind >> 4, kind & 0xf);
    if version != 2 || command > 1 {
        return Err(Wrong::Kind);
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX_BODY {
        return Err(Wrong::Length);
    }
    let body = bytes.get(BEGIN + 4..).unwrap_or_default();
    if body.len() < length {
        return Ok(Read::More(length - body.len()));
    }
    if body.len() > length {
        return Err(Wrong::Length);
    }
    let (client, elements) = match family {
        // Unspecified, and paths of this machine's sockets: nobody that a rule could name.
        0x00 | 0x31 | 0x32 => (None, None),
        // Streams and datagrams over either family.
        0x11 | 0x12 => {
            let (addresses, rest) = body.split_first_chunk::<12>().ok_or(Wrong::Length)?;
            let [a, b, c, d, _, _, _, _, high, low, ..] = *addresses;
            let ip = Ipv4Addr::new(a, b, c, d).into();
            (Some(SocketAddr::new(ip, u16::from_be_bytes([high, low]))), Some(rest))
        }
        0x21 | 0x22 => {
            let (addresses, rest) = body.split_first_chunk::<36>().ok_or(Wrong::Length)?;
            let (source, ports) = addresses.split_first_chunk::<16>().ok_or(Wrong::Length)?;
            let [.., high, low, _, _] = *ports else { return Err(Wrong::Length) };
            let ip = IpAddr::V6(Ipv6Addr::from(*source)).to_canonical();
            (Some(SocketAddr::new(ip, u16::from_be_bytes([high, low]))), Some(rest))
        }
        _ => return Err(Wrong::Kind),
    };
    elements.map_or(Ok(()), fit)?;
    let speaks_for_itself = command == 0;
    Ok(Read::Whole(client.filter(|_| !speaks_for_itself)))
}

/// Whether elements (type, length, value) fill their place to its end (CVE-2026-47692).
fn fit(mut elements: &[u8]) -> Result<(), Wrong> {
    while !elements.is_empty() {
        let ([_, high, low], rest) = elements.split_first_chunk::<3>().ok_or(Wrong::Length)?;
        elements = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..).ok_or(Wrong::Length)?;
    }
    Ok(())
}

/// Bytes by which both versions can be told; neither is shorter.
const BEGIN: usize = 12;
/// What version 2 begins with.
const SIGNATURE: &[u8; BEGIN] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// Bytes of the longest line of version 1, its end included.
const MAX_LINE: usize = 107;
/// Bytes behind the fixed part of version 2: addresses, and more elements than any load balancer sends.
const MAX_BODY: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads byte by byte as it is asked, from what may have more behind it: the outcome, and how many bytes were taken.
    fn feed(bytes: &[u8]) -> (Read, usize) {
        let mut taken = 0;
        loop {
            match read(&bytes[..taken]) {
                Read::More(more) if taken + more <= bytes.len() => taken += more,
                other => return (other, taken),
            }
        }
    }

    fn v2(kind: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[kind, family], &length, body].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

    #[test]
    fn each_kind_of_header_names_the_client_and_nothing_behind_it_is_read() {
        let mut v6 = vec![0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&[0x30, 0x39]);
        let client = "203.0.113.7:12345";
        for (header, expected) in [
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 80\r\n".to_vec(), Some(client)),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 80\r\n".to_vec(), Some("[2001:db8::7]:12345")),
            (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 12345 80\r\n".to_vec(), Some(client)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN what ever 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &V4), Some(client)),
            (v2(0x21, 0x12, &V4), Some(client)),
            (v2(0x21, 0x21, &v6), Some("[2001:db8::7]:12345")),
            (v2(0x21, 0x11, &[&V4[..], &[4, 0, 2, 9, 9, 1, 0, 0]].concat()), Some(client)),
            (v2(0x20, 0x11, &V4), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let expected = Read::Whole(expected.map(|at| at.parse().unwrap()));
            assert_eq!(feed(&header), (expected, header.len()), "{header:?}");
            let with_more = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(feed(&with_more), (expected, header.len()), "{header:?} and a request");
            for cut in 0..header.len() {
                assert!(matches!(feed(&header[..cut]).0, Read::More(1..)), "{cut} bytes of {header:?}");
            }
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_or_not_at_all_is_wrong() {
        let line = |text: &str| text.as_bytes().to_vec();
        for (bytes, wrong) in [
            (line("GET / HTTP/1.1\r\n"), Wrong::Missing),
            (line("proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n"), Wrong::Missing),
            (line("PROXY\tTCP4 1.2.3.4 5.6.7.8 1 2\r\n"), Wrong::Missing),
            (line("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n"), Wrong::Line),
            (line("PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n"), Wrong::Line),
            (line("PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n"), Wrong::Line),
            (line("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n"), Wrong::Line),
            (line("PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n"), Wrong::Line),
            (line(&format!("PROXY UNKNOWN {}", "x".repeat(200))), Wrong::Line),
            (line("PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n"), Wrong::Address),
            (line("PROXY TCP4 ::1 5.6.7.8 1 2\r\n"), Wrong::Address),
            (line("PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n"), Wrong::Address),
            (line("PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n"), Wrong::Address),
            (line("PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n"), Wrong::Address),
            (line("PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n"), Wrong::Address),
            (v2(0x11, 0x11, &V4), Wrong::Kind),
            (v2(0x22, 0x11, &V4), Wrong::Kind),
            (v2(0x21, 0x41, &V4), Wrong::Kind),
            (v2(0x21, 0x13, &V4), Wrong::Kind),
            (v2(0x21, 0x11, &V4[..11]), Wrong::Length),
            (v2(0x21, 0x21, &[0; 35]), Wrong::Length),
            // Elements that end behind the header, or in the middle of themselves.
            (v2(0x21, 0x11, &[&V4[..], &[4, 0, 3, 9, 9]].concat()), Wrong::Length),
            (v2(0x21, 0x11, &[&V4[..], &[4, 0xff, 0xff]].concat()), Wrong::Length),
            (v2(0x21, 0x11, &[&V4[..], &[4, 0]].concat()), Wrong::Length),
            // All of it fits, and there is too much of it.
            (v2(0x21, 0x11, &[&V4[..], &[4, 0x0f, 0xf2], &[0; 0x0ff2]].concat()), Wrong::Length),
        ] {
            assert_eq!(feed(&bytes).0, Read::Wrong(wrong), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
