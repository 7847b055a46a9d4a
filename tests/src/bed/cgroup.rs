//! Cgroup v2 directories: made, joined, emptied, removed.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{Doing, Result};

/// Makes a cgroup with its parents.
pub(crate) fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).at("make", path)
}

/// The file through which a process enters a cgroup.
pub(crate) fn entrance(path: &Path) -> Result<File> {
    let procs = path.join("cgroup.procs");
    OpenOptions::new().write(true).open(&procs).at("open", &procs)
}

/// Kills every process of a cgroup and of those below it; returns when they are gone, or after `patience`.
pub(crate) fn kill(path: &Path, patience: Duration) {
    let deadline = Instant::now() + patience;
    while populated(path) && Instant::now() < deadline {
        // A process that forks meanwhile is killed by the kernel as well; repeating covers those that just enter.
        if fs::write(path.join("cgroup.kill"), "1").is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a cgroup or one below it has a process.
pub(crate) fn populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

/// Removes a cgroup with all below it. What still has processes stays; the kernel refuses.
pub(crate) fn remove(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            remove(&entry.path());
        }
    }
    // The last process of a cgroup is gone a moment before the kernel lets go of the directory.
    for _ in 0..50 {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}
