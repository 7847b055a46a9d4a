//! The ways of sending and receiving, each as a loop over one socket.

use std::io::{self, IoSlice, Read, Seek, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::payload::{Checker, Hasher, Stream};
use super::{In, Out};
use crate::sys::{
    epoll::{Edge, Ready},
    ring::Ring,
    send,
};

/// A stream on its way out.
pub(super) struct Outgoing {
    stream: Stream,
    hasher: Hasher,
}

impl Outgoing {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, hasher: Hasher::default() }
    }

    pub(super) fn digest(&self) -> super::Digest {
        self.hasher.digest()
    }

    /// The next bytes of it, up to so many.
    fn next(&self, count: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(usize::MAX).min(CHUNK)];
        self.stream.fill(self.hasher.digest().bytes, &mut bytes);
        bytes
    }

    /// Sends the next `count` bytes.
    pub(super) fn send(&mut self, socket: &TcpStream, count: u64, out: Out) -> io::Result<()> {
        let mut way = Way::new(socket, out)?;
        let end = self.hasher.digest().bytes + count;
        while self.hasher.digest().bytes < end {
            let mut bytes = self.next(end - self.hasher.digest().bytes);
            let sent = way.send(socket, &mut bytes)?;
            // Those that have gone: what was lent is written over by now.
            let mut gone = vec![0; sent];
            self.stream.fill(self.hasher.digest().bytes, &mut gone);
            self.hasher.add(&gone);
        }
        if matches!(out, Out::Edge) {
            socket.set_nonblocking(false)?;
        }
        Ok(())
    }

    /// Sends until the kernel takes nothing for so long, or until no buffer can be the reason that it takes more.
    pub(super) fn fill(&mut self, socket: &TcpStream, quiet: Duration) -> io::Result<()> {
        let before = socket.write_timeout()?;
        socket.set_write_timeout(Some(quiet))?;
        let mut socket_writes = socket;
        let filled = loop {
            if self.hasher.digest().bytes >= FILLED {
                break Ok(());
            }
            let bytes = self.next(CHUNK as u64);
            match again(|| socket_writes.write(&bytes)) {
                Ok(sent) => self.hasher.add(&bytes[..sent]),
                Err(e) if is_timeout(&e) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        socket.set_write_timeout(before)?;
        filled
    }
}

/// A way of sending with what it keeps from call to call.
enum Way {
    Write(usize),
    Vectored,
    File(std::fs::File),
    Splice(io::PipeReader, io::PipeWriter),
    /// Calls so far.
    ZeroCopy(u32),
    Edge(Edge),
    Ring(Ring),
}

impl Way {
    fn new(socket: &TcpStream, out: Out) -> io::Result<Self> {
        Ok(match out {
            Out::Write => Self::Write(CHUNK),
            Out::Pieces(size) => {
                socket.set_nodelay(true)?;
                Self::Write(size)
            }
            Out::Vectored => Self::Vectored,
            Out::File => Self::File(send::memory_file(c"torture")?),
            Out::Splice => {
                let (reader, writer) = io::pipe()?;
                Self::Splice(reader, writer)
            }
            Out::ZeroCopy => {
                send::allow_zero_copy(socket)?;
                Self::ZeroCopy(0)
            }
            Out::Edge => {
                socket.set_nonblocking(true)?;
                Self::Edge(Edge::watch(socket, Ready::ToSend)?)
            }
            Out::Ring => Self::Ring(Ring::new()?),
        })
    }

    /// Sends some of these; how many.
    fn send(&mut self, mut socket: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Write(size) => again(|| socket.write(&bytes[..bytes.len().min(*size)])),
            Self::Vectored => {
                let slices: Vec<_> = bytes.chunks(1021).map(IoSlice::new).collect();
                again(|| socket.write_vectored(&slices))
            }
            Self::File(file) => {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(bytes)?;
                file.rewind()?;
                again(|| send::send_file(socket, file, bytes.len()))
            }
            Self::Splice(reader, writer) => {
                // As much as a pipe holds, so that writing into it does not wait.
                let size = bytes.len().min(PIPE);
                writer.write_all(&bytes[..size])?;
                let mut left = size;
                while left > 0 {
                    left -= again(|| send::splice(reader, &socket, left))?;
                }
                Ok(size)
            }
            Self::ZeroCopy(calls) => {
                let sent = again(|| send::lend(socket, bytes))?;
                again(|| send::wait_for_copies(socket, *calls, PATIENCE))?;
                *calls += 1;
                bytes.fill(0xff);
                Ok(sent)
            }
            Self::Edge(edge) => loop {
                match again(|| socket.write(bytes)) {
                    Err(e) if is_timeout(&e) => again(|| edge.wait(PATIENCE))?,
                    other => return other,
                }
            },
            Self::Ring(ring) => again(|| ring.send(&socket, bytes)),
        }
    }
}

