//! The processor time of other processes, as precisely as the kernel knows it.

use std::io;
use std::mem;
use std::time::Duration;

use super::check;

/// Processor time of a process since its start, all its threads and those that have ended, user and system.
pub(crate) fn processor_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a live local.
    match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    // SAFETY: timespec is plain data for which all zeroes is a valid value.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live local; a clock of a process that has ended is an error.
    check(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    let part = |number: i64| u64::try_from(number).map_err(io::Error::other);
    Ok(Duration::from_secs(part(time.tv_sec)?) + Duration::from_nanos(part(time.tv_nsec)?))
}
