//! Stops one thread of another process, which goes on without it.

use std::io;
use std::ptr;

use super::check;

/// Stops the thread `tid` while `f` runs. Whoever calls it has to be allowed to trace the thread's process: its parent, or root.
pub(crate) fn while_halted<T>(tid: libc::pid_t, f: impl FnOnce() -> T) -> io::Result<T> {
    trace(libc::PTRACE_SEIZE, tid)?;
    trace(libc::PTRACE_INTERRUPT, tid)?;
    let mut status = 0;
    // SAFETY: the pointer is to a local that outlives the call.
    check(unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) })?;
    let result = f();
    trace(libc::PTRACE_DETACH, tid)?;
    Ok(result)
}

fn trace(request: libc::c_uint, tid: libc::pid_t) -> io::Result<()> {
    // SAFETY: none of the requests above takes or returns anything by a pointer.
    check(unsafe {
        libc::ptrace(request, tid, ptr::null_mut::<libc::c_void>(), ptr::null_mut::<libc::c_void>())
    })?;
    Ok(())
}
