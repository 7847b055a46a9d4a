//! Netlink, as far as the node speaks it: one question, and its answers.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::check;

/// A netlink socket in the calling thread's network namespace.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one for a protocol (`NETLINK_…`).
    pub(super) fn open(protocol: libc::c_int) -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: plain integers; the descriptor is checked before it is owned.
        let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a request; `flags` are `NLM_F_…` besides `NLM_F_REQUEST`.
    pub(super) fn send(&self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(HEADER + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&flags.to_ne_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(body);
        // SAFETY: the buffer outlives the call and its length is its own.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), out.as_ptr().cast(), out.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next messages, as many as come together.
    pub(super) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        // SAFETY: the buffer outlives the call and its length is its own.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        Ok(buffer.get(..length).unwrap_or_default())
    }

    /// Sends a request that is only confirmed; the error is the kernel's.
    pub(super) fn confirm(&self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, libc::NLM_F_ACK, body)?;
        let mut buffer = [0_u8; 4096];
        let Some((NLMSG_ERROR, body, _)) = message(self.receive(&mut buffer)?) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match error_of(body) {
            error if error.raw_os_error() == Some(0) => Ok(()),
            error => Err(error),
        }
    }

    /// Asks for all there is, and gives each message's body to `each`.
    pub(super) fn dump(&self, kind: u16, body: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, libc::NLM_F_DUMP, body)?;
        let mut buffer = vec![0_u8; 64 << 10];
        loop {
            let mut rest = self.receive(&mut buffer)?;
            while let Some((kind, body, next)) = message(rest) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err(error_of(body)),
                    _ => each(body),
                }
                rest = next;
            }
        }
    }
}

/// Splits one message off: its type, its body, the rest.
pub(super) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// What an error message says; 0 is that all went well.
pub(super) fn error_of(body: &[u8]) -> io::Error {
    let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(libc::EPROTO, |b| -i32::from_ne_bytes(b));
    io::Error::from_raw_os_error(code)
}

/// The attributes in a message: kinds and values.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// Appends an attribute.
pub(super) fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends an attribute that holds others.
pub(super) fn nested(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(out, kind | NESTED, &inner);
}

const HEADER: usize = 16;
const NESTED: u16 = 1 << 15;
/// A confirmation, or why there is none.
pub(super) const NLMSG_ERROR: u16 = 2;
/// The end of a dump.
pub(super) const NLMSG_DONE: u16 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut out = Vec::new();
        attribute(&mut out, 3, b"eth0\0");
        nested(&mut out, 5, |inner| attribute(inner, 1, &[9]));
        let read: Vec<_> = attributes(&out).map(|(kind, value)| (kind, value.len())).collect();
        assert_eq!(read, [(3, 5), (5, 8)]);
        assert_eq!(attributes(&out[..7]).count(), 0, "cut off");
    }
}
