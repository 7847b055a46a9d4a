//! Choices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::balance::{AllWell, Candidate, HashPolicy, HashTable, Placement};

mod bench;

/// Those that are out; the generation is how many there are.
struct Out(BTreeSet<EndpointId>, u64);

impl Health for Out {
    fn generation(&self) -> u64 {
        self.1
    }

    fn is_ejected(&self, id: EndpointId) -> bool {
        self.0.contains(&id)
    }
}

fn id(at: usize) -> EndpointId {
    EndpointId::of(SocketAddr::from(([10, 0, 0, u8::try_from(at).unwrap()], 80)))
}

fn settings(algorithm: Algorithm) -> Settings {
    Settings { algorithm, ..Settings::default() }
}

fn hashing(table: HashTable) -> Algorithm {
    Algorithm::Hash(HashPolicy { source: None, table })
}

fn all_algorithms() -> Vec<Algorithm> {
    let hashes = [hashing(HashTable::Ring(64)), hashing(HashTable::Maglev(251))];
    let others = [Algorithm::LeastRequest, Algorithm::Random, Algorithm::RoundRobin, Algorithm::Passthrough];
    others.into_iter().chain(hashes).collect()
}

/// One endpoint for each weight.
fn weighted(weights: &[u32]) -> Vec<Candidate> {
    weights
        .iter()
        .enumerate()
        .map(|(at, weight)| Candidate { weight: *weight, ..Candidate::new(id(at)) })
        .collect()
}

/// One endpoint for each priority.
fn by_priority(priorities: &[u32]) -> Vec<Candidate> {
    let place = |priority| Some(Placement { priority, ..Placement::default() });
    let candidate =
        |(at, priority): (usize, &u32)| Candidate { placement: place(*priority), ..Candidate::new(id(at)) };
    priorities.iter().enumerate().map(candidate).collect()
}

/// A balancer with everything that it is asked with.
struct Bed {
    settings: Settings,
    balancer: Balancer,
    candidates: Candidates,
    out: Out,
    now: Instant,
    remote: bool,
}

impl Bed {
    fn new(settings: Settings, list: &[Candidate]) -> Self {
        let candidates = Candidates::new(&settings, list);
        let balancer = Balancer::new(settings.clone());
        Self {
            settings,
            balancer,
            candidates,
            out: Out(BTreeSet::new(), 0),
            now: Instant::now(),
            remote: false,
        }
    }

    fn replace(&mut self, list: &[Candidate]) {
        self.candidates = Candidates::new(&self.settings, list);
    }

    fn eject(&mut self, out: &[usize]) {
        self.out = Out(out.iter().map(|at| id(*at)).collect(), self.out.1 + 1);
    }

    fn pick(&mut self, seed: u64, hash: Option<u64>, tried: &[EndpointId]) -> Option<usize> {
        self.pick_under(seed, hash, tried, |_| 0)
    }

    fn pick_under(
        &mut self,
        seed: u64,
        hash: Option<u64>,
        tried: &[EndpointId],
        load: impl Fn(EndpointId) -> u32,
    ) -> Option<usize> {
        let (remote, now) = (self.remote, self.now);
        let ctx = PickContext { seed, hash, tried, remote, now, load: &load, health: &self.out };
        self.balancer.pick(&self.candidates, &ctx)
    }

    /// How often each is chosen.
    fn counts(&mut self, times: u64) -> Vec<u32> {
        let mut counts = vec![0; self.candidates.len()];
        for seed in 0..times {
            counts[self.pick(seed, None, &[]).unwrap()] += 1;
        }
        counts
    }
}

fn near(actual: u32, wanted: u32, percent: u32) -> bool {
    actual.abs_diff(wanted) * 100 <= wanted * percent
}

#[test]
fn nobody_can_be_chosen() {
    for algorithm in all_algorithms() {
        let mut bed = Bed::new(settings(algorithm.clone()), &[]);
        assert_eq!(bed.pick(1, Some(1), &[]), None, "{algorithm:?}");
        bed.replace(&[Candidate { placement: None, ..Candidate::new(id(0)) }]);
        assert_eq!(bed.pick(1, Some(1), &[]), None, "{algorithm:?}");
        bed.replace(&weighted(&[1, 2]));
        bed.eject(&[0, 1]);
        assert_eq!(bed.pick(1, Some(1), &[]), None, "{algorithm:?}");
        assert_eq!(bed.pick(1, Some(1), &[id(0)]), None, "{algorithm:?}");
    }
}

