//! The tables of Envoy's documentation of priority levels and of panic.

use proptest::prelude::*;

use super::*;

fn percents(well: &[usize], min_health_percent: u32) -> Vec<u32> {
    let tallies: Vec<_> = well.iter().map(|well| Tally { well: *well, all: 100 }).collect();
    loads(&tallies, min_health_percent).iter().map(|load| load.percent).collect()
}

#[test]
fn traffic_overflows_by_health() {
    let cases: &[(&[usize], &[u32])] = &[
        (&[], &[]),
        (&[100], &[100]),
        (&[30], &[100]),
        (&[0], &[100]),
        (&[100, 100], &[100, 0]),
        (&[72, 72], &[100, 0]),
        (&[71, 71], &[99, 1]),
        (&[50, 50], &[70, 30]),
        (&[25, 100], &[35, 65]),
        (&[25, 25], &[50, 50]),
        (&[0, 100], &[0, 100]),
        (&[0, 0], &[100, 0]),
        (&[0, 25, 100], &[0, 35, 65]),
        (&[25, 25, 20], &[37, 35, 28]),
        (&[5, 5, 5], &[34, 33, 33]),
    ];
    for (well, expected) in cases {
        assert_eq!(percents(well, 0), *expected, "{well:?}");
    }
}

#[test]
fn panic_is_for_when_all_together_cannot_bear_it() {
    let panics = |well: &[usize], min| {
        let tallies: Vec<_> = well.iter().map(|well| Tally { well: *well, all: 100 }).collect();
        loads(&tallies, min).iter().map(|load| (load.percent, load.panic)).collect::<Vec<_>>()
    };
    assert_eq!(panics(&[72, 72], 50), [(100, false), (0, false)]);
    assert_eq!(panics(&[71, 71], 50), [(99, false), (1, false)]);
    assert_eq!(panics(&[50, 60], 50), [(70, false), (30, false)]);
    assert_eq!(panics(&[5, 65], 50), [(8, true), (92, false)]);
    assert_eq!(panics(&[0, 0], 50), [(50, true), (50, true)]);
    assert_eq!(panics(&[10], 50), [(100, true)]);
    assert_eq!(panics(&[10], 10), [(100, false)]);
    assert_eq!(panics(&[0], 0), [(100, false)]);
}

#[test]
fn a_priority_without_endpoints_gets_nothing() {
    let empty = Tally { well: 0, all: 0 };
    let full = Tally { well: 3, all: 3 };
    let percents: Vec<_> = loads(&[empty, full], 50).iter().map(|load| load.percent).collect();
    assert_eq!(percents, [0, 100]);
}

#[test]
fn one_of_many_is_better_than_none() {
    let one = Tally { well: 1, all: 200 };
    let none = Tally { well: 0, all: 200 };
    assert_eq!((one.available(), none.available(), bearable(70, one), bearable(70, none)), (1, 0, 70, 0));
    let percents: Vec<_> = loads(&[none, one], 0).iter().map(|load| load.percent).collect();
    assert_eq!(percents, [0, 100]);
}

proptest! {
    #[test]
    fn loads_add_up(sizes in prop::collection::vec((0usize..50, 0usize..50), 1..6), min in 0u32..=100) {
        let tallies: Vec<_> = sizes.iter().map(|(a, b)| Tally { well: *a.min(b), all: *a.max(b) }).collect();
        let loads = loads(&tallies, min);
        prop_assert_eq!(loads.iter().map(|load| load.percent).sum::<u32>(), 100);
        // Whoever is not well gets nothing while others are, but in panic.
        let any_well = tallies.iter().any(|tally| tally.well > 0);
        for (load, tally) in loads.iter().zip(&tallies) {
            prop_assert!(load.panic || !any_well || tally.well > 0 || load.percent == 0);
        }
    }
}
