//! What it costs to tell about requests and connections: the same load over the same proxies, in turns with nothing told, with metrics
//! and the access log, and with 1 % of the requests traced as well.
//!
//! What is looked for is smaller than what a machine that others use changes within seconds. So turns are short, there are many, and
//! each is compared with the one next to it.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{
    DISTURBING, Failure, Outcome, PAUSE, Plan,
    case::{Load, Place, Traffic},
    figures::{Metric, Row, Sample, Summary, Verdict, rows},
    load, manifests,
    process::Disturbance,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Usual,
    Traces,
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

    fn turns(self) -> &'static [Told] {
        match self {
            Self::Requests => &[Told::Nothing, Told::Usual, Told::Traces],
            Self::Connections => &[Told::Nothing, Told::Usual],
        }
    }

    /// What telling more may cost at most, in CPU of a request or connection, beside telling less.
    fn limits(self) -> &'static [(Told, Told, f64)] {
        match self {
            Self::Requests => &[(Told::Usual, Told::Nothing, 1.10), (Told::Traces, Told::Usual, 1.01)],
            Self::Connections => &[(Told::Usual, Told::Nothing, 1.03)],
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
    let system = subject.system();
    let stand = Stand::start(&[system], None, &plan.node_args)?;
    let bed = stand.bed(system);
    bed.apply(&(manifests::service(system) + COLLECTOR))?;
    bed.wait_ready(Duration::from_secs(30), |_| ())?;
    let mut samples: Vec<(String, Vec<Sample>)> =
        subject.turns().iter().map(|told| (told.name().to_owned(), Vec::new())).collect();
    let rounds = plan.runs * usize::try_from(plan.seconds / TURN)?.max(1);
    for round in 1..=rounds {
        let mut turns: Vec<_> = subject.turns().iter().zip(&mut samples).collect();
        // What comes later in a round is not to have the better or the worse of it.
        if round % 2 == 0 {
            turns.reverse();
        }
        for (told, (name, samples)) in turns {
            bed.apply(&subject.telemetry(*told))?;
            settle(&stand, subject, *told)?;
            let watch = Disturbance::watch(stand.cgroups())?;
            let sample = load::run(&stand, system, subject.traffic(), TURN)?;
            let others = watch.cores()?;
            stand.trim_logs()?;
            tell(&format!("{subject}, round {round} of {rounds}, {name}: {}", shown(&sample, others)));
            outcome.turns += 1;
            outcome.disturbed += usize::from(others > DISTURBING);
            samples.push(sample);
        }
    }
    let mut rows = rows(&subject.to_string(), &samples);
    judge(subject, &samples, &mut rows, tell);
    outcome.rows.extend(rows);
    tell("Ending the pods.");
    Ok(())
}

/// Holds what telling costs against what it may. Turns of one round stand next to each other in time, so they are compared in pairs: what
/// changes on the machine from one round to the next is in both.
fn judge(subject: Subject, samples: &[(String, Vec<Sample>)], rows: &mut [Row], tell: &mut dyn FnMut(&str)) {
    let of = |told: Told| samples.iter().find(|(name, _)| name == told.name()).map(|(_, samples)| samples);
    let cpu = |sample: &Sample| {
        sample.iter().find(|(metric, _)| *metric == Metric::CpuPer1k).map(|(_, value)| *value)
    };
    for (more, less, wanted) in subject.limits() {
        let (Some(ours), Some(theirs)) = (of(*more), of(*less)) else { continue };
        let ratio = |(ours, theirs): (&Sample, &Sample)| Some(cpu(ours)? / cpu(theirs)?);
        let mut pairs: Vec<f64> = ours.iter().zip(theirs).filter_map(ratio).collect();
        let Some(ratios) = Summary::of(&pairs) else { continue };
        pairs.sort_unstable_by(f64::total_cmp);
        let quarter = |which| pairs.get(pairs.len() * which / 4).copied().unwrap_or(ratios.median);
        let verdict = Verdict {
            against: less.name(),
            wanted: *wanted,
            is: ratios.median,
            pass: ratios.median <= *wanted,
        };
        tell(&format!(
            "{subject}: {} takes {:.3} of the CPU of {}, at most {wanted}: {} ({} pairs, half of them {:.3}..{:.3})",
            more.name(),
            ratios.median,
            less.name(),
            if verdict.pass { "pass" } else { "fail" },
            pairs.len(),
            quarter(1),
            quarter(3),
        ));
        let is_its = |row: &&mut Row| row.system == more.name() && row.metric == Metric::CpuPer1k.name();
        if let Some(row) = rows.iter_mut().find(is_its) {
            row.must = Some(verdict);
        }
    }
}

/// Waits until the proxies tell what they should, which shows in what they count.
fn settle(stand: &Stand, subject: Subject, told: Told) -> Result<()> {
    let metric = match subject {
        Subject::Requests => "istio_requests_total{",
        Subject::Connections => "istio_tcp_connections_opened_total{",
    };
    let count = || -> Result<f64> {
        let mut sum = 0.0;
        for node in NODES {
            let text = stand.bed(subject.system()).node(node)?.metrics()?;
            let of_load = text.lines().filter(|line| line.starts_with(metric) && line.contains("client"));
            sum += of_load.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(sum)
    };
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        thread::sleep(PAUSE);
        let before = count()?;
        let servers = stand.servers(subject.system(), subject.traffic().place, (Port::Http, 1));
        if let Some(server) = servers.ok().as_ref().and_then(|all| all.first()) {
            let url = format!("http://{server}/");
            let host = format!("Host: {}", manifests::service_host(subject.system()));
            stand.client(subject.system())?.exec(&[
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "--max-time",
                "5",
                "-H",
                &host,
                &url,
            ])?;
            thread::sleep(PAUSE);
            if (count()? > before) == (told != Told::Nothing) {
                // What was told before is on its way yet.
                thread::sleep(PAUSE);
                return Ok(());
            }
        }
        if Instant::now() > until {
            bail!("{metric}…}} of {subject} is not what {} means", told.name());
        }
    }
}

/// Seconds of a turn.
const TURN: u64 = 1;

/// Where spans go.
const COLLECTOR: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: tracing}}
---
{apiVersion: v1, kind: Service, metadata: {name: zipkin, namespace: tracing}, spec: {selector: {app: collector}, ports: [{name: http, port: 9411}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: collector, namespace: tracing, labels: {app: collector}}, spec: {nodeName: node-2, terminationGracePeriodSeconds: 1,
  containers: [{name: c, image: local, command: [testbed, tool, collector, '0.0.0.0:9411', '0.0.0.0:4317']}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    extensionProviders:
    - {name: bench, zipkin: {service: zipkin.tracing.svc.cluster.local, port: 9411}}
---
";
