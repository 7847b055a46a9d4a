//! How often somebody may come: so many at once after a rest, and so many a second from then on, each for itself. Of
//! those who come for the first time only so many are told apart.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How often is not too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At once, after a rest; at least 1.
    pub burst: u32,
    /// From then on; at least 1.
    pub per_second: u32,
}

/// What is left to each of those who come, told apart by `K`.
#[derive(Debug)]
pub struct Allowance<K> {
    rate: Rate,
    /// How many are told apart at once.
    most: usize,
    /// Until when each has used up what it had: whoever is not in here, or is from before now, has all of it.
    spent: HashMap<K, Instant>,
    /// The same of all together who are not told apart.
    others: Option<Instant>,
}

impl<K: Eq + Hash> Allowance<K> {
    /// Gives each of up to `most` what `rate` says; all that are more than that share the same once more.
    pub fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, spent: HashMap::new(), others: None }
    }

    /// Whether `who` may come now. If so, it has come.
    pub fn take(&mut self, who: K, now: Instant) -> bool {
        if self.spent.len() >= self.most && !self.spent.contains_key(&who) {
            self.spent.retain(|_, until| *until > now);
            if self.spent.len() >= self.most {
                let next = next(self.rate, self.others, now);
                self.others = next.or(self.others);
                return next.is_some();
            }
        }
        let Some(until) = next(self.rate, self.spent.get(&who).copied(), now) else { return false };
        self.spent.insert(who, until);
        true
    }

    /// How many are told apart at the moment.
    pub fn known(&self) -> usize {
        self.spent.len()
    }
}

/// When the next one is paid for as well, if it can be: each costs its part of a second, and nobody may be in debt for
/// more than its burst.
fn next(rate: Rate, until: Option<Instant>, now: Instant) -> Option<Instant> {
    let cost = Duration::from_secs(1) / rate.per_second.max(1);
    let until = until.map_or(now, |until| until.max(now)) + cost;
    (until.duration_since(now) <= cost * rate.burst.max(1)).then_some(until)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, per_second: 10 };

    #[test]
    fn so_many_at_once_and_then_so_many_a_second() {
        let (mut allowance, begin) = (Allowance::new(RATE, 10), Instant::now());
        let mut at = |who: &'static str, millis| allowance.take(who, begin + Duration::from_millis(millis));
        assert_eq!([0; 4].map(|_| at("a", 0)), [true, true, true, false]);
        assert!(at("b", 0), "what one has used up is nothing to another");
        assert!(!at("a", 99));
        assert!(at("a", 100) && !at("a", 100));
        // A rest gives back everything, and never more than that.
        assert_eq!([0; 4].map(|_| at("a", 60_000)), [true, true, true, false]);
        // A clock that seems to go back makes nobody rich.
        assert!(!at("a", 59_000));
    }

    #[test]
    fn those_who_are_too_many_to_be_told_apart_share() {
        let (mut allowance, begin) = (Allowance::new(RATE, 2), Instant::now());
        assert!(allowance.take(1, begin) && allowance.take(2, begin));
        assert_eq!([3, 4, 5, 6].map(|who| allowance.take(who, begin)), [true, true, true, false]);
        assert!(allowance.take(1, begin), "who was there before keeps what is his");
        assert_eq!(allowance.known(), 2);
        // Who has rested is forgotten, and makes room.
        let later = begin + Duration::from_secs(1);
        assert_eq!([0; 4].map(|_| allowance.take(7, later)), [true, true, true, false]);
        assert_eq!(allowance.known(), 1);
    }
}
