//! What is demanded of the control plane, and how figures are judged by it: absolute figures, of meshes of a given size.
//!
//! A *must* is what a change must not fall short of, an *aim* is where this is to go.

use super::Crowd;
use crate::bench::figures::{Metric, Row, Verdict, align, number};

/// A figure that is not to be exceeded.
#[derive(Debug, Clone, Copy)]
struct Demand {
    crowd: Crowd,
    metric: Metric,
    must: f64,
    aim: f64,
}

/// The demands on what was asked for.
#[derive(Debug)]
pub(in crate::bench) struct Judgement {
    /// One line for each of them.
    pub(in crate::bench) table: String,
    /// The musts that do not hold, or were not measured.
    pub(in crate::bench) missed: usize,
}

/// Writes verdicts into the rows of the mesh; `None` if nothing is demanded of the cases in `rows`.
pub(in crate::bench) fn judge(rows: &mut [Row]) -> Option<Judgement> {
    let (mut lines, mut missed) = (Vec::new(), 0);
    for demand in DEMANDS {
        let case = demand.case();
        if !rows.iter().any(|row| row.case == case) {
            continue;
        }
        let own = rows
            .iter_mut()
            .find(|row| row.case == case && row.system == "mesh" && row.metric == demand.metric.name());
        let is = own.as_ref().map(|row| row.median);
        let [must, aim] = [demand.must, demand.aim].map(|wanted| is.map(|is| verdict(is, wanted)));
        missed += usize::from(must.as_ref().is_none_or(|must| !must.pass));
        lines.push(vec![
            format!("{case} {}", demand.metric.name()),
            is.map_or_else(|| "-".to_owned(), number),
            format!("<= {:.0}", demand.must),
            shown(must.as_ref()),
            format!("<= {:.0}", demand.aim),
            shown(aim.as_ref()),
        ]);
        if let Some(row) = own {
            (row.must, row.aim) = (must, aim);
        }
    }
    if lines.is_empty() {
        return None;
    }
    lines.insert(0, ["demand", "figure", "must", "result", "aim", "result"].map(str::to_owned).to_vec());
    Some(Judgement { table: align(&lines, &[0, 1, 2, 3, 4, 5]), missed })
}

impl Demand {
    fn case(&self) -> String {
        format!("control/{}", self.crowd)
    }
}

fn verdict(is: f64, wanted: f64) -> Verdict {
    Verdict { against: "1", wanted, is, pass: is <= wanted }
}

/// What is missing has not passed.
fn shown(verdict: Option<&Verdict>) -> String {
    let result = match verdict {
        None => "FAIL (not measured)",
        Some(Verdict { pass: true, .. }) => "pass",
        Some(_) => "FAIL",
    };
    result.to_owned()
}

const fn demand(crowd: Crowd, metric: Metric, must: f64, aim: f64) -> Demand {
    Demand { crowd, metric, must, aim }
}

/// 1,000 services on 100 nodes.
const MIDDLE: Crowd = Crowd { pods: 10_000, nodes: 100 };
/// 10,000 services on 500 nodes.
const LARGE: Crowd = Crowd { pods: 100_000, nodes: 500 };

/// Milliseconds, bytes, seconds and mebibytes, as the metrics have them.
const DEMANDS: &[Demand] = &[
    demand(MIDDLE, Metric::P99Ms, 500.0, 100.0),
    demand(MIDDLE, Metric::BytesPerChange, 2_000.0, 300.0),
    demand(LARGE, Metric::ColdS, 60.0, 15.0),
    demand(LARGE, Metric::RssMb, 1_500.0, 600.0),
    demand(LARGE, Metric::BytesPerChange, 2_000.0, 300.0),
    demand(LARGE, Metric::NodeRssMb, 250.0, 80.0),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{error_row, rows};

    fn of(crowd: Crowd, figures: &[(Metric, f64)]) -> Vec<Row> {
        rows(&format!("control/{crowd}"), &[("mesh".to_owned(), vec![figures.to_vec()])])
    }

    #[test]
    fn what_is_measured_is_judged_by_must_and_aim() {
        let mut rows = of(MIDDLE, &[(Metric::P99Ms, 120.0), (Metric::BytesPerChange, 250.0)]);
        let judged = judge(&mut rows).expect("demands");
        assert_eq!(judged.missed, 0, "{}", judged.table);
        let lines: Vec<Vec<&str>> =
            judged.table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1].join(" "),
            "control/10000x100 p99_ms 120 <= 500 pass <= 100 FAIL",
            "{}",
            judged.table
        );
        assert_eq!(lines.len(), 3, "nothing is said of meshes that were not asked for: {}", judged.table);
        let verdict = |row: &Row| (row.must.as_ref().map(|it| it.pass), row.aim.as_ref().map(|it| it.pass));
        let row = rows.iter().find(|row| row.metric == "p99_ms").expect("a row");
        assert_eq!(verdict(row), (Some(true), Some(false)));
    }

    #[test]
    fn what_is_too_much_or_missing_has_missed() {
        let mut rows = of(LARGE, &[(Metric::ColdS, 61.0), (Metric::RssMb, 10.0), (Metric::NodeRssMb, 10.0)]);
        let judged = judge(&mut rows).expect("demands");
        assert_eq!(judged.missed, 2, "{}", judged.table);
        assert!(judged.table.contains("FAIL (not measured)"), "{}", judged.table);
        let mut failed = vec![error_row("control/10000x100", "mesh", "it does not start")];
        assert_eq!(judge(&mut failed).map(|judged| judged.missed), Some(2));
        assert!(judge(&mut of(Crowd { pods: 10, nodes: 1 }, &[(Metric::P99Ms, 1.0)])).is_none());
    }
}
