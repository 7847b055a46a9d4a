use super::*;

#[test]
fn so_many_a_second_and_the_rest_is_counted() {
    let begin = Instant::now();
    let at = |millis| begin + Duration::from_millis(millis);
    let mut gate = LogGate::new(2);
    let said: Vec<_> = [0, 0, 500, 999, 1000, 1100, 1200, 5000].map(|millis| gate.pass(at(millis))).into();
    assert_eq!(said, [Some(0), Some(0), None, None, Some(2), Some(0), None, Some(1)]);
}

#[test]
fn a_flood_is_worth_a_line_a_second() {
    let begin = Instant::now();
    let mut gate = LogGate::new(1);
    let passed = (0..100_000_u64).filter_map(|n| gate.pass(begin + Duration::from_micros(n * 100)));
    let (lines, muted) = passed.fold((0, 0), |(lines, all), muted| (lines + 1, all + muted));
    assert_eq!((lines, muted), (10, 9 * 9_999));
}

/// Clocks of other threads may be read a moment earlier.
#[test]
fn a_step_back_is_no_new_second() {
    let begin = Instant::now();
    let mut gate = LogGate::new(1);
    assert_eq!(gate.pass(begin + Duration::from_millis(10)), Some(0));
    assert_eq!(gate.pass(begin), None);
}
