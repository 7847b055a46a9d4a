//! Running a test program under a deadline, with its output passed on as it comes.

use std::{
    fs,
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::count::Tally;
use crate::shell::{self, line_of, say};

/// Runs a command that prints as the standard test harness does, until it ends or the deadline comes, and adds what
/// it counted to `tally`. A non-zero exit without a failed test counts as a failure of its own. All output goes to
/// `screen` as well.
///
/// # Errors
/// If it cannot be started, or is not over at the deadline: it and everything it started is then ended.
pub(super) fn run(
    command: &mut Command,
    screen: impl Write + Send + 'static,
    (deadline, as_root): (Instant, bool),
    tally: &mut Tally,
) -> Result<()> {
    let limit = deadline.saturating_duration_since(Instant::now());
    let line = line_of(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("`{line}` does not start"))?;
    let mut output = child.stdout.take().expect("standard output is piped");
    let (lines, counted) = mpsc::channel();
    thread::spawn(move || copy(&mut output, screen, &lines));

    let status = wait(&mut child, deadline)?;
    if status.is_none() {
        end(child.id(), as_root);
        let _ = child.wait();
    }
    // A process left behind may hold the pipe open for ever; what it writes is no test's output.
    let before = tally.failed;
    while let Ok(line) = counted.recv_timeout(AFTER_END) {
        tally.read_line(&line);
    }
    tally.finish();
    match status {
        None => {
            bail!(
                "still running after {:.0} s, and ended: the last test named above hangs",
                limit.as_secs_f64()
            )
        }
        Some(status) if !status.success() && tally.failed == before => {
            tally.fail(format!("`{line}` ended early: {status}"));
            Ok(())
        }
        Some(_) => Ok(()),
    }
}

/// Passes bytes on at once, also of unfinished lines: the name of a test comes before it runs.
fn copy(from: &mut impl Read, mut screen: impl Write, lines: &mpsc::Sender<String>) {
    let mut buffer = [0; 8192];
    let mut unfinished = Vec::new();
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => buffer.get(..read).expect("a read fills no more than its buffer"),
        };
        let _ = screen.write_all(read).and_then(|()| screen.flush());
        unfinished.extend_from_slice(read);
        while let Some(end) = unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unfinished.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(line).is_err() {
                return;
            }
        }
    }
}

fn wait(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Ends a process and everything it started: politely, then not.
fn end(pid: u32, as_root: bool) {
    // Known before the first signal: orphans of a parent that obeyed it are nobody's descendants any more.
    let mut family = vec![pid];
    family.extend(descendants(pid, &parents()));
    for signal in ["-TERM", "-KILL"] {
        family.retain(|pid| is_running(*pid));
        if family.is_empty() {
            return;
        }
        say(format_args!("ending {} processes with {signal}", family.len()));
        let kill = if as_root { shell::as_root("sh") } else { Ok(Command::new("sh")) };
        if let Ok(mut kill) = kill {
            let pids = family.iter().map(u32::to_string);
            let _ = kill.args(["-c", "kill \"$@\" 2>/dev/null", "sh", signal]).args(pids).status();
        }
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && family.iter().any(|pid| is_running(*pid)) {
            thread::sleep(POLL);
        }
    }
}

fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// (process, parent) of every process there is.
fn parents() -> Vec<(u32, u32)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter_map(|stat| parent_in(&stat)).collect()
}

/// Reads `pid (name) state ppid …`; the name may hold anything, parentheses too.
fn parent_in(stat: &str) -> Option<(u32, u32)> {
    let pid = stat.split_once(' ')?.0.parse().ok()?;
    let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    Some((pid, parent))
}

fn descendants(of: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(pid, p)| *p == parent && *pid != parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

const POLL: Duration = Duration::from_millis(50);

/// How long lines may still come after the end of the process that wrote them.
const AFTER_END: Duration = Duration::from_secs(1);

/// How long tests may clean up after being told to end.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_counted_and_an_early_end_is_a_failure() {
        let mut tally = Tally::default();
        let soon = Instant::now() + Duration::from_secs(20);
        let good = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'";
        run(&mut shell(good), io::sink(), (soon, false), &mut tally).unwrap();
        assert_eq!((tally.passed, tally.failed), (2, 0));
        run(&mut shell("exit 3"), io::sink(), (soon, false), &mut tally).unwrap();
        assert_eq!((tally.passed, tally.failed), (2, 1));
        assert!(tally.failures[0].contains("ended early"), "{:?}", tally.failures);
    }

    #[test]
    fn what_hangs_is_ended_with_its_children() {
        let started = Instant::now();
        let deadline = started + Duration::from_millis(300);
        let mut tally = Tally::default();
        let hang = &mut shell("sleep 61.25 & sleep 61.25");
        let error = run(hang, io::sink(), (deadline, false), &mut tally).unwrap_err();
        assert!(error.to_string().contains("still running"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_process_table_gives_the_whole_family() {
        assert_eq!(parent_in("7 (a) b (c) S 3 7 7 0"), Some((7, 3)));
        assert_eq!(parent_in("nonsense"), None);
        let parents = [(1, 0), (2, 1), (3, 2), (4, 1), (5, 3), (6, 4)];
        assert_eq!(descendants(2, &parents), [3, 5]);
        assert_eq!(descendants(6, &parents), Vec::<u32>::new());
    }
}