/// Receives exactly `count` bytes, or to the end.
pub(super) fn receive(
    socket: &TcpStream,
    checker: &mut Checker,
    count: Option<u64>,
    receive: In,
) -> io::Result<()> {
    let mut way = Source::new(socket, receive)?;
    let end = count.map(|count| checker.bytes() + count);
    let mut buffer = vec![0; CHUNK];
    while end.is_none_or(|end| checker.bytes() < end) {
        let most = end.map_or(CHUNK as u64, |end| end - checker.bytes());
        let most = usize::try_from(most).unwrap_or(CHUNK).min(CHUNK);
        match way.receive(socket, &mut buffer[..most])? {
            0 if end.is_some() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => break,
            got => checker.check(&buffer[..got]),
        }
    }
    if matches!(receive, In::Edge) {
        socket.set_nonblocking(false)?;
    }
    Ok(())
}

/// A way of receiving with what it keeps from call to call.
enum Source {
    Read,
    Slow(usize, Duration),
    Peek,
    Splice(io::PipeReader, io::PipeWriter),
    Edge(Edge),
    Ring(Ring),
}

impl Source {
    fn new(socket: &TcpStream, receive: In) -> io::Result<Self> {
        Ok(match receive {
            In::Read => Self::Read,
            In::Slow(size, pause) => Self::Slow(size, Duration::from_millis(pause)),
            In::Peek => Self::Peek,
            In::Splice => {
                let (reader, writer) = io::pipe()?;
                Self::Splice(reader, writer)
            }
            In::Edge => {
                socket.set_nonblocking(true)?;
                Self::Edge(Edge::watch(socket, Ready::ToReceive)?)
            }
            In::Ring => Self::Ring(Ring::new()?),
        })
    }

    fn receive(&mut self, mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Read => again(|| socket.read(buffer)),
            Self::Slow(size, pause) => {
                let size = buffer.len().min(*size);
                let got = again(|| socket.read(&mut buffer[..size]))?;
                thread::sleep(*pause);
                Ok(got)
            }
            Self::Peek => {
                let mut shown = vec![0; buffer.len()];
                let size = again(|| socket.peek(&mut shown))?;
                if size == 0 {
                    return Ok(0);
                }
                socket.read_exact(&mut buffer[..size])?;
                if buffer[..size] == shown[..size] {
                    return Ok(size);
                }
                Err(io::Error::other("MSG_PEEK has shown other bytes than were read after it"))
            }
            Self::Splice(reader, writer) => {
                let size = buffer.len().min(PIPE);
                let got = again(|| send::splice(&socket, writer, size))?;
                reader.read_exact(&mut buffer[..got])?;
                Ok(got)
            }
            Self::Edge(edge) => loop {
                match again(|| socket.read(buffer)) {
                    Err(e) if is_timeout(&e) => again(|| edge.wait(PATIENCE))?,
                    other => return other,
                }
            },
            Self::Ring(ring) => again(|| ring.receive(&socket, buffer)),
        }
    }
}

/// Calls until it is not a signal that ends the call.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Whether nothing could be done for too long, or at once.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Until a flow in which nothing moves is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes at a time.
const CHUNK: usize = 1 << 16;
/// More than all buffers of a flow together: a reader is there, or somebody keeps what nobody reads.
pub const FILLED: u64 = 64 << 20;
/// Bytes that any pipe holds, however they come: sixteen pages, of which one may be used in part.
const PIPE: usize = 15 << 12;
