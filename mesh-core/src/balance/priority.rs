//! How traffic is spread over priorities when endpoints are not well. Envoy's rules: an overprovisioning factor of 1.4,
//! and panic where hardly any are left.

/// Endpoints of a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) well: usize,
    pub(super) all: usize,
}

/// What becomes of a priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Per cent of the traffic.
    pub(super) percent: u32,
    /// All of its endpoints are used, because hardly any is well.
    pub(super) panic: bool,
}

/// The load of each priority, the first one preferred. 100 together, unless there is no endpoint at all.
pub(super) fn loads(priorities: &[Tally], min_health_percent: u32) -> Vec<Load> {
    let available: Vec<_> = priorities.iter().map(|health| health.available()).collect();
    let total = available.iter().sum::<u32>().min(100);
    let panics = |health: &Tally| total < 100 && health.panics(min_health_percent);
    let mut loads: Vec<_> = priorities.iter().map(|it| Load { percent: 0, panic: panics(it) }).collect();
    if !loads.is_empty() && loads.iter().all(|load| load.panic) {
        by_size(priorities, &mut loads);
        return loads;
    }
    if total == 0 {
        // All are out and no panic is wanted: it has to fail somewhere.
        loads.first_mut().into_iter().for_each(|first| first.percent = 100);
        return loads;
    }
    let mut rest = 100;
    for (load, available) in loads.iter_mut().zip(&available) {
        load.percent = (available * 100 / total).min(rest);
        rest -= load.percent;
    }
    // What rounding left over belongs to the first that can take it.
    let first = loads.iter_mut().find(|load| load.percent > 0);
    first.into_iter().for_each(|first| first.percent += rest);
    loads
}

/// Of `weight`, as much as the endpoints that are well can bear.
pub(super) fn bearable(weight: u64, health: Tally) -> u64 {
    weight.saturating_mul(u64::from(health.available()))
}

impl Tally {
    /// Per cent of the traffic that it can bear, all of it if 72 % are well. Never 0 if one is well: there is nothing
    /// to be gained from failing beside it.
    pub(super) fn available(self) -> u32 {
        let percent = self.well.saturating_mul(140).checked_div(self.all).unwrap_or(0);
        u32::try_from(percent.max(self.well.min(1))).unwrap_or(100).min(100)
    }

    fn panics(self, min_health_percent: u32) -> bool {
        let minimum = usize::try_from(min_health_percent).unwrap_or(100).saturating_mul(self.all);
        self.well.saturating_mul(100) < minimum
    }
}

/// Nothing is known that could be preferred.
fn by_size(priorities: &[Tally], loads: &mut [Load]) {
    let all: usize = priorities.iter().map(|health| health.all).sum();
    let mut rest = 100;
    for (load, health) in loads.iter_mut().zip(priorities) {
        let percent = health.all.saturating_mul(100).checked_div(all).unwrap_or(0);
        load.percent = u32::try_from(percent).unwrap_or(100).min(rest);
        rest -= load.percent;
    }
    let largest = loads.iter_mut().max_by_key(|load| load.percent);
    largest.into_iter().for_each(|largest| largest.percent += rest);
}

#[cfg(test)]
mod tests;
