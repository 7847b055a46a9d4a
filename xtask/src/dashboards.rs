//! `cargo xtask dashboards`: the Grafana dashboards in `deploy/dashboards`, written from the tables of this module.
//!
//! A dashboard is rows of panels, a panel is questions for Prometheus. Where panels go and everything else that Grafana wants
//! to read is worked out here, so that a table has nothing but what somebody decided. Metrics and labels are Istio's where
//! Istio has them; the suite `observability` asks every question of a real Prometheus over a bed.

mod control_plane;
mod mesh;
mod node;
mod service;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use crate::generated::{Files, Generated};

/// Write the Grafana dashboards.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask dashboards --check")]
pub(crate) struct Args {
    /// Write nothing; fail if something would have changed.
    #[arg(long)]
    check: bool,
}

/// A dashboard, as its table has it.
struct Dashboard {
    /// The file's name without its end, and what links name it by.
    name: &'static str,
    title: &'static str,
    description: &'static str,
    variables: &'static [Variable],
    rows: &'static [Row],
}

/// Something to choose at the top of a dashboard.
struct Variable {
    name: &'static str,
    label: &'static str,
    choices: Choices,
}

/// Values of a label to choose from. What they are looked for in may name the variables above.
enum Choices {
    /// A label of a selection of series.
    OfSeries(&'static str, &'static str),
    /// A label of the answer to a question.
    OfAnswer(&'static str, &'static str),
}

/// Panels under a title.
struct Row {
    title: &'static str,
    panels: &'static [Panel],
}

struct Panel {
    title: &'static str,
    description: &'static str,
    shape: Shape,
    unit: Unit,
    /// Each with what its lines are called; empty for one that has one line.
    questions: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A number, a quarter of the width.
    Stat,
    /// Lines over time, half the width.
    Graph,
    /// A line for each set of labels, with all of its questions beside one another; the whole width.
    Table,
}

/// What is counted. Its name is Grafana's.
#[derive(Clone, Copy)]
enum Unit {
    RequestsPerSecond,
    PerSecond,
    BytesPerSecond,
    Bytes,
    /// From 0 to 1.
    Share,
    Milliseconds,
    Seconds,
    /// Seconds from now.
    Lasts,
    Count,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    generated()?.settle(args.check)
}

/// The dashboards, as files.
pub(crate) fn generated() -> Result<Generated> {
    let mut wanted = Files::new();
    for dashboard in ALL {
        let text = serde_json::to_string_pretty(&dashboard.json())?;
        wanted.insert(format!("{}.json", dashboard.name), text + "\n");
    }
    Ok(Generated { directory: "deploy/dashboards", verb: "dashboards", wanted })
}

impl Dashboard {
    fn json(&self) -> Value {
        let mut templates = vec![json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "current": {}, "hide": 0, "refresh": 1, "regex": "",
        })];
        templates.extend(self.variables.iter().map(Variable::json));
        json!({
            "uid": format!("mesh-{}", self.name),
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "15s",
            "time": {"from": "now-30m", "to": "now"},
            "timezone": "browser",
            "links": [{
                "type": "dashboards", "title": "Mesh", "tags": [TAG], "asDropdown": true, "includeVars": false,
                "keepTime": true, "targetBlank": false,
            }],
            "annotations": {"list": []},
            "templating": {"list": templates},
            "panels": self.panels(),
        })
    }

    /// Panels from left to right and from the top down, each row under its title.
    fn panels(&self) -> Vec<Value> {
        let (mut all, mut top) = (Vec::new(), 0);
        for row in self.rows {
            all.push(json!({
                "id": all.len() + 1, "type": "row", "title": row.title, "collapsed": false, "panels": [],
                "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
            }));
            top += 1;
            let (mut left, mut height) = (0, 0);
            for panel in row.panels {
                let (w, h) = panel.shape.size();
                if left + w > WIDTH {
                    (left, top, height) = (0, top + height, 0);
                }
                let place = json!({"x": left, "y": top, "w": w, "h": h});
                all.push(panel.json(all.len() + 1, &place));
                (left, height) = (left + w, height.max(h));
            }
            top += height;
        }
        all
    }
}

impl Variable {
    fn json(&self) -> Value {
        let (query, regex) = match self.choices {
            Choices::OfSeries(label, of) => (format!("label_values({of}, {label})"), String::new()),
            Choices::OfAnswer(label, of) => {
                (format!("query_result({of})"), format!("/{label}=\"([^\"]+)\"/"))
            }
        };
        json!({
            "name": self.name, "label": self.label, "type": "query", "datasource": datasource(),
            "query": {"query": query, "refId": format!("Variable-{}", self.name)}, "definition": query,
            "multi": true, "includeAll": true, "allValue": ".*",
            "current": {"selected": true, "text": ["All"], "value": ["$__all"]},
            "hide": 0, "refresh": 2, "regex": regex, "sort": 1,
        })
    }
}

impl Panel {
    fn json(&self, id: usize, place: &Value) -> Value {
        let is_table = self.shape == Shape::Table;
        let targets: Vec<Value> = self
            .questions
            .iter()
            .zip('A'..)
            .map(|((question, legend), letter)| {
                json!({
                    "refId": letter.to_string(), "datasource": datasource(), "expr": question,
                    "legendFormat": if legend.is_empty() { "__auto" } else { legend },
                    "instant": is_table, "range": !is_table, "format": if is_table { "table" } else { "time_series" },
                })
            })
            .collect();
        let mut panel = json!({
            "id": id, "type": self.shape.name(), "title": self.title, "description": self.description,
            "datasource": datasource(), "gridPos": place, "targets": targets,
            "fieldConfig": {"defaults": {"unit": self.unit.name(), "min": 0}, "overrides": []},
            "options": self.shape.options(),
        });
        if is_table {
            panel["transformations"] = self.columns();
        }
        panel
    }

    /// Puts the answers to all questions beside one another, each under what it is called.
    fn columns(&self) -> Value {
        let names: serde_json::Map<String, Value> = self
            .questions
            .iter()
            .zip('A'..)
            .map(|((_, legend), letter)| (format!("Value #{letter}"), json!(legend)))
            .collect();
        json!([
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": true}, "renameByName": names}},
        ])
    }
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Graph => "timeseries",
            Self::Table => "table",
        }
    }

    /// In columns and rows of Grafana's grid.
    fn size(self) -> (u32, u32) {
        match self {
            Self::Stat => (WIDTH / 4, 4),
            Self::Graph => (WIDTH / 2, 8),
            Self::Table => (WIDTH, 10),
        }
    }

    fn options(self) -> Value {
        match self {
            Self::Stat => json!({"reduceOptions": {"calcs": ["lastNotNull"], "values": false}}),
            Self::Graph => json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Self::Table => json!({"showHeader": true}),
        }
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "reqps",
            Self::PerSecond => "ops",
            Self::BytesPerSecond => "Bps",
            Self::Bytes => "bytes",
            Self::Share => "percentunit",
            Self::Milliseconds => "ms",
            Self::Seconds | Self::Lasts => "s",
            Self::Count => "short",
        }
    }
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

const ALL: [Dashboard; 5] =
    [mesh::DASHBOARD, service::DASHBOARD, workload::DASHBOARD, node::DASHBOARD, control_plane::DASHBOARD];

/// By which dashboards find one another.
const TAG: &str = "mesh";
/// What Grafana 10 writes; later ones read it.
const SCHEMA: u32 = 39;
/// Columns of Grafana's grid.
const WIDTH: u32 = 24;

#[cfg(test)]
mod tests;
