//! What users of Istio rely on, one row each: a configuration, requests, and what has to come of them.
//!
//! Real `mesh-node gateway` processes, real sockets, and an origin that tells what reached it. A row has hosts and names
//! of its own, so that one process serves nearly all of them at once. `cargo test -p mesh-tests --test conformance --
//! match/ retry` runs the rows whose ids contain one of these words.

mod action;
mod balance;
mod bounds;
mod change;
mod client;
mod external;
mod fault;
mod flood;
mod frames;
mod gateway;
mod gateway_api;
mod health;
mod hostile;
mod http;
mod limits;
mod matching;
mod mesh;
mod originate;
mod retries;
mod row;
mod settings;
mod stand;
mod stream;
mod tls;
mod tokens;
mod upstream;

use std::io::Write as _;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use self::row::Row;
use self::stand::Stand;

/// How a row ended.
struct Outcome {
    id: String,
    took: Duration,
    error: Option<anyhow::Error>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((_, words)) = words.split_first().filter(|(first, _)| *first == "gateway-api") {
        return gateway_api::run(words);
    }
    let mut rows = rows();
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_exact = words.iter().any(|word| word == "--exact");
    let named = |id: &str, filter: &str| if is_exact { id == filter } else { id.contains(filter) };
    rows.retain(|row| filters.is_empty() || filters.iter().any(|filter| named(&row.id, filter)));
    if words.iter().any(|word| word == "--list") {
        rows.iter().for_each(|row| say(&format!("{}: test", row.id)));
        return ExitCode::SUCCESS;
    }
    match run(rows) {
        Ok(outcomes) => conclude(&outcomes),
        Err(error) => {
            say(&format!("test conformance ... FAILED\n{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn rows() -> Vec<Row> {
    [
        matching::rows(),
        action::rows(),
        balance::rows(),
        bounds::rows(),
        external::rows(),
        fault::rows(),
        flood::rows(),
        gateway::rows(),
        health::rows(),
        http::rows(),
        hostile::rows(),
        limits::rows(),
        mesh::rows(),
        originate::rows(),
        settings::rows(),
        stream::rows(),
        tokens::rows(),
        upstream::rows(),
        change::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn run(rows: Vec<Row>) -> Result<Vec<Outcome>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        say(&format!("running {} rows", rows.len()));
        let stand = Rc::new(Stand::start(&rows).await.context("the gateway under test")?);
        let (alone, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(Row::is_alone);
        let places = Rc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for row in rows {
            let (stand, places) = (Rc::clone(&stand), Rc::clone(&places));
            running.spawn_local(async move {
                let place = places.acquire().await;
                let outcome = one(row, stand).await;
                drop(place);
                outcome
            });
        }
        let mut outcomes = Vec::new();
        while let Some(outcome) = running.join_next().await {
            outcomes.push(outcome?);
        }
        for row in alone {
            outcomes.push(one(row, Rc::clone(&stand)).await);
        }
        if std::env::var_os("CONFORMANCE_LOG").is_some() {
            say(&stand.gateway.said());
        }
        outcomes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(outcomes)
    })
}

async fn one(row: Row, stand: Rc<Stand>) -> Outcome {
    let (id, begun) = (row.id.clone(), Instant::now());
    let result = match tokio::time::timeout(ROW, row.run(stand)).await {
        Ok(result) => result,
        Err(_) => Err(anyhow!("not over after {ROW:?}")),
    };
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    say(&format!("test {id} ... {verdict}"));
    Outcome { id, took: begun.elapsed(), error: result.err() }
}

/// The table, and why rows failed.
fn conclude(outcomes: &[Outcome]) -> ExitCode {
    say("");
    for Outcome { id, took, error } in outcomes {
        let verdict = if error.is_none() { "pass" } else { "FAIL" };
        say(&format!("{verdict}  {id:<44} {:>6} ms", took.as_millis()));
    }
    let failed: Vec<_> = outcomes.iter().filter(|it| it.error.is_some()).collect();
    for Outcome { id, error, .. } in &failed {
        say(&format!(
            "\n---- {id}\n{:#}",
            error.as_ref().map_or_else(|| anyhow!(""), |it| anyhow!("{it:#}"))
        ));
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    let passed = outcomes.len() - failed.len();
    say(&format!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured",
        failed.len()
    ));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &str) {
    // Nobody reads any more: then there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Rows at a time: most of them wait.
const AT_ONCE: usize = 8;
/// The longest that a row may take.
const ROW: Duration = Duration::from_secs(40);
