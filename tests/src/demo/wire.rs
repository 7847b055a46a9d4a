//! What a recording of the wire between the nodes shows: who talked to whom on which port, whether it was TLS, and
//! whether text could be read.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_common::TUNNEL_PORT;

/// A recording, taken apart.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Each frame once, however many interfaces it has crossed.
    frames: Vec<Vec<u8>>,
    segments: Vec<Segment>,
}

/// One TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    /// Opens a connection.
    opens: bool,
    payload: Vec<u8>,
}

/// How much of the payload is TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// Records of handshakes, alerts and the like.
    pub(super) handshake: usize,
    /// Records of application data.
    pub(super) data: usize,
    /// Bytes of payload in all.
    pub(super) bytes: usize,
    /// Bytes that belong to no record.
    pub(super) foreign: usize,
}

impl Wire {
    /// Takes a recording apart.
    pub(super) fn new(frames: Vec<Vec<u8>>) -> Self {
        let mut seen = HashSet::new();
        let frames: Vec<Vec<u8>> = frames.into_iter().filter(|frame| seen.insert(frame.clone())).collect();
        let segments = frames.iter().filter_map(|frame| segment(frame)).collect();
        Self { frames, segments }
    }

    /// Leaves out TCP segments that are not from one of these addresses to another.
    pub(super) fn among(mut self, pods: &BTreeSet<IpAddr>) -> Self {
        self.segments.retain(|s| pods.contains(&s.from.ip()) && pods.contains(&s.to.ip()));
        self
    }

    /// Without tunnels: they are the node's, and say goodbye when it dies.
    pub(super) fn without_tunnels(mut self) -> Self {
        self.segments.retain(|s| s.from.port() != TUNNEL_PORT && s.to.port() != TUNNEL_PORT);
        self
    }

    /// TCP segments.
    pub(super) fn packets(&self) -> usize {
        self.segments.len()
    }

    /// TCP segments from this address.
    pub(super) fn packets_from(&self, ip: IpAddr) -> usize {
        self.segments.iter().filter(|s| s.from.ip() == ip).count()
    }

    /// Of those, the ones that ask for a connection or carry something. When a node dies, the kernel says goodbye for what it had
    /// open in its pods.
    pub(super) fn sent_from(&self, ip: IpAddr) -> usize {
        let says_something = |s: &&Segment| s.from.ip() == ip && (s.opens || !s.payload.is_empty());
        self.segments.iter().filter(says_something).count()
    }

    /// How many frames have these bytes in them, of TCP or not.
    pub(super) fn showing(&self, text: &str) -> usize {
        let found = |frame: &&Vec<u8>| frame.windows(text.len()).any(|window| window == text.as_bytes());
        self.frames.iter().filter(found).count()
    }

    /// The ports of the servers. Of a connection that is older than the recording it is the lower of its two ports.
    pub(super) fn ports(&self) -> BTreeSet<u16> {
        let opened: BTreeSet<(SocketAddr, SocketAddr)> =
            self.segments.iter().filter(|s| s.opens).map(|s| (s.from, s.to)).collect();
        let port = |s: &Segment| {
            if opened.contains(&(s.from, s.to)) {
                s.to.port()
            } else if opened.contains(&(s.to, s.from)) {
                s.from.port()
            } else {
                s.from.port().min(s.to.port())
            }
        };
        self.segments.iter().map(port).collect()
    }

    /// Reads every direction of every connection as a series of TLS records. A recording begins between two records
    /// or with a connection; it may end within one.
    pub(super) fn tls(&self) -> Tls {
        let mut streams: BTreeMap<(SocketAddr, SocketAddr), Vec<&Segment>> = BTreeMap::new();
        for segment in self.segments.iter().filter(|s| !s.payload.is_empty()) {
            streams.entry((segment.from, segment.to)).or_default().push(segment);
        }
        let mut tls = Tls::default();
        for segments in streams.values() {
            let (stream, unread) = stream(segments);
            tls.add(&stream);
            tls.bytes += unread;
            tls.foreign += unread;
        }
        tls
    }
}

impl Tls {
    fn add(&mut self, mut stream: &[u8]) {
        self.bytes += stream.len();
        while let [kind, 3, minor, high, low, rest @ ..] = stream {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if !(20..=23).contains(kind) || !(1..=4).contains(minor) || length > MAX_RECORD {
                break;
            }
            *(if *kind == 23 { &mut self.data } else { &mut self.handshake }) += 1;
            stream = rest.get(length..).unwrap_or_default();
        }
        // Fewer bytes than a record's head are the beginning of one, if they look like it.
        let begun = stream.len() < 5 && stream.first().is_none_or(|kind| (20..=23).contains(kind));
        self.foreign += if begun { 0 } else { stream.len() };
    }
}

/// The bytes of one direction in order, and how many more there are beyond a gap, which cannot be read as records.
fn stream(segments: &[&Segment]) -> (Vec<u8>, usize) {
    let first = segments.first().map_or(0, |s| s.sequence);
    // Sequence numbers wrap around; so do their distances, which are small.
    let distance = |s: &Segment| i64::from(s.sequence.wrapping_sub(first).cast_signed());
    let mut sorted: Vec<(i64, &[u8])> =
        segments.iter().map(|s| (distance(s), s.payload.as_slice())).collect();
    sorted.sort_by_key(|(at, payload)| (*at, payload.len()));
    let mut bytes: Vec<u8> = Vec::new();
    let start = sorted.first().map_or(0, |(at, _)| *at);
    let mut unread = 0;
    for (at, payload) in sorted {
        let known = usize::try_from(at - start).ok().and_then(|at| bytes.len().checked_sub(at));
        match known {
            Some(known) => bytes.extend_from_slice(payload.get(known..).unwrap_or_default()),
            None => unread += payload.len(),
        }
    }
    (bytes, unread)
}

/// The TCP segment of an Ethernet frame.
fn segment(frame: &[u8]) -> Option<Segment> {
    let kind = u16::from_be_bytes(array(frame, 12)?);
    let packet = frame.get(14..)?;
    let (from, to, tcp) = match kind {
        ETHERTYPE_IPV4 => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes(array(packet, 2)?));
            let later_fragment = u16::from_be_bytes(array(packet, 6)?) & 0x1fff != 0;
            if *packet.get(9)? != TCP || later_fragment {
                return None;
            }
            let from = Ipv4Addr::from(array::<4>(packet, 12)?);
            let to = Ipv4Addr::from(array::<4>(packet, 16)?);
            (IpAddr::from(from), IpAddr::from(to), packet.get(header..total)?)
        }
        ETHERTYPE_IPV6 => {
            let length = usize::from(u16::from_be_bytes(array(packet, 4)?));
            if *packet.get(6)? != TCP {
                return None;
            }
            let from = Ipv6Addr::from(array::<16>(packet, 8)?);
            let to = Ipv6Addr::from(array::<16>(packet, 24)?);
            (from.into(), to.into(), packet.get(40..40 + length)?)
        }
        _ => return None,
    };
    let port = |at| array(tcp, at).map(u16::from_be_bytes);
    let flags = tcp.get(13)?;
    Some(Segment {
        from: (from, port(0)?).into(),
        to: (to, port(2)?).into(),
        sequence: u32::from_be_bytes(array(tcp, 4)?),
        opens: flags & SYN != 0 && flags & ACK == 0,
        payload: tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?.to_vec(),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Bytes of a TLS record's content with everything that encryption adds (RFC 8446, 5.2; RFC 5246 allows more).
const MAX_RECORD: usize = (16 << 10) + 2048;

#[cfg(test)]
mod tests;
