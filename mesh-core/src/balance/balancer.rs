//! The choice itself, and what a data thread remembers from one to the next.

use std::collections::HashMap;
use std::time::Instant;

use super::candidates::{Bucket, Candidates};
use super::draw::{Draws, below, below64};
use super::priority::{Load as GroupLoad, Tally, bearable, loads};
use super::rotation::Rotation;
use super::settings::{Algorithm, Settings, Warmup};
use super::{Health, Load, index};
use crate::model::EndpointId;

/// Chooses endpoints of one cluster on one thread.
///
/// A choice does not allocate, and takes constant time (logarithmic with weights) unless something was tried before.
/// When the endpoints or their health changed, the next choice takes note of it first, in time linear in the endpoints.
#[derive(Debug)]
pub struct Balancer {
    settings: Settings,
    /// What the rest was made for.
    seen: Option<(u64, u64)>,
    /// By endpoint.
    usable: Vec<bool>,
    groups: Vec<GroupState>,
    warming: Warming,
}

/// What a choice depends on beside the endpoints.
#[derive(Debug)]
pub struct PickContext<'a, L, H> {
    /// Chance.
    pub seed: u64,
    /// Where the request belongs, with [`Algorithm::Hash`]; by lot without it.
    pub hash: Option<u64>,
    /// Endpoints to be chosen only if no other is left: earlier tries, unless the rule ignores these.
    pub tried: &'a [EndpointId],
    /// Another try may go to another locality: to the first priority that has none of [`Self::tried`].
    pub remote: bool,
    /// The time.
    pub now: Instant,
    /// What is known about the endpoints' load.
    pub load: &'a L,
    /// Which endpoints are left out.
    pub health: &'a H,
}

#[derive(Debug)]
struct GroupState {
    load: GroupLoad,
    buckets: Vec<BucketState>,
    /// Of the buckets together.
    weight: u64,
}

#[derive(Debug)]
struct BucketState {
    weight: u64,
    usable: Vec<u32>,
    /// Sums of the weights up to each; empty if all are equal.
    sums: Vec<u64>,
    turn: Rotation,
}

/// Since when endpoints are there.
#[derive(Debug, Default)]
struct Warming {
    since: HashMap<EndpointId, Instant>,
    /// By endpoint.
    births: Vec<Instant>,
    oldest: Option<Instant>,
    /// When the last one has its full share.
    until: Option<Instant>,
}

/// A bucket and what is asked of it.
struct Choice<'a, 'b, L, H> {
    candidates: &'a Candidates,
    bucket: &'a BucketState,
    ctx: &'a PickContext<'b, L, H>,
    /// How endpoints warm up, while some do.
    warming: Option<(&'a Warming, Warmup)>,
}

impl Balancer {
    /// Knows no endpoints yet.
    pub fn new(settings: Settings) -> Self {
        let warming = Warming::default();
        Self { settings, seen: None, usable: Vec::new(), groups: Vec::new(), warming }
    }

    /// Takes the place of `self`, with other settings or for other endpoints: who was there is not new again.
    #[must_use]
    pub fn successor(&self, settings: Settings) -> Self {
        let warming = Warming { since: self.warming.since.clone(), ..Warming::default() };
        Self { warming, ..Self::new(settings) }
    }

    /// How it chooses.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Chooses one of `candidates`, which were made with the same settings: its index. `None` if none may be used, which is
    /// 503 and response flag `UH`.
    pub fn pick<L: Load, H: Health>(
        &mut self,
        candidates: &Candidates,
        ctx: &PickContext<'_, L, H>,
    ) -> Option<usize> {
        let seen = (candidates.digest(), ctx.health.generation());
        if self.seen != Some(seen) {
            self.refresh(candidates, ctx);
            self.seen = Some(seen);
        }
        let mut draws = Draws::new(ctx.seed);
        let group = self.group(candidates, ctx, &mut draws)?;
        let hashed = matches!(self.settings.algorithm, Algorithm::Hash(_)).then_some(ctx.hash).flatten();
        if let (Some(hash), Some(table)) = (hashed, &candidates.groups()[group].table) {
            let usable = |endpoint: u32| self.usable[index(endpoint)];
            let fresh = |endpoint: u32| !ctx.tried.contains(&candidates.id(endpoint));
            let found = table.find(hash, |endpoint| usable(endpoint) && fresh(endpoint));
            return found.or_else(|| table.find(hash, usable)).map(index);
        }
        let state = &mut self.groups[group];
        let at = state.bucket(&mut draws)?;
        let warming =
            self.settings.warmup.filter(|_| self.warming.until.is_some_and(|until| ctx.now < until));
        let warming = warming.map(|warmup| (&self.warming, warmup));
        let chosen = match self.settings.algorithm {
            Algorithm::RoundRobin => {
                let mut turn = std::mem::take(&mut state.buckets[at].turn);
                let choice = Choice { candidates, bucket: &state.buckets[at], ctx, warming };
                let chosen = choice.in_turn(&mut turn, &mut draws);
                state.buckets[at].turn = turn;
                chosen
            }
            Algorithm::LeastRequest => {
                Choice { candidates, bucket: &state.buckets[at], ctx, warming }.least_request(&mut draws)
            }
            Algorithm::Random | Algorithm::Passthrough | Algorithm::Hash(_) => {
                Choice { candidates, bucket: &state.buckets[at], ctx, warming }.by_lot(&mut draws)
            }
        };
        let chosen = chosen.or_else(|| state.anyone_untried(candidates, ctx, &mut draws));
        chosen.or_else(|| state.buckets[at].draw(&mut draws)).map(index)
    }

