//! Probes, run as a kubelet runs them: from the node's network namespace, by a process in a cgroup of the node that
//! is no pod's.
//!
//! A thread cannot change its cgroup, so each node has a helper process that does nothing but probe. Questions and
//! answers are lines of JSON on its standard input and output.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Doing, Result};
use super::place;
use super::stop::lock;
use crate::http::{self, Request};

/// A probe that crosses the network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) addr: SocketAddr,
    /// For HTTP: path and header fields. Without, a connection is enough.
    pub(crate) http: Option<(String, Vec<(String, String)>)>,
    pub(crate) timeout: Duration,
}

impl Check {
    /// Performs it in this process. The error is the reason for a person.
    fn run(&self) -> Result<(), String> {
        let Some((path, headers)) = &self.http else {
            return TcpStream::connect_timeout(&self.addr, self.timeout)
                .map(drop)
                .map_err(|e| format!("no connection to {}: {e}", self.addr));
        };
        let mut request = Request::get(path);
        request.headers.push("User-Agent", "kube-probe/1.36");
        for (name, value) in headers {
            request.headers.push(name, value);
        }
        match http::fetch(self.addr, &request, self.timeout) {
            Ok(response) if (200..400).contains(&response.status) => Ok(()),
            Ok(response) => Err(format!("http://{}{path} answered {}", self.addr, response.status)),
            Err(e) => Err(format!("http://{}{path}: {e}", self.addr)),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Question {
    id: u64,
    check: Check,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    id: u64,
    error: Option<String>,
}

/// The helper's whole life: answers questions until standard input ends.
pub fn answer_questions() -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let question: Question = serde_json::from_str(&line?)?;
        thread::spawn(move || {
            let answer = Answer { id: question.id, error: question.check.run().err() };
            let mut line = serde_json::to_vec(&answer).unwrap_or_default();
            line.push(b'\n');
            // Nobody is left to be told when the other end is gone; the main loop ends then as well.
            let _ = io::stdout().lock().write_all(&line);
        });
    }
    Ok(())
}

/// The helper process of one node, seen from the supervisor.
#[derive(Debug)]
pub(crate) struct Prober {
    testbed: PathBuf,
    netns: PathBuf,
    cgroup: PathBuf,
    running: Mutex<Option<Running>>,
}

type Waiting = Arc<Mutex<HashMap<u64, Sender<Option<String>>>>>;

#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    waiting: Waiting,
    next: u64,
}

impl Prober {
    /// `cgroup` is the node's cgroup for processes that belong to no pod.
    pub(crate) fn new(testbed: PathBuf, netns: PathBuf, cgroup: PathBuf) -> Self {
        Self { testbed, netns, cgroup, running: Mutex::new(None) }
    }

    /// Performs a probe from the node.
    pub(crate) fn probe(&self, check: Check) -> Result<(), String> {
        let patience = check.timeout + Duration::from_secs(2);
        let (sender, answer) = mpsc::channel();
        if let Err(e) = self.ask(check, sender) {
            *lock(&self.running) = None;
            return Err(e.to_string());
        }
        match answer.recv_timeout(patience) {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(error),
            Err(_) => Err("the node's prober did not answer".to_owned()),
        }
    }

    fn ask(&self, check: Check, sender: Sender<Option<String>>) -> Result<()> {
        let mut running = lock(&self.running);
        if running.is_none() {
            *running = Some(self.start()?);
        }
        let Some(helper) = running.as_mut() else { return Ok(()) };
        helper.next += 1;
        let id = helper.next;
        lock(&helper.waiting).insert(id, sender);
        let mut line = serde_json::to_vec(&Question { id, check }).unwrap_or_default();
        line.push(b'\n');
        helper.input.write_all(&line).doing(|| "reach the node's prober".to_owned())
    }

    fn start(&self) -> Result<Running> {
        let mut command = place::node_command(&self.testbed, &self.netns, &self.cgroup)?;
        command
            .args(["internal", "prober"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().doing(|| "start the node's prober".to_owned())?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) =
            pipes.ok_or(io::ErrorKind::BrokenPipe.into()).doing(|| "use a pipe".to_owned())?;
        let waiting = Waiting::default();
        let answers = Arc::clone(&waiting);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(io::Result::ok) {
                let Ok(answer) = serde_json::from_str::<Answer>(&line) else { continue };
                let sender = lock(&answers).remove(&answer.id);
                // The one who asked may have given up.
                let _ = sender.map(|sender| sender.send(answer.error));
            }
            lock(&answers).clear();
        });
        Ok(Running { child, input, waiting, next: 0 })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends by itself when its input does; killing only makes the waiting short.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
