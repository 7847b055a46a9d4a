//! From samples to rows: medians, ranges, ratios, and how they are shown.

use std::fmt::Write as _;

use serde::Serialize;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Payload that arrived, in 10⁹ bits a second.
    Gbps,
    /// Requests a second over kept connections.
    Rps,
    /// Requests for each second that a processor has spent on them.
    RpsPerCore,
    /// Connections a second, one request each.
    Cps,
    /// Median time of a request in microseconds; of a new connection, its handshake included.
    P50,
    /// The 99th percentile of the same.
    P99,
    /// Processor seconds of the proxies for 10⁹ bytes of payload.
    CpuPerGb,
    /// Processor seconds of the proxies for 1,000 requests or connections.
    CpuPer1k,
    /// Resident memory of one proxy in 2²⁰ bytes.
    RssMb,
    /// Resident memory of both proxies for one connection, in KiB.
    KbPerConn,
    /// Resident memory of a proxy for one enrolled pod, in KiB.
    KbPerPod,
    /// Median time from a change until all nodes have heard of it, in milliseconds.
    P50Ms,
    /// The 99th percentile of the same.
    P99Ms,
    /// Bytes that arrive at a node for each change, frames of HTTP/2 included.
    BytesPerChange,
    /// Processor milliseconds of the control plane for each change, told to all nodes.
    CpuMsPerChange,
    /// From the start of the control plane until it serves, in seconds.
    ReadyS,
    /// From the start of the control plane until all nodes know everything, in seconds.
    ColdS,
    /// Processor seconds of the control plane in that time.
    ColdCpuS,
    /// What a node is told in that time, in 2²⁰ bytes.
    MbPerNode,
    /// The most resident memory that the control plane ever had, in 2²⁰ bytes.
    PeakRssMb,
    /// Resident memory that discovery takes on a node, in 2²⁰ bytes.
    NodeRssMb,
    /// The most that it ever took.
    NodePeakRssMb,
    /// Microseconds of one decision of policy about a request.
    DecisionUs,
    /// Microseconds that a change takes the compiler.
    WorldUs,
    /// Microseconds to make ready what it came to.
    ShelfUs,
    /// Microseconds to find out what to tell one subscriber.
    SessionUs,
    /// Microseconds of a node to take in what it is told.
    MirrorUs,
    /// Microseconds of a node for the next snapshot.
    SnapshotUs,
    /// Requests or connections that failed although the run as a whole did not; only there where some have.
    Errors,
}

impl Metric {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gbps => "gbps",
            Self::Rps => "rps",
            Self::RpsPerCore => "rps_per_core",
            Self::Cps => "cps",
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
            Self::CpuPerGb => "cpu_s_per_gb",
            Self::CpuPer1k => "cpu_s_per_1k",
            Self::RssMb => "rss_mb",
            Self::KbPerConn => "kb_per_conn",
            Self::KbPerPod => "kb_per_pod",
            Self::P50Ms => "p50_ms",
            Self::P99Ms => "p99_ms",
            Self::BytesPerChange => "bytes_per_change",
            Self::CpuMsPerChange => "cpu_ms_per_change",
            Self::ReadyS => "ready_s",
            Self::ColdS => "cold_s",
            Self::ColdCpuS => "cold_cpu_s",
            Self::MbPerNode => "mb_per_node",
            Self::PeakRssMb => "peak_rss_mb",
            Self::NodeRssMb => "node_rss_mb",
            Self::NodePeakRssMb => "node_peak_rss_mb",
            Self::DecisionUs => "decision_us",
            Self::WorldUs => "world_us",
            Self::ShelfUs => "shelf_us",
            Self::SessionUs => "session_us",
            Self::MirrorUs => "mirror_us",
            Self::SnapshotUs => "snapshot_us",
            Self::Errors => "errors",
        }
    }
}

/// What one run of one case through one system has shown.
pub type Sample = Vec<(Metric, f64)>;

