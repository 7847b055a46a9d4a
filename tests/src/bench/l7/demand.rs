//! What is demanded of the mesh beside others: the table of requirements, and how figures are judged by it.
//!
//! A *must* is what a change must not fall short of, an *aim* is where this is to go. Both are ratios of medians of
//! one run, for figures of different machines do not compare.

use std::fmt::Write as _;

use super::subject::Subject;
use crate::bench::figures::{Metric, Row, Verdict, align, number};

/// A ratio that a figure of the mesh is to reach (rates) or to stay within (everything else).
#[derive(Debug, Clone, Copy)]
struct Demand {
    case: Subject,
    /// Whose figure it is.
    system: &'static str,
    metric: Metric,
    must: (Measure, f64),
    aim: (Measure, f64),
}

/// What a figure is compared with.
#[derive(Debug, Clone, Copy)]
enum Measure {
    /// The same figure of another system.
    System(&'static str),
    /// The system's own figure in another case.
    Case(Subject),
    /// Nothing: it is the figure itself.
    Unit,
}

/// Writes verdicts into the rows of the mesh, and returns a table of all demands on the cases in `rows`.
pub(in crate::bench) fn judge(rows: &mut [Row]) -> Option<String> {
    let mut lines = Vec::new();
    for demand in DEMANDS {
        if !rows.iter().any(|row| row.case == demand.case.name()) {
            continue;
        }
        let own = find(rows, demand.case.name(), demand.system, demand.metric);
        let [must, aim] =
            [demand.must, demand.aim].map(|(measure, wanted)| demand.judge(rows, measure, wanted));
        lines.push(vec![
            format!("{} {}", demand.case, demand.metric.name()),
            format!("{} {}", demand.system, own.map_or_else(|| "-".to_owned(), number)),
            demand.wanted(demand.must),
            shown(must.as_ref()),
            demand.wanted(demand.aim),
            shown(aim.as_ref()),
        ]);
        let row = rows.iter_mut().find(|row| is(row, demand.case.name(), demand.system, demand.metric));
        if let Some(row) = row {
            (row.must, row.aim) = (must, aim);
        }
    }
    if lines.is_empty() {
        return None;
    }
    let heads = ["demand", "figure", "must", "result", "aim", "result"].map(str::to_owned).to_vec();
    lines.insert(0, heads);
    Some(align(&lines, &[0, 1, 2, 3, 4, 5]))
}

impl Demand {
    /// `None` if one of the two figures is not there.
    fn judge(&self, rows: &[Row], measure: Measure, wanted: f64) -> Option<Verdict> {
        let own = find(rows, self.case.name(), self.system, self.metric)?;
        let (against, other) = match measure {
            Measure::System(system) => (system, find(rows, self.case.name(), system, self.metric)?),
            Measure::Case(case) => (case.name(), find(rows, case.name(), self.system, self.metric)?),
            Measure::Unit => ("1", 1.0),
        };
        if other <= 0.0 {
            return None;
        }
        let is = own / other;
        let pass = if self.is_rate() { is >= wanted } else { is <= wanted };
        Some(Verdict { against, wanted, is, pass })
    }

    fn is_rate(&self) -> bool {
        matches!(self.metric, Metric::Rps | Metric::RpsPerCore | Metric::Gbps)
    }

