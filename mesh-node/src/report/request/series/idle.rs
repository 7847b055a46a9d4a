//! Forgets series that are idle, and what is known of edges.
//!
//! Threads forget what they have cached with each epoch, at their next request. A series that was idle for several epochs is not
//! in the cache of any thread that goes on counting, so nothing is counted in one that is gone.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use mesh_core::topology::Edge;
use tokio::time::Instant;

use super::{Known, Owner, RequestMap, Series, Totals};
use crate::report::age::{self, may_have, patience};
use crate::report::edges::Outcome;

impl RequestMap {
    /// Forgets what was not counted for long. To be called once an epoch.
    pub(in crate::report) fn forget_idle(&self, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.all().for_each(|series| series.age.grow(series.totals().activity(), now));
        let patience = patience(known.ordered.len().max(known.by_edge.len()), self.cap);
        known.forget(|series| series.age.is_beyond(patience, now));
    }
}

impl Known {
    fn all(&self) -> impl Iterator<Item = &Arc<Series>> {
        self.ordered.iter().chain(self.by_edge.values())
    }

    fn forget(&mut self, is_old: impl Fn(&Series) -> bool) {
        let old: Vec<_> = self.all().filter(|it| is_old(it)).cloned().collect();
        if old.is_empty() {
            return;
        }
        self.ordered.retain(|series| !is_old(series));
        self.by_labels.retain(|_, series| !is_old(series));
        self.by_edge.retain(|_, series| !is_old(series));
        let living: Vec<_> = self.all().filter_map(|it| Some(it.edge.get()?.0.clone())).collect();
        age::keep(&mut self.gone, old.iter().filter_map(|it| it.tally()), living.into_iter());
        self.shares = HashMap::new();
        for owner in self.ordered.iter().filter_map(|it| it.owner.clone()) {
            *self.shares.entry(owner).or_default() += 1;
        }
    }

    /// Whether there is room for one more label set.
    pub(super) fn has_room(&self, owner: Option<&Owner>, cap: usize) -> bool {
        let free = cap.saturating_sub(self.ordered.len());
        let share = owner.and_then(|owner| self.shares.get(owner)).copied().unwrap_or_default();
        free > 0 && (owner.is_none() || may_have(share, free))
    }

    pub(super) fn add(&mut self, labels: Arc<str>, series: &Arc<Series>) {
        if let Some(owner) = &series.owner {
            *self.shares.entry(owner.clone()).or_default() += 1;
        }
        self.by_labels.insert(labels, series.clone());
        self.ordered.push(series.clone());
    }

    /// The series of an edge; beyond the cap that of all for whom there is no room, by side and protocol.
    pub(super) fn of_edge(&mut self, (edge, outcome): (Edge, Outcome), cap: usize) -> Arc<Series> {
        let is_known = self.by_edge.contains_key(&(edge.clone(), outcome));
        let edge = if is_known || self.by_edge.len() < cap {
            edge
        } else {
            Edge { source: None, destination: None, service: None, ..edge }
        };
        let made = || Arc::new(Series::new("".into(), Some((edge.clone(), outcome)), None));
        Arc::clone(self.by_edge.entry((edge.clone(), outcome)).or_insert_with(made))
    }
}

impl Totals {
    /// Moves with everything that is counted.
    fn activity(&self) -> u64 {
        [self.duration.count(), self.received.count(), self.sent.count(), self.request_messages]
            .into_iter()
            .fold(self.requests.wrapping_add(self.response_messages), u64::wrapping_add)
    }
}
