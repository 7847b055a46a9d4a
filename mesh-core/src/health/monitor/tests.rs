use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Ask, Check, Cover};
use super::{Change, Monitor, Question, Standing};
use crate::balance::Health;
use crate::model::{Endpoint, EndpointId};

fn id(number: u8) -> EndpointId {
    Endpoint::new(([10, 0, 0, number], 80).into(), None).id
}

fn check(healthy: u32, unhealthy: u32) -> Arc<Check> {
    Arc::new(Check {
        by: "HealthCheck a/b".into(),
        ask: Ask::Tcp,
        port: None,
        cover: Cover::Plain,
        delay: Duration::ZERO,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        healthy,
        unhealthy,
    })
}

/// A monitor of one endpoint, and a clock that goes as far as each question wants.
struct Bed {
    monitor: Monitor,
    now: Instant,
}

impl Bed {
    fn new(check: Arc<Check>) -> Self {
        let (mut monitor, now) = (Monitor::default(), Instant::now());
        monitor.set_members([(id(1), check)], now);
        Self { monitor, now }
    }

    fn ask(&mut self) -> Question {
        self.now = self.monitor.next_due().expect("somebody is to be asked");
        let mut due = self.monitor.due(self.now, 9);
        assert_eq!(due.len(), 1);
        due.remove(0)
    }

    fn answer(&mut self, good: bool) -> Option<Change> {
        let question = self.ask();
        self.monitor.record(&question, if good { Ok(()) } else { Err("status 503") }, (self.now, 0))
    }
}

#[test]
fn thresholds_are_answers_in_a_row() {
    let mut bed = Bed::new(check(2, 3));
    assert!(!bed.monitor.is_ejected(id(1)), "used until something is known");
    let script = [
        (true, None),
        (false, None),
        (false, None),
        // It was not in a row.
        (true, None),
        (false, None),
        (false, None),
        (false, Some(Change::LeftOut)),
        (true, None),
        (false, None),
        (true, None),
        (true, Some(Change::Back)),
        (false, None),
    ];
    let mut out = false;
    for (step, (good, change)) in script.into_iter().enumerate() {
        let generation = bed.monitor.generation();
        assert_eq!(bed.answer(good), change, "step {step}");
        out = change.map_or(out, |change| change == Change::LeftOut);
        assert_eq!((bed.monitor.is_ejected(id(1)), bed.monitor.unhealthy()), (out, usize::from(out)));
        assert_eq!(bed.monitor.generation() != generation, change.is_some(), "step {step}");
    }
}

#[test]
fn the_first_answer_counts_at_once() {
    let mut bed = Bed::new(check(5, 5));
    assert_eq!(bed.answer(false), Some(Change::LeftOut));
    let views: Vec<_> = bed.monitor.views().collect();
    assert_eq!((views[0].standing, &*views[0].reason), (Standing::Unhealthy, "status 503"));
}

#[test]
fn questions_come_an_interval_apart_and_one_at_a_time() {
    let mut bed = Bed::new(check(1, 1));
    let begun = bed.now;
    let question = bed.ask();
    assert_eq!((bed.now, bed.monitor.next_due()), (begun, None));
    assert!(bed.monitor.due(begun + Duration::from_secs(99), 9).is_empty(), "it is under way");
    for (seed, apart) in [(0, 9_000_u64), (512, 10_000), (1_023, 10_998)] {
        let question = if seed == 0 { question.clone() } else { bed.ask() };
        let now = bed.now;
        bed.monitor.record(&question, Ok(()), (now, seed));
        let next = bed.monitor.next_due().unwrap();
        assert_eq!((next - now).as_millis(), u128::from(apart), "seed {seed}");
        assert!(bed.monitor.due(now + Duration::from_millis(apart - 1), 9).is_empty());
    }
}

#[test]
fn a_delay_comes_before_the_first_question() {
    let late = Arc::new(Check { delay: Duration::from_secs(7), ..Check::clone(&check(1, 1)) });
    let bed = Bed::new(late);
    assert_eq!(bed.monitor.next_due(), Some(bed.now + Duration::from_secs(7)));
}

#[test]
fn what_is_given_back_is_asked_again() {
    let mut bed = Bed::new(check(1, 1));
    let question = bed.ask();
    bed.monitor.give_back(&question);
    let again = bed.ask();
    // The first has had its turn.
    let now = (bed.now, 0);
    assert_eq!(bed.monitor.record(&question, Err("late"), now), None);
    bed.monitor.give_back(&question);
    assert_eq!(bed.monitor.next_due(), None, "the second is under way");
    assert_eq!(bed.monitor.record(&again, Err("refused"), now), Some(Change::LeftOut));
}

#[test]
fn only_so_many_are_asked_at_once() {
    let (mut monitor, now) = (Monitor::default(), Instant::now());
    let check = check(1, 1);
    monitor.set_members((1..=5).map(|number| (id(number), Arc::clone(&check))), now);
    let asked = [monitor.due(now, 2), monitor.due(now, 2), monitor.due(now, 2)];
    assert_eq!(asked.each_ref().map(Vec::len), [2, 2, 1]);
    let mut asked = asked.concat();
    asked.sort_by_key(|question| question.id);
    asked.dedup_by_key(|question| question.id);
    assert_eq!(asked.len(), 5);
}

#[test]
fn changes_keep_what_is_known_of_those_that_stay() {
    let mut bed = Bed::new(check(1, 1));
    assert_eq!(bed.answer(false), Some(Change::LeftOut));
    // The same check, read again.
    bed.monitor.set_members([(id(1), check(1, 1)), (id(2), check(1, 1))], bed.now);
    assert!(bed.monitor.is_ejected(id(1)) && !bed.monitor.is_ejected(id(2)));
    // Another check begins anew.
    bed.monitor.set_members([(id(1), check(1, 2)), (id(2), check(1, 1))], bed.now);
    assert!(!bed.monitor.is_ejected(id(1)));
    let question = bed.monitor.due(bed.now, 9).into_iter().find(|it| it.id == id(1)).unwrap();
    // Nobody asks for it any more: whoever is under way comes too late.
    let generation = bed.monitor.generation();
    bed.monitor.set_members([], bed.now);
    assert!(bed.monitor.is_empty() && bed.monitor.generation() != generation);
    assert_eq!(bed.monitor.record(&question, Err("late"), (bed.now, 0)), None);
    bed.monitor.set_members([(id(1), check(1, 2))], bed.now);
    assert_eq!(bed.monitor.record(&question, Err("late"), (bed.now, 0)), None);
    assert!(!bed.monitor.is_ejected(id(1)));
}
