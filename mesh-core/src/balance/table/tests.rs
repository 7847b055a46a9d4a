//! Evenness, and how little a change moves.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const TABLES: [HashTable; 4] =
    [HashTable::Ring(1024), HashTable::Ring(1), HashTable::Maglev(65_537), HashTable::Maglev(251)];

/// Endpoints are known by their hash, as far as tables care.
fn entries(weights: &[u32]) -> Vec<Entry> {
    let entry =
        |(endpoint, weight): (u32, &u32)| Entry { endpoint, hash: mix(u64::from(endpoint)), weight: *weight };
    (0..).zip(weights).map(entry).collect()
}

fn counts(table: &Table, hashes: u64) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for hash in 0..hashes {
        *counts.entry(table.find(mix(hash), |_| true).unwrap()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn an_empty_table_finds_nobody() {
    for kind in TABLES {
        assert_eq!(Table::new(kind, &[]).find(1, |_| true), None, "{kind:?}");
        assert_eq!(Table::new(kind, &entries(&[1])).find(1, |_| false), None, "{kind:?}");
        assert_eq!(Table::new(kind, &entries(&[1])).find(u64::MAX, |_| true), Some(0), "{kind:?}");
    }
}

#[test]
fn endpoints_share_evenly() {
    for (kind, tolerance) in
        [(HashTable::Ring(1024), 35), (HashTable::Maglev(65_537), 6), (HashTable::Maglev(251), 15)]
    {
        let counts = counts(&Table::new(kind, &entries(&[1; 10])), 20_000);
        let within = |count: &u32| count.abs_diff(2000) * 100 <= 2000 * tolerance;
        assert!(counts.len() == 10 && counts.values().all(within), "{kind:?}: {counts:?}");
    }
}

#[test]
fn weights_count() {
    for (kind, tolerance) in [(HashTable::Ring(1024), 35), (HashTable::Maglev(65_537), 6)] {
        let counts = counts(&Table::new(kind, &entries(&[1, 2, 4, 1])), 40_000);
        for (endpoint, weight) in [1, 2, 4, 1].into_iter().enumerate() {
            let (count, due) = (counts[&u32::try_from(endpoint).unwrap()], weight * 5000);
            assert!(count.abs_diff(due) * 100 <= due * tolerance, "{kind:?}: {counts:?}");
        }
    }
}

#[test]
fn sizes_are_kept_in_bounds() {
    let Table::Ring(points) = Table::new(HashTable::Ring(5000), &entries(&[1; 10])) else { unreachable!() };
    assert!((5000..10_000).contains(&points.len()), "{}", points.len());
    // Large weights are a matter of shares, not of size.
    let Table::Ring(points) = Table::new(HashTable::Ring(1), &entries(&[u32::MAX, 1])) else {
        unreachable!()
    };
    assert!((200..500).contains(&points.len()), "{}", points.len());
    let Table::Maglev(places) = Table::new(HashTable::Maglev(2), &entries(&[1; 10])) else { unreachable!() };
    assert_eq!(places.len(), 2);
}

#[test]
fn a_size_that_is_no_prime_still_ends() {
    let Table::Maglev(places) = Table::new(HashTable::Maglev(1024), &entries(&[3, 1, 1])) else {
        unreachable!()
    };
    assert!(!places.contains(&FREE));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_order_does_not_matter(weights in prop::collection::vec(1u32..5, 1..20), rotate in 0usize..20) {
        for kind in TABLES {
            let all = entries(&weights);
            let mut rotated = all.clone();
            rotated.rotate_left(rotate % weights.len());
            let (one, other) = (Table::new(kind, &all), Table::new(kind, &rotated));
            for hash in (0..200).map(mix) {
                prop_assert_eq!(one.find(hash, |_| true), other.find(hash, |_| true));
            }
        }
    }

    /// A ring moves only the hashes of who is gone, as long as the factor of the ring does not change.
    #[test]
    fn a_ring_moves_only_what_it_must(count in 2usize..=10, gone: prop::sample::Index) {
        let all = entries(&vec![1; count]);
        let mut fewer = all.clone();
        let gone = fewer.remove(gone.index(count)).endpoint;
        // So large that both have 128 places for each.
        let (before, after) = (Table::new(HashTable::Ring(1), &all), Table::new(HashTable::Ring(1), &fewer));
        for hash in (0..500).map(mix) {
            let (before, after) = (before.find(hash, |_| true), after.find(hash, |_| true));
            prop_assert!(before == after || before == Some(gone));
        }
    }

    /// A Maglev table moves a few more than it must.
    #[test]
    fn maglev_moves_hardly_more_than_it_must(count in 2usize..=20, gone: prop::sample::Index) {
        let all = entries(&vec![1; count]);
        let mut fewer = all.clone();
        let gone = fewer.remove(gone.index(count)).endpoint;
        let kind = HashTable::Maglev(65_537);
        let (before, after) = (Table::new(kind, &all), Table::new(kind, &fewer));
        let moved = (0..2000).map(mix).filter(|hash| {
            let (before, after) = (before.find(*hash, |_| true), after.find(*hash, |_| true));
            before != after && before != Some(gone)
        });
        let moved = moved.count();
        prop_assert!(moved <= 200, "{moved} of 2000 moved without need");
    }

    /// Leaving somebody out moves nobody else's hashes, and spreads these over several others.
    #[test]
    fn who_is_left_out_is_stood_in_for_by_many(out in 0u32..10) {
        for kind in [HashTable::Ring(1024), HashTable::Maglev(65_537)] {
            let table = Table::new(kind, &entries(&[1; 10]));
            let mut stand_ins = BTreeSet::new();
            for hash in (0..1000).map(mix) {
                let usual = table.find(hash, |_| true).unwrap();
                let now = table.find(hash, |endpoint| endpoint != out).unwrap();
                prop_assert!(now == usual || usual == out);
                prop_assert_ne!(now, out);
                if usual == out {
                    stand_ins.insert(now);
                }
            }
            prop_assert!(stand_ins.len() >= 5, "{kind:?}: {stand_ins:?}");
        }
    }
}
