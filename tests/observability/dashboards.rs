//! The committed Grafana dashboards, as Grafana reads them: every question of theirs, asked of Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::NodeHandle;
use serde_json::Value;

use crate::prometheus::Prometheus;

/// A question of a panel, with the values of its dashboard's variables.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    /// `DASHBOARD/PANEL/REFERENCE`.
    place: String,
    text: String,
}

/// Every variable has values, and every question has an answer, but for those of [`QUIET`].
pub(crate) fn have_answers(prometheus: &Prometheus, node: &NodeHandle<'_>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut open: BTreeSet<Question> = BTreeSet::new();
    for (name, board) in boards()? {
        open.extend(questions(prometheus, node, &name, &board)?);
    }
    let quiet = |question: &Question| QUIET.iter().any(|(place, _)| question.place.starts_with(place));
    for (place, _) in QUIET {
        ensure!(open.iter().any(|it| it.place.starts_with(place)), "nothing is called {place}");
    }
    ensure!(open.len() > 100, "{} questions", open.len());
    loop {
        let mut still = BTreeSet::new();
        for question in open {
            let answer = prometheus.ask(node, "query", &question.text).context(question.place.clone())?;
            if !answer.has_something() && !quiet(&question) {
                still.insert(question);
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < until, "nothing to show: {still:#?}");
        open = still;
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn boards() -> Result<Vec<(String, Value)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/dashboards");
    let mut boards = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let board: Value = serde_json::from_str(&fs::read_to_string(&path)?).context(name.clone())?;
        ensure!(board["uid"] == format!("mesh-{name}"), "{name} has another name inside");
        boards.push((name, board));
    }
    ensure!(boards.len() == 5, "{} dashboards", boards.len());
    Ok(boards)
}

fn questions(
    prometheus: &Prometheus,
    node: &NodeHandle<'_>,
    name: &str,
    board: &Value,
) -> Result<Vec<Question>> {
    let mut known = vec![("__rate_interval".to_owned(), "30s".to_owned())];
    for variable in list(&board["templating"]["list"]).filter(|it| it["type"] == "query") {
        let query = variable["query"]["query"].as_str().context("a query")?;
        let choices = Choices::parse(query, variable["regex"].as_str().unwrap_or_default())?;
        let own = variable["name"].as_str().context("a name")?.to_owned();
        // Prometheus may not have looked at everybody yet.
        let until = Instant::now() + PATIENCE;
        let values = loop {
            let values = match &choices {
                Choices::OfSeries(of, label) => prometheus.values(node, label, &filled(of, &known))?,
                Choices::OfAnswer(of, label) => {
                    prometheus.ask(node, "query", &filled(of, &known))?.values(label)
                }
            };
            if !values.is_empty() || Instant::now() > until {
                break values;
            }
            std::thread::sleep(Duration::from_millis(500));
        };
        ensure!(!values.is_empty(), "{own} of {name} has nothing to choose from: {query}");
        known.push((own, values.join("|")));
    }
    let mut questions = Vec::new();
    for panel in list(&board["panels"]).filter(|it| it["type"] != "row") {
        for target in list(&panel["targets"]) {
            let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let place = format!("{name}/{}/{}", part(&panel["title"]), part(&target["refId"]));
            let text = filled(&part(&target["expr"]), &known);
            ensure!(!text.is_empty() && !text.contains('$'), "{place}: {text}");
            questions.push(Question { place, text });
        }
    }
    Ok(questions)
}

/// What Grafana would let choose from.
enum Choices<'q> {
    /// Values of a label of series.
    OfSeries(&'q str, &'q str),
    /// Values of a label of an answer.
    OfAnswer(&'q str, &'q str),
}

impl<'q> Choices<'q> {
    fn parse(query: &'q str, regex: &'q str) -> Result<Self> {
        let between = |text: &'q str, start, end| text.strip_prefix(start)?.strip_suffix(end);
        let series = between(query, "label_values(", ")").and_then(|it| it.rsplit_once(", "));
        let answer = between(query, "query_result(", ")").zip(between(regex, "/", "=\"([^\"]+)\"/"));
        let series = series.filter(|_| regex.is_empty()).map(|(of, label)| Self::OfSeries(of, label));
        series.or(answer.map(|(of, label)| Self::OfAnswer(of, label))).context(query.to_owned())
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// With the values of variables in the place of their names.
fn filled(text: &str, known: &[(String, String)]) -> String {
    known.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Places whose questions have an answer only when something is wrong that is not wrong in the bed, and what that is.
const QUIET: &[(&str, &str)] = &[];
