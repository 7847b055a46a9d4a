//! Benches: the mesh beside the same pods without it, in the same run.
//!
//! Figures of one machine mean little by themselves, so each case runs through all systems in turn, several rounds,
//! and what counts is the ratio of the medians. Load comes from `iperf3` (bulk), `wrk` on `nginx` (kept connections)
//! and [`client`] (new connections). Nothing is pinned, no setting of the machine is changed, and proxies run as in
//! production: a line of access log for each connection, into a file. [`l7`] has its own rules.
//!
//! The processor time of a proxy is what the kernel charges to its process. The work that the kernel does for it on
//! somebody else's account (interrupts, the other end's system calls) shows in the rates only.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

pub use self::{
    case::Case,
    chart::{Machine, chart},
    figures::{Metric, Row, Verdict, rows, table},
    stand::System,
};
use self::{
    case::Load,
    figures::{Sample, error_row, number},
    process::Disturbance,
    stand::Stand,
};

mod case;
mod chart;
pub mod client;
pub mod control;
mod even;
mod figures;
pub mod grpc;
mod halves;
mod l7;
mod load;
mod manifests;
mod memory;
pub mod names;
mod output;
pub mod pace;
mod policy;
mod process;
pub mod relay;
mod stand;
mod telemetry;
mod ztunnel;

/// What to measure and how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What to measure.
    pub cases: Vec<Case>,
    /// Rounds of each case; in each, every system has its turn.
    pub runs: usize,
    /// Seconds of load in each turn.
    pub seconds: u64,
    /// The `ztunnel` to compare with, if there is one.
    pub ztunnel: Option<PathBuf>,
    /// The `envoy` to compare gateways with; none means the one that `cargo xtask bench` has installed.
    pub envoy: Option<PathBuf>,
    /// Arguments for every `mesh-node` of a node.
    pub node_args: Vec<String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The figures, case by case.
    pub rows: Vec<Row>,
    /// What could not be measured.
    pub failures: Vec<Failure>,
    /// Measured turns of all cases of traffic.
    pub turns: usize,
    /// Those of them during which others took more than a tenth of a processor.
    pub disturbed: usize,
    /// Figures of the mesh that must be better than they are, or were not measured.
    pub missed: usize,
    /// Tables of what is demanded of the mesh, and whether it is so.
    demands: Vec<String>,
}

/// A case that a system has failed.
#[derive(Debug)]
pub struct Failure {
    /// Which case.
    pub case: String,
    /// Through which system.
    pub system: String,
    /// Why, with all that the tools have said.
    pub reason: anyhow::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} through {} failed: {:#}", self.case, self.system, self.reason)
    }
}

impl Outcome {
    /// A table for each case, and of what is demanded of the mesh if anything is.
    pub fn tables(&self) -> String {
        let mut text = String::new();
        for case in self.rows.chunk_by(|a, b| a.case == b.case) {
            if !text.is_empty() {
                text.push('\n');
            }
            text.extend(case.first().map(|row| row.case.as_str()));
            text.push('\n');
            text.push_str(&table(case));
        }
        for demands in &self.demands {
            text.push('\n');
            text.push_str(demands);
        }
        text
    }

    /// Judges the figures by what is demanded of them.
    fn judge(&mut self) {
        self.demands.extend(l7::demand::judge(&mut self.rows));
        let fails = |row: &Row| row.must.as_ref().is_some_and(|must| !must.pass);
        self.missed = self.rows.iter().filter(|row| fails(row)).count();
        if let Some(judged) = control::demand::judge(&mut self.rows) {
            self.missed += judged.missed;
            self.demands.push(judged.table);
        }
    }

    /// Notes that a system has failed a case: as a row, so that it is not taken for one that was not asked.
    fn fail(&mut self, failure: Failure, tell: &mut dyn FnMut(&str)) {
        tell(&failure.to_string());
        self.rows.push(error_row(&failure.case, &failure.system, &format!("{:#}", failure.reason)));
        self.failures.push(failure);
    }
}

