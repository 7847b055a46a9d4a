//! What it costs to tell about requests and connections: nothing beside metrics and the access log, these beside 1 % of the requests
//! traced as well.
//!
//! What is looked for is smaller than what differs between two loads that are alike: which thread serves which connection, and what else the
//! machine does at the time. So there are two meshes that are alike, each with a load that goes on over the same connections. One tells more
//! while the other tells less, at the same time; then they change places. What is the machine's is the same for both, and what is a mesh's own
//! is there in both turns: only what telling costs stays. Each has half of the processors for itself, and they exchange these all the time: on
//! processors that they share, they contend, and whoever takes a little more for a request is made to take more still, or less. There are several
//! pairs of meshes, one after the other, because a process may have its own way of answering to telling more.
//!
//! Requests come in bursts, one over each connection, at a constant rate; or as fast as they are answered. The limits hold for both.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    DISTURBING, Failure, Outcome, PAUSE, Plan,
    case::{Load, Place, Traffic},
    figures::{Metric, Row, Sample, Summary, Verdict, rows},
    halves::Halves,
    load, manifests,
    process::{self, Disturbance},
    shown,
    stand::{NODES, Port, Stand, System},
};
use crate::bed::Process;

/// What is told about, and how it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    layer: Layer,
    pace: Pace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// Requests, read at both nodes.
    Requests,
    /// Connections, one for each request.
    Connections,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// At a constant rate, one over each connection at a time.
    Bursts,
    /// As fast as they are answered.
    Saturating,
}

/// What is told in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Usual,
    Traces,
}

/// Two of them, and how much more one may take than the other.
#[derive(Debug, Clone, Copy)]
struct Comparison {
    more: Told,
    less: Told,
    wanted: f64,
}

impl Subject {
    pub(super) fn all() -> Vec<Self> {
        let layers = [Layer::Requests, Layer::Connections];
        let paces = [Pace::Bursts, Pace::Saturating];
        layers.iter().flat_map(|layer| paces.map(|pace| Self { layer: *layer, pace })).collect()
    }

    /// What telling more may cost at most, in CPU of a request or connection, beside telling less.
    fn limits(self) -> &'static [Comparison] {
        const USUAL: Comparison = Comparison { more: Told::Usual, less: Told::Nothing, wanted: 1.10 };
        const TRACES: Comparison = Comparison { more: Told::Traces, less: Told::Usual, wanted: 1.01 };
        match self.layer {
            Layer::Requests => &[USUAL, TRACES],
            Layer::Connections => &[Comparison { wanted: 1.03, ..USUAL }],
        }
    }

    fn traffic(self) -> Traffic {
        self.layer.traffic()
    }

    fn system(self) -> System {
        match self.layer {
            Layer::Requests => System::MeshL7,
            Layer::Connections => System::Mesh,
        }
    }

    /// Requests are read in every turn, or the difference would be that of another layer.
    fn telemetry(self, told: Told) -> String {
        let spec = match told {
            Told::Nothing => {
                "metrics: [{overrides: [{disabled: true}]}], accessLogging: [{disabled: true}], tracing: [{disableSpanReporting: true}]"
            }
            Told::Usual => "tracing: [{disableSpanReporting: true}]",
            Told::Traces => "tracing: [{randomSamplingPercentage: 1, providers: [{name: bench}]}]",
        };
        let reads = if self.layer == Layer::Requests { "enabled" } else { "disabled" };
        format!(
            "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: bench, namespace: {}, \
             annotations: {{mesh.internal/l7-telemetry: {reads}}}}}, spec: {{{spec}}}}}\n---\n",
            self.system()
        )
    }
}

impl Layer {
    fn traffic(self) -> Traffic {
        match self {
            Self::Requests => Traffic { place: Place::Service, load: Load::Http, concurrency: 32 },
            Self::Connections => Traffic { place: Place::CrossNode, load: Load::Connect, concurrency: 8 },
        }
    }

