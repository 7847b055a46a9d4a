//! Which processors threads run on.

use std::io;
use std::mem;

use super::check;

/// The processors that the calling thread may run on, by their numbers.
pub(crate) fn processors() -> io::Result<Vec<usize>> {
    // SAFETY: a set of processors is plain data for which all zeroes is a valid value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live local of that size.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) })?;
    // SAFETY: no number is beyond what a set has room for.
    Ok((0..MOST).filter(|number| unsafe { libc::CPU_ISSET(*number, &set) }).collect())
}

/// Has a thread run on some processors and no others: the thread `tid`, or the calling one if it is 0. What it starts from then on does as well.
pub(crate) fn keep_on(tid: libc::pid_t, processors: &[usize]) -> io::Result<()> {
    // SAFETY: a set of processors is plain data for which all zeroes is a valid value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for number in processors.iter().filter(|number| **number < MOST) {
        // SAFETY: the number is not beyond what a set has room for.
        unsafe { libc::CPU_SET(*number, &mut set) };
    }
    // SAFETY: the pointer is to a live local of that size.
    check(unsafe { libc::sched_setaffinity(tid, size_of_val(&set), &raw const set) })?;
    Ok(())
}

/// Processors that a set has room for.
const MOST: usize = libc::CPU_SETSIZE as usize;
