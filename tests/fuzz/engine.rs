//! Changes inputs, runs them, and keeps what is new.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::Target;

/// What came of a target.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Inputs that were run, and how many in a second.
    pub(crate) inputs: u64,
    pub(crate) rate: f64,
    /// Ways in which they ended.
    pub(crate) ways: usize,
    pub(crate) slowest: Duration,
    /// The input that broke it, and whether it had done so before.
    pub(crate) find: Option<(Vec<u8>, bool)>,
    /// What happened then.
    pub(crate) why: String,
}

/// A run of one target.
pub(crate) struct Engine<'t> {
    target: &'t Target,
    random: Random,
    pool: Vec<Vec<u8>>,
    ways: HashSet<u64>,
    ended: Ended,
}

/// Numbers that look like chance and come again with the same seed (xorshift).
struct Random(u64);

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on a panic is written down and not printed.
pub(crate) fn hear_panics() {
    std::panic::set_hook(Box::new(|info| LAST_PANIC.with_borrow_mut(|last| *last = info.to_string())));
}

/// FNV-1a.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The way in which something ends that says so in words; numbers in them make no difference.
pub(crate) fn way(words: &str) -> u64 {
    let letters: Vec<u8> = words.bytes().filter(|byte| !byte.is_ascii_digit()).take(200).collect();
    hash(&letters)
}

impl<'t> Engine<'t> {
    pub(crate) fn new(target: &'t Target, seed: u64) -> Self {
        // Each target has chances of its own, and none of them is zero.
        let random = Random((seed ^ hash(target.name.as_bytes())) | 1);
        Self { target, random, pool: Vec::new(), ways: HashSet::new(), ended: Ended::default() }
    }

    /// Runs what has broken it before, then the seeds, then what becomes of them until the time is over or one breaks it.
    pub(crate) fn run(mut self, known: &[Vec<u8>], seeds: Vec<Vec<u8>>, time: Duration) -> Ended {
        let begun = Instant::now();
        if known.iter().all(|input| self.try_input(input, true))
            && seeds.iter().all(|input| self.try_input(input, false))
        {
            self.pool.extend(seeds);
            while begun.elapsed() < time {
                let input = self.meddle();
                if !self.try_input(&input, false) {
                    break;
                }
            }
        }
        let took = begun.elapsed().as_secs_f64().max(0.001);
        self.ended.ways = self.ways.len();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let inputs = self.ended.inputs as f64;
        Ended { rate: inputs / took, ..self.ended }
    }

    /// Runs one; `false` if it breaks the target.
    fn try_input(&mut self, input: &[u8], is_known: bool) -> bool {
        self.ended.inputs += 1;
        let (mut took, mut result) = (Duration::MAX, Ok(0));
        // A machine may be busy with something else once, but not again and again.
        for _ in 0..TRIES {
            let begun = Instant::now();
            let caught = catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
            result =
                caught.unwrap_or_else(|_| Err(anyhow::anyhow!("{}", LAST_PANIC.with_borrow(String::clone))));
            took = took.min(begun.elapsed());
            if took < LONGEST {
                break;
            }
        }
        self.ended.slowest = self.ended.slowest.max(took);
        let why = match result {
            Err(error) => format!("{error:#}"),
            Ok(_) if took >= LONGEST => format!("it takes {took:?}"),
            Ok(way) => {
                if self.ways.insert(way) && self.pool.len() < MOST_KEPT {
                    self.pool.push(input.to_vec());
                }
                return true;
            }
        };
        self.ended.why = why;
        self.ended.find = Some((input.to_vec(), is_known));
        false
    }

    /// An input of the pool, changed in a few places.
    fn meddle(&mut self) -> Vec<u8> {
        let mut input = self.pool.get(self.random.below(self.pool.len())).cloned().unwrap_or_default();
        for _ in 0..=self.random.below(4) {
            self.change(&mut input);
        }
        input.truncate(MOST_BYTES);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let (from, to) = self.range(input.len());
        match self.random.below(10) {
            0 => {
                if let Some(byte) = input.get_mut(from) {
                    *byte ^= 1 << self.random.below(8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(from) {
                    *byte = self.byte();
                }
            }
            2 => input.insert(from, self.byte()),
            3 => drop(input.drain(from..to)),
            4 => {
                // The same again, sometimes many times.
                let piece = input.get(from..to).unwrap_or_default().repeat(1 + self.random.below(16));
                input.splice(from..from, piece);
            }
            5 => {
                // A number that is a length somewhere.
                let number =
                    NUMBERS.get(self.random.below(NUMBERS.len())).copied().unwrap_or(0).to_be_bytes();
                let width = 1 << self.random.below(3);
                let end = (from + width).min(input.len());
                input.splice(from..end, number.into_iter().rev().take(width).rev());
            }
            6 => {
                let other = self.pool.get(self.random.below(self.pool.len())).cloned().unwrap_or_default();
                let (start, end) = self.range(other.len());
                input.splice(from..to, other.get(start..end).unwrap_or_default().iter().copied());
            }
            7 => input.truncate(from),
            _ => {
                let word = self
                    .target
                    .words
                    .get(self.random.below(self.target.words.len()))
                    .copied()
                    .unwrap_or_default();
                let until = if self.random.below(2) == 0 { from } else { to };
                input.splice(from..until, word.bytes());
            }
        }
    }

    /// A part of something of this length, mostly a short one.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let from = self.random.below(length + 1);
        let most = if self.random.below(4) == 0 { length } else { length.min(16) };
        (from, (from + self.random.below(most + 1)).min(length))
    }

    fn byte(&mut self) -> u8 {
        let odd = BYTES.get(self.random.below(BYTES.len())).copied().unwrap_or(0);
        if self.random.below(2) == 0 { odd } else { u8::try_from(self.random.below(256)).unwrap_or(0) }
    }
}

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = u64::try_from(limit).unwrap_or(1).max(1);
        usize::try_from((self.0 >> 11) % limit).unwrap_or(0)
    }
}

/// Longer than anything of this size may take, with room for a machine that is busy.
const LONGEST: Duration = Duration::from_millis(500);
const TRIES: usize = 3;
const MOST_BYTES: usize = 16 << 10;
const MOST_KEPT: usize = 4_000;
const BYTES: &[u8] = b"\0\t\n\r \"%#./:;@[\\]\x7f\x80\xff";
const NUMBERS: &[u32] =
    &[0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x3fff, 0x7fff, 0xffff, 0x10_000, 0x7fff_ffff, 0xffff_ffff];
