//! One case: all contestants side by side, in turns.

use std::{net::TcpStream, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{
    config::{self, Place, Setup},
    contestant::Contestant,
    load::{self, Generator, Seen, Turn},
    machine::{Cores, Quiet, Scratch, Server, find},
    subject::{Load, Subject},
    table::{RouteTable, Upstream},
};
use crate::bench::{
    DISTURBING, Failure, Outcome, PAUSE, Plan,
    figures::{Metric, Sample, number, rows},
    process, shown,
};

/// Measures one case through everybody.
pub(super) fn run(
    subject: Subject,
    plan: &Plan,
    tell: &mut dyn FnMut(&str),
    outcome: &mut Outcome,
) -> Result<()> {
    let stage = Stage::new(subject, plan)?;
    let mut entrants = Vec::new();
    // The origin is no gateway; what it keeps in memory says nothing.
    let takes_part = |contestant: &Contestant| match contestant {
        Contestant::Direct => subject != Subject::Idle,
        // What carries bytes is a module of its own there.
        Contestant::Nginx => subject != Subject::Tcp,
        _ => true,
    };
    for contestant in Contestant::ALL.into_iter().filter(takes_part) {
        let mut entrant = Entrant { contestant, server: None, samples: Vec::new(), failed: None };
        if let Err(reason) = stage.enter(&mut entrant) {
            entrant.fail(reason);
        }
        entrants.push(entrant);
    }
    let rate = match subject.load() {
        Load::Paced => stage.rate(&entrants, tell),
        _ => Ok(0.0),
    };
    let rate = rate.unwrap_or_else(|reason| {
        let there = entrants.iter_mut().filter(|entrant| entrant.failed.is_none());
        there.for_each(|it| it.fail(anyhow!("no rate without the peak of Envoy: {reason:#}")));
        0.0
    });
    for round in 1..=plan.runs {
        for index in 0..entrants.len() {
            // Servers of all others run on while one is measured, and are not a disturbance.
            let ours = stage.pids(&entrants);
            let Some(entrant) = entrants.get_mut(index).filter(|entrant| entrant.failed.is_none()) else {
                continue;
            };
            match stage.turn(entrant, rate, &ours) {
                Ok((sample, others)) => {
                    let (name, runs, shown) = (entrant.contestant, plan.runs, shown(&sample, others));
                    tell(&format!("{subject}, round {round} of {runs}, {name}: {shown}"));
                    outcome.turns += 1;
                    outcome.disturbed += usize::from(others > DISTURBING);
                    entrant.samples.push(sample);
                }
                Err(reason) => entrant.fail(reason),
            }
        }
    }
    report(subject, entrants, tell, outcome);
    Ok(())
}

fn report(subject: Subject, entrants: Vec<Entrant>, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) {
    let mut samples = Vec::new();
    for entrant in entrants {
        let system = entrant.contestant.to_string();
        samples.push((system.clone(), entrant.samples));
        if let Some(reason) = entrant.failed {
            outcome.fail(Failure { case: subject.to_string(), system, reason }, tell);
        }
    }
    outcome.rows.extend(rows(subject.name(), &samples));
}

/// Somebody who takes part in a case.
#[derive(Debug)]
struct Entrant {
    contestant: Contestant,
    /// None for the origin, and for memory between turns.
    server: Option<Server>,
    samples: Vec<Sample>,
    failed: Option<anyhow::Error>,
}

impl Entrant {
    /// Takes no further part.
    fn fail(&mut self, reason: anyhow::Error) {
        self.failed = Some(reason);
        self.server = None;
    }

    fn cpu_seconds(&self) -> Result<Option<f64>> {
        self.server.as_ref().map(|server| process::cpu_seconds(&[server.pid()])).transpose()
    }
}

/// What all contestants of a case have in common. Fields drop in order: servers go before their files.
#[derive(Debug)]
struct Stage<'a> {
    subject: Subject,
    plan: &'a Plan,
    table: RouteTable,
    cores: Cores,
    generator: Generator,
    origins: Vec<Server>,
    scratch: Scratch,
}

impl<'a> Stage<'a> {
    fn new(subject: Subject, plan: &'a Plan) -> Result<Self> {
        let (table, scratch, cores) = (subject.table(), Scratch::new()?, Cores::of_this_process()?);
        let generator = Generator::new(subject.load(), &table, scratch.dir("load"))?;
        let mut stage = Self { subject, plan, table, cores, generator, origins: Vec::new(), scratch };
        stage.start_origins().context("the origin")?;
        Ok(stage)
    }

