//! What rules do to requests: the samples of the tutorials, applied as their readers do, over the real bed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};

mod bookinfo;
mod breaker;
mod bytes;
mod datagrams;
mod entries;
pub(crate) mod gateway;
mod gateway_api;
mod health;
mod kept;
mod outside;
mod policy;
mod samples;
mod streams;

/// One answer, or that there was none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    /// 0 if there was none.
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Seconds.
    time: f64,
    /// What `x-envoy-overloaded` says.
    overloaded: String,
}

impl Answer {
    /// The version of Bookinfo's `reviews` that this is from.
    fn version(&self) -> &str {
        let pod = self.body.split_once("reviews-v").map_or("", |(_, rest)| rest);
        pod.split('-').next().unwrap_or_default()
    }
}

/// The directory of the samples.
fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples")
}

/// A file of the samples.
pub(crate) fn sample(name: &str) -> Result<String> {
    let path = samples().join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Bookinfo on two nodes, with a client of the same identity on each: `sleep` and `sleep-2`.
pub(crate) fn bookinfo() -> Result<String> {
    let sleep = sample("bookinfo/sleep.yaml")?;
    let on = |node: &str| sleep.replace("  containers:", &format!("  nodeName: {node}\n  containers:"));
    let second = on("node-2").replace("name: sleep\n  labels", "name: sleep-2\n  labels");
    let first = on("node-1");
    let parts = [sample("bookinfo/namespace.yaml")?, sample("bookinfo/bookinfo.yaml")?, first, second];
    Ok(parts.join("---\n"))
}

/// Applies a file of the samples.
pub(crate) fn apply(bed: &Bed, name: &str) -> Result<()> {
    Ok(bed.apply(&sample(name)?)?)
}

/// What `curl` is told besides the URL and the caller's own words: `[1-9]` in a URL makes many of it.
const CURL: [&str; 6] =
    ["curl", "-sN", "--max-time", "20", "-w", "\n#%{http_code} %{time_total} %header{x-envoy-overloaded}\n"];

/// Sends requests one after the other over one connection.
pub(crate) fn ask(from: &PodHandle, words: &[&str]) -> Result<Vec<Answer>> {
    let output = from.exec(&[&CURL, words].concat())?;
    let mut answers = Vec::new();
    let mut body = String::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match line.strip_prefix('#') {
            Some(line) => answers.push(ended(line, std::mem::take(&mut body))),
            None => body.push_str(line),
        }
    }
    ensure!(!answers.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(answers)
}

/// Sends requests at once, each over its own connection. Their bodies are not kept.
fn ask_at_once(from: &PodHandle, words: &[&str]) -> Result<Vec<Answer>> {
    ask(from, &[&["-Z", "--parallel-immediate", "--parallel-max", "50", "-o", "/dev/null"], words].concat())
}

fn ended(line: &str, body: String) -> Answer {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (status, time) = (next().parse().unwrap_or(0), next().parse().unwrap_or(0.0));
    Answer { status, body, time, overloaded: next().to_owned() }
}

/// One request.
pub(crate) fn ask_once(from: &PodHandle, words: &[&str]) -> Result<Answer> {
    ask(from, words)?.into_iter().next().context("no answer")
}

/// Repeats a request until its answer is the wanted one: a change takes a moment to reach the node.
pub(crate) fn until(
    bed: &Bed,
    from: &PodHandle,
    words: &[&str],
    wanted: impl Fn(&Answer) -> bool,
) -> Result<Answer> {
    let mut last = Answer::default();
    let reached = bed.wait("the wanted answer", Duration::from_secs(5), |_| {
        last = ask_once(from, words).unwrap_or_default();
        wanted(&last)
    });
    reached.with_context(|| format!("{words:?} from {} at last: {last:?}", from.name()))?;
    Ok(last)
}

/// How many answers came from which version; all must be good.
fn versions(answers: &[Answer]) -> Result<BTreeMap<&str, usize>> {
    let bad = answers.iter().find(|answer| answer.status != 200);
    ensure!(bad.is_none(), "{bad:?}");
    Ok(count(answers, Answer::version))
}

/// How many answers have which status.
fn statuses(answers: &[Answer]) -> BTreeMap<u16, usize> {
    count(answers, |answer| answer.status)
}

fn count<'a, K: Ord>(answers: &'a [Answer], by: impl Fn(&'a Answer) -> K) -> BTreeMap<K, usize> {
    let mut counted = BTreeMap::new();
    for answer in answers {
        *counted.entry(by(answer)).or_default() += 1;
    }
    counted
}

/// Whether `seen` of `of` is what a share of `percent` may well come to: five standard deviations either way, so that
/// one run of two million is unlucky.
fn is_share(seen: usize, of: usize, percent: f64) -> bool {
    let (seen, of) = (f64::from(u32::try_from(seen).unwrap_or(0)), f64::from(u32::try_from(of).unwrap_or(0)));
    let share = percent / 100.0;
    (seen - of * share).abs() <= 5.0 * (of * share * (1.0 - share)).sqrt()
}

#[test]
fn shares_have_bounds() {
    for (seen, percent, fits) in [
        (200, 50.0, true),
        (151, 50.0, true),
        (149, 50.0, false),
        (40, 10.0, true),
        (71, 10.0, false),
        (9, 10.0, false),
    ] {
        assert_eq!(is_share(seen, 400, percent), fits, "{seen} at {percent} %");
    }
}
