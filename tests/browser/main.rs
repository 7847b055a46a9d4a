//! The mesh page in a real browser, over a bed on which Bookinfo has traffic: what people see and do there, and what they
//! must never see. The tests use one bed and one browser, one after the other, in this order.
//!
//! Every page that is looked at leaves a picture in `target/screenshots`.

mod crowd;
mod driver;
mod looks;
mod pages;
mod policies;
mod stand;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};

use self::stand::Stand;

/// A name, and what is tried under it.
type Test = (&'static str, fn(&Stand) -> Result<()>);

const TESTS: [Test; 21] = [
    ("graph::shows_who_asks_whom_with_rates_and_locks", pages::graph),
    ("graph::has_a_table_with_the_same_figures", pages::as_table),
    ("graph::connections_show_how_they_are_protected", pages::connections),
    ("graph::tells_more_of_what_is_chosen", pages::chosen),
    ("pages::every_page_can_be_clicked_to", pages::click_through),
    ("pages::a_workload_has_figures_over_time", pages::workload),
    ("graph::a_fault_on_purpose_is_seen_on_its_edge", pages::fault),
    ("graph::a_delay_on_purpose_is_seen_as_latency_on_its_edge", pages::delay),
    ("policies::what_they_allow_and_deny_is_on_their_pages", policies::verdicts),
    ("pages::a_waypoint_that_is_not_used_is_said_with_the_reason", policies::waypoint),
    ("pages::a_broken_resource_is_a_problem", pages::problem),
    ("looks::nothing_is_wider_than_a_phone", looks::phone),
    ("looks::dark_as_the_system_has_it_or_as_chosen", looks::dark),
    ("looks::all_text_stands_out_from_what_is_behind_it", looks::contrast),
    ("looks::everything_is_reached_by_keyboard", looks::keyboard),
    ("looks::a_refresh_moves_nothing", looks::steady),
    ("pages::it_links_to_what_it_is_told_of", pages::links),
    ("crowd::two_hundred_services_are_drawn_fast_and_stay_where_they_are", crowd::drawn),
    ("pages::a_control_plane_that_is_away_is_said_to_be", pages::away),
    ("safety::nobody_else_is_asked_and_nothing_goes_wrong", pages::quiet),
    ("safety::the_page_is_for_this_machine_alone", pages::guarded),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|it| it == word);
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_wanted =
        |name: &str, filter: &str| if has("--exact") { name == filter } else { name.contains(filter) };
    let wanted = |(name, _): &Test| filters.is_empty() || filters.iter().any(|it| is_wanted(name, it));
    let tests: Vec<Test> = TESTS.into_iter().filter(wanted).collect();
    if has("--list") {
        tests.iter().for_each(|(name, _)| say(&format!("{name}: test")));
        return ExitCode::SUCCESS;
    }
    match run(&tests) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("the bed or the browser does not start: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// How many have failed.
fn run(tests: &[Test]) -> Result<usize> {
    say(&format!("running {} tests", tests.len()));
    if tests.is_empty() {
        return Ok(0);
    }
    let stand = Stand::start()?;
    let mut failures = Vec::new();
    for (name, test) in tests {
        let started = Instant::now();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&stand)));
        let outcome = caught.unwrap_or_else(|_| Err(anyhow!("it panicked")));
        say(&format!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" }));
        if let Err(error) = outcome {
            // A picture says what a line cannot; that there is none is not what has failed.
            let _ = stand.picture(&format!("failed-{}", name.rsplit("::").next().unwrap_or(name)));
            failures.push(format!("---- {name} ({} s)\n{error:#}", started.elapsed().as_secs()));
        }
    }
    failures.iter().for_each(|failure| say(&format!("\n{failure}")));
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    let (passed, failed) = (tests.len() - failures.len(), failures.len());
    say(&format!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured"));
    Ok(failed)
}

#[expect(clippy::print_stdout, reason = "what a test program says")]
fn say(text: &str) {
    println!("{text}");
    let _ = std::io::stdout().flush();
}
