//! Edge-triggered epoll over one socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::check;

/// Tells when a socket becomes ready, once each time.
#[derive(Debug)]
pub(crate) struct Edge(OwnedFd);

/// What for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ready {
    /// Bytes, or the end.
    ToReceive,
    /// Room.
    ToSend,
}

impl Edge {
    /// Watches a socket from now on.
    pub(crate) fn watch(socket: &impl AsFd, ready: Ready) -> io::Result<Self> {
        // SAFETY: epoll_create1 takes a flag and returns a new descriptor.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
        let edge = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let kind = match ready {
            Ready::ToReceive => libc::EPOLLIN | libc::EPOLLRDHUP,
            Ready::ToSend => libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: (kind | libc::EPOLLET).cast_unsigned(), u64: 0 };
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open, and the event lives for the call.
        check(unsafe { libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, socket, &raw mut event) })?;
        Ok(edge)
    }

    /// Waits for the next edge.
    pub(crate) fn wait(&self, patience: Duration) -> io::Result<()> {
        let milliseconds = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: the pointer is to one live structure, as the count says.
        match check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), &raw mut event, 1, milliseconds) })? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}
