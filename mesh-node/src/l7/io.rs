//! The byte streams that HTTP travels on: a socket, TLS on a socket, or a stream of a tunnel.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::Agreed;
use crate::tunnel::{self, StreamError};

/// One connection, whatever it is made of.
#[derive(Debug)]
pub enum Io {
    /// A socket.
    Tcp(TcpStream),
    /// TLS on a socket, either end of it.
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
    /// TLS inside of a tunnel, or on any of these.
    Nested(Box<tokio_rustls::TlsStream<Io>>),
    /// A stream of a tunnel.
    Tunnel(Box<Tunnelled>),
    /// Any of these, of which some bytes were read already.
    Prefixed(Box<Prefixed>),
    /// None any more.
    Closed,
}

/// A connection of which some bytes were read already, and are read again.
#[derive(Debug)]
pub struct Prefixed {
    prefix: Bytes,
    io: Io,
}

/// A stream of a tunnel as bytes.
#[derive(Debug)]
pub struct Tunnelled {
    /// None once somebody else has it.
    stream: Option<tunnel::Stream>,
    /// Read from the stream, not yet taken.
    rest: Bytes,
    /// Both ends have been passed on: there is nothing to reset.
    ended: bool,
}

impl From<TcpStream> for Io {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

impl From<tunnel::Stream> for Io {
    fn from(stream: tunnel::Stream) -> Self {
        Self::Tunnel(Box::new(Tunnelled { stream: Some(stream), rest: Bytes::new(), ended: false }))
    }
}

impl Io {
    /// The same, with bytes before those that are still to be read.
    #[must_use]
    pub fn with_prefix(self, prefix: Bytes) -> Self {
        if prefix.is_empty() { self } else { Self::Prefixed(Box::new(Prefixed { prefix, io: self })) }
    }

    /// Our own address; that of the tunnel, where it is a stream of one. Asks the kernel.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Tls(tls) => tls.get_ref().0.local_addr().ok(),
            Self::Nested(tls) => tls.get_ref().0.local(),
            Self::Prefixed(it) => it.io.local(),
            Self::Tunnel(it) => it.stream.as_ref()?.local(),
            Self::Closed => None,
        }
    }

    /// What was agreed on in TLS, if it is TLS; that of the tunnel, where it is a stream of one.
    pub fn agreed(&self) -> Agreed {
        match self {
            Self::Tls(tls) => Agreed::of(tls.get_ref().1),
            Self::Nested(tls) => Agreed::of(tls.get_ref().1),
            Self::Prefixed(it) => it.io.agreed(),
            Self::Tunnel(it) => it.stream.as_ref().and_then(tunnel::Stream::agreed).unwrap_or_default(),
            Self::Tcp(_) | Self::Closed => Agreed::default(),
        }
    }

    /// The socket at the bottom, unless there is none of its own.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.get_ref().0),
            Self::Nested(tls) => tls.get_ref().0.socket(),
            Self::Prefixed(it) => it.io.socket(),
            Self::Tunnel(_) | Self::Closed => None,
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Self::Nested(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tunnel(io) => io.poll_read(cx, buf),
            Self::Prefixed(it) if it.prefix.is_empty() => Pin::new(&mut it.io).poll_read(cx, buf),
            Self::Prefixed(it) => {
                let taken = it.prefix.split_to(it.prefix.len().min(buf.remaining()));
                buf.put_slice(&taken);
                Poll::Ready(Ok(()))
            }
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Self::Nested(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tunnel(io) => io.poll_write(cx, buf),
            Self::Prefixed(it) => Pin::new(&mut it.io).poll_write(cx, buf),
            Self::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Nested(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Prefixed(it) => Pin::new(&mut it.io).poll_write_vectored(cx, bufs),
            Self::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            Self::Tunnel(io) => {
                let first = bufs.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
                io.poll_write(cx, first)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tunnel(_) => false,
            Self::Prefixed(it) => it.io.is_write_vectored(),
            _ => true,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) | Self::Tunnel(_) | Self::Closed => Poll::Ready(Ok(())),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Nested(io) => Pin::new(io).poll_flush(cx),
            Self::Prefixed(it) => Pin::new(&mut it.io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Self::Nested(io) => Pin::new(io).poll_shutdown(cx),
            Self::Prefixed(it) => Pin::new(&mut it.io).poll_shutdown(cx),
            Self::Tunnel(io) => Poll::Ready(io.finish(cx)),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl Tunnelled {
    /// The stream itself, for whoever moves its frames without a copy; not if something was read from it, or its end was
    /// passed on.
    pub fn into_stream(mut self: Box<Self>) -> Result<tunnel::Stream, Box<Self>> {
        let untouched = self.rest.is_empty() && !self.ended;
        self.stream.take_if(|_| untouched).ok_or(self)
    }

    fn stream(&mut self) -> io::Result<&mut tunnel::Stream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.stream()?.poll_receive(cx)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(error)) => return Poll::Ready(Err(lost(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.rest.split_to(self.rest.len().min(buf.remaining()));
        buf.put_slice(&taken);
        self.stream()?.taken(taken.len());
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let stream = self.stream()?;
        let room = ready!(stream.poll_room(cx, bytes.len())).map_err(lost)?;
        let (now, _) = bytes.split_at(bytes.len().min(room));
        stream.send(cx, Bytes::copy_from_slice(now)).map_err(lost)?;
        Poll::Ready(Ok(now.len()))
    }

    fn finish(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !std::mem::replace(&mut self.ended, true) {
            self.stream()?.finish(cx).map_err(lost)?;
        }
        Ok(())
    }
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.as_mut().filter(|_| !self.ended) {
            stream.reset();
        }
    }
}

fn lost(error: StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
