//! Whether a thread turns: one that is stuck in one piece of work answers nobody and says nothing about it.
//!
//! Each thread counts as long as it turns; whoever looks from outside compares. Looks that are late themselves prove nothing: a
//! machine that stood still is no thread that does.

use std::time::Duration;

/// What is known of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    /// What it had counted at the last look, and when that was new.
    turns: u64,
    since: Duration,
    looked: Duration,
    stalled: bool,
}

/// What a look has shown that is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It has not turned for so long.
    Stalls(Duration),
    /// It turns again, after so long.
    Turns(Duration),
}

impl Watched {
    /// A thread that has counted `turns` at `now`, which is a time since whenever.
    pub fn new(turns: u64, now: Duration) -> Self {
        Self { turns, since: now, looked: now, stalled: false }
    }

    /// Looks at it again.
    pub fn look(&mut self, turns: u64, now: Duration) -> Option<News> {
        let pause = now.saturating_sub(self.looked);
        self.looked = now;
        if turns != self.turns {
            let stood = now.saturating_sub(self.since);
            (self.turns, self.since) = (turns, now);
            return std::mem::take(&mut self.stalled).then_some(News::Turns(stood));
        }
        if pause > LATE {
            self.since += pause;
        }
        let stands = now.saturating_sub(self.since);
        if self.stalled || stands < LIMIT {
            return None;
        }
        self.stalled = true;
        Some(News::Stalls(stands))
    }

    /// Whether it stands still, as of the last look.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }
}

/// How often a thread counts, and how often it is looked at.
pub const BEAT: Duration = Duration::from_millis(250);
/// How long a thread may stand still. All of a thread's connections wait as long; nothing that one does takes a hundredth of it.
pub const LIMIT: Duration = Duration::from_secs(3);
/// A pause between two looks that says something about whoever looks.
const LATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Looks every 250 ms in `from..to`, at a thread that has counted as `turns` says.
    fn look(watched: &mut Watched, (from, to): (u64, u64), turns: impl Fn(u64) -> u64) -> Vec<(u64, News)> {
        let times = (from..to).step_by(250);
        times.filter_map(|time| Some((time, watched.look(turns(time), at(time))?))).collect()
    }

    #[test]
    fn a_thread_that_turns_is_no_news() {
        let mut watched = Watched::new(0, at(0));
        assert_eq!(look(&mut watched, (250, 60_000), |time| time / 250), []);
        // Nor is one that turns rarely, or whose count has come round.
        assert_eq!(look(&mut watched, (60_000, 90_000), |time| u64::MAX - time / 2750), []);
        assert!(!watched.is_stalled());
    }

    #[test]
    fn a_thread_that_stands_is_told_of_once_and_so_is_its_end() {
        let mut watched = Watched::new(7, at(0));
        assert_eq!(look(&mut watched, (250, 20_000), |_| 7), [(3000, News::Stalls(at(3000)))]);
        assert!(watched.is_stalled());
        assert_eq!(look(&mut watched, (20_000, 21_000), |_| 8), [(20_000, News::Turns(at(20_000)))]);
        assert!(!watched.is_stalled());
        assert_eq!(look(&mut watched, (21_000, 24_000), |_| 8), [(23_000, News::Stalls(at(3000)))]);
    }

    #[test]
    fn a_machine_that_stood_still_is_no_thread_that_does() {
        let mut watched = Watched::new(7, at(0));
        assert_eq!(look(&mut watched, (250, 1000), |_| 7), []);
        // An hour later nothing is known but what was known before.
        assert_eq!(look(&mut watched, (3_600_000, 3_602_000), |_| 7), []);
        assert_eq!(look(&mut watched, (3_602_000, 3_603_000), |_| 7), [(3_602_250, News::Stalls(at(3000)))]);
    }
}
