//! What has hurt others, and what this mesh does about it: every published weakness that concerns what there is here, with
//! the test that shows how it ends.
//!
//! [`registry`] is the table. A row is shown by a test of this program, or by tests of other suites that exist anyway (then
//! their names are held to exist). `docs/security.md` has the same table; `cargo test … --test security --
//! --write-table` writes it there. `cargo xtask test security` runs the tests of other suites as well; with all suites
//! everything runs once.

mod deps;
mod document;
mod elsewhere;
mod h2;
mod headers;
mod logs;
mod proxied;
mod registry;
mod revoked;
mod slow;
mod smuggle;
mod stall;
mod stand;
mod tls;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};

use self::elsewhere::Outcomes;
use self::registry::{Advisory, Proof};
use self::stand::Stand;

/// One test of this program.
struct Test {
    name: &'static str,
    run: fn(&Stand) -> Result<()>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|it| it == word);
    if has("--write-table") {
        return match document::write() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        };
    }
    if has("--elsewhere") {
        elsewhere::names().iter().for_each(|(suite, name)| say(&format!("{suite} {name}")));
        return ExitCode::SUCCESS;
    }
    let mut tests = tests();
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_wanted =
        |name: &str, filter: &str| if has("--exact") { name == filter } else { name.contains(filter) };
    tests.retain(|test| filters.is_empty() || filters.iter().any(|filter| is_wanted(test.name, filter)));
    if has("--list") {
        tests.iter().for_each(|test| say(&format!("{}: test", test.name)));
        return ExitCode::SUCCESS;
    }
    match run(&tests) {
        Ok(failures) => conclude(&tests, &failures),
        Err(error) => fail(&error),
    }
}

/// What is about the table itself, and every row that is shown here.
fn tests() -> Vec<Test> {
    let own = [
        Test { name: "table.names_tests_that_exist", run: |_| elsewhere::all_exist() },
        Test { name: "table.is_in_the_document", run: |_| document::is_current() },
    ];
    let here = registry::all().flat_map(|advisory| {
        let tests = advisory.shown.iter().filter_map(|proof| match proof {
            Proof::Here(run) => Some(*run),
            _ => None,
        });
        tests.map(|run| Test { name: advisory.row, run })
    });
    own.into_iter().chain(here).collect()
}

/// Runs one of them and says what came of it.
fn outcome(test: &Test, stand: &Stand) -> Result<()> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (test.run)(stand)));
    let result = caught.unwrap_or_else(|_| Err(anyhow!("it panicked")));
    say(&format!("test {} ... {}", test.name, if result.is_ok() { "ok" } else { "FAILED" }));
    result
}

/// Runs them, a few at a time, and returns what failed and why.
fn run(tests: &[Test]) -> Result<Vec<(&'static str, anyhow::Error)>> {
    say(&format!("running {} tests", tests.len()));
    let stand = Stand::start()?;
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let failed = outcome(test, &stand).err().map(|error| (test.name, error));
                    failures.lock().unwrap_or_else(PoisonError::into_inner).extend(failed);
                }
            });
        }
    });
    // Whatever was sent to it: the one gateway that all of it went to is as it was.
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = stand.is_whole() {
        failures.push(("stand.is_whole", error));
    }
    Ok(failures)
}

fn conclude(tests: &[Test], failures: &[(&'static str, anyhow::Error)]) -> ExitCode {
    let outcomes = Outcomes::read();
    say("");
    for advisory in registry::all() {
        say(&line(advisory, tests, failures, &outcomes));
    }
    for (name, error) in failures {
        say(&format!("\n---- {name}\n{error:#}"));
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    let passed = tests.len().saturating_sub(failures.len());
    say(&format!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured",
        failures.len()
    ));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A line of the table that is printed: row, result, advisories.
fn line(
    advisory: &Advisory,
    tests: &[Test],
    failures: &[(&'static str, anyhow::Error)],
    outcomes: &Outcomes,
) -> String {
    let mut results = Vec::new();
    for proof in advisory.shown {
        results.push(match proof {
            Proof::Here(_) if failures.iter().any(|(name, _)| *name == advisory.row) => "FAIL".to_owned(),
            Proof::Here(_) if tests.iter().any(|test| test.name == advisory.row) => "pass".to_owned(),
            Proof::Here(_) => "not run".to_owned(),
            Proof::In(suite, name) => outcomes.of(*suite, name),
            Proof::Never(_) => "does not concern us".to_owned(),
        });
    }
    results.sort();
    results.dedup();
    format!("{:<28} {:<34} {}", advisory.row, results.join(", "), advisory.ids.join(" "))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    say(&format!("test security ... FAILED\n{error:#}"));
    ExitCode::FAILURE
}

fn say(line: &str) {
    // Nobody reads any more: then there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Tests at a time: most of them wait.
const AT_ONCE: usize = 6;
