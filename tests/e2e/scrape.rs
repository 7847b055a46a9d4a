//! Prometheus' text format, read as strictly as a scraper may read it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::bed::NodeHandle;

/// One scrape.
pub struct Scrape(Vec<Sample>);

/// Waits until a node has counted what is wanted, and answers how much that is. A node counts what has ended, which may be
/// a moment after the client has seen the end.
pub fn counted(
    node: &NodeHandle<'_>,
    name: &str,
    labels: &[(&str, &str)],
    wanted: impl Fn(i64) -> bool,
) -> Result<i64> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let count = Scrape::of(node)?.count(name, labels);
        if wanted(count) {
            return Ok(count);
        }
        ensure!(Instant::now() < deadline, "{}: {name} of {labels:?} stays at {count}", node.name());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One line of it.
#[derive(Debug)]
pub struct Sample {
    /// Name of the metric.
    pub name: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// The value as written.
    pub value: String,
}

impl Scrape {
    /// What a node shows now.
    pub fn of(node: &NodeHandle<'_>) -> Result<Self> {
        Self::parse(&node.metrics()?)
    }

    /// Reads a whole exposition; an error names the line that breaks a rule.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line has no end");
        let (mut samples, mut series) = (Vec::<Sample>::new(), BTreeSet::new());
        let mut kinds = BTreeMap::<String, String>::new();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').context("TYPE without a type")?;
                ensure!(["counter", "gauge", "histogram", "untyped"].contains(&kind), "{line}");
                ensure!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "declared twice: {line}");
                name.clone_into(&mut family);
                continue;
            }
            if line.starts_with("# HELP ") || line.is_empty() {
                continue;
            }
            ensure!(!line.starts_with('#'), "neither TYPE nor HELP: {line}");
            let sample = sample(line).with_context(|| line.to_owned())?;
            let kind = kinds.get(&family).map_or("", String::as_str);
            let part = sample.name.strip_prefix(family.as_str()).unwrap_or("?");
            let parts: &[&str] = if kind == "histogram" { &["_bucket", "_count", "_sum"] } else { &[""] };
            ensure!(parts.contains(&part), "not under its own TYPE, which is {family}: {line}");
            let counter = kind == "counter";
            ensure!(!counter || family.ends_with("_total"), "a counter that does not end in _total: {line}");
            ensure!(series.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            samples.push(sample);
        }
        ensure!(!samples.is_empty(), "an empty scrape");
        Ok(Self(samples))
    }

    /// The samples of a metric that have these labels, among others.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        let has = |sample: &Sample, (name, value): &(&str, &str)| {
            sample.labels.get(*name).is_some_and(|found| found == value)
        };
        self.0
            .iter()
            .filter(move |sample| sample.name == name && labels.iter().all(|label| has(sample, label)))
    }

    /// Sum of a counter, or of a gauge without fraction, over all samples with these labels.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        self.select(name, labels).filter_map(|sample| sample.value.parse::<i64>().ok()).sum()
    }

    /// What was refused, of whatever kind: `metric{reason}` with its count.
    pub fn refused(&self) -> BTreeMap<String, i64> {
        let families =
            ["mesh_handshakes_refused_total", "mesh_invalid_requests_total", "mesh_connections_shed_total"];
        let of = |name| {
            self.select(name, &[]).map(|one| {
                let reason = one.labels.get("reason").map_or("", String::as_str);
                (format!("{}{{{reason}}}", one.name), one.value.parse().unwrap_or(-1))
            })
        };
        families.into_iter().flat_map(of).collect()
    }

    /// Names of all metrics.
    pub fn names(&self) -> BTreeSet<&str> {
        self.0.iter().map(|sample| sample.name.as_str()).collect()
    }
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, rest) = line.split_at(end);
    let valid = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty();
    ensure!(valid(name) && !name.starts_with(|c: char| c.is_ascii_digit()), "not a name");
    let (labels, value) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (BTreeMap::new(), rest),
    };
    let value = value.strip_prefix(' ').context("no space before the value")?;
    ensure!(labels.keys().all(|name| valid(name)), "a label's name");
    ensure!(value.parse::<f64>().is_ok(), "not a number");
    Ok(Sample { name: name.to_owned(), labels, value: value.to_owned() })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut text: &str) -> Result<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = text.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (name, rest) = text.split_once("=\"").context("a label without value")?;
        let (value, rest) = quoted(rest)?;
        ensure!(labels.insert(name.to_owned(), value).is_none(), "the label {name} twice");
        text = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// A value up to its closing quote, and what follows it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next().context("a value without end")? {
            '"' => return Ok((value, rest.as_str())),
            '\\' => match rest.next() {
                Some('n') => value.push('\n'),
                Some(c @ ('\\' | '"')) => value.push(c),
                other => bail!("the escape {other:?}"),
            },
            c => value.push(c),
        }
    }
}

#[test]
fn breaches_of_the_format_are_seen() {
    let good = "# HELP a_total Of a.\n# TYPE a_total counter\na_total{x=\"1\\\"\",y=\"\"} 3\na_total 4\n";
    let scrape = Scrape::parse(good).unwrap();
    assert_eq!((scrape.count("a_total", &[]), scrape.count("a_total", &[("x", "1\"")])), (7, 3));
    for bad in [
        "",
        "a_total 4\n",
        "# TYPE a counter\na 4\n",
        "# TYPE a gauge\na 4",
        "# TYPE a gauge\na four\n",
        "# TYPE a gauge\na{x=1} 4\n",
        "# TYPE a gauge\na{x=\"1\"} 4\na{x=\"1\"} 5\n",
        "# TYPE a gauge\na 4\n# TYPE b gauge\nb 1\na{x=\"1\"} 5\n",
        "# TYPE a gauge\na{x=\"1 4\n",
        "# TYPE a gauge\na 4\n# EOF\n",
        "# TYPE a histogram\na 4\n",
        "# TYPE a gauge\na_sum 4\n",
    ] {
        assert!(Scrape::parse(bad).is_err(), "{bad}");
    }
}