    fn wanted(&self, (measure, wanted): (Measure, f64)) -> String {
        let sign = if self.is_rate() { ">=" } else { "<=" };
        let of = match measure {
            Measure::System(system) => system,
            Measure::Case(case) => case.name(),
            Measure::Unit => return format!("{sign} {wanted:.0}"),
        };
        format!("{sign} {wanted:.2} x {of}")
    }
}

/// What is missing has not passed.
fn shown(verdict: Option<&Verdict>) -> String {
    let Some(verdict) = verdict else { return "FAIL (not measured)".to_owned() };
    let mut text = if verdict.pass { "pass".to_owned() } else { "FAIL".to_owned() };
    // Writing to a string cannot fail.
    let _ = write!(text, " ({:.2})", verdict.is);
    text
}

fn find(rows: &[Row], case: &str, system: &str, metric: Metric) -> Option<f64> {
    rows.iter().find(|row| is(row, case, system, metric)).map(|row| row.median)
}

fn is(row: &Row, case: &str, system: &str, metric: Metric) -> bool {
    row.case == case && row.system == system && row.metric == metric.name()
}

const fn demand(case: Subject, metric: Metric, must: f64, aim: f64) -> Demand {
    let (must, aim) = ((Measure::System("envoy"), must), (Measure::System("haproxy"), aim));
    Demand { case, system: MESH, metric, must, aim }
}

/// Both are about Envoy.
const fn beyond(case: Subject, metric: Metric, must: f64, aim: f64) -> Demand {
    let envoy = Measure::System("envoy");
    Demand { case, system: MESH, metric, must: (envoy, must), aim: (envoy, aim) }
}

/// The figure itself.
const fn fixed(case: Subject, metric: Metric, must: f64, aim: f64) -> Demand {
    Demand { case, system: MESH, metric, must: (Measure::Unit, must), aim: (Measure::Unit, aim) }
}

const fn routes(metric: Metric, must: f64, aim: f64) -> Demand {
    let few = Measure::Case(Subject::TenRoutes);
    Demand { case: Subject::ManyRoutes, system: MESH, metric, must: (few, must), aim: (few, aim) }
}

/// Both are about `HAProxy`, which does nothing but carry bytes here.
const fn tcp(metric: Metric, must: f64, aim: f64) -> Demand {
    let haproxy = Measure::System("haproxy");
    Demand { case: Subject::Tcp, system: MESH, metric, must: (haproxy, must), aim: (haproxy, aim) }
}

const fn node(metric: Metric, must: f64, aim: f64) -> Demand {
    let without = Measure::System(MESH);
    Demand { case: Subject::Node, system: "mesh-l7", metric, must: (without, must), aim: (without, aim) }
}

const fn waypoint(metric: Metric, must: f64, aim: f64) -> Demand {
    let node = Measure::System("mesh-l7");
    Demand { case: Subject::Waypoint, system: "mesh-waypoint", metric, must: (node, must), aim: (node, aim) }
}

const MESH: &str = "mesh";

/// Envoy is what users have, `HAProxy` is what a core can do. The number of routes must not matter, and layer 7 on the
/// client's node must not cost as much again as the two nodes cost without it.
const DEMANDS: &[Demand] = &[
    demand(Subject::Plain, Metric::Rps, 1.8, 0.85),
    demand(Subject::Plain, Metric::CpuPer1k, 0.55, 1.15),
    beyond(Subject::Realistic, Metric::Rps, 1.6, 2.5),
    demand(Subject::Latency, Metric::P99, 0.8, 1.1),
    beyond(Subject::H2, Metric::Rps, 1.4, 2.0),
    beyond(Subject::Grpc, Metric::Rps, 1.4, 2.0),
    routes(Metric::CpuPer1k, 1.2, 1.05),
    tcp(Metric::Gbps, 0.8, 1.1),
    node(Metric::Rps, 0.6, 0.8),
    waypoint(Metric::Rps, 0.6, 0.75),
    // Megabytes.
    fixed(Subject::Idle, Metric::RssMb, 25.0, 12.0),
    fixed(Subject::Names, Metric::RpsPerCore, 50_000.0, 150_000.0),
    // Microseconds.
    fixed(Subject::Names, Metric::P99, 200.0, 200.0),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{error_row, rows};

    fn of(case: Subject, figures: &[(&str, Metric, f64)]) -> Vec<Row> {
        let named: Vec<_> = figures
            .iter()
            .map(|(system, metric, value)| ((*system).to_owned(), vec![vec![(*metric, *value)]]))
            .collect();
        rows(case.name(), &named)
    }

    fn line(rows: &mut [Row], wanted: &str) -> String {
        let table = judge(rows).unwrap();
        let line = table.lines().find(|line| line.starts_with(wanted)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rates_are_to_be_high_and_costs_low() {
        let rps =
            [("envoy", Metric::Rps, 100.0), ("haproxy", Metric::Rps, 400.0), ("mesh", Metric::Rps, 200.0)];
        let mut fast = of(Subject::Plain, &rps);
        assert_eq!(
            line(&mut fast, "l7/plain/32 rps"),
            "l7/plain/32 rps mesh 200 >= 1.80 x envoy pass (2.00) >= 0.85 x haproxy FAIL (0.50)"
        );
        let must = fast.iter().find(|row| row.system == "mesh").and_then(|row| row.must.as_ref()).unwrap();
        assert_eq!((must.against, must.is, must.pass), ("envoy", 2.0, true));
        let rss = [("envoy", Metric::RssMb, 60.0), ("mesh", Metric::RssMb, 20.0)];
        let line = line(&mut of(Subject::Idle, &rss), "l7/rss");
        assert!(line.ends_with("mesh 20.00 <= 25 pass (20.00) <= 12 FAIL (20.00)"), "{line}");
    }

    #[test]
    fn what_is_missing_has_failed() {
        let mut rows = of(Subject::Plain, &[("envoy", Metric::Rps, 100.0)]);
        rows.push(error_row(Subject::Plain.name(), "mesh", "no such role"));
        let line = line(&mut rows, "l7/plain/32 rps");
        assert_eq!(line.matches("FAIL (not measured)").count(), 2, "{line}");
        assert!(judge(&mut []).is_none(), "nothing is demanded of cases that were not asked for");
    }

    #[test]
    fn routes_are_compared_with_fewer_routes() {
        let mut rows = of(Subject::TenRoutes, &[("mesh", Metric::CpuPer1k, 0.010)]);
        rows.extend(of(Subject::ManyRoutes, &[("mesh", Metric::CpuPer1k, 0.0115)]));
        let line = line(&mut rows, "l7/10000-routes/32 cpu_s_per_1k");
        assert!(
            line.ends_with("<= 1.20 x l7/10-routes/32 pass (1.15) <= 1.05 x l7/10-routes/32 FAIL (1.15)"),
            "{line}"
        );
    }
}