    fn refresh<L, H: Health>(&mut self, candidates: &Candidates, ctx: &PickContext<'_, L, H>) {
        let well: Vec<_> = candidates.ids().iter().map(|id| !ctx.health.is_ejected(*id)).collect();
        let is_well = |member: &u32| well[index(*member)];
        let tallies = candidates.groups().iter().map(|group| {
            let all = group.members().count();
            Tally { well: group.members().filter(|member| is_well(member)).count(), all }
        });
        let loads = loads(&tallies.collect::<Vec<_>>(), self.settings.min_health_percent);
        let mut draws = Draws::new(ctx.seed);
        let states = candidates.groups().iter().zip(&loads).map(|(group, load)| {
            let buckets = group.buckets.iter();
            let usable = |member: &u32| load.panic || is_well(member);
            let state = |bucket| BucketState::new(bucket, candidates, usable, &mut draws);
            let buckets: Vec<_> = buckets.map(state).collect();
            GroupState { load: *load, weight: buckets.iter().map(|bucket| bucket.weight).sum(), buckets }
        });
        self.groups = states.collect();
        self.usable = vec![false; candidates.len()];
        let usable = self.groups.iter().flat_map(|group| &group.buckets).flat_map(|bucket| &bucket.usable);
        usable.for_each(|endpoint| self.usable[index(*endpoint)] = true);
        if let Some(warmup) = self.settings.warmup {
            self.warming.update(candidates.ids(), warmup, ctx.now);
        }
    }

    fn group<L, H>(
        &self,
        candidates: &Candidates,
        ctx: &PickContext<'_, L, H>,
        draws: &mut Draws,
    ) -> Option<usize> {
        if self.groups.len() <= 1 {
            return (!self.groups.is_empty()).then_some(0);
        }
        if ctx.remote && !ctx.tried.is_empty() {
            let untried = |at: usize| {
                let mut members = candidates.groups()[at].members();
                !members.any(|member| ctx.tried.contains(&candidates.id(member)))
            };
            let found = (0..self.groups.len()).find(|at| self.groups[*at].weight > 0 && untried(*at));
            if found.is_some() {
                return found;
            }
        }
        let mut lot = below64(100, ctx.hash.map_or_else(|| draws.next(), super::mix));
        self.groups.iter().position(|group| {
            let percent = u64::from(group.load.percent);
            let is_it = lot < percent;
            lot = lot.saturating_sub(percent);
            is_it
        })
    }
}

impl GroupState {
    fn bucket(&self, draws: &mut Draws) -> Option<usize> {
        if self.weight == 0 {
            return None;
        }
        if self.buckets.len() == 1 {
            return Some(0);
        }
        let mut lot = below64(self.weight, draws.next());
        self.buckets.iter().position(|bucket| {
            let is_it = lot < bucket.weight;
            lot = lot.saturating_sub(bucket.weight);
            is_it
        })
    }

    /// Somebody who was not tried yet, if others were.
    fn anyone_untried<L, H>(
        &self,
        candidates: &Candidates,
        ctx: &PickContext<'_, L, H>,
        draws: &mut Draws,
    ) -> Option<u32> {
        let count: usize = self.buckets.iter().map(|bucket| bucket.usable.len()).sum();
        let all = || self.buckets.iter().flat_map(|bucket| bucket.usable.iter().copied());
        let start = below(count, draws.next());
        let mut around = all().skip(start).chain(all().take(start));
        around.find(|endpoint| !ctx.tried.contains(&candidates.id(*endpoint)))
    }
}

impl BucketState {
    fn new(
        bucket: &Bucket,
        candidates: &Candidates,
        is_usable: impl Fn(&u32) -> bool,
        draws: &mut Draws,
    ) -> Self {
        let usable: Vec<_> = bucket.members.iter().copied().filter(is_usable).collect();
        let weights = || usable.iter().map(|endpoint| candidates.weight(*endpoint));
        let tally = Tally { well: usable.len(), all: bucket.members.len() };
        let sums = weights().scan(0_u64, |sum, weight| {
            *sum += u64::from(weight);
            Some(*sum)
        });
        let sums = if bucket.even { Vec::new() } else { sums.collect() };
        let turn = Rotation::new(if bucket.even { None } else { Some(weights()) }, usable.len(), draws);
        Self { weight: bearable(u64::from(bucket.share), tally), sums, turn, usable }
    }

