//! Bytes that say where they belong, so that loss, repetition, disorder and bytes of another flow can be told apart.
//!
//! Every eight bytes of a stream are the number of its flow (three), its direction (one) and their own place in the stream
//! (four), most significant first. What does not fit into its place names the place that it is from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whither the bytes of a stream go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// All bytes of one direction of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Below 2²⁴; the remainder of larger ones.
    pub flow: u32,
    /// Its direction.
    pub direction: Direction,
}

/// How much there was of a stream, and its hash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Bytes.
    pub bytes: u64,
    /// Of all of them, in their order.
    pub hash: u64,
}

/// Hashes a stream as it goes by.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    digest: Digest,
    /// What does not fill a word yet.
    open: [u8; WORD],
}

/// The first bytes of a stream that were not what belonged there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// They belong to the stream `by` bytes further on, or back.
    Displaced {
        /// Offset in the stream.
        at: u64,
        /// How far from their place.
        by: i64,
    },
    /// They belong to another stream.
    Foreign {
        /// Offset in the stream.
        at: u64,
        /// Where they belong.
        to: Stream,
    },
    /// They belong nowhere, or are too few to tell.
    Unknown {
        /// Offset in the stream.
        at: u64,
    },
}

/// Compares what arrives with what belongs there.
#[derive(Debug, Clone)]
pub struct Checker {
    stream: Stream,
    hasher: Hasher,
    expected: Vec<u8>,
    /// Where the first wrong byte was, and what came from there on.
    suspect: Option<(u64, Vec<u8>)>,
}

impl Stream {
    /// Fills a buffer with the bytes from this offset on.
    pub fn fill(self, from: u64, buffer: &mut [u8]) {
        let (mut place, skipped) = (from / WORD as u64, usize::try_from(from % WORD as u64).unwrap_or(0));
        let head = if skipped == 0 { 0 } else { (WORD - skipped).min(buffer.len()) };
        let (head, rest) = buffer.split_at_mut(head);
        if !head.is_empty() {
            head.copy_from_slice(&self.word(place)[skipped..skipped + head.len()]);
            place += 1;
        }
        for chunk in rest.chunks_mut(WORD) {
            chunk.copy_from_slice(&self.word(place)[..chunk.len()]);
            place += 1;
        }
    }

    fn word(self, place: u64) -> [u8; WORD] {
        let above = u64::from(self.flow & FLOW_MASK) << 40 | u64::from(self.direction.mark()) << 32;
        (above | place & PLACE_MASK).to_be_bytes()
    }

    /// Whose word this is, and its place.
    fn of_word(word: u64) -> Option<(Self, u64)> {
        let flow = u32::try_from(word >> 40).ok()?;
        let direction = Direction::of_mark(u8::try_from(word >> 32 & 0xff).ok()?)?;
        Some((Self { flow, direction }, word & PLACE_MASK))
    }
}

impl Direction {
    /// Nothing that a place or the number of a flow is likely to have in their first bytes.
    fn mark(self) -> u8 {
        match self {
            Self::ToServer => 0xc5,
            Self::ToClient => 0x5c,
        }
    }

    fn of_mark(mark: u8) -> Option<Self> {
        [Self::ToServer, Self::ToClient].into_iter().find(|direction| direction.mark() == mark)
    }
}

impl Hasher {
    /// These come next.
    pub fn add(&mut self, mut bytes: &[u8]) {
        let filled = usize::try_from(self.digest.bytes % WORD as u64).unwrap_or(0);
        self.digest.bytes += bytes.len() as u64;
        if filled > 0 {
            let (head, rest) = bytes.split_at((WORD - filled).min(bytes.len()));
            self.open[filled..filled + head.len()].copy_from_slice(head);
            if filled + head.len() < WORD {
                return;
            }
            self.digest.hash = mix(self.digest.hash, self.open);
            bytes = rest;
        }
        let (words, rest) = bytes.as_chunks::<WORD>();
        for word in words {
            self.digest.hash = mix(self.digest.hash, *word);
        }
        self.open[..rest.len()].copy_from_slice(rest);
    }