    fn start_origins(&mut self) -> Result<()> {
        let dir = self.scratch.dir("origin");
        let (program, core) = (Contestant::Direct.program(None)?, self.cores.rest);
        let setup = config::nginx::origin(&self.table, Place { dir: &dir, port: Contestant::Direct.port() });
        let mut origins = vec![Server::start(core, &program, &setup, &dir)?];
        if self.table.upstream == Upstream::Grpc {
            let program =
                std::env::current_exe().context("where is this program?")?.with_file_name("netprobe");
            let services = self.table.services.iter().map(|service| service.address.to_string());
            let args = ["grpc".to_owned()].into_iter().chain(services).collect();
            let setup = Setup { files: Vec::new(), args };
            origins.push(Server::start(core, &program, &setup, &self.scratch.dir("grpc"))?);
        }
        if self.table.upstream == Upstream::Tcp {
            for service in &self.table.services {
                let (ip, port) = (service.address.ip().to_string(), service.address.port().to_string());
                let args = ["--server", "--bind", &ip, "--port", &port].map(str::to_owned).to_vec();
                let setup = Setup { files: Vec::new(), args };
                let program = find("iperf3").context("iperf3 is not installed")?;
                origins.push(Server::start(core, &program, &setup, &self.scratch.dir("iperf3"))?);
            }
        }
        for origin in &mut origins {
            // They bind all addresses before they answer on any.
            let addresses = || self.table.services.iter().map(|service| service.address);
            origin.wait(|| addresses().try_for_each(|at| Ok(TcpStream::connect(at).map(drop)?)))?;
        }
        self.origins = origins;
        Ok(())
    }

    /// Starts somebody, sees that it does what it is to do, and has it warm up.
    fn enter(&self, entrant: &mut Entrant) -> Result<()> {
        if self.subject == Subject::Idle {
            // Each turn starts it anew.
            return entrant.contestant.program(self.plan.envoy.as_deref()).map(drop);
        }
        entrant.server = self.start(entrant.contestant)?;
        let warm_up = self.generator.with(if self.subject.load() == Load::Paced {
            Load::Same
        } else {
            self.subject.load()
        });
        warm_up.run(self.asked(entrant.contestant, self.plan.seconds.min(WARM_UP), 0.0))?;
        if let (Some(server), Some(_)) = (&entrant.server, &self.table.extras) {
            // Some write their log when a buffer is full or a second is over.
            thread::sleep(Duration::from_millis(1100));
            ensure!(server.logged() > 0, "there is no access log");
        }
        Ok(())
    }

    fn start(&self, contestant: Contestant) -> Result<Option<Server>> {
        let dir = self.scratch.dir(contestant.name());
        let Some(setup) = contestant.setup(&self.table, &dir) else {
            // The origin; it has started together with the stage.
            return Ok(None);
        };
        let program = contestant.program(self.plan.envoy.as_deref())?;
        let mut server = Server::start(self.cores.proxy, &program, &setup, &dir)?;
        server.wait(|| self.check(contestant))?;
        Ok(Some(server))
    }

    /// Asks once, and compares the answer with what the table demands: a proxy that does less would look better.
    fn check(&self, contestant: Contestant) -> Result<()> {
        if self.table.upstream == Upstream::Tcp {
            return self.generator.run(self.asked(contestant, 1, 0.0)).map(drop);
        }
        let known = self.ask(contestant, self.generator.path())?;
        ensure!(status(&known) == Some("200"), "a known path is answered with\n{known}");
        if self.table.upstream == Upstream::Grpc {
            ensure!(header(&known, "grpc-status") == Some("0"), "no status of gRPC in\n{known}");
        }
        let unknown = self.ask(contestant, "/unknown")?;
        let refused = status(&unknown) == Some("404") || header(&unknown, "grpc-status") == Some("12");
        ensure!(refused, "an unknown path is answered with\n{unknown}");
        let Some(extras) = &self.table.extras else { return Ok(()) };
        let route = self.table.targets().first().map(|target| target.route.to_owned());
        ensure!(
            header(&known, "x-saw-route") == route.as_deref(),
            "the service was not told its route:\n{known}"
        );
        ensure!(
            header(&known, "x-saw-internal").is_none(),
            "the service was told what it was not to:\n{known}"
        );
        for (name, value) in &extras.answered {
            ensure!(header(&known, name) == Some(value), "the answer lacks {name}:\n{known}");
        }
        Ok(())
    }

