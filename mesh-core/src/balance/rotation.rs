//! Taking turns.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::draw::{Draws, below};

/// Whose turn it is, as a position in a list that does not change.
#[derive(Debug)]
pub(super) enum Rotation {
    /// One after the other; the next one.
    Equal(usize),
    /// Earliest deadline first: who has twice the weight has twice as many deadlines, evenly spread.
    Weighted(BinaryHeap<Reverse<Turn>>),
}

/// Ordered by deadline.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    /// In units of which a weight of 1 has to wait 2^64, so that no deadline is ever too late for the type.
    deadline: u128,
    position: usize,
    period: u128,
}

impl Default for Rotation {
    fn default() -> Self {
        Self::Equal(0)
    }
}

impl Rotation {
    /// Of `count`, all equal without weights. Begins anywhere, so that threads do not all begin with the same.
    pub(super) fn new(weights: Option<impl Iterator<Item = u32>>, count: usize, draws: &mut Draws) -> Self {
        let Some(weights) = weights else { return Self::Equal(below(count, draws.next())) };
        let turns = weights.enumerate().map(|(position, weight)| {
            let period = PERIOD / u128::from(weight.max(1));
            let deadline = (period * u128::from(draws.next())) >> 64;
            Reverse(Turn { deadline, position, period })
        });
        Self::Weighted(turns.collect())
    }

    /// Whose turn it is, of `count`; `None` if there is nobody.
    pub(super) fn next(&mut self, count: usize) -> Option<usize> {
        match self {
            Self::Equal(next) => {
                let position = Some(*next).filter(|next| *next < count).unwrap_or(0);
                *next = position + 1;
                (count > 0).then_some(position)
            }
            Self::Weighted(turns) => {
                let mut first = turns.peek_mut()?;
                first.0.deadline += first.0.period;
                Some(first.0.position)
            }
        }
    }
}

const PERIOD: u128 = 1 << 64;

#[cfg(test)]
mod tests;
