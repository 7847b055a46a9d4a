//! Who is left out, for how long, and who must not be.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn id(at: usize) -> EndpointId {
    EndpointId::of(SocketAddr::from(([10, 0, 0, u8::try_from(at).unwrap()], 80)))
}

fn outliers(policy: OutlierPolicy, count: usize) -> Outliers {
    let mut outliers = Outliers::new(policy);
    outliers.set_endpoints((0..count).map(id));
    outliers
}

fn number(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Every endpoint may be out.
fn any() -> OutlierPolicy {
    OutlierPolicy { max_ejection_percent: 100, ..OutlierPolicy::default() }
}

#[test]
fn failures_in_a_row() {
    use Outcome::{ConnectFailure, Connected, Reset, Status, Success, Timeout};
    const FIVE_XX: Option<Ejection> = Some(Ejection::Consecutive5xx);
    const GATEWAY: Option<Ejection> = Some(Ejection::ConsecutiveGateway);
    const LOCAL: Option<Ejection> = Some(Ejection::ConsecutiveLocalOrigin);
    let usual = || OutlierPolicy { consecutive_5xx: number(3), ..any() };
    let gateway = || OutlierPolicy { consecutive_5xx: None, consecutive_gateway: number(2), ..any() };
    let both = || OutlierPolicy { consecutive_gateway: number(2), ..usual() };
    let split = || OutlierPolicy {
        split_local_origin: true,
        consecutive_local_origin: number(2).unwrap(),
        ..usual()
    };
    let codes =
        || OutlierPolicy { error_codes: [404, 502].into(), consecutive_gateway: number(2), ..usual() };
    let off = || OutlierPolicy { consecutive_5xx: None, ..any() };
    let cases: Vec<(&str, OutlierPolicy, &[Outcome], Option<Ejection>)> = vec![
        ("enough", usual(), &[Status(500), Status(503), Status(599)], FIVE_XX),
        ("not enough", usual(), &[Status(500), Status(500)], None),
        ("no failures", usual(), &[Status(499), Status(404), Status(600), Status(200)], None),
        ("not in a row", usual(), &[Status(500), Status(500), Status(200), Status(500), Status(500)], None),
        ("a success in between", usual(), &[Status(500), Status(500), Success, Status(500)], None),
        (
            "a connection is no answer",
            usual(),
            &[Status(500), Connected, Status(500), Connected, Status(500)],
            FIVE_XX,
        ),
        ("no connection", usual(), &[ConnectFailure, Reset, Timeout], FIVE_XX),
        ("off", off(), &[Status(500), Status(500), ConnectFailure, Timeout, Reset, Status(503)], None),
        ("gateway", gateway(), &[Status(502), Status(504)], GATEWAY),
        ("gateway only", gateway(), &[Status(502), Status(500), Status(503), Status(501), Status(504)], None),
        ("no connection is a gateway's error", gateway(), &[ConnectFailure, Timeout], GATEWAY),
        ("gateway first", both(), &[Status(503), Status(503)], GATEWAY),
        ("5xx first", both(), &[Status(503), Status(500), Status(503)], FIVE_XX),
        ("split", split(), &[ConnectFailure, Timeout], LOCAL),
        ("split reset", split(), &[Reset, Reset], LOCAL),
        ("split counts apart", split(), &[ConnectFailure, Status(500), ConnectFailure, Status(500)], None),
        ("split, reached in between", split(), &[ConnectFailure, Connected, ConnectFailure], None),
        ("split, answers", split(), &[Status(500), Connected, Status(500), Connected, Status(500)], FIVE_XX),
        ("own codes", codes(), &[Status(404), Status(404), Status(404)], FIVE_XX),
        ("own codes instead of others", codes(), &[Status(500), Status(503), Status(500), Status(503)], None),
        ("own codes among a gateway's", codes(), &[Status(502), Status(502)], GATEWAY),
        ("own codes and no connection", codes(), &[ConnectFailure, ConnectFailure], GATEWAY),
    ];
    for (name, policy, tries, expected) in cases {
        let mut outliers = outliers(policy, 2);
        let now = Instant::now();
        let ejected = tries.iter().filter_map(|outcome| outliers.record(id(0), *outcome, now)).last();
        assert_eq!(ejected.map(|ejected| ejected.reason), expected, "{name}");
        assert_eq!(outliers.is_ejected(id(0)), expected.is_some(), "{name}");
        assert!(!outliers.is_ejected(id(1)), "{name}");
    }
}

#[test]
fn grpc_statuses_are_answers() {
    for (status, expected) in
        [(0, 200), (1, 499), (2, 500), (4, 504), (5, 404), (8, 429), (13, 500), (14, 503), (99, 500)]
    {
        assert_eq!(Outcome::grpc(status), Outcome::Status(expected), "{status}");
    }
}

/// Fails until it is out.
fn eject(outliers: &mut Outliers, at: usize, now: Instant) -> Option<Ejected> {
    (0..5).find_map(|_| outliers.record(id(at), Outcome::Status(500), now))
}

#[test]
fn being_out_lasts_longer_each_time_and_less_after_a_while() {
    let mut outliers = outliers(any(), 2);
    let mut now = Instant::now();
    let out_for = |outliers: &mut Outliers, now: &mut Instant| {
        let lasts = eject(outliers, 0, *now).unwrap().lasts;
        let since = *now;
        while outliers.is_ejected(id(0)) {
            *now += seconds(1);
            outliers.tick(*now);
        }
        let really = *now - since;
        assert!(really >= lasts && really < lasts + seconds(11), "{really:?} instead of {lasts:?}");
        lasts.as_secs()
    };
    let times: Vec<_> = (0..12).map(|_| out_for(&mut outliers, &mut now)).collect();
    assert_eq!(times, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
    for _ in 0..5 {
        now += seconds(10);
        outliers.tick(now);
    }
    // Each look at which it was well takes one time back; the first one comes too early.
    let decayed = out_for(&mut outliers, &mut now);
    assert!((180..=210).contains(&decayed), "{decayed}");
    for _ in 0..20 {
        now += seconds(10);
        outliers.tick(now);
    }
    assert!(outliers.is_quiet() && outliers.next_tick().is_none());
    assert_eq!(out_for(&mut outliers, &mut now), 30);
}

#[test]
fn who_comes_back_starts_anew() {
    let mut outliers = outliers(any(), 2);
    let start = Instant::now();
    eject(&mut outliers, 0, start).unwrap();
    assert_eq!(eject(&mut outliers, 0, start), None, "it is out already");
    let generation = outliers.generation();
    assert!(!outliers.tick(start + seconds(29)) && outliers.is_ejected(id(0)));
    assert!(!outliers.tick(start + seconds(31)), "not before the next look");
    assert!(outliers.tick(start + seconds(40)));
    assert!(!outliers.is_ejected(id(0)) && outliers.ejected() == 0);
    assert_ne!(outliers.generation(), generation);
    let again: Vec<_> = (0..5).map(|_| outliers.record(id(0), Outcome::Reset, start + seconds(41))).collect();
    assert!(again[..4].iter().all(Option::is_none) && again[4].is_some());
}

#[test]
fn only_so_many_are_out() {
    for (count, percent, most) in [
        (1, 10, 0),
        (1, 100, 1),
        (2, 10, 1),
        (5, 10, 1),
        (20, 10, 2),
        (29, 10, 2),
        (10, 50, 5),
        (3, 67, 2),
        (4, 100, 4),
    ] {
        let mut outliers = outliers(OutlierPolicy { max_ejection_percent: percent, ..any() }, count);
        let now = Instant::now();
        let ejected = (0..count).filter(|at| eject(&mut outliers, *at, now).is_some()).count();
        assert_eq!((ejected, outliers.ejected()), (most, most), "{percent} % of {count}");
    }
}

#[test]
fn state_survives_changes_of_the_list() {
    let mut outliers = outliers(any(), 4);
    let now = Instant::now();
    eject(&mut outliers, 0, now).unwrap();
    eject(&mut outliers, 1, now).unwrap();
    assert!((0..4).all(|_| outliers.record(id(2), Outcome::Status(500), now).is_none()));
    let generation = outliers.generation();
    outliers.set_endpoints([9, 2, 1].map(id));
    assert!(outliers.is_ejected(id(1)) && !outliers.is_ejected(id(0)));
    assert_eq!(outliers.ejected(), 1);
    assert_ne!(outliers.generation(), generation);
    assert!(outliers.record(id(2), Outcome::Status(500), now).is_some(), "the fifth in a row");
    outliers.set_endpoints((0..4).map(id));
    assert!(!outliers.is_ejected(id(0)), "what had been gone is new");
    assert!(outliers.is_ejected(id(1)) && outliers.is_ejected(id(2)));
}

#[test]
fn answers_of_those_that_are_gone_do_not_count() {
    let mut outliers = outliers(any(), 2);
    assert_eq!(eject(&mut outliers, 7, Instant::now()), None);
    assert!(outliers.is_quiet());
}

#[test]
fn a_new_policy_goes_on_with_the_old_state() {
    let mut outliers = outliers(any(), 2);
    let now = Instant::now();
    eject(&mut outliers, 0, now).unwrap();
    outliers.record(id(1), Outcome::Reset, now);
    outliers.set_policy(OutlierPolicy {
        consecutive_5xx: number(2),
        base_ejection_time: seconds(1),
        ..any()
    });
    assert!(outliers.is_ejected(id(0)));
    assert!(outliers.record(id(1), Outcome::Reset, now).is_some());
    assert!(outliers.tick(now + seconds(10)));
    assert_eq!(outliers.ejected(), 0);
}

#[test]
fn shared_state_is_the_same_state() {
    let shared = SharedOutliers::new(any());
    shared.set_endpoints((0..3).map(id));
    let now = Instant::now();
    assert_eq!(shared.record(id(0), Outcome::Success, now), None);
    assert_eq!(shared.next_tick(), None, "successes are not even looked at");
    for _ in 0..4 {
        assert_eq!(shared.record(id(0), Outcome::Status(503), now), None);
    }
    assert_eq!(shared.record(id(0), Outcome::Status(200), now), None);
    let ejected = (0..5).filter_map(|_| shared.record(id(0), Outcome::Status(503), now));
    assert_eq!(ejected.count(), 1, "a success in between was noticed");
    assert!(shared.is_ejected(id(0)) && shared.generation() == 1);
    shared.set_policy(OutlierPolicy { error_codes: [200].into(), ..any() });
    let ejected = (0..5).filter_map(|_| shared.record(id(1), Outcome::Status(200), now));
    assert_eq!(ejected.count(), 1, "successes that are failures are looked at");
    assert!(shared.tick(now + seconds(60)) && shared.generation() == 3);
}

#[derive(Debug, Clone)]
enum Step {
    Try(usize, Outcome),
    Wait(u64),
    Change(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Status(500)),
        2 => Just(Outcome::ConnectFailure),
        1 => Just(Outcome::Success),
    ];
    let step = prop_oneof![
        20 => (0usize..12, outcome).prop_map(|(at, outcome)| Step::Try(at, outcome)),
        2 => (0u64..60).prop_map(Step::Wait),
        1 => (1usize..12).prop_map(Step::Change),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    #[test]
    fn never_more_than_allowed_are_left_out(steps in steps(), percent in 1u32..=100) {
        let policy = OutlierPolicy { max_ejection_percent: percent, consecutive_5xx: number(2), ..any() };
        let mut outliers = outliers(policy, 10);
        let (mut now, mut count, mut generation) = (Instant::now(), 10, 0);
        for step in steps {
            let before: Vec<_> = (0..12).map(|at| outliers.is_ejected(id(at))).collect();
            let mut ejected_one = false;
            match step {
                Step::Try(at, outcome) => ejected_one = outliers.record(id(at), outcome, now).is_some(),
                Step::Wait(time) => {
                    now += seconds(time);
                    outliers.tick(now);
                }
                Step::Change(new) => {
                    count = new;
                    outliers.set_endpoints((0..count).map(id));
                }
            }
            let after: Vec<_> = (0..12).map(|at| outliers.is_ejected(id(at))).collect();
            let out = after.iter().filter(|out| **out).count();
            prop_assert_eq!(out, outliers.ejected());
            prop_assert!(after[count..].iter().all(|out| !out));
            let allowed = (count * usize::try_from(percent).unwrap() / 100).max(usize::from(count > 1));
            prop_assert!(!ejected_one || out <= allowed, "{out} of {count} at {percent} %");
            if before != after {
                prop_assert_ne!(outliers.generation(), generation);
            }
            generation = outliers.generation();
        }
        // Whoever is well for long enough is in again.
        for _ in 0..100 {
            now += seconds(10);
            outliers.tick(now);
        }
        prop_assert_eq!(outliers.ejected(), 0);
    }
}
