//! Ways to send and receive that avoid a copy: files, pipes, pages lent to the kernel.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use super::{check, set_option};

/// A file in memory without a name in any file system.
pub(crate) fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: the name is NUL-terminated and lives for the call.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Sends bytes of a file from where it stands, and moves it on; how many went.
pub(crate) fn send_file(socket: &TcpStream, file: &File, count: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are open; a null offset means the file's own.
    size(unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), ptr::null_mut(), count) })
}

/// Moves bytes between a pipe and something else without looking at them; how many went, 0 at the end.
pub(crate) fn splice(from: &impl AsFd, to: &impl AsFd, count: usize) -> io::Result<usize> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: both descriptors are open; null offsets mean their own.
    size(unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), count, libc::SPLICE_F_MOVE) })
}

/// Lets a socket take `MSG_ZEROCOPY`.
pub(crate) fn allow_zero_copy(socket: &TcpStream) -> io::Result<()> {
    set_option(socket.as_raw_fd(), libc::SO_ZEROCOPY, &1_i32)
}

/// Sends from memory that the kernel borrows: until [`wait_for_copies`] it is not to be changed. How many bytes went.
pub(crate) fn lend(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_ZEROCOPY | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and the length describe `bytes`; the kernel holds on to the pages themselves.
    size(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Waits until the kernel has given back what was lent in calls up to this number, counted from 0.
pub(crate) fn wait_for_copies(socket: &TcpStream, last: u32, patience: Duration) -> io::Result<()> {
    loop {
        if let Some(returned) = returned(socket)? {
            if returned >= last {
                return Ok(());
            }
            continue;
        }
        let mut wanted = libc::pollfd { fd: socket.as_raw_fd(), events: 0, revents: 0 };
        let milliseconds = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the pointer is to one live structure, as the count says.
        if check(unsafe { libc::poll(&raw mut wanted, 1, milliseconds) })? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A connection that broke says so on its error queue for ever.
        if wanted.revents & libc::POLLHUP != 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}

/// The last call of those that one message on the error queue gives back.
fn returned(socket: &TcpStream) -> io::Result<Option<u32>> {
    let mut control = [0_u64; 16];
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the message describes `control`, which outlives the call.
    let got = size(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) });
    match got {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        other => other?,
    };
    // SAFETY: the kernel has filled in the message; a header that is not null is inside of `control`, and what follows it
    // is as long as the kind of message says, at any alignment.
    let error: libc::sock_extended_err = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() {
            return Err(io::Error::other("a message without a header on the error queue"));
        }
        ptr::read_unaligned(libc::CMSG_DATA(header).cast())
    };
    if error.ee_origin != ORIGIN_ZERO_COPY {
        return Err(io::Error::from_raw_os_error(RawFd::try_from(error.ee_errno).unwrap_or(libc::EIO)));
    }
    Ok(Some(error.ee_data))
}

fn size(result: isize) -> io::Result<usize> {
    usize::try_from(check(result)?).map_err(io::Error::other)
}

/// `SO_EE_ORIGIN_ZEROCOPY` of `linux/errqueue.h`.
const ORIGIN_ZERO_COPY: u8 = 5;
