//! Probes of one container over its life.

use std::io;
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ExecAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::container::{Container, Context};
use crate::bed::probe::Check;
use crate::bed::services::container_port;

/// What a probe decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// Timing and thresholds of a probe with Kubernetes' defaults.
struct Rhythm {
    initial: Duration,
    period: Duration,
    timeout: Duration,
    failures: u32,
    successes: u32,
}

impl Rhythm {
    fn of(probe: &Probe) -> Self {
        let number =
            |value: Option<i32>, default| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default);
        let seconds = |value, default| Duration::from_secs(number(value, default).into());
        Self {
            initial: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_millis(100)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_millis(100)),
            failures: number(probe.failure_threshold, 3).max(1),
            successes: number(probe.success_threshold, 1).max(1),
        }
    }
}

/// Probes until the pod ends.
pub(super) fn watch(container: &Container, kind: Kind, probe: &Probe) {
    let rhythm = Rhythm::of(probe);
    let mut run = None;
    let (mut good, mut bad, mut passed) = (0, 0, false);
    let mut pause = EAGER;
    while !container.context().stop.wait(pause) {
        pause = EAGER.min(rhythm.period);
        let Some((incarnation, age, started)) = container.run_now() else { continue };
        if run != Some(incarnation) {
            (run, good, bad, passed) = (Some(incarnation), 0, 0, false);
        }
        let waits = age < rhythm.initial || (kind != Kind::Startup && !started);
        if waits || (kind == Kind::Startup && passed) {
            continue;
        }
        match perform(container, probe, rhythm.timeout) {
            Ok(()) => (good, bad) = (good + 1, 0),
            Err(reason) => {
                (good, bad) = (0, bad + 1);
                failed(container, kind, (incarnation, passed, bad, age), &rhythm, reason);
                passed &= bad < rhythm.failures;
            }
        }
        if good >= rhythm.successes {
            if !passed || good == rhythm.successes {
                container.verdict(kind, incarnation, Ok(()));
            }
            passed = true;
        }
        // Until it first succeeds it is asked often: a bed should be up as soon as its pods are.
        if passed || kind == Kind::Liveness {
            pause = rhythm.period;
        }
    }
}

fn failed(
    container: &Container,
    kind: Kind,
    (incarnation, passed, bad, age): (u32, bool, u32, Duration),
    rhythm: &Rhythm,
    reason: String,
) {
    let exhausted = match kind {
        // Asked more often than its period, so it is its time that runs out, not its count.
        Kind::Startup => age > rhythm.initial + rhythm.period * rhythm.failures,
        Kind::Readiness | Kind::Liveness => bad >= rhythm.failures,
    };
    match kind {
        Kind::Readiness if exhausted || !passed => container.verdict(kind, incarnation, Err(reason)),
        Kind::Startup if !exhausted => container.verdict(kind, incarnation, Err(reason)),
        Kind::Startup | Kind::Liveness if exhausted => {
            container.replace(format!("{kind:?} probe failed: {reason}"));
        }
        _ => {}
    }
}

fn perform(container: &Container, probe: &Probe, timeout: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        return run_inside(container, exec, timeout);
    }
    let context = container.context();
    let check = check(context, probe, timeout).ok_or("the probe names no port of this pod")?;
    context.prober.probe(check)
}

fn check(context: &Context, probe: &Probe, timeout: Duration) -> Option<Check> {
    let own = *context.facts.ips.first()?;
    let target = |host: &Option<String>, port: &IntOrString| {
        let ip: IpAddr = host.as_deref().and_then(|h| h.parse().ok()).unwrap_or(own);
        let port = match port {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(name) => container_port(&context.facts.manifest, name),
        };
        port.map(|port| (ip, port).into())
    };
    if let Some(get) = &probe.http_get {
        let addr = target(&get.host, &get.port)?;
        let headers = get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        let path = get.path.clone().unwrap_or_else(|| "/".to_owned());
        // The bed has no TLS client; that the port accepts has to do for HTTPS.
        let http = (get.scheme.as_deref() != Some("HTTPS")).then_some((path, headers));
        return Some(Check { addr, http, timeout });
    }
    let addr = match (&probe.tcp_socket, &probe.grpc) {
        (Some(tcp), _) => target(&tcp.host, &tcp.port)?,
        (None, Some(grpc)) => (own, u16::try_from(grpc.port).ok()?).into(),
        (None, None) => return None,
    };
    Some(Check { addr, http: None, timeout })
}

fn run_inside(container: &Container, exec: &ExecAction, timeout: Duration) -> Result<(), String> {
    let words: Vec<&String> = exec.command.iter().flatten().collect();
    let (program, args) = words.split_first().ok_or("the exec probe has no command")?;
    let context = container.context();
    let command = context.place.command(program, container.name(), &context.path);
    let mut command = command.map_err(|e| e.to_string())?;
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    match wait_at_most(child, timeout) {
        Ok(Some(true)) => Ok(()),
        Ok(Some(false)) => Err(format!("{program} reported failure")),
        Ok(None) => Err(format!("{program} did not end within {timeout:?}")),
        Err(e) => Err(format!("{program}: {e}")),
    }
}

/// Whether the child succeeded; `None` if it had to be killed.
fn wait_at_most(mut child: Child, timeout: Duration) -> io::Result<Option<bool>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// How often a container is asked that has not passed yet.
const EAGER: Duration = Duration::from_millis(100);
