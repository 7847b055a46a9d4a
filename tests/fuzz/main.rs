//! Everything that reads bytes of strangers, fed with bytes that somebody has meddled with.
//!
//! A target is a function and what has to hold for whatever comes; [`engine`] changes inputs and keeps those that come out in
//! a new way. What it starts from is made by the targets and lies in `corpus/TARGET`; inputs that have broken something lie in
//! `failures/TARGET` and are run first, always. As part of `cargo xtask test` each target runs for a few seconds;
//! `cargo xtask fuzz --seconds N [TARGET…]` runs them for longer.
//!
//! There is no coverage of code behind the choice: that takes another build of everything with other flags (`-C
//! passes=sancov-module`, which stable compilers take), and is worth it only for runs of hours. Instead targets tell apart the
//! ways in which inputs end (which error, what is in the message), and an input that ends in a new way is built upon.

mod engine;
mod http;
mod identity;
mod tokens;
mod wire;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::engine::{Ended, Engine};

/// Something that reads bytes.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// What to begin with, besides the corpus.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces that mean something to it.
    pub(crate) words: &'static [&'static str],
    /// How this input ends, as a number; an error or a panic is a find.
    pub(crate) run: fn(&[u8]) -> anyhow::Result<u64>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let number = |name: &str| option(name).and_then(|value| value.parse::<u64>().ok());
    let values: Vec<&String> = ["--seconds", "--seed"].into_iter().filter_map(option).collect();
    let is_name =
        |word: &&String| !word.starts_with('-') && !values.iter().any(|value| std::ptr::eq(*value, *word));
    let filters: Vec<&String> = words.iter().filter(is_name).collect();
    let mut targets: Vec<Target> = [http::targets(), identity::targets(), tokens::targets(), wire::targets()]
        .into_iter()
        .flatten()
        .collect();
    targets.retain(|target| {
        filters.is_empty() || filters.iter().any(|filter| target.name.contains(filter.as_str()))
    });
    if words.iter().any(|word| word == "--list") {
        targets.iter().for_each(|target| say(&format!("{}: test", target.name)));
        return ExitCode::SUCCESS;
    }
    let seconds = number("--seconds").unwrap_or(USUAL_SECONDS);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = number("--seed").unwrap_or_else(now);
    say(&format!("running {} tests, {seconds} s each, --seed {seed}", targets.len()));
    engine::hear_panics();
    let ended: Vec<_> = targets.iter().map(|target| (target, run(target, seconds, seed))).collect();
    conclude(&ended)
}

fn run(target: &Target, seconds: u64, seed: u64) -> Ended {
    let mut seeds = (target.seeds)();
    seeds.extend(files(&folder("corpus", target)));
    let ended = Engine::new(target, seed).run(
        &files(&folder("failures", target)),
        seeds,
        Duration::from_secs(seconds),
    );
    if let Some((input, _)) = ended.find.as_ref().filter(|(_, is_known)| !is_known) {
        keep(target, input);
    }
    say(&format!("test {} ... {}", target.name, if ended.find.is_none() { "ok" } else { "FAILED" }));
    ended
}

/// Writes an input down, for ever: the next run begins with it.
fn keep(target: &Target, input: &[u8]) {
    let folder = folder("failures", target);
    let path = folder.join(format!("{:016x}", engine::hash(input)));
    match fs::create_dir_all(&folder).and_then(|()| fs::write(&path, input)) {
        Ok(()) => say(&format!("kept as {}", path.display())),
        Err(error) => say(&format!("it cannot be kept as {}: {error}", path.display())),
    }
}

fn folder(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target.name)
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

fn conclude(all: &[(&Target, Ended)]) -> ExitCode {
    say(&format!(
        "\n{:<12} {:>10} {:>9} {:>7} {:>9}  result",
        "target", "inputs", "a second", "ways", "slowest"
    ));
    for (target, ended) in all {
        let result = if ended.find.is_none() { "ok" } else { "FOUND" };
        say(&format!(
            "{:<12} {:>10} {:>9.0} {:>7} {:>6.1} ms  {result}",
            target.name,
            ended.inputs,
            ended.rate,
            ended.ways,
            ended.slowest.as_secs_f64() * 1000.0
        ));
    }
    for (target, ended) in all {
        if let Some((input, _)) = &ended.find {
            say(&format!("\n---- {}\n{}\ninput: {}", target.name, ended.why, input.escape_ascii()));
        }
    }
    let failed = all.iter().filter(|(_, ended)| ended.find.is_some()).count();
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    say(&format!(
        "\ntest result: {verdict}. {} passed; {failed} failed; 0 ignored; 0 measured",
        all.len() - failed
    ));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &str) {
    // Nobody reads any more: then there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Of each target, where nobody says how long.
const USUAL_SECONDS: u64 = 2;