#[test]
fn idle_endpoints_share_by_weight() {
    for algorithm in all_algorithms() {
        let counts = Bed::new(settings(algorithm.clone()), &weighted(&[1; 5])).counts(10_000);
        assert!(counts.iter().all(|count| near(*count, 2000, 10)), "{algorithm:?}: {counts:?}");
        let counts = Bed::new(settings(algorithm.clone()), &weighted(&[1, 3, 6])).counts(10_000);
        let due = [1000, 3000, 6000];
        let fair = if algorithm == Algorithm::LeastRequest { 25 } else { 10 };
        assert!(
            counts.iter().zip(due).all(|(count, due)| near(*count, due, fair)),
            "{algorithm:?}: {counts:?}"
        );
    }
}

#[test]
fn the_last_one_that_is_well_serves_all() {
    for algorithm in all_algorithms() {
        let mut bed = Bed::new(settings(algorithm.clone()), &weighted(&[1; 200]));
        bed.eject(&(0..199).collect::<Vec<_>>());
        assert_eq!(bed.pick(1, Some(1), &[]), Some(199), "{algorithm:?}");
        assert_eq!(bed.pick(1, Some(1), &[id(199)]), Some(199), "{algorithm:?}");
    }
}

#[test]
fn a_weight_of_nothing_is_one() {
    let counts = Bed::new(settings(Algorithm::Random), &weighted(&[0, 1])).counts(2000);
    assert!(counts.iter().all(|count| near(*count, 1000, 10)), "{counts:?}");
}

#[test]
fn the_less_busy_of_two() {
    for weights in [[1, 1, 1], [2, 3, 4]] {
        let mut bed = Bed::new(settings(Algorithm::LeastRequest), &weighted(&weights));
        let busy = |endpoint: EndpointId| if endpoint == id(1) { 100 } else { 1 };
        let chosen: BTreeSet<_> =
            (0..500).map(|seed| bed.pick_under(seed, None, &[], busy).unwrap()).collect();
        assert_eq!(chosen, BTreeSet::from([0, 2]), "{weights:?}");
    }
}

#[test]
fn requests_under_way_follow_the_weights() {
    let mut bed = Bed::new(settings(Algorithm::LeastRequest), &weighted(&[1, 4]));
    let mut under_way: BTreeMap<_, u32> = BTreeMap::new();
    for seed in 0..1000 {
        let load = |endpoint: EndpointId| under_way.get(&endpoint).copied().unwrap_or(0);
        let chosen = bed.pick_under(seed, None, &[], load).unwrap();
        *under_way.entry(id(chosen)).or_default() += 1;
    }
    assert!(near(under_way[&id(0)], 200, 10), "{under_way:?}");
}

#[test]
fn turns_are_exact() {
    let mut bed = Bed::new(settings(Algorithm::RoundRobin), &weighted(&[1; 3]));
    assert_eq!(bed.counts(300), [100, 100, 100]);
    bed.eject(&[1]);
    assert_eq!(bed.counts(300), [150, 0, 150]);
}

#[test]
fn hashes_stay_where_they_are() {
    for table in [HashTable::Ring(1024), HashTable::Maglev(5003)] {
        let mut bed = Bed::new(settings(hashing(table)), &weighted(&[1; 5]));
        let picks = |bed: &mut Bed, tried: &[EndpointId]| -> Vec<_> {
            (0..200).map(|hash| bed.pick(hash, Some(super::super::mix(hash)), tried).unwrap()).collect()
        };
        let usual = picks(&mut bed, &[]);
        assert_eq!(usual.iter().collect::<BTreeSet<_>>().len(), 5);
        bed.eject(&[2]);
        let without = picks(&mut bed, &[]);
        assert!(usual.iter().zip(&without).all(|(a, b)| a == b || *a == 2), "{table:?}");
        assert!(!without.contains(&2));
        bed.eject(&[]);
        assert_eq!(picks(&mut bed, &[]), usual);
        // A second try goes where the first will go when the endpoint is out.
        assert_eq!(picks(&mut bed, &[id(2)]), without);
        assert_eq!(picks(&mut bed, &[id(0), id(1), id(2), id(3), id(4)]), usual);
        // Endpoints that come and go in between, and in another order, change nothing.
        let mut other: Vec<_> = weighted(&[1; 6]);
        other.remove(5);
        other.reverse();
        bed.replace(&other);
        let reversed: Vec<_> = picks(&mut bed, &[]).into_iter().map(|at| 4 - at).collect();
        assert_eq!(reversed, usual, "{table:?}");
    }
}

#[test]
fn a_request_without_a_hash_goes_anywhere() {
    let mut bed = Bed::new(settings(hashing(HashTable::Ring(64))), &weighted(&[1; 4]));
    let counts = bed.counts(4000);
    assert!(counts.iter().all(|count| near(*count, 1000, 10)), "{counts:?}");
}

