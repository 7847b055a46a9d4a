//! A process of the bench's own program in another part, seen from the bench.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::Part;
use crate::bench::process;

/// A running process; dropping it ends it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    /// Taken by whoever reads it to its end.
    output: Option<BufReader<ChildStdout>>,
    part: String,
}

/// Memory of a process, in MiB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resident {
    pub(super) now: f64,
    /// The most that it ever was.
    pub(super) peak: f64,
}

impl Resident {
    /// That of the process `pid`.
    pub(super) fn of(pid: u32) -> Result<Self> {
        Ok(Self { now: process::rss_kb(pid)? / 1024.0, peak: process::peak_kb(pid)? / 1024.0 })
    }
}

impl Process {
    pub(super) fn start(part: &Part) -> Result<Self> {
        let program = env::current_exe().context("where is this program?")?;
        let mut command = Command::new(program);
        command.arg(format!("{ARGUMENT}={part}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{part} does not start"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.context("both were asked for")?;
        Ok(Self { child, input, output: Some(BufReader::new(output)), part: part.to_string() })
    }

    /// Waits for a line that begins with `word`, and returns the rest of it.
    pub(super) fn expect(&mut self, word: &str) -> Result<String> {
        let mut line = String::new();
        let output = self.output.as_mut().context("somebody else reads the output")?;
        output.read_line(&mut line)?;
        let Some(rest) = line.trim_end().strip_prefix(word) else {
            bail!("{} says {line:?} instead of {word:?}", self.part);
        };
        Ok(rest.trim_start().to_owned())
    }

    pub(super) fn take_output(&mut self) -> Option<BufReader<ChildStdout>> {
        self.output.take()
    }

    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").with_context(|| format!("{} has ended", self.part))
    }

    pub(super) fn resident(&self) -> Result<Resident> {
        Resident::of(self.child.id())
    }

    /// Processor seconds since its start.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(&[self.child.id()])
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the bench's program is told which part it plays.
pub(super) const ARGUMENT: &str = "--part";