    /// By lot; `None` if there is none.
    fn draw(&self, draws: &mut Draws) -> Option<u32> {
        let at = match self.sums.last() {
            Some(total) => {
                let lot = below64(*total, draws.next());
                self.sums.partition_point(|sum| *sum <= lot)
            }
            None => below(self.usable.len(), draws.next()),
        };
        self.usable.get(at).copied()
    }
}

impl Warming {
    /// Who was not there before is new from now on.
    fn update(&mut self, ids: &[EndpointId], warmup: Warmup, now: Instant) {
        let old = std::mem::take(&mut self.since);
        self.births = ids.iter().map(|id| old.get(id).copied().unwrap_or(now)).collect();
        self.since = ids.iter().copied().zip(self.births.iter().copied()).collect();
        self.oldest = self.births.iter().min().copied();
        let youngest = self.births.iter().max().filter(|youngest| Some(**youngest) != self.oldest);
        // Where all are equally new, nobody has to wait for anybody.
        self.until = youngest.and_then(|youngest| youngest.checked_add(warmup.duration));
    }

    /// The share of an endpoint, of what the oldest has.
    fn share(&self, endpoint: u32, warmup: Warmup, now: Instant) -> f64 {
        let share = |birth: Instant| warmup.share(now.saturating_duration_since(birth));
        let full = self.oldest.map_or(1.0, share);
        let own = self.births.get(index(endpoint)).map_or(1.0, |birth| share(*birth));
        if full > 0.0 { own / full } else { 1.0 }
    }
}

impl<L: Load, H> Choice<'_, '_, L, H> {
    fn by_lot(&self, draws: &mut Draws) -> Option<u32> {
        self.accepted(draws, |draws| self.bucket.draw(draws))
    }

    fn in_turn(&self, turn: &mut Rotation, draws: &mut Draws) -> Option<u32> {
        self.accepted(draws, |_| self.bucket.usable.get(turn.next(self.bucket.usable.len())?).copied())
    }

    fn least_request(&self, draws: &mut Draws) -> Option<u32> {
        let usable = &self.bucket.usable;
        if !self.bucket.sums.is_empty() || self.warming.is_some() || !self.ctx.tried.is_empty() {
            return self.least_request_of_unequal(draws);
        }
        if usable.len() <= 1 {
            return usable.first().copied();
        }
        let first = below(usable.len(), draws.next());
        // Drawn from the others: skipping over `first` keeps it uniform.
        let other = below(usable.len() - 1, draws.next());
        let other = if other >= first { other + 1 } else { other };
        let (first, other) = (usable[first], usable[other]);
        let outstanding = |endpoint| self.ctx.load.outstanding(self.candidates.id(endpoint));
        Some(if outstanding(other) < outstanding(first) { other } else { first })
    }

    /// Both are drawn by weight, so that idle endpoints get what they should; then the one with less per weight.
    fn least_request_of_unequal(&self, draws: &mut Draws) -> Option<u32> {
        let first = self.by_lot(draws)?;
        let other = self.accepted(draws, |draws| self.bucket.draw(draws).filter(|other| *other != first));
        let Some(other) = other else { return Some(first) };
        let busy = |endpoint: u32| {
            let outstanding = self.ctx.load.outstanding(self.candidates.id(endpoint));
            f64::from(outstanding) / (f64::from(self.candidates.weight(endpoint)) * self.share(endpoint))
        };
        Some(if busy(other) < busy(first) { other } else { first })
    }

    /// The first of a few tries that was not tried before and is warm enough.
    fn accepted(&self, draws: &mut Draws, mut next: impl FnMut(&mut Draws) -> Option<u32>) -> Option<u32> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let fresh = |endpoint: &u32| !self.ctx.tried.contains(&self.candidates.id(*endpoint));
            let Some(endpoint) = next(draws).filter(fresh) else { continue };
            if self.warming.is_none() || draws.chance() < self.share(endpoint) {
                return Some(endpoint);
            }
            last = Some(endpoint);
        }
        last
    }

    fn share(&self, endpoint: u32) -> f64 {
        self.warming.map_or(1.0, |(warming, warmup)| warming.share(endpoint, warmup, self.ctx.now))
    }
}

/// Draws before whoever is next has to do. With this many, an endpoint that is to have a tenth gets hardly more.
const ATTEMPTS: usize = 16;

#[cfg(test)]
mod tests;
