//! What it costs to tell about requests and connections: nothing beside metrics and the access log, these beside 1 % of the requests
//! traced as well.
//!
//! What is looked for is smaller than what differs between two loads that are alike: which thread serves which connection, and what else the
//! machine does. So one load goes on, over the same connections, and what is told about it changes every few seconds; each turn is compared
//! with the one next to it.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    DISTURBING, Failure, Outcome, PAUSE, Plan,
    case::{Load, Place, Traffic},
    figures::{Metric, Row, Sample, Summary, Verdict, rows},
    load, manifests,
    process::{self, Disturbance},
    shown,
    stand::{NODES, Port, Stand, System},
};

/// At which layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Requests, read at both nodes.
    Requests,
    /// Connections, one for each request.
    Connections,
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
        vec![Self::Requests, Self::Connections]
    }

    fn traffic(self) -> Traffic {
        match self {
            Self::Requests => Traffic { place: Place::Service, load: Load::Http, concurrency: 32 },
            Self::Connections => Traffic { place: Place::CrossNode, load: Load::Connect, concurrency: 8 },
        }
    }

    /// What telling more may cost at most, in CPU of a request or connection, beside telling less.
    fn limits(self) -> &'static [Comparison] {
        const USUAL: Comparison = Comparison { more: Told::Usual, less: Told::Nothing, wanted: 1.10 };
        const TRACES: Comparison = Comparison { more: Told::Traces, less: Told::Usual, wanted: 1.01 };
        match self {
            Self::Requests => &[USUAL, TRACES],
            Self::Connections => &[Comparison { wanted: 1.03, ..USUAL }],
        }
    }

    fn system(self) -> System {
        match self {
            Self::Requests => System::MeshL7,
            Self::Connections => System::Mesh,
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
        let reads = if self == Self::Requests { "enabled" } else { "disabled" };
        format!(
            "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: bench, namespace: {}, \
             annotations: {{mesh.internal/l7-telemetry: {reads}}}}}, spec: {{{spec}}}}}\n---\n",
            self.system()
        )
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "telemetry/l7/32",
            Self::Connections => "telemetry/l4/8",
        })
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

/// Measures, on a bed of its own.
pub(super) fn run(subject: Subject, plan: &Plan, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) {
    if let Err(reason) = measure(subject, plan, tell, outcome) {
        let (case, system) = (subject.to_string(), subject.system().to_string());
        outcome.fail(Failure { case, system, reason }, tell);
    }
}

fn measure(subject: Subject, plan: &Plan, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) -> Result<()> {
    tell("Starting the pods.");
    let stand = start(subject, plan)?;
    // How a connection is read is decided when it begins.
    stand.bed(subject.system()).apply(&subject.telemetry(Told::Usual))?;
    thread::sleep(LATE);
    let mut samples = BTreeMap::<Told, Vec<Sample>>::new();
    let mut ratios: Vec<(Comparison, Vec<f64>)> =
        subject.limits().iter().map(|it| (*it, Vec::new())).collect();
    let rounds = plan.runs * usize::try_from(plan.seconds)?;
    for (Comparison { more, less, .. }, ratios) in &mut ratios {
        let words = load::words(&stand, subject.system(), subject.traffic(), FOR_EVER)?;
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let mut load = stand.client(subject.system())?.spawn(&words)?;
        for round in 1..=rounds {
            // What comes later in a round is not to have the better or the worse of it.
            let told = if round % 2 == 0 { [*less, *more] } else { [*more, *less] };
            let mut ratio = 1.0;
            for told in told {
                let watch = Disturbance::watch(stand.cgroups())?;
                let sample = turn(&stand, subject, told)?;
                let others = watch.cores()?;
                let cpu = cpu(&sample).context("no processor time was measured")?;
                ratio *= if told == *more { cpu } else { cpu.recip() };
                let shown = shown(&sample, others);
                tell(&format!("{subject}, round {round} of {rounds}, {}: {shown}", told.name()));
                outcome.turns += 1;
                outcome.disturbed += usize::from(others > DISTURBING);
                samples.entry(told).or_default().push(sample);
            }
            ratios.push(ratio);
        }
        load.kill();
    }
    let samples: Vec<_> = samples.into_iter().map(|(told, all)| (told.name().to_owned(), all)).collect();
    let mut rows = rows(&subject.to_string(), &samples);
    for (comparison, ratios) in ratios {
        judge(subject, comparison, ratios, &mut rows, tell);
    }
    outcome.rows.extend(rows);
    tell("Ending the pods.");
    Ok(())
}

