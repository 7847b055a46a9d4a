use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::super::{Candidate, Terms};
use super::{Action, Observed, decide};

fn candidate() -> Candidate {
    Candidate {
        namespace: "n".into(),
        name: "l".into(),
        identity: "me".into(),
        terms: Terms { lease: Duration::from_secs(15), ..Terms::default() },
    }
}

fn wall(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn lease(holder: Option<&str>, seconds: Option<i32>, version: &str) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some("l".into()),
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            acquire_time: Some(MicroTime(wall(1))),
            renew_time: Some(MicroTime(wall(2))),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        }),
    }
}

#[test]
fn whoever_finds_it_free_takes_it() {
    let start = Instant::now();
    for (holder, seconds, age, takes, why) in [
        (Some("me"), Some(15), 0, true, "it is ours"),
        (Some("me"), Some(15), 99, true, "it is ours, if late"),
        (Some("you"), Some(15), 0, false, "another has just renewed it"),
        (Some("you"), Some(15), 14, false, "it has a second left"),
        (Some("you"), Some(15), 15, true, "it has run out"),
        (Some("you"), Some(60), 59, false, "its own duration counts, not ours"),
        (Some("you"), None, 0, true, "it holds for no time"),
        (Some("you"), Some(-1), 0, true, "it holds for no time"),
        (Some(""), Some(15), 0, true, "it was given up"),
        (None, Some(15), 0, true, "nobody ever held it"),
    ] {
        let observed = Observed::next(None, Some(lease(holder, seconds, "7")), start);
        let action = decide(&observed, &candidate(), start + Duration::from_secs(age), wall(50));
        match action {
            Action::Replace(next) => {
                assert!(takes, "{why}");
                assert_eq!(next.metadata.resource_version.as_deref(), Some("7"), "{why}");
                let spec = next.spec.expect("a spec");
                let renewed = holder == Some("me");
                assert_eq!(spec.holder_identity.as_deref(), Some("me"));
                assert_eq!(spec.lease_duration_seconds, Some(15));
                assert_eq!(spec.lease_transitions, Some(if renewed { 4 } else { 5 }), "{why}");
                assert_eq!(spec.acquire_time, Some(MicroTime(wall(if renewed { 1 } else { 50 }))), "{why}");
                assert_eq!(spec.renew_time, Some(MicroTime(wall(50))));
            }
            Action::Wait => assert!(!takes, "{why}"),
            Action::Create(_) => unreachable!("there is one"),
        }
    }
}

#[test]
fn the_first_makes_it() {
    let now = Instant::now();
    let Action::Create(made) = decide(&Observed::next(None, None, now), &candidate(), now, wall(50)) else {
        unreachable!("there is none")
    };
    assert_eq!(made.metadata.name.as_deref(), Some("l"));
    assert_eq!(made.metadata.resource_version, None);
    assert_eq!(made.spec.expect("a spec").lease_transitions, Some(1));
}

#[test]
fn an_empty_lease_is_free() {
    let now = Instant::now();
    let empty = Lease { spec: None, ..lease(None, None, "1") };
    let observed = Observed::next(None, Some(empty), now);
    assert!(matches!(decide(&observed, &candidate(), now, wall(50)), Action::Replace(_)));
}

#[test]
fn age_counts_from_when_a_version_was_first_seen() {
    let start = Instant::now();
    let second = |number| start + Duration::from_secs(number);
    let yours = |version| Some(lease(Some("you"), Some(15), version));
    let decide_at = |observed: &Observed, number| decide(observed, &candidate(), second(number), wall(50));
    let first = Observed::next(None, yours("1"), start);
    let again = Observed::next(Some(first), yours("1"), second(10));
    assert!(matches!(decide_at(&again, 15), Action::Replace(_)), "seen for 15 s");
    let renewed = Observed::next(Some(again), yours("2"), second(12));
    assert!(matches!(decide_at(&renewed, 26), Action::Wait), "seen for 14 s");
    assert!(matches!(decide_at(&renewed, 27), Action::Replace(_)), "seen for 15 s");
    // Deleted and made again by another.
    let gone = Observed::next(Some(renewed), None, second(28));
    let back = Observed::next(Some(gone), yours("3"), second(29));
    assert!(matches!(decide_at(&back, 30), Action::Wait));
}

#[test]
fn only_its_holder_gives_it_up() {
    let now = Instant::now();
    let mine = Observed::next(None, Some(lease(Some("me"), Some(15), "7")), now);
    let released = mine.release(&candidate(), wall(60)).expect("it is ours");
    let spec = released.spec.expect("a spec");
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_duration_seconds), (Some(""), Some(1)));
    assert_eq!(released.metadata.resource_version.as_deref(), Some("7"));
    let yours = Observed::next(None, Some(lease(Some("you"), Some(15), "7")), now);
    assert!(yours.release(&candidate(), wall(60)).is_none());
}
