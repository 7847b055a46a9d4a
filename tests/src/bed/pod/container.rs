//! One container: a local process that is started again as its restart policy says, and its probes.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as k8s;

use super::environment;
use super::watch::{self, Kind};
use super::{Facts, Place, Prober, Stop, lock};
use crate::bed::cgroup;
use crate::bed::error::{BedError, Doing, Result};
use crate::sys::ProcessHandle;

/// What all containers of a pod share.
pub(super) struct Context {
    pub(super) facts: Facts,
    pub(super) place: Place,
    /// `PATH` of its processes.
    pub(super) path: OsString,
    pub(super) prober: Arc<Prober>,
    pub(super) stop: Stop,
    pub(super) changed: Arc<dyn Fn() + Send + Sync>,
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    pub(super) fn parse(policy: Option<&str>) -> Self {
        match policy {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// How a container is.
#[derive(Debug, Clone)]
pub(crate) struct ContainerHealth {
    pub(crate) name: String,
    pub(crate) ready: bool,
    pub(crate) running: bool,
    pub(crate) restarts: u32,
    /// It ended for good; `true` for success.
    pub(crate) exit: Option<bool>,
    pub(crate) message: Option<String>,
    pub(crate) log: PathBuf,
}

/// A container of a pod.
pub(super) struct Container {
    context: Arc<Context>,
    spec: k8s::Container,
    restart: Restart,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    process: Option<ProcessHandle>,
    started: Option<Instant>,
    restarts: u32,
    startup_passed: bool,
    readiness_passed: bool,
    exit: Option<bool>,
    message: Option<String>,
}

impl Container {
    pub(super) fn new(context: Arc<Context>, spec: &k8s::Container, restart: Restart) -> Self {
        Self { context, spec: spec.clone(), restart, state: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn health(&self) -> ContainerHealth {
        let state = lock(&self.state);
        let running = state.process.is_some();
        ContainerHealth {
            name: self.spec.name.clone(),
            ready: running && state.startup_passed && state.readiness_passed,
            running,
            restarts: state.restarts,
            exit: state.exit,
            message: state.message.clone(),
            log: self.log(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        lock(&self.state).process.is_some()
    }

    pub(super) fn changed(&self) {
        (self.context.changed)();
    }

    /// Runs it, and its probes, on threads of their own.
    pub(super) fn start(self: &Arc<Self>) {
        let probes = [
            (Kind::Startup, &self.spec.startup_probe),
            (Kind::Readiness, &self.spec.readiness_probe),
            (Kind::Liveness, &self.spec.liveness_probe),
        ];
        for (kind, probe) in probes {
            if let Some(probe) = probe.clone() {
                let container = Arc::clone(self);
                thread::spawn(move || watch::watch(&container, kind, &probe));
            }
        }
        let container = Arc::clone(self);
        thread::spawn(move || container.run());
    }

    /// Runs it until it has ended for good; answers whether that was success.
    pub(super) fn run(&self) -> bool {
        let mut delay = FIRST_DELAY;
        loop {
            let began = Instant::now();
            let outcome = self.once();
            if self.context.stop.raised() {
                return false;
            }
            let (success, message) = match outcome {
                Ok(status) => (status.success(), format!("ended: {status}")),
                Err(e) => (false, e.to_string()),
            };
            let again = match self.restart {
                Restart::Always => true,
                Restart::OnFailure => !success,
                Restart::Never => false,
            };
            {
                let mut state = lock(&self.state);
                state.message = Some(message);
                state.exit = (!again).then_some(success);
                state.restarts += u32::from(again);
            }
            self.changed();
            if !again {
                return success;
            }
            if began.elapsed() > STABLE {
                delay = FIRST_DELAY;
            }
            if self.context.stop.wait(delay) {
                return false;
            }
            delay = (delay * 2).min(LAST_DELAY);
        }
    }

    /// Starts the process and waits for its end.
    fn once(&self) -> Result<ExitStatus> {
        let Some((program, args)) = environment::command(&self.spec, &self.context.facts) else {
            return Err(BedError::Environment(
                "it has no `command`: images are not run here, but the command of a container is".to_owned(),
            ));
        };
        let log_path = self.log();
        let log = OpenOptions::new().create(true).append(true).open(&log_path).at("open", &log_path)?;
        let errors = log.try_clone().at("open", &log_path)?;
        let mut command = self.context.place.command(&program, self.name(), &self.context.path)?;
        command.args(args).envs(environment::variables(&self.spec, &self.context.facts));
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        if let Some(directory) = &self.spec.working_dir {
            command.current_dir(directory);
        }
        let mut child = {
            let mut state = lock(&self.state);
            // Under the lock, so that whoever ends the pod sees either no process or one that it can signal.
            if self.context.stop.raised() {
                return Err(io::Error::from(io::ErrorKind::Interrupted)).doing(|| "start".to_owned());
            }
            let child = command.spawn().doing(|| format!("run {program}"))?;
            state.process = Some(ProcessHandle::open(child.id()).doing(|| "watch a process".to_owned())?);
            state.started = Some(Instant::now());
            state.startup_passed = self.spec.startup_probe.is_none();
            state.readiness_passed = self.spec.readiness_probe.is_none();
            child
        };
        self.changed();
        let status = child.wait().doing(|| format!("wait for {program}"));
        {
            let mut state = lock(&self.state);
            state.process = None;
            state.started = None;
        }
        // As in a container, children do not outlive the first process.
        cgroup::kill(&self.context.place.cgroup.join(self.name()), Duration::from_secs(1));
        status
    }

    fn log(&self) -> PathBuf {
        let facts = &self.context.facts;
        facts.logs.join(format!("{}.{}.{}.log", facts.key.namespace, facts.key.name, self.spec.name))
    }

    /// Asks the process to end.
    pub(super) fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    fn signal(&self, signal: i32) {
        if let Some(process) = &lock(&self.state).process {
            // A process that cannot be signalled has ended.
            let _ = process.signal(signal);
        }
    }

    /// Ends the process because a probe says so; it is started again by [`Container::run`].
    pub(super) fn replace(&self, reason: String) {
        lock(&self.state).message = Some(reason);
        let seen = self.incarnation();
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.incarnation() == seen
            && self.is_running()
            && !self.context.stop.wait(Duration::from_millis(20))
        {
            if Instant::now() > deadline {
                self.signal(libc::SIGKILL);
            }
        }
    }

    fn incarnation(&self) -> u32 {
        lock(&self.state).restarts
    }

    /// Which run of the process this is, for how long it has run, and whether its start-up is over.
    pub(super) fn run_now(&self) -> Option<(u32, Duration, bool)> {
        let state = lock(&self.state);
        state.started.map(|since| (state.restarts, since.elapsed(), state.startup_passed))
    }

    /// Notes a probe's verdict on the run `incarnation`.
    pub(super) fn verdict(&self, kind: Kind, incarnation: u32, verdict: Result<(), String>) {
        {
            let mut state = lock(&self.state);
            if state.restarts != incarnation || state.process.is_none() {
                return;
            }
            let passed = verdict.is_ok();
            let flag = match kind {
                Kind::Startup => &mut state.startup_passed,
                Kind::Readiness => &mut state.readiness_passed,
                Kind::Liveness => return,
            };
            *flag = passed;
            state.message = verdict.err();
        }
        self.changed();
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("name", &self.spec.name).finish_non_exhaustive()
    }
}

/// Before the first restart. Kubernetes waits 10 s; people and tests in front of a bed should not.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(10);
/// A process that ran this long starts again without further delay.
const STABLE: Duration = Duration::from_secs(10);
