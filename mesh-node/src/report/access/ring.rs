//! A queue of lines from one thread to the writer, through which neither ever waits for the other.
//!
//! Lines are records in a ring of words: one word with the length, then the bytes, padded to a whole word. The thread moves
//! the tail when all of a record is in place, the writer the head when it has copied it out.
//!
//! Invariant: one thread pushes and one drains. More would mix lines up, nothing worse.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The queue itself.
#[derive(Debug)]
pub(super) struct Ring {
    words: Box<[AtomicU64]>,
    /// Words taken out since the start.
    head: Alone<AtomicUsize>,
    /// Words put in since the start.
    tail: Alone<AtomicUsize>,
    closed: AtomicBool,
}

/// Has cache lines of its own, so that who writes it does not slow down who reads its neighbour.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Alone<T>(T);

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It is in.
    In,
    /// It is in, and the writer should come: another [`WAKE`] words have gathered.
    Crowded,
    /// There was no room for it.
    Full,
}

impl Ring {
    /// A ring of a number of words that is a power of two.
    pub(super) fn new(words: usize) -> Self {
        Self {
            words: (0..words.next_power_of_two()).map(|_| AtomicU64::new(0)).collect(),
            head: Alone::default(),
            tail: Alone::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Puts a line in.
    pub(super) fn push(&self, line: &[u8]) -> Pushed {
        let tail = self.tail.0.load(Ordering::Relaxed);
        let held = tail.wrapping_sub(self.head.0.load(Ordering::Acquire));
        let needed = 1 + line.len().div_ceil(WORD);
        if needed > self.words.len().saturating_sub(held) {
            return Pushed::Full;
        }
        self.copy_in(tail, &(line.len() as u64).to_le_bytes());
        self.copy_in(tail.wrapping_add(1), line);
        self.tail.0.store(tail.wrapping_add(needed), Ordering::Release);
        if held / WAKE == (held + needed) / WAKE { Pushed::In } else { Pushed::Crowded }
    }

    /// Where the ring ends now, for [`Self::drain`].
    pub(super) fn end(&self) -> usize {
        self.tail.0.load(Ordering::Acquire)
    }

    /// Moves lines that were put in before `end` to `out`, until they take `most` bytes there; says how many.
    pub(super) fn drain(&self, end: usize, most: usize, out: &mut Vec<u8>) -> u64 {
        let mut head = self.head.0.load(Ordering::Relaxed);
        let mut lines = 0;
        while head != end && out.len() < most {
            let len = self.word(head).load(Ordering::Relaxed);
            let len = usize::try_from(len).expect("written from the length of a line");
            self.copy_out(head.wrapping_add(1), len, out);
            head = head.wrapping_add(1 + len.div_ceil(WORD));
            lines += 1;
        }
        self.head.0.store(head, Ordering::Release);
        lines
    }

    /// States that nothing will be put in any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether it is closed and drained.
    pub(super) fn is_over(&self) -> bool {
        self.closed.load(Ordering::Acquire) && self.head.0.load(Ordering::Relaxed) == self.end()
    }

    /// The words from a place on, up to the end of the ring, and the others.
    fn from(&self, place: usize) -> (&[AtomicU64], &[AtomicU64]) {
        let (others, from) = self.words.split_at(place & (self.words.len() - 1));
        (from, others)
    }

    fn word(&self, place: usize) -> &AtomicU64 {
        self.words.get(place & (self.words.len() - 1)).expect("the length is a power of two")
    }

    fn copy_in(&self, place: usize, bytes: &[u8]) {
        let (from, others) = self.from(place);
        let (here, rest) = bytes.split_at(bytes.len().min(from.len() * WORD));
        store(from, here);
        store(others, rest);
    }

    fn copy_out(&self, place: usize, len: usize, out: &mut Vec<u8>) {
        let (from, others) = self.from(place);
        let here = len.min(from.len() * WORD);
        load(from, here, out);
        load(others, len - here, out);
    }
}

fn store(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<WORD>();
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    if let Some(word) = words.get(whole.len()).filter(|_| !rest.is_empty()) {
        let last = rest.iter().rev().fold(0, |last, byte| last << 8 | u64::from(*byte));
        word.store(last, Ordering::Relaxed);
    }
}

fn load(words: &[AtomicU64], len: usize, out: &mut Vec<u8>) {
    let before = out.len();
    out.resize(before + len.next_multiple_of(WORD), 0);
    let (room, _) = out.get_mut(before..).unwrap_or_default().as_chunks_mut::<WORD>();
    for (bytes, word) in room.iter_mut().zip(words) {
        *bytes = word.load(Ordering::Relaxed).to_le_bytes();
    }
    out.truncate(before + len);
}

/// Bytes of a word.
const WORD: usize = 8;
/// Words after which the writer is told to come: 64 KB, the eighth part of a thread's ring, so that it has time to.
pub(super) const WAKE: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in_around_the_end_of_the_ring() {
        let ring = Ring::new(64);
        let mut seed = 7_usize;
        for round in 0..2_000 {
            let lines: Vec<Vec<u8>> = (0..3)
                .map(|line| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let byte = |n: usize| u8::try_from((n + line + round) % 251).unwrap();
                    (0..seed >> 40 & 127).map(byte).collect()
                })
                .collect();
            assert!(lines.iter().all(|line| ring.push(line) == Pushed::In));
            let mut out = Vec::new();
            assert_eq!(ring.drain(ring.end(), usize::MAX, &mut out), 3);
            assert_eq!(out, lines.concat());
        }
    }

    #[test]
    fn a_full_ring_takes_nothing_and_keeps_what_it_has() {
        let ring = Ring::new(8);
        assert_eq!(ring.push(&[1; 57]), Pushed::Full, "more than the ring");
        assert_eq!(ring.push(&[2; 24]), Pushed::In);
        assert_eq!(ring.push(&[3; 25]), Pushed::Full);
        assert_eq!(ring.push(&[4; 24]), Pushed::In);
        assert_eq!(ring.push(&[]), Pushed::Full);
        ring.close();
        assert!(!ring.is_over());
        let mut out = Vec::new();
        assert_eq!(ring.drain(ring.end(), 1, &mut out), 1, "stops when there is enough");
        assert_eq!(ring.drain(ring.end(), 1_000, &mut out), 1);
        assert_eq!(out, [[2; 24], [4; 24]].concat());
        assert!(ring.is_over());
    }

    #[test]
    fn the_writer_is_called_each_time_so_much_has_gathered() {
        let ring = Ring::new(4 * WAKE);
        let line = [0; 8 * 1_023];
        let called = (0..31).filter(|_| ring.push(&line) == Pushed::Crowded).count();
        assert_eq!(called, 3);
    }

    #[test]
    fn two_threads_share_it() {
        let ring = Ring::new(256);
        let count = 20_000_u32;
        let text = |n: u32| format!("{n} {}\n", "x".repeat(usize::try_from(n % 90).unwrap()));
        let mut out = Vec::new();
        std::thread::scope(|scope| {
            let ring = &ring;
            let insist = |line: &[u8]| {
                while ring.push(line) == Pushed::Full {
                    std::thread::yield_now();
                }
            };
            scope.spawn(move || (0..count).map(text).for_each(|line| insist(line.as_bytes())));
            let mut lines = 0;
            while lines < u64::from(count) {
                lines += ring.drain(ring.end(), usize::MAX, &mut out);
            }
        });
        assert_eq!(String::from_utf8(out).unwrap(), (0..count).map(text).collect::<String>());
    }
}
