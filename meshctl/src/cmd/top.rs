//! `meshctl top`: who asks whom most, now.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;

use crate::emit;
use crate::output::Format;
use crate::reach::ControlPlane;
use crate::table::{align, one_line};

/// Show the busiest edges of the mesh, live: who asks whom, how often, with which errors and how fast.
///
/// The figures are those of the mesh page: they come from the control plane, which proxies tell every 5 seconds what they
/// have carried. Where proxies look at requests an edge is counted by requests, elsewhere by connections.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only edges with an end in these namespaces, joined by commas.
    #[arg(short, long, value_name = "NAMESPACES", value_parser = names)]
    namespace: Option<String>,
    /// Over how many seconds: 10 to 3600.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u16).range(10..=3600))]
    window: u16,
    /// What an end is.
    #[arg(long, value_name = "LEVEL", default_value = "workload")]
    level: Level,
    /// How many edges.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    lines: usize,
    /// Print once and end; so it is where the output is no terminal.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    control: ControlPlane,
    /// How edges are printed; JSON once.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Versions of an application together.
    App,
    /// One workload.
    Workload,
    /// One namespace.
    Namespace,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    loop {
        let answer = args.control.get(&path(args)).context("asking the control plane for the graph")?;
        if args.output == Format::Json {
            let graph: Value = serde_json::from_str(&answer).context("the control plane's answer")?;
            emit(&(serde_json::to_string_pretty(&graph)? + "\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let graph: Graph = serde_json::from_str(&answer).context("the control plane's answer")?;
        let table = table(&graph, args.lines);
        if args.once || !io::stdout().is_terminal() {
            emit(&table)?;
            return Ok(ExitCode::SUCCESS);
        }
        emit(&format!("{CLEAR}{table}"))?;
        thread::sleep(PAUSE);
    }
}

fn path(args: &Args) -> String {
    let level = match args.level {
        Level::App => "app",
        Level::Workload => "workload",
        Level::Namespace => "namespace",
    };
    let namespace = args.namespace.as_ref().map(|names| format!("&namespace={names}")).unwrap_or_default();
    format!("/api/v1/graph?level={level}&window={}{namespace}", args.window)
}

/// Names that need no escaping.
fn names(text: &str) -> Result<String, String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ',');
    if text.chars().all(is_fine) { Ok(text.to_owned()) } else { Err("no names of namespaces".to_owned()) }
}

/// What `/api/v1/graph` answers, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Graph {
    seconds: u64,
    edges: Vec<Edge>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edge {
    from: String,
    to: String,
    protocols: Vec<String>,
    secured: String,
    requests_per_second: f64,
    connections_per_second: f64,
    error_share: Option<f64>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    sent_bytes_per_second: f64,
    received_bytes_per_second: f64,
}

fn table(graph: &Graph, lines: usize) -> String {
    if graph.edges.is_empty() {
        return "Nothing has flowed in this time.\n".to_owned();
    }
    let mut edges: Vec<&Edge> = graph.edges.iter().collect();
    let load = |edge: &Edge| (edge.requests_per_second, edge.connections_per_second, edge.bytes());
    edges.sort_by(|a, b| load(b).partial_cmp(&load(a)).unwrap_or(std::cmp::Ordering::Equal));
    let head =
        ["FROM", "TO", "PROTOCOL", "REQ/S", "CONN/S", "ERRORS", "P50", "P95", "P99", "KB/S", "PROTECTION"];
    let rows = edges.iter().take(lines).map(|edge| edge.row());
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect();
    let more = edges.len().saturating_sub(lines);
    let rest = if more > 0 { format!("and {more} more\n") } else { String::new() };
    format!("{}{rest}over {} seconds\n", align(&rows), graph.seconds)
}

impl Edge {
    fn bytes(&self) -> f64 {
        self.sent_bytes_per_second + self.received_bytes_per_second
    }

    fn row(&self) -> Vec<String> {
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}ms"));
        let errors = self.error_share.map_or_else(|| "-".to_owned(), |it| format!("{:.1}%", it * 100.0));
        let protection = match self.secured.as_str() {
            "mutualTls" => "mTLS",
            "sameNode" => "same node",
            "nothing" => "-",
            other => other,
        };
        [
            one_line(&self.from),
            one_line(&self.to),
            one_line(&self.protocols.join(",").to_uppercase()),
            format!("{:.2}", self.requests_per_second),
            format!("{:.2}", self.connections_per_second),
            errors,
            ms(self.p50_ms),
            ms(self.p95_ms),
            ms(self.p99_ms),
            format!("{:.1}", self.bytes() / 1000.0),
            one_line(protection),
        ]
        .to_vec()
    }
}

/// Empties a terminal, and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Example: meshctl top
         meshctl top -n default --once
         meshctl top --level app --window 300 -o json";

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, requests: f64, secured: &str) -> Value {
        serde_json::json!({
            "from": from, "to": "default/b", "protocols": ["http"], "secured": secured, "requestsPerSecond": requests,
            "connectionsPerSecond": 0.0, "errorShare": 0.25, "p50Ms": 1.0, "p95Ms": null, "p99Ms": 3.0,
            "sentBytesPerSecond": 1500.0, "receivedBytesPerSecond": 500.0,
        })
    }

    #[test]
    fn the_busiest_come_first() {
        let edges = [edge("default/idle", 0.5, "plain"), edge("default/busy", 20.0, "mutualTls")];
        let graph = serde_json::json!({ "seconds": 60, "edges": edges });
        let graph: Graph = serde_json::from_value(graph).unwrap();
        let all = table(&graph, 20);
        let lines: Vec<Vec<&str>> = all.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..4], ["default/busy", "default/b", "HTTP", "20.00"]);
        assert_eq!(lines[1][4..], ["0.00", "25.0%", "1.0ms", "-", "3.0ms", "2.0", "mTLS"]);
        assert_eq!(lines[2][0], "default/idle");
        assert!(table(&graph, 1).contains("and 1 more"));
    }

    #[test]
    fn names_cannot_change_the_question() {
        assert!(names("a,b-1").is_ok());
        assert!(names("a&level=app").is_err() && names("a b").is_err());
    }
}