/// Measures. `tell` hears of each step. A case that fails for one system does not keep others from being measured;
/// the error is for what keeps all of them from it.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let traffic: Vec<Case> = plan
        .cases
        .iter()
        .copied()
        .filter(|case| matches!(case, Case::Traffic(_) | Case::Memory(_)))
        .collect();
    if !traffic.is_empty() {
        check_tools(&traffic)?;
    }
    let _even = even::Even::begin();
    let mut outcome = Outcome::default();
    // Before there are pods, which have something to do even when nobody calls.
    for case in &plan.cases {
        match case {
            Case::Control(_) | Case::Policy(_) => ask(plan, *case, tell, &mut outcome),
            Case::L7(subject) => l7::run(*subject, plan, tell, &mut outcome),
            Case::Telemetry(subject) => telemetry::run(*subject, plan, tell, &mut outcome),
            Case::Traffic(_) | Case::Memory(_) => {}
        }
    }
    outcome.judge();
    if traffic.is_empty() {
        return Ok(outcome);
    }
    tell("Starting the pods.");
    let systems = [System::Direct, System::Relay, System::Mesh];
    let mut stand = Stand::start(&systems, plan.ztunnel.as_deref(), &plan.node_args)?;
    for case in traffic {
        Session { stand: &mut stand, plan, case, tell }.run(&mut outcome);
    }
    tell("Ending the pods.");
    Ok(outcome)
}

/// Asks a question that needs no pods.
fn ask(plan: &Plan, case: Case, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) {
    let sample = || match case {
        Case::Control(question) => question.sample(plan.seconds),
        Case::Policy(subject) => subject.sample().map(|sample| vec![(System::Mesh, sample)]),
        Case::Traffic(_) | Case::Memory(_) | Case::L7(_) | Case::Telemetry(_) => Ok(Vec::new()),
    };
    let mut samples: Vec<(String, Vec<Sample>)> = Vec::new();
    for round in 1..=plan.runs {
        let turns = match sample() {
            Ok(turns) => turns,
            Err(reason) => {
                let (case, system) = (case.to_string(), System::Mesh.to_string());
                outcome.fail(Failure { case, system, reason }, tell);
                break;
            }
        };
        for (system, sample) in turns {
            tell(&format!("{case}, round {round} of {}, {system}: {}", plan.runs, shown(&sample, 0.0)));
            let name = system.to_string();
            match samples.iter_mut().find(|(known, _)| *known == name) {
                Some((_, samples)) => samples.push(sample),
                None => samples.push((name, vec![sample])),
            }
        }
    }
    outcome.rows.extend(rows(&case.to_string(), &samples));
}

/// One case on its way.
struct Session<'a> {
    stand: &'a mut Stand,
    plan: &'a Plan,
    case: Case,
    tell: &'a mut dyn FnMut(&str),
}

impl Session<'_> {
    fn run(mut self, outcome: &mut Outcome) {
        let case = self.case;
        let mut failures = Vec::new();
        let mut samples: Vec<(System, Vec<Sample>)> = Vec::new();
        for system in self.stand.systems() {
            match self.prepare(system) {
                Ok(true) => samples.push((system, Vec::new())),
                Ok(false) => {}
                Err(reason) => failures.push((system, reason)),
            }
        }
        for round in 1..=self.plan.runs {
            for (system, samples) in &mut samples {
                if failures.iter().any(|(failed, _)| failed == system) {
                    continue;
                }
                match self.sample(*system) {
                    Ok((sample, others)) => {
                        let (runs, shown) = (self.plan.runs, shown(&sample, others));
                        (self.tell)(&format!("{case}, round {round} of {runs}, {system}: {shown}"));
                        samples.push(sample);
                        outcome.turns += usize::from(case.traffic().is_some());
                        outcome.disturbed += usize::from(case.traffic().is_some() && others > DISTURBING);
                    }
                    Err(reason) => failures.push((*system, reason)),
                }
            }
        }
        let named: Vec<(String, Vec<Sample>)> =
            samples.into_iter().map(|(system, samples)| (system.to_string(), samples)).collect();
        outcome.rows.extend(rows(&case.to_string(), &named));
        for (system, reason) in failures {
            let (case, system) = (case.to_string(), system.to_string());
            outcome.fail(Failure { case, system, reason }, self.tell);
        }
    }

    /// Whether a case can be measured through a system; makes it ready if so.
    fn prepare(&self, system: System) -> Result<bool> {
        match self.case {
            Case::Traffic(traffic) => self.stand.warm_up(system, traffic).map(|()| true),
            Case::Memory(memory) => Ok(memory::applies(system, memory)),
            Case::Control(_) | Case::L7(_) | Case::Policy(_) | Case::Telemetry(_) => Ok(false),
        }
    }

    /// One turn, and how many processors others have used meanwhile.
    fn sample(&mut self, system: System) -> Result<(Sample, f64)> {
        thread::sleep(PAUSE);
        let watch = Disturbance::watch(self.stand.cgroups())?;
        let sample = match self.case {
            Case::Traffic(traffic) => load::run(self.stand, system, traffic, self.plan.seconds),
            Case::Memory(memory) => memory::run(self.stand, system, memory),
            Case::Control(_) | Case::L7(_) | Case::Policy(_) | Case::Telemetry(_) => {
                bail!("no question to pods")
            }
        };
        let others = watch.cores()?;
        self.stand.trim_logs()?;
        Ok((sample?, others))
    }
}