#[test]
fn traffic_overflows_to_the_next_priority() {
    for algorithm in all_algorithms() {
        // Four endpoints of priority 0, two of priority 1.
        let mut bed = Bed::new(settings(algorithm.clone()), &by_priority(&[0, 0, 0, 0, 1, 1]));
        let remote = |bed: &mut Bed| {
            let picks = (0..2000).map(|seed| bed.pick(seed, Some(super::super::mix(seed)), &[]).unwrap());
            picks.filter(|at| *at >= 4).count()
        };
        assert_eq!(remote(&mut bed), 0, "{algorithm:?}");
        bed.eject(&[0]);
        assert_eq!(remote(&mut bed), 0, "three of four bear it: {algorithm:?}");
        bed.eject(&[0, 1]);
        let share = remote(&mut bed);
        assert!((500..700).contains(&share), "30 % go elsewhere, not {share}: {algorithm:?}");
        bed.eject(&[0, 1, 2, 3]);
        assert_eq!(remote(&mut bed), 2000, "{algorithm:?}");
        bed.eject(&[0, 1, 2, 3, 4, 5]);
        assert_eq!(bed.pick(1, Some(1), &[]), None, "{algorithm:?}");
    }
}

#[test]
fn too_few_well_ones_are_as_good_as_none() {
    for algorithm in all_algorithms() {
        let settings = Settings { min_health_percent: 50, ..settings(algorithm.clone()) };
        let mut bed = Bed::new(settings, &weighted(&[1; 4]));
        let chosen = |bed: &mut Bed| -> BTreeSet<_> {
            (0..400).map(|seed| bed.pick(seed, Some(super::super::mix(seed)), &[]).unwrap()).collect()
        };
        bed.eject(&[0, 1]);
        assert_eq!(chosen(&mut bed), BTreeSet::from([2, 3]), "{algorithm:?}");
        bed.eject(&[0, 1, 2]);
        assert_eq!(chosen(&mut bed), BTreeSet::from([0, 1, 2, 3]), "{algorithm:?}");
    }
}

#[test]
fn shares_of_buckets() {
    let place = |bucket, share| Some(Placement { priority: 0, bucket, share });
    let candidate = |(at, placement)| Candidate { placement, ..Candidate::new(id(at)) };
    let placed = [place(0, 70), place(0, 70), place(1, 30), None];
    let list: Vec<_> = placed.into_iter().enumerate().map(candidate).collect();
    for algorithm in all_algorithms() {
        let mut bed = Bed::new(settings(algorithm.clone()), &list);
        let counts = bed.counts(10_000);
        let due = [3500, 3500, 3000, 0];
        assert!(
            counts.iter().zip(due).all(|(count, due)| near(*count, due, 10)),
            "{algorithm:?}: {counts:?}"
        );
        bed.eject(&[2]);
        assert_eq!(bed.counts(1000)[2], 0, "{algorithm:?}");
        bed.eject(&[0]);
        // Half of the bucket can bear 70 % of its share: 49 against 30.
        let local = bed.counts(10_000)[1];
        assert!(near(local, 6200, 10), "{algorithm:?}: {local}");
    }
}

#[test]
fn hashes_follow_the_shares_of_buckets() {
    let place = |bucket, share| Some(Placement { priority: 0, bucket, share });
    let list: Vec<_> = (0..10)
        .map(|at| Candidate {
            placement: if at < 5 { place(0, 80) } else { place(1, 20) },
            ..Candidate::new(id(at))
        })
        .collect();
    for table in [HashTable::Ring(1024), HashTable::Maglev(65_537)] {
        let mut bed = Bed::new(settings(hashing(table)), &list);
        let local =
            (0..5000).filter(|seed| bed.pick(1, Some(super::super::mix(*seed)), &[]).unwrap() < 5).count();
        assert!((3700..4300).contains(&local), "{table:?}: {local}");
    }
}

#[test]
fn another_try_stays_near_unless_it_may_go_far() {
    let mut bed = Bed::new(settings(Algorithm::LeastRequest), &by_priority(&[0, 1, 2]));
    assert_eq!(bed.pick(1, None, &[id(0)]), Some(0));
    bed.remote = true;
    assert_eq!(bed.pick(1, None, &[]), Some(0));
    assert_eq!(bed.pick(1, None, &[id(0)]), Some(1));
    assert_eq!(bed.pick(1, None, &[id(0), id(1)]), Some(2));
    assert_eq!(bed.pick(1, None, &[id(0), id(1), id(2)]), Some(0));
    bed.eject(&[1]);
    assert_eq!(bed.pick(1, None, &[id(0)]), Some(2));
}

