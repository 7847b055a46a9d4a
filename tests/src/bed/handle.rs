//! Pods and nodes of a bed in the hands of a test.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::agent::{Agent, fetch_inside, wait_until};
use super::capture::Capture;
use super::cgroup;
use super::controller::BedNode;
use super::error::{BedError, Doing, Result};
use super::layout::{Layout, netns_path};
use super::place::{self, Place, Tools};
use super::status::PodStatus;
use super::stop::lock;
use crate::sys;

/// A running pod.
#[derive(Debug, Clone)]
pub struct PodHandle {
    status: PodStatus,
    place: Place,
    path: OsString,
}

impl PodHandle {
    pub(super) fn new(status: PodStatus, path: OsString) -> Result<Self> {
        let place = status.place()?.clone();
        Ok(Self { status, place, path })
    }

    /// `NAMESPACE/NAME`, the name in full.
    pub fn name(&self) -> String {
        self.status.full_name()
    }

    /// How the pod was when the handle was made.
    pub fn status(&self) -> &PodStatus {
        &self.status
    }

    /// Its first address, IPv4.
    pub fn ip(&self) -> IpAddr {
        self.status.ips.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]))
    }

    /// Its IPv6 address.
    pub fn ip6(&self) -> Option<IpAddr> {
        self.status.ips.iter().find(|ip| ip.is_ipv6()).copied()
    }

    /// The file of its network namespace.
    pub fn netns_path(&self) -> &Path {
        &self.place.netns
    }

    /// Its cgroup; its processes are in cgroups below.
    pub fn cgroup(&self) -> &Path {
        &self.place.cgroup
    }

    /// Runs a command in the pod and waits for it. `testbed tool …` is on its path.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        output(self.command(words)?)
    }

    /// Starts a command in the pod; it ends with the handle.
    pub fn spawn(&self, words: &[&str]) -> Result<Process> {
        Process::start(self.command(words)?)
    }

    /// A command that will run in the pod, in a cgroup of its own there.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let (program, args) = split(words)?;
        let mut command = self.place.command(program, "exec", &self.path)?;
        command.args(args).env("HOSTNAME", &self.status.name);
        Ok(command)
    }

    /// Runs code of this process on a thread inside the pod's network namespace. Its sockets are in the pod's network
    /// but not in its cgroup: what hangs on the cgroup (capture by the mesh) does not see them.
    pub fn run_in_netns<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        sys::in_network(&self.place.netns, f).at("enter", &self.place.netns)
    }

    /// Records all packets of its `eth0`.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(&self.place.netns)
    }

    /// What its containers have printed.
    pub fn log(&self) -> String {
        let texts = self.status.logs.iter().filter_map(|path| std::fs::read(path).ok());
        texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
    }
}

/// A node.
#[derive(Debug)]
pub struct NodeHandle<'a> {
    node: &'a BedNode,
    netns: PathBuf,
    cgroup: PathBuf,
    path: OsString,
}

impl<'a> NodeHandle<'a> {
    pub(super) fn new(node: &'a BedNode, layout: &Layout, tools: &Tools) -> Self {
        let (netns, cgroup) = (netns_path(&node.net.netns), layout.node_cgroup(&node.net.name));
        Self { node, netns, cgroup, path: tools.search_path() }
    }

    /// Such as `node-1`.
    pub fn name(&self) -> &str {
        &self.node.net.name
    }

    /// Its addresses, IPv4 first.
    pub fn ips(&self) -> [IpAddr; 2] {
        self.node.net.address.both()
    }

    /// The file of its network namespace.
    pub fn netns_path(&self) -> &Path {
        &self.netns
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    fn agent(&self) -> Result<&Arc<Agent>> {
        self.node.agent.as_ref().ok_or_else(|| BedError::Unknown {
            what: "mesh-node",
            name: self.node.net.name.clone(),
            reason: "does not exist on a bed without mesh".to_owned(),
        })
    }

    /// The number of its `mesh-node` process, if it runs.
    pub fn pid(&self) -> Result<Option<u32>> {
        Ok(self.agent()?.health().pid)
    }

    /// Kills its `mesh-node` with `SIGKILL` and leaves it dead; returns when it is.
    pub fn kill9(&self) -> Result<()> {
        self.agent()?.kill()
    }

    /// Ends its `mesh-node` with `SIGTERM` and leaves it ended; killed after `grace`.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        self.agent()?.terminate(grace)
    }

    /// Starts its `mesh-node` if it does not run; does not wait for readiness.
    pub fn start(&self) -> Result<()> {
        self.agent()?.revive();
        Ok(())
    }

    /// Ends its `mesh-node` if it runs, starts it again, and waits up to 30 s until it is ready.
    pub fn restart(&self) -> Result<()> {
        self.stop(Duration::from_secs(30))?;
        self.start()?;
        self.wait_ready(Duration::from_secs(30))
    }