    /// How many come in a second to each of the twins in bursts: what both can answer without being busy all the time. Bursts are no whole
    /// number of the kernel's ticks apart, by which it tells how busy the machine is.
    const fn rate(self) -> f64 {
        match self {
            Self::Requests => 7_900.0,
            Self::Connections => 1_490.0,
        }
    }

    const fn metric(self) -> Metric {
        match self {
            Self::Requests => Metric::Rps,
            Self::Connections => Metric::Cps,
        }
    }

    /// What a proxy counts them by, if they are told.
    const fn counter(self) -> &'static str {
        match self {
            Self::Requests => "istio_requests_total{",
            Self::Connections => "istio_tcp_connections_opened_total{",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.layer {
            Layer::Requests => "telemetry/l7/",
            Layer::Connections => "telemetry/l4/",
        })?;
        match self.pace {
            Pace::Bursts => f.write_str("bursts"),
            Pace::Saturating => write!(f, "{}", self.traffic().concurrency),
        }
    }
}

impl Told {
    /// As rows call it.
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "told-nothing",
            Self::Usual => "told-metrics-log",
            Self::Traces => "told-traces-1%",
        }
    }
}

/// Measures, on two beds of its own.
pub(super) fn run(subject: Subject, plan: &Plan, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) {
    if let Err(reason) = measure(subject, plan, tell, outcome) {
        let (case, system) = (subject.to_string(), subject.system().to_string());
        outcome.fail(Failure { case, system, reason }, tell);
    }
}

fn measure(subject: Subject, plan: &Plan, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) -> Result<()> {
    let mut samples = BTreeMap::<Told, Vec<Sample>>::new();
    let mut compared: Vec<_> = subject.limits().iter().map(|comparison| (*comparison, Vec::new())).collect();
    let halves = Halves::of_machine()?;
    for run in 1..=plan.runs {
        tell("Starting the pods.");
        let start = || Twin::start(subject, plan);
        let twins = [halves.within(0, start)?, halves.within(1, start)?];
        for (comparison, ratios) in &mut compared {
            let [first, second] = &twins;
            let _loads = [halves.within(0, || first.load())?, halves.within(1, || second.load())?];
            let mut of_run = Vec::new();
            for number in 1..=plan.seconds {
                let place =
                    format!("{subject}, pair {run} of {}, round {number} of {}", plan.runs, plan.seconds);
                let mut hear = |told: Told, sample: Sample, others| {
                    tell(&format!("{place}, {}: {}", told.name(), shown(&sample, others)));
                    samples.entry(told).or_default().push(sample);
                };
                of_run.push(round((&twins, &halves), *comparison, outcome, &mut hear)?);
            }
            ratios.extend(Summary::of(&of_run).map(|summary| summary.median));
        }
        tell("Ending the pods.");
    }
    let samples: Vec<_> = samples.into_iter().map(|(told, all)| (told.name().to_owned(), all)).collect();
    let mut rows = rows(&subject.to_string(), &samples);
    for (comparison, ratios) in compared {
        judge(subject, comparison, &ratios, &mut rows, tell);
    }
    outcome.rows.extend(rows);
    Ok(())
}

/// Two turns, in which the twins change places: how much more CPU it takes to tell more.
fn round(
    (twins, halves): (&[Twin; 2], &Halves),
    Comparison { more, less, .. }: Comparison,
    outcome: &mut Outcome,
    hear: &mut dyn FnMut(Told, Sample, f64),
) -> Result<f64> {
    let mut product = 1.0;
    for told in [[more, less], [less, more]] {
        let (pair, others) = turn((twins, halves), told)?;
        outcome.turns += 1;
        outcome.disturbed += usize::from(others > DISTURBING);
        for (told, sample) in told.into_iter().zip(pair) {
            let cpu = cpu(&sample).context("no processor time was measured")?;
            product *= if told == more { cpu } else { cpu.recip() };
            hear(told, sample, others);
        }
    }
    // Of both twins.
    Ok(product.sqrt())
}