fn start(subject: Subject, plan: &Plan) -> Result<Stand> {
    let system = subject.system();
    let stand = Stand::start(&[system, System::Direct], None, &plan.node_args)?;
    let bed = stand.bed(system);
    bed.apply(&(manifests::service(system) + COLLECTOR))?;
    bed.wait_ready(Duration::from_secs(30), |_| ())?;
    Ok(stand)
}

/// Some seconds of a load that goes on.
fn turn(stand: &Stand, subject: Subject, told: Told) -> Result<Sample> {
    let system = subject.system();
    stand.bed(system).apply(&subject.telemetry(told))?;
    settle(stand, subject, told)?;
    let (pids, spans) = (stand.proxies(system)?, count(stand, subject, SPANS)?);
    let before = (process::cpu_seconds(&pids)?, served(stand, subject)?, Instant::now());
    thread::sleep(TURN);
    let (cpu, count_now) = (process::cpu_seconds(&pids)? - before.0, served(stand, subject)? - before.1);
    let seconds = before.2.elapsed().as_secs_f64();
    ensure!(count_now > 0.0, "the load has ended");
    ensure!(stand.proxies(system)? == pids, "a proxy has died");
    ensure!(told != Told::Traces || count(stand, subject, SPANS)? > spans, "no spans were taken");
    stand.trim_logs()?;
    let rate = if subject == Subject::Requests { Metric::Rps } else { Metric::Cps };
    Ok(vec![(rate, count_now / seconds), (Metric::CpuPer1k, cpu / (count_now / 1e3))])
}

fn cpu(sample: &Sample) -> Option<f64> {
    sample.iter().find(|(metric, _)| *metric == Metric::CpuPer1k).map(|(_, value)| *value)
}

/// What the server has answered so far, by its own count.
fn served(stand: &Stand, subject: Subject) -> Result<f64> {
    let server = stand.first_server(subject.system(), subject.traffic().place)?;
    let url = format!("http://127.0.0.1:{}{}", Port::Http.number(), manifests::STATUS);
    let output = server.exec(&["curl", "--silent", "--max-time", "5", &url])?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The third number of the third line: connections accepted, connections handled, requests.
    let line = text.lines().nth(2).and_then(|line| line.split_whitespace().nth(2));
    line.and_then(|number| number.parse().ok()).with_context(|| format!("nginx says {text:?}"))
}

/// Holds what telling more costs against what it may.
fn judge(
    subject: Subject,
    Comparison { more, less, wanted }: Comparison,
    mut ratios: Vec<f64>,
    rows: &mut [Row],
    tell: &mut dyn FnMut(&str),
) {
    let Some(summary) = Summary::of(&ratios) else { return };
    ratios.sort_unstable_by(f64::total_cmp);
    let quarter = |which| ratios.get(ratios.len() * which / 4).copied().unwrap_or(summary.median);
    let verdict =
        Verdict { against: less.name(), wanted, is: summary.median, pass: summary.median <= wanted };
    tell(&format!(
        "{subject}: {} takes {:.3} of the CPU of {}, at most {wanted}: {} ({} rounds, half of them {:.3} to {:.3})",
        more.name(),
        summary.median,
        less.name(),
        if verdict.pass { "pass" } else { "fail" },
        ratios.len(),
        quarter(1),
        quarter(3),
    ));
    let is_its = |row: &&mut Row| row.system == more.name() && row.metric == Metric::CpuPer1k.name();
    if let Some(row) = rows.iter_mut().find(is_its) {
        row.must = Some(verdict);
    }
}

/// Waits until the proxies tell what they should, which shows in what they count.
fn settle(stand: &Stand, subject: Subject, told: Told) -> Result<()> {
    let metric = match subject {
        Subject::Requests => "istio_requests_total{",
        Subject::Connections => "istio_tcp_connections_opened_total{",
    };
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        // Within it, what was told before is delivered as well.
        thread::sleep(LATE);
        let before = count(stand, subject, metric)?;
        thread::sleep(PAUSE);
        if (count(stand, subject, metric)? > before) == (told != Told::Nothing) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{metric}…}} of {subject} is not what {} means", told.name());
        }
    }
}

/// What both proxies count by such a name.
fn count(stand: &Stand, subject: Subject, metric: &str) -> Result<f64> {
    let mut sum = 0.0;
    for node in NODES {
        let text = stand.bed(subject.system()).node(node)?.metrics()?;
        let wanted = text.lines().filter(|line| line.starts_with(metric));
        sum += wanted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}

/// How long a turn is.
const TURN: Duration = Duration::from_secs(3);

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
