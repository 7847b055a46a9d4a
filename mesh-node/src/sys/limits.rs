//! Process limits.

use std::io;

use super::check;

/// Sets the soft limit of open files to `wanted`, at most the hard limit, which is also the default; returns it.
pub fn set_open_files(wanted: Option<u64>) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = wanted.unwrap_or(limit.rlim_max).min(limit.rlim_max);
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}
