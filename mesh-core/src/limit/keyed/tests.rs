use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::super::bucket::{Bucket, Rate};
use super::{Keyed, Place};

const SECOND: u64 = 1_000_000_000;

fn ten_a_second() -> Rate {
    Rate::new(10, Duration::from_secs(1), 10)
}

#[test]
fn a_key_that_is_hot_is_never_let_off_by_a_flood_of_others() {
    let (keyed, rate) = (Keyed::new(100), ten_a_second());
    let hot = 7;
    let mut passed = 0;
    // For ten seconds a thousand strangers a millisecond come by, each once, and the hot key every millisecond.
    let mut stranger = 1_000_000;
    for millisecond in 0..10_000u64 {
        let now = millisecond * 1_000_000;
        passed += u32::from(keyed.take(hot, &rate, now).1.is_ok());
        for _ in 0..20 {
            stranger += 1;
            let _ = keyed.take(stranger, &rate, now);
        }
        assert!(keyed.len() <= 112, "{}", keyed.len());
    }
    assert!((100..=110).contains(&passed), "{passed} in ten seconds");
}

#[test]
fn who_finds_no_room_shares_what_one_would_have_had() {
    let (keyed, rate) = (Keyed::new(16), ten_a_second());
    for key in 0..16 {
        assert_eq!(keyed.take(key, &rate, 0).0, Place::Own);
    }
    let strangers = (16..10_000).map(|key| keyed.take(key, &rate, 0));
    let passed = strangers.filter(|(place, taken)| *place == Place::Crowd && taken.is_ok()).count();
    assert_eq!(passed, 10);
    // Those who have a bucket are not concerned.
    assert!(keyed.take(3, &rate, 0).1.is_ok());
    // Once buckets are full again there is room.
    assert_eq!(keyed.take(99, &rate, SECOND).0, Place::Own);
}

proptest! {
    /// As long as there is room, each key has what a bucket of its own would give it.
    #[test]
    fn each_key_has_a_bucket_of_its_own(steps in prop::collection::vec((0u64..40, 0u64..SECOND / 20), 1..400)) {
        let (keyed, rate, mut now) = (Keyed::new(1_000), ten_a_second(), 0);
        let mut own: HashMap<u64, Bucket> = HashMap::new();
        for (key, passed) in steps {
            now += passed;
            let (place, taken) = keyed.take(key, &rate, now);
            prop_assert_eq!(place, Place::Own);
            prop_assert_eq!(taken, own.entry(key).or_default().take(&rate, now));
        }
    }
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    let (keyed, rate) = (Keyed::new(1), Rate::new(1, Duration::from_secs(1), 1));
    for key in [1, 2] {
        let (place, taken) = keyed.take(key, &rate, 0);
        assert!(taken.is_ok());
        assert!(keyed.take(key, &rate, 0).1.is_err());
        keyed.give_back((key, place), &rate);
        assert!(keyed.take(key, &rate, 0).1.is_ok());
    }
}
