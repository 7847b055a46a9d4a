//! A process of the mesh on a node: started in the node's network namespace and cgroup, restarted when it dies by itself,
//! killed and restarted when a test says so.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{BedError, Doing, Result};
use super::place;
use super::stop::{Stop, lock};
use crate::http::{self, Request};
use crate::sys::{self, ProcessHandle};

/// How to start the process.
#[derive(Debug, Clone)]
pub(crate) struct AgentSpec {
    pub(crate) node: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) netns: PathBuf,
    /// Where the process itself runs.
    pub(crate) cgroup: PathBuf,
    pub(crate) log: PathBuf,
    /// Where it says on loopback whether it is ready.
    pub(crate) ready_port: u16,
}

/// The process over all its restarts.
pub(crate) struct Agent {
    spec: AgentSpec,
    state: Mutex<State>,
    moved: Condvar,
    stop: Stop,
    changed: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    process: Option<(u32, ProcessHandle)>,
    ready: bool,
    /// Times it was started.
    starts: u32,
    /// Times in a row that it ended by itself before it was ready.
    failures: u32,
    last_end: Option<String>,
}

/// What is known of the process now.
#[derive(Debug, Clone)]
pub(crate) struct AgentHealth {
    pub(crate) pid: Option<u32>,
    pub(crate) ready: bool,
    pub(crate) restarts: u32,
    /// Why it does not come up, once that is clear.
    pub(crate) failed: Option<String>,
}

impl Agent {
    /// Starts the process and two threads that look after it. `changed` is called when its health may have changed.
    pub(crate) fn start(spec: AgentSpec, changed: Arc<dyn Fn() + Send + Sync>) -> Arc<Self> {
        let state = Mutex::new(State { wanted: true, ..State::default() });
        let agent = Arc::new(Self { spec, state, moved: Condvar::new(), stop: Stop::default(), changed });
        let runner = Arc::clone(&agent);
        thread::spawn(move || runner.run());
        let observer = Arc::clone(&agent);
        thread::spawn(move || observer.observe());
        agent
    }

    pub(crate) fn health(&self) -> AgentHealth {
        let state = lock(&self.state);
        AgentHealth {
            pid: state.process.as_ref().map(|(pid, _)| *pid),
            ready: state.ready,
            restarts: state.starts.saturating_sub(1),
            failed: state.last_end.clone().filter(|_| state.failures >= HOPELESS),
        }
    }

    pub(crate) fn log(&self) -> &Path {
        &self.spec.log
    }

    /// Kills it at once and leaves it dead.
    pub(crate) fn kill(&self) -> Result<()> {
        self.signal_and_wait(libc::SIGKILL, Duration::from_secs(10))
    }

    /// Asks it to end, as a node that shuts down does, and leaves it ended. Killed if it takes longer than `grace`.
    pub(crate) fn terminate(&self, grace: Duration) -> Result<()> {
        self.signal_and_wait(libc::SIGTERM, grace).or_else(|_| self.kill())
    }

    /// Stops it where it stands, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
        let state = lock(&self.state);
        let Some((_, process)) = &state.process else { return Ok(()) };
        process.signal(signal).doing(|| format!("signal {}", self.spec.node))
    }

    /// The network namespace that it runs in.
    pub(crate) fn netns(&self) -> &Path {
        &self.spec.netns
    }

    /// Starts it after [`Agent::kill`] or [`Agent::terminate`]; does not wait for readiness.
    pub(crate) fn revive(&self) {
        let mut state = lock(&self.state);
        state.wanted = true;
        state.failures = 0;
        self.moved.notify_all();
    }

    /// Stops looking after it without ending it, for an owner who is about to kill the whole bed.
    pub(crate) fn abandon(&self) {
        self.stop.raise();
        self.moved.notify_all();
    }

    fn signal_and_wait(&self, signal: i32, patience: Duration) -> Result<()> {
        let mut state = lock(&self.state);
        state.wanted = false;
        if let Some((_, process)) = &state.process {
            process.signal(signal).doing(|| format!("signal {}", self.spec.node))?;
        }
        let waited = self.moved.wait_timeout_while(state, patience, |state| state.process.is_some());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.process.is_none() {
            return Ok(());
        }
        let what = format!("the end of {}", self.spec.node);
        Err(BedError::Timeout { what, within: patience, state: "it still runs".to_owned() })
    }

    fn run(&self) {
        let mut delay = Duration::ZERO;
        while !self.stop.wait(delay) {
            let idle = lock(&self.state);
            let idle = self.moved.wait_while(idle, |state| !state.wanted && !self.stop.raised());
            drop(idle);
            if self.stop.raised() {
                return;
            }
            let end = self.once().unwrap_or_else(|e| e.to_string());
            let mut state = lock(&self.state);
            state.process = None;
            state.ready = false;
            delay = Duration::ZERO;
            if state.wanted {
                state.failures += 1;
                state.last_end = Some(end);
                delay = RESTART_DELAY;
            }
            self.moved.notify_all();
            drop(state);
            (self.changed)();
        }
    }

    fn once(&self) -> Result<String> {
        let AgentSpec { program, args, env, netns, cgroup, log, .. } = &self.spec;
        let file = OpenOptions::new().create(true).append(true).open(log).at("open", log)?;
        let errors = file.try_clone().at("open", log)?;
        let mut command = place::node_command(program, netns, cgroup)?;
        command.args(args).envs(env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let mut child = {
            let mut state = lock(&self.state);
            let child = command.spawn().at("run", program)?;
            let handle = ProcessHandle::open(child.id()).doing(|| "watch a process".to_owned())?;
            state.process = Some((child.id(), handle));
            state.starts += 1;
            self.moved.notify_all();
            child
        };
        let status = child.wait().at("wait for", program)?;
        Ok(format!("{status}; its last words: {}", last_line(log)))
    }

    fn observe(&self) {
        loop {
            let running = lock(&self.state).process.is_some();
            let now = running && is_ready(&self.spec.netns, self.spec.ready_port);
            let was = {
                let mut state = lock(&self.state);
                let now = now && state.process.is_some();
                if now {
                    state.failures = 0;
                }
                std::mem::replace(&mut state.ready, now)
            };
            if was != now {
                (self.changed)();
            }
            if self.stop.wait(if now { Duration::from_millis(500) } else { Duration::from_millis(50) }) {
                return;
            }
        }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// Fetches from a port on the loopback interface of a network namespace.
pub(crate) fn fetch_inside(netns: &Path, port: u16, path: &str, timeout: Duration) -> Result<http::Response> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let fetched = sys::in_network(netns, || http::fetch(addr, &Request::get(path), timeout));
    fetched
        .and_then(|response| response)
        .doing(|| format!("fetch http://{addr}{path} in {}", netns.display()))
}

fn is_ready(netns: &Path, port: u16) -> bool {
    let answer = fetch_inside(netns, port, "/healthz/ready", Duration::from_secs(1));
    answer.is_ok_and(|response| response.status == 200)
}

/// The last line of a log that says something.
pub(crate) fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("none").to_owned()
}

/// Waits until `condition` holds or `deadline` is over.
pub(crate) fn wait_until(deadline: Instant, mut condition: impl FnMut() -> bool) -> bool {
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A process that died this many times in a row without having been ready will not get ready.
const HOPELESS: u32 = 3;

const RESTART_DELAY: Duration = Duration::from_secs(1);