/// One of two meshes that are alike.
#[derive(Debug)]
struct Twin {
    subject: Subject,
    stand: Stand,
}

/// What a twin has used and served at some time.
#[derive(Debug)]
struct Reading {
    pids: Vec<u32>,
    cpu: f64,
    served: f64,
    spans: f64,
    at: Instant,
}

impl Twin {
    fn start(subject: Subject, plan: &Plan) -> Result<Self> {
        let system = subject.system();
        let stand = Stand::start(&[system, System::Direct], None, &plan.node_args)?;
        let bed = stand.bed(system);
        bed.apply(&(manifests::service(system) + COLLECTOR))?;
        bed.wait_ready(Duration::from_secs(30), |_| ())?;
        let twin = Self { subject, stand };
        // How a connection is read is decided when it begins.
        twin.apply(Told::Usual)?;
        thread::sleep(LATE);
        Ok(twin)
    }

    /// A load without an end over half of the case's connections.
    fn load(&self) -> Result<Process> {
        let traffic = self.subject.traffic();
        let half = Traffic { concurrency: traffic.concurrency / 2, ..traffic };
        let words = match self.subject.pace {
            Pace::Bursts => self.bursts(half)?,
            Pace::Saturating => load::words(&self.stand, self.subject.system(), half, FOR_EVER)?,
        };
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        Ok(self.stand.client(self.subject.system())?.spawn(&words)?)
    }

    /// The words of the program that asks in bursts.
    fn bursts(&self, traffic: Traffic) -> Result<Vec<String>> {
        let system = self.subject.system();
        let servers = self.stand.servers(system, traffic.place, (Port::Http, 1))?;
        let server = servers.first().context("there is no server")?;
        let (host, rate) = (manifests::service_host(system), self.subject.layer.rate());
        let mut words = format!(
            "netprobe pace {server} --bursts --host {host} --rate {rate} --connections {} --seconds {FOR_EVER}",
            traffic.concurrency
        );
        if self.subject.layer == Layer::Connections {
            words.push_str(" --connect-anew");
        }
        Ok(words.split(' ').map(str::to_owned).collect())
    }

    fn read(&self) -> Result<Reading> {
        let pids = self.stand.proxies(self.subject.system())?;
        let (spans, served) = (self.count(SPANS)?, self.served()?);
        Ok(Reading { cpu: process::cpu_seconds(&pids)?, pids, served, spans, at: Instant::now() })
    }

    /// What a turn has cost, from its beginning until now.
    fn sample(&self, told: Told, before: &Reading) -> Result<Sample> {
        let now = self.read()?;
        let (cpu, served) = (now.cpu - before.cpu, now.served - before.served);
        let seconds = (now.at - before.at).as_secs_f64();
        ensure!(served > 0.0, "the load has ended");
        let (rate, asked) = (served / seconds, self.subject.layer.rate());
        let is_kept = self.subject.pace == Pace::Saturating || rate > KEPT * asked;
        ensure!(
            is_kept,
            "{asked} a second were asked and {rate:.0} answered: others need the machine, or it is too small"
        );
        ensure!(now.pids == before.pids, "a proxy has died");
        ensure!(told != Told::Traces || now.spans > before.spans, "no spans were taken");
        self.stand.trim_logs()?;
        Ok(vec![(self.subject.layer.metric(), rate), (Metric::CpuPer1k, cpu / (served / 1e3))])
    }

    /// Has the proxies tell so much.
    fn apply(&self, told: Told) -> Result<()> {
        Ok(self.stand.bed(self.subject.system()).apply(&self.subject.telemetry(told))?)
    }

