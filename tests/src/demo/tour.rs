//! What the steps of the demonstration share: the bed, the way to act in it, and the way to tell what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::access::Access;
use super::console::Console;
use super::curl::{self, Fetched};
use crate::bed::{Bed, PodHandle, PodStatus, Process, Status, Target};
use crate::bookinfo;

/// The demonstration under way.
pub(super) struct Tour {
    /// When it began.
    pub(super) started: Instant,
    /// The bed that everything happens in.
    pub(super) bed: Bed,
    /// Whether a control plane runs inside of every node.
    pub(super) embedded: bool,
    /// Where it is told.
    pub(super) console: Console,
    /// The directory of the manifests.
    pub(super) samples: PathBuf,
    /// Where the page is on the machine's own loopback interface, once it is.
    pub(super) page: Option<SocketAddr>,
    /// Somebody wants it to end.
    pub(super) interrupted: Interrupt,
}

/// Raised once somebody wants the demonstration to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

/// How much every node had logged at some moment.
#[derive(Debug)]
pub(super) struct LogMark(BTreeMap<String, usize>);

/// Not a failure: the user has had enough.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

impl Interrupt {
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error once it is raised.
    pub(super) fn check(&self) -> Result<()> {
        if self.raised() { Err(Interrupted.into()) } else { Ok(()) }
    }
}

impl Tour {
    /// Tells what is expected, what was seen, and whether that is it; an error if it is not.
    pub(super) fn check(&mut self, expected: &str, holds: bool, seen: &str) -> Result<()> {
        // What the terminal's interrupt has done to the commands under way is no finding.
        if !holds {
            thread::sleep(Duration::from_millis(100));
        }
        self.interrupted.check()?;
        self.console.expect(expected);
        self.console.saw(holds, seen);
        ensure!(holds, "expected {expected}; saw {seen}");
        Ok(())
    }

    /// As [`Tour::check`], for a line of an access log that should be there.
    pub(super) fn check_log(&mut self, expected: &str, line: Option<&Access>) -> Result<()> {
        let seen = line.map_or_else(|| "no such line".to_owned(), Access::essence);
        self.check(expected, line.is_some(), &seen)
    }

    /// Waits until the bed's pods are as wanted.
    pub(super) fn wait_for(&self, what: &str, wanted: fn(&Status) -> bool) -> Result<()> {
        let interrupted = self.interrupted.clone();
        self.bed.wait(what, 2 * PATIENCE, |bed| interrupted.raised() || wanted(&bed.status()))?;
        self.interrupted.check()
    }

    /// Tells whether something took effect in time: within the second that the mesh promises. On a machine that has
    /// far more to do than it can, even the question takes longer; then three seconds are enough, and it says so.
    pub(super) fn check_effect(
        &mut self,
        expected: &str,
        took: Duration,
        holds: bool,
        seen: &str,
    ) -> Result<()> {
        let load = load();
        let (limit, words) = if load > OVERLOAD {
            (3, format!("within 3 seconds (the machine is overloaded: {load:.1} per processor)"))
        } else {
            (1, "within a second".to_owned())
        };
        let in_time = took < Duration::from_secs(limit);
        self.check(&format!("{expected} {words}"), holds && in_time, seen)
    }

    /// A running pod, by a unique prefix of its name.
    pub(super) fn pod(&self, name: &str) -> Result<PodHandle> {
        self.interrupted.check()?;
        Ok(self.bed.pod(name)?)
    }

    /// The pods whose name begins so.
    pub(super) fn pods(&self, prefix: &str) -> Vec<PodStatus> {
        self.bed.status().pods.into_iter().filter(|pod| pod.full_name().starts_with(prefix)).collect()
    }

    /// A pod whose name begins so, on another node than `pod`.
    pub(super) fn elsewhere(&self, prefix: &str, pod: &PodHandle) -> Result<PodHandle> {
        let pods = self.pods(prefix);
        let other = pods.iter().find(|other| other.node != pod.status().node);
        let other = other.with_context(|| format!("no pod {prefix}… on another node than {}", pod.name()))?;
        self.pod(&other.full_name())
    }

    /// Tells how to run a command in a pod.
    pub(super) fn show_command(&mut self, pod: &str, words: &str) {
        let bed = self.bed.name().clone();
        let exec = format!("cargo xtask testbed exec --name {bed} {pod} --");
        self.console.command(&[&exec, words]);
    }

    /// Requests a URL from a pod, within three seconds.
    pub(super) fn curl(&self, pod: &PodHandle, words: &[&str]) -> Result<Fetched> {
        self.curl_within(pod, "3", words)
    }

    /// As [`Tour::curl`], within a time of the caller's choice, in seconds.
    pub(super) fn curl_within(&self, pod: &PodHandle, seconds: &str, words: &[&str]) -> Result<Fetched> {
        self.interrupted.check()?;
        let all = ["curl"].into_iter().chain(curl::OPTIONS).chain([seconds]).chain(words.iter().copied());
        let output = pod.exec(&all.collect::<Vec<_>>())?;
        Ok(Fetched::read(&output))
    }

    /// Repeats a request every few milliseconds until its outcome is the wanted one; answers the last outcome.
    pub(super) fn until(
        &self,
        pod: &PodHandle,
        words: &[&str],
        wanted: fn(&Fetched) -> bool,
    ) -> Result<Fetched> {
        self.until_within(pod, PATIENCE, words, wanted)
    }

