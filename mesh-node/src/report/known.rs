//! The series that there are, of connections or of requests: found by their labels, told by their edges, and forgotten once
//! nobody has counted in them for long.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use mesh_core::topology::{Edge, Tally};
use tokio::time::Instant;

use super::age::{self, Age, may_have, patience};

/// The namespace and the workload whose Telemetry changes labels.
pub(super) type Owner = (Arc<str>, Arc<str>);

/// What is counted under one label set.
pub(super) trait Counts: Default {
    /// What tells series of one edge apart.
    type Key: Ord + Copy + std::fmt::Debug;

    /// What went over the edge of a series.
    fn tally(&self, key: Self::Key) -> Tally;

    /// Moves with everything that is counted.
    fn activity(&self) -> u64;
}

/// The counters of one label set.
#[derive(Debug)]
pub(super) struct Series<L: ?Sized, C: Counts> {
    pub(super) labels: Arc<L>,
    /// Between whom, of what is counted as usual; of what there was no room for nobody knows.
    pub(super) edge: OnceLock<(Edge, C::Key)>,
    /// Whose Telemetry has made it, if one has.
    owner: Option<Owner>,
    age: Age,
    counts: C,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Known<L: ?Sized, C: Counts> {
    by_labels: HashMap<Arc<L>, Arc<Series<L, C>>>,
    /// In the order of their birth, so that output is stable.
    ordered: Vec<Arc<Series<L, C>>>,
    /// What the mesh page knows of what is not counted in the usual series: of their labels it can tell nothing.
    by_edge: ByEdge<L, C>,
    /// What series that are gone had counted, as long as another one of the edge is there.
    gone: BTreeMap<Edge, Tally>,
    /// How many label sets Telemetries have made for whom.
    shares: HashMap<Owner, usize>,
}

type ByEdge<L, C> = BTreeMap<(Edge, <C as Counts>::Key), Arc<Series<L, C>>>;

impl<L: ?Sized, C: Counts> Series<L, C> {
    pub(super) fn new(labels: Arc<L>, edge: Option<(Edge, C::Key)>, owner: Option<Owner>) -> Self {
        let edge = edge.map_or_else(OnceLock::new, OnceLock::from);
        Self { labels, edge, owner, age: Age::default(), counts: C::default() }
    }

    fn tally(&self) -> Option<(Edge, Tally)> {
        let (edge, key) = self.edge.get()?;
        Some((edge.clone(), self.counts.tally(*key)))
    }
}

impl<L: ?Sized, C: Counts> Deref for Series<L, C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.counts
    }
}

impl<L: ?Sized, C: Counts> Default for Known<L, C> {
    fn default() -> Self {
        let (by_labels, ordered, by_edge) = Default::default();
        Self { by_labels, ordered, by_edge, gone: BTreeMap::new(), shares: HashMap::new() }
    }
}

impl<L: ?Sized + Eq + Hash, C: Counts> Known<L, C> {
    /// The series of these labels.
    pub(super) fn get(&self, labels: &L) -> Option<&Arc<Series<L, C>>> {
        self.by_labels.get(labels)
    }

    /// All that have labels of their own, the oldest first.
    pub(super) fn ordered(&self) -> Vec<Arc<Series<L, C>>> {
        self.ordered.clone()
    }

    /// Takes in a series of new labels, if there is room for it among `cap`; those that Telemetries of one workload make leave
    /// some to others.
    pub(super) fn add(&mut self, series: Series<L, C>, cap: usize) -> Option<Arc<Series<L, C>>> {
        let free = cap.saturating_sub(self.ordered.len());
        if free == 0 {
            return None;
        }
        if let Some(owner) = &series.owner {
            let share = self.shares.entry(owner.clone()).or_default();
            if !may_have(*share, free) {
                return None;
            }
            *share += 1;
        }
        let series = Arc::new(series);
        self.by_labels.insert(Arc::clone(&series.labels), Arc::clone(&series));
        self.ordered.push(Arc::clone(&series));
        Some(series)
    }

    /// The series of an edge; beyond the cap that of all for whom there is no room, by side and protocol.
    pub(super) fn of_edge(
        &mut self,
        (edge, key): (Edge, C::Key),
        (labels, cap): (Arc<L>, usize),
    ) -> Arc<Series<L, C>> {
        let is_known = self.by_edge.contains_key(&(edge.clone(), key));
        let edge = if is_known || self.by_edge.len() < cap {
            edge
        } else {
            Edge { source: None, destination: None, service: None, ..edge }
        };
        let made = || Arc::new(Series::new(labels, Some((edge.clone(), key)), None));
        Arc::clone(self.by_edge.entry((edge.clone(), key)).or_insert_with(made))
    }

    /// Forgets what was not counted for long. Of a series that is gone nobody may have a hold: what was counted in it later would be
    /// lost.
    pub(super) fn forget_idle(&mut self, cap: usize, now: Instant) {
        self.all().for_each(|it| it.age.grow(it.activity(), now));
        let patience = patience(self.ordered.len().max(self.by_edge.len()), cap);
        let is_unused =
            |it: &Arc<Series<L, C>>, holds| it.age.is_beyond(patience, now) && Arc::strong_count(it) == holds;
        // Here and by its labels.
        let old: Vec<_> = self.ordered.extract_if(.., |it| is_unused(it, 2)).collect();
        let mut over = Vec::new();
        for series in old {
            self.by_labels.remove(&series.labels);
            // A cache of a thread may have given it to somebody meanwhile.
            match Arc::try_unwrap(series) {
                Ok(series) => over.push(series),
                Err(series) => {
                    self.by_labels.insert(Arc::clone(&series.labels), Arc::clone(&series));
                    self.ordered.push(series);
                }
            }
        }
        for owner in over.iter().filter_map(|it| it.owner.as_ref()) {
            self.shares.entry(owner.clone()).and_modify(|share| *share = share.saturating_sub(1));
        }
        self.shares.retain(|_, share| *share > 0);
        // Nobody else is given these without the lock.
        let by_edge = std::mem::take(&mut self.by_edge);
        let (old, kept): (ByEdge<L, C>, _) = by_edge.into_iter().partition(|(_, it)| is_unused(it, 1));
        self.by_edge = kept;
        over.extend(old.into_values().filter_map(Arc::into_inner));
        if over.is_empty() {
            return;
        }
        let living: Vec<_> = self.all().filter_map(|it| Some(it.edge.get()?.0.clone())).collect();
        age::keep(&mut self.gone, over.iter().filter_map(Series::tally), living.into_iter());
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Series<L, C>>> {
        self.ordered.iter().chain(self.by_edge.values())
    }
}

/// What was carried, by edge. Adds up without the lock.
pub(super) fn tallies<L: ?Sized + Eq + Hash, C: Counts>(known: &Mutex<Known<L, C>>) -> Vec<(Edge, Tally)> {
    let known = locked(known);
    let gone: Vec<_> = known.gone.iter().map(|(edge, tally)| (edge.clone(), tally.clone())).collect();
    let all: Vec<_> = known.all().cloned().collect();
    drop(known);
    all.iter().filter_map(|it| it.tally()).chain(gone).collect()
}

/// The series, for nobody else meanwhile.
pub(super) fn locked<T>(known: &Mutex<T>) -> MutexGuard<'_, T> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
