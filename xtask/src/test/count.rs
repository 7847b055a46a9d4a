//! Counting tests from what the standard test harness prints.

/// What a run of tests came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Tests that passed.
    pub(super) passed: u64,
    /// Tests that failed, and whatever else went wrong: see [`Tally::fail`].
    pub(super) failed: u64,
    /// Tests marked as not to be run.
    pub(super) ignored: u64,
    /// Names of failed tests, and reasons of other failures.
    pub(super) failures: Vec<String>,
    /// Names of tests that failed beside others and passed alone: counted as passed.
    pub(super) unsteady: Vec<String>,
    /// Tests whose end was told, by name.
    passes: Vec<String>,
    /// (passed, failed) of the program that is running; its own count replaces them.
    running: (u64, u64),
}

impl Tally {
    /// Takes in one line of output.
    pub(super) fn read_line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.running = (0, 0);
            self.read_counts(counts);
        } else if let Some((name, outcome)) = outcome_of(line) {
            match outcome {
                "ok" => {
                    self.running.0 += 1;
                    self.passes.push(name.to_owned());
                }
                "FAILED" => {
                    self.running.1 += 1;
                    self.failures.push(name.to_owned());
                }
                _ => {}
            }
        }
    }

    /// Takes over the tests of a program that has not lived to count them itself.
    pub(super) fn finish(&mut self) {
        let (passed, failed) = std::mem::take(&mut self.running);
        self.passed += passed;
        self.failed += failed;
    }

    /// Counts something that went wrong outside any test as one failure, so that the total never looks clean.
    pub(super) fn fail(&mut self, reason: String) {
        self.failed += 1;
        self.failures.push(reason);
    }

    /// Whether nothing but a few tests failed, so that it may be for what ran beside them.
    pub(super) fn may_be_unsteady(&self) -> bool {
        let named =
            self.failures.iter().all(|name| !name.contains(' ')) && self.failed == self.failures.len() as u64;
        named && (1..=MOST_UNSTEADY).contains(&self.failures.len())
    }

    /// Takes in what a second run of the tests that failed came to. What did not pass in it has failed.
    pub(super) fn amend(&mut self, second: &Self) {
        let failures = std::mem::take(&mut self.failures);
        let passed_alone = |name: &String| second.passes.contains(name) && !second.failures.contains(name);
        let (unsteady, failures): (Vec<_>, Vec<_>) = failures.into_iter().partition(passed_alone);
        self.passed += unsteady.len() as u64;
        self.failed -= unsteady.len() as u64;
        self.failures = failures;
        self.unsteady.extend(unsteady);
    }

    /// Whether a test of this name has passed.
    pub(super) fn has_passed(&self, name: &str) -> bool {
        self.passes.iter().any(|passed| passed == name)
    }

    /// Adds another tally to this one.
    pub(super) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures.iter().cloned());
        self.unsteady.extend(other.unsteady.iter().cloned());
        self.passes.extend(other.passes.iter().cloned());
    }

    fn read_counts(&mut self, counts: &str) {
        // `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`
        let counts = counts.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// More failures than this at once are no accident of timing.
const MOST_UNSTEADY: usize = 3;

fn outcome_of(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.rsplit_once(" ... ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a::one ... ok
test a::two ... FAILED
test a::three ... ignored

failures:

---- a::two stdout ----
test result: of our own 9 passed; 9 failed

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 1 test
test src/lib.rs - x (line 3) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s
";

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.read_line(line));
        tally
    }

    #[test]
    fn counts_add_up_over_programs() {
        let failures = vec!["a::two".to_owned()];
        let passes = vec!["a::one".to_owned(), "src/lib.rs - x (line 3)".to_owned()];
        let expected = Tally { passed: 2, failed: 1, ignored: 1, failures, passes, ..Tally::default() };
        assert_eq!(tally(OUTPUT), expected);
    }

    #[test]
    fn other_output_counts_nothing() {
        assert_eq!(tally("test results are in\n3 passed; 1 failed\nx ... ok\n"), Tally::default());
    }

    #[test]
    fn a_program_that_dies_keeps_the_tests_it_has_run() {
        let mut tally =
            tally(&format!("{OUTPUT}running 3 tests\ntest b::one ... ok\ntest b::two ... FAILED\n"));
        assert_eq!((tally.passed, tally.failed), (2, 1));
        tally.finish();
        tally.finish();
        assert_eq!((tally.passed, tally.failed), (3, 2));
        assert_eq!(tally.failures, ["a::two", "b::two"]);
    }

    #[test]
    fn a_test_that_passes_alone_is_unsteady_and_one_that_does_not_has_failed() {
        let output = "test a ... FAILED\ntest b ... FAILED\ntest c ... FAILED\ntest d ... ok\n\
                     test result: FAILED. 1 passed; 3 failed; 0 ignored\n";
        let second = "test a ... ok\ntest b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        let mut first = tally(output);
        assert!(first.may_be_unsteady());
        first.amend(&tally(second));
        assert_eq!((first.passed, first.failed), (2, 2), "the one that was not run again has failed, too");
        assert_eq!(
            (first.failures, first.unsteady),
            (vec!["b".to_owned(), "c".to_owned()], vec!["a".to_owned()])
        );
    }

    #[test]
    fn many_failures_and_others_than_tests_are_no_accident() {
        let ended = |count| {
            format!("{}test result: FAILED. 0 passed; {count} failed\n", "test t ... FAILED\n".repeat(count))
        };
        assert!(tally(&ended(3)).may_be_unsteady());
        assert!(!tally(&ended(4)).may_be_unsteady());
        assert!(!tally(&ended(0)).may_be_unsteady());
        let mut early = tally(&ended(1));
        early.fail("`cargo test` ended early: 101".to_owned());
        assert!(!early.may_be_unsteady());
    }

    #[test]
    fn a_failure_outside_tests_counts_as_one() {
        let mut total = tally(OUTPUT);
        total.fail("suite e2e: does not build".to_owned());
        assert_eq!((total.passed, total.failed), (2, 2));
        let mut sum = Tally::default();
        sum.add(&total);
        assert_eq!(sum, total);
    }
}
