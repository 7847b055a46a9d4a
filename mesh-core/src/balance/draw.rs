//! Chance, from a seed.

use super::mix;

/// Numbers that follow from a seed (`SplitMix64`).
#[derive(Debug)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits, as random as the seed.
    pub(super) fn next(&mut self) -> u64 {
        let drawn = mix(self.0);
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        drawn
    }

    /// At least 0 and below 1.
    pub(super) fn chance(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).expect("are 32 bits");
        f64::from(high) / 4_294_967_296.0
    }
}

/// A uniform number below `count`, or 0: the high half of a product, without a division and without noticeable bias.
pub(super) fn below(count: usize, random: u64) -> usize {
    let product = u128::from(random) * u128::try_from(count).expect("usize fits in 128 bits");
    usize::try_from(product >> 64).expect("is below a usize")
}

/// As [`below`].
pub(super) fn below64(count: u64, random: u64) -> u64 {
    u64::try_from((u128::from(random) * u128::from(count)) >> 64).expect("is below a u64")
}
