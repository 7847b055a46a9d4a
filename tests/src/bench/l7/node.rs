//! Layer 7 on the client's node: a service with a route of its own, beside the same service without. And at a waypoint:
//! the same route there, beside the client's node.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::subject::Subject;
use crate::bench::{
    DISTURBING, Failure, Outcome, PAUSE, Plan,
    case::{Load, Place, Traffic},
    figures::{Sample, rows},
    load, manifests,
    process::Disturbance,
    shown,
    stand::{NODES, Port, Stand, System},
};
use crate::waypoint;

/// Measures through pods of a bed of its own.
pub(super) fn run(
    case: Subject,
    plan: &Plan,
    tell: &mut dyn FnMut(&str),
    outcome: &mut Outcome,
) -> Result<()> {
    tell("Starting the pods.");
    let systems = match case {
        Subject::Waypoint => [System::Direct, System::MeshL7, System::Waypoint],
        _ => [System::Direct, System::Mesh, System::MeshL7],
    };
    let stand = Stand::start(&systems, None, &plan.node_args)?;
    let services = systems.into_iter().map(manifests::service);
    let ruled = systems.into_iter().filter(|system| matches!(system, System::MeshL7 | System::Waypoint));
    let rules = ruled.map(|system| manifests::route(system, ROUTED));
    let bed = stand.bed(System::MeshL7);
    bed.apply(&services.chain(rules).collect::<String>())?;
    if case == Subject::Waypoint {
        let name = (System::Waypoint.name(), "way");
        let pod = waypoint::pod(bed, waypoint::Source::Control, name, NODES[1])?;
        bed.apply(&(waypoint::gateway(name, "") + &pod))?;
        bed.wait_ready(Duration::from_secs(60), |_| ())?;
    }
    let mut contest = Contest { case, stand, samples: Vec::new(), failures: Vec::new() };
    for system in systems {
        match contest.prepare(system) {
            Ok(()) => contest.samples.push((system, Vec::new())),
            Err(reason) => contest.failures.push((system, reason)),
        }
    }
    for round in 1..=plan.runs {
        for index in 0..contest.samples.len() {
            let Some((system, _)) = contest.samples.get(index) else { continue };
            let system = *system;
            if contest.failures.iter().any(|(failed, _)| *failed == system) {
                continue;
            }
            match contest.turn(system, plan.seconds) {
                Ok((sample, others)) => {
                    let (runs, shown) = (plan.runs, shown(&sample, others));
                    tell(&format!("{case}, round {round} of {runs}, {system}: {shown}"));
                    outcome.turns += 1;
                    outcome.disturbed += usize::from(others > DISTURBING);
                    contest
                        .samples
                        .iter_mut()
                        .filter(|(it, _)| *it == system)
                        .for_each(|it| it.1.push(sample.clone()));
                }
                Err(reason) => contest.failures.push((system, reason)),
            }
        }
    }
    contest.report(tell, outcome);
    tell("Ending the pods.");
    Ok(())
}

struct Contest {
    case: Subject,
    stand: Stand,
    samples: Vec<(System, Vec<Sample>)>,
    failures: Vec<(System, anyhow::Error)>,
}

impl Contest {
    fn prepare(&self, system: System) -> Result<()> {
        // The address of a service is there a moment after the service.
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(reason) = self.stand.servers(system, TRAFFIC.place, (Port::Http, 1)) {
            if Instant::now() > deadline {
                return Err(reason);
            }
            thread::sleep(Duration::from_millis(100));
        }
        self.stand.warm_up(system, TRAFFIC)?;
        match system {
            System::MeshL7 | System::Waypoint => self.routed(system, deadline),
            _ => Ok(()),
        }
    }

    /// A mesh that does not look at the route would look like one that does so at no cost.
    fn routed(&self, system: System, deadline: Instant) -> Result<()> {
        let servers = self.stand.servers(system, TRAFFIC.place, (Port::Http, 1))?;
        let url = format!("http://{}/", servers.first().context("there is no server")?);
        let host = format!("Host: {}", manifests::service_host(system));
        loop {
            let words = ["curl", "-sS", "-i", "--max-time", "5", "--output", "-", "-H", &host, &url];
            let output = self.stand.client(system)?.exec(&words)?;
            let answer = String::from_utf8_lossy(&output.stdout);
            let head = answer.split("\r\n\r\n").next().unwrap_or_default();
            if head.lines().any(|line| line.eq_ignore_ascii_case(&format!("{ROUTED}: yes"))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{system} does not apply the VirtualService: there is no {ROUTED} in\n{head}");
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn turn(&self, system: System, seconds: u64) -> Result<(Sample, f64)> {
        thread::sleep(PAUSE);
        let watch = Disturbance::watch(self.stand.cgroups())?;
        let sample = load::run(&self.stand, system, TRAFFIC, seconds);
        let others = watch.cores()?;
        self.stand.trim_logs()?;
        Ok((sample?, others))
    }

    fn report(self, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) {
        let samples: Vec<_> =
            self.samples.into_iter().map(|(system, samples)| (system.to_string(), samples)).collect();
        outcome.rows.extend(rows(self.case.name(), &samples));
        for (system, reason) in self.failures {
            let (case, system) = (self.case.to_string(), system.to_string());
            outcome.fail(Failure { case, system, reason }, tell);
        }
    }
}

const TRAFFIC: Traffic = Traffic { place: Place::Service, load: Load::Http, concurrency: 32 };

/// The header of answers by which a route is known.
const ROUTED: &str = "x-routed";
