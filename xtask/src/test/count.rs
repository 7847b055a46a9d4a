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
                "ok" => self.running.0 += 1,
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

    /// Adds another tally to this one.
    pub(super) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures.iter().cloned());
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
        let expected = Tally { passed: 2, failed: 1, ignored: 1, failures, running: (0, 0) };
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
    fn a_failure_outside_tests_counts_as_one() {
        let mut total = tally(OUTPUT);
        total.fail("suite e2e: does not build".to_owned());
        assert_eq!((total.passed, total.failed), (2, 2));
        let mut sum = Tally::default();
        sum.add(&total);
        assert_eq!(sum, total);
    }
}
