//! Signals to this process.

use std::io;

use super::check;

/// Sends SIGTERM to this process, which drains and ends.
///
/// # Errors
/// None that a process could get for itself.
pub fn terminate() -> io::Result<()> {
    // SAFETY: it takes no pointers.
    check(unsafe { libc::kill(libc::getpid(), libc::SIGTERM) }).map(drop)
}
