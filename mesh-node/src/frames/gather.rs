//! Frames of many streams in one write.
//!
//! HTTP/2 writes and flushes each frame that carries more than 256 bytes by itself. Passed through as they are, the
//! answers of 32 streams make 32 TLS records and 32 system calls, although they are there at the same time. This layer
//! holds such frames back until a flush finds nothing new, which is at the end of the same turn of the connection's task.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose small writes are gathered. See the module.
#[derive(Debug)]
pub(super) struct Gathered<T> {
    io: T,
    /// Written by HTTP/2 and not yet by us. Given back when it is empty: most connections are idle most of the time.
    output: Vec<u8>,
    /// Bytes of `output` that `io` has taken.
    taken: usize,
    /// Whether something was written since the last flush.
    fresh: bool,
}

impl<T> Gathered<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io, output: Vec::new(), taken: 0, fresh: false }
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.output.get(self.taken..).filter(|rest| !rest.is_empty()) {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken += taken;
        }
        self.output = Vec::new();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if this.output.len() + length > ROOM {
            ready!(this.poll_empty(cx))?;
        }
        if length >= LARGE && this.output.is_empty() {
            return Pin::new(&mut this.io).poll_write_vectored(cx, parts);
        }
        if this.output.is_empty() {
            this.output.reserve_exact(ROOM);
        }
        parts.iter().for_each(|part| this.output.extend_from_slice(part));
        this.fresh = true;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What is smaller was gathered by HTTP/2 itself. The wake-up brings about the flush that finds nothing new.
        if std::mem::take(&mut this.fresh) && this.output.len() > SMALL {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_empty(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_empty(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

/// Frames up to this size HTTP/2 joins by itself.
const SMALL: usize = 256;
/// Copying more than this costs more than a record and a call of its own.
const LARGE: usize = 8 << 10;
/// What is gathered at most: one TLS record.
const ROOM: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn pair() -> (Gathered<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(1 << 20);
        (Gathered::new(near), far)
    }

    async fn flush_once(near: &mut Gathered<DuplexStream>) {
        poll_fn(|cx| Pin::new(&mut *near).poll_flush(cx)).await.expect("flushed");
    }

    /// What has arrived by now.
    async fn arrived(far: &mut DuplexStream) -> usize {
        let mut all = vec![0; 1 << 20];
        match tokio::time::timeout(std::time::Duration::from_millis(1), far.read(&mut all)).await {
            Ok(read) => read.expect("read"),
            Err(_) => 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_waits_for_those_of_the_same_turn() {
        let (mut near, mut far) = pair();
        for _ in 0..3 {
            near.write_all(&[7; 1_000]).await.expect("written");
            flush_once(&mut near).await;
            assert_eq!(arrived(&mut far).await, 0, "more may come");
        }
        flush_once(&mut near).await;
        assert_eq!(arrived(&mut far).await, 3_000, "nothing new: out with it");
        assert_eq!(near.output.capacity(), 0, "and an idle connection holds nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_goes_out_with_its_flush() {
        let (mut near, mut far) = pair();
        near.write_all(&[7; SMALL]).await.expect("written");
        flush_once(&mut near).await;
        assert_eq!(arrived(&mut far).await, SMALL);
    }

    #[tokio::test(start_paused = true)]
    async fn order_is_kept_whatever_the_sizes() {
        let (mut near, mut far) = pair();
        let sizes = [300, 9_000, 20_000, 1, 8_192, 16_384, 700, 15_000, 5_000];
        let mut sent = Vec::new();
        for (index, size) in sizes.into_iter().enumerate() {
            let piece = vec![u8::try_from(index).expect("few"); size];
            near.write_all(&piece).await.expect("written");
            sent.extend(piece);
        }
        near.shutdown().await.expect("shut");
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.expect("read");
        assert!(read == sent, "{} of {} bytes", read.len(), sent.len());
    }
}