#[test]
fn new_endpoints_warm_up() {
    for algorithm in [Algorithm::LeastRequest, Algorithm::RoundRobin] {
        let warmup = Warmup { duration: Duration::from_secs(100), minimum: 0.1, aggression: 1.0 };
        let settings = Settings { warmup: Some(warmup), ..settings(algorithm.clone()) };
        let mut bed = Bed::new(settings, &weighted(&[1; 3]));
        let counts = bed.counts(3000);
        assert!(counts.iter().all(|count| near(*count, 1000, 10)), "all are equally new: {counts:?}");
        bed.now += Duration::from_secs(1000);
        bed.replace(&weighted(&[1; 4]));
        // Three at 1 and one at the share it has by then.
        for (seconds, due) in [(0, 323), (50, 1429), (100, 2500)] {
            let start = bed.now;
            bed.now += Duration::from_secs(seconds);
            let fresh = bed.counts(10_000)[3];
            // Two are drawn and the busier one loses, which idle ones never are.
            assert!(near(fresh, due, 20), "{algorithm:?} after {seconds} s: {fresh}");
            bed.now = start;
        }
        // Being out for a while does not make it new.
        bed.now += Duration::from_secs(200);
        bed.eject(&[3]);
        assert_eq!(bed.counts(100)[3], 0);
        bed.eject(&[]);
        assert!(near(bed.counts(10_000)[3], 2500, 10));
    }
}

#[test]
fn the_curve_of_warming_up() {
    let share = |minimum, aggression, seconds| {
        Warmup { duration: Duration::from_secs(100), minimum, aggression }.share(Duration::from_secs(seconds))
    };
    let cases = [
        (share(0.1, 1.0, 0), 0.1),
        (share(0.1, 1.0, 5), 0.1),
        (share(0.1, 1.0, 50), 0.5),
        (share(0.1, 2.0, 25), 0.5),
        (share(0.1, 0.5, 50), 0.25),
        (share(0.0, 1.0, 0), 0.0),
        (share(1.0, 1.0, 0), 1.0),
        (share(0.1, 1.0, 100), 1.0),
        (share(0.1, 1.0, 1000), 1.0),
    ];
    for (at, (actual, expected)) in cases.into_iter().enumerate() {
        assert!((actual - expected).abs() < 1e-9, "case {at}: {actual}");
    }
}

#[test]
fn lists_differ_by_everything_that_is_in_them() {
    let digest = |list: &[Candidate]| Candidates::new(&Settings::default(), list).digest();
    let lists = [
        weighted(&[]),
        weighted(&[1]),
        weighted(&[2]),
        weighted(&[1, 1]),
        by_priority(&[1]),
        by_priority(&[0, 1]),
    ];
    let digests: BTreeSet<_> = lists.iter().map(|list| digest(list)).collect();
    assert_eq!(digests.len(), lists.len());
    assert_eq!(digest(&weighted(&[1])), digest(&by_priority(&[0])));
}

proptest! {
    #[test]
    fn a_choice_is_well_and_untried_if_any_is(
        weights in prop::collection::vec((1u32..4, 0u32..3), 1..10), out: u16, tried: u16, seed: u64,
        hash: Option<u64>, which in 0usize..6,
    ) {
        let mut list = weighted(&weights.iter().map(|(weight, _)| *weight).collect::<Vec<_>>());
        for (candidate, (_, bucket)) in list.iter_mut().zip(&weights) {
            candidate.placement = Some(Placement { priority: 0, bucket: *bucket, share: bucket + 1 });
        }
        let mut bed = Bed::new(settings(all_algorithms().swap_remove(which)), &list);
        let is = |bits: u16, at: usize| bits & (1 << at) != 0;
        let chosen_from = |bits| (0..list.len()).filter(|at| is(bits, *at)).collect::<Vec<_>>();
        bed.eject(&chosen_from(out));
        let tried_ids: Vec<_> = chosen_from(tried).into_iter().map(id).collect();
        let well: Vec<_> = (0..list.len()).filter(|at| !is(out, *at)).collect();
        let fresh = well.iter().any(|at| !is(tried, *at));
        match bed.pick(seed, hash, &tried_ids) {
            Some(at) => {
                prop_assert!(well.contains(&at));
                prop_assert!(!fresh || !is(tried, at));
            }
            None => prop_assert!(well.is_empty()),
        }
    }

    #[test]
    fn what_is_asked_alike_is_answered_alike(count in 1usize..20, seed: u64) {
        let list = weighted(&vec![1; count]);
        let settings = settings(Algorithm::Random);
        let candidates = Candidates::new(&settings, &list);
        let ctx = PickContext {
            seed, hash: None, tried: &[], remote: false, now: Instant::now(), load: &|_| 0, health: &AllWell,
        };
        let pick = || Balancer::new(settings.clone()).pick(&candidates, &ctx);
        prop_assert_eq!(pick(), pick());
    }
}
