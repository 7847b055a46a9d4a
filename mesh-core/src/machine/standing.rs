//! What follows from the answers to a machine's own probe.

use crate::health::Check;

/// How a machine stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    healthy: Option<bool>,
    /// The last answer, and how many like it there were in a row.
    row: (bool, u32),
}

impl Standing {
    /// Takes in an answer. Returns how the machine is from now on, if that is news: it takes as many good or bad answers in a
    /// row as `check` wants, also at first.
    pub fn saw(&mut self, good: bool, check: &Check) -> Option<bool> {
        let (last, count) = self.row;
        self.row = (good, if last == good { count.saturating_add(1) } else { 1 });
        let enough = if good { check.healthy } else { check.unhealthy };
        let is_news = self.healthy != Some(good) && self.row.1 >= enough;
        is_news.then(|| {
            self.healthy = Some(good);
            good
        })
    }
}