    /// Waits until its `mesh-node` is ready.
    pub fn wait_ready(&self, patience: Duration) -> Result<()> {
        let agent = self.agent()?;
        let ready = || agent.health().ready || agent.health().failed.is_some();
        wait_until(Instant::now() + patience, ready);
        let health = agent.health();
        if health.ready {
            return Ok(());
        }
        let reason = health.failed.unwrap_or_else(|| format!("it was not ready within {patience:?}"));
        let what = format!("mesh-node of {}", self.name());
        Err(BedError::Failed { what, reason, log: agent.log().to_owned() })
    }

    /// What its admin page answers to a path such as `/config_dump`; an error unless the status is 200.
    pub fn admin(&self, path: &str) -> Result<String> {
        self.fetch(15000, path)
    }

    /// Its metrics in Prometheus' text format.
    pub fn metrics(&self) -> Result<String> {
        self.fetch(15020, "/metrics")
    }

    fn fetch(&self, port: u16, path: &str) -> Result<String> {
        let response = fetch_inside(&self.netns, port, path, Duration::from_secs(5))?;
        if response.status == 200 {
            return Ok(response.text());
        }
        let output = format!("{} {}", response.status, response.text());
        Err(BedError::Tool { command: format!("GET :{port}{path} on {}", self.name()), output })
    }

    /// What its `mesh-node` has printed so far.
    pub fn log(&self) -> Result<String> {
        let path = self.agent()?.log();
        let text = std::fs::read(path).at("read", path)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a command as a process of the node that belongs to no pod, as a kubelet would, and waits for it.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        output(self.command(words)?)
    }

    /// Starts such a command; it ends with the handle.
    pub fn spawn(&self, words: &[&str]) -> Result<Process> {
        Process::start(self.command(words)?)
    }

    /// As [`Self::exec`], in a control group of its own below the node's.
    pub fn exec_in(&self, group: &str, words: &[&str]) -> Result<Output> {
        output(self.command_in(group, words)?)
    }

    /// As [`Self::spawn`], in a control group of its own below the node's.
    pub fn spawn_in(&self, group: &str, words: &[&str]) -> Result<Process> {
        Process::start(self.command_in(group, words)?)
    }

    /// Removes a control group below the node's with all below it. What still has processes stays.
    pub fn remove_group(&self, group: &str) {
        cgroup::remove(&self.cgroup.join(group));
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        self.command_in("host", words)
    }

    fn command_in(&self, group: &str, words: &[&str]) -> Result<Command> {
        let (program, args) = split(words)?;
        let mut command = place::node_command(Path::new(program), &self.netns, &self.cgroup.join(group))?;
        command.args(args).env("PATH", &self.path);
        Ok(command)
    }

    /// Runs code of this process on a thread inside the node's network namespace.
    pub fn run_in_netns<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        sys::in_network(&self.netns, f).at("enter", &self.netns)
    }

    /// Records all packets of the node: its wire and its pods' links.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(&self.netns)
    }
}

/// A process that was started in a pod or on a node. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
}

impl Process {
    fn start(mut command: Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().doing(|| format!("run {name}"))?;
        let (sender, lines) = mpsc::sync_channel(4096);
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut lines = BufReader::new(stdout).lines().map_while(std::io::Result::ok);
                // Ends as well when nobody wants the lines any more.
                lines.all(|line| sender.send(line).is_ok())
            });
        }
        let errors = Arc::<Mutex<String>>::default();
        if let Some(mut stderr) = child.stderr.take() {
            let errors = Arc::clone(&errors);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
                    lock(&errors).push_str(&text);
                }
            });
        }
        Ok(Self { child, lines, errors })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints.
    pub fn line(&mut self, patience: Duration) -> Result<String> {
        self.lines.recv_timeout(patience).map_err(|_| BedError::Timeout {
            what: "a line of output".to_owned(),
            within: patience,
            state: format!("{:?}; standard error: {}", self.child.try_wait(), lock(&self.errors)),
        })
    }

    /// What it has printed on standard error so far.
    pub fn errors(&self) -> String {
        lock(&self.errors).clone()
    }

    /// Waits for its end and gives the lines not read yet.
    pub fn wait(mut self, patience: Duration) -> Result<(ExitStatus, Vec<String>)> {
        let deadline = Instant::now() + patience;
        let mut status = None;
        wait_until(deadline, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        let timeout = || BedError::Timeout {
            what: "the end of a process".to_owned(),
            within: patience,
            state: format!("it still runs; standard error: {}", lock(&self.errors)),
        };
        let status = status.ok_or_else(timeout)?;
        Ok((status, self.lines.iter().collect()))
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn output(mut command: Command) -> Result<Output> {
    command.stdin(Stdio::null());
    let name = command.get_program().display().to_string();
    command.output().doing(|| format!("run {name}"))
}

fn split<'a>(words: &'a [&'a str]) -> Result<(&'a str, &'a [&'a str])> {
    let (program, args) = words.split_first().ok_or_else(|| BedError::Unknown {
        what: "command",
        name: String::new(),
        reason: "is empty".to_owned(),
    })?;
    Ok((*program, args))
}