/// One line of the result. The names of its fields are a contract: they only grow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Such as `cross-node/http/32`.
    pub case: String,
    /// `direct`, `relay`, `mesh` or the name of a peer.
    pub system: String,
    /// See [`Metric::name`].
    pub metric: &'static str,
    /// The median over all runs.
    pub median: f64,
    /// The smallest value of a run.
    pub min: f64,
    /// The largest value of a run.
    pub max: f64,
    /// How many runs.
    pub runs: usize,
    /// The median divided by that of `direct` in the same case; absent where `direct` has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// What must not be fallen short of, where anything is demanded of this figure and there is something to compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub must: Option<Verdict>,
    /// Where this figure is to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aim: Option<Verdict>,
    /// Why there are no figures; the row then has no other meaning, and its metric is `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A figure beside what is demanded of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The system, or the case of the same system, that it is compared with.
    pub against: &'static str,
    /// The ratio that is demanded.
    pub wanted: f64,
    /// The ratio that was measured.
    pub is: f64,
    /// Whether that is good enough.
    pub pass: bool,
}

/// The row of a system that could not be measured.
pub fn error_row(case: &str, system: &str, reason: &str) -> Row {
    Row {
        case: case.to_owned(),
        system: system.to_owned(),
        metric: FAILED,
        median: 0.0,
        min: 0.0,
        max: 0.0,
        runs: 0,
        ratio: None,
        must: None,
        aim: None,
        error: Some(reason.to_owned()),
    }
}

/// The rows of one case from the samples of its systems, `direct` first or absent.
pub fn rows(case: &str, samples: &[(String, Vec<Sample>)]) -> Vec<Row> {
    let mut rows = Vec::<Row>::new();
    for (system, samples) in samples {
        let mut metrics: Vec<Metric> = samples.iter().flatten().map(|(metric, _)| *metric).collect();
        metrics.sort_unstable();
        metrics.dedup();
        for metric in metrics {
            let values: Vec<f64> = samples.iter().filter_map(|sample| value(sample, metric)).collect();
            let Some(summary) = Summary::of(&values) else { continue };
            if metric == Metric::Errors && summary.max <= 0.0 {
                continue;
            }
            let metric = metric.name();
            let base = if system == DIRECT {
                Some(summary.median)
            } else {
                rows.iter().find(|row| row.system == DIRECT && row.metric == metric).map(|row| row.median)
            };
            rows.push(Row {
                case: case.to_owned(),
                system: system.clone(),
                metric,
                median: summary.median,
                min: summary.min,
                max: summary.max,
                runs: values.len(),
                ratio: base.filter(|base| *base > 0.0).map(|base| summary.median / base),
                must: None,
                aim: None,
                error: None,
            });
        }
    }
    rows
}

fn value(sample: &Sample, wanted: Metric) -> Option<f64> {
    sample.iter().find(|(metric, _)| *metric == wanted).map(|(_, value)| *value)
}

/// Middle and ends of a list of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Summary {
    /// `None` for an empty list. The median of an even number is the mean of the two in the middle.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted.get((sorted.len() - 1) / 2)?, sorted.get(sorted.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min, max })
    }
}

/// The rows of one case for reading: one line a system, and for each metric the median, the range and the ratio to
/// `direct`. Systems without figures follow, with the first line of the reason.
pub fn table(rows: &[Row]) -> String {
    let (failed, measured): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.error.is_some());
    let mut text = if measured.is_empty() { String::new() } else { measured_table(&measured) };
    for row in failed {
        let reason = row.error.as_deref().unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}  {FAILED}: {}", row.system, reason.lines().next().unwrap_or_default());
    }
    text
}

fn measured_table(rows: &[&Row]) -> String {
    let mut systems: Vec<&str> = Vec::new();
    let mut metrics: Vec<&str> = Vec::new();
    for row in rows {
        push_new(&mut systems, &row.system);
        push_new(&mut metrics, row.metric);
    }
    let mut lines = vec![vec!["system".to_owned()]];
    for metric in &metrics {
        lines[0].extend([(*metric).to_owned(), "x direct".to_owned()]);
    }
    for system in systems {
        let mut line = vec![system.to_owned()];
        for metric in &metrics {
            let row = rows.iter().find(|row| row.system == system && row.metric == *metric);
            line.extend(cells(row.copied()));
        }
        lines.push(line);
    }
    // A column of ratios that nobody has says nothing.
    let kept: Vec<usize> = (0..lines[0].len())
        .filter(|column| lines.iter().skip(1).any(|line| line.get(*column).is_some_and(|cell| cell != "-")))
        .collect();
    align(&lines, &kept)
}