fn shown(sample: &Sample, others: f64) -> String {
    let counts = |(metric, value): &&(Metric, f64)| *metric != Metric::Errors || *value > 0.0;
    let figure = |(metric, value): &(Metric, f64)| format!("{} {}", number(*value), metric.name());
    let mut figures: Vec<String> = sample.iter().filter(counts).map(figure).collect();
    if others > DISTURBING {
        figures.push(format!("while others took {others:.1} processors"));
    }
    figures.join(", ")
}

/// Says at once, and all of it, what the load would fail on later.
fn check_tools(cases: &[Case]) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let present = |tool: &str| env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    let missing = missing_tools(cases, present);
    if missing.is_empty() {
        return Ok(());
    }
    let tools: Vec<&str> = missing.iter().map(|(tool, _)| *tool).collect();
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    bail!("{} not found (packages: {})", tools.join(", "), packages.join(", "));
}

/// Programs that the cases need and that are not there, with the Debian packages that have them.
fn missing_tools(cases: &[Case], present: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let loads: Vec<Load> =
        cases.iter().filter_map(|case| case.traffic()).map(|traffic| traffic.load).collect();
    // Servers run in any case.
    let mut needed = vec![("timeout", "coreutils"), ("nginx", "nginx-light"), ("iperf3", "iperf3")];
    if loads.contains(&Load::Http) {
        needed.push(("wrk", "wrk"));
    }
    needed.retain(|(tool, _)| !present(tool));
    needed
}

/// Checks the name and the program of a peer, `ztunnel=PATH`.
pub fn parse_peer(text: &str) -> Result<PathBuf, String> {
    match text.split_once('=') {
        Some(("ztunnel", path)) if Path::new(path).is_file() => Ok(PathBuf::from(path)),
        Some(("ztunnel", path)) => Err(format!("there is no file {path:?}")),
        _ => Err(format!("{text:?} is not ztunnel=PATH; no other peer is known")),
    }
}

/// Processors that others may use before a figure is doubtful.
const DISTURBING: f64 = 0.1;

/// Between turns: the last one's connections close, its log lines are written.
const PAUSE: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_missed_by_package() {
        let cases = Case::select(&["same-node/bulk".to_owned()]).unwrap();
        assert_eq!(missing_tools(&cases, |tool| tool != "iperf3"), [("iperf3", "iperf3")]);
        assert_eq!(missing_tools(&cases, |tool| tool != "wrk"), [], "nobody would run it");
        let all = Case::all();
        let missing = missing_tools(&all, |_| false);
        assert_eq!(missing.len(), 4, "{missing:?}");
    }

    #[test]
    fn peers() {
        let own = env::current_exe().unwrap();
        assert_eq!(parse_peer(&format!("ztunnel={}", own.display())), Ok(own.clone()));
        assert!(parse_peer("ztunnel=/nowhere").unwrap_err().contains("no file"));
        assert!(parse_peer("envoy=/bin/sh").unwrap_err().contains("not ztunnel=PATH"));
    }

    #[test]
    fn a_table_for_each_case() {
        let samples = |value| vec![("direct".to_owned(), vec![vec![(Metric::Cps, value)]])];
        let mut outcome = Outcome { rows: rows("a/b/1", &samples(5.0)), ..Outcome::default() };
        outcome.rows.extend(rows("c/d/8", &samples(7.0)));
        let tables = outcome.tables();
        assert_eq!(tables.matches("system").count(), 2, "{tables}");
        assert!(tables.starts_with("a/b/1\nsystem") && tables.contains("\n\nc/d/8\n"), "{tables}");
    }
}
