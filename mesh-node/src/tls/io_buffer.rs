//! A TCP stream that reads and writes in large pieces below TLS.
//!
//! rustls asks for 4 KiB at a time and HTTP/2 hands over one frame at a time; passed through as they are, both make
//! a system call each. This layer reads ahead and gathers writes until the flush that follows every batch.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// See the module. The read buffer starts small and grows with what arrives, so a silent peer costs little.
#[derive(Debug)]
pub struct BufferedTcp {
    tcp: TcpStream,
    input: Vec<u8>,
    /// Unread part of `input`.
    unread: std::ops::Range<usize>,
    output: Vec<u8>,
    /// Bytes of `output` that the kernel already has.
    written: usize,
    gather: bool,
    /// Whether something was written since the last flush.
    fresh: bool,
}

impl BufferedTcp {
    /// Wraps a connected socket; nothing is allocated before the first byte.
    pub fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            input: Vec::new(),
            unread: 0..0,
            output: Vec::new(),
            written: 0,
            gather: false,
            fresh: false,
        }
    }

    /// The socket below.
    pub fn get_ref(&self) -> &TcpStream {
        &self.tcp
    }

    /// Gathers writes from now on. Not during the handshake: a refusal's alert is written but never flushed.
    pub(super) fn gather_writes(&mut self) {
        self.gather = true;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            self.input.resize(FIRST_READ, 0);
        }
        let mut buf = ReadBuf::new(&mut self.input);
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buf))?;
        let filled = buf.filled().len();
        self.unread = 0..filled;
        Poll::Ready(Ok(()))
    }

    /// After a read that filled the buffer there is probably more behind it.
    fn grow(&mut self) {
        if self.unread.end == self.input.len() && self.input.len() < MAX_READ {
            let size = (self.input.len() * 5).min(MAX_READ);
            self.input.resize(size, 0);
        }
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let n = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.output[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.output.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for BufferedTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unread.is_empty() {
            this.grow();
            ready!(this.poll_fill(cx))?;
        }
        let n = this.unread.len().min(buf.remaining());
        let end = this.unread.start + n;
        buf.put_slice(&this.input[this.unread.start..end]);
        if end < this.unread.end {
            this.unread.start = end;
        } else {
            // `end` stays for `grow` to see how full the last read was.
            this.unread = this.unread.end..this.unread.end;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BufferedTcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.gather {
            return Pin::new(&mut this.tcp).poll_write_vectored(cx, slices);
        }
        if this.output.len() >= MAX_GATHER {
            ready!(this.poll_empty(cx))?;
        }
        this.fresh = true;
        let before = this.output.len();
        for slice in slices {
            this.output.extend_from_slice(slice);
        }
        Poll::Ready(Ok(this.output.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // HTTP/2 flushes after every frame of data. A full one is probably not the last: it waits for the next flush
        // that finds nothing new, which the wake-up brings about in any case.
        if this.fresh && (FULL_FRAME..MAX_GATHER).contains(&this.output.len()) {
            this.fresh = false;
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        this.poll_empty(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Holds any hello and certificate chain of the mesh in one or two reads.
const FIRST_READ: usize = 4 * 1024;
/// Four full TLS records with their heads (5 bytes) and tails (17), so that the rest of none is left over; larger reads no longer paid
/// (they leave the cache).
const MAX_READ: usize = 4 * (16 * 1024 + 22);
/// A frame of data that HTTP/2 could fill.
const FULL_FRAME: usize = 16 * 1024;
/// Gathered writes go out at this size at the latest. One call adds at most what rustls buffers (64 KiB).
const MAX_GATHER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (BufferedTcp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let at = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(at), listener.accept());
        let mut near = BufferedTcp::new(near.expect("connected"));
        near.gather_writes();
        (near, far.expect("accepted").0)
    }

    /// Flushes once and says how many bytes are still held back.
    async fn flush_once(near: &mut BufferedTcp) -> usize {
        poll_fn(|cx| Pin::new(&mut *near).poll_flush(cx)).await.expect("flushed");
        near.output.len()
    }

    #[tokio::test]
    async fn a_small_write_goes_out_with_its_flush() {
        let (mut near, mut far) = pair().await;
        near.write_all(b"small").await.expect("written");
        assert_eq!(flush_once(&mut near).await, 0);
        let mut seen = [0; 5];
        far.read_exact(&mut seen).await.expect("arrived");
        assert_eq!(&seen, b"small");
    }

    #[tokio::test]
    async fn a_full_frame_waits_for_one_flush_that_finds_nothing_new() {
        let (mut near, mut far) = pair().await;
        for frames in 1..=2 {
            near.write_all(&[7; FULL_FRAME]).await.expect("written");
            assert_eq!(flush_once(&mut near).await, frames * FULL_FRAME, "held back with frame {frames}");
        }
        assert_eq!(flush_once(&mut near).await, 0, "nothing new: out with it");
        let mut seen = vec![0; 2 * FULL_FRAME];
        far.read_exact(&mut seen).await.expect("arrived");
        assert!(seen.iter().all(|byte| *byte == 7));
    }
}