fn push_new<'a>(names: &mut Vec<&'a str>, name: &'a str) {
    if !names.contains(&name) {
        names.push(name);
    }
}

fn cells(row: Option<&Row>) -> [String; 2] {
    let Some(row) = row else { return ["-".to_owned(), "-".to_owned()] };
    let mut value = number(row.median);
    if row.runs > 1 {
        // Writing to a string cannot fail.
        let _ = write!(value, " ({}..{})", number(row.min), number(row.max));
    }
    [value, row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))]
}

/// Columns of text, each as wide as its widest cell; `kept` are the positions of those that are shown.
pub(super) fn align(lines: &[Vec<String>], kept: &[usize]) -> String {
    let cell = |line: &[String], column: usize| line.get(column).cloned().unwrap_or_default();
    let width =
        |column: usize| lines.iter().map(|line| cell(line, column).chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in lines {
        let padded =
            kept.iter().map(|column| format!("{:<width$}", cell(line, *column), width = width(*column)));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A figure with three to four digits that mean something.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.4}"),
    }
}

/// The name of the system that everything is compared with.
pub(super) const DIRECT: &str = "direct";

/// What stands for a metric where there is none.
const FAILED: &str = "failed";

#[cfg(test)]
mod tests {
    use super::*;

    fn two_systems() -> Vec<Row> {
        let direct = vec![vec![(Metric::Rps, 100.0)], vec![(Metric::Rps, 300.0)], vec![(Metric::Rps, 200.0)]];
        let mesh = vec![vec![(Metric::Rps, 50.0), (Metric::CpuPer1k, 0.02)], vec![(Metric::Rps, 70.0)]];
        rows("cross-node/http/1", &[("direct".to_owned(), direct), ("mesh".to_owned(), mesh)])
    }

    #[test]
    fn medians() {
        let of = |values: &[f64]| Summary::of(values).map(|s| (s.median, s.min, s.max));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(of(&[9.0, 1.0, 2.0]), Some((2.0, 1.0, 9.0)));
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), Some((3.0, 1.0, 9.0)));
    }

    #[test]
    fn rows_compare_with_direct() {
        let rows = two_systems();
        assert_eq!(rows.len(), 3, "{rows:?}");
        assert_eq!((rows[0].median, rows[0].min, rows[0].max, rows[0].runs), (200.0, 100.0, 300.0, 3));
        assert_eq!(rows[0].ratio, Some(1.0));
        assert_eq!((rows[1].median, rows[1].runs, rows[1].ratio), (60.0, 2, Some(0.3)));
        assert_eq!((rows[2].metric, rows[2].ratio), ("cpu_s_per_1k", None), "direct has no proxy");
    }

    #[test]
    fn rows_in_json() {
        let rows = serde_json::to_value(two_systems()).unwrap();
        assert_eq!(
            rows[1],
            serde_json::json!({"case": "cross-node/http/1", "system": "mesh", "metric": "rps", "median": 60.0,
                "min": 50.0, "max": 70.0, "runs": 2, "ratio": 0.3})
        );
        assert!(rows[2].get("ratio").is_none(), "absent, not null: {}", rows[2]);
    }

    #[test]
    fn what_failed_is_shown() {
        let mut rows = two_systems();
        rows.push(error_row("cross-node/http/1", "envoy", "not installed\nand more"));
        assert!(table(&rows).ends_with("0.0200\nenvoy  failed: not installed\n"), "{}", table(&rows));
        let row = serde_json::to_value(rows.last().unwrap()).unwrap();
        assert_eq!((&row["metric"], &row["runs"]), (&"failed".into(), &0.into()));
        assert_eq!(row["error"], "not installed\nand more");
    }

    #[test]
    fn tables() {
        assert_eq!(
            table(&two_systems()).lines().collect::<Vec<_>>(),
            [
                "system  rps                   x direct  cpu_s_per_1k",
                "direct  200 (100..300)        1.00      -",
                "mesh    60.00 (50.00..70.00)  0.30      0.0200",
            ]
        );
    }
}