    fn ask(&self, contestant: Contestant, path: &str) -> Result<String> {
        let curl = find("curl").context("curl is not installed")?;
        let output =
            std::process::Command::new(curl).args(self.generator.question(contestant, path)).output()?;
        if !output.status.success() {
            bail!("curl: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// 70 % of what Envoy does at most.
    fn rate(&self, entrants: &[Entrant], tell: &mut dyn FnMut(&str)) -> Result<f64> {
        let envoy = entrants.iter().find(|entrant| entrant.contestant == Contestant::Envoy);
        let envoy = envoy.context("it takes no part")?;
        if let Some(reason) = &envoy.failed {
            bail!("{reason:#}");
        }
        let mut peaks = Vec::new();
        for _ in 0..self.plan.runs.min(PEAKS) {
            let asked = self.asked(Contestant::Envoy, self.plan.seconds, 0.0);
            let Seen::Requests(seen) = self.generator.with(Load::Same).run(asked)? else { continue };
            peaks.push(seen.per_second);
        }
        peaks.sort_unstable_by(f64::total_cmp);
        let peak = *peaks.get(peaks.len() / 2).context("no round")?;
        let rate = (peak * OF_PEAK).round();
        tell(&format!(
            "{}: Envoy's peak is {}; everybody is asked {} times a second.",
            self.subject,
            number(peak),
            number(rate)
        ));
        Ok(rate)
    }

    /// One turn, and how many processors others have used meanwhile.
    fn turn(&self, entrant: &mut Entrant, rate: f64, ours: &[u32]) -> Result<(Sample, f64)> {
        if self.subject == Subject::Idle {
            return self.idle(entrant.contestant).map(|sample| (sample, 0.0));
        }
        thread::sleep(PAUSE);
        let quiet = Quiet::watch(ours)?;
        let before = entrant.cpu_seconds()?;
        let seen = self.generator.run(self.asked(entrant.contestant, self.plan.seconds, rate));
        if let Some(server) = &mut entrant.server {
            server.alive()?;
            server.trim_logs()?;
        }
        let used = entrant.cpu_seconds()?.zip(before).map(|(after, before)| after - before);
        Ok((load::sample(&seen?, used), quiet.cores(ours)?))
    }

    /// What a new process takes when it has read its configuration and done nothing since.
    fn idle(&self, contestant: Contestant) -> Result<Sample> {
        let Some(server) = self.start(contestant)? else { return Ok(Vec::new()) };
        thread::sleep(SETTLING);
        Ok(vec![(Metric::RssMb, process::rss_kb(server.pid())? / 1024.0)])
    }

    fn asked(&self, contestant: Contestant, seconds: u64, rate: f64) -> Turn {
        Turn { contestant, core: self.cores.rest, seconds, rate }
    }

    fn pids(&self, entrants: &[Entrant]) -> Vec<u32> {
        self.origins
            .iter()
            .chain(entrants.iter().filter_map(|entrant| entrant.server.as_ref()))
            .map(Server::pid)
            .collect()
    }
}

/// The status of an answer as curl shows it.
fn status(answer: &str) -> Option<&str> {
    answer.lines().next()?.split_whitespace().nth(1)
}

/// A header, or a trailer, of an answer as curl shows it.
fn header<'a>(answer: &'a str, wanted: &str) -> Option<&'a str> {
    let mut lines = answer.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
}

/// Seconds of load before anything counts.
const WARM_UP: u64 = 1;

/// Rounds that Envoy's peak is the median of.
const PEAKS: usize = 3;

/// A load under which a proxy is busy, and not yet late.
const OF_PEAK: f64 = 0.7;

/// Until what has to be done once is done, and what is not needed is given back.
const SETTLING: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let answer =
            "HTTP/2 200 \r\ncontent-type: application/grpc\r\nX-Saw-Route: a\r\n\r\nbodygrpc-status: 0\r\n";
        assert_eq!((status(answer), header(answer, "x-saw-route")), (Some("200"), Some("a")));
        assert_eq!((status(""), header(answer, "x-none")), (None, None));
    }
}
