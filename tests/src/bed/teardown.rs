//! The end of a bed, whoever ends it: processes, pins, namespaces, cgroups, files, in that order.
//!
//! Invariant: exactly one process at a time has a bed of some name, the one that holds the lock file. The owner holds
//! it while it lives; the reaper waits for it, so it acts the moment the owner is gone, even by `kill -9`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::cgroup;
use super::error::{BedError, Doing, Result};
use super::layout::{BedName, Layout};
use super::network::remove_namespace;
use super::place::Tools;
use crate::sys::{self, Enter};

/// The right to make or end the bed of a name. Given back on drop, also when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock, or says that someone else has it.
    fn attempt(layout: &Layout) -> Result<Option<Self>> {
        let path = beside(layout, "lock");
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at("make", parent)?;
        }
        loop {
            let file = OpenOptions::new().create(true).append(true).open(&path).at("open", &path)?;
            match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                other => other.map_err(io::Error::from).at("lock", &path)?,
            }
            // The one before may have removed the file after it was opened here.
            let current = fs::metadata(&path).map(|m| m.ino()).ok();
            if current == file.metadata().at("look at", &path).map(|m| m.ino()).ok() {
                return Ok(Some(Self { file, path }));
            }
        }
    }

    /// Takes the lock as soon as it is free.
    pub(crate) fn wait(layout: &Layout, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(lock) = Self::attempt(layout)? {
                return Ok(lock);
            }
            if Instant::now() > deadline {
                return Err(BedError::Timeout {
                    what: format!("the end of the test bed {}", layout.name),
                    within: patience,
                    state: "someone still has it".to_owned(),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Takes the lock for a new bed: a bed that runs is an error, one that is just being ended is waited for.
    pub(crate) fn claim(layout: &Layout) -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(lock) = Self::attempt(layout)? {
                return Ok(lock);
            }
            if let Some(owner) = Owner::read(layout).filter(Owner::lives) {
                return Err(BedError::Taken { name: layout.name.to_string(), pid: owner.pid });
            }
            if Instant::now() > deadline {
                return Self::wait(layout, Duration::ZERO);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets someone else have the bed.
    fn release(&self) -> io::Result<()> {
        self.file.unlock()
    }
}

/// Who runs a bed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    /// The process's start, so that a number that was given away again is not mistaken for the owner.
    started: String,
}

impl Owner {
    fn this_process() -> Self {
        let pid = std::process::id();
        Self { pid, started: start_of(pid).unwrap_or_default() }
    }

    /// The owner that the bed's files name.
    pub(crate) fn read(layout: &Layout) -> Option<Self> {
        Self::parse(&fs::read_to_string(layout.state.join(OWNER)).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.to_owned() })
    }

    fn text(&self) -> String {
        format!("{} {}", self.pid, self.started)
    }

    /// Whether that very process still runs.
    pub(crate) fn lives(&self) -> bool {
        start_of(self.pid).is_some_and(|started| started == self.started)
    }
}

/// The start of a process in clock ticks since boot (field 22 of `stat`, counted behind the name).
fn start_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // A zombie has ended; only its parent has not noticed.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// Marks the bed as this process's. Its state directory must exist.
pub(crate) fn own(layout: &Layout) -> Result<()> {
    let path = layout.state.join(OWNER);
    fs::write(&path, Owner::this_process().text()).at("write", &path)
}

/// Ends whatever is left of a bed. Does as much as it can; what is gone already is no error.
pub(crate) fn tear_down(layout: &Layout) {
    cgroup::kill(&layout.cgroup, Duration::from_secs(10));
    // Unpinning is what detaches programs and frees maps.
    let _ = fs::remove_dir_all(&layout.pins);
    for netns in layout.netns_names() {
        let _ = remove_namespace(&netns);
    }
    cgroup::remove(&layout.cgroup);
    let _ = fs::remove_dir_all(layout.memory());
    let _ = fs::remove_dir_all(&layout.state);
    let _ = fs::remove_file(supervisor_log(layout));
}

/// As [`tear_down`], and gives the lock up so that nothing at all is left.
pub(crate) fn tear_down_and_release(layout: &Layout, lock: &Lock) {
    tear_down(layout);
    let _ = fs::remove_file(&lock.path);
    // Fails while other beds have files there.
    let _ = lock.path.parent().map(fs::remove_dir);
}

/// A process that outlives its owner by just long enough to end the owner's bed.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Child,
    /// Its end of file is the signal.
    line: Option<ChildStdin>,
}

impl Reaper {
    /// Starts the reaper of a bed that this process owns.
    pub(crate) fn start(tools: &Tools, layout: &Layout) -> Result<Self> {
        let mut command = Command::new(&tools.testbed);
        command.args(["internal", "reap", layout.name.as_str(), &Owner::this_process().text()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        sys::enter(&mut command, Enter { session: true, ..Enter::default() });
        let mut child = command.spawn().doing(|| "start the reaper".to_owned())?;
        let line = child.stdin.take();
        Ok(Self { child, line })
    }

    /// Ends the bed through the reaper and waits until that is done.
    pub(crate) fn reap(mut self, layout: &Layout, lock: &Lock) {
        drop(self.line.take());
        let released = lock.release();
        let reaped = self.child.wait();
        // A reaper that someone killed leaves the work to us.
        if released.is_err() || !reaped.is_ok_and(|status| status.success()) {
            tear_down_and_release(layout, lock);
        }
    }
}

/// The reaper's whole life: waits until the owner is gone, then ends the bed, unless somebody else has it by then.
pub fn reap(name: &str, owner: &str) -> Result<()> {
    let layout = Layout::new(BedName::parse(name)?)?;
    let mut nothing = Vec::new();
    // The owner never writes; an error means the same as the end.
    let _ = io::stdin().read_to_end(&mut nothing);
    let lock = Lock::wait(&layout, Duration::from_secs(60))?;
    if Owner::read(&layout).is_none_or(|now| Some(now) == Owner::parse(owner)) {
        tear_down_and_release(&layout, &lock);
    }
    Ok(())
}

/// Ends the bed of that name, whoever runs it; answers whether there was one.
pub fn down(name: &BedName) -> Result<bool> {
    let layout = Layout::new(name.clone())?;
    let existed = layout.state.exists() || layout.cgroup.exists();
    let mut lock = None;
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        if let Some(owner) = Owner::read(&layout).filter(Owner::lives) {
            let pid = libc::pid_t::try_from(owner.pid)
                .map_err(io::Error::other)
                .doing(|| "end a process".to_owned())?;
            sys::signal(pid, signal).doing(|| format!("end the process {pid}"))?;
        }
        lock = Lock::wait(&layout, Duration::from_secs(30)).ok();
        if lock.is_some() {
            break;
        }
    }
    let lock = lock.map_or_else(|| Lock::wait(&layout, Duration::ZERO), Ok)?;
    tear_down_and_release(&layout, &lock);
    Ok(existed)
}

/// Where the supervisor of the command line complains before and beside the logs of the bed.
pub fn supervisor_log(layout: &Layout) -> PathBuf {
    beside(layout, "supervisor.log")
}

/// A file that belongs to a bed but outlives its state directory.
fn beside(layout: &Layout, suffix: &str) -> PathBuf {
    let parent = layout.state.parent().unwrap_or(Path::new("/run"));
    parent.join(format!(".{}.{suffix}", layout.name))
}

const OWNER: &str = "owner";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_known_by_number_and_start() {
        let own = Owner::this_process();
        assert!(own.lives());
        assert_eq!(Owner::parse(&own.text()), Some(own.clone()));
        assert!(!Owner { started: "0".to_owned(), ..own }.lives());
        assert_eq!(Owner::parse("x y"), None);
    }
}