    /// As [`Tour::until`], for longer: what is asked may have to start first.
    pub(super) fn until_within(
        &self,
        pod: &PodHandle,
        patience: Duration,
        words: &[&str],
        wanted: fn(&Fetched) -> bool,
    ) -> Result<Fetched> {
        let deadline = Instant::now() + patience;
        loop {
            let fetched = self.curl_within(pod, "1", words)?;
            if wanted(&fetched) || Instant::now() > deadline {
                return Ok(fetched);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Applies a file of the samples; answers when it was written.
    pub(super) fn apply(&mut self, file: &str) -> Result<Instant> {
        self.show_apply(file);
        let text = self.sample(file)?;
        let written = Instant::now();
        self.bed.apply(&text)?;
        Ok(written)
    }

    /// A file of the samples.
    pub(super) fn sample(&self, file: &str) -> Result<String> {
        let path = self.samples.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The directory of the samples as the reader can type it.
    pub(super) fn samples_shown(&self) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        self.samples.strip_prefix(here).unwrap_or(&self.samples).display().to_string()
    }

    /// Tells how the reader applies a file of the samples: by putting it where the bed looks for manifests.
    pub(super) fn show_apply(&mut self, file: &str) {
        let target = self.bed.layout().state.join("manifests");
        let shown = self.samples_shown();
        let beside = file.strip_prefix("../").map(|file| Path::new(&shown).with_file_name("").join(file));
        let from = beside.unwrap_or_else(|| Path::new(&shown).join(file));
        let from = format!("cp {}", from.display());
        self.console.command(&[&from, &format!("{}/", target.display())]);
    }

    /// Marks the end of every node's log, once what happened before has been written: lines come a moment after a
    /// connection's end, and ends a moment after an answer.
    pub(super) fn mark(&self) -> Result<LogMark> {
        let deadline = Instant::now() + PATIENCE;
        let mut mark = self.log_lengths()?;
        loop {
            thread::sleep(SETTLING);
            let now = self.log_lengths()?;
            // Somebody else may be using the page all the time.
            if now == mark || Instant::now() > deadline {
                return Ok(LogMark(now));
            }
            mark = now;
        }
    }

    fn log_lengths(&self) -> Result<BTreeMap<String, usize>> {
        self.interrupted.check()?;
        let nodes = self.bed.status().nodes.into_iter().map(|node| node.name);
        nodes.map(|node| Ok((node.clone(), self.bed.node(&node)?.log()?.len()))).collect()
    }

    /// The connections that any node has logged since the mark, oldest first on each node.
    pub(super) fn since(&self, mark: &LogMark) -> Result<Vec<Access>> {
        let mut lines = Vec::new();
        for (node, length) in &mark.0 {
            let log = self.bed.node(node)?.log()?;
            lines.extend(Access::all(log.get(*length..).unwrap_or_default()));
        }
        Ok(lines)
    }

    /// Waits for a line in the logs since the mark; they are written a moment after a connection ends.
    pub(super) fn logged(&self, mark: &LogMark, wanted: impl Fn(&Access) -> bool) -> Result<Option<Access>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.interrupted.check()?;
            let found = self.since(mark)?.into_iter().find(|access| wanted(access));
            if found.is_some() || Instant::now() > deadline {
                return Ok(found);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A JSON document of a node's admin port.
    pub(super) fn admin(&self, node: &str, path: &str) -> Result<Value> {
        let text = self.bed.node(node)?.admin(path)?;
        serde_json::from_str(&text).with_context(|| format!("{node} answered {path} with {text:?}"))
    }

    /// Opens the page on the machine's own loopback interface; on the page's own port where that is free.
    pub(super) fn open_page(&self) -> Result<SocketAddr> {
        let target = Target::Service("default/productpage".to_owned(), PAGE_PORT);
        match self.bed.forward_from(PAGE_PORT, &target) {
            Ok(addr) => Ok(addr),
            Err(_) => Ok(self.bed.forward(&target)?),
        }
    }
}

/// Waits until a process has ended; its lines, and when that was.
pub(super) fn ended(mut process: Process) -> Result<(Vec<String>, Instant)> {
    // The last line comes with the end; waiting for it in the kernel is exact to the millisecond.
    let line = process.line(3 * PATIENCE)?;
    let at = Instant::now();
    let (_, mut rest) = process.wait(PATIENCE)?;
    rest.insert(0, line);
    Ok((rest, at))
}

/// The addresses of a pod, as a set of many.
pub(super) fn all_ips<'a>(pods: impl IntoIterator<Item = &'a PodStatus>) -> BTreeSet<IpAddr> {
    pods.into_iter().flat_map(|pod| pod.ips.iter().copied()).collect()
}

/// How many processes want to run, for each processor.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    load / u32::try_from(processors).map_or(1.0, f64::from)
}

/// `37 ms`, `1.2 s`.
pub(super) fn time(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// A number that appears nowhere else: twelve digits, so that it may stand wherever a number is expected.
pub(super) fn marker() -> Result<String> {
    let mut bytes = [0; 8];
    let source = "/dev/urandom";
    let read = fs::File::open(source).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    if let Err(error) = read {
        bail!("cannot read {source}: {error}");
    }
    Ok((100_000_000_000 + u64::from_ne_bytes(bytes) % 900_000_000_000).to_string())
}

/// How long to wait for what should happen at once before calling it failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The load of a processor from which waiting for one takes longer than what is being measured.
const OVERLOAD: f64 = 2.0;

/// How long a node's log must be silent to be complete: many times what its writer waits for company of a line.
const SETTLING: Duration = Duration::from_millis(80);

/// The port of every service of Bookinfo.
const PAGE_PORT: u16 = bookinfo::DEFAULT_PORT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(time(Duration::from_micros(37_400)), "37 ms");
        assert_eq!(time(Duration::from_millis(1234)), "1.2 s");
    }

    #[test]
    fn markers_are_numbers_that_differ() {
        let (one, two) = (marker().unwrap(), marker().unwrap());
        assert!(one.len() == 12 && one.bytes().all(|byte| byte.is_ascii_digit()) && one != two);
    }
}
