//! HTTP/2 under a budget: what a peer may send besides requests and bodies.
//!
//! The stack bounds memory: what it keeps for streams that were reset, errors, CONTINUATION, and small DATA. Here is what
//! it takes without end, see [`mesh_core::http::frames`]. The frames are counted in the bytes as they go by, so no frame
//! is held back, and what one read brings is still answered: at most some kilobytes more than the budget.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use mesh_core::http::frames::{Frame, FrameBudget, ResetBudget, Scanner};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

use gather::Gathered;

mod gather;

/// A connection of HTTP/2 whose frames are counted, and written together where they are there together.
#[derive(Debug)]
pub struct Guarded<T> {
    io: Gathered<T>,
    side: Side,
    incoming: Scanner,
    outgoing: Scanner,
    watch: Watch,
    /// Whether the peer was told why, and so should get to read it.
    parting: bool,
    shut: bool,
    linger: Option<Pin<Box<Sleep>>>,
}

/// What is known of a [`Guarded`] connection. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watch(Rc<Inner>);

/// Which end of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Too much from a client ends in silence: whoever waits on [`Watch::enough`] says goodbye.
    Server,
    /// Too much from a server is an error of the connection.
    Client,
}

#[derive(Debug)]
struct Inner {
    frames: RefCell<FrameBudget>,
    resets: RefCell<ResetBudget>,
    enough: Cell<bool>,
    settled: Cell<bool>,
    /// The last stream whose HEADERS went out.
    opened: Cell<u32>,
    news: Notify,
}

impl<T> Guarded<T> {
    /// The server's end. The preface must still be in `io`.
    pub fn server(io: T) -> (Self, Watch) {
        Self::new(io, Side::Server, (Scanner::of_client(), Scanner::of_server()))
    }

    /// The client's end.
    pub fn client(io: T) -> (Self, Watch) {
        Self::new(io, Side::Client, (Scanner::of_server(), Scanner::of_client()))
    }

    fn new(io: T, side: Side, (incoming, outgoing): (Scanner, Scanner)) -> (Self, Watch) {
        let watch = Watch(Rc::new(Inner {
            frames: RefCell::default(),
            resets: RefCell::default(),
            enough: Cell::new(false),
            settled: Cell::new(false),
            opened: Cell::new(0),
            news: Notify::new(),
        }));
        let theirs = watch.clone();
        let io = Gathered::new(io);
        let guarded = Self { io, side, incoming, outgoing, watch, parting: false, shut: false, linger: None };
        (guarded, theirs)
    }

    fn sent(&mut self, bytes: &[u8]) {
        let Self { outgoing, watch, parting, .. } = self;
        outgoing.scan(bytes, |frame| {
            *parting |= frame.kind == Frame::GOAWAY;
            watch.sent(frame);
        });
    }

    fn sent_of(&mut self, parts: &[IoSlice<'_>], mut length: usize) {
        for part in parts {
            let (now, _) = part.split_at(length.min(part.len()));
            length -= now.len();
            self.sent(now);
        }
    }
}

impl Watch {
    /// Resolves once the peer has sent more than it may.
    pub async fn enough(&self) {
        while !self.0.enough.get() {
            self.0.news.notified().await;
        }
    }

    /// Whether the peer has sent more than it may.
    pub fn is_enough(&self) -> bool {
        self.0.enough.get()
    }

    /// A request has ended; `early` if the client took it back before its answer, and soon.
    pub fn request_ended(&self, early: bool) {
        if !self.0.resets.borrow_mut().end(early) {
            self.raise();
        }
    }

    /// Whether the peer's settings have come, that is, whether its limit of streams is known.
    pub fn is_settled(&self) -> bool {
        self.0.settled.get()
    }

    /// Resolves once the peer's settings have come.
    pub async fn settled(&self) {
        while !self.is_settled() {
            self.0.news.notified().await;
        }
    }

    /// Resolves once the HEADERS of a stream of ours have gone out: they wait while the peer takes no more streams.
    pub async fn opened(&self, stream: u32) {
        while self.0.opened.get() < stream {
            self.0.news.notified().await;
        }
    }

    fn raise(&self) {
        self.0.enough.set(true);
        self.0.news.notify_waiters();
    }

    fn came(&self, frame: Frame) {
        if frame.carries() {
            self.0.frames.borrow_mut().earn();
        } else if frame.is_idle() {
            if frame.kind == Frame::SETTINGS {
                self.0.settled.set(true);
                self.0.news.notify_waiters();
            }
            if !self.0.frames.borrow_mut().spend(Instant::now()) {
                self.raise();
            }
        }
    }

    fn sent(&self, frame: Frame) {
        if frame.carries() {
            self.0.frames.borrow_mut().earn();
        }
        if frame.kind == Frame::HEADERS && frame.stream > self.0.opened.get() {
            self.0.opened.set(frame.stream);
            self.0.news.notify_waiters();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.is_enough() {
            return match this.side {
                Side::Server => Poll::Pending,
                Side::Client => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, FLOOD))),
            };
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let (_, new) = buf.filled().split_at(before);
        let Self { incoming, watch, .. } = this;
        incoming.scan(new, |frame| watch.came(frame));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        let (written_bytes, _) = bytes.split_at(written.min(bytes.len()));
        this.sent(written_bytes);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, parts))?;
        this.sent_of(parts, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    /// After a GOAWAY, what the peer still sends is read for a moment and thrown away: closed with bytes unread, a socket
    /// resets the connection, and the peer never learns why.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.shut {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.shut = true;
        }
        if !this.parting || this.side == Side::Client {
            return Poll::Ready(Ok(()));
        }
        let timer = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut scratch = [0; SCRATCH];
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Tells a client that it has sent more than it may, and closes the connection, as soon as it has read it or [`LINGER`]
/// is over.
pub async fn dismiss<T, B>(connection: &mut h2::server::Connection<T, B>)
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: bytes::Buf,
{
    connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
    let closed = std::future::poll_fn(|cx| connection.poll_closed(cx));
    // A client that takes nothing any more is not waited for, and how the connection ends is of no interest.
    let _ = tokio::time::timeout(2 * LINGER, closed).await;
}

/// What is said of a server that sends more than it may.
const FLOOD: &str = "the peer sends too many frames that carry nothing";
/// How long a peer that was told to go may take to hang up: some round trips.
const LINGER: Duration = Duration::from_millis(500);
const SCRATCH: usize = 4 << 10;

#[cfg(test)]
mod tests;
