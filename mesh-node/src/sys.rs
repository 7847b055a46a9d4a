//! What the standard library does not offer of Linux: the only module of the node with `unsafe` in it.
#![expect(unsafe_code, reason = "system calls; each with its safety argument")]

pub mod bpf;
pub mod conntrack;
pub mod datagram;
pub mod diag;
pub mod fs;
pub mod limits;
pub mod links;
pub mod memory;
mod netlink;
pub mod netns;
pub mod signal;
pub mod sockopt;

use std::io;

/// The result of a system call that returns -1 on error.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
