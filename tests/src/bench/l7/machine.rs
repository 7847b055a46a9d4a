//! Processes on cores of their own: one for the proxy, one for whoever is around it.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::config::Setup;
use crate::bench::process;

/// Which processors are for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cores {
    /// For every proxy.
    pub(super) proxy: usize,
    /// For the load and the origin.
    pub(super) rest: usize,
}

impl Cores {
    /// The first and the last processor that this process may use: neighbours may be two halves of one core.
    pub(super) fn of_this_process() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let list = list.context("/proc/self/status has no Cpus_allowed_list")?.trim();
        Self::of_list(list).with_context(|| format!("two processors are needed, there is {list:?}"))
    }

    fn of_list(list: &str) -> Option<Self> {
        let mut numbers = list.split([',', '-']).map(|number| number.parse().ok());
        let proxy = numbers.next()??;
        let rest = numbers.next_back()??;
        (proxy != rest).then_some(Self { proxy, rest })
    }
}

/// A command on one processor. It dies with this thread, so that nobody is left behind in whatever way the bench ends.
pub(super) fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let core = core.to_string();
    command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &core]).arg(program).stdin(Stdio::null());
    command
}

/// A running program; dropping it ends it.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    /// Writes the files of a setup and starts its program. What it says goes to files beside them.
    pub(super) fn start(core: usize, program: &Path, setup: &Setup, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for (path, text) in setup.paths(dir) {
            path.parent().map(fs::create_dir_all).transpose()?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let mut command = pinned(core, program);
        command.args(&setup.args).stdout(log(&dir.join(STDOUT))?).stderr(log(&dir.join(STDERR))?);
        let child = command.spawn().context("setpriv does not start")?;
        Ok(Self { child, dir: dir.to_owned() })
    }

    /// Its only process: the programs before it have become it.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with its last words if it has ended.
    pub(super) fn alive(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait().context("cannot wait for a child")? else { return Ok(()) };
        bail!("it has ended with {status}: {}", self.last_words())
    }

    /// Repeats a question until the answer is good.
    pub(super) fn wait(&mut self, question: impl Fn() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + STARTING;
        loop {
            self.alive()?;
            match question() {
                Ok(()) => return Ok(()),
                Err(reason) if Instant::now() > deadline => {
                    return Err(reason.context(format!("it is not ready; it says: {}", self.last_words())));
                }
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Empties its logs before they fill the disk. They are written in append mode, so writing goes on at the new end.
    pub(super) fn trim_logs(&self) -> Result<()> {
        for name in [STDOUT, "access.log"] {
            let path = self.dir.join(name);
            if path.exists() {
                File::options().write(true).open(&path)?.set_len(0)?;
            }
        }
        Ok(())
    }

    /// Bytes that it has logged since the last [`Self::trim_logs`].
    pub(super) fn logged(&self) -> u64 {
        let sizes =
            [STDOUT, "access.log"].map(|name| fs::metadata(self.dir.join(name)).map_or(0, |meta| meta.len()));
        sizes.iter().sum()
    }

    fn last_words(&self) -> String {
        let said = [STDERR, STDOUT].map(|name| fs::read_to_string(self.dir.join(name)).unwrap_or_default());
        let lines: Vec<&str> = said.iter().flat_map(|text| text.lines()).collect();
        let last = lines.get(lines.len().saturating_sub(LAST_WORDS)..).unwrap_or_default();
        if last.is_empty() { "nothing".to_owned() } else { last.join("\n") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything of one case; dropping it removes it.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("mesh-bench-l7-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }

    pub(super) fn dir(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is small.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Watches what the rest of the machine does while something is measured.
#[derive(Debug)]
pub(super) struct Quiet {
    since: Instant,
    others: f64,
}

impl Quiet {
    /// `ours` are the servers of the bench; loads are its children, and have ended whenever this is asked.
    pub(super) fn watch(ours: &[u32]) -> Result<Self> {
        Ok(Self { others: others(ours)?, since: Instant::now() })
    }

    /// How many processors were busy with something else on average.
    pub(super) fn cores(&self, ours: &[u32]) -> Result<f64> {
        Ok(((others(ours)? - self.others) / self.since.elapsed().as_secs_f64()).max(0.0))
    }
}

fn others(ours: &[u32]) -> Result<f64> {
    Ok(process::task_seconds()? - process::cpu_seconds(ours)? - process::family_seconds()?)
}

/// The programs that this bench cannot do without.
pub(super) fn check_tools() -> Result<()> {
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| find(tool).is_none()).collect();
    ensure!(missing.is_empty(), "{} not found in PATH", missing.join(", "));
    Ok(())
}

/// Where a program is, be it only in root's directories: users often do not have those in `PATH`.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all =
        std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    all.find_map(|dir| Some(dir.join(name)).filter(|program| program.is_file()))
}

fn log(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))
}

const STDOUT: &str = "stdout.log";

const STDERR: &str = "stderr.log";

/// Lines that are shown of a program that has failed.
const LAST_WORDS: usize = 5;

/// 10,000 routes take their time to read.
const STARTING: Duration = Duration::from_secs(30);

const TOOLS: [&str; 7] = ["curl", "iperf3", "nginx", "setpriv", "taskset", "timeout", "wrk"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_two() {
        let of = |list| Cores::of_list(list).map(|cores| (cores.proxy, cores.rest));
        assert_eq!(of("0-1"), Some((0, 1)));
        assert_eq!(of("2,4-7,9"), Some((2, 9)));
        assert_eq!((of("3"), of(""), of("a-b")), (None, None, None));
    }

    #[test]
    fn who_does_not_start_is_heard() {
        let scratch = Scratch(std::env::temp_dir().join(format!("mesh-bench-words-{}", std::process::id())));
        let setup =
            Setup { files: Vec::new(), args: ["-c", "echo broken >&2; exit 3"].map(str::to_owned).to_vec() };
        let core = Cores::of_this_process().map_or(0, |cores| cores.rest);
        let mut server = Server::start(core, Path::new("/bin/sh"), &setup, &scratch.dir("a")).unwrap();
        let error = server.wait(|| bail!("not yet")).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("broken"), "{error}");
    }
}