    /// Waits until the proxies tell what they should, which shows in what they count.
    fn settle(&self, told: Told) -> Result<()> {
        let metric = self.subject.layer.counter();
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            // Within it, what was told before is delivered as well.
            thread::sleep(LATE);
            let before = self.count(metric)?;
            thread::sleep(PAUSE);
            if (self.count(metric)? > before) == (told != Told::Nothing) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{metric}…}} of {} is not what {} means", self.subject, told.name());
            }
        }
    }

    /// What the server has answered so far, by its own count.
    fn served(&self) -> Result<f64> {
        let server = self.stand.first_server(self.subject.system(), self.subject.traffic().place)?;
        let url = format!("http://127.0.0.1:{}{}", Port::Http.number(), manifests::STATUS);
        let output = server.exec(&["curl", "--silent", "--max-time", "5", &url])?;
        let text = String::from_utf8_lossy(&output.stdout);
        // The third number of the third line: connections accepted, connections handled, requests.
        let line = text.lines().nth(2).and_then(|line| line.split_whitespace().nth(2));
        line.and_then(|number| number.parse().ok()).with_context(|| format!("nginx says {text:?}"))
    }

    /// What both proxies count by such a name.
    fn count(&self, metric: &str) -> Result<f64> {
        let mut sum = 0.0;
        for node in NODES {
            let text = self.stand.bed(self.subject.system()).node(node)?.metrics()?;
            let wanted = text.lines().filter(|line| line.starts_with(metric));
            sum += wanted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(sum)
    }
}

/// Some seconds of loads that go on, and how many processors others were busy with.
fn turn((twins, halves): (&[Twin; 2], &Halves), told: [Told; 2]) -> Result<([Sample; 2], f64)> {
    for (twin, told) in twins.iter().zip(told) {
        twin.apply(told)?;
    }
    for (twin, told) in twins.iter().zip(told) {
        twin.settle(told)?;
    }
    let watch = Disturbance::watch(twins.iter().flat_map(|twin| twin.stand.cgroups()).collect())?;
    let [first, second] = twins;
    let before = (first.read()?, second.read()?);
    halves.exchange([&first.stand.cgroups(), &second.stand.cgroups()], TURN)?;
    let samples = [first.sample(told[0], &before.0)?, second.sample(told[1], &before.1)?];
    Ok((samples, watch.cores()?))
}

fn cpu(sample: &Sample) -> Option<f64> {
    sample.iter().find(|(metric, _)| *metric == Metric::CpuPer1k).map(|(_, value)| *value)
}

/// Holds what telling more costs against what it may; `ratios` are those of pairs.
fn judge(
    subject: Subject,
    Comparison { more, less, wanted }: Comparison,
    ratios: &[f64],
    rows: &mut [Row],
    tell: &mut dyn FnMut(&str),
) {
    let Some(Summary { median, min, max }) = Summary::of(ratios) else { return };
    let verdict = Verdict { against: less.name(), wanted, is: median, pass: median <= wanted };
    tell(&format!(
        "{subject}: {} takes {median:.3} of the CPU of {}, at most {wanted}: {} ({} pairs, {min:.3} to {max:.3})",
        more.name(),
        less.name(),
        if verdict.pass { "pass" } else { "fail" },
        ratios.len(),
    ));
    let is_its = |row: &&mut Row| row.system == more.name() && row.metric == Metric::CpuPer1k.name();
    if let Some(row) = rows.iter_mut().find(is_its) {
        row.must = Some(verdict);
    }
}

/// How long a turn is.
const TURN: Duration = Duration::from_secs(3);

/// How much of the rate has to be there.
const KEPT: f64 = 0.98;

/// Spans and entries for services wait for company for a second.
const LATE: Duration = Duration::from_millis(1_200);

/// Seconds of the load, which is ended before they are over.
const FOR_EVER: u64 = 3_600;

/// Spans that a collector has taken.
const SPANS: &str = "mesh_spans_sent_total";

/// Where spans go: a server outside of the mesh that takes whatever comes. Whoever reads them does so on processors of its own, which
/// it would not have here.
const COLLECTOR: &str = "
{apiVersion: v1, kind: Service, metadata: {name: zipkin, namespace: direct},
  spec: {selector: {app: far}, ports: [{name: http, port: 9411, targetPort: 8080}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    extensionProviders:
    - {name: bench, zipkin: {service: zipkin.direct.svc.cluster.local, port: 9411}}
---
";
