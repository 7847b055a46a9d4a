//! The task of a tunnel: reads what comes and hands it out, writes what waits.

use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::Context;

use bytes::{Buf as _, BytesMut};
use mesh_core::tunnel::frame::{HEAD, first};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::time::Sleep;

use super::{
    Fault, Frame, Instant, LATE, Link, MAX_OUTPUT, Poll, Rc, Refusal, Side, Slot, StreamId, TlsStream,
    protocol,
};

/// What must be run for anything to move.
pub(crate) struct Driver {
    link: Rc<Link>,
    tls: TlsStream,
    input: BytesMut,
    /// Size of the next buffer.
    size: usize,
    /// When what nobody waits for leaves.
    late: Option<Pin<Box<Sleep>>>,
}

/// A stream that the peer has opened: its number, and what it says of itself.
pub(super) type Opened<'a> = (StreamId, &'a [u8]);

impl Driver {
    pub(super) fn new(link: Rc<Link>, tls: TlsStream) -> Self {
        Self { link, tls, input: BytesMut::new(), size: ONE_READ, late: None }
    }

    /// Runs the tunnel to its end: by a goodbye, or by a fault. `opened` is told of every stream that the peer opens
    /// and that has its place already.
    pub(crate) async fn run(mut self, mut opened: impl FnMut(Opened<'_>)) -> Result<(), Fault> {
        let result = std::future::poll_fn(|cx| self.poll(cx, &mut opened)).await;
        let why = match &result {
            Ok(()) => "it was closed".to_owned(),
            Err(fault) => fault.to_string(),
        };
        self.link.end(&why);
        result
    }

    fn poll(&mut self, cx: &mut Context<'_>, opened: &mut impl FnMut(Opened<'_>)) -> Poll<Result<(), Fault>> {
        self.link.state.borrow_mut().driver = None;
        let mut reads = 0;
        while reads < MAX_READS {
            match self.poll_read(cx)? {
                Poll::Ready(true) => self.dispatch(opened)?,
                Poll::Ready(false) => return Poll::Ready(self.goodbye()),
                Poll::Pending => break,
            }
            reads += 1;
        }
        if reads == MAX_READS {
            // Others on this thread have waited long enough.
            cx.waker().wake_by_ref();
            self.size = LARGE_BUFFER;
        }
        let due = self.is_due(cx);
        let written = if due { self.poll_write(cx)? } else { Poll::Ready(()) };
        let mut state = self.link.state.borrow_mut();
        state.urgent &= !due || written.is_pending();
        state.relieve();
        if written.is_ready() && state.leaving && state.streams.is_empty() && self.link.side == Side::Client {
            drop(state);
            return Pin::new(&mut self.tls).poll_shutdown(cx).map_err(Fault::from);
        }
        state.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The peer has closed the connection. Many do without a word; if nothing was under way, nothing was lost.
    fn goodbye(&self) -> Result<(), Fault> {
        if self.input.is_empty() && self.link.is_quiet() {
            return Ok(());
        }
        Err(Fault::Lost(std::io::ErrorKind::UnexpectedEof.into()))
    }

    /// Whether something came, or the end did.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Fault>> {
        if self.input.capacity() - self.input.len() < ONE_READ {
            self.input.reserve(self.size);
        }
        let read = {
            let mut reading = pin!(self.tls.read_buf(&mut self.input));
            reading.as_mut().poll(cx)
        };
        match read {
            Poll::Pending => {
                if self.input.is_empty() {
                    // An idle tunnel keeps no buffer.
                    (self.input, self.size) = (BytesMut::new(), ONE_READ);
                }
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(false)),
            Poll::Ready(Ok(_)) => {
                self.link.heard.set(self.link.heard.get() + 1);
                self.link.heard_at.set(Instant::now());
                Poll::Ready(Ok(true))
            }
            Poll::Ready(Err(_)) if self.link.is_quiet() => Poll::Ready(Ok(false)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
        }
    }

    /// Hands out all frames that are complete.
    fn dispatch(&mut self, opened: &mut impl FnMut(Opened<'_>)) -> Result<(), Fault> {
        loop {
            let Some((frame, length)) = first(&self.input).map_err(|error| protocol(&error))? else {
                return Ok(());
            };
            match frame {
                Frame::Data { stream, fin, .. } => {
                    self.input.advance(HEAD);
                    let bytes = self.input.split_to(length - HEAD).freeze();
                    self.link.state.borrow_mut().data(stream, bytes, fin)?;
                    continue;
                }
                Frame::Open(id, open) => {
                    if self.link.admit(id)? {
                        opened((id, open));
                    }
                }
                Frame::Accept(_) | Frame::Refuse(..) | Frame::Leave(_) if self.link.side == Side::Server => {
                    return Err(Fault::Protocol("a client answers".to_owned()));
                }
                frame => self.link.state.borrow_mut().take(&frame)?,
            }
            self.input.advance(length);
        }
    }

    /// Whether what waits is to be written now. What nobody waits for is held back a little, for others to come along.
    fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let state = self.link.state.borrow();
        if state.urgent || state.leaving || state.output.is_empty() || state.room() == 0 {
            self.late.take_if(|late| late.is_elapsed());
            return true;
        }
        // Kept after others have come along: it is for the next one then, because each new timer costs calls.
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(LATE)));
        let due = late.as_mut().poll(cx).is_ready();
        if due {
            self.late = None;
        }
        due
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        loop {
            let mut state = self.link.state.borrow_mut();
            if state.output.is_empty() {
                break;
            }
            if state.output.len() > MAX_OUTPUT {
                return Err(Fault::Flood);
            }
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = state.output.slices(&mut slices);
            let (slices, _) = slices.split_at(count);
            match Pin::new(&mut self.tls).poll_write_vectored(cx, slices)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(0) => return Err(Fault::Lost(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => state.output.advance(written),
            }
        }
        Ok(Pin::new(&mut self.tls).poll_flush(cx)?)
    }
}

impl Drop for Driver {
    /// Not run to its end, it was cut.
    fn drop(&mut self) {
        self.link.end("it was cut");
    }
}

impl Link {
    /// Makes place for a stream that the peer opens; `false` if it was refused.
    fn admit(&self, id: StreamId) -> Result<bool, Fault> {
        let mut state = self.state.borrow_mut();
        if self.side == Side::Client {
            return Err(Fault::Protocol("a server opened a stream".to_owned()));
        }
        if id <= state.last {
            return Err(Fault::Protocol(format!("stream {id} is opened after {}", state.last)));
        }
        state.last = id;
        state.budget.earn();
        if state.leaving || state.is_full() {
            state.say(&Frame::Refuse(id, Refusal::NotTaken));
            return Ok(false);
        }
        state.streams.insert(id, Slot::new(self.side));
        Ok(true)
    }
}

/// What one read brings at most: a record.
const ONE_READ: usize = 16 << 10;
/// A buffer for several of them.
const LARGE_BUFFER: usize = 64 << 10;
/// Reads of one turn.
const MAX_READS: usize = 8;
/// Pieces of one write.
const MAX_SLICES: usize = 32;
