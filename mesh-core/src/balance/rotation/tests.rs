//! Fairness of turns.

use std::iter::Empty;

use proptest::prelude::*;

use super::*;

#[test]
fn nobody_has_no_turn() {
    let mut draws = Draws::new(1);
    assert_eq!(Rotation::new(None::<Empty<u32>>, 0, &mut draws).next(0), None);
    assert_eq!(Rotation::new(Some([].into_iter()), 0, &mut draws).next(0), None);
}

#[test]
fn equals_take_turns_from_anywhere() {
    let starts: Vec<_> = (0..50)
        .map(|seed| {
            let mut turn = Rotation::new(None::<Empty<u32>>, 3, &mut Draws::new(seed));
            let turns: Vec<_> = (0..6).map(|_| turn.next(3).unwrap()).collect();
            assert_eq!(turns[..3], turns[3..]);
            assert_eq!(turns.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
            turns[0]
        })
        .collect();
    assert!((0..3).all(|start| starts.contains(&start)));
}

#[test]
fn a_shorter_list_begins_anew() {
    let mut turn = Rotation::Equal(7);
    assert_eq!((turn.next(3), turn.next(3)), (Some(0), Some(1)));
}

proptest! {
    /// At any moment everybody has had what is due, give or take one turn.
    #[test]
    fn weights_are_kept_at_all_times(weights in prop::collection::vec(1u32..20, 1..8), seed: u64) {
        let mut turn = Rotation::new(Some(weights.iter().copied()), weights.len(), &mut Draws::new(seed));
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0_u32; weights.len()];
        for done in 1..=(total * 5) {
            counts[turn.next(weights.len()).unwrap()] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                let due = f64::from(done) * f64::from(*weight) / f64::from(total);
                let most = f64::from(u32::try_from(weights.len()).unwrap());
                prop_assert!((f64::from(*count) - due).abs() <= most, "{counts:?} after {done} of {weights:?}");
            }
        }
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert!(count.abs_diff(weight * 5) <= 1, "{counts:?} of {weights:?}");
        }
    }
}
