//! Threads that do not turn, for tests of whoever should see them.

use std::fs;
use std::io;

use crate::sys;

/// Stops the thread of this name of a process while `f` runs; the others go on.
///
/// # Errors
/// If there is no such thread, or it may not be traced.
pub fn while_halted<T>(pid: u32, name: &str, f: impl FnOnce() -> T) -> io::Result<T> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm"))?.trim_end() == name {
            let tid = task.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
            return sys::halt::while_halted(tid, f);
        }
    }
    Err(io::Error::other(format!("process {pid} has no thread {name}")))
}