    /// All that went by.
    pub fn digest(&self) -> Digest {
        let Digest { bytes, hash } = self.digest;
        let filled = usize::try_from(bytes % WORD as u64).unwrap_or(0);
        let mut last = [0; WORD];
        last[..filled].copy_from_slice(&self.open[..filled]);
        Digest { bytes, hash: mix(hash ^ bytes, last) }
    }
}

fn mix(hash: u64, word: [u8; WORD]) -> u64 {
    // Multiplication carries upwards only, the rotation brings it back down.
    (hash.rotate_left(29) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Checker {
    /// For a stream from its beginning.
    pub fn new(stream: Stream) -> Self {
        Self { stream, hasher: Hasher::default(), expected: Vec::new(), suspect: None }
    }

    /// These have arrived next.
    pub fn check(&mut self, bytes: &[u8]) {
        let from = self.hasher.digest.bytes;
        self.hasher.add(bytes);
        if let Some((_, suspect)) = &mut self.suspect {
            let wanted = EVIDENCE.saturating_sub(suspect.len()).min(bytes.len());
            suspect.extend_from_slice(&bytes[..wanted]);
            return;
        }
        self.expected.resize(bytes.len(), 0);
        self.stream.fill(from, &mut self.expected);
        if self.expected == bytes {
            return;
        }
        let at = bytes.iter().zip(&self.expected).take_while(|(seen, expected)| seen == expected).count();
        let evidence = bytes[at..].iter().copied().take(EVIDENCE).collect();
        self.suspect = Some((from + at as u64, evidence));
    }

    /// How many bytes there were.
    pub fn bytes(&self) -> u64 {
        self.hasher.digest.bytes
    }

    /// All that arrived.
    pub fn digest(&self) -> Digest {
        self.hasher.digest()
    }

    /// What was wrong with it, if anything.
    pub fn fault(&self) -> Option<Fault> {
        let (at, suspect) = self.suspect.as_ref()?;
        Some(self.explain(*at, suspect))
    }

    /// Finds two words that follow each other, wherever they begin.
    fn explain(&self, at: u64, suspect: &[u8]) -> Fault {
        for (shift, pair) in suspect.windows(2 * WORD).enumerate() {
            let (words, _) = pair.as_chunks::<WORD>();
            let whose = |word: &[u8; WORD]| Stream::of_word(u64::from_be_bytes(*word));
            let &[first, second] = words else { continue };
            let (Some((stream, place)), Some(next)) = (whose(&first), whose(&second)) else { continue };
            if next != (stream, place + 1) {
                continue;
            }
            if stream != self.stream {
                return Fault::Foreign { at, to: stream };
            }
            let (belongs, found) = (place * WORD as u64, at + shift as u64);
            return Fault::Displaced { at, by: belongs.cast_signed().wrapping_sub(found.cast_signed()) };
        }
        Fault::Unknown { at }
    }
}

impl Fault {
    /// Offset of the first wrong byte in the stream.
    pub fn at(&self) -> u64 {
        match *self {
            Self::Displaced { at, .. } | Self::Foreign { at, .. } | Self::Unknown { at } => at,
        }
    }

    /// In words, with what it did to the length of the stream: `sent` and `received` are bytes.
    pub fn explain(&self, sent: u64, received: u64) -> String {
        let longer = received.cast_signed() - sent.cast_signed();
        match *self {
            Self::Displaced { at, by } if by > 0 && longer < 0 => format!("{by} bytes are lost at {at}"),
            Self::Displaced { at, by } if by < 0 && longer > 0 => format!("{} bytes come again at {at}", -by),
            Self::Displaced { at, by } => {
                format!("out of order at {at}: what is there belongs {by} bytes further on")
            }
            Self::Foreign { at, to } => format!("bytes of another stream at {at}: {to}"),
            Self::Unknown { at } => format!("bytes at {at} that nobody has sent"),
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.direction {
            Direction::ToServer => "server",
            Direction::ToClient => "client",
        };
        write!(f, "flow {} to its {end}", self.flow)
    }
}

/// Bytes that name their place together.
const WORD: usize = 8;
const FLOW_MASK: u32 = 0xff_ffff;
const PLACE_MASK: u64 = 0xffff_ffff;
/// Bytes that are kept from the first wrong one on.
const EVIDENCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Stream = Stream { flow: 77, direction: Direction::ToServer };

    fn bytes(stream: Stream, from: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.fill(from, &mut bytes);
        bytes
    }

    /// What is found in these pieces of streams, read in reads of `size`.
    fn found(pieces: &[Vec<u8>], size: usize) -> Option<Fault> {
        let all = pieces.concat();
        let mut checker = Checker::new(OURS);
        all.chunks(size).for_each(|chunk| checker.check(chunk));
        assert_eq!(checker.bytes(), all.len() as u64);
        checker.fault()
    }

    #[test]
    fn a_stream_is_the_same_in_whatever_pieces() {
        let whole = bytes(OURS, 0, 100);
        for cut in 0..100 {
            let pieces = [bytes(OURS, 0, cut), bytes(OURS, cut as u64, 100 - cut)];
            assert_eq!(pieces.concat(), whole, "{cut}");
            assert_eq!(found(&pieces, 1 + cut), None);
            let mut hasher = Hasher::default();
            pieces.iter().for_each(|piece| hasher.add(piece));
            let mut once = Hasher::default();
            once.add(&whole);
            assert_eq!(hasher.digest(), once.digest(), "{cut}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        for size in [1, 3, 8, 1000] {
            for cut in [160_usize, 161, 163, 167] {
                let (start, cut) = (bytes(OURS, 0, cut), cut as u64);
                let by = |from: u64| match found(&[start.clone(), bytes(OURS, from, 100)], size) {
                    Some(Fault::Displaced { at, by }) if at >= cut && at < cut + 8 => by,
                    other => panic!("{other:?} of {size}, {cut}"),
                };
                assert_eq!((by(cut + 1), by(cut + 8), by(cut - 8), by(cut - 3)), (1, 8, -8, -3));
                for other in [Stream { flow: 78, ..OURS }, Stream { direction: Direction::ToClient, ..OURS }]
                {
                    let fault = found(&[start.clone(), bytes(other, cut, 100)], size);
                    assert!(matches!(fault, Some(Fault::Foreign { to, .. }) if to == other), "{fault:?}");
                }
                let fault =
                    found(&[start.clone(), b"GET / HTTP/1.1\r\nhost: somebody.example\r\n".to_vec()], size);
                assert!(matches!(fault, Some(Fault::Unknown { .. })), "{fault:?}");
            }
        }
    }

    #[test]
    fn faults_are_explained_by_what_they_did_to_the_length() {
        let at = |by| Fault::Displaced { at: 8, by };
        assert!(at(16).explain(100, 84).contains("16 bytes are lost at 8"));
        assert!(at(-16).explain(100, 116).contains("16 bytes come again at 8"));
        assert!(at(16).explain(100, 100).contains("out of order at 8"));
    }

    #[test]
    fn hashes_see_order_and_length() {
        let of = |pieces: &[&[u8]]| {
            let mut hasher = Hasher::default();
            pieces.iter().for_each(|piece| hasher.add(piece));
            hasher.digest().hash
        };
        let (one, two) = (&bytes(OURS, 0, 8)[..], &bytes(OURS, 8, 8)[..]);
        let all = [of(&[one, two]), of(&[two, one]), of(&[one, two, &[0]]), of(&[one]), of(&[])];
        for (index, hash) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(hash), "{all:?}");
        }
    }
}
